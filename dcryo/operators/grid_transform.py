"""Between the padded half grid of the slices and a half-transformed volume: two of the three transforms.

Along y and z a grid of G^3 cells is transformed for n of its G positions alone.  The kernels take ``LANES``
columns of x at a time, plane by plane and then line by line, so that nothing but the grid and the result is
ever stored in full; planes beyond the band limit are known to be zero and left out.

The planes x = 0 and x = G/2 belong to real functions of (y, z).  They travel as one complex plane, so that
the columns are G/2 and not one more.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.arrays import Array, fourier, namespace, on_device
from dcryo.operators import lines
from dcryo.operators.compiled import compile_kernel, for_each, scratch
from dcryo.operators.lines import STEP
from dcryo.operators.vector import LANES, load, prefetch, store

AHEAD = 16
"""Rows from the one that is worked on to the one that is asked for: no processor foresees such steps."""


@lru_cache
def _places(n: int, size: int) -> NDArray[np.int64]:
    """Where a transform of ``size`` leaves the centred positions of a box of n."""
    order = lines.plan(size)[2]
    place = np.empty(size, np.int64)
    place[order] = np.arange(size)
    return place[positions(n, size)]


def positions(n: int, size: int) -> NDArray[np.int64]:
    """Where the centred coordinates of a box of n lie on a periodic axis of ``size`` points."""
    return (np.arange(n) - n // 2) % size


def _first_columns(size: int) -> list[int]:
    """Groups of LANES columns that cover G/2 of them; the last may overlap the one before."""
    columns = size // 2
    return [*range(0, columns - LANES, LANES), columns - LANES]


@compile_kernel(
    "void(f8[:,:,:,::1], f4[:,:,:,::1], f4[:,::1], i8[::1], f4[:,::1], i8[::1], i8, i8, f8)",
    "void(f4[:,:,:,::1], f4[:,:,:,::1], f4[:,::1], i8[::1], f4[:,::1], i8[::1], i8, i8, f8)",
)
def _to_positions(
    grid: Any, half: Any, planes: Any, radices: Any, w: Any, place: Any, pad: int, first: int, reach: float
) -> None:
    """Transform LANES columns of a grid along y and z, backward, to the n positions that are kept.

    grid (S, S, X, 2) padded, margins folded in; half (n, n, G/2+1, 2); planes: see :func:`_scratch`;
    radices, w: the plan of G; place (n,): where it leaves the positions; reach: cells from the origin
    beyond which the grid is zero.
    """
    n = half.shape[0]
    size = grid.shape[0] - 2 * pad
    centre = size // 2
    line = np.empty(size * STEP, np.float32)
    step = 2 * grid.shape[2]
    for i in range(size):
        z = i - centre
        k = z if z >= 0 else z + size
        row = ((pad + i) * grid.shape[1] + pad) * step + 2 * (pad + first)
        if z * z + first * first > reach * reach:
            planes[k] = 0
            continue
        for j in range(size):
            at = (j - centre if j >= centre else j - centre + size) * STEP
            for part in range(0, 2 * LANES, LANES):
                prefetch(grid, row + (j + AHEAD) * step + part)
            for l in range(LANES):
                # real and imaginary parts change places: a forward transform then goes backward
                line[at + LANES + l] = grid[pad + i, pad + j, pad + first + l, 0]
                line[at + l] = grid[pad + i, pad + j, pad + first + l, 1]
        lines.forward(line, size, radices, w)
        for j in range(n):
            store(planes[k], j * STEP, load(line, place[j] * STEP))
            store(planes[k], j * STEP + LANES, load(line, place[j] * STEP + LANES))
    for j in range(n):
        for k in range(size):
            for part in range(0, STEP, LANES):
                prefetch(planes, ((k + AHEAD) * (n + 1) + j) * STEP + part)
            store(line, k * STEP, load(planes[k], j * STEP))
            store(line, k * STEP + LANES, load(planes[k], j * STEP + LANES))
        lines.forward(line, size, radices, w)
        width = 2 * half.shape[2]
        for i in range(n):
            at = place[i] * STEP
            for part in range(0, 2 * LANES, LANES):
                prefetch(half, ((i + AHEAD) * n + j) * width + 2 * first + part)
            for l in range(LANES):
                half[i, j, first + l, 0] = line[at + LANES + l]
                half[i, j, first + l, 1] = line[at + l]


@compile_kernel(
    "void(f4[:,:,:,::1], f4[:,:,:,::1], f4[:,::1], i8[::1], f4[:,::1], i8[::1], i8[::1], i8, i8, f8)"
)
def _to_frequencies(
    half: Any,
    grid: Any,
    planes: Any,
    radices: Any,
    w: Any,
    place: Any,
    at: Any,
    pad: int,
    first: int,
    reach: float,
) -> None:
    """Transform LANES columns along z and y, forward, into the inside of a grid: the transpose.

    place (G,): where the plan leaves the frequencies of the cells; at (n,): the positions of the box.
    """
    n = half.shape[0]
    size = grid.shape[0] - 2 * pad
    centre = size // 2
    line = np.empty(size * STEP, np.float32)
    width = 2 * half.shape[2]
    step = 2 * grid.shape[2]
    for j in range(n):
        line[:] = 0
        for i in range(n):
            for part in range(0, 2 * LANES, LANES):
                prefetch(half, ((i + AHEAD) * n + j) * width + 2 * first + part)
            for l in range(LANES):
                line[at[i] * STEP + l] = half[i, j, first + l, 0]
                line[at[i] * STEP + LANES + l] = half[i, j, first + l, 1]
        lines.forward(line, size, radices, w)
        for k in range(size):
            for part in range(0, STEP, LANES):
                prefetch(planes, ((k + AHEAD) * (n + 1) + j) * STEP + part)
            store(planes[k], j * STEP, load(line, k * STEP))
            store(planes[k], j * STEP + LANES, load(line, k * STEP + LANES))
    for i in range(size):
        z = i - centre
        k = place[i]
        row = ((pad + i) * grid.shape[1] + pad) * step + 2 * (pad + first)
        if z * z + first * first > reach * reach:
            continue
        line[:] = 0
        for j in range(n):
            store(line, at[j] * STEP, load(planes[k], j * STEP))
            store(line, at[j] * STEP + LANES, load(planes[k], j * STEP + LANES))
        lines.forward(line, size, radices, w)
        for j in range(size):
            m = place[j]
            for part in range(0, 2 * LANES, LANES):
                prefetch(grid, row + (j + AHEAD) * step + part)
            for l in range(LANES):
                grid[pad + i, pad + j, pad + first + l, 0] = line[m * STEP + l]
                grid[pad + i, pad + j, pad + first + l, 1] = line[m * STEP + LANES + l]


def _scratch(n: int, size: int) -> NDArray[np.float32]:
    """Half-transformed columns; a row more than there are, so that strides are no power of two."""
    return scratch("columns", size * (n + 1) * STEP).reshape(size, -1)


def _reach(size: int, pad: int) -> float:
    """Cells from the origin that samples within the band limit can touch."""
    return size / 2 + 2 * pad


def to_half(grid: Array, n: int, size: int, pad: int, threads: int = 0) -> Array:
    """Backward transform along y and z of a padded grid, which is used up: (n, n, size//2 + 1) complex64.

    ``grid`` is a :class:`dcryo.operators.slices.HalfGrid` array, float64 or float32, of ``size`` = G.
    """
    xp = namespace(grid)
    half = size // 2
    cells = grid.view(np.complex128 if grid.dtype == np.float64 else np.complex64)
    fold_margins(cells, size, pad)
    if on_device(grid):
        keep = xp.asarray(positions(n, size))
        x = xp.astype(cells[pad : size + pad, pad : size + pad, pad : pad + half + 1], xp.complex64)
        x = xp.fft.ifftshift(x, axes=(0, 1))
        with fourier(grid) as fft:
            x = fft.ifft(x, axis=0, overwrite_x=True, norm="forward")[keep]
            return fft.ifft(x, axis=1, overwrite_x=True, norm="forward")[:, keep]
    inside = cells[pad : size + pad, pad : size + pad]
    inside[:, :, pad] += 1j * inside[:, :, pad + half]
    out = np.empty((n, n, half + 1), np.complex64)
    radices, w, _ = lines.plan(size)
    place = _places(n, size)
    interleaved = grid.reshape(*grid.shape[:2], -1, 2)
    parts = out.view(np.float32).reshape(n, n, half + 1, 2)

    def work(first: int) -> None:
        planes = _scratch(n, size)
        _to_positions(interleaved, parts, planes, radices, w, place, pad, first, _reach(size, pad))

    for_each(work, _first_columns(size), threads)
    parts[:, :, half, 0] = parts[:, :, 0, 1]
    parts[:, :, half, 1] = 0
    parts[:, :, 0, 1] = 0
    return out


def from_half(half: Array, size: int, pad: int, threads: int = 0) -> Array:
    """Forward transform along z and y: a padded half grid, float32, margins filled, of (n, n, size//2 + 1).

    ``half`` is used up.
    """
    xp = namespace(half)
    n, columns = len(half), size // 2
    side = size + 2 * pad
    grid = xp.zeros((side, side, columns + 1 + 2 * pad), np.complex64)
    inside = grid[pad : size + pad, pad : size + pad, :]
    at = positions(n, size)
    if on_device(half):
        at = xp.asarray(at)
        with fourier(half) as fft:
            y = xp.zeros((n, size, columns + 1), np.complex64)
            y[:, at] = half
            z = xp.zeros((size, size, columns + 1), np.complex64)
            z[at] = fft.fft(y, axis=1, overwrite_x=True)
            z = fft.fft(z, axis=0, overwrite_x=True)
        inside[:, :, pad : pad + columns + 1] = xp.fft.fftshift(z, axes=(0, 1))
    else:
        half[:, :, 0].imag = half[:, :, columns].real
        radices, w, _ = lines.plan(size)
        place = _places(size, size)
        interleaved = grid.view(np.float32).reshape(*grid.shape, 2)
        parts = half.view(np.float32).reshape(*half.shape, 2)

        def work(first: int) -> None:
            planes = _scratch(n, size)
            _to_frequencies(parts, interleaved, planes, radices, w, place, at, pad, first, _reach(size, pad))

        for_each(work, _first_columns(size), threads)
        both = inside[:, :, pad].copy()
        other = _mirrored(both)
        inside[:, :, pad] = (both + other) / 2
        inside[:, :, pad + columns] = (both - other) / 2j
    fill_margins(grid, size, pad)
    return grid.view(np.float32)


def fold_margins(grid: Array, size: int, pad: int) -> None:
    """Add the margins of a padded half grid to the cells they stand for, in place.

    Margins of z and y wrap around; the cells x <= 0 and x >= G/2 are conjugate mirrors of what is inside.
    """
    grid[size : size + pad, ...] += grid[:pad, ...]
    grid[pad : 2 * pad, ...] += grid[size + pad :, ...]
    grid[:, size : size + pad, :] += grid[:, :pad, :]
    grid[:, pad : 2 * pad, :] += grid[:, size + pad :, :]
    half = size // 2
    inside = grid[pad : size + pad, pad : size + pad, :]
    for j in range(pad + 1):
        inside[:, :, pad + j] += _mirrored(inside[:, :, pad - j])
        if j < pad:
            inside[:, :, pad + half - j] += _mirrored(inside[:, :, pad + half + j])


def fill_margins(grid: Array, size: int, pad: int) -> None:
    """Fill the margins of a padded half grid with what they stand for, in place."""
    half = size // 2
    inside = grid[pad : size + pad, pad : size + pad, :]
    for j in range(1, pad + 1):
        inside[:, :, pad - j] = _mirrored(inside[:, :, pad + j])
        inside[:, :, pad + half + j] = _mirrored(inside[:, :, pad + half - j])
    grid[:, :pad, :] = grid[:, size : size + pad, :]
    grid[:, size + pad :, :] = grid[:, pad : 2 * pad, :]
    grid[:pad, ...] = grid[size : size + pad, ...]
    grid[size + pad :, ...] = grid[pad : 2 * pad, ...]


def _mirrored(plane: Array) -> Array:
    """Conjugate point reflection of a centred plane of even size."""
    xp = namespace(plane)
    return xp.conj(xp.roll(plane[::-1, ::-1], (1, 1), axis=(0, 1)))
