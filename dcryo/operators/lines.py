"""A product in Fourier space along two axes of a padded volume, many lines at a time.

Columns (z, y) of a half-transformed volume are padded with zeros, transformed, multiplied by a real spectrum,
transformed back and cropped, without the padded volume ever being stored.  Frequencies stay in the order in
which decimation leaves them: the way back undoes it, and only the spectrum is read in that order.  Every
number of a transform is a vector that stands for ``LANES`` columns, real and imaginary parts apart, so that
all arithmetic is on whole vectors.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dcryo.operators.compiled import compile_kernel, for_each, thread_count
from dcryo.operators.vector import LANES, load, store

RADICES = (4, 2, 3, 5)
"""Factors that are taken off a length, in this order."""

Plan = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]

inline = njit(fastmath=True, error_model="numpy", nogil=True)

STEP = 2 * LANES
"""From one number of a line to the next: real parts, then imaginary ones."""

SIN_60 = np.float32(np.sin(np.pi / 3))
COS_72, SIN_72 = np.float32(np.cos(0.4 * np.pi)), np.float32(np.sin(0.4 * np.pi))
COS_144, SIN_144 = np.float32(np.cos(0.8 * np.pi)), np.float32(np.sin(0.8 * np.pi))
HALF = np.float32(0.5)


@lru_cache
def plan(length: int) -> Plan:
    """Radices, twiddle factors (., 2) of all stages, and the frequency at every place of the transform.

    Raises
    ------
    ValueError
        If ``length`` has a prime factor above 5.
    """
    radices, rest = [], length
    for radix in RADICES:
        while rest % radix == 0:
            radices.append(radix)
            rest //= radix
    if rest > 1:
        raise ValueError(f"the length {length} has a prime factor above {max(RADICES)}")
    twiddles, size = [], length
    for radix in radices:
        powers = np.outer(np.arange(size // radix), np.arange(1, radix)).ravel()
        twiddles.append(np.exp(-2j * np.pi * powers / size))
        size //= radix
    factors = np.concatenate(twiddles)
    order = np.zeros(1, np.int64)
    for radix in reversed(radices):
        order = (radix * order + np.arange(radix)[:, None]).ravel()
    return np.array(radices), np.stack([factors.real, factors.imag], axis=1).astype(np.float32), order


@inline
def _get(x: Any, i: Any) -> Any:
    """Real and imaginary part of number ``i`` of a line."""
    return load(x, i * STEP), load(x, i * STEP + LANES)


@inline
def _put(x: Any, i: Any, re: Any, im: Any) -> None:
    store(x, i * STEP, re)
    store(x, i * STEP + LANES, im)


@inline
def _turn(re: Any, im: Any, w: Any, at: Any, sign: Any) -> Any:
    """Product with a twiddle factor, conjugated for ``sign`` -1."""
    wr, wi = w[at, 0], sign * w[at, 1]
    return re * wr - im * wi, re * wi + im * wr


@inline
def _two(ar: Any, ai: Any, br: Any, bi: Any) -> Any:
    return ar + br, ai + bi, ar - br, ai - bi


@inline
def _three(ar: Any, ai: Any, br: Any, bi: Any, cr: Any, ci: Any, sign: Any) -> Any:
    """Transform of three numbers, forward for ``sign`` 1."""
    s = sign * SIN_60
    tr, ti = br + cr, bi + ci
    ur, ui = (bi - ci) * s, (cr - br) * s
    mr, mi = ar - tr * HALF, ai - ti * HALF
    return ar + tr, ai + ti, mr + ur, mi + ui, mr - ur, mi - ui


@inline
def _four(ar: Any, ai: Any, br: Any, bi: Any, cr: Any, ci: Any, dr: Any, di: Any, sign: Any) -> Any:
    """Transform of four numbers, forward for ``sign`` 1."""
    er, ei, fr, fi = ar + cr, ai + ci, ar - cr, ai - ci
    gr, gi = br + dr, bi + di
    hr, hi = (bi - di) * sign, (dr - br) * sign
    return er + gr, ei + gi, fr + hr, fi + hi, er - gr, ei - gi, fr - hr, fi - hi


@inline
def _five(
    ar: Any, ai: Any, br: Any, bi: Any, cr: Any, ci: Any, dr: Any, di: Any, er: Any, ei: Any, sign: Any
) -> Any:
    """Transform of five numbers, forward for ``sign`` 1."""
    pr, pi, qr, qi = br + er, bi + ei, cr + dr, ci + di
    sr, si, tr, ti = bi - ei, er - br, ci - di, dr - cr
    s1, s2 = sign * SIN_72, sign * SIN_144
    mr, mi = ar + pr * COS_72 + qr * COS_144, ai + pi * COS_72 + qi * COS_144
    nr, ni = ar + pr * COS_144 + qr * COS_72, ai + pi * COS_144 + qi * COS_72
    ur, ui = sr * s1 + tr * s2, si * s1 + ti * s2
    vr, vi = sr * s2 - tr * s1, si * s2 - ti * s1
    return ar + pr + qr, ai + pi + qi, mr + ur, mi + ui, nr + vr, ni + vi, nr - vr, ni - vi, mr - ur, mi - ui


@inline
def forward(x: Any, length: Any, radices: Any, w: Any) -> None:
    """Transform a line (length * STEP) in place by decimation in frequency; it stays in the plan's order."""
    one = np.float32(1)
    size, base = length, 0
    for radix in radices:
        sub = size // radix
        for j in range(sub):
            at = base + j * (radix - 1)
            for i in range(j, length, size):
                ar, ai = _get(x, i)
                br, bi = _get(x, i + sub)
                if radix == 4:
                    cr, ci = _get(x, i + 2 * sub)
                    dr, di = _get(x, i + 3 * sub)
                    ar, ai, br, bi, cr, ci, dr, di = _four(ar, ai, br, bi, cr, ci, dr, di, one)
                    cr, ci = _turn(cr, ci, w, at + 1, one)
                    dr, di = _turn(dr, di, w, at + 2, one)
                    _put(x, i + 2 * sub, cr, ci)
                    _put(x, i + 3 * sub, dr, di)
                elif radix == 2:
                    ar, ai, br, bi = _two(ar, ai, br, bi)
                elif radix == 3:
                    cr, ci = _get(x, i + 2 * sub)
                    ar, ai, br, bi, cr, ci = _three(ar, ai, br, bi, cr, ci, one)
                    cr, ci = _turn(cr, ci, w, at + 1, one)
                    _put(x, i + 2 * sub, cr, ci)
                else:
                    cr, ci = _get(x, i + 2 * sub)
                    dr, di = _get(x, i + 3 * sub)
                    er, ei = _get(x, i + 4 * sub)
                    ar, ai, br, bi, cr, ci, dr, di, er, ei = _five(
                        ar, ai, br, bi, cr, ci, dr, di, er, ei, one
                    )
                    cr, ci = _turn(cr, ci, w, at + 1, one)
                    dr, di = _turn(dr, di, w, at + 2, one)
                    er, ei = _turn(er, ei, w, at + 3, one)
                    _put(x, i + 2 * sub, cr, ci)
                    _put(x, i + 3 * sub, dr, di)
                    _put(x, i + 4 * sub, er, ei)
                br, bi = _turn(br, bi, w, at, one)
                _put(x, i, ar, ai)
                _put(x, i + sub, br, bi)
        base += sub * (radix - 1)
        size = sub


@inline
def backward(x: Any, length: Any, radices: Any, w: Any) -> None:
    """Undo :func:`forward` by decimation in time, times the length."""
    back = np.float32(-1)
    size, base = 1, len(w)
    for radix in radices[::-1]:
        sub = size
        size *= radix
        base -= sub * (radix - 1)
        for j in range(sub):
            at = base + j * (radix - 1)
            for i in range(j, length, size):
                ar, ai = _get(x, i)
                br, bi = _get(x, i + sub)
                br, bi = _turn(br, bi, w, at, back)
                if radix == 4:
                    cr, ci = _get(x, i + 2 * sub)
                    dr, di = _get(x, i + 3 * sub)
                    cr, ci = _turn(cr, ci, w, at + 1, back)
                    dr, di = _turn(dr, di, w, at + 2, back)
                    ar, ai, br, bi, cr, ci, dr, di = _four(ar, ai, br, bi, cr, ci, dr, di, back)
                    _put(x, i + 2 * sub, cr, ci)
                    _put(x, i + 3 * sub, dr, di)
                elif radix == 2:
                    ar, ai, br, bi = _two(ar, ai, br, bi)
                elif radix == 3:
                    cr, ci = _get(x, i + 2 * sub)
                    cr, ci = _turn(cr, ci, w, at + 1, back)
                    ar, ai, br, bi, cr, ci = _three(ar, ai, br, bi, cr, ci, back)
                    _put(x, i + 2 * sub, cr, ci)
                else:
                    cr, ci = _get(x, i + 2 * sub)
                    dr, di = _get(x, i + 3 * sub)
                    er, ei = _get(x, i + 4 * sub)
                    cr, ci = _turn(cr, ci, w, at + 1, back)
                    dr, di = _turn(dr, di, w, at + 2, back)
                    er, ei = _turn(er, ei, w, at + 3, back)
                    ar, ai, br, bi, cr, ci, dr, di, er, ei = _five(
                        ar, ai, br, bi, cr, ci, dr, di, er, ei, back
                    )
                    _put(x, i + 2 * sub, cr, ci)
                    _put(x, i + 3 * sub, dr, di)
                    _put(x, i + 4 * sub, er, ei)
                _put(x, i, ar, ai)
                _put(x, i + sub, br, bi)


@compile_kernel("void(f4[:,:,:,::1], f4[:,:,::1], i8[::1], f4[:,::1], i8[::1], i8[::1])")
def _filter(x: Any, spectrum: Any, radices: Any, w: Any, order: Any, chunks: Any) -> None:
    """Filter the columns of x (n, n, X, 2) in chunks of LANES that begin at ``chunks``."""
    n, length = x.shape[0], spectrum.shape[0]
    planes = np.empty((n, length * STEP), np.float32)
    line = np.empty(length * STEP, np.float32)
    scale = np.float32(1 / length**2)
    for first in chunks:
        for k in range(n):
            plane = planes[k]
            for j in range(n):
                for l in range(LANES):
                    plane[j * STEP + l] = x[k, j, first + l, 0]
                    plane[j * STEP + LANES + l] = x[k, j, first + l, 1]
            plane[n * STEP :] = 0
            forward(plane, length, radices, w)
        for j in range(length):
            for k in range(n):
                re, im = load(planes[k], j * STEP), load(planes[k], j * STEP + LANES)
                _put(line, k, re, im)
            line[n * STEP :] = 0
            forward(line, length, radices, w)
            for k in range(length):
                factor = load(spectrum[order[k], order[j]], first) * scale
                re, im = _get(line, k)
                _put(line, k, re * factor, im * factor)
            backward(line, length, radices, w)
            for k in range(n):
                re, im = _get(line, k)
                store(planes[k], j * STEP, re)
                store(planes[k], j * STEP + LANES, im)
        for k in range(n):
            plane = planes[k]
            backward(plane, length, radices, w)
            for j in range(n):
                for l in range(LANES):
                    x[k, j, first + l, 0] = plane[j * STEP + l]
                    x[k, j, first + l, 1] = plane[j * STEP + LANES + l]


def filter_columns(x: NDArray[np.complex64], spectrum: NDArray[np.float32], threads: int = 0) -> int:
    """Convolve columns along the first two axes, in place; returns how many, whole multiples of ``LANES``.

    Parameters
    ----------
    x : (n, n, X)
        A volume, transformed along its last axis.
    spectrum : (L, L, X)
        L at least 2n, without prime factors above 5: x is padded with zeros to L, and cropped to n again.
    """
    chunks = np.arange(x.shape[2] // LANES) * LANES
    parts = x.view(np.float32).reshape(*x.shape, 2)
    count = thread_count(threads)

    def work(mine: NDArray[np.int64]) -> None:
        _filter(parts, spectrum, *plan(len(spectrum)), mine)

    # every call holds the planes of one chunk: as many calls as threads; chunks do not know of each other
    for_each(work, [np.ascontiguousarray(chunks[k::count]) for k in range(count)], threads)
    return len(chunks) * LANES
