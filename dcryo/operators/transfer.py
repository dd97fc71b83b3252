"""What multiplies a slice: CTF, aberrations, shift, envelope, noise weight and basis function, per sample.

A particle is described by 19 coefficients (:func:`dcryo.imaging.ctf.transfer_coefficients`) that are
polynomial in the plane frequency v (rad per voxel).  Along a straight line of samples they become
univariate polynomials, which is how all kernels evaluate them: the phase in float64, because it reaches
hundreds of radians, the rest in float32.

The functions of one sample are the single source of truth: the kernel below, the one of
:mod:`dcryo.operators.kernel` and those of :mod:`dcryo.operators.cuda` inline them.
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
    whole = np.int32(turns + math.copysign(0.5, turns))  # np.rint is not to be had on a GPU
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
    return -s if whole & np.int32(1) else s


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
def quartic(q: Any, a: Any) -> Any:
    """Value at sample ``a`` of a line of a polynomial of :func:`line_phase`."""
    return q[0] + a * (q[1] + a * (q[2] + a * (q[3] + a * q[4])))


@inline
def quadratic(s: Any, a: Any) -> Any:
    """Value at sample ``a`` of a line of a polynomial of :func:`line_quadratic`."""
    return s[0] + a * (s[1] + a * s[2])


@inline
def lookup(table: Any, s: Any) -> Any:
    """Linear interpolation of a radial table at |v|^2 = s < pi^2."""
    x = np.float32(s * _LUT_STEP)
    k = np.int32(x)
    return table[k] + (x - np.float32(k)) * (table[k + 1] - table[k])


@inline
def has_envelope(c: Any) -> Any:
    """Whether the amplitude falls with frequency."""
    return c[16] != 0 or c[17] != 0 or c[18] != 0


@inline
def has_cubic(c: Any) -> Any:
    """Whether there are aberrations of odd order."""
    return c[12] != 0 or c[13] != 0 or c[14] != 0 or c[15] != 0


@inline
def lattice_line(d: Any, step: Any, b: Any) -> Any:
    """Volume frequency v of the first sample of row ``b`` of a lattice, and its steps: (p1, p2, d1, d2)."""
    return d[0, 1] * step * b, d[1, 1] * step * b, d[0, 0] * step, d[1, 0] * step


@inline
def shift_phase(c: Any, v1: Any, v2: Any, centre: Any, sign: Any) -> Any:
    """Phase of the shift and of the image's centre, which is linear in v."""
    return sign * (c[10] * v1 + c[11] * v2 - centre)


@inline
def wave(amplitude: Any, q: Any, a: Any) -> Any:
    """The CTF at sample ``a`` of a line, ``q`` from :func:`line_phase`."""
    return np.float32(amplitude) * sine(quartic(q, a))


@inline
def decay(e: Any, a: Any) -> Any:
    """The envelope at sample ``a`` of a line, ``e`` from :func:`line_quadratic`."""
    return np.float32(math.exp(quadratic(e, a)))


@inline
def treated(t: Any, gain: Any, treatment: Any, direction: Any) -> Any:
    """What is left of the CTF ``t`` to be applied to images that were treated before."""
    if treatment == 1:
        return abs(t)
    if treatment == 2:
        return np.float32(gain) if direction == 0 else t * t / np.float32(gain)
    return t


@inline
def odd_turn(odd: Any, line: Any, a: Any, direction: Any) -> Any:
    """Factor (re, im) of the aberrations of odd order at sample ``a`` of a :func:`lattice_line`."""
    v1 = line[0] + a * line[2]
    v2 = line[1] + a * line[3]
    phase = v1 * v1 * (odd[0] * v1 + odd[1] * v2) + v2 * v2 * (odd[2] * v1 + odd[3] * v2)
    if direction == 0:
        phase = -phase
    return math.cos(phase), math.sin(phase)


@inline
def sample_energy(re: Any, im: Any, weight: Any, a: Any, b: Any) -> Any:
    """Share of a half-plane sample in the energy of the whole plane."""
    double = 1.0 if (a == 0 and b == 0) else 2.0
    return double * (re * re + im * im) * weight


@inline
def squared(q: Any, a: Any, weight: Any) -> Any:
    """Squared sine of the phase at sample ``a`` of a line, times a weight."""
    t = sine(quartic(q, a))
    return weight * t * t


@inline
def squared_envelope(e: Any, a: Any) -> Any:
    """The squared envelope at sample ``a`` of a line."""
    return np.float32(math.exp(2 * quadratic(e, a)))


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
    sign = 1.0 if direction == 1 else -1.0
    energy = 0.0
    powers = np.empty((h + 1, 2))
    turned = np.empty((h + 1, 2))
    # Stage by stage along a row: a loop is made of vectors where it does not look anything up.
    t = np.empty(h + 1, np.float32)
    phi = np.empty(h + 1, np.float32)
    for p in range(values.shape[0]):
        c = coefficients[p]
        d = distortion[p]
        basis = radial[group[p]]
        noise = weight[group[p]]
        limit = limit2[p]
        cubic = has_cubic(c)
        envelope = has_envelope(c)
        odd = c[12], c[13], c[14], c[15]
        _, _, d1, d2 = lattice_line(d, step, 0)
        turn = shift_phase(c, d1, d2, offset * step, sign)
        for a in range(h + 1):
            powers[a, 0] = math.cos(a * turn)
            powers[a, 1] = math.sin(a * turn)
        for b in range(-h, h + 1):
            row = values[p, b + h]
            if b < 0:
                row[0] = 0
            line = lattice_line(d, step, b)
            q = line_phase(c, line[0], line[1], line[2], line[3])
            s2 = line_quadratic(1.0, 0.0, 1.0, line[0], line[1], line[2], line[3])
            if direction == ADJOINT:
                for a in range(h + 1):
                    s = quadratic(s2, a)
                    phi[a] = lookup(noise, s) if s < limit else np.float32(0)
                for a in range(h + 1):
                    energy += sample_energy(row[a, 0], row[a, 1], phi[a], a, b)
            for a in range(h + 1):
                t[a] = wave(c[0], q, a)
            if envelope:
                e = line_quadratic(c[16], c[17], c[18], line[0], line[1], line[2], line[3])
                for a in range(h + 1):
                    t[a] *= decay(e, a)
            if treatment[p] != NORMAL:
                for a in range(h + 1):
                    t[a] = treated(t[a], gain[p], treatment[p], direction)
            for a in range(h + 1):
                s = quadratic(s2, a)
                phi[a] = lookup(basis, s) if s < limit else np.float32(0)
            start = shift_phase(c, line[0], line[1], offset * step * b, sign)
            re = math.cos(start)
            im = math.sin(start)
            for a in range(h + 1):
                turned[a, 0] = re * powers[a, 0] - im * powers[a, 1]
                turned[a, 1] = re * powers[a, 1] + im * powers[a, 0]
            if cubic:
                for a in range(h + 1):
                    k_re, k_im = odd_turn(odd, line, a, direction)
                    o_re, o_im = turned[a, 0], turned[a, 1]
                    turned[a, 0] = o_re * k_re - o_im * k_im
                    turned[a, 1] = o_re * k_im + o_im * k_re
            for a in range(h + 1):
                f_re = t[a] * phi[a] * np.float32(turned[a, 0])
                f_im = t[a] * phi[a] * np.float32(turned[a, 1])
                v_re, v_im = row[a, 0], row[a, 1]
                row[a, 0] = v_re * f_re - v_im * f_im
                row[a, 1] = v_re * f_im + v_im * f_re
    return energy
