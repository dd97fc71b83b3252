"""Starting maps: clouds of Gaussians, known on every grid, brought from one box to another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dcryo.errors import InputError
from dcryo.imaging.phantom import Cloud, gaussian_cloud, rasterise
from dcryo.imaging.radial import filtered
from dcryo.io.mrc import write_volume
from dcryo.io.run_store import create_run
from dcryo.methods.progress import Silent
from dcryo.methods.start_map import prepare_start, resample, signal_band
from dcryo.metrics.fsc import soft_ball

BOX, PIXEL = 40, 2.5


def cloud(pixel_size: float, width: float = 3.0) -> Cloud:
    """A particle of 25 Å radius in voxels of ``pixel_size``, its density the same on all grids."""
    fine = gaussian_cloud(1, 80, 25.0, width)
    return replace(
        fine, centers=fine.centers / pixel_size, width=fine.width / pixel_size, mass=fine.mass / pixel_size**3
    )


def drawn(n: int, pixel_size: float, width: float = 3.0) -> np.ndarray:
    return rasterise(cloud(pixel_size, width), n)


def low_passed(volume: np.ndarray, pixel_size: float, resolution: float) -> np.ndarray:
    """The filter of the reference phantom, on a full transform."""
    f = np.fft.fftfreq(len(volume), pixel_size)
    r = np.sqrt(f[:, None, None] ** 2 + f[:, None] ** 2 + f**2)
    cut = 1 / resolution
    gain = 0.5 * (1 + np.cos(np.pi * np.clip((r - cut) / (0.25 * cut), 0, 1)))
    return np.asarray(np.fft.ifftn(np.fft.fftn(volume) * gain).real)


def written(folder: Path, volume: np.ndarray, pixel_size: float) -> str:
    return str(write_volume(folder / "start.mrc", volume.astype(np.float32), pixel_size))


class Listener(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def message(self, text: str) -> None:
        self.heard.append(text)


@pytest.mark.parametrize(
    ("n", "pixel_size"), [(40, 2.5), (34, 2.5), (47, 2.5), (36, 3.1), (53, 1.9), (64, 2.2), (40, 2.5006)]
)
@pytest.mark.parametrize("level", [0.0, 0.5])
def test_any_grid_becomes_that_of_the_particles(
    tmp_path: Path, n: int, pixel_size: float, level: float
) -> None:
    spec = written(tmp_path, drawn(n, pixel_size) + level, pixel_size)
    found = prepare_start(spec, BOX, PIXEL, 12.0)
    expected = low_passed(drawn(BOX, PIXEL), PIXEL, 12.0)
    # 2e-3: what the ball cuts off the tails, and, at 2.5006, 0.02 % of the way to the outermost points
    np.testing.assert_allclose(found.volume, expected, atol=2e-3 * expected.max())
    assert found.volume.dtype == np.float32
    assert found.volume.shape == (BOX,) * 3


def test_a_header_that_was_rounded_changes_no_sample(tmp_path: Path) -> None:
    volume = drawn(BOX, PIXEL)
    first, second = (
        prepare_start(written(tmp_path, volume, pixel_size), BOX, PIXEL, 12.0) for pixel_size in (2.5, 2.502)
    )
    np.testing.assert_array_equal(first.volume, second.volume)
    assert first.band == second.band


def test_maps_of_one_pixel_size_are_padded_and_cropped() -> None:
    volume = np.random.default_rng(0).standard_normal((12, 12, 12)).astype(np.float32)
    np.testing.assert_array_equal(resample(volume, 12), volume)
    padded = resample(volume, 17)
    np.testing.assert_array_equal(padded[2:14, 2:14, 2:14], volume)  # 6 goes to 8
    assert np.count_nonzero(padded) == volume.size
    np.testing.assert_array_equal(resample(padded, 12), volume)


@pytest.mark.parametrize(("n", "box", "scale"), [(24, 18, 0.7), (15, 24, 1.3), (20, 20, 1.1)])
def test_resampling_is_exact_for_waves(n: int, box: int, scale: float) -> None:
    def wave(count: int, step: float) -> np.ndarray:
        z, y, x = np.meshgrid(*[(np.arange(count) - count // 2) * step] * 3, indexing="ij")
        turn = 2 * np.pi / n
        return np.asarray(np.cos(turn * (3 * x - 2 * y + z) + 0.3))

    found = resample(wave(n, 1).astype(np.float32), box, scale)
    known = np.abs(np.arange(box) - box // 2) / scale < n / 2 - 1
    inside = np.ix_(known, known, known)
    np.testing.assert_allclose(found[inside], wave(box, 1 / scale)[inside], atol=1e-5)
    if box / scale > n + 2:
        assert found[0, 0, 0] == 0


def test_frequencies_that_a_coarser_grid_cannot_hold_are_left_out() -> None:
    z, y, x = np.meshgrid(*[np.arange(24) - 12] * 3, indexing="ij")
    wave = np.cos(2 * np.pi / 24 * (8 * x + 0 * y + 0 * z)).astype(np.float32)
    assert np.abs(resample(wave, 12, 0.5)).max() < 1e-5


def test_the_mask_comes_before_the_filter(tmp_path: Path) -> None:
    particle = drawn(BOX, PIXEL)
    far = Cloud(np.array([[16.0, 0, 0]]), np.array([100.0]), np.array([1.0]))
    spec = written(tmp_path, particle + rasterise(far, BOX), PIXEL)
    found = prepare_start(spec, BOX, PIXEL, 10.0, mask_diameter=60.0)
    # the ball of a reconstruction: its edge of 3 voxels, less in this box, ends at the diameter
    ball = soft_ball(BOX, 60 / PIXEL / 2 - 2, 2)
    expected = low_passed(particle * ball, PIXEL, 10.0)
    np.testing.assert_allclose(found.volume, expected, atol=2e-3 * expected.max())


def test_runs_and_their_halves_are_maps(tmp_path: Path) -> None:
    run = create_run(str(tmp_path / "run.zarr"), "reconstruct", {})
    run.write_volume("full", drawn(BOX, 1.0), 1.0)
    run.write_volume("half1", 2 * drawn(BOX, 1.0), 1.0)
    full = prepare_start(run.url, 30, PIXEL, 10.0)
    half = prepare_start(f"{run.url}:half1", 30, PIXEL, 10.0)
    np.testing.assert_allclose(half.volume, 2 * full.volume, atol=1e-4 * full.volume.max())


def test_what_is_done_to_a_map_is_said(tmp_path: Path) -> None:
    listener = Listener()
    prepare_start(written(tmp_path, drawn(BOX, PIXEL), PIXEL), BOX, PIXEL, 12.0, None, listener)
    assert listener.heard == []
    prepare_start(written(tmp_path, -drawn(50, 2.0), 2.0), BOX, PIXEL, 12.0, None, listener)
    assert ["resampled from 2 Å" in listener.heard[0], "darker" in listener.heard[1]] == [True, True]


@pytest.mark.parametrize("resolution", [16.0, 25.0])
def test_the_band_of_a_map_that_was_low_passed_is_its_own(tmp_path: Path, resolution: float) -> None:
    volume = low_passed(drawn(BOX, PIXEL, 1.0), PIXEL, resolution)
    found = prepare_start(written(tmp_path, volume, PIXEL), BOX, PIXEL, 10.0)
    shell = BOX * PIXEL / resolution
    assert shell - 1 < found.band < 1.25 * shell + 0.5  # the filter's cosine ends at 1.25
    assert found.resolution == pytest.approx(BOX * PIXEL / found.band)


def test_the_band_is_in_the_particles_box(tmp_path: Path) -> None:
    volume = low_passed(drawn(60, PIXEL, 1.0), PIXEL, 15.0)
    found = prepare_start(written(tmp_path, volume, PIXEL), BOX, PIXEL, 10.0)
    assert BOX * PIXEL / 15 - 1 < found.band < 1.25 * BOX * PIXEL / 15 + 0.5


def test_the_band_of_a_map_with_signal_is_that_of_the_filter(tmp_path: Path) -> None:
    found = prepare_start(written(tmp_path, drawn(BOX, PIXEL, 1.5), PIXEL), BOX, PIXEL, 20.0)
    assert found.band == BOX * PIXEL / 20
    assert found.resolution == 20


def test_zeros_of_a_form_factor_are_no_end_of_the_signal() -> None:
    """A hollow sphere, as of a virus: its transform has zeros, and Porod's law all the way."""
    n = 64
    x = np.arange(n) - n // 2
    radius = np.sqrt(x[:, None, None] ** 2 + x[:, None] ** 2 + x**2)
    edge = np.clip(24.5 - radius, 0, 1) - np.clip(16.5 - radius, 0, 1)
    assert signal_band(edge) == n // 2 - 1
    hole = filtered(edge, lambda q: np.where(np.abs(q - 9.5) < 1, 0.0, 1.0))  # shells 9 and 10
    assert signal_band(hole) == n // 2 - 1
    cut = filtered(edge, lambda q: np.where(q <= 14, 1.0, 0.0))
    assert signal_band(cut) == 14


def refused(folder: Path, volume: np.ndarray, pixel_size: float, says: str, **options: float) -> None:
    spec = written(folder, volume, pixel_size)
    settings = {"low_pass": 12.0} | options
    with pytest.raises(InputError, match=says) as caught:
        prepare_start(spec, BOX, PIXEL, **settings)  # type: ignore[arg-type]
    sentence = str(caught.value)
    assert "start.mrc" in sentence or sentence.startswith("--")


def test_maps_that_cannot_be_a_start_are_refused(tmp_path: Path) -> None:
    good = drawn(BOX, PIXEL)
    refused(tmp_path, np.ones((BOX,) * 3), PIXEL, "constant")
    refused(tmp_path, good[:6, :6, :6], PIXEL, "cube of 8")
    refused(tmp_path, good, PIXEL, "--low-pass", low_pass=4.0)
    refused(tmp_path, good, PIXEL, "--low-pass", low_pass=101.0)
    refused(tmp_path, good, PIXEL, "--low-pass", low_pass=float("nan"))
    refused(tmp_path, good, PIXEL, "--mask-diameter", mask_diameter=0.0)
    refused(tmp_path, good, 1.0, "--initial-pixel-size")
    refused(tmp_path, good, PIXEL, "--initial-pixel-size", initial_pixel_size=-1.0)
    with pytest.raises(InputError, match="does not exist"):
        prepare_start(str(tmp_path / "none.zarr"), BOX, PIXEL, 12.0)


def test_a_run_with_nan_is_refused(tmp_path: Path) -> None:
    run = create_run(str(tmp_path / "run.zarr"), "reconstruct", {})
    run.write_volume("full", np.full((BOX,) * 3, np.nan), PIXEL)
    with pytest.raises(InputError, match="NaN"):
        prepare_start(run.url, BOX, PIXEL, 12.0)


def test_a_map_without_a_pixel_size_needs_one(tmp_path: Path) -> None:
    spec = written(tmp_path, drawn(BOX, PIXEL), PIXEL)
    header = bytearray(Path(spec).read_bytes())
    header[40:52] = bytes(12)  # the lengths of the cell
    Path(spec).write_bytes(header)
    with pytest.raises(InputError, match=r"no pixel size.*--initial-pixel-size"):
        prepare_start(spec, BOX, PIXEL, 12.0)
    found = prepare_start(spec, BOX, PIXEL, 12.0, initial_pixel_size=PIXEL)
    assert found.volume.max() > 0.1


def test_one_angstrom_is_believed_where_the_particles_have_it(tmp_path: Path) -> None:
    spec = written(tmp_path, drawn(100, 1.0), 1.0)
    assert prepare_start(spec, 90, 1.0, 12.0).volume.shape == (90, 90, 90)
    assert prepare_start(spec, BOX, PIXEL, 12.0, initial_pixel_size=1.0).volume.shape == (BOX,) * 3


def test_a_particle_that_does_not_fit_is_not_cut(tmp_path: Path) -> None:
    wide = gaussian_cloud(1, 80, 28.0, 1.5)
    spec = written(tmp_path, rasterise(wide, 64), PIXEL)
    with pytest.raises(InputError, match=r"start\.mrc.*outside.*100 Å of its 160 Å"):
        prepare_start(spec, BOX, PIXEL, 12.0)
    # noise there is no particle
    noisy = drawn(64, PIXEL) + 0.05 * np.random.default_rng(0).standard_normal((64,) * 3)
    prepare_start(written(tmp_path, noisy, PIXEL), BOX, PIXEL, 20.0)
