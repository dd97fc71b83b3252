"""Particle stores: what is read is what was written, or an error that says what is wrong and where."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dcryo.errors import DamagedStoreError, InputError
from dcryo.imaging.particles import COLUMNS, Optics, Particles
from dcryo.io.particle_schema import layout
from dcryo.io.particle_store import ParticleStore, create_particles, open_particles
from dcryo.io.run_store import create_run

COUNT, BOX = 100, 7
PROVENANCE = {"command": "test", "files": ["a.star"]}
# Chunks of 3 rows in shards of 12, so that ranges cross both and the last of each is cut short.
CHUNK, SHARD = 3, 12


def table(count: int = COUNT) -> Particles:
    """A table in which no two rows and no two columns agree."""
    rng = np.random.default_rng(1)
    rotation = rng.normal(size=(count, 4))
    rotation /= np.linalg.norm(rotation, axis=1, keepdims=True)
    rotation[1] = np.nan
    return Particles(
        rotation=rotation,
        shift=rng.normal(size=(count, 2)),
        defocus=rng.uniform(5e3, 2e4, (count, 3)),
        phase_shift=rng.uniform(size=count),
        bfactor=rng.uniform(size=count),
        scale=rng.uniform(0.9, 1.1, count),
        optics_group=rng.integers(0, 2, count).astype(np.int32),
        half=np.sort(rng.integers(1, 3, count)).astype(np.int8),
        micrograph=rng.integers(-1, 2, count).astype(np.int32),
        source=np.stack([np.zeros(count, np.int64), rng.permutation(count)], axis=1),
        row=rng.permutation(count).astype(np.int64),
        optics=(
            Optics(
                pixel_size=1.5, beam_tilt=(1e-3, -2e-3), odd_zernike=(0.1, 0.2), noise=(1.0, 2.0, 3.0, 4.0)
            ),
            Optics(name="second", magnification=((1.0, 0.01), (0.02, 1.0)), phase_flipped=True),
        ),
        micrographs=("mic/ü 1.mrc", "mic/\n2.mrc"),
        sources=("stack.mrcs",),
    )


def pictures(count: int = COUNT) -> NDArray[np.float32]:
    return np.random.default_rng(2).normal(size=(count, BOX, BOX)).astype(np.float32)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    image = BOX * BOX * 4
    monkeypatch.setattr("dcryo.io.particle_schema.CHUNK_BYTES", CHUNK * image)
    monkeypatch.setattr("dcryo.io.particle_schema.SHARD_BYTES", SHARD * image)


def write(url: Path, particles: Particles | None = None, step: int = 17, **options: object) -> ParticleStore:
    images = pictures()
    with create_particles(
        url,
        particles or table(),
        BOX,
        1.5,
        provenance=PROVENANCE,
        **options,  # type: ignore[arg-type]
    ) as writer:
        for start in range(0, COUNT, step):
            writer.append(images[start : start + step])
    return open_particles(url)


@pytest.fixture
def store(tmp_path: Path, small: None) -> ParticleStore:
    return write(tmp_path / "p.zarr")


def shard_file(store: ParticleStore, shard: int) -> Path:
    return Path(store.url, "image", "c", str(shard), "0", "0")


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


# ---- what is written is what is read -------------------------------------------------------------


def test_everything_comes_back(store: ParticleStore) -> None:
    assert (store.box, store.count, store.pixel_size, len(store)) == (BOX, COUNT, 1.5, COUNT)
    assert (store.chunk, store.shard) == (CHUNK, SHARD)
    np.testing.assert_array_equal(store.images(0, COUNT), pictures())
    written, read = table(), store.particles()
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name), err_msg=name)
        assert getattr(read, name).dtype == getattr(written, name).dtype
    assert (read.optics, read.micrographs, read.sources) == (
        written.optics,
        written.micrographs,
        written.sources,
    )
    np.testing.assert_array_equal(store.halves(), written.half)
    np.testing.assert_array_equal(store.particles(13, 40).row, written.row[13:40])
    assert store.truth() is None
    assert store.truth_poses() is None
    assert store.check() == []


def test_plain_zarr_reads_it(store: ParticleStore) -> None:
    group = zarr.open_group(store.url, mode="r")
    image = group["image"]
    assert isinstance(image, zarr.Array)
    np.testing.assert_array_equal(image[:], pictures())
    assert image.metadata.dimension_names == ("particle", "y", "x")  # type: ignore[union-attr]
    assert group.attrs["provenance"] == PROVENANCE


@given(start=st.integers(0, COUNT), stop=st.integers(0, COUNT))
def test_any_range_reads_only_its_chunks(shared_store: ParticleStore, start: int, stop: int) -> None:
    start, stop = min(start, stop), max(start, stop)
    store, images = shared_store, pictures()
    before = store.bytes_read
    np.testing.assert_array_equal(store.images(start, stop), images[start:stop])
    chunks = {row // CHUNK for row in range(start, stop)}
    assert store.image_bytes(start, stop) == len(chunks) * (CHUNK * BOX**2 * 4 + 4)
    # Beside the chunks, each shard that is touched gives its index: 16 bytes a chunk and a checksum.
    index = 16 * (SHARD // CHUNK) + 4
    shards = {row // SHARD for row in range(start, stop)}
    assert store.bytes_read - before == store.image_bytes(start, stop) + index * len(shards)


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> ParticleStore:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dcryo.io.particle_schema.CHUNK_BYTES", CHUNK * BOX * BOX * 4)
        patch.setattr("dcryo.io.particle_schema.SHARD_BYTES", SHARD * BOX * BOX * 4)
        return write(tmp_path_factory.mktemp("stores") / "p.zarr")


def test_image_bytes_are_the_bytes_on_disk(store: ParticleStore) -> None:
    on_disk = sum(path.stat().st_size for path in Path(store.url, "image", "c").rglob("*") if path.is_file())
    shards = -(-COUNT // SHARD)
    assert store.image_bytes(0, COUNT) == on_disk - shards * (16 * (SHARD // CHUNK) + 4)


def test_rows_outside_are_refused(store: ParticleStore) -> None:
    with pytest.raises(InputError, match="rows 90 to 101 are not within its 100 particles"):
        store.images(90, 101)


def test_threads_read_the_same(store: ParticleStore) -> None:
    images = pictures()
    spans = [(start, min(start + 23, COUNT)) for start in range(0, COUNT, 5)] * 4
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda span: store.images(*span), spans))
    for (start, stop), part in zip(spans, parts, strict=True):
        np.testing.assert_array_equal(part, images[start:stop])


def test_half_precision(tmp_path: Path) -> None:
    store = write(tmp_path / "p.zarr", dtype="float16")
    images = store.images(0, COUNT)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, pictures().astype(np.float16).astype(np.float32))
    assert store.image_bytes(0, COUNT) < 0.6 * COUNT * BOX**2 * 4


def test_truth_and_noise(tmp_path: Path) -> None:
    volume = np.random.default_rng(3).normal(size=(BOX, BOX, BOX)).astype(np.float32)
    particles = table()
    noise = np.array([[1.0, 2, 3, 4], [np.nan] * 4])
    with create_particles(tmp_path / "p.zarr", particles, BOX, 2, provenance={}, truth=volume) as writer:
        writer.append(pictures())
        writer.set_noise(noise[::-1])
        writer.write_truth(None, particles.rotation, particles.shift)
    store = open_particles(tmp_path / "p.zarr")
    truth = store.truth()
    assert truth is not None
    np.testing.assert_array_equal(truth, volume)
    poses = store.truth_poses()
    assert poses is not None
    np.testing.assert_array_equal(poses[0], particles.rotation)
    np.testing.assert_array_equal(poses[1], particles.shift)
    assert [group.noise for group in store.optics] == [None, (1.0, 2.0, 3.0, 4.0)]
    assert store.info()["truth"] == ["rotation", "shift", "volume"]


def test_info(store: ParticleStore) -> None:
    info = json.loads(json.dumps(store.info(), allow_nan=False))
    half = table().half
    assert info["halves"] == {"0": 0, "1": int((half == 1).sum()), "2": int((half == 2).sum())}
    assert (info["count"], info["box"], info["pixel_size_A"], info["poses"]) == (COUNT, BOX, 1.5, COUNT - 1)
    assert [group["count"] for group in info["optics"]] == np.bincount(table().optics_group).tolist()
    assert [group["noise"] for group in info["optics"]] == [True, False]
    assert info["size_bytes"] == sum(p.stat().st_size for p in Path(store.url).rglob("*") if p.is_file())
    assert info["provenance"] == PROVENANCE


# ---- layout and memory ---------------------------------------------------------------------------


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("box", [8, 64, 100, 256, 512, 2000])
@pytest.mark.parametrize("count", [1, 7, 1000, 200_000, 10_000_000])
def test_layout(count: int, box: int, itemsize: int) -> None:
    chunk, shard = layout(count, box, itemsize)
    image = box * box * itemsize
    assert 1 <= chunk <= shard
    assert shard % chunk == 0
    assert chunk * image <= max(2 << 20, image)
    assert shard * image <= 64 << 20
    if count * image > 8 * (64 << 20):
        assert shard * image > 32 << 20


def peak_of_writing(url: Path, shards: int, shard_bytes: int) -> int:
    count = shards * shard_bytes // (64 * 64 * 4)
    block = np.ones((16, 64, 64), np.float32)
    with create_particles(url, Particles.empty_columns(count), 64, 1.0, provenance={}) as writer:
        tracemalloc.start()
        for _ in range(count // 16):
            writer.append(block)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


def test_the_writer_holds_one_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard_bytes = 1 << 20
    monkeypatch.setattr("dcryo.io.particle_schema.CHUNK_BYTES", shard_bytes // 8)
    monkeypatch.setattr("dcryo.io.particle_schema.SHARD_BYTES", shard_bytes)
    few = peak_of_writing(tmp_path / "few.zarr", 8, shard_bytes)
    many = peak_of_writing(tmp_path / "many.zarr", 32, shard_bytes)
    # The images are 32 shards; zarr holds the encoded chunks and the joined shard beside our buffer.
    assert many < 6 * shard_bytes
    assert many < 1.2 * few


# ---- damage --------------------------------------------------------------------------------------


def test_a_flipped_bit_names_its_chunk(store: ParticleStore) -> None:
    flip(shard_file(store, 2), (CHUNK * BOX**2 * 4 + 4) + 100)  # the second chunk of shard 2: rows 27 to 29
    chunk = r"chunk 9 of image \(rows 27 to 29\) in image/c/2/0/0 is damaged"
    for span in ((0, COUNT), (24, 36), (29, 30)):
        with pytest.raises(DamagedStoreError, match=chunk) as caught:
            store.images(*span)
        assert store.url in str(caught.value)
    np.testing.assert_array_equal(store.images(0, 27), pictures()[:27])
    np.testing.assert_array_equal(store.images(30, 36), pictures()[30:36])
    assert len(store.check()) == 1
    assert "chunk 9 of image" in store.check()[0]
    assert store.check(deep=False) == []


def test_a_flipped_bit_in_a_shard_index(store: ParticleStore) -> None:
    flip(shard_file(store, 1), -10)
    with pytest.raises(DamagedStoreError, match="image/c/1/0/0 is damaged"):
        store.images(12, 24)


@pytest.mark.parametrize("left", [0, 3, 300])
def test_a_truncated_shard(store: ParticleStore, left: int) -> None:
    path = shard_file(store, 3)
    path.write_bytes(path.read_bytes()[:left])
    for span in ((36, 48), (40, 41)):
        with pytest.raises(DamagedStoreError, match="image/c/3/0/0"):
            store.images(*span)


def test_a_deleted_shard(store: ParticleStore) -> None:
    shard_file(store, 4).unlink()
    with pytest.raises(DamagedStoreError, match="the chunk image/c/4/0/0 is missing"):
        open_particles(store.url)
    for reader in (store, open_particles(store.url, verify=False)):
        for span in ((48, 60), (50, 51), (0, COUNT)):
            with pytest.raises(DamagedStoreError, match="the chunk image/c/4/0/0 is missing"):
                reader.images(*span)
        assert reader.missing() == ["image/c/4/0/0"]
        assert len(reader.check()) == 1


def test_a_chunk_that_its_shard_has_lost(store: ParticleStore) -> None:
    # Zarr leaves out a chunk of fill values when it is told to: the shard is intact, and lacks a chunk.
    array = zarr.open_array(store.url, path="image", mode="r+", config={"write_empty_chunks": False})
    array[15:18] = np.nan
    for span in ((12, 24), (16, 17)):
        with pytest.raises(DamagedStoreError, match=r"chunk 5 of image \(rows 15 to 17\) in image/c/1/0/0"):
            store.images(*span)


@pytest.mark.parametrize("name", [*COLUMNS, "micrographs", "noise"])
def test_a_deleted_column_chunk(store: ParticleStore, name: str) -> None:
    (chunk,) = (path for path in Path(store.url, name, "c").rglob("*") if path.is_file())
    chunk.unlink()
    with pytest.raises(DamagedStoreError, match=f"the chunk {name}/c/0.* is missing"):
        open_particles(store.url)
    with pytest.raises(DamagedStoreError, match=f"the chunk {name}/c/0.* is missing"):
        open_particles(store.url, verify=False).particles()


def test_a_damaged_column(store: ParticleStore) -> None:
    flip(Path(store.url, "shift", "c", "0", "0"), 40)
    with pytest.raises(DamagedStoreError, match="the array shift, rows 0 to 99, is damaged"):
        open_particles(store.url).particles()
    assert any("shift" in problem for problem in store.check())


@pytest.mark.parametrize("name", ["image", "half", "noise"])
def test_lost_array_metadata(store: ParticleStore, name: str) -> None:
    Path(store.url, name, "zarr.json").unlink()
    with pytest.raises(DamagedStoreError, match=f"the array {name} is missing or unreadable"):
        open_particles(store.url)


def test_metadata_that_promise_something_else(store: ParticleStore) -> None:
    path = Path(store.url, "zarr.json")
    document = json.loads(path.read_text())
    document["attributes"]["count"] = 10**9
    path.write_text(json.dumps(document))
    with pytest.raises(DamagedStoreError, match="not the 1000000000 images of 7 pixels"):
        open_particles(store.url)


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr")
def test_a_codec_that_is_not_listed_is_refused(store: ParticleStore) -> None:
    path = Path(store.url, "half", "zarr.json")
    document = json.loads(path.read_text())
    document["codecs"].append({"name": "numcodecs.bz2", "configuration": {"level": 1}})
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"the array half uses the codec numcodecs\.bz2"):
        open_particles(store.url)


# ---- what open and create refuse -----------------------------------------------------------------


def test_open_says_what_is_there_instead(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent does not exist; give the particle store"):
        open_particles(tmp_path / "absent")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder is not a particle store"):
        open_particles(tmp_path / "folder")
    (tmp_path / "text.zarr").write_text("hello")
    with pytest.raises(InputError, match=r"text\.zarr is not a particle store"):
        open_particles(tmp_path / "text.zarr")
    create_run(tmp_path / "run", "reconstruct", {})
    with pytest.raises(InputError, match="run is a run, not a particle store"):
        open_particles(tmp_path / "run")


def test_a_newer_schema_is_refused(store: ParticleStore) -> None:
    path = Path(store.url, "zarr.json")
    document = json.loads(path.read_text())
    document["attributes"]["dcryo"]["schema"] = 99
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="has schema 99"):
        open_particles(store.url)


@pytest.mark.parametrize("images", [COUNT - 1, COUNT + 1, 0])
def test_a_wrong_number_of_images_leaves_nothing(tmp_path: Path, small: None, images: int) -> None:
    writer = create_particles(tmp_path / "p.zarr", table(), BOX, 1.0, provenance={})
    with pytest.raises(InputError, match=f"{images} images came|more images than the 100 rows"), writer:
        writer.append(np.zeros((images, BOX, BOX), np.float32))
    assert not (tmp_path / "p.zarr").exists()


def test_a_bad_pixel_is_named_and_leaves_nothing(tmp_path: Path, small: None) -> None:
    images = pictures()
    images[41, 3, 3] = np.nan
    source, row = int(table().source[41, 1]) + 1, int(table().row[41]) + 1
    writer = create_particles(tmp_path / "p.zarr", table(), BOX, 1.0, provenance={})
    wanted = (
        rf"image {source} of stack\.mrcs \(row {row} of the table\) has a pixel that is not a finite number"
    )
    writer.append(images[:30])
    with pytest.raises(InputError, match=wanted), writer:
        writer.append(images[30:])
    assert not (tmp_path / "p.zarr").exists()


def test_a_value_beyond_half_precision(tmp_path: Path) -> None:
    writer = create_particles(tmp_path / "p.zarr", table(), BOX, 1.0, provenance={}, dtype="float16")
    with pytest.raises(InputError, match="too large for float16; store as float32"), writer:
        writer.append(pictures() + np.float32(1e6))


def test_images_of_another_box(tmp_path: Path) -> None:
    writer = create_particles(tmp_path / "p.zarr", table(), BOX, 1.0, provenance={})
    with pytest.raises(InputError, match=r"images of shape \(1, 8, 8\) do not fit a store of box 7"), writer:
        writer.append(np.zeros((1, 8, 8)))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"half": np.arange(COUNT) % 2 + 1}, "row 3: the rows are not sorted by half set"),
        ({"half": np.full(COUNT, 3)}, "row 1: the half set is not 0, 1 or 2; 100 such rows"),
        ({"optics_group": np.full(COUNT, 2)}, "row 1: the optics group is not in the optics table"),
        ({"rotation": np.ones((COUNT, 4))}, "row 1: the rotation is not a unit quaternion"),
        ({"defocus": np.full((COUNT, 3), np.nan)}, "row 1: the defocus is not a number"),
        ({"scale": np.full(COUNT, np.inf)}, "row 1: scale is not a number"),
        ({"shift": np.zeros((COUNT, 3))}, r"the column shift has the shape \(100, 3\), not \(100, 2\)"),
        ({"sources": ()}, "row 1: the source is not in the table"),
    ],
)
def test_a_bad_table_is_refused_before_anything_is_written(
    tmp_path: Path, change: dict[str, object], sentence: str
) -> None:
    changed = replace(table(), **change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=sentence):
        create_particles(tmp_path / "p.zarr", changed, BOX, 1.0, provenance={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("box", "pixel_size", "dtype", "sentence"),
    [
        (1, 1.0, "float32", "box of 1 pixels is too small"),
        (BOX, 0.0, "float32", r"pixel size 0\.0 Å must be positive"),
        (BOX, float("nan"), "float32", "pixel size nan Å must be positive"),
        (BOX, 1.0, "int8", "cannot be stored as int8"),
    ],
)
def test_bad_numbers(tmp_path: Path, box: int, pixel_size: float, dtype: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        create_particles(tmp_path / "p.zarr", table(), box, pixel_size, dtype=dtype, provenance={})
    assert list(tmp_path.iterdir()) == []


# ---- what may be replaced ------------------------------------------------------------------------


def test_a_finished_store_needs_overwrite(store: ParticleStore) -> None:
    with pytest.raises(InputError, match="exists; choose another name, or --overwrite to replace it"):
        create_particles(store.url, table(), BOX, 1.0, provenance={})
    np.testing.assert_array_equal(open_particles(store.url).images(0, COUNT), pictures())
    Path(store.url, "notes.txt").write_text("mine")
    with create_particles(store.url, table(10), BOX, 3.0, provenance={}, overwrite=True) as writer:
        assert writer.notes == [f"{store.url} held a finished particle store, which was replaced"]
        writer.append(pictures(10))
    again = open_particles(store.url)
    assert (again.count, again.pixel_size, again.missing()) == (10, 3.0, [])
    assert Path(store.url, "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_ours_is_never_touched(tmp_path: Path, overwrite: bool) -> None:
    zarr.create_group(tmp_path / "theirs.zarr")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("years")
    (tmp_path / "file").write_text("text")
    create_run(tmp_path / "run", "reconstruct", {})
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    for name in ("theirs.zarr", "folder", "file"):
        with pytest.raises(InputError, match="exists and is not a dcryo particle store"):
            create_particles(tmp_path / name, table(), BOX, 1.0, provenance={}, overwrite=overwrite)
    with pytest.raises(InputError, match="run holds a run"):
        create_particles(tmp_path / "run", table(), BOX, 1.0, provenance={}, overwrite=overwrite)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "p.zarr").mkdir()
    assert write(tmp_path / "p.zarr").count == COUNT


KILLED = """
import os, signal, sys
import numpy as np
from dcryo.imaging.particles import Particles
from dcryo.io import particle_schema
from dcryo.io.particle_store import create_particles
particle_schema.CHUNK_BYTES = particle_schema.SHARD_BYTES = 10 * 7 * 7 * 4
with create_particles(sys.argv[1], Particles.empty_columns(100), 7, 1.0, provenance={}) as writer:
    writer.append(np.ones((int(sys.argv[2]), 7, 7)))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("images", [0, 55, 100])
def test_a_killed_writer(tmp_path: Path, images: int) -> None:
    url = tmp_path / "p.zarr"
    done = subprocess.run([sys.executable, "-c", KILLED, str(url), str(images)], check=False)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(
        InputError, match=r"p\.zarr was never finished .* run the command that makes it again"
    ):
        open_particles(url)
    store = write(url)
    assert store.check() == []
    assert not [name for name in os.listdir(tmp_path) if name != "p.zarr"]


def test_a_writer_whose_store_was_replaced_does_no_harm(tmp_path: Path) -> None:
    url = tmp_path / "p.zarr"
    first = create_particles(url, table(), BOX, 1.0, provenance={})
    second = create_particles(url, table(), BOX, 2.0, provenance={})
    with second:
        second.append(pictures())
    with pytest.raises(InputError, match="was replaced by another process"), first:
        first.append(-pictures())
    np.testing.assert_array_equal(open_particles(url).images(0, COUNT), pictures())
    assert open_particles(url).pixel_size == 2.0
