"""Similarity numbers on cases worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dcryo.errors import InputError
from dcryo.metrics import correlation, nrmse, psnr


def test_correlation_ignores_scale_and_offset_but_not_sign() -> None:
    a = np.random.default_rng(0).standard_normal((4, 5, 6))
    assert correlation(a, 3 * a + 7) == pytest.approx(1, abs=1e-14)
    assert correlation(a, -a) == pytest.approx(-1, abs=1e-14)
    # (1, 2, 3) and (1, 3, 2): deviations (-1, 0, 1) and (-1, 1, 0) have product 1 and norms sqrt 2
    assert correlation([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)
    assert correlation(a, np.ones_like(a)) == 0


def test_relative_error_and_peak_ratio() -> None:
    reference = np.array([[0.0, 3.0], [4.0, 0.0]])
    error = np.array([[0.0, 1.0], [0.0, 0.0]])
    assert nrmse(reference, reference) == 0
    assert nrmse(reference + error, reference) == pytest.approx(1 / 5)
    # range 4, rms error 1/2: 20 log10(8)
    assert psnr(reference + error, reference) == pytest.approx(20 * math.log10(8))
    assert psnr(reference, reference) == math.inf


def test_float32_and_integers_are_summed_in_double() -> None:
    a = np.full(3_000_000, 1e4, np.float32)
    a[::2] += 1  # float32 sums of squares would drown the 1
    assert nrmse(a + np.float32(1), a) == pytest.approx(1 / math.sqrt(1e8 + 1e4 + 0.5), rel=1e-9)
    assert correlation(np.array([0, 200], np.uint8), np.array([200, 0], np.uint8)) == pytest.approx(-1)


def test_what_has_no_value_is_refused() -> None:
    a = np.ones(3)
    with pytest.raises(InputError, match="cannot be compared"):
        correlation(a, np.ones(4))
    with pytest.raises(InputError, match="NaN"):
        nrmse([1, np.nan, 1], a)
    with pytest.raises(InputError, match="zero everywhere"):
        nrmse(a, 0 * a)
    with pytest.raises(InputError, match="constant"):
        psnr(a, a)
