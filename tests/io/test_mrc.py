"""MRC files: against mrcfile as an independent writer and reader, and files of other programs."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from dcryo.errors import InputError
from dcryo.io.mrc import Stack, read_header, read_volume, write_stack, write_volume


def save(path: Path, data: np.ndarray, *, stack: bool = False, voxel: float = 1.5) -> Path:
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(data)
        if stack:
            mrc.set_image_stack()
        mrc.voxel_size = voxel
    return path


def patch(path: Path, offset: int, value: bytes) -> None:
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(value)


@pytest.mark.parametrize("dtype", ["int8", "int16", "float32", "uint16", "float16"])  # modes 0, 1, 2, 6, 12
def test_modes(tmp_path: Path, dtype: str) -> None:
    data = np.arange(5 * 4 * 4).reshape(5, 4, 4).astype(dtype)
    stack = Stack(save(tmp_path / "a.mrcs", data, stack=True))
    assert stack.shape == (5, 4, 4)
    assert stack.pixel_size == pytest.approx(1.5)
    images = stack.read([3, 0, 1, 2, 2])
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, data[[3, 0, 1, 2, 2]].astype(np.float32))


def test_big_endian(tmp_path: Path) -> None:
    data = np.random.default_rng(0).standard_normal((4, 4, 4)).astype(">f4")
    volume, _ = read_volume(save(tmp_path / "a.mrc", data))
    np.testing.assert_array_equal(volume, data)


def test_extended_header_is_skipped(tmp_path: Path) -> None:
    data = np.random.default_rng(0).standard_normal((5, 4, 4)).astype(np.float32)
    for name in ("a.mrc", "a.mrcs"):
        with mrcfile.new(tmp_path / name) as mrc:
            mrc.set_data(data)
            mrc.set_extended_header(np.arange(100, dtype=np.float32))
    np.testing.assert_array_equal(Stack(tmp_path / "a.mrcs").read(range(5)), data)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mrc", cubic=False)[0], data)


def test_axes_are_reordered(tmp_path: Path) -> None:
    data = np.random.default_rng(0).standard_normal((4, 4, 4)).astype(np.float32)  # [z, y, x]
    path = save(
        tmp_path / "a.mrc", np.ascontiguousarray(data.transpose(2, 0, 1))
    )  # sections x, rows z, columns y
    with mrcfile.open(path, "r+") as mrc:
        mrc.header.mapc, mrc.header.mapr, mrc.header.maps = 2, 3, 1
    np.testing.assert_array_equal(read_volume(path)[0], data)


def test_padding_keeps_the_centre(tmp_path: Path) -> None:
    for shape in [(6, 5, 7), (5, 8, 6), (3, 6, 5)]:
        data = np.zeros(shape, np.float32)
        data[tuple(n // 2 for n in shape)] = 1
        volume, _ = read_volume(save(tmp_path / "a.mrc", data))
        side = max(shape)
        assert volume.shape == (side,) * 3
        assert volume[(side // 2,) * 3] == 1
        assert volume.sum() == 1


def test_missing_stamp_is_accepted_when_sizes_agree(tmp_path: Path) -> None:
    data = np.arange(48, dtype=np.float32).reshape(3, 4, 4)
    path = save(tmp_path / "a.mrcs", data, stack=True)
    patch(path, 208, bytes(8))  # MAP and machine stamp
    stack = Stack(path)
    assert not stack.header.stamped
    np.testing.assert_array_equal(stack.read([0, 1, 2]), data)
    with path.open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(InputError, match="not an MRC file"):
        Stack(path)


def test_truncated_file_says_how_many(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mrcs", np.zeros((1, 8, 8), np.float32), stack=True)
    patch(path, 8, np.int32(11029).tobytes())
    with pytest.raises(InputError, match=r"promises 11,029 images of 8 x 8 px and the file holds 1;"):
        Stack(path)


def test_absurd_header_allocates_nothing(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mrc", np.zeros((2, 2, 2), np.float32))
    patch(path, 0, np.array([2**30, 2**30, 2**30], "<i4").tobytes())
    with pytest.raises(InputError, match="truncated"):
        read_volume(path)
    patch(path, 0, np.array([2, 2, 2], "<i4").tobytes())
    patch(path, 92, np.int32(2**31 - 1).tobytes())  # an extended header of 2 GB
    with pytest.raises(InputError, match="truncated"):
        read_volume(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"data_\n\nloop_\n_rlnImageName #1\n" * 200, "not an MRC file"), (b"short", "not an MRC file")],
)
def test_text_is_not_an_mrc(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "a.mrc"
    path.write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        read_header(path)


def test_other_bad_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_header(tmp_path / "absent.mrc")
    with pytest.raises(InputError, match="is a folder"):
        read_header(tmp_path)
    with pytest.raises(InputError, match="mode 4 is not handled"):
        read_header(save(tmp_path / "c.mrc", np.zeros((2, 2, 2), np.complex64)))
    with pytest.raises(InputError, match="6 x 4 px are not square"):
        Stack(save(tmp_path / "r.mrcs", np.zeros((2, 4, 6), np.float32), stack=True))
    patch(save(tmp_path / "n.mrc", np.zeros((2, 2, 2), np.float32)), 1024, np.float32(np.nan).tobytes())
    with pytest.raises(InputError, match="NaN or infinite"):
        read_volume(tmp_path / "n.mrc")
    with pytest.raises(InputError, match="holds images, not a map"):
        read_volume(save(tmp_path / "s.mrcs", np.zeros((4, 4, 4), np.float32), stack=True))
    with mrcfile.open(save(tmp_path / "v.mrc", np.zeros((4, 4, 4), np.float32)), "r+") as mrc:
        mrc.voxel_size = (1, 1, 2)
    with pytest.raises(InputError, match="not cubic"):
        read_volume(tmp_path / "v.mrc")


def test_gzip(tmp_path: Path) -> None:
    data = np.random.default_rng(0).standard_normal((4, 4, 4)).astype(np.float32)
    plain = save(tmp_path / "a.mrc", data)
    packed = tmp_path / "a.map.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    np.testing.assert_array_equal(read_volume(packed)[0], data)
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(InputError, match="damaged gzip"):
        read_volume(packed)
    stacked = tmp_path / "b.mrcs"
    stacked.write_bytes(gzip.compress(plain.read_bytes()))
    with pytest.raises(InputError, match="gunzip"):
        Stack(stacked)


def test_only_the_rows_wanted_are_read(tmp_path: Path) -> None:
    # The other images are a hole in the file: reading them would still give zeros, so count the bytes.
    data = np.arange(300 * 16, dtype=np.float32).reshape(300, 4, 4)
    stack = Stack(save(tmp_path / "a.mrcs", data, stack=True))
    read: list[int] = []
    original = np.fromfile

    def counting(stream: object, dtype: np.dtype, count: int) -> np.ndarray:
        read.append(count * dtype.itemsize)
        return original(stream, dtype, count)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(np, "fromfile", counting)
        np.testing.assert_array_equal(stack.read([7, 8, 9, 250, 3]), data[[7, 8, 9, 250, 3]])
    assert read == [3 * 64, 64, 64]
    with pytest.raises(InputError, match="has no image 301, it holds 300"):
        stack.read([300])


def test_a_stack_that_shrinks_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mrcs", np.zeros((4, 4, 4), np.float32), stack=True)
    stack = Stack(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="shorter while it was read"):
        stack.read([3])


def test_written_map_has_the_header_of_a_map(tmp_path: Path) -> None:
    data = np.random.default_rng(0).standard_normal((4, 5, 6)).astype(np.float32)
    path = write_volume(tmp_path / "a.mrc", data, 1.7)
    assert mrcfile.validate(path)
    with mrcfile.open(path) as mrc:
        np.testing.assert_array_equal(mrc.data, data)
        assert (mrc.header.mode, mrc.header.ispg, mrc.header.mz) == (2, 1, 4)
        assert (mrc.header.mapc, mrc.header.mapr, mrc.header.maps) == (1, 2, 3)
        assert [float(mrc.voxel_size[axis]) for axis in "xyz"] == pytest.approx([1.7] * 3)


def test_written_stack_has_the_header_of_a_stack(tmp_path: Path) -> None:
    data = np.random.default_rng(0).standard_normal((7, 6, 6)).astype(np.float32)
    assert write_stack(tmp_path / "a.mrcs", [data[:3], data[3:4], data[4:]], 2.5) == 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with mrcfile.open(tmp_path / "a.mrcs") as mrc:
            np.testing.assert_array_equal(mrc.data, data)
            assert mrc.is_image_stack()
            assert mrc.voxel_size.x == pytest.approx(2.5)
            # float64 sums over a few hundred values, stored in float32
            assert mrc.header.rms == pytest.approx(data.std(), rel=1e-5)
            assert (mrc.header.dmin, mrc.header.dmax) == (data.min(), data.max())
    assert mrcfile.validate(tmp_path / "a.mrcs")


def test_failed_writing_leaves_nothing(tmp_path: Path) -> None:
    def broken():
        yield np.zeros((2, 4, 4))
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_stack(tmp_path / "a.mrcs", broken(), 1.0)
    with pytest.raises(InputError, match="no images"):
        write_stack(tmp_path / "a.mrcs", [], 1.0)
    with pytest.raises(InputError, match="do not fit"):
        write_stack(tmp_path / "a.mrcs", [np.zeros((1, 4, 4)), np.zeros((1, 5, 5))], 1.0)
    with pytest.raises(InputError, match="three axes"):
        write_volume(tmp_path / "a.mrc", np.zeros((2, 2)), 1.0)
    with pytest.raises(InputError, match="NaN or infinite"):
        write_volume(tmp_path / "a.mrc", np.full((2, 2, 2), np.inf), 1.0)
    with pytest.raises(InputError, match="does not exist; create it first"):
        write_volume(tmp_path / "no" / "a.mrc", np.zeros((2, 2, 2)), 1.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "side", "pixel_size"),
    [("maps/emd_3400_86.mrc", 90, 258 / 90), ("mrc/EMD-3197.map", 20, 11.4), ("maps/5j0n.mrc", 75, 275 / 75)],
)
def test_deposited_maps(shared_data: Path, name: str, side: int, pixel_size: float) -> None:
    volume, size = read_volume(shared_data / name)
    assert volume.shape == (side,) * 3
    assert size == pytest.approx(pixel_size, rel=1e-6)
    with mrcfile.open(shared_data / name) as mrc:
        assert np.isclose(volume.sum(dtype=float), mrc.data.sum(dtype=float), rtol=1e-9)


def test_real_stack_without_stamp(shared_data: Path) -> None:
    path = shared_data / "particles" / "small_real" / "relion31.mrcs"
    stack = Stack(path)
    assert (len(stack), stack.box, stack.header.stamped) == (5, 256, False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = mrcfile.read(path) if stack.header.stamped else mrcfile.open(path, permissive=True).data
    np.testing.assert_array_equal(stack.read(range(5)), expected)
