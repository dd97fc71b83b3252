"""ADMM in all its forms: the thesis' lines word by word, convex solvers, and counted products."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracle
import penalties
import pytest
from quadratics import Dense

from dcryo.solvers import admm, fista
from dcryo.solvers.linear_step import InnerCG, LinearStep, Majorised
from dcryo.solvers.majoriser import majoriser, positive
from dcryo.solvers.prox import AnalysisPrior
from dcryo.solvers.stopping import Rule, iterations, objective_gap

SHAPE = (4, 5, 6)
WEIGHT = 0.4
RHO = 0.6


def circulant(dense: Dense) -> np.ndarray:
    """A circular approximation: the mean of the diagonal, and more at low frequencies; nothing clever."""
    rng = np.random.default_rng(0)
    start = rng.uniform(0.5, 1.5, (*dense.shape[:2], dense.shape[2] // 2 + 1)).astype(np.float32)
    # symmetric under the change of sign of the first two frequencies, as the spectrum of a real kernel is
    flipped = np.roll(np.flip(start, (0, 1)), 1, (0, 1))
    return positive(np.float32(dense.matrix.trace() / len(dense.matrix)) * (start + flipped))


STEPS = ("thesis-cg1", "thesis-cg3", "pcg", "ilf", "ilf-circulant")


def linear_step(name: str, dense: Dense) -> LinearStep:
    match name:
        case "thesis-cg1":
            return InnerCG(1)
        case "thesis-cg3":
            return InnerCG(3)
        case "pcg":
            return InnerCG(1, circulant(dense), carried=True)
        case "ilf":
            return Majorised(float(np.linalg.eigvalsh(dense.matrix)[-1]))
    return Majorised(majoriser(dense.apply, circulant(dense), dense.shape))


def prior(name: str, nonnegative: bool, weight: float = WEIGHT, threads: int = 1) -> AnalysisPrior:
    return AnalysisPrior(penalties.analysis(name, threads), weight, nonnegative)


# --- word by word


def thesis(dense: Dense, isotropic: bool, exact: bool, count: int) -> list[np.ndarray]:
    """Iterates of Algorithm 1 (linear step solved exactly) or Algorithm 6, all five arrays, in float64.

    Signs as in (4.46)-(4.55), start at zero; matrices written out.
    """
    q, b = dense.matrix, dense.a.T @ dense.b
    largest = np.linalg.eigvalsh(q)[-1]
    size = len(b)
    gradient = np.concatenate([d.toarray() for d in penalties.differences(dense.shape)])
    penalty = RHO * (gradient.T @ gradient + np.eye(size))
    c, alpha_u, alpha_v = np.zeros(size), np.zeros(3 * size), np.zeros(size)
    iterates = []
    for _ in range(count):
        w = (gradient @ c - alpha_u / RHO).reshape(3, size)
        length = np.sqrt((w**2).sum(axis=0)) if isotropic else np.abs(w)
        u = (w * np.maximum(1 - WEIGHT / RHO / np.maximum(length, 1e-300), 0)).ravel()  # (4.47), (2.19)
        v = np.maximum(c - alpha_v / RHO, 0)  # (4.48)
        right = b + RHO * gradient.T @ (u + alpha_u / RHO) + RHO * (v + alpha_v / RHO)
        if exact:
            c = np.linalg.solve(q + penalty, right)  # (4.44)
        else:
            c = np.linalg.solve(largest * np.eye(size) + penalty, right + largest * c - q @ c)  # (4.55)
        alpha_u = alpha_u + RHO * (u - gradient @ c)  # (4.51)
        alpha_v = alpha_v + RHO * (v - c)  # (4.52)
        iterates.append(c.reshape(dense.shape))
    return iterates


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("isotropic", [True, False])
def test_iterates_are_those_of_the_thesis(isotropic: bool, exact: bool) -> None:
    """Two duals and no splits, yet the same points, one after the other."""
    dense = Dense(SHAPE, 150)
    step = InnerCG(200) if exact else Majorised(float(np.linalg.eigvalsh(dense.matrix)[-1]))
    scheme = admm.Scheme(step, RHO)
    problem, chosen = dense.quadratic(), prior("tv" if isotropic else "tv-aniso", True)
    state = admm.init(problem, chosen, scheme)
    for expected in thesis(dense, isotropic, exact, 30):
        state = admm.step(problem, chosen, scheme, state)
        # float32, over thirty steps
        np.testing.assert_allclose(state.x, expected, atol=2e-5 * np.abs(expected).max())


# --- the optimum


@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("name", penalties.NAMES)
@pytest.mark.parametrize("kind", STEPS)
def test_optimum_is_that_of_a_convex_solver(kind: str, name: str, nonnegative: bool) -> None:
    dense = Dense((6, 6, 6), 300)
    least, where = dense.optimum(name, WEIGHT, nonnegative)
    scheme = admm.Scheme(linear_step(kind, dense), 2.0)
    result = admm.solve(dense.quadratic(), prior(name, nonnegative), scheme, iterations(150))
    found = dense.objective(result.x, name, WEIGHT)
    # what the slowest of them leaves after 150 iterations; the prior has made a difference of half the energy
    assert found == pytest.approx(least, abs=2e-4 * dense.quadratic().constant)
    assert np.linalg.norm(result.x - where) < 0.05 * np.linalg.norm(where)
    assert result.history[-1] == pytest.approx(found, rel=1e-4)
    if nonnegative:
        assert result.x.min() >= 0


@pytest.mark.parametrize("nonnegative", [True, False])
def test_weight_zero_is_least_squares(nonnegative: bool) -> None:
    """The prior `none`: nothing is split off but the sign, or nothing at all."""
    dense = Dense((3, 4, 5), 100, smallest=0.3)
    least, where = dense.optimum("tv", 0.0, nonnegative)
    for kind in STEPS:
        scheme = admm.Scheme(linear_step(kind, dense), 2.0)
        result = admm.solve(dense.quadratic(), prior("tv", nonnegative, 0.0), scheme, iterations(150))
        assert dense.objective(result.x, "tv", 0.0) == pytest.approx(least, rel=1e-5)
        assert np.linalg.norm(result.x - where) < 1e-3 * np.linalg.norm(where)


@pytest.mark.parametrize("share", [0.55, 1.0])
def test_half_of_a_majoriser_is_enough(share: float) -> None:
    dense = Dense(SHAPE, 150)
    least, _ = dense.optimum("tv", WEIGHT, True)
    largest = float(np.linalg.eigvalsh(dense.matrix)[-1])
    gaps = []
    for count in (40, 400):
        scheme = admm.Scheme(Majorised(share * largest), RHO)
        result = admm.solve(dense.quadratic(), prior("tv", True), scheme, iterations(count))
        gaps.append(dense.objective(result.x, "tv", WEIGHT) - least)
    assert abs(gaps[1]) < 3e-5 * dense.quadratic().constant
    assert gaps[1] < gaps[0]


# --- its books


@pytest.mark.parametrize(
    ("kind", "products"), [("thesis-cg1", 2), ("thesis-cg3", 4), ("pcg", 1), ("ilf", 1), ("ilf-circulant", 1)]
)
def test_products_of_an_iteration(kind: str, products: int) -> None:
    """K + 1 for the thesis' inner loops, K where HᵀHc is carried, 1 without an inner loop."""
    dense = Dense(SHAPE, 150)
    scheme = admm.Scheme(linear_step(kind, dense), RHO)
    problem, chosen = dense.quadratic(), prior("tv", True)
    dense.products = 0
    admm.solve(problem, chosen, scheme, iterations(10))
    assert dense.products == 10 * products  # none at zero, where it starts
    admm.solve(problem, chosen, scheme, iterations(10), np.ones(SHAPE, np.float32))
    assert dense.products == 20 * products + 1


@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("kind", STEPS)
def test_history_bounds_the_objective_from_above(kind: str, nonnegative: bool) -> None:
    dense = Dense(SHAPE, 150)
    problem, chosen = dense.quadratic(), prior("tv", nonnegative)
    points: list[np.ndarray] = []
    start = oracle.noise(SHAPE, 1)
    scheme = admm.Scheme(linear_step(kind, dense), RHO)
    watched = lambda state: points.append(state.x.copy())  # noqa: E731
    result = admm.solve(problem, chosen, scheme, iterations(60), start, watched)
    largest = float(np.linalg.eigvalsh(dense.matrix)[-1])
    for value, x in zip(result.history, [start, *points[:-1]], strict=True):
        feasible = np.maximum(x, 0) if nonnegative else x
        exact = dense.objective(feasible, "tv", WEIGHT)
        slack = 0.5 * largest * float(np.sum((feasible - x) ** 2))
        assert exact * (1 - 1e-5) <= value <= exact + slack + 1e-5 * exact
    np.testing.assert_array_equal(result.x, np.maximum(points[-1], 0) if nonnegative else points[-1])


def test_a_saved_state_goes_on_as_if_nothing_had_happened() -> None:
    dense = Dense(SHAPE, 150)
    problem, chosen = dense.quadratic(), prior("tv", True)
    scheme = admm.Scheme(linear_step("ilf", dense), RHO)
    state = admm.init(problem, chosen, scheme)
    for _ in range(9):
        state = admm.step(problem, chosen, scheme, state)
    saved, other = replace(state, x=state.x.copy()), prior("tv", True)
    other._dual, other._ahead = chosen._dual.copy(), chosen._ahead.copy()
    other._multiplier, other._shape = chosen._multiplier.copy(), chosen._shape
    for _ in range(9):
        state = admm.step(problem, chosen, scheme, state)
        saved = admm.step(problem, other, scheme, saved)
    np.testing.assert_array_equal(state.x, saved.x)
    assert state.objectives == saved.objectives


@pytest.mark.parametrize("kind", STEPS)
def test_warm_start_goes_on(kind: str) -> None:
    """x from one solve and the duals that the prior has kept: no worse than not having stopped."""
    dense = Dense(SHAPE, 150)
    problem, chosen = dense.quadratic(), prior("tv", True)
    scheme = admm.Scheme(linear_step(kind, dense), RHO)
    watch: list[np.ndarray] = []
    first = admm.solve(problem, chosen, scheme, iterations(60), watch=lambda state: watch.append(state.x))
    again = admm.solve(problem, chosen, scheme, iterations(30), first.x)
    through = admm.solve(problem, prior("tv", True), scheme, iterations(90))
    fall = problem.constant - through.history[-1]
    assert again.history[0] - through.history[-1] < 0.01 * fall
    assert abs(again.history[-1] - through.history[-1]) < 1e-3 * fall


def test_another_solver_takes_over_the_duals() -> None:
    """FISTA and ADMM keep the same dual of the prior."""
    dense = Dense(SHAPE, 150)
    problem, chosen = dense.quadratic(), prior("tv", True)
    first = fista.solve(problem, chosen, iterations(300))
    scheme = admm.Scheme(linear_step("ilf", dense), RHO)
    again = admm.solve(problem, chosen, scheme, iterations(5), first.x)
    cold = admm.solve(problem, prior("tv", True), scheme, iterations(5), first.x)
    assert np.linalg.norm(again.x - first.x) < 0.5 * np.linalg.norm(cold.x - first.x)


def test_stops_by_the_rules_of_all_solvers() -> None:
    dense = Dense(SHAPE, 150)
    scheme = admm.Scheme(linear_step("ilf", dense), RHO)
    result = admm.solve(dense.quadratic(), prior("tv", True), scheme, objective_gap(1e-3))
    assert "within 0.001 of its fall" in result.reason
    assert 5 < len(result.history) < 200
    # objectives of ADMM rise and fall, and the rules are told
    seen: list[bool] = []
    told = Rule(lambda progress: str(seen.append(progress.swinging)))
    admm.solve(dense.quadratic(), prior("tv", True), scheme, told)
    fista.solve(dense.quadratic(), prior("tv", True), told)
    assert seen == [True, False]


@pytest.mark.parametrize("name", penalties.NAMES)
@pytest.mark.parametrize("kind", STEPS)
def test_threads_do_not_change_a_bit(kind: str, name: str) -> None:
    dense = Dense((9, 5, 6), 300)
    step = linear_step(kind, dense)
    results = []
    for threads in (1, 2, 3):
        problem = replace(dense.quadratic(), threads=threads)
        found = admm.solve(problem, prior(name, True, threads=threads), admm.Scheme(step, RHO), iterations(5))
        results.append(found)
    for other in results[1:]:
        np.testing.assert_array_equal(results[0].x, other.x)
        assert results[0].history == other.history
