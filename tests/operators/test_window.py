"""The spreading window against its integral, and the polynomials that stand for it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import i0

from dcryo.errors import InputError
from dcryo.operators.window import DEGREE, TAPS, WINDOWS, Window, window


def taps(chosen: Window, x: np.ndarray) -> np.ndarray:
    """The window from its formula."""
    root = np.sqrt(np.maximum(1 - (2 * x / chosen.width) ** 2, 0))
    return np.where(np.abs(x) <= chosen.width / 2, i0(chosen.beta * root) / i0(chosen.beta), 0)


@pytest.mark.parametrize("name", WINDOWS)
def test_transform_is_the_fourier_integral(name: str) -> None:
    chosen = window(name)
    k = np.arange(-20, 21)
    expected = [
        2
        * quad(
            lambda x, k=k: float(taps(chosen, x)) * math.cos(2 * math.pi * k * x / 40), 0, chosen.width / 2
        )[0]
        for k in k
    ]
    # quad's own error is below 1e-10
    np.testing.assert_allclose(chosen.transform(k, 40), expected, atol=1e-9)


@pytest.mark.parametrize("name", WINDOWS)
def test_polynomials_are_the_window(name: str) -> None:
    chosen = window(name)
    gap = np.random.default_rng(0).uniform(0, 1, 2000)
    powers = (2 * gap[:, None] - 1) ** np.arange(DEGREE + 1)
    found = powers @ chosen.polynomial.astype(float)
    distance = gap[:, None] + np.arange(chosen.width) - chosen.width / 2
    # the fit errs by 1e-7 (DEGREE), its coefficients, below 1, by their rounding
    assert np.abs(found[:, : chosen.width] - taps(chosen, distance)).max() < 4e-7
    assert chosen.polynomial.shape == (DEGREE + 1, TAPS)
    assert not found[:, chosen.width :].any()


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("n", [5, 6, 7, 31, 33, 64, 101])
def test_grid_is_even_long_enough_and_not_wasteful(name: str, n: int) -> None:
    chosen = window(name)
    size = chosen.grid_size(n)
    assert size % 2 == 0
    assert chosen.oversampling * n <= size <= 1.25 * chosen.oversampling * n + 2


def test_unknown_accuracy_is_named_with_the_choices() -> None:
    with pytest.raises(InputError, match=r"accuracy 'best'.*fast.*reference"):
        window("best")
