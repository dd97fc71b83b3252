"""MRC and CCP4 files: maps in and out, and image stacks read a few rows at a time.

The header is mrcfile's (Cheng et al. 2015, JSB 192:146, the MRC2014 standard).  It is checked against
the size of the file *before* anything is allocated, because a damaged header can promise terabytes; so a
file without the ``MAP`` stamp (older programs, some EMPIAR entries) is safe to accept when its sizes agree.

Values keep the order of the file; a map comes out as ``[z, y, x]``.  The origin fields are not used: the
centre of a box of n is always the index ``n // 2`` (:mod:`dcryo.conventions`).
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import mrcfile
import numpy as np
from mrcfile import utils as mrc_utils
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import ArrayLike, NDArray

from dcryo.errors import InputError
from dcryo.io.atomic import atomic_file

Float32 = NDArray[np.float32]

HEADER_BYTES = 1024
LONGEST_SIDE = 1 << 16
"""A side beyond this is taken as a sign that the file is no MRC file at all (when it has no stamp)."""
GZIP_RATIO = 1100
"""deflate cannot pack more than 1032 to 1: a header that promises more than this is wrong."""
FLATTEST = 8
"""A "map" with fewer sections than an eighth of its width is taken for images (a cube would waste memory)."""
READ_BYTES = 1 << 24
"""Longest run of a stack that is read at once, so that converting it does not double a large batch."""


@dataclass(frozen=True)
class Header:
    """What an MRC header says, after it was found to fit the file.

    ``shape`` is (sections, rows, columns); ``axes`` the spatial axis (1 x, 2 y, 3 z) of columns, rows and
    sections; ``voxel`` the sampling along x, y, z in Å, 0 where the header does not say; ``stamped`` False
    for a file without the ``MAP`` stamp.
    """

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    offset: int
    axes: tuple[int, int, int]
    voxel: tuple[float, float, float]
    stamped: bool

    @property
    def nbytes(self) -> int:
        """Bytes of the data block."""
        return self.shape[0] * self.shape[1] * self.shape[2] * self.dtype.itemsize


def read_header(path: str | os.PathLike[str]) -> Header:
    """Header of an MRC file, checked against the size of the file.

    Raises
    ------
    InputError
        Missing or unreadable file, not an MRC file, a mode other than 0, 1, 2, 6 and 12, or fewer bytes
        than the header promises (the sentence says how many images are promised and how many are there).
    """
    path = Path(path)
    with _opened(path) as stream:
        block = stream.read(HEADER_BYTES)
    size, packed = path.stat().st_size, _is_gzip(path)
    alien = f"{path}: not an MRC file"
    if len(block) < HEADER_BYTES:
        raise InputError(f"{alien}, it ends within the 1,024 bytes of a header; give the file itself")
    raw = _in_file_order(np.frombuffer(block, HEADER_DTYPE).reshape(()))
    stamped = bytes(raw["map"])[:3] == b"MAP"
    shape = (int(raw["nz"]), int(raw["ny"]), int(raw["nx"]))
    extended = int(raw["nsymbt"])
    plausible = min(shape) > 0 and extended >= 0 and (stamped or max(shape[1:]) <= LONGEST_SIDE)
    dtype = _dtype(raw)
    if not plausible or (dtype is None and not stamped):
        raise InputError(f"{alien}, its header makes no sense (text, another format?); give an MRC file")
    if dtype is None or dtype.kind == "c":
        raise InputError(
            f"{path}: MRC mode {int(raw['mode'])} is not handled (modes 0, 1, 2, 6 and 12 are); "
            "convert the file to mode 2"
        )
    header = Header(
        path=path,
        shape=shape,
        dtype=dtype,
        offset=HEADER_BYTES + extended,
        axes=_axes(path, raw),
        voxel=_voxel(raw),
        stamped=stamped,
    )
    _check_size(header, size, packed)
    return header


def read_volume(path: str | os.PathLike[str], *, cubic: bool = True) -> tuple[Float32, float]:
    """Read a map, plain or gzip.

    Parameters
    ----------
    path : path
        An ``.mrc``, ``.map`` or ``.ccp4`` file.
    cubic : bool
        Pad the map with zeros to a cube of its longest side, centre kept on ``n // 2``.

    Returns
    -------
    volume : (n, n, n) float32 array ``[z, y, x]``
    pixel_size : float
        Å; 0.0 when the header does not say.

    Raises
    ------
    InputError
        As :func:`read_header`; also for an image stack, a voxel that is not cubic to 1 %, or values that
        are not finite.
    """
    header = read_header(path)
    flat = header.shape[0] * FLATTEST < max(header.shape)
    if flat or header.path.name.endswith((".mrcs", ".mrcs.gz")):
        raise InputError(f"{path}: holds images, not a map; give a map, or dcryo ingest for images")
    with _opened(header.path) as stream:
        stream.seek(header.offset)
        data = stream.read(header.nbytes)
    if len(data) < header.nbytes:
        raise InputError(f"{path}: ends after {len(data):,} of {header.nbytes:,} data bytes; copy it again")
    values = np.frombuffer(data, header.dtype).reshape(header.shape)
    held = header.axes[::-1]  # the spatial axis of each array axis; z, y, x wanted
    ordered = values.transpose([held.index(axis) for axis in (3, 2, 1)])
    volume = np.ascontiguousarray(ordered, dtype=np.float32)
    if not np.isfinite(volume).all():
        raise InputError(f"{path}: holds values that are NaN or infinite; write the map again")
    x, y, z = header.voxel
    if min(header.voxel) > 0 and max(header.voxel) > 1.01 * min(header.voxel):
        raise InputError(f"{path}: voxels of {x:g} x {y:g} x {z:g} Å are not cubic; resample the map")
    return (_pad_to_cube(volume) if cubic else volume), max(header.voxel)


def write_volume(path: str | os.PathLike[str], array: ArrayLike, pixel_size: float) -> Path:
    """Write a map ``[z, y, x]`` as MRC mode 2 with spacegroup 1; the file appears whole or not at all.

    Raises
    ------
    InputError
        Array that is not three-dimensional or not finite, or a pixel size [Å] that is not positive.
    """
    values = np.asarray(array, dtype=np.float32)
    if values.ndim != 3 or not pixel_size > 0:
        raise InputError(
            f"{path}: a map needs three axes and a pixel size, got shape {values.shape} and {pixel_size:g} Å"
        )
    if not np.isfinite(values).all():
        raise InputError(f"{path}: the map holds NaN or infinite values and is not written; compute it again")
    with atomic_file(path) as temporary, mrcfile.new(temporary) as mrc:
        mrc.set_data(values)
        mrc.set_volume()
        mrc.voxel_size = float(pixel_size)
    return Path(path)


class Stack:
    """An image stack on disk, read by rows; only the header is kept.

    Attributes
    ----------
    path : Path
    header : Header
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Check the header of ``path``.

        Raises
        ------
        InputError
            As :func:`read_header`, and for a compressed stack or images that are not square.
        """
        self.header = read_header(path)
        self.path = self.header.path
        count, rows, columns = self.header.shape
        if _is_gzip(self.path):
            raise InputError(f"{self.path}: a compressed stack cannot be read by rows; unpack it with gunzip")
        if rows != columns:
            raise InputError(
                f"{self.path}: images of {columns} x {rows} px are not square; extract square boxes"
            )
        self.shape = (count, rows, columns)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def box(self) -> int:
        """Side of the images in pixels."""
        return self.shape[1]

    @property
    def pixel_size(self) -> float:
        """Pixel size in the header [Å], 0.0 when the header does not say."""
        return self.header.voxel[0]

    def read(self, indices: ArrayLike) -> Float32:
        """Images ``indices`` (0-based, any order), (k, n, n) float32; no more bytes are read than that.

        Raises
        ------
        InputError
            Index outside the stack, or a file that became shorter since it was opened.
        """
        wanted = np.atleast_1d(np.asarray(indices, dtype=np.int64))
        count, rows, columns = self.shape
        if wanted.size and (wanted.min() < 0 or wanted.max() >= count):
            bad = wanted.min() if wanted.min() < 0 else wanted.max()
            raise InputError(
                f"{self.path}: has no image {bad + 1}, it holds {count:,}; correct the table that asks for it"
            )
        out = np.empty((len(wanted), rows, columns), dtype=np.float32)
        item = rows * columns
        longest = max(1, READ_BYTES // (item * self.header.dtype.itemsize))
        with self.path.open("rb") as stream:
            for start, stop in _runs(wanted, longest):
                stream.seek(self.header.offset + int(wanted[start]) * item * self.header.dtype.itemsize)
                values = np.fromfile(stream, self.header.dtype, (stop - start) * item)
                if len(values) < (stop - start) * item:
                    raise InputError(f"{self.path}: became shorter while it was read; write it again")
                out[start:stop] = values.reshape(stop - start, rows, columns)
        return out


def write_stack(path: str | os.PathLike[str], batches: Iterable[ArrayLike], pixel_size: float) -> int:
    """Write images as an MRC stack (mode 2, spacegroup 0), one batch in memory at a time.

    Parameters
    ----------
    path : path
        The file appears whole or not at all.
    batches : iterable of (k, n, n) arrays
    pixel_size : float
        Å.

    Returns
    -------
    int
        Images written.

    Raises
    ------
    InputError
        No images at all, images of different shapes, or a pixel size that is not positive.
    """
    if not pixel_size > 0:
        raise InputError(f"{path}: a stack needs a positive pixel size, got {pixel_size}")
    count, low, high, total, square, shape = 0, np.inf, -np.inf, 0.0, 0.0, None
    with atomic_file(path) as temporary:
        with temporary.open("wb") as stream:
            stream.write(bytes(HEADER_BYTES))  # the header needs the count, which the last batch tells
            for batch in batches:
                images = np.ascontiguousarray(batch, dtype="<f4")
                shape = shape or images.shape[1:]
                if images.ndim != 3 or images.shape[1:] != shape:
                    raise InputError(f"{path}: images of {images.shape[1:]} px do not fit a stack of {shape}")
                stream.write(images.data)
                count += len(images)
                low, high = min(low, float(images.min())), max(high, float(images.max()))
                total += float(images.sum(dtype=np.float64))
                square += float(np.square(images, dtype=np.float64).sum())
            if shape is None:
                raise InputError(f"{path}: there are no images to write; choose particles that exist")
            values = count * shape[0] * shape[1]
            mean = total / values
            statistics = (low, high, mean, max(square / values - mean**2, 0.0) ** 0.5)
            stream.seek(0)
            stream.write(_stack_header(temporary, count, shape, pixel_size, statistics))
    return count


def _stack_header(
    beside: Path, count: int, shape: tuple[int, ...], pixel_size: float, statistics: tuple[float, ...]
) -> bytes:
    """The 1,024 bytes of a stack's header, made by mrcfile from a stack of one image."""
    seed = beside.with_name(beside.name + ".header")
    try:
        with mrcfile.new(seed) as mrc:
            mrc.set_data(np.zeros((1, *shape), np.float32))
            mrc.set_image_stack()
            mrc.voxel_size = float(pixel_size)
            header = mrc.header.copy()
    finally:
        seed.unlink(missing_ok=True)
    header = header.astype(HEADER_DTYPE.newbyteorder("<"))
    header["nz"] = count
    header["dmin"], header["dmax"], header["dmean"], header["rms"] = statistics
    header["machst"] = mrc_utils.machine_stamp_from_byte_order("<")
    return bytes(header.tobytes())


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    """The bytes of a file, unpacked when it is gzip; a damaged or missing file is an InputError."""
    if not path.exists():
        raise InputError(f"{path}: there is no such file; correct the path")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not an MRC file; give a file in it")
    try:
        with gzip.open(path, "rb") if _is_gzip(path) else path.open("rb") as stream:
            yield stream
    except (EOFError, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: damaged gzip file ({error}); copy it again") from error


def _in_file_order(raw: Any) -> Any:
    """The header in the byte order of its machine stamp, or in the one that makes the mode valid."""
    try:
        orders = [mrc_utils.byte_order_from_machine_stamp(raw["machst"])]
    except ValueError:
        orders = ["<"]  # no stamp: nearly every file met is little-endian
    orders.append(">" if orders[0] == "<" else "<")
    for order in orders:
        seen = raw.view(HEADER_DTYPE.newbyteorder(order))
        if _dtype(seen) is not None:
            return seen
    return raw.view(HEADER_DTYPE.newbyteorder(orders[0]))


def _dtype(raw: Any) -> np.dtype[Any] | None:
    """Type of the values, None when the mode is not one of the standard's."""
    try:
        kind: np.dtype[Any] = np.dtype(mrc_utils.dtype_from_mode(int(raw["mode"])))
    except ValueError:
        return None
    return kind.newbyteorder(raw["mode"].dtype.byteorder)


def _axes(path: Path, raw: Any) -> tuple[int, int, int]:
    axes = (int(raw["mapc"]), int(raw["mapr"]), int(raw["maps"]))
    if axes == (0, 0, 0):  # left empty by old programs
        return (1, 2, 3)
    if sorted(axes) != [1, 2, 3]:
        raise InputError(f"{path}: axis order {axes} in the header is not one of x, y, z; repair the header")
    return axes


def _voxel(raw: Any) -> tuple[float, float, float]:
    """Sampling along x, y, z in Å; 0 where the header does not give a finite, positive one."""

    def along(axis: str) -> float:
        cells, length = int(raw[f"m{axis}"]), float(raw["cella"][axis])
        return length / cells if cells > 0 and 0 < length < np.inf else 0.0

    return along("x"), along("y"), along("z")


def _check_size(header: Header, size: int, packed: bool) -> None:
    """Refuse a file that is shorter than its header says, or, without a stamp, of another size at all."""
    if packed:
        if header.offset + header.nbytes > size * GZIP_RATIO:
            raise InputError(
                f"{header.path}: too small for the {header.nbytes:,} bytes its header promises; copy it again"
            )
        return
    held = size - header.offset
    sections, rows, columns = header.shape
    if held < header.nbytes:
        whole = max(held, 0) // (header.nbytes // sections)
        raise InputError(
            f"{header.path}: truncated, its header promises {sections:,} images of {columns} x {rows} px "
            f"and the file holds {whole:,}; copy it again"
        )
    if held > header.nbytes and not header.stamped:
        raise InputError(
            f"{header.path}: not an MRC file: it has no MAP stamp and its size does not fit its header; "
            "write it again as MRC"
        )


def _runs(indices: NDArray[np.int64], longest: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of the runs of consecutive ascending indices, none longer than ``longest``."""
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    edges = [0, *breaks.tolist(), len(indices)]
    for first, last in pairwise(edges):
        for start in range(first, last, longest):
            yield start, min(start + longest, last)


def _pad_to_cube(volume: Float32) -> Float32:
    """Zero-pad to the longest side; the index n // 2 of each axis goes to N // 2."""
    side = max(volume.shape)
    if volume.shape == (side, side, side):
        return volume
    before = [side // 2 - n // 2 for n in volume.shape]
    return np.pad(volume, [(b, side - n - b) for b, n in zip(before, volume.shape, strict=True)])
