"""Who runs the tasks of a plan.  A task is a pure function of one small picklable item."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item")
Handle = TypeVar("Handle")


class Executor(Protocol):
    """Runs tasks and gives back their small results in the order of the items."""

    def map(
        self,
        task: Callable[[Item], Handle],
        items: Sequence[Item],
        done: Callable[[Handle], Any] | None = None,
    ) -> list[Handle]:
        """Run ``task`` on every item; ``done`` hears of each result as it comes."""


class SerialExecutor:
    """One task after the other in this process: the default, and what every other executor must equal."""

    def map(
        self,
        task: Callable[[Item], Handle],
        items: Sequence[Item],
        done: Callable[[Handle], Any] | None = None,
    ) -> list[Handle]:
        """Run ``task`` on every item in turn."""
        results = []
        for item in items:
            result = task(item)
            if done is not None:
                done(result)
            results.append(result)
        return results
