"""Choosing the weight of the prior, and whether the map is nonnegative, by cross-validation between halves.

The misfit of half 1's map on half 2's images, and the other way round, needs no image: it follows from the
normal equations, c1ᵀ(r2 * c1) / 2 - c1ᵀ rhs2 + energy2 / 2.  Only these scalars pass between the half sets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from dcryo.methods.regularise import MapProblem, Solution, solve_tv
from dcryo.solvers.prox import TotalVariation
from dcryo.solvers.stopping import iterations, objective_change

FIRST_WEIGHT = 1.0
"""Where the search begins: the noise of one voxel."""

LIMITS = (1e-3, 1e2)
"""Weights outside are not tried."""

SEARCH_TOLERANCE = 10.0
"""Solves of the search stop this many times earlier than the final ones: misfits compare long before."""


@dataclass(frozen=True)
class Trial:
    """One pair of half maps: weight, constraint, and their misfit on each other's images."""

    weight: float
    nonnegative: bool
    misfit: float


@dataclass(frozen=True)
class Choice:
    """The best weight and constraint, everything tried, and the half maps to start from."""

    weight: float
    nonnegative: bool
    trials: list[Trial]
    first: Solution
    second: Solution


class _Search:
    """Evaluates pairs of half maps, each warm-started from the pair before."""

    def __init__(
        self, one: MapProblem, two: MapProblem, limit: int, tolerance: float, tried: Callable[[], None]
    ) -> None:
        self.problems = (one, two)
        self.stop = iterations(min(limit, 40)) | objective_change(SEARCH_TOLERANCE * tolerance)
        self.tried = tried
        self.trials: list[Trial] = []
        self.last: tuple[Solution, Solution] | None = None
        self.best: tuple[Trial, tuple[Solution, Solution]] | None = None
        self._priors = tuple(TotalVariation(0.0, threads=p.threads) for p in self.problems)

    def misfit(self, weight: float, nonnegative: bool) -> float:
        """Misfit of both half maps on the other half's images."""
        for trial in self.trials:
            if trial.nonnegative == nonnegative and math.isclose(trial.weight, weight):
                return trial.misfit
        one, two = self.problems
        starts = self.last or (None, None)
        first = solve_tv(one, weight, nonnegative, self.stop, starts[0], self._priors[0])
        second = solve_tv(two, weight, nonnegative, self.stop, starts[1], self._priors[1])
        value = two.misfit(first.coefficients) + one.misfit(second.coefficients)
        trial = Trial(weight, nonnegative, value)
        self.trials.append(trial)
        self.last = (first, second)
        if self.best is None or value < self.best[0].misfit:
            self.best = (trial, self.last)
        self.tried()
        return value

    def choice(self) -> Choice:
        """The best of what was tried, at least one pair."""
        if self.best is None:
            raise ValueError("nothing was tried")
        trial, (first, second) = self.best
        return Choice(trial.weight, trial.nonnegative, self.trials, first, second)


def choose_weight(
    one: MapProblem,
    two: MapProblem,
    limit: int,
    tolerance: float,
    *,
    weight: float | None = None,
    nonnegative: bool | None = None,
    tried: Callable[[], None] = lambda: None,
) -> Choice:
    """Best weight and constraint by cross-validation.

    Parameters
    ----------
    one, two : MapProblem
        The half sets.
    limit, tolerance
        Stopping rule of the final solves; those of the search are shorter.
    weight : float, optional
        Fixed weight; default: searched by halving and doubling, then a parabola through the best three.
    nonnegative : bool, optional
        Fixed constraint; default: compared at the best weight, and kept only if it predicts better.
    tried : callable
        Called after every pair of half maps.
    """
    search = _Search(one, two, limit, tolerance, tried)
    constraint = True if nonnegative is None else nonnegative
    if weight is None:
        _search_weight(search, constraint)
    else:
        search.misfit(weight, constraint)
    if nonnegative is None:
        search.misfit(search.choice().weight, False)
    return search.choice()


def _search_weight(search: _Search, constraint: bool) -> None:
    """Walk down the misfit in octaves until it rises on both sides, then fit a parabola in log weight."""

    def f(octave: int) -> float:
        return search.misfit(FIRST_WEIGHT * 2.0**octave, constraint)

    lowest = math.ceil(math.log2(LIMITS[0] / FIRST_WEIGHT))
    highest = math.floor(math.log2(LIMITS[1] / FIRST_WEIGHT))
    step = -1 if f(-1) < f(0) else 1
    best = -1 if step < 0 else 0
    while lowest <= best + step <= highest and f(best + step) < f(best):
        best += step
    if not lowest < best < highest:
        return
    left, middle, right = f(best - 1), f(best), f(best + 1)
    curvature = left - 2 * middle + right
    if curvature > 0:
        search.misfit(FIRST_WEIGHT * 2.0 ** (best + 0.5 * (left - right) / curvature), constraint)
