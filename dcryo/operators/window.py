"""Kaiser-Bessel spreading window: how a sample off the grid is put on it, and how that is undone.

A sample at u (grid cells) is spread onto the W nearest grid points of every axis with the weights

    w(x) = I0(beta sqrt(1 - (2x/W)^2)) / I0(beta),   |x| <= W/2,

and the blur is divided out after the FFT by w's Fourier transform kappa.  Fessler & Sutton (2003), IEEE TSP
51:560; beta after Beatty, Nishimura & Pauly (2005), IEEE TMI 24:799.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from scipy.special import i0

from dcryo.errors import InputError

TAPS = 8
"""Taps that the polynomials are padded to: half a vector of floats."""

DEGREE = 7
"""Degree of the polynomials: they err by 1e-7 of the largest weight, the rounding of a float."""


def even_fast_length(least: int) -> int:
    """Smallest even FFT-friendly length >= ``least``."""
    size = least
    while True:
        size = int(next_fast_len(size, real=True))
        if size % 2 == 0:
            return size
        size += 1


@dataclass(frozen=True)
class Window:
    """Kaiser-Bessel window of ``width`` taps on a grid oversampled by ``oversampling``."""

    width: int
    oversampling: float

    def grid_size(self, n: int) -> int:
        """Smallest even FFT-friendly length >= oversampling * n."""
        return even_fast_length(math.ceil(self.oversampling * n - 1e-9))

    @cached_property
    def beta(self) -> float:
        """Shape parameter."""
        return math.pi * math.sqrt(
            (self.width / self.oversampling) ** 2 * (self.oversampling - 0.5) ** 2 - 0.8
        )

    @cached_property
    def polynomial(self) -> NDArray[np.float32]:
        """Coefficients of the taps as polynomials, (DEGREE + 1, TAPS) float32, lowest degree first.

        The variable is s = 2 (j - (u - W/2)) - 1 in [-1, 1] for the first grid point j = ceil(u - W/2); a
        least-squares fit at the Chebyshev points.  Taps beyond the width are 0.
        """
        s = np.cos(np.pi * (np.arange(4 * DEGREE) + 0.5) / (4 * DEGREE))
        distance = (s[:, None] + 1) / 2 + np.arange(self.width) - self.width / 2
        root = np.sqrt(np.maximum(1 - (2 * distance / self.width) ** 2, 0))
        fit = chebyshev.chebfit(s, i0(self.beta * root) / i0(self.beta), DEGREE)
        coefficients = np.zeros((DEGREE + 1, TAPS), np.float32)
        for tap in range(self.width):
            coefficients[:, tap] = chebyshev.cheb2poly(fit[:, tap])
        return coefficients

    def transform(self, k: NDArray[np.integer], grid_size: int) -> NDArray[np.float64]:
        """kappa(k), the integral of w(x) exp(-2 pi i k x / grid_size), for integer positions k."""
        z2 = self.beta**2 - (np.pi * self.width * np.asarray(k, float) / grid_size) ** 2
        z = np.maximum(np.sqrt(np.abs(z2)), 1e-9)
        return np.asarray(self.width / i0(self.beta) * np.where(z2 >= 0, np.sinh(z) / z, np.sin(z) / z))


WINDOWS = {"fast": Window(6, 1.25), "default": Window(6, 1.5), "accurate": Window(6, 2.0)}
"""Spreading accuracy by name: about 5e-4, 6e-5 and 8e-6 of the largest value."""


def window(accuracy: str) -> Window:
    """Window of that accuracy; raises InputError for an unknown name."""
    try:
        return WINDOWS[accuracy]
    except KeyError:
        known = ", ".join([*WINDOWS, "reference"])
        raise InputError(f"accuracy {accuracy!r} is not known; choose one of {known}") from None
