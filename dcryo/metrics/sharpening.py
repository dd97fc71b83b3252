"""Sharpening: the B factor from the map's own spectrum, and the filters that make a map to build into.

The amplitudes of a map fall off as ``exp(-B/4 s^2)`` beyond about 10 Å (Guinier plot: ln|F| against s^2).  A
straight line through the FSC-weighted plot gives B, and the map is divided by that fall-off, weighted by
``sqrt(2 FSC / (1 + FSC))``, the correlation that the full map has with the truth, and low-pass filtered
(Rosenthal and Henderson 2003, J. Mol. Biol. 333:721; in the order in which RELION does it).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray

from dcryo.imaging.radial import (
    ComplexArray,
    FloatArray,
    Gain,
    apply_gain,
    bfactor_gain,
    multiplicities,
    shell_gain,
    squared_radii,
)

FSC_ZERO = 1e-4
"""From the first shell whose FSC is below this, weights are 0 (RELION's choice)."""

FEWEST_SHELLS = 3
"""A line through fewer points says nothing of how well it fits."""


@dataclass(frozen=True)
class GuinierFit:
    """A straight line ``slope s^2 + intercept`` through ln|F|; ``correlation`` is r^2, as RELION's is.

    ``slope`` in Å^2.  ``bfactor`` undoes it: amplitudes that fall as exp(-B/4 s^2) give the sharpening -B.
    """

    slope: float
    intercept: float
    correlation: float

    @property
    def bfactor(self) -> float:
        """The B factor in Å^2 to apply, negative where it sharpens."""
        return 4 * self.slope


@dataclass(frozen=True)
class Sharpened:
    """A sharpened map, and the Guinier plot of every stage.

    ``volume`` (n, n, n).  The stages are mean amplitudes |F| of the shells 0 to n//2, (n//2+1,), of a
    transform that carries 1/n^3: ``original``, ``mtf_corrected`` (divided by the MTF), ``weighted`` (by the
    FSC too) and ``sharpened`` (by the B factor too; before the low-pass filter).  ``fit`` is None where B
    was given, or where there was too little to fit.
    """

    volume: NDArray[np.float32]
    bfactor: float
    fit: GuinierFit | None
    original: FloatArray
    mtf_corrected: FloatArray
    weighted: FloatArray
    sharpened: FloatArray


def fsc_weight(fsc: ArrayLike) -> FloatArray:
    """Weights ``sqrt(2 FSC / (1 + FSC))`` of shells, (n//2+1,); 0 from where the FSC first vanishes.

    Shell 0, whose correlation is a sign, counts as 1.
    """
    curve = np.array(fsc, np.float64)
    curve[0] = 1.0
    gone = np.flatnonzero(curve < FSC_ZERO)
    if gone.size:
        curve[gone[0] :] = 0
    weight: FloatArray = np.sqrt(2 * curve / (1 + curve))
    return weight


def mean_amplitude(spectrum: ComplexArray) -> FloatArray:
    """Mean of |F| over the shells 0 to n//2 of a half spectrum (n, n, n//2+1)."""
    n = len(spectrum)
    weights = np.broadcast_to(multiplicities(n), (n, n // 2 + 1)).ravel()
    shells = n // 2 + 1
    total, count = np.zeros(shells), np.zeros(shells)
    for plane, squared in zip(spectrum, squared_radii(n), strict=True):
        shell = np.minimum(np.rint(np.sqrt(squared)).astype(np.int64), shells).ravel()
        total += np.bincount(shell, weights * np.abs(plane).ravel(), minlength=shells + 1)[:shells]
        count += np.bincount(shell, weights, minlength=shells + 1)[:shells]
    return total / count


def fit_guinier(
    amplitude: ArrayLike, n: int, pixel_size: float, low: float, high: float
) -> GuinierFit | None:
    """Straight line through ln of ``amplitude`` over s^2, between two resolutions.

    Parameters
    ----------
    amplitude : array_like, (n//2+1,)
        Mean amplitudes of the shells; those that are 0 are left out.
    n : int
        Box size in voxels.
    pixel_size : float
        Å per voxel.
    low, high : float
        Å, inclusive; every shell between them counts the same.

    Returns
    -------
    GuinierFit or None
        None where fewer than three shells lie in the range.
    """
    values = np.asarray(amplitude, np.float64)
    s = np.arange(len(values)) / (n * pixel_size)
    # A shell that lies at the limit is inside it, whatever the division rounds to.
    used = (s * low >= 1 - 1e-9) & (s * high <= 1 + 1e-9) & (values > 0)
    if np.count_nonzero(used) < FEWEST_SHELLS:
        return None
    x, y = s[used] ** 2, np.log(values[used])
    slope, intercept = np.polyfit(x, y, 1)
    correlation = float(np.corrcoef(x, y)[0, 1]) ** 2 if np.ptp(y) > 0 else 1.0
    return GuinierFit(float(slope), float(intercept), correlation)


def sharpen(
    volume: ArrayLike,
    pixel_size: float,
    *,
    weights: ArrayLike | None,
    fit_range: tuple[float, float],
    bfactor: float | None = None,
    mtf: Gain | None = None,
    lowpass: Gain | None = None,
) -> Sharpened:
    """Divide by the MTF, weight by the FSC, sharpen by a B factor, and low-pass filter.

    Parameters
    ----------
    volume : array_like, (n, n, n)
        The average of the half maps.
    pixel_size : float
        Å per voxel.
    weights : array_like, optional
        Of the shells 0 to n//2, as :func:`fsc_weight` makes them; None: no weighting.
    fit_range : (float, float)
        The resolutions in Å between which B is fitted, coarse first.
    bfactor : float, optional
        Å^2, negative to sharpen; by default the one that is fitted.
    mtf : Gain, optional
        Modulation transfer of the detector by |q| in cycles per box.
    lowpass : Gain, optional
        Applied last.
    """
    values = np.asarray(volume, np.float64)
    n = len(values)
    spectrum: ComplexArray = scipy.fft.rfftn(values) / values.size
    original = mean_amplitude(spectrum)
    mtf_corrected = original
    if mtf is not None:
        apply_gain(spectrum, lambda radius: 1 / mtf(radius))
        mtf_corrected = mean_amplitude(spectrum)
    weighted = mtf_corrected
    if weights is not None:
        apply_gain(spectrum, shell_gain(weights))
        weighted = mean_amplitude(spectrum)
    fit = fit_guinier(weighted, n, pixel_size, *fit_range) if bfactor is None else None
    applied = bfactor if bfactor is not None else fit.bfactor if fit is not None else 0.0
    sharpened = weighted
    if applied != 0:
        apply_gain(spectrum, bfactor_gain(applied, n, pixel_size))
        sharpened = mean_amplitude(spectrum)
    if lowpass is not None:
        apply_gain(spectrum, lowpass)
    result = scipy.fft.irfftn(spectrum * values.size, s=values.shape)
    return Sharpened(
        np.asarray(result, np.float32), applied, fit, original, mtf_corrected, weighted, sharpened
    )
