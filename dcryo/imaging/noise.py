"""Noise: its spectrum, how to make it and how to estimate it from the corners of particle images.

A spectrum is ``E|F|^2 / n^2`` of an image on the Fourier shells 0 .. n // 2 (:mod:`dcryo.conventions`); white
noise of pixel variance v has the spectrum v.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from dcryo.errors import InputError

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

LAG_RADIUS = 1 / 3
"""Lags up to this fraction of the box enter a spectrum; it sets the width of its smoothing."""

FLOOR = 1e-3
"""No shell of an estimate falls below this fraction of the mean of the shells: it will be divided by."""


def white(variance: ArrayLike, n: int) -> Float64:
    """Spectrum of white noise: ``variance`` of any shape (...) gives (..., n // 2 + 1)."""
    level = np.asarray(variance, dtype=np.float64)
    return np.repeat(level[..., None], n // 2 + 1, axis=-1)


def coloured_noise(rng: np.random.Generator, spectrum: ArrayLike, n: int, count: int) -> Float32:
    """Gaussian noise images (count, n, n) whose shells have the spectrum (n // 2 + 1,).

    Frequencies beyond the last shell, in the corners of Fourier space, take its value.

    Raises
    ------
    InputError
        If the spectrum has another length, or a value that is negative or not finite.
    """
    values = np.asarray(spectrum, dtype=np.float64)
    if values.shape != (n // 2 + 1,):
        raise InputError(f"noise spectrum of shape {values.shape}: images of {n} pixels need ({n // 2 + 1},)")
    if not (np.isfinite(values).all() and values.min() >= 0):
        raise InputError("noise spectrum holds values that are negative or not finite; give variances")
    images = rng.standard_normal((count, n, n), dtype=np.float32)
    if np.all(values == values[0]):
        images *= np.float32(np.sqrt(values[0]))
        return images
    gain = np.sqrt(values[np.minimum(_shells(n), n // 2)])[:, : n // 2 + 1].astype(np.float32)
    return np.asarray(fft.irfft2(fft.rfft2(images) * gain, s=(n, n)), dtype=np.float32)


def signal_power(images: NDArray[Any], definition: Literal["variance", "power"] = "variance") -> float:
    """Power of clean images (P, n, n) that the SNR speaks of: their pixel variance, averaged over particles.

    ``"power"`` takes the mean square instead (thesis, section 4.2).  Noise of variance ``signal_power / snr``
    gives the SNR wanted.
    """
    squares = np.mean(np.square(images, dtype=np.float64), axis=(1, 2))
    if definition == "variance":
        squares -= np.mean(images, axis=(1, 2), dtype=np.float64) ** 2
    return float(squares.mean())


class CornerSpectrum:
    """Noise spectra per optics group from what lies outside the circle inscribed in the images.

    The corners are few and oddly shaped, so their periodogram is a smeared spectrum.  The smear is a plain
    product in the autocorrelation, and there we divide it out: the sum over pairs of corner pixels at a lag,
    over the number of such pairs, is the covariance.  Tapered to zero at ``LAG_RADIUS`` and transformed back
    it is the estimate of Blackman & Tukey (1958), averaged over shells.

    The mean of each image's corners is taken out first, which lowers every covariance by the variance of that
    mean; the amount follows from the covariances themselves and is put back.  Shell 0 is a copy of shell 1.

    Parameters
    ----------
    box : int
        Pixels n of the images, at least 8.
    groups : int
        Number of optics groups.
    """

    def __init__(self, box: int, groups: int) -> None:
        if box < 8:
            raise InputError(
                f"box of {box} pixels: its corners are too small, use --noise white below 8 pixels"
            )
        self.box = box
        self._lag = int(LAG_RADIUS * box)
        # Padded just enough that pairs up to the largest lag do not meet across the border.
        self._size: int = fft.next_fast_len(box + self._lag, real=True)
        self._count = np.zeros(groups, dtype=np.int64)
        self._power = np.zeros((groups, self._size, self._size // 2 + 1))
        index = np.arange(box) - box // 2
        ramp = (np.hypot(index[:, None], index[None, :]) - box / 2) / (1 + 0.02 * box)
        self._mask: Float64 = 0.5 * (1 - np.cos(np.pi * np.clip(ramp, 0, 1)))

    def add(self, images: NDArray[Any], group: NDArray[np.integer[Any]]) -> None:
        """Count in images (k, n, n) that belong to the optics groups ``group`` (k,)."""
        means = np.einsum("kyx,yx->k", images, self._mask, dtype=np.float64) / self._mask.sum()
        corners = (images - means[:, None, None]) * self._mask
        transform = fft.rfft2(corners.astype(np.float32), s=(self._size, self._size))
        power = np.square(transform.real) + np.square(transform.imag)
        for index in np.unique(group):
            rows = group == index
            self._count[index] += int(rows.sum())
            self._power[index] += power[rows].sum(axis=0, dtype=np.float64)

    def result(self) -> Float64:
        """Spectra (groups, n // 2 + 1); NaN for groups without images."""
        n, lag = self.box, self._lag
        pairs = self._lags(np.abs(fft.rfft2(self._mask, s=(self._size, self._size))) ** 2)
        index = np.arange(-lag, lag + 1)
        window = np.cos(np.pi / 2 * np.minimum(np.hypot(index[:, None], index) / lag, 1)) ** 2
        # exp(-i w.d) along one axis, frequencies w of the image by lags d.
        wave = np.exp(-2j * np.pi / n * np.outer(np.arange(n), index))
        shells = _shells(n)
        inside = shells <= n // 2
        members = np.bincount(shells[inside])
        spectra = np.full((len(self._count), n // 2 + 1), np.nan)
        for group, count in enumerate(self._count):
            if count == 0:
                continue
            sums = self._lags(self._power[group] / count)
            # Variance v of the mean: v (sum mask)^2 = sum over lags of pairs * covariance, where the
            # covariance is sums / pairs + v; beyond the largest lag there is none.
            variance = sums.sum() / (self._mask.sum() ** 2 - pairs.sum())
            covariance = (sums / pairs + variance) * window
            values = np.bincount(shells[inside], (wave @ covariance @ wave.T).real[inside]) / members
            values[0] = values[1]
            spectra[group] = np.maximum(values, FLOOR * values.mean())
        return spectra

    def _lags(self, power: Float64) -> Float64:
        """Sums over pairs at the lags -lag .. lag of both axes, from a power spectrum."""
        index = np.arange(-self._lag, self._lag + 1)
        sums: Float64 = fft.irfft2(power, s=(self._size, self._size))
        return sums[np.ix_(index, index)]


def _shells(n: int) -> NDArray[np.int64]:
    """Shell number of every element of an ``fft2``, (n, n)."""
    index = fft.fftfreq(n) * n
    return np.rint(np.hypot(index[:, None], index[None, :])).astype(np.int64)
