"""The linear step of ADMM against dense solves and textbook conjugate gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from quadratics import Dense

from dcryo.operators.gradient import Gradient
from dcryo.solvers.linear_step import InnerCG, Majorised

SHAPE = (4, 3, 5)
PENALTY = 0.3 * (Gradient().eigenvalues(SHAPE) + 1)


def circulant(eigenvalues: np.ndarray) -> np.ndarray:
    """The matrix of eigenvalues in the layout of rfftn."""
    columns = [
        np.fft.irfftn(np.fft.rfftn(unit.reshape(SHAPE)) * eigenvalues, s=SHAPE, axes=(0, 1, 2)).ravel()
        for unit in np.eye(int(np.prod(SHAPE)))
    ]
    return np.stack(columns, axis=1)


def example(seed: int = 1) -> tuple[Dense, np.ndarray, np.ndarray, np.ndarray]:
    """A problem, a point x, Qx, and a residual."""
    dense = Dense(SHAPE, 80, seed)
    x, residual = np.random.default_rng(seed).standard_normal((2, *SHAPE))
    product = dense.apply(x)
    dense.products = 0
    return dense, x, product, residual


@pytest.mark.parametrize("flat", [True, False])
def test_majorised_step_divides_by_the_circulant(flat: bool) -> None:
    dense, x, product, residual = example()
    majoriser = 10.0 if flat else 10 + Gradient().eigenvalues(SHAPE)
    increment, after = Majorised(majoriser)(dense.quadratic(np.float64), PENALTY, x, product, residual)
    system = circulant(majoriser + PENALTY)
    # eigenvalues are float32
    np.testing.assert_allclose(increment.ravel(), np.linalg.solve(system, residual.ravel()), atol=1e-6)
    np.testing.assert_allclose(after, dense.apply(x + increment))
    assert dense.products == 1 + 1  # the last one is the test's


def textbook(
    system: np.ndarray, b: np.ndarray, steps: int, precondition: np.ndarray | None = None
) -> np.ndarray:
    """Conjugate gradients from zero, Golub & Van Loan (4th ed., section 11.5)."""
    inverse = np.eye(len(b)) if precondition is None else np.linalg.inv(precondition)
    x, r = np.zeros_like(b), b.copy()
    z = inverse @ r
    p, energy = z.copy(), r @ z
    for _ in range(steps):
        w = system @ p
        alpha = energy / (p @ w)
        x, r = x + alpha * p, r - alpha * w
        z = inverse @ r
        energy, before = r @ z, energy
        p = z + energy / before * p
    return x


@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_inner_steps_are_those_of_the_textbook(steps: int, preconditioned: bool, carried: bool) -> None:
    dense, x, product, residual = example()
    kept = residual.copy()
    near = np.float32(2) + Gradient().eigenvalues(SHAPE)
    step = InnerCG(steps, near if preconditioned else None, carried)
    increment, after = step(dense.quadratic(np.float64), PENALTY, x, product, residual)
    assert dense.products == steps + (not carried)
    expected = textbook(
        dense.matrix + circulant(PENALTY),
        residual.ravel(),
        steps,
        circulant(near + PENALTY) if preconditioned else None,
    )
    # float32 step lengths
    np.testing.assert_allclose(increment.ravel(), expected, atol=2e-6 * np.abs(expected).max())
    np.testing.assert_allclose(after, dense.apply(x + increment), atol=1e-6 * np.abs(after).max())
    np.testing.assert_array_equal(residual, kept)


def test_many_inner_steps_solve_the_system() -> None:
    dense, x, product, residual = example()
    increment, _ = InnerCG(200)(dense.quadratic(np.float64), PENALTY, x, product, residual)
    expected = np.linalg.solve(dense.matrix + circulant(PENALTY), residual.ravel())
    np.testing.assert_allclose(increment.ravel(), expected, atol=1e-6 * np.abs(expected).max())


def test_nothing_to_do_is_no_step() -> None:
    dense, x, product, residual = example()
    zero = np.zeros_like(residual)
    for step in (Majorised(3.0), InnerCG(3), InnerCG(3, np.float32(1) + PENALTY, carried=True)):
        increment, after = step(dense.quadratic(np.float64), PENALTY, x, product, zero)
        assert not increment.any()
        np.testing.assert_allclose(after, product)


def test_single_precision_stays_single() -> None:
    dense, x, product, residual = (
        value.astype(np.float32) if isinstance(value, np.ndarray) else value for value in example()
    )
    problem = replace(dense.quadratic(), threads=1)
    for step in (Majorised(3.0), InnerCG(3), InnerCG(2, np.float32(1) + PENALTY, carried=True)):
        assert {part.dtype for part in step(problem, PENALTY, x, product, residual)} == {np.dtype(np.float32)}
