"""The prox of total variation against a convex solver, and the identities every prox obeys."""

from __future__ import annotations

import cvxpy
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcryo.operators.gradient import total_variation
from dcryo.solvers.prox import TotalVariation


def smallest(z: np.ndarray, mu: float, nonnegative: bool) -> np.ndarray:
    """argmin 1/2 |x - z|^2 + mu TV(x), by an interior-point method that knows only these words."""
    shape = z.shape
    index = np.arange(z.size).reshape(shape)
    x = cvxpy.Variable(z.size)
    steps = cvxpy.vstack([x[np.roll(index, -1, axis).ravel()] - x for axis in range(3)])
    goal = 0.5 * cvxpy.sum_squares(x - z.ravel().astype(np.float64)) + mu * cvxpy.sum(
        cvxpy.norm(steps, 2, axis=0)
    )
    cvxpy.Problem(cvxpy.Minimize(goal), [x >= 0] if nonnegative else []).solve(solver=cvxpy.CLARABEL)
    return np.asarray(x.value).reshape(shape)


def prox(z: np.ndarray, mu: float, nonnegative: bool = False, steps: int = 400) -> np.ndarray:
    return TotalVariation(2 * mu, nonnegative, steps=steps, threads=1).prox(z, 0.5)


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("mu", [0.05, 0.3, 2.0])
@pytest.mark.parametrize("n", [4, 5])
def test_minimises_its_definition(n: int, mu: float, nonnegative: bool) -> None:
    z = oracle.noise((n, n, n), n)
    expected = smallest(z, mu, nonnegative)
    # 400 steps of a 1/k^2 method leave 2e-5 of the starting gap, hence a few 1e-3 of the distance at worst
    np.testing.assert_allclose(prox(z, mu, nonnegative), expected, atol=2e-3)


def test_two_warm_started_steps_get_there_in_time() -> None:
    """The solver calls it again and again with nearly the same point; the dual remembers."""
    z = oracle.noise((5, 5, 5), 3)
    prior = TotalVariation(0.3, True, steps=2, threads=1)
    for _ in range(300):
        found = prior.prox(z, 1.0)
    np.testing.assert_allclose(found, smallest(z, 0.3, True), atol=2e-3)


def test_a_new_shape_forgets_the_dual() -> None:
    prior = TotalVariation(0.3, steps=400, threads=1)
    prior.prox(oracle.noise((6, 6, 6), 1), 1.0)
    z = oracle.noise((5, 5, 5), 3)
    np.testing.assert_array_equal(prior.prox(z, 1.0), prox(z, 0.3))


def test_weight_zero_is_the_projection() -> None:
    z = oracle.noise((4, 4, 4), 1)
    np.testing.assert_array_equal(TotalVariation(0.0, True).prox(z, 1.0), np.maximum(z, 0))
    np.testing.assert_array_equal(TotalVariation(0.0, False).prox(z, 1.0), z)


def test_value_is_the_weighted_variation() -> None:
    z = oracle.noise((6, 6, 6), 1)
    assert TotalVariation(2.5).value(z) == pytest.approx(2.5 * total_variation(z))


@pytest.mark.parametrize("mu", [0.1, 1.0])
def test_moreau_identity(mu: float) -> None:
    """TV is positively homogeneous, so z - x lies in its subdifferential and (z - x, x) = mu TV(x)."""
    z = oracle.noise((6, 6, 6), 9)
    x = prox(z, mu).astype(np.float64)
    assert np.sum((z - x) * x) == pytest.approx(
        mu * total_variation(x.astype(np.float32)), rel=1e-3, abs=1e-3
    )
    # constants have no variation: the prox leaves the mean alone
    assert x.mean() == pytest.approx(z.mean(dtype=np.float64), abs=1e-6)


def test_a_large_weight_leaves_the_mean() -> None:
    z = oracle.noise((4, 4, 4), 2)
    np.testing.assert_allclose(prox(z, 50.0, steps=2000), np.full_like(z, z.mean()), atol=1e-2)


@settings(max_examples=25)
@given(
    seeds=st.tuples(st.integers(0, 99), st.integers(0, 99)),
    mu=st.floats(0.01, 3.0),
    scale=st.floats(0.1, 10.0),
    nonnegative=st.booleans(),
)
def test_firmly_nonexpansive(seeds: tuple[int, int], mu: float, scale: float, nonnegative: bool) -> None:
    """|Px - Py|^2 <= (Px - Py, x - y)."""
    x, y = (oracle.noise((4, 4, 4), seed) * np.float32(scale) for seed in seeds)
    px, py = (prox(z, mu, nonnegative).astype(np.float64) for z in (x, y))
    left, right = np.sum((px - py) ** 2), np.sum((px - py) * (x.astype(np.float64) - y))
    # each prox is off by some 1e-3 of its own scale at most
    assert left <= right + 2e-3 * np.linalg.norm(x - y) * (1 + scale)


def test_argument_is_left_alone() -> None:
    z = oracle.noise((5, 5, 5), 4)
    kept = z.copy()
    prox(z, 0.3, True)
    np.testing.assert_array_equal(z, kept)
