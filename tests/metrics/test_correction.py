"""The correction for the mask: Chen's formula from two shells on, for one curve or many."""

from __future__ import annotations

import numpy as np

from dcryo.metrics.correction import corrected_for_mask


def test_formula_start_and_floor() -> None:
    masked = np.array([1, 0.9, 0.8, 0.7, 0.6, 0.3, 0.2, 1.0])
    randomised = np.array([1, 0.9, 0.7, 0.4, 0.2, 0.1, 0.4, 1.0])
    corrected = corrected_for_mask(masked, randomised, 2)
    expected = [1, 0.9, 0.8, 0.7, (0.6 - 0.2) / 0.8, (0.3 - 0.1) / 0.9, 0, 0]
    np.testing.assert_allclose(corrected, expected)
    np.testing.assert_allclose(corrected_for_mask(np.stack([masked, randomised]), randomised, 2)[0], expected)
    np.testing.assert_array_equal(masked, [1, 0.9, 0.8, 0.7, 0.6, 0.3, 0.2, 1.0])  # left alone
    np.testing.assert_array_equal(corrected_for_mask(masked, randomised, 20), masked)
