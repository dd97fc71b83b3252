"""The kernels of the operators on an NVIDIA GPU: their loops, launched on cupy's current stream.

What is computed at a sample is in :mod:`dcryo.operators.transfer`, which the CPU's kernels share, and the
weights of the window are the polynomials of :mod:`dcryo.operators.window`; here is only who computes it: a
thread has a sample, a line of the kernel's grid or a voxel.  Results equal the CPU's to rounding.  Sums by
atomic addition have no order, so insertions differ in their last bits from call to call; the other kernels
give the same bits again.  How long they should take is counted in docs/gpu.md.

numba compiles a kernel when it is first launched, for a second or two.  Arguments in numpy (poses, tables)
are copied to the device with every launch; they are small.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import Any

import numpy as np
from numba import cuda
from numpy.typing import NDArray

from dcryo.arrays import Array, module, namespace, to_device
from dcryo.operators.gradient import length, nearest
from dcryo.operators.transfer import (
    ADJOINT,
    decay,
    has_cubic,
    has_envelope,
    lattice_line,
    line_phase,
    line_quadratic,
    lookup,
    odd_turn,
    quadratic,
    sample_energy,
    shift_phase,
    squared,
    squared_envelope,
    treated,
    wave,
)
from dcryo.operators.views import Views
from dcryo.operators.window import DEGREE, Window

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

THREADS = 128
"""Threads of a block."""

WARP = 32
"""Threads that run in step."""

# small boxes leave a GPU idle; that is not worth a warning of numba's for every launch
warnings.filterwarnings("ignore", "Grid size .* under-utilization")


def _launch(kernel: Any, count: int, *arguments: Any) -> None:
    """Run ``count`` threads of a kernel on cupy's current stream, after what is queued there."""
    if count == 0:
        return
    pointer = module("cuda").cuda.get_current_stream().ptr
    stream = cuda.external_stream(pointer) if pointer else 0
    # copies may be freed before the kernel is through: cupy gives their memory to later work of this stream
    given = [
        cuda.as_cuda_array(to_device(a, "cuda"), sync=False) if getattr(a, "ndim", 0) else a
        for a in arguments
    ]  # fmt: skip
    kernel[-(-count // THREADS), THREADS, stream](*given)


@cuda.jit(device=True)
def _weight(polynomial: Any, tap: Any, v: Any) -> Any:
    """Weight of a tap, by Horner's rule; polynomial and variable are those of ``Window.polynomial``."""
    weight = polynomial[DEGREE, tap]
    for degree in range(DEGREE - 1, -1, -1):
        weight = weight * v + polynomial[degree, tap]
    return weight


@lru_cache
def _slice_kernel(width: int, insert: bool) -> Any:
    """Kernel that spreads (insert) or gathers (not insert) the samples of slices.

    Every thread finds the place and the weights of one sample; then the threads of a warp go through their
    samples together.  Neighbouring threads have neighbouring floats of one row of the grid, or of a few, so
    that an access is to four or five sectors of the memory, not to one for every thread.
    """
    half = np.float32(width / 2)
    across = 2 * width
    together = WARP // across
    used = together * across
    # an odd number of floats a thread puts those of a warp into different banks
    weights_shape = (THREADS, 3 * width + 1)
    parts_shape = (THREADS, 3 if insert else used + 1)

    @cuda.jit
    def kernel(
        grid: Any, sz: int, sy: int, oz: int, oy: int, ox: int, values: Any, rows3: Any, radius2: Any,
        polynomial: Any,
    ) -> None:  # fmt: skip
        """``grid`` is flat, with strides ``sz`` and ``sy`` and the origin at (oz, oy, ox)."""
        begins = cuda.shared.array(THREADS, np.int64)
        weights = cuda.shared.array(weights_shape, np.float32)
        parts = cuda.shared.array(parts_shape, np.float32)
        mine = cuda.threadIdx.x
        h = values.shape[2] - 1
        sample = cuda.grid(1)
        row = sample // (h + 1)
        a = sample % (h + 1)
        p = row // (2 * h + 1)
        b = row % (2 * h + 1) - h
        sign = np.float32(1)
        begins[mine] = -1
        if p < values.shape[0] and a * a + b * b < radius2[p] and (a > 0 or b >= 0):
            fa = np.float32(a)
            fb = np.float32(b)
            ux = fa * rows3[p, 0, 0] + fb * rows3[p, 1, 0]
            uy = fa * rows3[p, 0, 1] + fb * rows3[p, 1, 1]
            uz = fa * rows3[p, 0, 2] + fb * rows3[p, 1, 2]
            # the half grid has u_x >= 0: elsewhere the conjugate at -u
            if ux < 0:
                sign = np.float32(-1)
            tx, ty, tz = sign * ux - half, sign * uy - half, sign * uz - half
            jx, jy, jz = np.int32(math.ceil(tx)), np.int32(math.ceil(ty)), np.int32(math.ceil(tz))
            x = 2 * jx + ox
            y = jy + oy
            z = jz + oz
            # beyond the band limit, where a magnified lattice may end, the transfer function is zero
            inside = x >= 0 and y >= 0 and z >= 0 and x + across <= sy and (y + width) * sy <= sz
            if inside and (z + width) * sz <= grid.shape[0]:
                begins[mine] = z * sz + y * sy + x
                vx = np.float32(2) * (np.float32(jx) - tx) - np.float32(1)
                vy = np.float32(2) * (np.float32(jy) - ty) - np.float32(1)
                vz = np.float32(2) * (np.float32(jz) - tz) - np.float32(1)
                for tap in range(width):
                    wx = _weight(polynomial, tap, vx)
                    wy = _weight(polynomial, tap, vy)
                    wz = _weight(polynomial, tap, vz)
                    weights[mine, tap] = wx
                    weights[mine, width + tap] = wy
                    weights[mine, 2 * width + tap] = wz
                if insert:
                    parts[mine, 0] = values[p, b + h, a, 0]
                    parts[mine, 1] = sign * values[p, b + h, a, 1]
        cuda.syncthreads()
        lane = mine % WARP
        if lane < used:
            i = lane % across
            above = lane // across
            for s in range(mine - lane, mine - lane + WARP):
                o = begins[s]
                if o >= 0:
                    w = weights[s, i // 2]
                    if insert:
                        w *= parts[s, i % 2]
                    total = np.float32(0)
                    for k in range(width):
                        c = w * weights[s, 2 * width + k]
                        for block in range(width // together):
                            j = together * block + above
                            at = o + k * sz + j * sy + i
                            if insert:
                                cuda.atomic.add(grid, at, c * weights[s, width + j])
                            else:
                                total += c * weights[s, width + j] * grid[at]
                    if not insert:
                        parts[s, lane] = total
        if not insert:
            cuda.syncthreads()
            if begins[mine] >= 0:
                re = np.float32(0)
                im = np.float32(0)
                for k in range(0, used, 2):
                    re += parts[mine, k]
                    im += parts[mine, k + 1]
                values[p, b + h, a, 0] = re
                values[p, b + h, a, 1] = sign * im

    return kernel


def _launch_slices(
    insert: bool, grid: Array, values: Array, rows: Float32, radius2: Float32, window: Window,
    origin: tuple[int, int, int],
) -> None:  # fmt: skip
    _, ny, nx = grid.shape
    _launch(
        _slice_kernel(window.width, insert), values.size // 2, grid.reshape(-1), ny * nx, nx, *origin, values,
        rows, radius2, window.polynomial,
    )  # fmt: skip


def insert(
    grid: Array, values: Array, rows: Float32, radius2: Float32, window: Window,
    origin: tuple[int, int, int],
) -> None:  # fmt: skip
    """:meth:`dcryo.operators.slices.HalfGrid.insert`: sums of one call in float32, then added in float64."""
    part = namespace(grid).zeros(grid.shape, np.float32)
    _launch_slices(True, part, values, rows, radius2, window, origin)
    grid += part


def extract(
    grid: Array, values: Array, rows: Float32, radius2: Float32, window: Window,
    origin: tuple[int, int, int],
) -> None:  # fmt: skip
    """:meth:`dcryo.operators.slices.HalfGrid.extract`."""
    _launch_slices(False, grid, values, rows, radius2, window, origin)


@cuda.jit
def _modulate(
    values: Any, energy: Any, coefficients: Any, gain: Any, distortion: Any, limit2: Any, group: Any,
    treatment: Any, radial: Any, weight: Any, step: float, centre: float, direction: int,
) -> None:  # fmt: skip
    h = values.shape[2] - 1
    sample = cuda.grid(1)
    row = sample // (h + 1)
    a = sample % (h + 1)
    p = row // (2 * h + 1)
    b = row % (2 * h + 1) - h
    if p >= values.shape[0]:
        return
    c = coefficients[p]
    line = lattice_line(distortion[p], step, b)
    s = quadratic(line_quadratic(1.0, 0.0, 1.0, line[0], line[1], line[2], line[3]), a)
    if s >= limit2[p] or (a == 0 and b < 0):
        values[p, b + h, a, 0] = 0
        values[p, b + h, a, 1] = 0
        return
    v_re = values[p, b + h, a, 0]
    v_im = values[p, b + h, a, 1]
    sign = 1.0
    if direction == ADJOINT:
        sign = -1.0
        energy[p, b + h, a] = sample_energy(v_re, v_im, lookup(weight[group[p]], s), a, b)
    shift = shift_phase(c, line[0] + a * line[2], line[1] + a * line[3], centre * step * (b + a), sign)
    q = line_phase(c, line[0], line[1], line[2], line[3])
    e = line_quadratic(c[16], c[17], c[18], line[0], line[1], line[2], line[3])
    t = wave(c[0], q, a)
    if has_envelope(c):
        t *= decay(e, a)
    t = treated(t, gain[p], treatment[p], direction) * lookup(radial[group[p]], s)
    o_re, o_im = math.cos(shift), math.sin(shift)
    if has_cubic(c):
        k_re, k_im = odd_turn((c[12], c[13], c[14], c[15]), line, a, direction)
        o_re, o_im = o_re * k_re - o_im * k_im, o_re * k_im + o_im * k_re
    f_re, f_im = t * np.float32(o_re), t * np.float32(o_im)
    values[p, b + h, a, 0] = v_re * f_re - v_im * f_im
    values[p, b + h, a, 1] = v_re * f_im + v_im * f_re


def modulate(
    values: Array, views: Views, radial: Float32, weight: Float32, step: float, centre: float, direction: int
) -> float:
    """:func:`dcryo.operators.transfer.modulate`; the energy is 0 in the forward direction."""
    xp = namespace(values)
    energy = xp.zeros(values.shape[:3] if direction == ADJOINT else (1, 1, 1), np.float32)
    _launch(
        _modulate, values.size // 2, values, energy, views.coefficients, views.gain, views.distortion,
        views.limit2, views.group, views.treatment, radial, weight, step, centre, direction,
    )  # fmt: skip
    return float(energy.sum(dtype=np.float64))


@lru_cache
def _plane_kernel(width: int) -> Any:
    half = width / 2

    @cuda.jit
    def kernel(
        grid: Any,
        planes: Any,
        coefficients: Any,
        limit2: Any,
        group: Any,
        radial: Any,
        polynomial: Any,
        pad: int,
    ) -> None:
        """Add all planes to one line of the grid, which no other thread touches."""
        length = grid.shape[1]
        h = length // 2
        line = cuda.grid(1)
        ia = line // length
        i = line % length - h
        if ia >= grid.shape[0] or i == -h:
            return
        centre = (grid.shape[2] - 2 * pad) // 2 + pad
        target = grid[ia, i + h]
        added = cuda.local.array(width, np.float32)  # in registers: all loops over it are unrolled
        for p in range(planes.shape[0]):
            a1 = planes[p, 2] * ia
            b1 = planes[p, 3]
            a2 = planes[p, 4] * ia
            b2 = planes[p, 5]
            s = quadratic(line_quadratic(1.0, 0.0, 1.0, a1, a2, b1, b2), i)
            # a sample on the band limit is out, as it is on the CPU, whatever its rounding
            if s < limit2[p] * (1 - 1e-9):
                c = coefficients[p]
                weight = np.float32(planes[p, 6] * (0.5 if ia == 0 else 1.0))
                q = line_phase(c, a1, a2, b1, b2)
                value = squared(q, i, weight) * lookup(radial[group[p]], s)
                if has_envelope(c):
                    value *= squared_envelope(line_quadratic(c[16], c[17], c[18], a1, a2, b1, b2), i)
                x = planes[p, 0] * ia - half + planes[p, 1] * i
                j = np.int32(math.ceil(x))
                v = np.float32(2 * (j - x) - 1)
                for tap in range(width):
                    added[tap] = value * _weight(polynomial, tap, v)
                for tap in range(width):
                    target[j + centre + tap] += added[tap]

    return kernel


def add_planes(grid: Array, planes: Float64, views: Views, radial: Float32, window: Window, pad: int) -> None:
    """Add planes to a grid of :class:`dcryo.operators.kernel.PlaneKernel`, in float64."""
    _launch(
        _plane_kernel(window.width), grid.shape[0] * grid.shape[1], grid, planes, views.coefficients,
        views.limit2, views.group, radial, window.polynomial, pad,
    )  # fmt: skip


@cuda.jit
def _primal(z: Any, dual: Any, out: Any, mu: Any, nonnegative: bool) -> None:
    nz, ny, nx = z.shape
    voxel = cuda.grid(1)
    i = voxel % nx
    j = voxel // nx % ny
    k = voxel // (nx * ny)
    if k >= nz:
        return
    below = k - 1 if k > 0 else nz - 1
    before = j - 1 if j > 0 else ny - 1
    left = i - 1 if i > 0 else nx - 1
    v = dual[0, below, j, i] - dual[0, k, j, i] + dual[1, k, before, i] - dual[1, k, j, i]
    v += dual[2, k, j, left] - dual[2, k, j, i]
    new = z[k, j, i] - mu * v
    out[k, j, i] = np.float32(0) if nonnegative and new < 0 else new


def primal_sweep(z: Array, dual: Array, out: Array, mu: float, nonnegative: bool) -> None:
    """:func:`dcryo.operators.gradient.primal_sweep`."""
    _launch(_primal, z.size, z, dual, out, np.float32(mu), nonnegative)


@lru_cache
def _dual_kernel(isotropic: bool) -> Any:
    @cuda.jit
    def kernel(x: Any, ahead: Any, dual: Any, step: Any, momentum: Any) -> None:
        nz, ny, nx = x.shape
        voxel = cuda.grid(1)
        i = voxel % nx
        j = voxel // nx % ny
        k = voxel // (nx * ny)
        if k >= nz:
            return
        c = x[k, j, i]
        a = ahead[0, k, j, i] + step * (x[k + 1 if k + 1 < nz else 0, j, i] - c)
        b = ahead[1, k, j, i] + step * (x[k, j + 1 if j + 1 < ny else 0, i] - c)
        d = ahead[2, k, j, i] + step * (x[k, j, i + 1 if i + 1 < nx else 0] - c)
        a, b, d = nearest(a, b, d, isotropic)
        ahead[0, k, j, i] = a + momentum * (a - dual[0, k, j, i])
        ahead[1, k, j, i] = b + momentum * (b - dual[1, k, j, i])
        ahead[2, k, j, i] = d + momentum * (d - dual[2, k, j, i])
        dual[0, k, j, i] = a
        dual[1, k, j, i] = b
        dual[2, k, j, i] = d

    return kernel


def dual_sweep(x: Array, ahead: Array, dual: Array, step: float, momentum: float, isotropic: bool) -> None:
    """:func:`dcryo.operators.gradient.dual_sweep`."""
    _launch(_dual_kernel(isotropic), x.size, x, ahead, dual, np.float32(step), np.float32(momentum))


@lru_cache
def _length_kernel(isotropic: bool) -> Any:
    @cuda.jit
    def kernel(x: Any, lengths: Any) -> None:
        nz, ny, nx = x.shape
        voxel = cuda.grid(1)
        i = voxel % nx
        j = voxel // nx % ny
        k = voxel // (nx * ny)
        if k >= nz:
            return
        c = x[k, j, i]
        a = x[k + 1 if k + 1 < nz else 0, j, i] - c
        b = x[k, j + 1 if j + 1 < ny else 0, i] - c
        d = x[k, j, i + 1 if i + 1 < nx else 0] - c
        lengths[k, j, i] = length(a, b, d, isotropic)

    return kernel


def total_variation(x: Array, isotropic: bool) -> float:
    """:func:`dcryo.operators.gradient.total_variation`."""
    lengths = namespace(x).empty_like(x)
    _launch(_length_kernel(isotropic), x.size, x, lengths)
    return float(lengths.sum(dtype=np.float64))
