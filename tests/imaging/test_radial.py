"""Radial filters against the full transform, plane waves and formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dcryo.imaging.radial import (
    bfactor_gain,
    filtered,
    low_pass,
    multiplicities,
    nearest_shell,
    shell_gain,
    squared_radii,
)


def radii(n: int) -> np.ndarray:
    """|q| of every voxel of the full transform, in cycles per box."""
    q = np.fft.fftfreq(n) * n
    return np.sqrt(q[:, None, None] ** 2 + q[:, None] ** 2 + q**2)


@pytest.mark.parametrize("n", [7, 8])
def test_a_half_spectrum_stands_for_the_whole_one(n: int) -> None:
    """Every frequency is there once, with its length."""
    half = np.stack(list(squared_radii(n)))
    whole = np.rint(radii(n) ** 2).astype(int)
    np.testing.assert_array_equal(half, whole[:, :, : n // 2 + 1])
    counted = np.bincount(half.ravel(), np.broadcast_to(multiplicities(n), half.shape).ravel())
    np.testing.assert_array_equal(counted, np.bincount(whole.ravel()))


@pytest.mark.parametrize("n", [9, 10])
def test_a_filter_multiplies_the_full_transform(n: int) -> None:
    volume = np.random.default_rng(0).standard_normal((n, n, n))
    result = filtered(volume, lambda radius: 1 / (1 + radius**2))
    expected = np.fft.ifftn(np.fft.fftn(volume) / (1 + radii(n) ** 2)).real
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-6)  # float32 of values of order 1


def test_a_low_pass_keeps_falls_and_ends() -> None:
    gain = low_pass(6, 2)
    # RELION's edge: 1 up to a shell less, half at the shell, 0 from a shell more
    np.testing.assert_allclose(gain(np.array([0, 5, 6, 7, 9.0])), [1, 1, 0.5, 0, 0], atol=1e-15)
    np.testing.assert_allclose(gain(np.array([5.5])), 0.5 + 0.5 * math.cos(math.pi / 4), atol=1e-15)
    np.testing.assert_array_equal(low_pass(6, 0)(np.array([6.0, 6.1])), [1, 0])
    np.testing.assert_allclose(low_pass(0.5, 2)(np.array([0, 1.5])), [1, 0], atol=1e-15)  # never below 0


def test_one_value_per_shell() -> None:
    gain = shell_gain([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(gain(np.array([0.4, 0.6, 1.4, 2.4, 2.6, 9])), [1, 2, 2, 3, 0, 0])


def test_a_b_factor_is_a_gaussian_of_the_frequency() -> None:
    n, pixel, b = 20, 1.5, -80.0
    s = np.array([0.0, 0.1, 1 / 3])
    np.testing.assert_allclose(bfactor_gain(b, n, pixel)(s * n * pixel), np.exp(20 * s**2), rtol=1e-12)
    np.testing.assert_array_equal(bfactor_gain(b, n, pixel)(np.array([10.01, 17])), 0)  # beyond Nyquist


def test_resolutions_are_rounded_to_shells() -> None:
    assert nearest_shell(10, 100, 1.0) == 10
    assert nearest_shell(9.6, 100, 1.0) == 10  # 10.4
    assert nearest_shell(9.5, 100, 1.0) == 11  # 10.5
    assert nearest_shell(1000, 100, 1.0) == 1
