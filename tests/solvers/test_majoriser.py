"""The circular majoriser against the eigenvalues of the difference."""

from __future__ import annotations

import numpy as np
import pytest
from quadratics import Dense

from dcryo.solvers.majoriser import FLOOR, largest_eigenvalue_bound, majoriser, positive

SHAPE = (4, 4, 6)
SIZE = 96


def matrix(eigenvalues: np.ndarray) -> np.ndarray:
    columns = [
        np.fft.irfftn(np.fft.rfftn(unit.reshape(SHAPE)) * eigenvalues, s=SHAPE, axes=(0, 1, 2)).ravel()
        for unit in np.eye(SIZE)
    ]
    return np.stack(columns, axis=1)


def nearest(q: np.ndarray) -> np.ndarray:
    """Eigenvalues of the nearest circulant: the diagonal of Q in Fourier space."""
    line = [np.fft.fft(np.eye(n), norm="ortho") for n in SHAPE]
    transform = np.kron(np.kron(line[0], line[1]), line[2])
    diagonal = np.einsum("ki,ij,kj->k", transform, q, transform.conj()).real
    return diagonal.reshape(SHAPE)[:, :, : SHAPE[2] // 2 + 1].astype(np.float32)


def test_positive_lifts_the_small_ones() -> None:
    found = positive(np.array([[[0.0, 2.0, 8.0]]], np.float32))
    np.testing.assert_allclose(found, [[[8 * FLOOR, 2 + 8 * FLOOR, 8 + 8 * FLOOR]]], rtol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_majorises(seed: int) -> None:
    dense = Dense(SHAPE, 60, seed)  # Q is singular
    base = positive(nearest(dense.matrix))
    found = majoriser(dense.apply, base, SHAPE)
    assert dense.products == 12
    ratio = found / base
    np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-5)  # a multiple of what came in
    largest = np.linalg.eigvalsh(dense.matrix)[-1]
    assert np.linalg.eigvalsh(matrix(found) - dense.matrix)[0] > -1e-5 * largest  # float32
    # and not larger than it has to be
    assert np.linalg.eigvalsh(matrix(found) / 1.05 - dense.matrix)[0] < 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bound_closes_in_from_above(dtype: type) -> None:
    dense = Dense(SHAPE, 60, 3)
    start = np.random.default_rng(1).standard_normal(SHAPE).astype(dtype)
    largest = np.linalg.eigvalsh(dense.matrix)[-1]
    found = [largest_eigenvalue_bound(dense.apply, start, count) for count in (4, 8, 16, 32)]
    assert all(value > largest * (1 - 1e-6) for value in found)
    assert found[0] < 1.5 * largest
    assert found[-1] == pytest.approx(largest, rel=1e-5)


def test_bound_of_few_eigenvalues_is_exact_and_ends_early() -> None:
    values = np.repeat([1.0, 3.0, 10.0], 32)
    basis = np.linalg.qr(np.random.default_rng(2).standard_normal((SIZE, SIZE)))[0]
    products = []

    def apply(x: np.ndarray) -> np.ndarray:
        products.append(1)
        return ((basis * values) @ (basis.T @ x.ravel())).reshape(SHAPE)

    start = np.random.default_rng(3).standard_normal(SHAPE)
    assert largest_eigenvalue_bound(apply, start, 20) == pytest.approx(10, rel=1e-5)
    assert len(products) == 3
