"""Accelerated proximal gradient for 1/2 <x, Qx> - <q, x> + g(x), Q symmetric and positive semidefinite.

FISTA (Beck & Teboulle 2009, SIAM J. Imaging Sci. 2:183) with the adaptive restart of O'Donoghue & Candes
(2015).  One product with Q an iteration: Q is linear, so the product at the iterate follows from the one at
the extrapolated point, and the objective costs nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dcryo.arrays import on_device
from dcryo.operators.compiled import blocks, for_each, slabs
from dcryo.operators.gradient import PLANES
from dcryo.solvers.driver import Result, drive
from dcryo.solvers.stopping import Rule

Array = NDArray[np.floating[Any]]


class Prior(Protocol):
    """A function with an easy prox."""

    def value(self, x: Array) -> float:
        """g(x)."""

    def prox(self, z: Array, step: float) -> Array:
        """argmin_x 1/2 |x - z|^2 + step g(x)."""


@dataclass(frozen=True)
class Quadratic:
    """1/2 <x, Qx> - <q, x> + constant, with ``lipschitz`` at least the largest eigenvalue of Q.

    ``threads`` (0: all processors) share the elementwise work; results do not depend on them.
    """

    apply: Callable[[Array], Array]
    linear: Array
    lipschitz: float
    constant: float = 0.0
    threads: int = 0


@dataclass
class State:
    """Everything FISTA carries from one iteration to the next; save it and resume."""

    x: Array
    previous: Array
    product: Array
    t: float
    lipschitz: float
    objectives: list[float] = field(default_factory=list)
    change: float = math.inf


def inner(a: Array, b: Array, threads: int = 0) -> float:
    """Inner product in float64, plane by plane: unlike BLAS, the same bits for any number of threads."""
    if on_device(a):
        return float(np.multiply(a, b, dtype=np.float64).sum())
    parts = np.zeros(len(a))

    def work(part: slice) -> None:
        for k in range(part.start, part.stop):
            parts[k] = np.multiply(a[k], b[k], dtype=np.float64).sum()

    for_each(work, blocks(len(a), PLANES), threads)
    return math.fsum(parts)


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
    beta = (state.t - 1) / t_next
    ahead = np.empty_like(state.x)

    def extrapolate(part: slice) -> None:
        np.subtract(state.x[part], state.previous[part], out=ahead[part])
        ahead[part] *= beta
        ahead[part] += state.x[part]

    each = slabs(ahead, PLANES)
    for_each(extrapolate, each, problem.threads)
    product_ahead = problem.apply(ahead) if state.objectives else state.product
    product = np.empty_like(ahead)
    misfit = np.empty_like(ahead)

    def recover(part: slice) -> None:
        # Q(ahead) = (1 + beta) Qx - beta Q(previous): one product gives both
        np.multiply(state.product[part], beta, out=product[part])
        product[part] += product_ahead[part]
        product[part] /= 1 + beta
        np.multiply(product[part], np.float32(0.5), out=misfit[part])
        misfit[part] -= problem.linear[part]

    for_each(recover, each, problem.threads)
    objective = inner(state.x, misfit, problem.threads) + problem.constant + prior.value(state.x)
    lipschitz = state.lipschitz
    if state.objectives and objective > state.objectives[-1] + 1e-6 * abs(state.objectives[0] - objective):
        # momentum and an inexact prox go uphill too: blame the norm only for what the last move has seen of Q
        moved = state.x - state.previous
        length = inner(moved, moved, problem.threads)
        curvature = inner(moved, product - state.product, problem.threads)
        if curvature > lipschitz * length:
            lipschitz = min(1.02 * curvature / length, 1.5 * lipschitz)
        t_next = 1.0
        ahead, product_ahead = state.x, product
    z = misfit  # its values are used up

    def descend(part: slice) -> None:
        np.subtract(problem.linear[part], product_ahead[part], out=z[part])
        z[part] *= np.float32(1 / lipschitz)
        z[part] += ahead[part]

    for_each(descend, each, problem.threads)
    x = prior.prox(z, 1 / lipschitz)
    sums = np.zeros((3, len(each)))  # (ahead - x)(x - before), |x - before|^2, |x|^2

    def compare(item: int) -> None:
        part = each[item]
        moved = x[part] - state.x[part]
        pairs = ((ahead[part] - x[part], moved), (moved, moved), (x[part], x[part]))
        sums[:, item] = [float((a * b).sum(dtype=np.float64)) for a, b in pairs]

    for_each(compare, range(len(each)), problem.threads)
    uphill, moved2, norm2 = (math.fsum(row) for row in sums)
    if uphill > 0:
        t_next = 1.0
    change = math.sqrt(moved2 / norm2) if norm2 > 0 else 0.0
    return State(x, state.x, product, t_next, lipschitz, [*state.objectives, objective], change)


def solve(
    problem: Quadratic,
    prior: Prior,
    stop: Rule,
    start: Array | None = None,
    watch: Callable[[State], None] | None = None,
) -> Result[State]:
    """Minimise until ``stop`` says so; ``watch`` is called after every iteration."""
    # priors vanish at zero, so there the objective is the constant
    advance = functools.partial(step, problem, prior)
    return drive(advance, init(problem, start), problem.constant, stop, watch)
