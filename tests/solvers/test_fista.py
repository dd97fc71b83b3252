"""Accelerated proximal gradient against closed forms, and its books against the objective itself."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.optimize import nnls

from dcryo.solvers.fista import Quadratic, State, init, inner, solve, step
from dcryo.solvers.stopping import iterations, relative_change

SHAPE = (3, 4, 5)
SIZE = 60


@dataclass
class Nonnegative:
    """The indicator of x >= 0."""

    def value(self, x: np.ndarray) -> float:
        return 0.0

    def prox(self, z: np.ndarray, step: float) -> np.ndarray:
        return np.maximum(z, 0)


@dataclass
class Lasso:
    """weight |x|_1."""

    weight: float

    def value(self, x: np.ndarray) -> float:
        return self.weight * float(np.abs(x).sum())

    def prox(self, z: np.ndarray, step: float) -> np.ndarray:
        return np.sign(z) * np.maximum(np.abs(z) - step * self.weight, 0)


def problem(rows: int = 80, lipschitz: float = 1.0) -> tuple[Quadratic, np.ndarray, np.ndarray]:
    """1/2 |Ax - b|^2 in float64 with the true Lipschitz constant times ``lipschitz``; A and b."""
    rng = np.random.default_rng(rows)
    a, b = rng.standard_normal((rows, SIZE)), rng.standard_normal(rows)
    largest = float(np.linalg.eigvalsh(a.T @ a)[-1])
    quadratic = Quadratic(
        lambda x: (a.T @ (a @ x.ravel())).reshape(SHAPE),
        (a.T @ b).reshape(SHAPE),
        lipschitz * largest,
        0.5 * float(b @ b),
    )
    return quadratic, a, b


def test_nonnegative_least_squares() -> None:
    quadratic, a, b = problem()
    result = solve(quadratic, Nonnegative(), iterations(2000))
    expected, _ = nnls(a, b)
    np.testing.assert_allclose(result.x.ravel(), expected, atol=1e-8)
    assert result.reason == "2000 iterations done"
    assert result.history[-1] == pytest.approx(0.5 * np.sum((a @ expected - b) ** 2), rel=1e-10)


def test_lasso_satisfies_its_optimality_conditions() -> None:
    quadratic, a, b = problem(rows=40)  # fewer equations than unknowns
    x = solve(quadratic, Lasso(3.0), iterations(5000)).x.ravel()
    slope = a.T @ (b - a @ x)
    assert np.abs(slope).max() <= 3.0 + 1e-6
    np.testing.assert_allclose(slope[x != 0], 3.0 * np.sign(x[x != 0]), atol=1e-6)
    assert 0 < np.count_nonzero(x) < 40


def test_objective_recorded_is_the_objective() -> None:
    """Recovered from the extrapolated point, restarts included; compared with a direct evaluation."""
    quadratic, a, b = problem()
    prior = Lasso(2.0)
    points: list[np.ndarray] = []
    start = np.random.default_rng(1).standard_normal(SHAPE)
    result = solve(quadratic, prior, iterations(60), start, lambda state: points.append(state.x.copy()))
    for value, x in zip(result.history, [start, *points[:-1]], strict=True):
        direct = 0.5 * np.sum((a @ x.ravel() - b) ** 2) + prior.value(x)
        assert value == pytest.approx(direct, rel=1e-10)


def test_one_product_an_iteration() -> None:
    quadratic, _, _ = problem()
    calls = 0

    def counted(x: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        return quadratic.apply(x)

    solve(replace(quadratic, apply=counted), Nonnegative(), iterations(50))
    assert calls == 49  # none at zero, the start


@pytest.mark.parametrize("lipschitz", [0.5, 0.8, 1.0, 3.0])
def test_recovers_from_a_wrong_norm(lipschitz: float) -> None:
    """An underestimated norm makes it diverge for a moment; the rise is seen and the step shortened."""
    quadratic, a, b = problem(lipschitz=lipschitz)
    expected, _ = nnls(a, b)
    result = solve(quadratic, Nonnegative(), iterations(3000))
    np.testing.assert_allclose(result.x.ravel(), expected, atol=1e-6)


def test_a_saved_state_goes_on_as_if_nothing_had_happened() -> None:
    quadratic, _, _ = problem()
    prior = Lasso(1.0)
    state = init(quadratic)
    for _ in range(9):
        state = step(quadratic, prior, state)
    saved = State(
        state.x.copy(),
        state.previous.copy(),
        state.product.copy(),
        state.t,
        state.lipschitz,
        list(state.objectives),
    )
    for _ in range(9):
        state, saved = step(quadratic, prior, state), step(quadratic, prior, saved)
    np.testing.assert_array_equal(state.x, saved.x)
    assert state.objectives == saved.objectives


def test_starting_at_the_solution_stays_there() -> None:
    quadratic, _, _ = problem()
    found = solve(quadratic, Nonnegative(), iterations(3000)).x
    kept = found.copy()
    result = solve(quadratic, Nonnegative(), relative_change(1e-6) | iterations(50), found)
    assert len(result.history) == 1
    np.testing.assert_array_equal(found, kept)
    np.testing.assert_allclose(result.x, found, atol=1e-6)


def test_faster_than_without_acceleration() -> None:
    """1/k^2 against 1/k: on an ill-conditioned problem the difference is not subtle."""
    quadratic, a, b = problem(rows=60)
    expected, _ = nnls(a, b)
    best = 0.5 * np.sum((a @ expected - b) ** 2)
    x = np.zeros(SHAPE)
    for _ in range(60):
        x = np.maximum(x - (quadratic.apply(x) - quadratic.linear) / quadratic.lipschitz, 0)
    plain = 0.5 * np.sum((a @ x.ravel() - b) ** 2) - best
    fast = solve(quadratic, Nonnegative(), iterations(60)).history[-1] - best
    assert fast < 0.1 * plain


def test_inner_product_is_that_of_float64() -> None:
    rng = np.random.default_rng(4)
    a, b = (rng.standard_normal((20, 30, 40)).astype(np.float32) for _ in range(2))
    assert inner(a, b) == pytest.approx(float(np.vdot(a.astype(np.float64), b.astype(np.float64))), rel=1e-12)
