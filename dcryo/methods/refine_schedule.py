"""What an iteration of a refinement does: how far poses look, how fine its maps are, whether all is searched.

Frequency marching (Barnett, Greengard, Pataki and Spivak 2017, SIAM J. Imaging Sci. 10:1170) by what the half
maps support: an iteration looks as far as those of the one before agree, and only somewhat farther than that
one did.  The first ones search all rotations, at frequencies where that costs little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from dcryo.dataflow.pose_update import PoseRule, SearchRule
from dcryo.methods.refine_config import RefineConfig
from dcryo.methods.refine_round import Round
from dcryo.methods.refine_table import PoseChange
from dcryo.operators.projection_matching import MatchingGrid
from dcryo.operators.window import even_fast_length

ROOM = 1.5
"""Maps of an iteration reach this many times farther than its poses look: there the next ones may go."""

MARGIN = 4
"""And so many Fourier pixels more."""

WHOLE = 0.85
"""A coarse map that is nearly as large as the final one is the final one."""

GROWTH, STRIDE = 1.4, 1.0
"""The frequencies that poses look at grow by no more than this factor and so many Fourier pixels at once."""

SEARCH_ROUNDS = 6
"""Iterations that search all rotations at most."""

FIRST_RADIUS, SEARCH_RADIUS = 6.0, 8.0
"""Fourier pixels that the first search compares at most, and later ones; it costs their sixth power."""

SPACING = 1.2
"""Of the rotations of a search, in the finest detail over the radius of the box: rad times Fourier pixels."""

WIDEST = 0.35
"""Spacing at most, rad."""

SHIFT_STEP = 0.2
"""Of the shifts of a search, in periods of the finest detail."""

FINER = 8.0
"""Grids of projection matching end at so many times finer ones than a search has."""

CANDIDATES = 4
"""Poses that a search gives to the fit."""

SEARCH_STEPS, STEPS = 5, 3
"""Steps of the fit after a search, and of one that goes on from the pose before."""

JUMPED, UNSETTLED = 0.02, 0.1
"""A search is not repeated where fewer particles than the first share jumped by more than its spacing, and
repeated only for those, and the lost ones, where they are fewer than the second."""

MAX_SHIFT = 0.06
"""Reach of a search in shifts, in boxes."""

BLURRED = 0.9
"""Standard deviation of the rotations [rad] times the Fourier pixels that poses look at, from which on images
are folded over the posterior of their poses; below, it changes nothing but the time."""

SETTLED = 0.2
"""Poses have settled when they turn by less than this share of their standard deviation."""


@dataclass(frozen=True)
class Step:
    """How an iteration is done: side of its maps, and the rule for its poses, or None: as they are."""

    n: int
    rule: PoseRule | None

    @property
    def cutoff(self) -> float:
        """Fourier pixels that poses look at; NaN where they are left as they are."""
        return math.nan if self.rule is None else self.rule.cutoff


@dataclass
class Schedule:
    """The iterations of a refinement, one after the other.

    box: side of the images; pixel_size: Å; finest: side of the final maps; band: Fourier pixels to which
    there is a starting map, or None; steps: those that were given out.
    """

    config: RefineConfig
    box: int
    pixel_size: float
    finest: int
    band: float | None
    steps: list[Step] = field(default_factory=list)
    _best: int = 0

    def first(self) -> Step:
        """The first iteration."""
        if self.band is None:
            # how far the given poses agree is seen before they are touched
            return self._give(Step(self.finest, None))
        cutoff = min(self.band, self._limit())
        return self._give(Step(self._side(cutoff), self._rule(cutoff, self._searches())))

    def _searches(self) -> bool:
        return self.config.initial is not None and self.config.search != "local"

    def _limit(self) -> float:
        """Fourier pixels that poses look at in the end, at most."""
        side = self.box * self.pixel_size
        finest = (self.finest - 1) // 2
        return float(finest if self.config.limit is None else min(finest, side / self.config.limit))

    def _side(self, cutoff: float) -> int:
        """Side of maps for poses that look to ``cutoff``."""
        n = even_fast_length(math.ceil(2 * (ROOM * cutoff + MARGIN)))
        return self.finest if n >= WHOLE * self.finest else n

    def _rule(self, cutoff: float, search: bool, change: PoseChange | None = None) -> PoseRule:
        number = len(self.steps)
        radius = min(cutoff, SEARCH_RADIUS if number else FIRST_RADIUS)
        # nobody knows the grey scale of a map that comes from elsewhere
        rule = PoseRule(
            cutoff, SEARCH_STEPS if search else STEPS, self.config.update, soft=self._soft(change),
            free_scale=number == 0,
        )  # fmt: skip
        if not search:
            grid = self._grid(cutoff) if self.config.update == "matching" else None
            return replace(rule, matching=grid)
        reach = self.config.max_shift
        around = SearchRule(
            spacing=min(WIDEST, SPACING / radius),
            radius=radius,
            distance=MAX_SHIFT * self.box if reach is None else reach / self.pixel_size,
            step=SHIFT_STEP * self.box / radius,
            count=CANDIDATES,
            settled=0.0 if self._all(change) else min(WIDEST, SPACING / radius),
        )
        return replace(rule, search=around)

    def _all(self, change: PoseChange | None) -> bool:
        """Whether a search is one for all particles."""
        return change is None or len(self.steps) < 2 or change.jumped > UNSETTLED

    def _soft(self, change: PoseChange | None) -> bool:
        """Whether images are folded over the posterior of their poses."""
        if self.config.soft != "auto":
            return bool(self.config.soft)
        # a comparison with NaN is false: poses as they were given have no known uncertainty
        return change is not None and change.sigma_median * self.steps[-1].cutoff > BLURRED

    def _grid(self, cutoff: float) -> MatchingGrid:
        """The grid of projection matching: half of the last one, as fine as ``cutoff`` can tell."""
        finest = MatchingGrid(SPACING / cutoff / FINER, SHIFT_STEP * self.box / cutoff / FINER)
        last = self.steps[-1].rule if self.steps else None
        if last is None:
            return replace(finest, spacing=FINER * finest.spacing, step=FINER * finest.step)
        if last.search is not None:
            half = MatchingGrid(last.search.spacing, last.search.step).halved()
        else:
            assert last.matching is not None
            half = last.matching.halved()
        return half if half.spacing > finest.spacing else finest

    def following(self, latest: Round, change: PoseChange) -> Step | None:
        """The next iteration; None where there is nothing to gain, or no more to be done.

        ``latest`` and ``change`` are what came of the one that was given out last.
        """
        number, rule = len(self.steps), self.steps[-1].rule
        best, self._best = self._best, max(self._best, latest.support)
        if number >= self.config.rounds:
            return None
        before = rule.cutoff if rule is not None else 0.0
        least = self.band or 1.0
        reach = latest.support if rule is None else min(latest.support, GROWTH * before + STRIDE)
        cutoff = min(max(float(reach), min(least, before or least)), self._limit())
        searched = rule is not None and rule.search is not None
        settled = rule is not None and change.turn_median <= SETTLED * change.sigma_median
        if settled and not searched and cutoff <= before and latest.support <= best:
            return None
        search = searched and number < SEARCH_ROUNDS and (number == 1 or change.jumped > JUMPED)
        return self._give(Step(self._side(cutoff), self._rule(cutoff, search, change)))

    def _give(self, step: Step) -> Step:
        self.steps.append(step)
        return step
