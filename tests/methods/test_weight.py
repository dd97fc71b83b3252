"""The weight that cross-validation picks, against the misfit computed on the images."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import oracle
import pytest
from equations import accumulate

from dcryo.methods.regularise import MapProblem, solve_map
from dcryo.methods.weight import (
    FIRST_WEIGHT,
    OCTAVES,
    SEARCH_LIMIT,
    SEARCH_TOLERANCE,
    SEARCH_WINDOW,
    choose_weight,
)
from dcryo.solvers.stopping import iterations, objective_gap

N = 10
COUNT = 40


@cache
def halves(signal: float) -> tuple[MapProblem, MapProblem]:
    """Two half sets of an object of that strength in white noise of variance 1; without its zero level."""
    problems = []
    for half in (1, 2):
        particles = oracle.example(COUNT, half)
        dense = oracle.projected(particles, N, detector=1)
        images = dense.apply(signal * oracle.blob(N)) + oracle.noise((COUNT, N, N), 10 + half)
        problems.append(
            MapProblem(accumulate(particles, images.astype(np.float32), N, accuracy="default"), threads=1)
        )
    return problems[0], problems[1]


def misfit(one: MapProblem, two: MapProblem, weight: float, nonnegative: bool) -> float:
    """Misfit of converged half maps on each other's data, from a cold start."""
    maps = [solve_map(p, weight, nonnegative, iterations(300)).coefficients for p in (one, two)]
    return two.misfit(maps[0]) + one.misfit(maps[1])


@pytest.mark.parametrize("signal", [0.5, 2.0])
def test_no_other_weight_predicts_better(signal: float) -> None:
    one, two = halves(signal)
    choice = choose_weight(one, two, 200, 1e-5, nonnegative=True)
    assert choice.nonnegative
    best = misfit(one, two, choice.weight, True)
    gain = misfit(one, two, FIRST_WEIGHT, True) - best
    for factor in (0.25, 0.5, 2.0, 4.0):
        # the search stops its solves early: allow it 5 % of what it has gained
        assert best <= misfit(one, two, factor * choice.weight, True) + 0.05 * gain


def test_more_signal_asks_for_less_prior() -> None:
    weak = choose_weight(*halves(0.5), 200, 1e-5, nonnegative=True)
    strong = choose_weight(*halves(2.0), 200, 1e-5, nonnegative=True)
    assert strong.weight < weak.weight


def test_pure_noise_is_smoothed_away() -> None:
    """Nothing is common to the halves, so the smoother the better; what is left is no more than a level."""
    one, two = halves(0.0)
    choice = choose_weight(one, two, 200, 1e-5, nonnegative=False)
    flat = one.misfit(np.zeros((N,) * 3, np.float32)) + two.misfit(np.zeros((N,) * 3, np.float32))
    best = min(t.misfit for t in choice.trials)
    free = misfit(one, two, 1e-3, False)
    assert abs(best - flat) < 0.05 * (free - flat)


def test_constraint_is_given_up_only_for_a_better_prediction() -> None:
    one, two = halves(2.0)
    choice = choose_weight(one, two, 200, 1e-5)
    last = choice.trials[-2:]
    assert [t.nonnegative for t in last] == [True, False]
    assert last[0].weight == last[1].weight == choice.weight
    assert choice.trial in last
    if not choice.nonnegative:
        assert last[1].misfit < last[0].misfit


@pytest.mark.parametrize("nonnegative", [True, False])
def test_given_weight_and_constraint_are_used(nonnegative: bool) -> None:
    one, two = halves(2.0)
    calls = []
    choice = choose_weight(
        one, two, 50, 1e-4, weight=0.3, nonnegative=nonnegative, tried=lambda: calls.append(1)
    )
    assert (choice.weight, choice.nonnegative) == (0.3, nonnegative)
    assert len(choice.trials) == len(calls) == 1
    value = two.misfit(choice.first.coefficients) + one.misfit(choice.second.coefficients)
    assert choice.trials[0].misfit == pytest.approx(value, rel=1e-12)


def test_given_weight_compares_the_constraints() -> None:
    choice = choose_weight(*halves(2.0), 50, 1e-4, weight=0.3)
    assert [t.nonnegative for t in choice.trials] == [True, True, False]  # alone, then both from there
    assert {t.weight for t in choice.trials} == {0.3}


def test_trials_are_octaves_tried_once_and_a_refinement() -> None:
    calls = []
    choice = choose_weight(*halves(2.0), 100, 1e-4, nonnegative=True, tried=lambda: calls.append(1))
    weights = [t.weight for t in choice.trials]
    assert len(set(weights)) == len(weights) == len(calls)
    octaves = [math.log2(w / FIRST_WEIGHT) for w in weights]
    assert max(map(abs, octaves)) <= OCTAVES
    assert sum(not math.isclose(o, round(o), abs_tol=1e-9) for o in octaves) <= 1


@pytest.mark.parametrize("tolerance", [1e-3, 1e-9])
def test_search_stops_its_solves_early(tolerance: float) -> None:
    one, two = halves(2.0)
    choice = choose_weight(one, two, 1000, tolerance, weight=0.3, nonnegative=True)
    rule = iterations(SEARCH_LIMIT) | objective_gap(SEARCH_TOLERANCE * tolerance, SEARCH_WINDOW)
    expected = solve_map(one, 0.3, True, rule)
    np.testing.assert_array_equal(choice.first.coefficients, expected.coefficients)
