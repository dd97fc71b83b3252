"""Simulated sets: the images are what the formulas say, and one configuration gives the same bits always."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dcryo.errors import InputError
from dcryo.geometry.rotations import quaternion_to_matrix, random_rotations
from dcryo.imaging.phantom import gaussian_cloud, project_fourier, rasterise
from dcryo.io.mrc import write_volume
from dcryo.io.particle_store import ParticleStore
from dcryo.methods import simulate as module
from dcryo.methods.simulate import SimulateConfig, draw_particles, noise_spectrum, simulate
from dcryo.methods.specimen import MapSpecimen, phantom, symmetrised

CLEAN = SimulateConfig(
    box=24, pixel_size=2.0, particles=20, snr=float("inf"), defocus=None, max_shift=2, seed=3
)


def images(store: ParticleStore) -> np.ndarray:
    return store.images(0, store.count).astype(np.float64)


def scale_of(store: ParticleStore) -> float:
    return float(store.attributes["provenance"]["specimen_scale"])


def test_clean_image_is_the_sum_of_projected_gaussians(tmp_path: Path) -> None:
    store = simulate(str(tmp_path / "a.zarr"), CLEAN)
    cloud = phantom("cloud", 24, 2.0).cloud
    width = float(cloud.width[0])
    table = store.particles()
    x = np.arange(24) - 12
    for p, matrix in enumerate(quaternion_to_matrix(table.rotation)):
        # A point at c is seen at the first two coordinates of A c, moved by the shift (Å -> pixels).
        u, v = (matrix[:2] @ cloud.centers.T) + table.shift[p][:, None] / 2.0
        gx = np.exp(-0.5 * ((x[:, None] - u) / width) ** 2)
        gy = np.exp(-0.5 * ((x[:, None] - v) / width) ** 2)
        expected = (gy * cloud.mass / (2 * np.pi * width**2)) @ gx.T * scale_of(store)
        # Samples of a Gaussian of width 1 are aliased where the phantom is band-limited: at Nyquist, by
        # exp(-pi^2 / 2) = 7e-3 of the amplitude of each.
        error = np.linalg.norm(images(store)[p] - expected) / np.linalg.norm(expected)
        assert error < 0.03


def test_ctf_is_the_textbook_formula(tmp_path: Path) -> None:
    plain = simulate(str(tmp_path / "a.zarr"), CLEAN)
    store = simulate(str(tmp_path / "b.zarr"), replace(CLEAN, defocus=(5000.0, 9000.0)))
    # Same seed: same poses and shifts.
    assert np.array_equal(plain.particles().rotation, store.particles().rotation)
    assert np.array_equal(plain.particles().shift, store.particles().shift)
    lam, cs, contrast = 0.019687, 2.7e7, 0.1  # 300 kV
    fx, fy = np.meshgrid(np.fft.fftfreq(24, 2.0), np.fft.fftfreq(24, 2.0))
    k2, azimuth = fx**2 + fy**2, np.arctan2(fy, fx)
    for p, (u, v, angle) in enumerate(store.particles().defocus):
        defocus = (u + v) / 2 + (u - v) / 2 * np.cos(2 * (azimuth - angle))
        chi = np.pi * lam * k2 * defocus - np.pi / 2 * cs * lam**3 * k2**2
        ctf = np.sin(chi + np.arcsin(contrast))
        expected = np.fft.ifft2(np.fft.fft2(images(plain)[p] / scale_of(plain)) * ctf).real * scale_of(store)
        # float32 images, and a wavelength of five digits in a phase of some ten radians
        assert np.abs(images(store)[p] - expected).max() < 2e-3 * np.abs(expected).max()


def test_snr_and_noise(tmp_path: Path) -> None:
    config = replace(CLEAN, particles=400, snr=0.25, defocus=(8000.0, 12000.0))
    clean = simulate(str(tmp_path / "clean.zarr"), replace(config, snr=float("inf")))
    noisy = simulate(str(tmp_path / "noisy.zarr"), config)
    signal = images(clean) * (scale_of(noisy) / scale_of(clean))
    noise = images(noisy) - signal
    # 230,400 normal deviates: the variance is known to 3e-3 (one sigma)
    assert noise.var() == pytest.approx(1, abs=0.015)
    assert abs(np.corrcoef(noise.ravel(), signal.ravel())[0, 1]) < 0.01
    # The signal variance differs by some 15 % from view to view; 128 + 400 of them give 2 % (one sigma).
    assert signal.var(axis=(1, 2)).mean() == pytest.approx(0.25, rel=0.08)
    assert clean.optics[0].noise is None
    assert np.mean(noisy.optics[0].noise) == pytest.approx(1, rel=0.1)


def test_power_is_the_mean_square(tmp_path: Path) -> None:
    config = replace(CLEAN, particles=300, snr=2.0, snr_definition="power")
    noisy = simulate(str(tmp_path / "noisy.zarr"), config)
    clean = simulate(str(tmp_path / "clean.zarr"), replace(config, snr=float("inf")))
    signal = images(clean) * (scale_of(noisy) / scale_of(clean))
    assert (signal**2).mean() == pytest.approx(2, rel=0.05)


def test_coloured_noise_has_unit_variance_and_falls_by_four(tmp_path: Path) -> None:
    spectrum = noise_spectrum("coloured", 32)
    assert spectrum[0] / spectrum[-1] == pytest.approx(4, rel=1e-3)
    config = replace(CLEAN, box=32, particles=300, snr=1e-6, noise="coloured")
    noise = images(simulate(str(tmp_path / "a.zarr"), config))
    # 307,200 pixels, correlated over a few: the variance is known to about 5e-3
    assert noise.var() == pytest.approx(1, abs=0.025)
    power = (np.abs(np.fft.fft2(noise)) ** 2).mean(0) / 32**2
    assert power[0, 1:4].mean() / power[0, 13:17].mean() == pytest.approx(
        spectrum[1:4].mean() / spectrum[13:].mean(), rel=0.15
    )


def test_same_configuration_same_bits_for_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CLEAN, snr=0.1, particles=70, defocus=(8000.0, 12000.0))
    monkeypatch.setattr(module, "batch_size", lambda n: 16)  # several batches
    first = images(simulate(str(tmp_path / "a.zarr"), config))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    assert np.array_equal(first, images(simulate(str(tmp_path / "b.zarr"), config)))
    assert not np.array_equal(first, images(simulate(str(tmp_path / "c.zarr"), replace(config, seed=4))))


def test_batches_have_noise_and_solvent_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "batch_size", lambda n: 4)
    config = replace(CLEAN, box=32, particles=8, snr=1e-6)
    first, second = np.split(images(simulate(str(tmp_path / "a.zarr"), config)), 2)
    # 4,096 independent pixels: 0.016 is one sigma
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.08
    config = replace(CLEAN, box=32, particles=8, solvent=True)
    first, second = np.split(images(simulate(str(tmp_path / "b.zarr"), config))[:, :5], 2)
    first, second = (corner - corner.mean() for corner in (first, second))
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.5


def test_table_and_truth(tmp_path: Path) -> None:
    store = simulate(str(tmp_path / "a.zarr"), replace(CLEAN, particles=301, dtype="float16"))
    table = store.particles()
    assert np.bincount(table.half).tolist() == [0, 151, 150]
    assert (np.diff(table.half) >= 0).all()
    assert np.abs(table.shift).max() <= 2 * 2.0
    assert np.abs(table.shift).max() > 3.5  # of 602 uniform deviates up to 4
    assert not store.optics[0].ctf
    assert np.array_equal(table.micrograph, np.arange(301) // 200)
    truth = store.truth()
    assert truth is not None
    np.testing.assert_allclose(truth, phantom("cloud", 24, 2.0).volume() * scale_of(store), rtol=1e-6)
    assert store.info()["dtype"] == "float16"
    assert store.check() == []


def test_preferred_orientations_follow_the_watson_density() -> None:
    rng = np.random.default_rng(0)
    for orientations, kappa in (("uniform", 0.0), ("preferred", 4.0)):
        config = SimulateConfig(particles=20000, orientations=orientations)
        beam = quaternion_to_matrix(draw_particles(config, 1.0, rng).rotation)[:, 2]
        c = np.linspace(0, 1, 2001)
        weight = np.exp(kappa * c**2)
        # the standard error of the mean is below 3e-3
        assert (beam[:, 2] ** 2).mean() == pytest.approx((weight * c**2).sum() / weight.sum(), abs=0.01)
        assert abs(beam.mean(axis=0)).max() < 0.03


@pytest.mark.parametrize(("size", "n", "ratio"), [(32, 32, 1.0), (33, 33, 1.0), (32, 24, 1.6)])
def test_map_is_projected_like_the_gaussians_it_was_made_of(size: int, n: int, ratio: float) -> None:
    cloud = gaussian_cloud(5, 60, 0.25 * size, 2.0)
    specimen = MapSpecimen(rasterise(cloud, size), 1.5, n, 1.5 * ratio)
    # The same cloud in voxels of the output: lengths shrink by the ratio, the mass by its cube.
    seen = replace(
        cloud, centers=cloud.centers / ratio, width=cloud.width / ratio, mass=cloud.mass / ratio**3
    )
    rotation = random_rotations(5, np.random.default_rng(1))
    expected = project_fourier(seen, rotation, n)
    # 2e-3 is the bound that the module states; width 2 leaves 1e-4 of the amplitude beyond the bands
    assert np.linalg.norm(specimen.fourier(rotation) - expected) < 2e-3 * np.linalg.norm(expected)
    volume = rasterise(seen, n)
    assert np.linalg.norm(specimen.volume() - volume) < 2e-3 * np.linalg.norm(volume)


def test_symmetrised_map_is_invariant_under_quarter_turns() -> None:
    # On an odd box a quarter turn about z maps the grid onto itself, so no interpolation blurs the identity.
    array = np.random.default_rng(0).normal(size=(9, 9, 9))
    result = symmetrised(array, "C4")
    np.testing.assert_allclose(result, np.rot90(result, axes=(1, 2)), atol=1e-6)
    turns = [np.rot90(array, k, axes=(1, 2)) for k in range(4)]
    np.testing.assert_allclose(result, np.mean(turns, axis=0), atol=1e-5)


def test_symmetric_phantom_looks_the_same_from_symmetric_views() -> None:
    specimen = phantom("cloud:2", 24, 1.0, "D3")
    rotation = random_rotations(2, np.random.default_rng(3))
    turn = np.array([[-0.5, -np.sqrt(0.75), 0], [np.sqrt(0.75), -0.5, 0], [0, 0, 1]])  # 120 degrees about z
    flip = np.diag([1.0, -1.0, -1.0])  # 180 degrees about x
    seen = specimen.fourier(rotation)
    for operation in (turn, flip):
        np.testing.assert_allclose(specimen.fourier(rotation @ operation), seen, atol=1e-4 * abs(seen).max())


def test_solvent_surrounds_phantoms_and_is_refused_around_maps(tmp_path: Path) -> None:
    config = replace(CLEAN, solvent=True, particles=12)
    with_solvent = simulate(str(tmp_path / "a.zarr"), config)
    bare = simulate(str(tmp_path / "b.zarr"), CLEAN)
    # Solvent is no part of the signal that sets the scale, and it fills the frame's corners.
    assert scale_of(with_solvent) == scale_of(bare)
    corner = images(with_solvent)[:, :4, :4]
    assert corner.std(axis=0).min() > 0.1 * images(bare).std()
    truth = with_solvent.truth()
    assert truth is not None
    assert abs(truth[:3]).max() < 0.05 * truth.max()
    path = tmp_path / "map.mrc"
    write_volume(path, rasterise(gaussian_cloud(0, 20, 5.0), 24), 2.0)
    with pytest.raises(InputError, match="--solvent"):
        simulate(str(tmp_path / "c.zarr"), SimulateConfig(map=str(path), solvent=True, particles=5))
    assert not (tmp_path / "c.zarr").exists()


def test_existing_stores(tmp_path: Path) -> None:
    out = str(tmp_path / "a.zarr")
    simulate(out, CLEAN)
    root = tmp_path / "a.zarr" / "zarr.json"
    before = root.stat().st_mtime_ns
    assert simulate(out, CLEAN).count == 20  # the same again: nothing is written
    assert root.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="overwrite"):
        simulate(out, replace(CLEAN, particles=21))
    assert simulate(out, replace(CLEAN, particles=21), overwrite=True).count == 21


def test_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(module, "_batch", broken)
    with pytest.raises(RuntimeError, match="on fire"):
        simulate(str(tmp_path / "a.zarr"), CLEAN)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"phantom": "cloud", "map": "a.mrc"}, "--phantom"),
        ({"resolution": 8.0}, "--resolution"),
        ({"box": 4}, "--box"),
        ({"particles": 0}, "--particles"),
        ({"pixel_size": 0.0}, "--pixel-size"),
        ({"snr": 0.0}, "--snr"),
        ({"snr": float("nan")}, "--snr"),
        ({"defocus": (1.5, 2.5)}, "Å"),
        ({"defocus": (20000.0, 8000.0)}, "smaller one first"),
        ({"max_shift": -1.0}, "--max-shift"),
        ({"seed": -1}, "--seed"),
        ({"noise": "pink"}, "--noise"),
        ({"orientations": "up"}, "--orientations"),
        ({"dtype": "int8"}, "--dtype"),
    ],
)
def test_bad_configurations_name_the_option(options: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        SimulateConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["sphere", "cloud:x", "cloud:"])
def test_unknown_phantoms(name: str) -> None:
    with pytest.raises(InputError, match="--phantom"):
        phantom(name, 24, 1.0)


def test_model_without_pixel_size_is_told_one_that_fits(tmp_path: Path) -> None:
    atom = "ATOM  {:5d}  CA  ALA A   1    {:8.3f}{:8.3f}{:8.3f}  1.00 20.00           C\n"
    path = tmp_path / "two.pdb"
    path.write_text(atom.format(1, 0, 0, 0) + atom.format(2, 64, 0, 0) + "END\n")
    with pytest.raises(InputError, match=r"--pixel-size; the model is 64 Å across, and 3\.1 Å"):
        simulate(str(tmp_path / "a.zarr"), SimulateConfig(atoms=str(path), box=32))
    store = simulate(
        str(tmp_path / "a.zarr"), SimulateConfig(atoms=str(path), box=32, pixel_size=4.0, particles=3)
    )
    truth = store.truth()
    assert truth is not None
    # Two atoms 64 Å = 16 pixels apart along x, the centre between them.
    assert np.unravel_index(np.argmax(truth[:, :, :16]), (32, 32, 16)) == (16, 16, 8)
    assert np.unravel_index(np.argmax(truth[:, :, 16:]), (32, 32, 16)) == (16, 16, 8)
