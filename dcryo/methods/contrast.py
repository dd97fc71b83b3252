"""Is matter bright or dark in these images?  A look that finds a wrong sign before hours are spent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from dcryo.imaging.ctf import ctf_image
from dcryo.imaging.particles import Particles

INSIDE = 0.25
"""Radius of the ball that holds the particle, in boxes: smaller than most, so nearly all matter."""
OUTSIDE = 0.45
"""Beyond this radius, in boxes, there is background."""
SIGNIFICANT = 5.0
"""Standard errors from zero that settle the sign."""
FEWEST = 5
"""Images below which a standard error means nothing."""


@dataclass(frozen=True)
class Contrast:
    """Mean inside the ball minus mean outside of it, over phase-flipped images.

    ``difference`` is in standard deviations of the background and positive where matter is bright; ``z`` is
    the difference over its standard error (0 for too few images); ``background`` is the mean of the
    background, in its standard deviations.
    """

    difference: float
    z: float
    background: float
    images: int


def measure_contrast(images: NDArray[Any], particles: Particles, pixel_size: float) -> Contrast:
    """Measure the sign of matter.

    Multiplying with the sign of the CTF turns every frequency to the contrast it has at the lowest ones,
    where RELION's CTF is positive; images that were flipped or multiplied before are taken as they are.

    Parameters
    ----------
    images : (k, n, n) array
    particles : Particles
        Their k rows.
    pixel_size : float
        Å; any of the groups' will do.

    Returns
    -------
    Contrast
    """
    k, n, _ = images.shape
    as_recorded = [o.ctf and not (o.phase_flipped or o.premultiplied) for o in particles.optics]
    raw = np.array(as_recorded)[particles.optics_group]
    flipped = np.array(images, np.float64)
    if raw.any():
        centred = replace(particles, shift=np.zeros((k, 2))).take(raw)
        sign = np.where(ctf_image(centred, pixel_size, n).real < 0, -1.0, 1.0)
        flipped[raw] = fft.irfft2(fft.rfft2(flipped[raw]) * sign, s=(n, n))
    index = np.arange(n) - n // 2
    radius = np.hypot(index[:, None], index)
    outside = flipped[:, radius > OUTSIDE * n]
    noise = float(outside.std()) or 1.0
    each = (flipped[:, radius < INSIDE * n].mean(axis=1) - outside.mean(axis=1)) / noise
    # Clean images may all have the same difference: the error is then rounding, not zero.
    error = max(float(each.std(ddof=1)) / np.sqrt(k), 1e-12) if k >= FEWEST else np.inf
    return Contrast(float(each.mean()), float(each.mean() / error), float(outside.mean()) / noise, k)
