"""Circular convolutions, diagonal in the FFT of the box, and the one nearest to a convolution inside a mask.

S T S, with T the convolution by the kernel r and S a mask, has the entries r[k - l] S[k] S[l].  Among all
circular convolutions the nearest to it in the Frobenius norm has the kernel

    c[j] = 1/n^3 sum over k = j modulo n of r[k] (S * S)[k],    (S * S)[k] = sum_l S[l] S[l + k]

(T. Chan 1988, SIAM J. Sci. Stat. Comput. 9:766, whose triangular weights are the autocorrelation of a box).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.arrays import irfftn, namespace, rfftn

Real = NDArray[np.floating[Any]]


def filtered(x: Real, eigenvalues: Real, workers: int = 1) -> Real:
    """``x`` convolved with the circulant of these eigenvalues, which are in the layout of rfftn."""
    out: Real = irfftn(rfftn(x, workers) * eigenvalues, x.shape, workers)
    return out


def nearest_circulant(spectrum: Real, mask: Real, workers: int = 1) -> Real:
    """Eigenvalues of the circulant nearest to a confined convolution, none below 0.

    Parameters
    ----------
    spectrum : (L, L, L//2+1)
        Of a :class:`dcryo.operators.normal.NormalEquations`, L at least 2n - 1.
    mask : (n, n, n)

    Returns
    -------
    (n, n, n//2+1) float32, in the layout of rfftn
    """
    n, length = mask.shape[0], spectrum.shape[0]
    padded = (length,) * 3
    lags = irfftn(_single(spectrum), padded, workers)
    frame = namespace(spectrum).zeros(padded, np.float32)
    frame[:n, :n, :n] = mask
    overlap = rfftn(frame, workers)
    lags *= irfftn(_single(overlap.real**2 + overlap.imag**2), padded, workers)
    for axis in range(3):
        lags = _wrapped(lags, axis, n)
    eigenvalues = rfftn(lags, workers).real / np.float32(n**3)
    nearest: Real = np.maximum(eigenvalues, np.float32(0))
    return nearest


def _single(spectrum: Real) -> Real:
    """Real spectrum in float32, whose inverse transform is float32."""
    return spectrum.astype(np.float32, copy=False)


def _wrapped(lags: Real, axis: int, n: int) -> Real:
    """Sum of the lags of one axis that are the same modulo n: those from 0 on, and those from -n + 1 on."""
    first = np.take(lags, range(n), axis)
    last = np.take(lags, range(lags.shape[axis] - n + 1, lags.shape[axis]), axis)
    index = [slice(None)] * 3
    index[axis] = slice(1, n)
    first[tuple(index)] += last
    return first
