"""Total variation of a volume and the two sweeps of its dual prox, in fused passes over memory.

The gradient is that of periodic forward differences, ``(Dx)_d[k] = x[k + e_d] - x[k]``; its squared norm is
at most 12.  Isotropic total variation is the sum of |Dx| over voxels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.operators.compiled import blocks, compile_kernel, for_each

Float32 = NDArray[np.float32]

NORM2 = 12.0
"""Upper bound of the squared norm of the gradient in 3-D."""

PLANES = 8
"""Planes of a volume that one work item sweeps: few enough to stay in the cache."""


@compile_kernel("void(f4[:,:,::1], f4[:,:,:,::1], f4[:,:,::1], f4, b1, i8, i8)")
def _primal(z: Any, dual: Any, out: Any, mu: Any, nonnegative: bool, first: int, last: int) -> None:
    """Set out = z - mu D'dual, clipped at 0 if nonnegative, for planes first..last."""
    nz, ny, nx = z.shape
    for k in range(first, last):
        below = k - 1 if k > 0 else nz - 1
        for j in range(ny):
            before = j - 1 if j > 0 else ny - 1
            for i in range(1, nx):
                v = dual[0, below, j, i] - dual[0, k, j, i] + dual[1, k, before, i] - dual[1, k, j, i]
                v += dual[2, k, j, i - 1] - dual[2, k, j, i]
                out[k, j, i] = z[k, j, i] - mu * v
            v = dual[0, below, j, 0] - dual[0, k, j, 0] + dual[1, k, before, 0] - dual[1, k, j, 0]
            v += dual[2, k, j, nx - 1] - dual[2, k, j, 0]
            out[k, j, 0] = z[k, j, 0] - mu * v
            if nonnegative:
                for i in range(nx):
                    out[k, j, i] = max(out[k, j, i], np.float32(0))


@compile_kernel("void(f4[:,:,::1], f4[:,:,:,::1], f4[:,:,:,::1], f4, f4, i8, i8)")
def _dual(x: Any, ahead: Any, dual: Any, step: Any, momentum: Any, first: int, last: int) -> None:
    """new = project(ahead + step D x) on unit balls; ahead = new + momentum (new - dual); dual = new."""
    nz, ny, nx = x.shape
    one = np.float32(1)
    for k in range(first, last):
        above = k + 1 if k + 1 < nz else 0
        for j in range(ny):
            after = j + 1 if j + 1 < ny else 0
            for i in range(nx):
                right = i + 1 if i + 1 < nx else 0
                c = x[k, j, i]
                a = ahead[0, k, j, i] + step * (x[above, j, i] - c)
                b = ahead[1, k, j, i] + step * (x[k, after, i] - c)
                d = ahead[2, k, j, i] + step * (x[k, j, right] - c)
                scale = one / max(one, np.float32(math.sqrt(a * a + b * b + d * d)))
                a *= scale
                b *= scale
                d *= scale
                ahead[0, k, j, i] = a + momentum * (a - dual[0, k, j, i])
                ahead[1, k, j, i] = b + momentum * (b - dual[1, k, j, i])
                ahead[2, k, j, i] = d + momentum * (d - dual[2, k, j, i])
                dual[0, k, j, i] = a
                dual[1, k, j, i] = b
                dual[2, k, j, i] = d


@compile_kernel("f8(f4[:,:,::1], i8, i8)")
def _variation(x: Any, first: int, last: int) -> float:
    nz, ny, nx = x.shape
    total = 0.0
    for k in range(first, last):
        above = k + 1 if k + 1 < nz else 0
        for j in range(ny):
            after = j + 1 if j + 1 < ny else 0
            row: Any = np.float32(0)
            for i in range(nx):
                right = i + 1 if i + 1 < nx else 0
                c = x[k, j, i]
                a = x[above, j, i] - c
                b = x[k, after, i] - c
                d = x[k, j, right] - c
                row += np.float32(math.sqrt(a * a + b * b + d * d))
            total += row
    return total


def total_variation(x: Float32, threads: int = 0) -> float:
    """Isotropic total variation of a volume (n, n, n); summed in fixed slabs."""
    slabs = blocks(len(x), PLANES)
    parts = np.zeros(len(slabs))

    def work(item: int) -> None:
        parts[item] = _variation(x, slabs[item].start, slabs[item].stop)

    for_each(work, range(len(slabs)), threads)
    return float(parts.sum())


def primal_sweep(
    z: Float32, dual: Float32, out: Float32, mu: float, nonnegative: bool, threads: int = 0
) -> None:
    """Set ``out = z - mu Dᵀ dual`` (then max with 0): the primal point of a dual one; dual (3, n, n, n)."""

    def work(slab: slice) -> None:
        _primal(z, dual, out, np.float32(mu), nonnegative, slab.start, slab.stop)

    for_each(work, blocks(len(z), PLANES), threads)


def dual_sweep(
    x: Float32, ahead: Float32, dual: Float32, step: float, momentum: float, threads: int = 0
) -> None:
    """One projected gradient step on the dual from ``ahead``, with momentum; both duals are updated."""

    def work(slab: slice) -> None:
        _dual(x, ahead, dual, np.float32(step), np.float32(momentum), slab.start, slab.stop)

    for_each(work, blocks(len(x), PLANES), threads)
