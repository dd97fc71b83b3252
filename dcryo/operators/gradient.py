"""Total variation of a volume and the two sweeps of its dual prox, in fused passes over memory.

The gradient is that of periodic forward differences, ``(Dx)_d[k] = x[k + e_d] - x[k]``; its squared norm is
at most 12.  Isotropic total variation is the sum over voxels of the length of Dx, anisotropic total variation
that of the absolute values of its three components.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dcryo.arrays import Array, on_device
from dcryo.operators.compiled import blocks, compile_kernel, for_each
from dcryo.operators.vector import LANES, at_least, load, modulus, root, shifted, store

Float32 = NDArray[np.float32]

NORM2 = 12.0
"""Upper bound of the squared norm of the gradient in 3-D."""

PLANES = 8
"""Planes of a volume that one work item sweeps: few enough to stay in the cache."""

inline = njit(inline="always", fastmath=True)


@inline
def length(a: Any, b: Any, d: Any, isotropic: Any) -> Any:
    """Norm of a gradient (a, b, d)."""
    if isotropic:
        return np.float32(math.sqrt(a * a + b * b + d * d))
    return abs(a) + abs(b) + abs(d)


@inline
def clip(a: Any) -> Any:
    """The nearest number of [-1, 1]: a quotient is vectorised where branches are not.

    numba's min and max do not compile for every GPU target.
    """
    one = np.float32(1)
    r = abs(a)
    return a / (r if r > one else one)


@inline
def nearest(a: Any, b: Any, d: Any, isotropic: Any) -> Any:
    """The nearest point of the unit ball, or of the unit cube for the anisotropic norm."""
    one = np.float32(1)
    if isotropic:
        r = np.float32(math.sqrt(a * a + b * b + d * d))
        scale = one / (r if r > one else one)
        return a * scale, b * scale, d * scale
    return clip(a), clip(b), clip(d)


@inline
def nearest_lanes(a: Any, b: Any, d: Any, isotropic: Any) -> Any:
    """:func:`nearest` of vectors."""
    one = np.float32(1)
    if isotropic:
        scale = one / at_least(root(a * a + b * b + d * d), one)
        return a * scale, b * scale, d * scale
    return a / at_least(modulus(a), one), b / at_least(modulus(b), one), d / at_least(modulus(d), one)


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


@lru_cache
def _dual_kernel(isotropic: bool) -> Any:
    @compile_kernel("void(f4[:,:,::1], f4[:,:,:,::1], f4[:,:,:,::1], f4, f4, i8, i8)")
    def kernel(x: Any, ahead: Any, dual: Any, step: Any, momentum: Any, first: int, last: int) -> None:
        """new = project(ahead + step D x); ahead = new + momentum (new - dual); dual = new.

        The projection is that on unit balls, or unit cubes for the anisotropic norm.
        """
        nz, ny, nx = x.shape
        whole = nx - nx % LANES
        for k in range(first, last):
            above = k + 1 if k + 1 < nz else 0
            for j in range(ny):
                after = j + 1 if j + 1 < ny else 0
                row, up, next_row = x[k, j], x[above, j], x[k, after]
                az, ay, ax = ahead[0, k, j], ahead[1, k, j], ahead[2, k, j]
                dz, dy, dx = dual[0, k, j], dual[1, k, j], dual[2, k, j]
                for i in range(0, whole, LANES):
                    c = load(row, i)
                    right = i + LANES if i + LANES < nx else 0
                    a = load(az, i) + (load(up, i) - c) * step
                    b = load(ay, i) + (load(next_row, i) - c) * step
                    d = load(ax, i) + (shifted(c, row[right]) - c) * step
                    a, b, d = nearest_lanes(a, b, d, isotropic)
                    store(az, i, a + (a - load(dz, i)) * momentum)
                    store(ay, i, b + (b - load(dy, i)) * momentum)
                    store(ax, i, d + (d - load(dx, i)) * momentum)
                    store(dz, i, a)
                    store(dy, i, b)
                    store(dx, i, d)
                for i in range(whole, nx):
                    right = i + 1 if i + 1 < nx else 0
                    c = row[i]
                    a = az[i] + step * (up[i] - c)
                    b = ay[i] + step * (next_row[i] - c)
                    d = ax[i] + step * (row[right] - c)
                    a, b, d = nearest(a, b, d, isotropic)
                    az[i] = a + momentum * (a - dz[i])
                    ay[i] = b + momentum * (b - dy[i])
                    ax[i] = d + momentum * (d - dx[i])
                    dz[i], dy[i], dx[i] = a, b, d

    return kernel


@lru_cache
def _variation_kernel(isotropic: bool) -> Any:
    @compile_kernel("f8(f4[:,:,::1], i8, i8)")
    def kernel(x: Any, first: int, last: int) -> float:
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
                    row += length(a, b, d, isotropic)
                total += row
        return total

    return kernel


def total_variation(x: Array, threads: int = 0, isotropic: bool = True) -> float:
    """Total variation of a volume (nz, ny, nx); summed in fixed slabs."""
    if on_device(x):
        from dcryo.operators import cuda

        return cuda.total_variation(x, isotropic)
    variation = _variation_kernel(isotropic)
    slabs = blocks(len(x), PLANES)
    parts = np.zeros(len(slabs))

    def work(item: int) -> None:
        parts[item] = variation(x, slabs[item].start, slabs[item].stop)

    for_each(work, range(len(slabs)), threads)
    return float(parts.sum())


def primal_sweep(z: Array, dual: Array, out: Array, mu: float, nonnegative: bool, threads: int = 0) -> None:
    """Set ``out = z - mu Dᵀ dual`` (then max with 0): the primal point of a dual one; dual (3, n, n, n)."""
    if on_device(z):
        from dcryo.operators import cuda

        cuda.primal_sweep(z, dual, out, mu, nonnegative)
        return

    def work(slab: slice) -> None:
        _primal(z, dual, out, np.float32(mu), nonnegative, slab.start, slab.stop)

    for_each(work, blocks(len(z), PLANES), threads)


def dual_sweep(
    x: Array, ahead: Array, dual: Array, step: float, momentum: float, threads: int = 0,
    isotropic: bool = True,
) -> None:  # fmt: skip
    """One projected gradient step on the dual from ``ahead``, with momentum; both duals are updated."""
    if on_device(x):
        from dcryo.operators import cuda

        cuda.dual_sweep(x, ahead, dual, step, momentum, isotropic)
        return
    sweep = _dual_kernel(isotropic)

    def work(slab: slice) -> None:
        sweep(x, ahead, dual, np.float32(step), np.float32(momentum), slab.start, slab.stop)

    for_each(work, blocks(len(x), PLANES), threads)


@dataclass(frozen=True)
class Gradient:
    """The gradient L with the norm that makes |Lx| a total variation.

    See :class:`dcryo.solvers.prox.Analysis`.  Duals are (3, nz, ny, nx).
    """

    isotropic: bool = True
    threads: int = 0
    norm2: ClassVar[float] = NORM2

    def dual(self, x: Float32) -> Float32:
        """A dual of zero for volumes like ``x``."""
        dual: Float32 = np.zeros_like(x, shape=(3, *x.shape))
        return dual

    def value(self, x: Float32) -> float:
        """Total variation."""
        return total_variation(x, self.threads, self.isotropic)

    def primal_sweep(self, z: Float32, dual: Float32, out: Float32, mu: float, nonnegative: bool) -> None:
        """Set ``out = z - mu Lᵀ dual`` (then max with 0)."""
        primal_sweep(z, dual, out, mu, nonnegative, self.threads)

    def dual_sweep(self, x: Float32, ahead: Float32, dual: Float32, step: float, momentum: float) -> None:
        """One projected step on the dual along ``step L x``, with momentum."""
        dual_sweep(x, ahead, dual, step, momentum, self.threads, self.isotropic)

    def eigenvalues(self, shape: tuple[int, ...]) -> Float32:
        """LᵀL, a circular convolution, in the layout of rfftn: ``sum_d 2 - 2 cos w_d``."""
        lines = [2 - 2 * np.cos(2 * np.pi * np.fft.fftfreq(n)) for n in shape]
        last = lines[2][: shape[2] // 2 + 1]
        total: Float32 = (lines[0][:, None, None] + lines[1][:, None] + last).astype(np.float32)
        return total
