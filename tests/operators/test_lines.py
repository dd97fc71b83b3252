"""Products in Fourier space along two padded axes, against numpy's transforms in double precision."""

from __future__ import annotations

import numpy as np
import pytest

from dcryo.operators.lines import filter_columns, plan
from dcryo.operators.vector import LANES

COLUMNS = 2 * LANES + 3


def example(n: int, length: int, columns: int = COLUMNS) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(length)
    parts = rng.standard_normal((n, n, columns, 2)).astype(np.float32)
    return parts.view(np.complex64)[..., 0], rng.standard_normal((length, length, columns)).astype(np.float32)


@pytest.mark.parametrize(
    ("n", "length"), [(8, 16), (7, 16), (8, 32), (9, 18), (5, 10), (25, 50), (15, 30), (20, 45), (16, 64)]
)
def test_filters_as_numpy_does(n: int, length: int) -> None:
    """All radices, lengths of one and of several stages, boxes that fill half of them or less."""
    x, spectrum = example(n, length)
    padded = np.fft.fft2(x.astype(np.complex128), s=(length, length), axes=(0, 1))
    expected = np.fft.ifft2(padded * spectrum, axes=(0, 1))[:n, :n]
    found = x.copy()
    whole = filter_columns(found, spectrum, threads=1)
    assert whole == 2 * LANES
    error = np.linalg.norm(found[:, :, :whole] - expected[:, :, :whole])
    # float32: some 6e-8 for each of a dozen stages, in the mean square
    assert error < 5e-7 * np.linalg.norm(expected[:, :, :whole])
    np.testing.assert_array_equal(found[:, :, whole:], x[:, :, whole:])


def test_bits_do_not_depend_on_threads() -> None:
    x, spectrum = example(8, 16, 5 * LANES)
    found = [x.copy() for _ in range(3)]
    for copy, threads in zip(found, (1, 2, 7), strict=True):
        assert filter_columns(copy, spectrum, threads) == 5 * LANES
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_few_columns_are_left_to_others() -> None:
    x, spectrum = example(4, 8, LANES - 1)
    kept = x.copy()
    assert filter_columns(x, spectrum, threads=2) == 0
    np.testing.assert_array_equal(x, kept)


def test_large_factors_are_refused() -> None:
    with pytest.raises(ValueError, match="the length 28 has a prime factor above 5"):
        plan(28)
