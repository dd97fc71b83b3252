"""Accelerated proximal gradient for 1/2 <x, Qx> - <q, x> + g(x), Q symmetric and positive semidefinite.

FISTA (Beck & Teboulle 2009, SIAM J. Imaging Sci. 2:183) with the adaptive restart of O'Donoghue & Candes
(2015).  One product with Q an iteration: Q is linear, so the product at the iterate follows from the one at
the extrapolated point, and the objective costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dcryo.solvers.stopping import Progress, Rule

Array = NDArray[np.floating[Any]]


class Prior(Protocol):
    """A function with an easy prox."""

    def value(self, x: Array) -> float:
        """g(x)."""

    def prox(self, z: Array, step: float) -> Array:
        """argmin_x 1/2 |x - z|^2 + step g(x)."""


@dataclass(frozen=True)
class Quadratic:
    """1/2 <x, Qx> - <q, x> + constant, with ``lipschitz`` at least the largest eigenvalue of Q."""

    apply: Callable[[Array], Array]
    linear: Array
    lipschitz: float
    constant: float = 0.0


@dataclass
class State:
    """Everything FISTA carries from one iteration to the next; save it and resume."""

    x: Array
    previous: Array
    product: Array
    t: float
    lipschitz: float
    objectives: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """Solution, the objective before every iteration, and why the solver stopped."""

    x: Array
    history: list[float]
    reason: str
    state: State


def inner(a: Array, b: Array) -> float:
    """Inner product in float64, plane by plane: unlike BLAS, the same bits for any number of threads."""
    return math.fsum(float(np.multiply(p, q, dtype=np.float64).sum()) for p, q in zip(a, b, strict=True))


def init(problem: Quadratic, start: Array | None = None) -> State:
    """State at ``start`` (default zero)."""
    if start is None:
        x = np.zeros_like(problem.linear)
        product = np.zeros_like(x)
    else:
        x = start.copy()
        product = problem.apply(x)
    return State(x=x, previous=x, product=product, t=1.0, lipschitz=problem.lipschitz)


def step(problem: Quadratic, prior: Prior, state: State) -> State:
    """One iteration; records the objective at the state's x."""
    t_next = (1 + math.sqrt(1 + 4 * state.t**2)) / 2
    beta = np.float32((state.t - 1) / t_next)
    ahead: Array = state.x + beta * (state.x - state.previous)
    # Q(ahead) = (1 + beta) Qx - beta Q(previous): one product gives both
    product_ahead = problem.apply(ahead) if state.objectives else state.product
    product: Array = (product_ahead + beta * state.product) / (1 + beta)
    objective = 0.5 * inner(state.x, product) - inner(state.x, problem.linear) + problem.constant
    objective += prior.value(state.x)
    lipschitz = state.lipschitz
    if state.objectives and objective > state.objectives[-1] + 1e-6 * abs(state.objectives[0] - objective):
        if state.t == 1:
            # even a step without momentum went uphill: the norm was underestimated
            lipschitz *= 1.5
        t_next = 1.0
        ahead, product_ahead = state.x, product
    z = ahead - (product_ahead - problem.linear) / np.float32(lipschitz)
    x = prior.prox(z, 1 / lipschitz)
    if inner(ahead - x, x - state.x) > 0:
        t_next = 1.0
    return State(x, state.x, product, t_next, lipschitz, [*state.objectives, objective])


def solve(
    problem: Quadratic,
    prior: Prior,
    stop: Rule,
    start: Array | None = None,
    watch: Callable[[State], None] | None = None,
) -> Result:
    """Minimise until ``stop`` says so; ``watch`` is called after every iteration."""
    state = init(problem, start)
    while True:
        before = state.x
        state = step(problem, prior, state)
        if watch is not None:
            watch(state)
        norm = math.sqrt(inner(state.x, state.x))
        moved = state.x - before
        change = math.sqrt(inner(moved, moved)) / norm if norm > 0 else 0.0
        reason = stop.check(Progress(state.objectives, change))
        if reason is not None:
            return Result(state.x, state.objectives, reason, state)


def largest_eigenvalue(
    apply: Callable[[Array], Array], start: Array, iterations: int = 12, margin: float = 1.02
) -> float:
    """Largest eigenvalue of a positive semidefinite Q by power iteration, times ``margin``."""
    x = start
    value = 0.0
    for _ in range(iterations):
        norm = math.sqrt(inner(x, x))
        if norm == 0:
            return 0.0
        x = x / np.float32(norm)
        y = apply(x)
        value = inner(x, y)
        x = y
    return margin * value
