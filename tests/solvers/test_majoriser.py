"""The circular majoriser against the eigenvalues of the difference."""

from __future__ import annotations

import numpy as np
import pytest
from quadratics import Dense

from dcryo.solvers.majoriser import FLOOR, majoriser, positive

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
    found = majoriser(dense.apply, base, SHAPE, iterations=60)
    ratio = found / base
    np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-5)  # a multiple of what came in
    assert np.linalg.eigvalsh(matrix(found) - dense.matrix)[0] > 0
    # and not larger than it has to be: a margin of 5 %
    assert np.linalg.eigvalsh(matrix(found) / 1.06 - dense.matrix)[0] < 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_few_products_are_enough_for_the_iteration(seed: int) -> None:
    """It needs half of a majoriser, and a tenth more is what twelve steps may be off."""
    dense = Dense(SHAPE, 60, seed)
    found = majoriser(dense.apply, positive(nearest(dense.matrix)), SHAPE)
    assert dense.products == 12
    assert np.linalg.eigvalsh(0.55 * matrix(found) - 0.5 * dense.matrix)[0] > 0
