"""From coefficients to the map they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from dcryo.imaging.basis import Basis

Float32 = NDArray[np.float32]


def sample_map(coefficients: NDArray[np.floating[Any]], basis: Basis, box: int, workers: int = 1) -> Float32:
    """Samples of ``sum_k c[k] phi((r - s k) / s)`` on a grid of ``box`` points over the same field of view.

    Parameters
    ----------
    coefficients : (n, n, n)
        On a grid of spacing s = box / n, centred on n // 2.
    basis : Basis
        phi, by its Fourier transform.
    box : int
        At least n; the result is centred on box // 2.  The Nyquist planes of an even n belong to no data and
        are left out where the grid becomes finer.

    Returns
    -------
    (box, box, box) float32
    """
    n = coefficients.shape[0]
    frequency = 2 * np.pi * np.fft.fftfreq(n)
    squares = frequency**2
    radius = np.sqrt(squares[:, None, None] + squares[None, :, None] + (2 * np.pi * np.fft.rfftfreq(n)) ** 2)
    flat = np.asarray(basis.fourier(np.minimum(radius, np.pi)), np.float32)
    if box == n and np.all(flat == 1):
        return np.asarray(coefficients, np.float32)
    centred = np.fft.ifftshift(np.asarray(coefficients, np.float32))
    spectrum: Any = scipy.fft.rfftn(centred, workers=workers) * flat
    if box != n:
        # the corners of the coarse band are inside the finer one, and hold no data
        spectrum[radius > np.pi] = 0
        top = (n - 1) // 2
        wide = np.zeros((box, box, box // 2 + 1), np.complex64)
        keep = np.r_[0 : top + 1, -top:0] if top else np.array([0])
        wide[np.ix_(keep, keep, np.arange(top + 1))] = spectrum[np.ix_(keep, keep, np.arange(top + 1))]
        spectrum = wide * np.float32((box / n) ** 3)
    out = scipy.fft.irfftn(spectrum, s=(box,) * 3, workers=workers)
    return np.asarray(np.fft.fftshift(out), np.float32)
