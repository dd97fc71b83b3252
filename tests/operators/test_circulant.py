"""The nearest circulant against its definition, by the matrix itself."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from equations import accumulate, lags, relative

from dcryo.metrics.fsc import soft_ball
from dcryo.operators.circulant import filtered, nearest_circulant


def confined(spectrum: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """S T S written out, from the lags of the kernel."""
    n, length = len(mask), spectrum.shape[0]
    r = np.fft.irfftn(spectrum.astype(np.float64), s=(length,) * 3, axes=(0, 1, 2))
    at = np.stack(np.unravel_index(np.arange(n**3), (n, n, n)), axis=1)
    difference = (at[:, None] - at[None]) % length
    soft = mask.ravel().astype(np.float64)
    return soft[:, None] * r[tuple(np.moveaxis(difference, 2, 0))] * soft


def fourier(n: int) -> np.ndarray:
    """The unitary transform of a box, one frequency per row."""
    line = np.fft.fft(np.eye(n), norm="ortho")
    return np.kron(np.kron(line, line), line)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("n", [6, 7])
def test_eigenvalues_are_the_diagonal_in_fourier_space(n: int, soft: bool) -> None:
    """Nearest in the Frobenius norm, which the transform keeps: the diagonal stays, the rest goes."""
    spectrum = accumulate(oracle.example(8, n), oracle.noise((8, n, n), 1), n).spectrum
    mask = soft_ball(n, n / 2 - 2, 1.0) if soft else np.ones((n, n, n), np.float32)
    transform = fourier(n)
    diagonal = np.einsum("ki,ij,kj->k", transform, confined(spectrum, mask), transform.conj()).real
    expected = np.maximum(diagonal, 0).reshape(n, n, n)[:, :, : n // 2 + 1]
    found = nearest_circulant(spectrum, mask)
    assert found.dtype == np.float32
    assert relative(found, expected) < 1e-5
    np.testing.assert_array_equal(found, nearest_circulant(spectrum, mask, workers=2))


def test_a_whole_box_has_triangular_weights() -> None:
    """T. Chan's circulant of a Toeplitz matrix: lags weighted by their share of the pairs of voxels."""
    n = 6
    equations = accumulate(oracle.example(4, n), oracle.noise((4, n, n), 1), n)
    r, length = lags(equations), equations.spectrum.shape[0]
    wrapped = np.zeros((n, n, n))
    near = range(-n + 1, n)
    for z in near:
        for y in near:
            for x in near:
                share = (n - abs(z)) * (n - abs(y)) * (n - abs(x)) / n**3
                wrapped[z % n, y % n, x % n] += share * r[z % length, y % length, x % length]
    expected = np.maximum(np.fft.rfftn(wrapped).real, 0)
    assert relative(nearest_circulant(equations.spectrum, np.ones((n, n, n), np.float32)), expected) < 1e-5


@pytest.mark.parametrize("shape", [(6, 6, 6), (5, 4, 7)])
def test_filtered_convolves(shape: tuple[int, ...]) -> None:
    x, kernel = oracle.noise(shape, 2), oracle.noise(shape, 3).astype(np.float64)
    expected = np.zeros(shape)
    for k in np.ndindex(shape):
        expected += kernel[k] * np.roll(x, k, (0, 1, 2))
    found = filtered(x, np.fft.rfftn(kernel))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
