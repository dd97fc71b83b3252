"""The loop around every solver: step, look, and stop when a rule says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from dcryo.solvers.stopping import Progress, Rule

Array = NDArray[np.floating[Any]]


class Iterate(Protocol):
    """What the loop reads in a solver's state."""

    @property
    def x(self) -> Array:
        """The unknown."""

    @property
    def objectives(self) -> Sequence[float]:
        """The objective before every step."""

    @property
    def change(self) -> float:
        """Relative change of the unknown in the last step."""


S = TypeVar("S", bound=Iterate)


@dataclass(frozen=True)
class Result(Generic[S]):
    """Solution, the objective before every iteration, and why the solver stopped."""

    x: Array
    history: list[float]
    reason: str
    state: S


def drive(
    advance: Callable[[S], S],
    state: S,
    at_zero: float,
    stop: Rule,
    watch: Callable[[S], None] | None = None,
    swinging: bool = False,
) -> Result[S]:
    """Step until ``stop`` says so; ``watch`` sees every state.

    ``at_zero`` is the objective at zero, ``swinging`` whether objectives may rise on their way.
    """
    while True:
        state = advance(state)
        if watch is not None:
            watch(state)
        reason = stop.check(Progress(state.objectives, at_zero, state.change, swinging))
        if reason is not None:
            return Result(state.x, list(state.objectives), reason, state)
