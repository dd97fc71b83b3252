"""The proxes of the priors against a convex solver, and the identities every prox obeys."""

from __future__ import annotations

import cvxpy
import numpy as np
import oracle
import penalties
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcryo.solvers.prox import AnalysisPrior


def smallest(name: str, z: np.ndarray, mu: float, nonnegative: bool) -> np.ndarray:
    """argmin 1/2 |x - z|^2 + mu |Lx|, by an interior-point method that knows only these words."""
    x = cvxpy.Variable(z.size)
    goal = 0.5 * cvxpy.sum_squares(x - z.ravel().astype(np.float64))
    goal += mu * penalties.expression(name, x, z.shape)
    cvxpy.Problem(cvxpy.Minimize(goal), [x >= 0] if nonnegative else []).solve(solver=cvxpy.CLARABEL)
    return np.asarray(x.value).reshape(z.shape)


STEPS = {"tv": 400, "tv-aniso": 400, "haar": 60}
"""Nearly exact: the gradient has the condition number of its box, a tight frame has none."""


def make(name: str, weight: float, nonnegative: bool = False, steps: int = 0) -> AnalysisPrior:
    return AnalysisPrior(penalties.analysis(name), weight, nonnegative, steps or STEPS[name])


def prox(z: np.ndarray, mu: float, nonnegative: bool = False, name: str = "tv") -> np.ndarray:
    return make(name, 2 * mu, nonnegative).prox(z, 0.5)


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("mu", [0.05, 0.3, 2.0])
@pytest.mark.parametrize(
    ("name", "n"), [("tv", 4), ("tv", 5), ("tv-aniso", 4), ("tv-aniso", 5), ("haar", 5), ("haar", 8)]
)
def test_minimises_its_definition(name: str, n: int, mu: float, nonnegative: bool) -> None:
    z = oracle.noise((n, n, n), n)
    expected = smallest(name, z, mu, nonnegative)
    # 400 steps of a 1/k^2 method leave 2e-5 of the starting gap, hence a few 1e-3 of the distance at worst;
    # 60 of a tight frame do as well
    np.testing.assert_allclose(prox(z, mu, nonnegative, name=name), expected, atol=2e-3)


@pytest.mark.parametrize("name", penalties.NAMES)
def test_two_warm_started_steps_get_there_in_time(name: str) -> None:
    """The solver calls it again and again with nearly the same point; the dual remembers."""
    z = oracle.noise((5, 5, 5), 3)
    prior = make(name, 0.3, True, steps=2)
    for _ in range(3 * STEPS[name]):
        found = prior.prox(z, 1.0)
    np.testing.assert_allclose(found, smallest(name, z, 0.3, True), atol=2e-3)


@pytest.mark.parametrize("name", penalties.NAMES)
def test_momentum_ends_with_the_call(name: str) -> None:
    """The next call is about another point: it starts from the dual, not from where that was heading."""
    z, other = oracle.noise((5, 5, 5), 3), oracle.noise((5, 5, 5), 4)
    found = []
    for heading in (None, 0.1):
        prior = make(name, 0.3, steps=3)
        prior.prox(z, 1.0)
        if heading is not None:
            prior._ahead[:] = heading
        found.append(prior.prox(other, 1.0))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("name", penalties.NAMES)
def test_a_new_shape_forgets_the_dual(name: str) -> None:
    """Wavelets pad both boxes to the same size, and must forget all the same."""
    prior = make(name, 0.3)
    prior.prox(oracle.noise((6, 6, 6), 1), 1.0)
    z = oracle.noise((5, 5, 5), 3)
    np.testing.assert_array_equal(prior.prox(z, 1.0), prox(z, 0.3, name=name))


def test_weight_zero_is_the_projection() -> None:
    z = oracle.noise((4, 4, 4), 1)
    np.testing.assert_array_equal(make("tv", 0.0, True).prox(z, 1.0), np.maximum(z, 0))
    np.testing.assert_array_equal(make("tv", 0.0, False).prox(z, 1.0), z)
    assert make("tv", 0.0).value(z) == 0


@pytest.mark.parametrize("name", penalties.NAMES)
def test_value_is_the_weighted_norm(name: str) -> None:
    z = oracle.noise((6, 7, 5), 1)
    # sums of some thousand float32 numbers
    assert make(name, 2.5).value(z) == pytest.approx(2.5 * penalties.value(name, z), rel=1e-6)


@pytest.mark.parametrize("name", penalties.NAMES)
@pytest.mark.parametrize("mu", [0.1, 1.0])
def test_moreau_identity(name: str, mu: float) -> None:
    """The norm is positively homogeneous: z - x lies in its subdifferential and (z - x, x) = mu |Lx|."""
    z = oracle.noise((8, 8, 8), 9)
    x = prox(z, mu, name=name).astype(np.float64)
    assert np.sum((z - x) * x) == pytest.approx(mu * penalties.value(name, x), rel=1e-3, abs=1e-3)
    # the norm of a constant is nothing: the prox leaves the mean alone
    assert x.mean() == pytest.approx(z.mean(dtype=np.float64), abs=1e-6)


@pytest.mark.parametrize("name", penalties.NAMES)
def test_a_large_weight_leaves_the_mean(name: str) -> None:
    z = oracle.noise((8, 8, 8), 2)
    found = make(name, 150.0, steps=5 * STEPS[name]).prox(z, 1.0)
    np.testing.assert_allclose(found, np.full_like(z, z.mean()), atol=1e-2)


@settings(max_examples=20)
@given(
    name=st.sampled_from(penalties.NAMES),
    seeds=st.tuples(st.integers(0, 99), st.integers(0, 99)),
    mu=st.floats(0.01, 3.0),
    scale=st.floats(0.1, 10.0),
    nonnegative=st.booleans(),
)
def test_firmly_nonexpansive(
    name: str, seeds: tuple[int, int], mu: float, scale: float, nonnegative: bool
) -> None:
    """|Px - Py|^2 <= (Px - Py, x - y)."""
    x, y = (oracle.noise((4, 4, 4), seed) * np.float32(scale) for seed in seeds)
    px, py = (prox(z, mu, nonnegative, name=name).astype(np.float64) for z in (x, y))
    left, right = np.sum((px - py) ** 2), np.sum((px - py) * (x.astype(np.float64) - y))
    # each prox is off by some 1e-3 of its own scale at most
    assert left <= right + 2e-3 * np.linalg.norm(x - y) * (1 + scale)


@pytest.mark.parametrize("name", penalties.NAMES)
def test_arguments_are_left_alone(name: str) -> None:
    z = oracle.noise((5, 5, 5), 4)
    kept = z.copy()
    prior = make(name, 0.3, True, steps=3)
    prior.prox(z, 1.0)
    prior.pull(z)
    prior.ascend(z, 1.0)
    prior.feasible(z)
    np.testing.assert_array_equal(z, kept)


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("name", penalties.NAMES)
def test_duals_climb_to_the_value(name: str, nonnegative: bool) -> None:
    """Ascending at one x for long, <x, weight Lᵀp + m> becomes the largest that the duals can say: g(x)."""
    x = oracle.noise((5, 5, 5), 6)
    x = np.abs(x) if nonnegative else x
    prior = make(name, 0.7, nonnegative)
    for _ in range(30):
        prior.ascend(x, 100.0)
    said = np.sum((-prior.pull(np.zeros_like(x))).astype(np.float64) * x)
    # a difference of 1e-4 and less is not yet at its bound; float32
    assert said == pytest.approx(0.7 * penalties.value(name, x), rel=1e-4)


def test_a_negative_voxel_is_pushed_harder_every_time() -> None:
    prior = make("tv", 0.0, nonnegative=True)
    x = np.array([[[-1.0, 2.0, -0.5]]], np.float32)
    for times in (1, 2, 3):
        prior.ascend(x, 2.0)
        np.testing.assert_array_equal(prior.pull(np.zeros_like(x)), times * np.array([[[2.0, 0.0, 1.0]]]))


@pytest.mark.parametrize("name", penalties.NAMES)
def test_penalty_has_the_eigenvalues_of_what_is_split_off(name: str) -> None:
    shape = (6, 5, 4)
    plain = penalties.analysis(name).eigenvalues(shape)
    np.testing.assert_array_equal(make(name, 1.0).penalty(shape), plain)
    np.testing.assert_array_equal(make(name, 1.0, True).penalty(shape), plain + 1)
    np.testing.assert_array_equal(make(name, 0.0, True).penalty(shape), np.ones_like(plain))
    np.testing.assert_array_equal(make(name, 0.0, False).penalty(shape), np.zeros_like(plain))
