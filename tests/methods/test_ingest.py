"""From foreign files to a particle store, and every way it can go wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dcryo.errors import InputError
from dcryo.imaging.ctf import ctf_image
from dcryo.imaging.particles import Optics, Particles
from dcryo.io.mrc import Stack
from dcryo.io.particle_store import open_particles
from dcryo.io.star import read_particles_star, write_particles_star
from dcryo.methods.ingest import IngestConfig, ingest
from dcryo.methods.progress import Silent

N, COUNT = 32, 60


def save_stack(path: Path, images: np.ndarray, voxel: float = 1.5) -> Path:
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(images.astype(np.float32))
        mrc.set_image_stack()
        mrc.voxel_size = voxel
    return path


def blobs(n: int, count: int, particles: Particles, noise: float = 0.3) -> np.ndarray:
    x = np.arange(n) - n // 2
    blob = np.exp(-(x**2 + x[:, None] ** 2) / (2 * (n / 7) ** 2))
    transfer = ctf_image(particles, particles.optics[0].pixel_size, n)
    clean = np.fft.irfft2(np.fft.rfft2(np.fft.ifftshift(blob)) * transfer, s=(n, n))
    return np.fft.fftshift(clean, axes=(1, 2)) + np.random.default_rng(4).normal(0, noise, (count, n, n))


def table(count: int = COUNT, **more: Any) -> Particles:
    given: dict[str, Any] = {
        "rotation": Rotation.random(count, random_state=0).as_quat(),
        "defocus": np.tile([15000.0, 14000.0, 0.3], (count, 1)),
        "half": (1 + np.arange(count) % 2).astype(np.int8),
        "optics": (Optics(pixel_size=1.5),),
    }
    return Particles.empty_columns(count, **(given | more))


@pytest.fixture
def star(tmp_path: Path) -> Path:
    """A STAR file of 60 blobs of 32 pixels, in two stacks whose rows are interleaved."""
    particles = table()
    images = blobs(N, COUNT, particles)
    save_stack(tmp_path / "a.mrcs", images[0::2])
    save_stack(tmp_path / "b.mrcs", images[1::2])
    names = [f"{i // 2 + 1}@{'ab'[i % 2]}.mrcs" for i in range(COUNT)]
    return write_particles_star(tmp_path / "p.star", particles, names, N)


def original(star: Path) -> np.ndarray:
    """The images in the order of the table."""
    a, b = (Stack(star.with_name(name)).read(range(COUNT // 2)) for name in ("a.mrcs", "b.mrcs"))
    return np.stack([a, b], axis=1).reshape(COUNT, N, N)


def test_rows_are_sorted_by_half_and_keep_their_images(star: Path, tmp_path: Path) -> None:
    store = ingest(star, tmp_path / "s.zarr")
    particles = store.particles()
    assert (store.count, store.box, store.pixel_size) == (COUNT, N, 1.5)
    np.testing.assert_array_equal(particles.half, [1] * 30 + [2] * 30)
    np.testing.assert_array_equal(particles.row, [*range(0, 60, 2), *range(1, 60, 2)])
    np.testing.assert_array_equal(store.images(0, COUNT), original(star)[particles.row])
    np.testing.assert_allclose(
        particles.rotation, read_particles_star(star).particles.rotation[particles.row]
    )
    assert store.check() == []
    # Each image still knows the file and the number it came from.
    for row in (0, 17, 59):
        name, index = particles.sources[particles.source[row, 0]], particles.source[row, 1]
        np.testing.assert_array_equal(store.images(row, row + 1)[0], Stack(tmp_path / name).read(index)[0])


def test_noise_of_each_group(star: Path, tmp_path: Path) -> None:
    spectrum = np.array(ingest(star, tmp_path / "s.zarr").optics[0].noise)
    # White noise of variance 0.09; 60 images of 32 px leave about 3 % on the mean over shells, and the
    # blobs leak a little into the corners.
    assert spectrum[3:].mean() == pytest.approx(0.09, rel=0.1)


def test_small_batches_change_nothing(star: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ingest(star, tmp_path / "s.zarr")
    monkeypatch.setattr("dcryo.methods.ingest.BATCH_IMAGES", 7)
    parts = ingest(star, tmp_path / "t.zarr")
    np.testing.assert_array_equal(whole.images(0, COUNT), parts.images(0, COUNT))
    np.testing.assert_allclose(
        whole.optics[0].noise, parts.optics[0].noise, rtol=1e-5
    )  # order of float32 sums


def test_provenance_says_what_was_done(star: Path, tmp_path: Path) -> None:
    store = ingest([star], tmp_path / "s.zarr", IngestConfig(contrast="invert", ignore=("rlnRandomSubset",)))
    said = store.attributes["provenance"]
    assert said["sources"] == [{"path": str(star), "bytes": star.stat().st_size}]
    assert said["inverted"]
    assert said["ignored"] == ["rlnRandomSubset"]
    assert said["stacks"] == {"count": 2, "images": 60}
    assert any("drawn at random with seed 0" in note for note in said["notes"])


def test_random_halves_are_balanced_and_repeatable(star: Path, tmp_path: Path) -> None:
    config = IngestConfig(ignore=("rlnRandomSubset",), seed=5)
    one, two = (ingest(star, tmp_path / name, config).particles() for name in ("s.zarr", "t.zarr"))
    np.testing.assert_array_equal(one.row, two.row)
    np.testing.assert_array_equal(np.bincount(one.half), [0, 30, 30])
    other = ingest(star, tmp_path / "u.zarr", IngestConfig(ignore=("rlnRandomSubset",), seed=6)).particles()
    assert not np.array_equal(one.row, other.row)


def test_contrast(star: Path, tmp_path: Path) -> None:
    kept = ingest(star, tmp_path / "s.zarr", IngestConfig(contrast="keep")).images(0, 5)
    inverted = ingest(star, tmp_path / "t.zarr", IngestConfig(contrast="invert")).images(0, 5)
    np.testing.assert_array_equal(kept, -inverted)
    for name in ("a.mrcs", "b.mrcs"):
        save_stack(tmp_path / name, -Stack(tmp_path / name).read(range(30)))
    with pytest.raises(InputError, match=r"z = \d.*--contrast invert if the images are right"):
        ingest(star, tmp_path / "u.zarr")
    assert not (tmp_path / "u.zarr").exists()
    np.testing.assert_array_equal(
        ingest(star, tmp_path / "u.zarr", IngestConfig(contrast="invert")).images(0, 5), kept
    )


def save_cs(path: Path, sign: float) -> Path:
    fields = [
        ("uid", "u8"), ("blob/path", "S8"), ("blob/idx", "u4"), ("blob/psize_A", "f4"), ("blob/sign", "f4"),
        ("ctf/accel_kv", "f4"), ("ctf/cs_mm", "f4"), ("ctf/amp_contrast", "f4"),
        ("ctf/df1_A", "f4"), ("ctf/df2_A", "f4"), ("ctf/df_angle_rad", "f4"),
    ]  # fmt: skip
    rows = np.zeros(COUNT // 2, fields)
    rows["uid"] = rows["blob/idx"] = np.arange(COUNT // 2)
    for name, value in zip(rows.dtype.names[3:], (1.5, sign, 300, 2.7, 0.1, 15000, 14000, 0.3), strict=True):
        rows[name] = value
    rows["blob/path"] = b">a.mrcs"
    with path.open("wb") as stream:
        np.save(stream, rows)
    return path


def test_sign_of_cryosparc(star: Path, tmp_path: Path) -> None:
    path = save_cs(tmp_path / "p.cs", -1)
    with pytest.raises(InputError, match=r"should be dark .* is brighter .*--contrast keep if"):
        ingest(path, tmp_path / "s.zarr")
    bright = Stack(tmp_path / "a.mrcs").read(range(30))
    save_stack(tmp_path / "a.mrcs", -bright)
    store = ingest(path, tmp_path / "s.zarr")
    np.testing.assert_array_equal(store.images(0, 30), bright[store.particles().row])


def test_resampling_keeps_the_field_of_view(star: Path, tmp_path: Path) -> None:
    store = ingest(star, tmp_path / "s.zarr", IngestConfig(box=24))
    assert (store.box, store.pixel_size) == (24, 2.0)
    assert store.optics[0].pixel_size == 2.0
    particles = store.particles()
    # The same plane waves on fewer pixels: the low frequencies are unchanged, up to the number of pixels.
    old = np.fft.rfft2(np.fft.ifftshift(original(star)[particles.row], axes=(1, 2))) / N**2
    new = np.fft.rfft2(np.fft.ifftshift(store.images(0, COUNT), axes=(1, 2))) / 24**2
    np.testing.assert_allclose(new[:, :10, :10], old[:, :10, :10], atol=1e-6)
    assert store.attributes["provenance"]["resampled"] == [
        {"from_box": 32, "to_box": 24, "window": 24, "pixel_size_A": 2.0}
    ]
    np.testing.assert_allclose(particles.shift, read_particles_star(star).particles.shift[particles.row])


def test_resampling_to_a_pixel_size(star: Path, tmp_path: Path) -> None:
    store = ingest(star, tmp_path / "s.zarr", IngestConfig(box=20, pixel_size=2.0))
    assert (store.box, store.pixel_size) == (20, 2.0)
    wide = ingest(star, tmp_path / "t.zarr", IngestConfig(box=24))
    np.testing.assert_allclose(store.images(0, 9), wide.images(0, 9)[:, 2:-2, 2:-2], atol=1e-6)
    with pytest.raises(InputError, match=r"finer than the 1.5 Å"):
        ingest(star, tmp_path / "u.zarr", IngestConfig(box=20, pixel_size=1.0))
    with pytest.raises(InputError, match=r"--box 30 at 2 Å is wider than the 48 Å"):
        ingest(star, tmp_path / "u.zarr", IngestConfig(box=30, pixel_size=2.0))


def test_different_boxes(star: Path, tmp_path: Path) -> None:
    few = table(10)
    save_stack(tmp_path / "c.mrcs", blobs(40, 10, few))
    other = write_particles_star(tmp_path / "q.star", few, [f"{i}@c.mrcs" for i in range(1, 11)], 40)
    with pytest.raises(InputError, match=r"32, 40 px; give --box"):
        ingest([star, other], tmp_path / "s.zarr")
    store = ingest([star, other], tmp_path / "s.zarr", IngestConfig(box=24))
    particles = store.particles()
    sizes = np.array([o.pixel_size for o in store.optics])[particles.optics_group]
    np.testing.assert_allclose(sizes[particles.row < 60], 2.0)
    np.testing.assert_allclose(sizes[particles.row >= 60], 1.5 * 40 / 24)
    assert store.pixel_size == 2.0
    np.testing.assert_array_equal(np.sort(particles.row), np.arange(70))


def test_bare_stacks_and_single_images(star: Path, tmp_path: Path) -> None:
    one = save_stack(tmp_path / "one.mrc", np.random.default_rng(0).normal(size=(1, N, N)))
    store = ingest([tmp_path / "a.mrcs", one], tmp_path / "s.zarr", IngestConfig(pixel_size=2.5))
    particles = store.particles()
    assert (store.count, store.pixel_size, store.optics[0].ctf) == (31, 2.5, False)
    assert np.isnan(particles.rotation).all()
    last = int(np.flatnonzero(particles.row == 30)[0])
    np.testing.assert_array_equal(store.images(last, last + 1), Stack(one).read([0]))
    with pytest.raises(InputError, match="cannot be ingested together"):
        ingest([star, one], tmp_path / "t.zarr")


def test_clean_images_have_no_noise_spectrum(tmp_path: Path) -> None:
    images = np.zeros((8, N, N))
    images[:, 12:20, 12:20] = 1
    store = ingest(save_stack(tmp_path / "a.mrcs", images), tmp_path / "s.zarr")
    assert store.optics[0].noise is None


def test_nan_is_named_by_stack_and_number(star: Path, tmp_path: Path) -> None:
    with mrcfile.mmap(tmp_path / "b.mrcs", "r+") as mrc:
        mrc.data[6, 3, 3] = np.nan
    # Not among the images that the sign is judged by when there are many, but always found.
    with pytest.raises(InputError, match=r"b\.mrcs: image 7 has pixels that are NaN or infinite"):
        ingest(star, tmp_path / "s.zarr")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("dcryo.methods.ingest.PROBED", 5)
        with pytest.raises(InputError, match=r"b\.mrcs: image 7 has pixels that are NaN or infinite"):
            ingest(star, tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize("empty", [1, 2])
def test_empty_half_set(star: Path, tmp_path: Path, empty: int) -> None:
    particles = table(half=np.full(COUNT, 3 - empty, np.int8))
    names = [f"{i // 2 + 1}@{'ab'[i % 2]}.mrcs" for i in range(COUNT)]
    write_particles_star(star, particles, names, N)
    with pytest.raises(InputError, match=f"half set {empty} is empty.*--ignore rlnRandomSubset"):
        ingest(star, tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"contrast": "dark"}, "--contrast dark"),
        ({"pixel_size": 0.0}, "--pixel-size 0"),
        ({"pixel_size": float("nan")}, "--pixel-size nan"),
        ({"box": 4}, "--box 4"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        IngestConfig(**options)


def test_sources_that_cannot_be_read(star: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to ingest"):
        ingest([], tmp_path / "s.zarr")
    with pytest.raises(InputError, match=r"p\.txt: cannot be ingested"):
        ingest("p.txt", tmp_path / "s.zarr")
    (tmp_path / "a.mrcs").unlink()
    with pytest.raises(InputError, match=r"a\.mrcs was not found"):
        ingest(star, tmp_path / "s.zarr")


def test_a_store_in_the_way_is_kept(star: Path, tmp_path: Path) -> None:
    first = ingest(star, tmp_path / "s.zarr")
    with pytest.raises(InputError, match="overwrite"):
        ingest(star, tmp_path / "s.zarr", IngestConfig(contrast="invert"))
    np.testing.assert_array_equal(open_particles(tmp_path / "s.zarr").images(0, 3), first.images(0, 3))
    ingest(star, tmp_path / "s.zarr", IngestConfig(contrast="invert"), overwrite=True)


def test_progress_hears_everything(star: Path, tmp_path: Path) -> None:
    class Ears(Silent):
        total, done, notes = 0, 0, ()

        def start(self, stage: str, total: int | None) -> None:
            self.total = total or 0

        def advance(self, count: int = 1) -> None:
            self.done += count

        def message(self, text: str) -> None:
            self.notes += (text,)

    ears = Ears()
    ingest(star, tmp_path / "s.zarr", IngestConfig(pixel_size=2.0), progress=ears)
    assert (ears.total, ears.done) == (COUNT, COUNT)
    assert any("2 Å as given" in note for note in ears.notes)


def test_real_tilts(shared_data: Path, tmp_path: Path) -> None:
    star = shared_data / "particles" / "ribosome_tilts" / "sta_testing_bin8.star"
    store = ingest(star, tmp_path / "s.zarr", IngestConfig(pixel_size=14.56))
    assert (store.count, store.box, store.pixel_size) == (219, 64, 14.56)
    assert store.optics[0].noise is not None
    assert np.isfinite(store.particles().rotation).all()
