"""Images on another pixel size or in another box, the centre kept on the index ``n // 2``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from dcryo.errors import InputError

Float32 = NDArray[np.float32]


def fourier_crop(images: NDArray[Any], size: int) -> Float32:
    """Images (k, n, n) on ``size`` pixels of the same field of view, by cropping their Fourier transform.

    The pixel grows by ``n / size`` exactly, and the values stay those of the band-limited image.  At an even
    ``size`` the Nyquist frequency is left out: half of it is beyond the old grid's information.

    Raises
    ------
    InputError
        ``size`` larger than n: there is nothing to fill the new frequencies with, and a noise spectrum that
        vanishes there could not be divided by.
    """
    n = images.shape[-1]
    if size > n:
        raise InputError(f"images of {n} px cannot be resampled to {size} px; choose a coarser pixel size")
    if size == n:
        return np.asarray(images, np.float32)
    spectrum = fft.rfft2(fft.ifftshift(np.asarray(images, np.float32), axes=(1, 2)))
    top = (size - 1) // 2  # the highest frequency kept
    cropped = np.zeros((len(images), size, size // 2 + 1), np.complex64)
    cropped[:, : top + 1, : top + 1] = spectrum[:, : top + 1, : top + 1]
    if top:
        cropped[:, -top:, : top + 1] = spectrum[:, -top:, : top + 1]
    cropped *= np.float32((size / n) ** 2)
    return np.asarray(fft.fftshift(fft.irfft2(cropped, s=(size, size)), axes=(1, 2)), np.float32)


def window(images: NDArray[Any], box: int) -> NDArray[Any]:
    """The central ``box`` pixels of images (k, n, n), ``box <= n``: index n // 2 goes to box // 2."""
    n = images.shape[-1]
    if box > n:
        raise InputError(f"images of {n} px cannot fill a box of {box} px; choose a smaller --box")
    start = n // 2 - box // 2
    return images[:, start : start + box, start : start + box]
