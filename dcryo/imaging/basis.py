"""Basis functions: what one coefficient of a volume stands for.

A volume is f(r) = sum_k c[k] phi(r - k), in voxels; the operators need the Fourier transform of phi, which is
radial and therefore also that of its projection.  Two are on offer: band-limited voxels (transform 1 on
|w| < pi, so that the coefficients are the samples of the map) and the Kaiser-Bessel window of Lewitt (1990)
J. Opt. Soc. Am. A 7, 1834,

    phi(r)        = beta^m I_m(alpha beta) / I_m(alpha),    beta = sqrt(1 - (r / a)^2), zero beyond r = a
    P phi(r)      = a A beta^(m + 1/2) I_(m+1/2)(alpha beta),    A = sqrt(2 pi / alpha) / I_m(alpha)
    (P phi)'(r)   = -(alpha r A / a) beta^(m - 1/2) I_(m-1/2)(alpha beta)
    phi^(w)       = (2 pi)^(3/2) a^3 alpha^m / I_m(alpha) I_(m+3/2)(z) / z^(m+3/2),    z^2 = alpha^2 - a^2 w^2

with J in place of I where z is imaginary.  At scale s, phi(r / s) has the projection s P phi(r / s) and the
transform s^3 phi^(s w).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gamma, ive, jv

from dcryo.errors import InputError

Float64 = NDArray[np.float64]


class Basis(Protocol):
    """What the operators ask of a basis function."""

    @property
    def spec(self) -> str:
        """The text that :func:`parse_basis` turns into this basis."""
        ...

    def fourier(self, w: ArrayLike) -> Float64:
        """Fourier transform at the radial frequencies ``w`` [rad per voxel]."""
        ...


@dataclass(frozen=True)
class BandLimited:
    """The ideal voxel: all frequencies below Nyquist alike, none above; the operators do the cut."""

    @property
    def spec(self) -> str:
        """``voxel``."""
        return "voxel"

    def fourier(self, w: ArrayLike) -> Float64:
        """One, in the shape of ``w``."""
        return np.ones(np.shape(w))


@dataclass(frozen=True)
class KaiserBessel:
    """Kaiser-Bessel window function of support ``radius`` [voxels], taper ``alpha`` and order ``order``.

    Raises
    ------
    InputError
        If the radius or the taper is not positive, or the order less than 1.
    """

    radius: float = 4.0
    alpha: float = 19.0
    order: int = 2

    def __post_init__(self) -> None:
        finite = math.isfinite(self.radius) and math.isfinite(self.alpha)
        if not (finite and self.radius > 0 and self.alpha > 0 and self.order >= 1):
            raise InputError(
                f"basis {self.spec}: a Kaiser-Bessel window needs a positive radius, a positive taper and an "
                "order of at least 1, for example kbwf:4,19,2"
            )

    @property
    def spec(self) -> str:
        """``kbwf:radius,alpha,order``."""
        return f"kbwf:{self.radius:g},{self.alpha:g},{self.order}"

    def value(self, r: ArrayLike) -> Float64:
        """Window phi at the distances ``r`` [voxels]."""
        return self._radial(r, self.order)

    def projection(self, r: ArrayLike) -> Float64:
        """Line integral P phi at the distances ``r`` of the line from the centre [voxels]."""
        return self.radius * math.sqrt(2 * math.pi / self.alpha) * self._radial(r, self.order + 0.5)

    def projection_slope(self, r: ArrayLike) -> Float64:
        """Derivative of :meth:`projection` with respect to ``r``."""
        factor = -math.sqrt(2 * math.pi * self.alpha) / self.radius
        return factor * np.asarray(r, dtype=np.float64) * self._radial(r, self.order - 0.5)

    def fourier(self, w: ArrayLike) -> Float64:
        """Fourier transform at the radial frequencies ``w`` [rad per voxel]."""
        square = self.alpha**2 - (self.radius * np.asarray(w, dtype=np.float64)) ** 2
        nu = self.order + 1.5
        z = np.sqrt(np.abs(square))
        safe = np.where(z > 0, z, 1.0)
        # Scaled Bessel functions: I alone overflows at alpha = 700, the quotient never does.
        growing = ive(nu, safe) * np.exp(np.where(square > 0, safe, 0.0) - self.alpha)
        waving = jv(nu, safe) * math.exp(-self.alpha)
        quotient = np.where(square > 0, growing, waving) / safe**nu
        quotient = np.where(z > 0, quotient, math.exp(-self.alpha) / (2**nu * gamma(nu + 1)))
        scale = (2 * math.pi) ** 1.5 * self.radius**3 * self.alpha**self.order / ive(self.order, self.alpha)
        return np.asarray(scale * quotient, dtype=np.float64)

    def _radial(self, r: ArrayLike, nu: float) -> Float64:
        """beta^nu I_nu(alpha beta) / I_m(alpha), zero beyond the radius."""
        square = 1 - (np.asarray(r, dtype=np.float64) / self.radius) ** 2
        beta = np.sqrt(np.maximum(square, 0.0))
        bessel = ive(nu, self.alpha * beta) * np.exp(self.alpha * (beta - 1)) / ive(self.order, self.alpha)
        return np.asarray(np.where(square >= 0, beta**nu * bessel, 0.0), dtype=np.float64)


def parse_basis(text: str) -> BandLimited | KaiserBessel:
    """The basis named on a command line: ``voxel``, or ``kbwf:RADIUS,ALPHA,ORDER``.

    Raises
    ------
    InputError
        For any other text.
    """
    if text == "voxel":
        return BandLimited()
    name, _, rest = text.partition(":")
    numbers = rest.split(",")
    try:
        if name == "kbwf" and len(numbers) == 3:
            return KaiserBessel(float(numbers[0]), float(numbers[1]), int(numbers[2]))
    except ValueError:
        pass  # not numbers: the same answer as for any other text
    raise InputError(f"--basis {text}: give voxel, or kbwf:RADIUS,ALPHA,ORDER, for example kbwf:4,19,2")
