"""Choosing the weight of the prior, and whether the map is nonnegative, by cross-validation between halves.

The misfit of half 1's map on half 2's images, and the other way round, needs no image: it follows from the
normal equations, c1ᵀ(r2 * c1) / 2 - c1ᵀ rhs2 + energy2 / 2.  Only these scalars pass between the half sets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from dcryo.methods.regularise import DEFAULT, MapProblem, Method, Solution, solve_map
from dcryo.solvers.prox import AnalysisPrior
from dcryo.solvers.stopping import iterations, objective_gap

FIRST_WEIGHT = 1.0
"""Where the search begins: the noise of one voxel."""

OCTAVES = 8
"""The search goes no further than this many doublings or halvings."""

SEARCH_TOLERANCE = 3.0
"""Tolerance of the solves of the search, in that of the final ones: misfits compare long before."""

SEARCH_WINDOW = 3
"""Iterations that tell how near a solve of the search is: less surely than by default, and sooner."""

SEARCH_LIMIT = 40
"""Iterations of one of them at most."""


@dataclass(frozen=True)
class Trial:
    """One pair of half maps: weight, constraint, and their misfit on each other's images."""

    weight: float
    nonnegative: bool
    misfit: float


@dataclass(frozen=True)
class Choice:
    """Half maps of one trial: the best of all ``trials``, or one on the way there."""

    trial: Trial
    trials: list[Trial]
    first: Solution
    second: Solution
    priors: tuple[AnalysisPrior, AnalysisPrior]

    @property
    def weight(self) -> float:
        """Its weight."""
        return self.trial.weight

    @property
    def nonnegative(self) -> bool:
        """Whether it is constrained."""
        return self.trial.nonnegative


class _Search:
    """Evaluates pairs of half maps and remembers what was tried."""

    def __init__(
        self,
        one: MapProblem,
        two: MapProblem,
        limit: int,
        tolerance: float,
        method: Method,
        tried: Callable[[], None],
    ) -> None:
        self.problems = (one, two)
        gap = objective_gap(SEARCH_TOLERANCE * tolerance, SEARCH_WINDOW)
        self.stop = iterations(min(limit, SEARCH_LIMIT)) | gap
        self.method = method
        self.tried = tried
        self.trials: list[Trial] = []
        # the duals go on from pair to pair: the other half of a warm start
        self._priors = (method.make_prior(one.threads), method.make_prior(two.threads))

    def pair(self, weight: float, nonnegative: bool, start: Choice | None) -> Choice:
        """Half maps from ``start`` on, and their misfit on each other's images."""
        one, two = self.problems
        starts = (None, None) if start is None else (start.first, start.second)
        first = solve_map(one, weight, nonnegative, self.stop, starts[0], self._priors[0], self.method)
        second = solve_map(two, weight, nonnegative, self.stop, starts[1], self._priors[1], self.method)
        misfit = two.misfit(first.coefficients) + one.misfit(second.coefficients)
        trial = Trial(weight, nonnegative, misfit)
        self.trials.append(trial)
        self.tried()
        return Choice(trial, self.trials, first, second, self._priors)


def choose_weight(
    one: MapProblem,
    two: MapProblem,
    limit: int,
    tolerance: float,
    *,
    weight: float | None = None,
    nonnegative: bool | None = None,
    method: Method = DEFAULT,
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
        Fixed constraint; default: compared at the best weight, both going on from the same maps, and given up
        where maps without it predict better by more than the noise of the comparison.
    method : Method
        Prior and solver.
    tried : callable
        Called after every pair of half maps.
    """
    search = _Search(one, two, limit, tolerance, method, tried)
    constraint = True if nonnegative is None else nonnegative
    best = search.pair(weight, constraint, None) if weight is not None else _best_weight(search, constraint)
    if nonnegative is None:
        bound, free = (search.pair(best.weight, sign, best) for sign in (True, False))
        noise = math.hypot(
            two.misfit_error(bound.first.coefficients, free.first.coefficients),
            one.misfit_error(bound.second.coefficients, free.second.coefficients),
        )
        best = free if _misfit(bound) - _misfit(free) > noise else bound
    return best


def _misfit(choice: Choice) -> float:
    return choice.trial.misfit


def _best_weight(search: _Search, constraint: bool) -> Choice:
    """Walk down the misfit in octaves until it rises on both sides, then fit a parabola in log weight."""
    pairs: dict[int, Choice] = {}

    def at(octave: int) -> float:
        if octave not in pairs:
            nearest = min(pairs, key=lambda tried: abs(tried - octave), default=None)
            start = None if nearest is None else pairs[nearest]
            pairs[octave] = search.pair(FIRST_WEIGHT * 2.0**octave, constraint, start)
        return pairs[octave].trial.misfit

    best = -1 if at(-1) < at(0) else 0
    step = -1 if best < 0 else 1
    while abs(best + step) <= OCTAVES and at(best + step) < at(best):
        best += step
    if abs(best) == OCTAVES:
        return pairs[best]
    left, middle, right = at(best - 1), at(best), at(best + 1)
    curvature = left - 2 * middle + right
    if not curvature > 0:
        return pairs[best]
    refined = best + 0.5 * (left - right) / curvature
    between = search.pair(FIRST_WEIGHT * 2.0**refined, constraint, pairs[best])
    return min(between, pairs[best], key=_misfit)
