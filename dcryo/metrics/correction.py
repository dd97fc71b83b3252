"""What a mask makes alike by itself, taken off an FSC curve."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

CORRECTION_DELAY = 2
"""Shells between randomisation and correction: the mask carries true signal across the edge."""


def corrected_for_mask(masked: FloatArray, randomised: FloatArray, shell: int) -> FloatArray:
    """``(masked - randomised) / (1 - randomised)`` from two shells after ``shell`` on, at least 0.

    Chen et al. (2013), Ultramicroscopy 135:24.

    Parameters
    ----------
    masked, randomised : ndarray, (..., n//2+1)
        FSC of the masked maps, and of the masked maps whose phases are random.
    shell : int
        The first shell with random phases; RELION begins the correction two shells later.

    Returns
    -------
    ndarray, (..., n//2+1)
    """
    corrected = masked.copy()
    start = shell + CORRECTION_DELAY
    true, noise = masked[..., start:], randomised[..., start:]
    better = true > noise  # so noise < 1 there
    corrected[..., start:] = np.divide(true - noise, 1 - noise, out=np.zeros_like(true), where=better)
    return corrected
