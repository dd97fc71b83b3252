"""Similarity of a volume or an image to a reference, as single numbers for a report."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dcryo.errors import InputError


def correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Pearson correlation of two arrays of one shape over all samples, in [-1, 1]; 0 if one is constant.

    Raises
    ------
    InputError
        If the shapes differ or a value is not finite.
    """
    x, y = _pair(a, b)
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.linalg.norm(x)) * float(np.linalg.norm(y))
    return float(np.dot(x, y)) / scale if scale > 0 else 0.0


def nrmse(a: ArrayLike, reference: ArrayLike) -> float:
    """Root-mean-square error relative to the reference, ``|a - reference| / |reference|``.

    Raises
    ------
    InputError
        If the shapes differ, a value is not finite, or the reference is zero.
    """
    x, y = _pair(a, reference)
    scale = float(np.linalg.norm(y))
    if scale == 0:
        raise InputError("the reference is zero everywhere; a relative error has no meaning")
    return float(np.linalg.norm(x - y)) / scale


def psnr(a: ArrayLike, reference: ArrayLike) -> float:
    """Peak signal-to-noise ratio in dB: ``20 log10((max - min of the reference) / rms error)``.

    Infinite where the two are equal.

    Raises
    ------
    InputError
        If the shapes differ, a value is not finite, or the reference is constant.
    """
    x, y = _pair(a, reference)
    peak = float(np.ptp(y))
    if peak == 0:
        raise InputError("the reference is constant; a peak signal-to-noise ratio has no meaning")
    error = float(np.linalg.norm(x - y)) / math.sqrt(x.size)
    return 20 * math.log10(peak / error) if error > 0 else math.inf


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first: NDArray[Any] = np.asarray(a, np.float64)
    second: NDArray[Any] = np.asarray(b, np.float64)
    if first.shape != second.shape or first.size == 0:
        raise InputError(f"arrays of shape {first.shape} and {second.shape} cannot be compared")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise InputError("an array to compare contains NaN or infinite values; make it again")
    return first.ravel(), second.ravel()
