"""Insert central slices into a 3-D Fourier grid, and extract them: the two irregular kernels, tile by tile.

The grid is cut into tiles that fit the cache.  For every tile each slice is clipped analytically against it,
so nothing is sorted, no atomics are needed and the order of summation is fixed: tile, then particle, then
row, then column, whatever the number of threads.  Only u_x >= 0 is kept (the volume is real).

Slices are half-plane lattices: ``values`` (P, 2h+1, h+1, 2) float32 holds (re, im) at the frequencies
``(a, b)``, column a = 0..h, row b + h, in units of 2 pi / n; points with a = 0 and b < 0 are not used.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dcryo.arrays import Array, on_device
from dcryo.operators.compiled import compile_kernel, for_each, scratch
from dcryo.operators.spreading import LANES, gather, spread
from dcryo.operators.vector import CACHE_LINE, prefetch
from dcryo.operators.window import Window

TILE = 32
"""Edge of a tile in grid cells: 32^3 complex64 with margins is 0.5 MB, a part of a second-level cache."""

MARGIN = 1
"""Cells below a tile, as above: a sample is given to its tile in float64 and placed in float32."""

AHEAD = 4
"""Rows of a tile from the one that is copied to the one that is asked for."""

_TINY = 1e-30

_exact = njit(nogil=True, error_model="numpy")
"""Without fast mathematics: which tile a sample belongs to must be decided alike by all of its neighbours."""


@_exact
def _disc(first: Any, last: Any, b0: int, h: int, radius2: float) -> None:
    """Runs of columns [first, last] of the rows b0, b0 + 1, ...: a >= 0 and a^2 + b^2 < radius2."""
    for i in range(len(first)):
        b = np.float64(b0 + i)
        room = radius2 - b * b
        a = np.floor(math.sqrt(max(room, 0.0)))
        a -= 1.0 if a * a >= room else 0.0
        first[i] = np.int32(1 if b0 + i < 0 else 0)
        last[i] = np.int32(min(a, np.float64(h)))


@_exact
def _run(
    first: Any, last: Any, b0: int, h: int, slope: float, across: float, low: float, high: float, closed: bool
) -> None:
    """Narrow runs of columns to low < u <= high, or low <= u where ``closed``, for u = slope a + across b."""
    # a row along the wall of a tile is given to one side of it as if it were tilted
    slope = slope if slope != 0 else math.copysign(_TINY, slope)
    inverse = 1 / np.float64(slope)
    end = h + 2.0
    for i in range(len(first)):
        offset = np.float64(across) * np.float64(b0 + i)
        enter = min(max((low - offset) * inverse, -2.0), end)
        leave = min(max((high - offset) * inverse, -2.0), end)
        if slope > 0:
            begin = np.ceil(enter) if closed else np.floor(enter) + 1
            first[i] = max(first[i], np.int32(begin))
            last[i] = min(last[i], np.int32(np.floor(leave)))
        else:
            stop = np.floor(enter) if closed else np.ceil(enter) - 1
            first[i] = max(first[i], np.int32(np.ceil(leave)))
            last[i] = min(last[i], np.int32(stop))


@lru_cache
def _tile_kernel(width: int, insert: bool) -> Any:
    """Kernel that spreads (insert) or gathers (not insert) all samples of one tile."""
    half = np.float32(width / 2)
    edge = TILE + width + 2 * MARGIN

    @compile_kernel("i8(f4[::1], f4[:,:,:,::1], f4[:,:,::1], f4[::1], f4[:,::1], i8, i8, i8)")
    def kernel(
        tile: Any, values: Any, rows3: Any, radius2: Any, polynomial: Any, lx: int, ly: int, lz: int
    ) -> int:
        if insert:
            tile[:] = 0
        h = values.shape[2] - 1
        # strides as they are needed: for positions in vectors of int32, for addresses in int64
        sy, sz = np.int32(2 * edge), np.int32(2 * edge * edge)
        step_y, step_z = np.int64(sy), np.int64(sz)
        # first points j = ceil(u - W/2) in [l, l + TILE) mean u in (box, box + TILE]
        box_x = lx - 1 + width / 2
        box_y = ly - 1 + width / 2
        box_z = lz - 1 + width / 2
        cx = box_x + TILE / 2
        cy = box_y + TILE / 2
        cz = box_z + TILE / 2
        sphere2 = 0.75 * TILE * TILE
        corner = np.int32(2 * (lx - MARGIN) + sy * (ly - MARGIN) + sz * (lz - MARGIN))
        first = np.empty(2 * h + 1, np.int32)
        last = np.empty(2 * h + 1, np.int32)
        place = np.empty(h + 1, np.int32)
        fx = np.empty(h + 1, np.float32)
        fy = np.empty(h + 1, np.float32)
        fz = np.empty(h + 1, np.float32)
        count = 0
        for p in range(values.shape[0]):
            m00, m01, m02 = rows3[p, 0, 0], rows3[p, 0, 1], rows3[p, 0, 2]
            m10, m11, m12 = rows3[p, 1, 0], rows3[p, 1, 1], rows3[p, 1, 2]
            g00 = m00 * m00 + m01 * m01 + m02 * m02
            g01 = m00 * m10 + m01 * m11 + m02 * m12
            g11 = m10 * m10 + m11 * m11 + m12 * m12
            det = g00 * g11 - g01 * g01
            r0 = m00 * cx + m01 * cy + m02 * cz
            r1 = m10 * cx + m11 * cy + m12 * cz
            a0 = (g11 * r0 - g01 * r1) / det
            b0 = (g00 * r1 - g01 * r0) / det
            gap2 = cx * cx + cy * cy + cz * cz - (a0 * r0 + b0 * r1)
            if gap2 > sphere2:
                continue
            reach_b = math.sqrt((sphere2 - gap2) * g00 / det)
            reach_a = math.sqrt((sphere2 - gap2) * g11 / det)
            r2 = radius2[p]
            for side in range(2):
                sign = np.float32(1 - 2 * side)
                if sign * a0 + reach_a < 0:
                    continue
                b_first = max(-h, int(math.ceil(sign * b0 - reach_b)))
                b_last = min(h, int(math.floor(sign * b0 + reach_b)))
                if b_last < b_first:
                    continue
                some_first = first[: b_last - b_first + 1]
                some_last = last[: b_last - b_first + 1]
                _disc(some_first, some_last, b_first, h, r2)
                nx, ny, nz = sign * m00, sign * m01, sign * m02
                ox, oy, oz = sign * m10, sign * m11, sign * m12
                _run(some_first, some_last, b_first, h, nx, ox, 0.0, np.inf, side == 0)
                _run(some_first, some_last, b_first, h, nx, ox, box_x, lx + TILE - 1 + width / 2, False)
                _run(some_first, some_last, b_first, h, ny, oy, box_y, ly + TILE - 1 + width / 2, False)
                _run(some_first, some_last, b_first, h, nz, oz, box_z, lz + TILE - 1 + width / 2, False)
                for b in range(b_first, b_last + 1):
                    begin = first[b - b_first]
                    length = last[b - b_first] - begin + 1
                    if length <= 0:
                        continue
                    fb = np.float32(b)
                    for i in range(length):
                        fa = np.float32(begin + i)
                        tx = fa * nx + (fb * ox - half)
                        ty = fa * ny + (fb * oy - half)
                        tz = fa * nz + (fb * oz - half)
                        jx, jy, jz = np.ceil(tx), np.ceil(ty), np.ceil(tz)
                        fx[i] = np.float32(2) * (jx - tx) - np.float32(1)
                        fy[i] = np.float32(2) * (jy - ty) - np.float32(1)
                        fz[i] = np.float32(2) * (jz - tz) - np.float32(1)
                        place[i] = 2 * np.int32(jx) + sy * np.int32(jy) + sz * np.int32(jz) - corner
                    line = values[p, b + h, begin : begin + length]
                    for i in range(length):
                        if insert:
                            spread(
                                width, tile, np.int64(place[i]), step_y, step_z, polynomial,
                                fx[i], fy[i], fz[i], line[i, 0], sign * line[i, 1],
                            )  # fmt: skip
                        else:
                            re, im = gather(
                                width,
                                tile,
                                np.int64(place[i]),
                                np.int64(sy),
                                np.int64(sz),
                                polynomial,
                                fx[i],
                                fy[i],
                                fz[i],
                            )
                            line[i, 0] = re
                            line[i, 1] = sign * im
                    count += length
        return count

    return kernel


@compile_kernel("void(f8[:,:,::1], f4[:,:,::1], i8, i8, i8)", "void(f4[:,:,::1], f4[:,:,::1], i8, i8, i8)")
def _add_tile(grid: Any, tile: Any, z0: int, y0: int, x0: int) -> None:
    """Add a float32 tile to the grid where the two overlap; x in interleaved units."""
    nz, ny, nx = grid.shape
    begin, end = max(0, -x0), min(tile.shape[2], nx - x0)
    for z in range(max(0, -z0), min(tile.shape[0], nz - z0)):
        for y in range(max(0, -y0), min(tile.shape[1], ny - y0)):
            later = ((z0 + z) * ny + y0 + y + AHEAD) * nx + x0
            for x in range(begin, end, CACHE_LINE // grid.itemsize):
                prefetch(grid, later + x)
            for x in range(begin, end):
                grid[z0 + z, y0 + y, x0 + x] += tile[z, y, x]


@compile_kernel("void(f4[:,:,::1], f4[:,:,::1], i8, i8, i8)")
def _load_tile(grid: Any, tile: Any, z0: int, y0: int, x0: int) -> None:
    """Copy the part of the grid under a tile into it, zeros outside."""
    tile[:] = 0
    nz, ny, nx = grid.shape
    begin, end = max(0, -x0), min(tile.shape[2], nx - x0)
    for z in range(max(0, -z0), min(tile.shape[0], nz - z0)):
        for y in range(max(0, -y0), min(tile.shape[1], ny - y0)):
            later = ((z0 + z) * ny + y0 + y + AHEAD) * nx + x0
            for x in range(begin, end, CACHE_LINE // grid.itemsize):
                prefetch(grid, later + x)
            for x in range(begin, end):
                tile[z, y, x] = grid[z0 + z, y0 + y, x0 + x]


class HalfGrid:
    """Geometry of the padded half grid of a window: G^3 cells, u_x >= 0, margins of ``pad`` cells.

    ``size`` is G; a grid array has the shape ``shape`` and interleaves real and imaginary parts along x;
    cell (z, y, x) lies at index (z + G/2 + pad, y + G/2 + pad, 2 (x + pad)).
    """

    def __init__(self, n: int, window: Window) -> None:
        """Grid for a box of ``n`` voxels."""
        self.n = n
        self.window = window
        self.pad = window.width // 2 + 1
        # a margin mirrors what is inside, and columns are transformed LANES at a time
        self.size = max(window.grid_size(n), 2 * self.pad, 2 * LANES)
        side = self.size + 2 * self.pad
        self.shape = (side, side, 2 * (self.size // 2 + 1 + 2 * self.pad))

    def _tiles(self) -> list[list[tuple[int, int, int]]]:
        """Tile corners (lx, ly, lz) that meet the ball of radius G/2, in 8 colours without neighbours."""
        width, size = self.window.width, self.size
        low = -(size // 2) - width // 2
        across = (size + width + TILE) // TILE
        along = (size // 2 + width + TILE) // TILE
        colours: list[list[tuple[int, int, int]]] = [[] for _ in range(8)]
        for iz in range(across):
            for iy in range(across):
                for ix in range(along):
                    corner = (-(width // 2) + ix * TILE, low + iy * TILE, low + iz * TILE)
                    start = [c - 1 + width / 2 for c in corner]
                    gap = [max(0.0, s, -(s + TILE)) for s in start]
                    if sum(g * g for g in gap) <= (size / 2 + 1) ** 2:
                        colours[(iz % 2) * 4 + (iy % 2) * 2 + ix % 2].append(corner)
        middle = TILE / 2 - 1 + width / 2
        for colour in colours:
            # most samples lie near the origin: begun with, they leave threads less to wait for at the end
            colour.sort(key=lambda corner: sum((c + middle) ** 2 for c in corner))
        return [colour for colour in colours if colour]

    @property
    def origin(self) -> tuple[int, int, int]:
        """Where cell (z, y, x) = 0 is in a grid array, x in interleaved units."""
        return self.size // 2 + self.pad, self.size // 2 + self.pad, 2 * self.pad

    def _place(self, corner: tuple[int, int, int]) -> tuple[int, int, int]:
        """Where the first cell of a tile lies in a grid array."""
        lx, ly, lz = (at - MARGIN for at in corner)
        z, y, x = self.origin
        return lz + z, ly + y, 2 * lx + x

    def _tile(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The tile of this thread as a flat array that ends with room for a vector, and its cells."""
        edge = TILE + self.window.width + 2 * MARGIN
        flat = scratch("tile", 2 * edge**3 + LANES)
        return flat, flat[:-LANES].reshape(edge, edge, 2 * edge)

    def insert(
        self,
        grid: Array,
        values: Array,
        rows: NDArray[np.float32],
        radius2: NDArray[np.float32],
        threads: int = 0,
    ) -> None:
        """Add P slices to ``grid`` (float64 or float32, ``shape``).

        ``values`` (P, 2h+1, h+1, 2); ``rows`` (P, 2, 3) the grid step, in cells, of one lattice step along a
        and b; ``radius2`` (P,) the squared lattice radius below which samples count.
        """
        if on_device(values):
            from dcryo.operators import cuda

            cuda.insert(grid, values, rows, radius2, self.window, self.origin)
            return
        kernel = _tile_kernel(self.window.width, True)
        polynomial = self.window.polynomial

        def work(corner: tuple[int, int, int]) -> None:
            flat, tile = self._tile()
            if kernel(flat, values, rows, radius2, polynomial, *corner):
                _add_tile(grid, tile, *self._place(corner))

        # tiles of one colour do not overlap, margins included
        for colour in self._tiles():
            for_each(work, colour, threads)

    def extract(
        self,
        grid: Array,
        values: Array,
        rows: NDArray[np.float32],
        radius2: NDArray[np.float32],
        threads: int = 0,
    ) -> None:
        """Fill ``values`` with P slices of ``grid`` (float32, ``shape``): the exact transpose of insert."""
        if on_device(values):
            from dcryo.operators import cuda

            cuda.extract(grid, values, rows, radius2, self.window, self.origin)
            return
        kernel = _tile_kernel(self.window.width, False)
        polynomial = self.window.polynomial

        def work(corner: tuple[int, int, int]) -> None:
            flat, tile = self._tile()
            _load_tile(grid, tile, *self._place(corner))
            kernel(flat, values, rows, radius2, polynomial, *corner)

        for colour in self._tiles():
            for_each(work, colour, threads)
