"""ADMM for 1/2 <x, Qx> - <q, x> + weight |Lx| + (x >= 0), whichever way its linear step is solved.

With u = Lx and v = x split off, scaled multipliers a, and the penalty rho, an iteration is (thesis, (4.47),
(4.48), (4.44), (4.51), (4.52) with one sign throughout; start a = 0)

    u <- shrink(Lx - a_u, weight / rho),    v <- max(x - a_v, 0)
    (Q + rho LᵀL + rho) x <- q + rho Lᵀ(u + a_u) + rho (v + a_v)
    a_u <- a_u + u - Lx,    a_v <- a_v + v - x

What shrinking leaves is a projection on the dual ball (Moreau), so none of the five arrays need be kept: with

    weight p = rho (Lx - u - a_u),    m = rho (x - v - a_v)

the residual of the linear system at the old x is r = q - Qx - weight Lᵀp - m, and the same iteration reads

    d = (Q + rho LᵀL + rho)^-1 r,    x <- x + d
    p <- project(p + rho / weight L(x + d)),    m <- min(m + rho (x + d), 0)

:mod:`dcryo.solvers.linear_step` has the ways to find d.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.arrays import namespace
from dcryo.solvers.driver import Result, drive
from dcryo.solvers.fista import Quadratic, inner
from dcryo.solvers.linear_step import LinearStep
from dcryo.solvers.prox import AnalysisPrior
from dcryo.solvers.stopping import Rule

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Scheme:
    """A linear step and the penalty ``rho``, in the units of Q: any rho > 0 converges, at its own speed."""

    linear_step: LinearStep
    rho: float


@dataclass
class State:
    """Everything ADMM carries from one iteration to the next but its duals, which the prior keeps.

    ``penalty`` holds the eigenvalues of rho (LᵀL + 1).
    """

    x: Array
    product: Array
    penalty: Array
    objectives: list[float] = field(default_factory=list)
    change: float = math.inf


def init(problem: Quadratic, prior: AnalysisPrior, scheme: Scheme, start: Array | None = None) -> State:
    """State at ``start`` (default zero)."""
    x = np.zeros_like(problem.linear) if start is None else start.copy()
    product = np.zeros_like(x) if start is None else problem.apply(x)
    penalty = namespace(x).asarray(prior.penalty(x.shape)) * np.float32(scheme.rho)
    return State(x, product, penalty)


def step(problem: Quadratic, prior: AnalysisPrior, scheme: Scheme, state: State) -> State:
    """One iteration; records the objective at the state's x."""
    value = objective(problem, prior, state.x, state.product)
    residual = prior.pull(problem.linear - state.product)
    increment, product = scheme.linear_step(problem, state.penalty, state.x, state.product, residual)
    x = state.x + increment
    prior.ascend(x + increment, scheme.rho)
    norm2 = inner(x, x, problem.threads)
    change = math.sqrt(inner(increment, increment, problem.threads) / norm2) if norm2 > 0 else 0.0
    return State(x, product, state.penalty, [*state.objectives, value], change)


def objective(problem: Quadratic, prior: AnalysisPrior, x: Array, product: Array) -> float:
    """Upper bound of the objective at the feasible point next to ``x``, from Qx alone.

    ADMM ends in feasible points but does not walk on them, and Q times the feasible point would be one more
    product.  The norm of Q bounds what it could say; the bound is exact where ``x`` is feasible.
    """
    feasible = prior.feasible(x)
    half = np.float32(0.5) * product - problem.linear
    value = inner(x, half, problem.threads) + problem.constant
    if feasible is not x:
        moved = feasible - x
        value += inner(moved, product - problem.linear, problem.threads)
        value += 0.5 * problem.lipschitz * inner(moved, moved, problem.threads)
    return value + prior.value(feasible)


def solve(
    problem: Quadratic,
    prior: AnalysisPrior,
    scheme: Scheme,
    stop: Rule,
    start: Array | None = None,
    watch: Callable[[State], None] | None = None,
) -> Result[State]:
    """Minimise until ``stop`` says so, to a feasible point; ``watch`` is called after every iteration."""
    advance = functools.partial(step, problem, prior, scheme)
    state = init(problem, prior, scheme, start)
    result = drive(advance, state, problem.constant, stop, watch, swinging=True)
    return replace(result, x=prior.feasible(result.x))
