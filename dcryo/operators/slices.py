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
from numpy.typing import NDArray

from dcryo.arrays import Array, on_device
from dcryo.operators import taps
from dcryo.operators.compiled import compile_kernel, for_each
from dcryo.operators.window import Window

TILE = 32
"""Edge of a tile in grid cells: 32^3 complex64 with margins is 0.4 MB, the size of a second-level cache."""


@lru_cache
def _tile_kernel(width: int, insert: bool) -> Any:
    """Kernel that spreads (insert) or gathers (not insert) all samples of one tile."""
    half = np.float32(width / 2)

    @compile_kernel("i8(f4[::1], f4[:,:,:,::1], f4[:,:,::1], f4[::1], f4[:,:,::1], i8, i8, i8)")
    def kernel(
        buffer: Any, values: Any, rows3: Any, radius2: Any, table: Any, lx: int, ly: int, lz: int
    ) -> int:
        h = values.shape[2] - 1
        sy = 2 * (TILE + width)
        sz = sy * (TILE + width)
        # base indices j = ceil(u - W/2) in [l, l + TILE) mean u in (box, box + TILE]
        box_x = lx - 1 + width / 2
        box_y = ly - 1 + width / 2
        box_z = lz - 1 + width / 2
        cx = box_x + TILE / 2
        cy = box_y + TILE / 2
        cz = box_z + TILE / 2
        sphere2 = 0.75 * TILE * TILE
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
                ac = sign * a0
                bc = sign * b0
                if ac + reach_a < 0:
                    continue
                n00, n01, n02 = sign * m00, sign * m01, sign * m02
                n10, n11, n12 = sign * m10, sign * m11, sign * m12
                b_first = max(-h, int(math.ceil(bc - reach_b)))
                b_last = min(h, int(math.floor(bc + reach_b)))
                for b in range(b_first, b_last + 1):
                    room = r2 - b * b
                    if room <= 0:
                        continue
                    a_max = min(ac + reach_a, math.sqrt(room))
                    a_min = max(0.0, ac - reach_a)
                    fb = np.float32(b)
                    ox = fb * n10
                    oy = fb * n11
                    oz = fb * n12
                    if n00 > 1e-6:
                        a_min = max(a_min, (box_x - ox) / n00)
                        a_max = min(a_max, (box_x + TILE - ox) / n00)
                    elif n00 < -1e-6:
                        a_min = max(a_min, (box_x + TILE - ox) / n00)
                        a_max = min(a_max, (box_x - ox) / n00)
                    if n01 > 1e-6:
                        a_min = max(a_min, (box_y - oy) / n01)
                        a_max = min(a_max, (box_y + TILE - oy) / n01)
                    elif n01 < -1e-6:
                        a_min = max(a_min, (box_y + TILE - oy) / n01)
                        a_max = min(a_max, (box_y - oy) / n01)
                    if n02 > 1e-6:
                        a_min = max(a_min, (box_z - oz) / n02)
                        a_max = min(a_max, (box_z + TILE - oz) / n02)
                    elif n02 < -1e-6:
                        a_min = max(a_min, (box_z + TILE - oz) / n02)
                        a_max = min(a_max, (box_z - oz) / n02)
                    if a_max < a_min - 0.01:
                        continue
                    for a in range(max(0, int(a_min) - 1), min(h, int(a_max) + 2) + 1):
                        if a * a + b * b >= r2 or (a == 0 and b < 0):
                            continue
                        fa = np.float32(a)
                        ux = fa * n00 + ox
                        uy = fa * n01 + oy
                        uz = fa * n02 + oz
                        if ux < 0 or (ux == 0 and side == 1):
                            continue
                        tx, ty, tz = ux - half, uy - half, uz - half
                        jx, jy, jz = taps.first_point(tx), taps.first_point(ty), taps.first_point(tz)
                        bx, by, bz = jx - lx, jy - ly, jz - lz
                        if bx < 0 or bx >= TILE or by < 0 or by >= TILE or bz < 0 or bz >= TILE:
                            continue
                        kx, fx = taps.table_row(np.float32(jx) - tx)
                        ky, fy = taps.table_row(np.float32(jy) - ty)
                        kz, fz = taps.table_row(np.float32(jz) - tz)
                        o = bz * sz + by * sy + 2 * bx
                        if width == 4:
                            x4 = taps.taps4(table, kx, fx)
                            y4 = taps.taps4(table, ky, fy)
                            z4 = taps.taps4(table, kz, fz)
                            if insert:
                                v4 = taps.values4(values[p, b + h, a, 0], sign * values[p, b + h, a, 1], x4)
                                for z in range(4):
                                    for y in range(4):
                                        taps.add_row4(buffer, o + z * sz + y * sy, z4[z] * y4[y], v4)
                            else:
                                re = np.float32(0)
                                im = np.float32(0)
                                for z in range(4):
                                    for y in range(4):
                                        c = z4[z] * y4[y]
                                        d = taps.dot_row4(buffer, o + z * sz + y * sy, x4)
                                        re += c * d[0]
                                        im += c * d[1]
                                values[p, b + h, a, 0] = re
                                values[p, b + h, a, 1] = sign * im
                        else:
                            x6 = taps.taps6(table, kx, fx)
                            y6 = taps.taps6(table, ky, fy)
                            z6 = taps.taps6(table, kz, fz)
                            if insert:
                                v6 = taps.values6(values[p, b + h, a, 0], sign * values[p, b + h, a, 1], x6)
                                for z in range(6):
                                    for y in range(6):
                                        taps.add_row6(buffer, o + z * sz + y * sy, z6[z] * y6[y], v6)
                            else:
                                re = np.float32(0)
                                im = np.float32(0)
                                for z in range(6):
                                    for y in range(6):
                                        c = z6[z] * y6[y]
                                        d = taps.dot_row6(buffer, o + z * sz + y * sy, x6)
                                        re += c * d[0]
                                        im += c * d[1]
                                values[p, b + h, a, 0] = re
                                values[p, b + h, a, 1] = sign * im
                        count += 1
        return count

    return kernel


@compile_kernel("void(f8[:,:,::1], f4[:,:,::1], i8, i8, i8)")
def _add_tile(grid: Any, tile: Any, z0: int, y0: int, x0: int) -> None:
    """Add a float32 tile to the float64 grid where the two overlap; x in interleaved units."""
    nz, ny, nx = grid.shape
    for z in range(max(0, -z0), min(tile.shape[0], nz - z0)):
        for y in range(max(0, -y0), min(tile.shape[1], ny - y0)):
            for x in range(max(0, -x0), min(tile.shape[2], nx - x0)):
                grid[z0 + z, y0 + y, x0 + x] += tile[z, y, x]


@compile_kernel("void(f4[:,:,::1], f4[:,:,::1], i8, i8, i8)")
def _load_tile(grid: Any, tile: Any, z0: int, y0: int, x0: int) -> None:
    """Copy the part of the grid under a tile into it, zeros outside."""
    nz, ny, nx = grid.shape
    tile[:] = 0
    for z in range(max(0, -z0), min(tile.shape[0], nz - z0)):
        for y in range(max(0, -y0), min(tile.shape[1], ny - y0)):
            for x in range(max(0, -x0), min(tile.shape[2], nx - x0)):
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
        self.size = max(window.grid_size(n), 2 * self.pad)  # a margin mirrors what is inside
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
        return [colour for colour in colours if colour]

    @property
    def origin(self) -> tuple[int, int, int]:
        """Where cell (z, y, x) = 0 is in a grid array, x in interleaved units."""
        return self.size // 2 + self.pad, self.size // 2 + self.pad, 2 * self.pad

    def _place(self, corner: tuple[int, int, int]) -> tuple[int, int, int]:
        lx, ly, lz = corner
        z, y, x = self.origin
        return lz + z, ly + y, 2 * lx + x

    def _empty_tile(self) -> NDArray[np.float32]:
        edge = TILE + self.window.width
        return np.zeros((edge, edge, 2 * edge), np.float32)

    def insert(
        self,
        grid: Array,
        values: Array,
        rows: NDArray[np.float32],
        radius2: NDArray[np.float32],
        threads: int = 0,
    ) -> None:
        """Add P slices to ``grid`` (float64, ``shape``).

        ``values`` (P, 2h+1, h+1, 2); ``rows`` (P, 2, 3) the grid step, in cells, of one lattice step along a
        and b; ``radius2`` (P,) the squared lattice radius below which samples count.
        """
        if on_device(values):
            from dcryo.operators import cuda

            cuda.insert(grid, values, rows, radius2, self.window, self.origin)
            return
        kernel = _tile_kernel(self.window.width, True)
        table = self.window.table

        def work(corner: tuple[int, int, int]) -> None:
            tile = self._empty_tile()
            if kernel(tile.reshape(-1), values, rows, radius2, table, *corner):
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
        table = self.window.table

        def work(corner: tuple[int, int, int]) -> None:
            tile = self._empty_tile()
            _load_tile(grid, tile, *self._place(corner))
            kernel(tile.reshape(-1), values, rows, radius2, table, *corner)

        for colour in self._tiles():
            for_each(work, colour, threads)
