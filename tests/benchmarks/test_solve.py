"""What the solver costs: the prox of total variation, an iteration of FISTA, regularised and linear maps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from benchmarks.problem import ONE_THREAD, make_equations

from dcryo.methods.linear_map import solve_linear
from dcryo.methods.regularise import MapProblem, solve_map
from dcryo.operators.gradient import Gradient
from dcryo.solvers.fista import init, step
from dcryo.solvers.prox import AnalysisPrior
from dcryo.solvers.stopping import objective_gap

pytestmark = pytest.mark.benchmark(timer=time.process_time)

VIEWS = 500
BOXES = [64, 128]


@pytest.fixture(scope="module", params=BOXES, ids=lambda box: f"box{box}")
def maps(request: pytest.FixtureRequest) -> MapProblem:
    return MapProblem(make_equations(request.param, VIEWS), ONE_THREAD)


def tv(maps: MapProblem) -> AnalysisPrior:
    return AnalysisPrior(Gradient(threads=ONE_THREAD), maps.noise, nonnegative=True)


def test_prox_of_total_variation(maps: MapProblem, record: Callable[..., Any]) -> None:
    prior, size = tv(maps), 1 / maps.lipschitz
    x = record(lambda: prior.prox(maps.linear * np.float32(size), size))
    assert x.min() >= 0


def test_iteration(maps: MapProblem, record: Callable[..., Any]) -> None:
    """One product with the kernel, one prox and the objective."""
    prior, problem = tv(maps), maps.quadratic()
    state = init(problem)
    for _ in range(2):  # the first iterations have no momentum, and no second product
        state = step(problem, prior, state)
    following = record(lambda: step(problem, prior, state))
    assert following.objectives[-1] < following.objectives[0]


def test_map_to_the_default_tolerance(maps: MapProblem, record: Callable[..., Any]) -> None:
    """From the normal equations on: the norm of the data term, and all iterations."""

    def solve() -> Any:
        return solve_map(MapProblem(maps.equations, ONE_THREAD), 0.7, True, objective_gap(1e-3))

    solution = record(solve, rounds=1)
    assert "within 0.001" in solution.reason


def test_linear_map(maps: MapProblem, record: Callable[..., Any]) -> None:
    _, residuals = record(lambda: solve_linear(maps, ridge=0.05), rounds=1)
    assert residuals[-1] < residuals[0]
