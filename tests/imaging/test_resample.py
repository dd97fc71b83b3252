"""Fourier cropping: a band-limited function has the same values on any grid."""

from __future__ import annotations

import numpy as np
import pytest

from dcryo.errors import InputError
from dcryo.imaging.resample import fourier_crop, window


def waves(n: int, length: float) -> np.ndarray:
    """Plane waves of up to 4 cycles per field of view ``length``, sampled on n pixels."""
    x = (np.arange(n) - n // 2) * length / n
    y = x[:, None]
    turn = 2 * np.pi / length
    return (np.cos(turn * (4 * x + y)) + 0.5 * np.sin(turn * (2 * y - x)) + 0.2)[None]


@pytest.mark.parametrize(("n", "size"), [(24, 16), (24, 15), (25, 16), (25, 15), (24, 24), (16, 9)])
def test_band_limited_images_keep_their_values(n: int, size: int) -> None:
    # float32 transforms of values near 1
    np.testing.assert_allclose(fourier_crop(waves(n, 10.0), size), waves(size, 10.0), atol=2e-6)


def test_what_the_new_grid_cannot_hold_is_left_out() -> None:
    x = np.arange(24) - 12
    image = np.tile(np.cos(2 * np.pi * 9 * x / 24), (24, 1))[None]  # 9 cycles, the new Nyquist is 8
    np.testing.assert_allclose(fourier_crop(image, 16), 0, atol=1e-6)


@pytest.mark.parametrize(("n", "box"), [(24, 16), (24, 15), (25, 16), (25, 15)])
def test_window_keeps_the_centre(n: int, box: int) -> None:
    image = np.zeros((1, n, n))
    image[0, n // 2, n // 2] = 1
    cut = window(image, box)
    assert cut.shape == (1, box, box)
    assert cut[0, box // 2, box // 2] == 1


def test_finer_or_wider_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be resampled to 20"):
        fourier_crop(np.zeros((1, 16, 16)), 20)
    with pytest.raises(InputError, match="cannot fill a box of 20"):
        window(np.zeros((1, 16, 16)), 20)
