"""Normal equations of one batch as the tests want them, and how they are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import oracle

from dcryo.imaging.particles import Particles
from dcryo.operators.normal import Accumulator, NormalEquations
from dcryo.operators.views import make_radial, make_views

SPREADING = {"fast": 5e-4, "default": 6.4e-5, "accurate": 8.5e-6}
"""Relative error of spreading in three dimensions (measured against exact sums)."""

SMALL = 2.0
"""Boxes as small as the oracle's are all edge, where the window is worst: twice that is allowed."""


def accumulate(
    particles: Particles,
    images: np.ndarray,
    n: int,
    *,
    scale: int = 1,
    accuracy: str = "reference",
    basis: Callable[[np.ndarray], np.ndarray] = oracle.flat,
    spectra: Sequence[np.ndarray] | None = None,
    symmetry: np.ndarray | None = None,
    threads: int = 1,
) -> NormalEquations:
    """Normal equations of one batch; white noise of variance 1 unless ``spectra`` are given."""
    if spectra is None:
        spectra = [np.ones(n // 2 + 1)] * len(particles.optics)
    ratios = [oracle.PIXEL / o.pixel_size for o in particles.optics]
    radial = make_radial(basis, spectra, n, ratios)
    sums = Accumulator(n, radial, accuracy=accuracy, symmetry=symmetry, threads=threads)
    sums.add(images, make_views(particles, oracle.PIXEL, scale))
    return sums.finish()


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Distance over the norm of what is expected."""
    found, expected = np.ravel(found).astype(np.float64), np.ravel(expected).astype(np.float64)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def lags(equations: NormalEquations) -> np.ndarray:
    """The kernel r, lag 0 first."""
    length = equations.spectrum.shape[0]
    spectrum = equations.spectrum.astype(np.float64)
    return np.fft.irfftn(spectrum, s=(length, length, length), axes=(0, 1, 2))
