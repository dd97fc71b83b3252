"""Conjugate gradients against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from dcryo.solvers.cg import conjugate_gradients

SHAPE = (3, 4, 5)
SIZE = 60


def system(condition: float, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric positive definite matrix of the given condition number, and a right-hand side."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((SIZE, SIZE)))[0]
    values = np.geomspace(1 / condition, 1, SIZE)
    return (basis * values) @ basis.T, rng.standard_normal(SHAPE)


def times(matrix: np.ndarray):
    return lambda x: (matrix @ x.ravel()).reshape(x.shape).astype(x.dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_solves(dtype: type, tolerance: float) -> None:
    matrix, b = system(50.0)
    kept = b.copy()
    x, norms = conjugate_gradients(times(matrix), b.astype(dtype), tolerance=tolerance, iterations=200)
    expected = np.linalg.solve(matrix, b.ravel())
    assert x.dtype == dtype
    # the residual is known to the tolerance, the solution to that times the condition number
    assert np.linalg.norm(x.ravel() - expected) < 50 * tolerance * np.linalg.norm(expected) * 2
    assert norms[-1] <= tolerance * norms[0]
    np.testing.assert_array_equal(b, kept)


def test_ends_in_as_many_steps_as_there_are_eigenvalues() -> None:
    rng = np.random.default_rng(2)
    basis = np.linalg.qr(rng.standard_normal((SIZE, SIZE)))[0]
    matrix = (basis * np.repeat([1.0, 3.0, 10.0], 20)) @ basis.T
    _, norms = conjugate_gradients(times(matrix), rng.standard_normal(SHAPE), tolerance=1e-10)
    assert len(norms) == 1 + 3


def test_a_perfect_preconditioner_needs_one_step() -> None:
    matrix, b = system(1e4)
    inverse = np.linalg.inv(matrix)
    x, norms = conjugate_gradients(times(matrix), b, precondition=times(inverse), tolerance=1e-8)
    assert len(norms) == 2
    np.testing.assert_allclose(x.ravel(), inverse @ b.ravel(), rtol=1e-6)


def test_preconditioned_solution_is_the_same() -> None:
    matrix, b = system(1e3)
    diagonal = np.diag(1 / np.diag(matrix))
    x, _ = conjugate_gradients(
        times(matrix), b, precondition=times(diagonal), tolerance=1e-10, iterations=400
    )
    np.testing.assert_allclose(matrix @ x.ravel(), b.ravel(), atol=1e-8 * np.linalg.norm(b) * 10)


def test_zero_and_the_limit_of_iterations() -> None:
    matrix, b = system(1e4)
    x, norms = conjugate_gradients(times(matrix), np.zeros(SHAPE), tolerance=1e-3)
    assert not x.any()
    assert norms == [0.0]
    _, norms = conjugate_gradients(times(matrix), b, tolerance=0.0, iterations=7)
    assert len(norms) == 8
