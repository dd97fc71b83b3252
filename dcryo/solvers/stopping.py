"""When to stop: small rules that look at a solver's history and combine with ``|`` and ``&``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

LEFT = 8
"""At least so many times the last fall of an objective is taken to be still to come."""


@dataclass(frozen=True)
class Progress:
    """What a rule may look at.

    Objective values so far; the objective at zero, which does not depend on the start; the last relative
    change of the unknown; and whether the objectives may swing about their limit, as those of ADMM do.
    """

    objectives: Sequence[float]
    at_zero: float
    change: float
    swinging: bool = False

    @property
    def iteration(self) -> int:
        """Finished iterations."""
        return len(self.objectives)


@dataclass(frozen=True)
class Rule:
    """A stopping rule: ``check`` returns a sentence when it is time to stop, else None."""

    check: Callable[[Progress], str | None]

    def __or__(self, other: Rule) -> Rule:
        """Stop when either rule says so."""
        return Rule(lambda p: self.check(p) or other.check(p))

    def __and__(self, other: Rule) -> Rule:
        """Stop when both rules say so."""

        def check(p: Progress) -> str | None:
            mine, theirs = self.check(p), other.check(p)
            return f"{mine}; {theirs}" if mine and theirs else None

        return Rule(check)


def iterations(limit: int) -> Rule:
    """Stop after ``limit`` iterations."""
    return Rule(lambda p: f"{limit} iterations done" if p.iteration >= limit else None)


def objective_gap(tolerance: float, window: int = 6) -> Rule:
    """Stop when the objective is within ``tolerance`` of the least one, relative to its whole fall from zero.

    What is left is told from what came last.  An accelerated method whose gap is C / k^2 after k iterations
    falls by 2 C / k^3 in the next, so half of k times the last fall is left.  Twice that is taken, of the
    mean over ``window`` iterations, and at least ``LEFT`` falls, since a warm start counts few iterations.
    Measured against the fall and not the value, which contains the energy of the noise, and against the fall
    from zero, so that a warm start stops no later.  Of objectives that swing, the span of twice as many
    counts: at the turn of a swing they do not change.
    """

    def check(p: Progress) -> str | None:
        length = 2 * window if p.swinging else window
        if len(p.objectives) <= length:
            return None
        values = p.objectives
        fall = max(p.at_zero, values[0]) - min(values)
        last = values[-1 - length :]
        recent = (max(last) - min(last) if p.swinging else abs(last[0] - last[-1])) / length
        if fall <= 0 or max(LEFT, p.iteration) * recent > tolerance * fall:
            return None
        return f"objective within {tolerance:g} of its fall above the least"

    return Rule(check)


def relative_change(tolerance: float) -> Rule:
    """Stop when the unknown moves by less than ``tolerance`` of its norm in one iteration."""
    return Rule(
        lambda p: (
            f"unknown changes by less than {tolerance:g} per iteration" if p.change < tolerance else None
        )
    )
