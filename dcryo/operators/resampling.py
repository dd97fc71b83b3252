"""The last step of the kernel of HᵀWH: from samples spread along one axis to the lattice of its spectrum.

Along the dominant axis the samples of :mod:`dcryo.operators.kernel` lie on a finer grid, blurred by the
window.  They are real and so is the spectrum: a line is transformed, its lags of the box are freed of the
blur, and transformed back on the lattice.  Two lines at a time are the real and imaginary parts of one, 2
``LANES`` of them in the vectors, and what comes out is added where it belongs, without another array of its
size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.operators import lines
from dcryo.operators.compiled import compile_kernel, for_each
from dcryo.operators.lines import STEP
from dcryo.operators.vector import LANES, load, prefetch, store

AHEAD = 16
"""Rows from the one that is added to, to the one that is asked for."""


@compile_kernel(
    "void(f8[:,:,::1], f4[:,:,::1], f4[:,::1], f4[::1], i8[::1], f4[:,::1], i8[::1], i8[::1], f4[:,::1],"
    " i8[::1], i8, i8, i8)",
    "void(f4[:,:,::1], f4[:,:,::1], f4[:,::1], f4[::1], i8[::1], f4[:,::1], i8[::1], i8[::1], f4[:,::1],"
    " i8[::1], i8, i8, i8)",
)
def _resample_row(
    grid: Any, out: Any, edge: Any, factor: Any, fine: Any, fine_w: Any, fine_place: Any,
    coarse: Any, coarse_w: Any, coarse_place: Any, pad: int, axis: int, k: int,
) -> None:  # fmt: skip
    """Add all lines (a, b = k) of a grid to the spectrum ``out`` (L, L, L//2+1).

    grid (L//2+1, L, depth + 2 pad) with its margins folded in; factor (n,): of the lags; fine and coarse:
    plans of depth and of L with the places where they leave what is read; edge (L, L): gets the line a = 0
    where x is that axis, in the order of ``out``'s z and y.
    """
    length = out.shape[0]
    half = length // 2
    depth = grid.shape[2] - 2 * pad
    n = len(factor)
    line = np.empty(depth * STEP, np.float32)
    result = np.empty(length * STEP, np.float32)
    row = k if k >= 0 else k + length
    opposite = -k if k <= 0 else length - k
    width = half + 1
    for first in range(0, half, STEP):
        if first * first + k * k >= half * half:
            break
        lanes = min(STEP, half - first)
        if lanes < STEP:
            line[:] = 0
        # a cache line at a time: rows of a grid often lie a multiple of a page apart
        for block in range(0, depth, 8):
            for l in range(lanes):
                for i in range(block, min(block + 8, depth)):
                    line[i * STEP + l] = grid[first + l, k + half, pad + i]
        lines.forward(line, depth, fine, fine_w)
        result[:] = 0
        for lag in range(n):
            # real and imaginary parts change places: a forward transform then goes backward
            at, to = fine_place[lag] * STEP, lag * STEP
            store(result, to, load(line, at + LANES) * factor[lag])
            store(result, to + LANES, load(line, at) * factor[lag])
            if lag > 0:
                at, to = fine_place[depth - lag] * STEP, (length - lag) * STEP
                store(result, to, load(line, at + LANES) * factor[lag])
                store(result, to + LANES, load(line, at) * factor[lag])
        lines.forward(result, length, coarse, coarse_w)
        if axis == 0:
            for x in range(half + 1):
                at = coarse_place[x] * STEP
                back = coarse_place[length - x if x > 0 else 0] * STEP
                for l in range(lanes):
                    lane = l + LANES if l < LANES else l - LANES
                    a = first + l
                    out[row, a, x] += result[at + lane]
                    out[opposite, length - a if a > 0 else 0, x] += result[back + lane]
        else:
            step = length * width if axis == 2 else width
            start = row * width + first if axis == 2 else row * length * width + first
            for d in range(length):
                prefetch(out, start + (d + AHEAD) * step)
                prefetch(out, start + (d + AHEAD) * step + LANES)
                at = coarse_place[d] * STEP
                z, y = (d, row) if axis == 2 else (row, d)
                for l in range(min(lanes, LANES)):
                    out[z, y, first + l] += result[at + LANES + l]
                for l in range(LANES, lanes):
                    out[z, y, first + l] += result[at + l - LANES]
                if first == 0:
                    edge[z, y] = result[at + LANES]


def add_resampled(
    out: NDArray[np.float32], grid: NDArray[np.floating], axis: int, factor: NDArray[np.float32], pad: int,
    threads: int = 0,
) -> None:  # fmt: skip
    """Add the samples of one dominant axis to a spectrum of r.

    Parameters
    ----------
    out : (L, L, L//2+1) float32
        In the layout of rfftn; gets the sum.
    grid : (L//2+1, L, depth + 2 pad) float64 or float32
        Samples with the axes (a >= 0, b centred, dominant centred), margins folded in.  They hold one of each
        pair +-q, those with a = 0 both, at half weight; nothing lies on a = L/2 or b = -L/2.
    axis : int
        The dominant one, in the order x, y, z; a and b are the others in that order.
    factor : (n,) float32
        Of the lags 0..n-1 and of their negatives.
    pad : int
        Cells of the margins.
    threads : int
        0: all processors.
    """
    length, depth = len(out), grid.shape[2] - 2 * pad
    half = length // 2
    fine, fine_w, order = lines.plan(depth)
    fine_place = np.argsort(order)
    coarse, coarse_w, order = lines.plan(length)
    coarse_place = np.argsort(order)
    edge = np.zeros((length, length) if axis else (1, 1), np.float32)

    def work(k: int) -> None:
        # rows k and -k write to the same two planes of the spectrum
        for row in {k, -k}:
            _resample_row(grid, out, edge, factor, fine, fine_w, fine_place, coarse, coarse_w, coarse_place,
                          pad, axis, row)  # fmt: skip

    for_each(work, range(half), threads)
    if axis:
        negative = -np.arange(length) % length
        out[:, :, 0] += edge[negative][:, negative]
