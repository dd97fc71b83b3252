"""The kernel of HᵀWH: one convolution that stands for all particles.

    [HᵀWH c]_k = sum_l c[l] r[k - l]
    r[k] = (1/4 pi^2) sum_p measure_p int |T_p(v)|^2 W(v) exp(i v.M_p k) dv

(thesis, Theorem 1).  Each central plane is sampled along the two volume axes on which its normal is
smallest ("dominant-axis sheared sampling"): there the samples are on the grid exactly, and only the third
axis needs spreading, W taps instead of W^3.  Transfer functions are evaluated, not interpolated.

The spectrum that the convolution needs lives on the very lattice of the two exact axes, so of the whole 3-D
transform only 1-D transforms along the dominant axis remain.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.arrays import Array, fourier, module, namespace, on_device
from dcryo.operators.compiled import blocks, compile_kernel, for_each, scratch
from dcryo.operators.resampling import add_resampled
from dcryo.operators.spreading import spread_line
from dcryo.operators.transfer import (
    has_envelope,
    line_phase,
    line_quadratic,
    lookup,
    quadratic,
    squared,
    squared_envelope,
)
from dcryo.operators.views import Radial, Views
from dcryo.operators.window import TAPS, Window, even_fast_length

Float32 = NDArray[np.float32]


@compile_kernel(
    "void(f8[:,::1], f4[::1], i8, f8[:,::1], f8[:,::1], f8[::1], i8[::1], f4[:,::1], f4[:,::1], i8, i8)",
    "void(f4[:,::1], f4[::1], i8, f8[:,::1], f8[:,::1], f8[::1], i8[::1], f4[:,::1], f4[:,::1], i8, i8)",
)
def _add_slab(
    grid: Any,
    slab: Any,
    ia: int,
    planes: Any,
    coefficients: Any,
    limit2: Any,
    group: Any,
    radial: Any,
    polynomial: Any,
    width: int,
    pad: int,
) -> None:
    """Add line ``ia`` of every plane to ``grid`` (L, Gd + 2 pad).

    slab: scratch of its size and ``TAPS`` more, because the vector of the last sample may reach beyond;
    planes (P, 7): slope of the dominant coordinate along a and b in its grid cells, steps of v1 and v2 along
    a and b in rad/voxel, weight.
    """
    length, depth = grid.shape
    h = length // 2
    centre = (depth - 2 * pad) // 2 + pad
    slab[:] = 0
    value = np.empty(length, np.float32)
    place = np.empty(length, np.int32)
    fraction = np.empty(length, np.float32)
    for p in range(planes.shape[0]):
        a1 = planes[p, 2] * ia
        b1 = planes[p, 3]
        a2 = planes[p, 4] * ia
        b2 = planes[p, 5]
        s = line_quadratic(1.0, 0.0, 1.0, a1, a2, b1, b2)
        s0, s1, s2 = s
        spread = s1 * s1 - 4 * s2 * (s0 - limit2[p])
        if spread <= 0:
            continue
        root = math.sqrt(spread)
        first = max(1 - h, int(math.ceil((-s1 - root) / (2 * s2) + 1e-9)))
        count = min(h - 1, int(math.floor((-s1 + root) / (2 * s2) - 1e-9))) - first + 1
        if count <= 0:
            continue
        c = coefficients[p]
        q = line_phase(c, a1, a2, b1, b2)
        profile = radial[group[p]]
        weight = np.float32(planes[p, 6] * (0.5 if ia == 0 else 1.0))
        start = planes[p, 0] * ia - width / 2
        slope = planes[p, 1]
        for i in range(count):
            value[i] = squared(q, first + i, weight)
        for i in range(count):
            value[i] *= lookup(profile, quadratic(s, first + i))
        for i in range(count):
            b = first + i
            x = start + slope * b
            j = np.ceil(x)
            fraction[i] = np.float32(2 * (j - x) - 1)
            place[i] = np.int32(j) + np.int32(centre + (b + h) * depth)
        if has_envelope(c):
            e = line_quadratic(c[16], c[17], c[18], a1, a2, b1, b2)
            for i in range(count):
                value[i] *= squared_envelope(e, first + i)
        for i in range(count):
            spread_line(slab, np.int64(place[i]), polynomial, fraction[i], value[i])
    for y in range(length):
        for x in range(depth):
            grid[y, x] += slab[y * depth + x]


class PlaneKernel:
    """Accumulates the kernel of HᵀWH for a box of ``n`` voxels; :meth:`spectrum` finishes it.

    What one call adds is summed in float32, the sums of several calls in float64.
    """

    LINES = 16
    """Lines of the grids that a GPU finishes at once, each with all that is parallel to it."""

    def __init__(self, n: int, window: Window, device: str = "cpu") -> None:
        """Empty kernel on ``device``; a grid is made when the first plane needs it."""
        self.n = n
        self.device = device
        self.window = window
        self.length = padded_length(n)
        self.depth = window.grid_size(self.length)
        self.pad = window.width // 2 + 1
        self._grids: dict[int, Array] = {}

    def add(
        self, views: Views, radial: Radial, rotations: NDArray[np.float64] | None = None, threads: int = 0
    ) -> None:
        """Add P particles; with ``rotations`` (G, 3, 3) each at its G equivalent poses, weighted by 1/G."""
        for axis, grid in self._grids.items():
            self._grids[axis] = grid.astype(np.float64, copy=False)
        group = np.eye(3)[None] if rotations is None else rotations
        table = radial.kernel
        work: list[tuple[Array, int, Views]] = []
        for rotation in group:
            turned = views.rotated(rotation)
            dominant = np.argmax(np.abs(turned.rotation[:, 2]), axis=1)
            for axis in range(3):
                chosen = np.flatnonzero(dominant == axis)
                if len(chosen):
                    work.append((self._grid(axis), axis, turned.take(chosen)))
        planes = [self._planes(part, axis, len(group)) for _, axis, part in work]
        if self.device == "cuda":
            from dcryo.operators import cuda

            for (grid, _, part), plane in zip(work, planes, strict=True):
                cuda.add_planes(grid, plane, part, table, self.window, self.pad)
            return

        def slab(ia: int) -> None:
            for (grid, _, part), plane in zip(work, planes, strict=True):
                sums = scratch("slab", grid[ia].size + TAPS)
                _add_slab(grid[ia], sums, ia, plane, part.coefficients, part.limit2, part.group, table,
                          self.window.polynomial, self.window.width, self.pad)  # fmt: skip

        for_each(slab, range(self.length // 2 + 1), threads)

    def spectrum(self, threads: int = 0) -> Float32:
        """Real spectrum of r on the padded lattice, (L, L, L//2+1) float32 in the layout of rfftn."""
        length, depth, pad = self.length, self.depth, self.pad
        out: Float32 = module(self.device).zeros((length, length, length // 2 + 1), np.float32)
        lags = np.arange(self.n)
        # (-1)^lag moves the origin from cell depth/2 to 0
        factor = ((-1.0) ** lags / self.window.transform(lags, depth)).astype(np.float32)
        for axis in sorted(self._grids):
            grid = self._grids.pop(axis)
            grid[:, :, depth : depth + pad] += grid[:, :, :pad]
            grid[:, :, pad : 2 * pad] += grid[:, :, depth + pad :]
            if on_device(grid):
                _add_oriented(out, self._resample(grid, factor), axis)
            else:
                add_resampled(out, grid, axis, factor, pad, threads)
        return out

    def _grid(self, axis: int) -> Array:
        if axis not in self._grids:
            shape = (self.length // 2 + 1, self.length, self.depth + 2 * self.pad)
            # a thread of a GPU adds sample by sample, and does so in float64 from the first
            dtype = np.float32 if self.device == "cpu" else np.float64
            self._grids[axis] = module(self.device).zeros(shape, dtype)
        return self._grids[axis]

    def _planes(self, views: Views, axis: int, order: int) -> NDArray[np.float64]:
        a, b = (x for x in range(3) if x != axis)
        e1, e2, e3 = (views.rotation[:, i] for i in range(3))
        slope_a = -e3[:, a] / e3[:, axis]
        slope_b = -e3[:, b] / e3[:, axis]
        step = 2 * math.pi / self.length
        cells = self.depth / self.length
        weight = views.coefficients[:, 0] ** 2 * views.measure / (np.abs(e3[:, axis]) * order)
        return np.stack(
            [
                slope_a * cells,
                slope_b * cells,
                step * (e1[:, a] + e1[:, axis] * slope_a),
                step * (e1[:, b] + e1[:, axis] * slope_b),
                step * (e2[:, a] + e2[:, axis] * slope_a),
                step * (e2[:, b] + e2[:, axis] * slope_b),
                weight,
            ],
            axis=1,
        )

    def _resample(self, grid: Array, factor: Float32) -> Array:
        """From the spread samples along the dominant axis to the L lattice frequencies, (L//2+1, L, L)."""
        xp = namespace(grid)
        pad, depth, n, length = self.pad, self.depth, self.n, self.length
        scale = xp.asarray(factor * length)  # irfft divides by L
        out = xp.empty((grid.shape[0], length, length), np.float32)
        for part in blocks(len(grid), self.LINES):
            samples = xp.ascontiguousarray(grid[part, :, pad : depth + pad], np.float32)
            lagged = xp.zeros((*samples.shape[:2], length // 2 + 1), np.complex64)
            with fourier(samples) as fft:
                # real samples have a Hermitian transform: lags 0..n-1 say it all, and the spectrum is real
                lagged[:, :, :n] = fft.rfft(samples, axis=2)[:, :, :n] * scale
                out[part] = fft.irfft(lagged, n=length, axis=2)
        return out


def padded_length(n: int) -> int:
    """Even FFT-friendly length >= 2n: room for every lag of a box of n."""
    return even_fast_length(2 * n)


def _add_oriented(out: Array, along: Array, axis: int) -> None:
    """Add samples with axes (a >= 0, b, dominant) to the spectrum with axes (z, y, x >= 0).

    b is centred, the dominant axis in FFT order.  The samples hold one of each pair +-q (those with a = 0
    both, at half weight); the spectrum is even.
    """
    xp = namespace(out)
    length = out.shape[0]
    half = length // 2
    negative = (-xp.arange(length)) % length
    samples = xp.fft.ifftshift(along, axes=(1,))
    if axis == 0:  # a = y, b = z, dominant x: the mirror image of half the samples has x >= 0
        out[:, : half + 1, :] += xp.permute_dims(samples[:, :, : half + 1], (1, 0, 2))
        mirror = xp.take(xp.take(samples, negative, axis=1), negative[: half + 1], axis=2)
        mirror = xp.permute_dims(mirror, (1, 0, 2))
        # rows 0, L-1 .. L/2 of the spectrum, once each
        out[:, :1, :] += mirror[:, :1, :]
        out[:, half:, :] += mirror[:, :0:-1, :]
        return
    zyx = (2, 1, 0) if axis == 2 else (1, 2, 0)  # a = x; b = y, dominant z or b = z, dominant y
    oriented = xp.permute_dims(samples, zyx)
    out += oriented
    out[:, :, 0] += xp.take(xp.take(oriented[:, :, 0], negative, axis=0), negative, axis=1)
