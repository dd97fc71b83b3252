"""What multiplies a slice: CTF, aberrations, shift, envelope, noise weight and basis function, per sample.

A particle is described by 19 coefficients (:func:`dcryo.imaging.ctf.transfer_coefficients`) that are
polynomial in the plane frequency v (rad per voxel).  Along a straight line of samples they become
univariate polynomials, which is how both kernels below evaluate them: the phase in float64, because it
reaches hundreds of radians, the rest in float32.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from dcryo.operators.compiled import compile_kernel

NORMAL, PHASE_FLIPPED, PREMULTIPLIED = 0, 1, 2
"""What ingest found done to the images already."""

LUT_SIZE = 4096
"""Samples of a radial table, equidistant in |v|^2 from 0 to pi^2; linear interpolation between them."""

_LUT_STEP = LUT_SIZE / math.pi**2
_PER_PI = 1 / math.pi
ADJOINT, FORWARD = 0, 1

inline = njit(inline="always", fastmath=True)


@inline
def sine(x: Any) -> Any:
    """Sine of a float64 phase: range reduction in float64, a polynomial in float32 (error below 2e-6)."""
    turns = x * _PER_PI
    whole = np.rint(turns)
    t = np.float32(turns - whole)
    u = t * t
    s = t * (
        np.float32(3.14159265)
        + u
        * (
            np.float32(-5.16771278)
            + u
            * (
                np.float32(2.55016404)
                + u * (np.float32(-0.59926453) + u * (np.float32(0.08214589) + u * np.float32(-0.00737043)))
            )
        )
    )
    return -s if np.int64(whole) & 1 else s


@inline
def line_phase(c: Any, p1: Any, p2: Any, d1: Any, d2: Any) -> Any:
    """Coefficients q0..q4 of the CTF phase along v = (p1, p2) + tau (d1, d2)."""
    q0 = c[1] + c[2] * p1 * p1 + 2 * c[3] * p1 * p2 + c[4] * p2 * p2
    q1 = 2 * (c[2] * p1 * d1 + c[3] * (p1 * d2 + p2 * d1) + c[4] * p2 * d2)
    q2 = c[2] * d1 * d1 + 2 * c[3] * d1 * d2 + c[4] * d2 * d2
    # quartic: sum_k c[5 + k] v1^(4-k) v2^k, expanded as products of two quadratics in tau
    a0, a1, a2 = p1 * p1, 2 * p1 * d1, d1 * d1
    b0, b1, b2 = p1 * p2, p1 * d2 + p2 * d1, d1 * d2
    e0, e1, e2 = p2 * p2, 2 * p2 * d2, d2 * d2
    x0 = c[5] * a0 + c[6] * b0 + c[7] * e0
    x1 = c[5] * a1 + c[6] * b1 + c[7] * e1
    x2 = c[5] * a2 + c[6] * b2 + c[7] * e2
    y0 = c[8] * b0 + c[9] * e0
    y1 = c[8] * b1 + c[9] * e1
    y2 = c[8] * b2 + c[9] * e2
    return (
        q0 + x0 * a0 + y0 * e0,
        q1 + x0 * a1 + x1 * a0 + y0 * e1 + y1 * e0,
        q2 + x0 * a2 + x1 * a1 + x2 * a0 + y0 * e2 + y1 * e1 + y2 * e0,
        x1 * a2 + x2 * a1 + y1 * e2 + y2 * e1,
        x2 * a2 + y2 * e2,
    )


@inline
def line_quadratic(c11: Any, c12: Any, c22: Any, p1: Any, p2: Any, d1: Any, d2: Any) -> Any:
    """Coefficients of c11 v1^2 + 2 c12 v1 v2 + c22 v2^2 along v = (p1, p2) + tau (d1, d2)."""
    return (
        c11 * p1 * p1 + 2 * c12 * p1 * p2 + c22 * p2 * p2,
        2 * (c11 * p1 * d1 + c12 * (p1 * d2 + p2 * d1) + c22 * p2 * d2),
        c11 * d1 * d1 + 2 * c12 * d1 * d2 + c22 * d2 * d2,
    )


@inline
def lookup(table: Any, s: Any) -> Any:
    """Linear interpolation of a radial table at |v|^2 = s < pi^2."""
    x = np.float32(s * _LUT_STEP)
    k = np.int32(x)
    return table[k] + (x - np.float32(k)) * (table[k + 1] - table[k])


@compile_kernel(
    "f8(f4[:,:,:,::1], f8[:,::1], f8[::1], f8[:,:,::1], f8[::1], i8[::1], i8[::1], f4[:,::1], f4[:,::1],"
    " f8, f8, i8)"
)
def modulate(
    values: Any,
    coefficients: Any,
    gain: Any,
    distortion: Any,
    limit2: Any,
    group: Any,
    treatment: Any,
    radial: Any,
    weight: Any,
    step: float,
    offset: float,
    direction: int,
) -> float:
    """Multiply slices in place by their transfer function (forward) or its conjugate (adjoint).

    values (P, 2h+1, h+1, 2); coefficients (P, 19); gain (P,), the part of the amplitude that is not the CTF's
    and so not in premultiplied images; distortion (P, 2, 2); limit2 (P,) the squared band limit in
    (rad/voxel)^2, samples beyond it become 0; group (P,) row of ``radial`` (the basis function, and in the
    adjoint direction times the noise weight) and of ``weight`` (the noise weight alone, for the energy), both
    (groups, LUT_SIZE + 2); treatment (P,); step = 2 pi / n; offset: pixels from the first sample to the
    centre of the transformed image (n // 2 for a plain FFT); direction 0 adjoint, 1 forward.

    Returns sum |value|^2 weight over the whole plane, before multiplication (the data's energy times n^2).
    """
    h = values.shape[2] - 1
    energy = 0.0
    for p in range(values.shape[0]):
        c = coefficients[p]
        d = distortion[p]
        g = group[p]
        done = treatment[p]
        limit = limit2[p]
        cubic = c[12] != 0 or c[13] != 0 or c[14] != 0 or c[15] != 0
        envelope = c[16] != 0 or c[17] != 0 or c[18] != 0
        d1 = d[0, 0] * step
        d2 = d[1, 0] * step
        sign = 1.0 if direction == 1 else -1.0
        turn = sign * (c[10] * d1 + c[11] * d2 - offset * step)
        turn_re = math.cos(turn)
        turn_im = math.sin(turn)
        for b in range(-h, h + 1):
            p1 = d[0, 1] * step * b
            p2 = d[1, 1] * step * b
            q0, q1, q2, q3, q4 = line_phase(c, p1, p2, d1, d2)
            s0, s1, s2 = line_quadratic(1.0, 0.0, 1.0, p1, p2, d1, d2)
            e0, e1, e2 = line_quadratic(c[16], c[17], c[18], p1, p2, d1, d2)
            start = sign * (c[10] * p1 + c[11] * p2 - offset * step * b)
            re = math.cos(start)
            im = math.sin(start)
            for a in range(h + 1):
                s = s0 + a * (s1 + a * s2)
                if s >= limit or (a == 0 and b < 0):
                    values[p, b + h, a, 0] = 0
                    values[p, b + h, a, 1] = 0
                else:
                    v_re = values[p, b + h, a, 0]
                    v_im = values[p, b + h, a, 1]
                    if direction == 0:
                        double = 1.0 if (a == 0 and b == 0) else 2.0
                        energy += double * (v_re * v_re + v_im * v_im) * lookup(weight[g], s)
                    t = np.float32(c[0]) * sine(q0 + a * (q1 + a * (q2 + a * (q3 + a * q4))))
                    if envelope:
                        t *= np.float32(math.exp(e0 + a * (e1 + a * e2)))
                    if done == 1:
                        t = abs(t)
                    elif done == 2:
                        t = np.float32(gain[p]) if direction == 0 else t * t / np.float32(gain[p])
                    t *= lookup(radial[g], s)
                    o_re = re
                    o_im = im
                    if cubic:
                        v1 = p1 + a * d1
                        v2 = p2 + a * d2
                        odd = sign * (
                            v1 * v1 * (c[12] * v1 + c[13] * v2) + v2 * v2 * (c[14] * v1 + c[15] * v2)
                        )
                        k_re = math.cos(odd)
                        k_im = math.sin(odd)
                        o_re = re * k_re - im * k_im
                        o_im = re * k_im + im * k_re
                    f_re = t * np.float32(o_re)
                    f_im = t * np.float32(o_im)
                    values[p, b + h, a, 0] = v_re * f_re - v_im * f_im
                    values[p, b + h, a, 1] = v_re * f_im + v_im * f_re
                rotated = re * turn_re - im * turn_im
                im = re * turn_im + im * turn_re
                re = rotated
    return energy
