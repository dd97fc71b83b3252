"""Noise made to a spectrum has it, and the corners give it back, whatever sits in the middle."""

from __future__ import annotations

import numpy as np
import pytest

from dcryo.errors import InputError
from dcryo.imaging.noise import CornerSpectrum, coloured_noise, signal_power, white


def shell_means(images: np.ndarray) -> np.ndarray:
    """E|F|^2 / n^2 on shells, straight from the definition."""
    n = images.shape[-1]
    power = np.mean(np.abs(np.fft.fft2(images.astype(np.float64))) ** 2, axis=0) / n**2
    q = np.fft.fftfreq(n) * n
    radius = np.rint(np.hypot(q[:, None], q[None, :]))
    return np.array([power[radius == k].mean() for k in range(n // 2 + 1)])


def falling(n: int) -> np.ndarray:
    k = np.arange(n // 2 + 1)
    return 0.5 + 4 * np.exp(-((k / (0.15 * n)) ** 2))


@pytest.mark.parametrize("n", [32, 33])
def test_coloured_noise_has_its_spectrum(n: int) -> None:
    spectrum = falling(n)
    images = coloured_noise(np.random.default_rng(0), spectrum, n, 4000)
    assert images.dtype == np.float32
    # A shell of m >= 4 samples, half of them independent, over 4000 images: 5 sqrt(2 / 16000).
    np.testing.assert_allclose(shell_means(images)[1:], spectrum[1:], rtol=0.06)
    assert shell_means(images)[0] == pytest.approx(spectrum[0], rel=5 * np.sqrt(2 / 4000))


def test_white_noise_is_its_variance() -> None:
    np.testing.assert_array_equal(white([1.0, 3.0], 7), [[1.0] * 4, [3.0] * 4])
    images = coloured_noise(np.random.default_rng(1), white(2.5, 16), 16, 2000)
    assert images.var() == pytest.approx(2.5, rel=5 * np.sqrt(2 / images.size))


def test_noise_is_reproducible() -> None:
    a, b = (coloured_noise(np.random.default_rng(7), falling(16), 16, 3) for _ in range(2))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("n", [40, 41])
@pytest.mark.parametrize("kind", ["white", "coloured"])
def test_corners_give_the_spectrum_back(n: int, kind: str) -> None:
    rng = np.random.default_rng(3)
    spectrum = white(2.0, n) if kind == "white" else falling(n)
    estimate = CornerSpectrum(n, 3)
    index = np.arange(n) - n // 2
    particle = 50.0 * (np.hypot(index[:, None], index) < n / 2 - 1)  # must not be seen
    for _ in range(4):
        images = coloured_noise(rng, spectrum, n, 500) + particle + rng.normal(size=(500, 1, 1))
        estimate.add(images.astype(np.float32), np.full(500, 1))
    result = estimate.result()
    assert result.shape == (3, n // 2 + 1)
    assert np.isnan(result[[0, 2]]).all()
    assert result[1, 0] == result[1, 1]
    # The taper at a third of the box smooths over about 3 shells: where the spectrum bends on the scale of 6
    # shells, around its top, that costs curvature * variance / 2, up to 20 %.  Elsewhere sampling is left.
    if kind == "coloured":
        np.testing.assert_allclose(result[1, :5], spectrum[:5], rtol=0.22)
    np.testing.assert_allclose(result[1, 5:], spectrum[5:], rtol=0.06)
    if kind == "white":
        np.testing.assert_allclose(result[1, :5], 2.0, rtol=0.06)


def test_groups_are_estimated_apart_and_batches_do_not_matter() -> None:
    n = 24
    rng = np.random.default_rng(5)
    group = rng.integers(0, 2, 1000)
    images = (
        rng.normal(size=(1000, n, n)).astype(np.float32) * np.sqrt(np.array([1.0, 9.0]))[group, None, None]
    )
    whole, parts = CornerSpectrum(n, 2), CornerSpectrum(n, 2)
    whole.add(images.astype(np.float32), group)
    for start in range(0, 1000, 300):
        parts.add(images[start : start + 300].astype(np.float32), group[start : start + 300])
    np.testing.assert_allclose(whole.result(), parts.result(), rtol=1e-6)  # float32 sums in another order
    np.testing.assert_allclose(whole.result()[:, 4:].mean(axis=1), [1.0, 9.0], rtol=0.03)


def test_signal_power_in_both_definitions() -> None:
    images = np.stack([np.full((4, 4), 3.0), np.arange(16.0).reshape(4, 4)])
    assert signal_power(images) == pytest.approx((0 + np.arange(16).var()) / 2)
    assert signal_power(images, "power") == pytest.approx((9 + np.mean(np.arange(16) ** 2)) / 2)


def test_bad_spectra_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match=r"need \(9,\)"):
        coloured_noise(rng, np.ones(8), 16, 1)
    with pytest.raises(InputError, match="not finite"):
        coloured_noise(rng, np.full(9, np.nan), 16, 1)
    with pytest.raises(InputError, match="corners"):
        CornerSpectrum(6, 1)
