"""Who runs the tasks of a plan: this process, one after the other, or Dask workers (:mod:`.cluster`).

A task is a function of one small picklable item and a progress; it is idempotent, leaves its result in a
commit, and returns a small handle.  So an executor may run tasks anywhere, in any order that their needs
allow, and again after a death.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from dcryo.dataflow.plan import available_memory

if TYPE_CHECKING:
    from dcryo.methods.progress import Progress


@dataclass(frozen=True)
class Task:
    """One call ``function(item, progress)``; it may begin when the tasks ``needs`` (by key) are done.

    urgent: to be preferred to tasks that are not.
    """

    key: str
    function: Callable[[Any, Progress], Any]
    item: Any
    needs: tuple[str, ...] = ()
    urgent: bool = False


@dataclass(frozen=True)
class Capacity:
    """What an executor has: tasks at once, and for each memory [bytes] and threads (0: all processors)."""

    tasks: int
    memory: int
    threads: int


Listen = Callable[[str], "Progress"]
"""Gives the progress that the task of a key reports to."""


class Executor(Protocol):
    """Runs tasks and gives back their small results in the order of the tasks."""

    @property
    def alone(self) -> bool:
        """Whether its tasks end with this process: then what no marker names in a scratch is garbage."""

    @property
    def here(self) -> bool:
        """Whether its tasks run on this machine: then this process itself may do what is one task."""

    def capacity(self) -> Capacity:
        """What there is to run tasks with."""

    def check_access(self, particles: str, scratch: str) -> None:
        """Refuse to begin where a worker cannot read the particle store or the scratch."""

    def run(
        self, tasks: Sequence[Task], listen: Listen, done: Callable[[Any], Any] | None = None
    ) -> list[Any]:
        """Run all tasks (those that others need stand before them); ``done`` hears of each result."""


class Waiting:
    """The tasks that have not begun, and which of them may.

    A task that is done costs a step for each task that needs it and no more, so that tens of thousands of
    tasks do not hold up the one process that hands them out.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = {task.key: task for task in tasks}
        self._open = {task.key: len(set(task.needs)) for task in tasks}
        self._above: dict[str, list[str]] = {}
        for task in tasks:
            for need in set(task.needs):
                self._above.setdefault(need, []).append(task.key)

    def first(self) -> list[Task]:
        """The tasks that need nothing, in order."""
        return [task for key, task in self._tasks.items() if not self._open[key]]

    def done(self, key: str) -> list[Task]:
        """The tasks that may begin because ``key``, which is told once, is done."""
        free = []
        for above in self._above.pop(key, ()):
            self._open[above] -= 1
            if not self._open[above]:
                free.append(self._tasks[above])
        return free


class SerialExecutor:
    """One task after the other in this process: the default, and what every other executor must equal."""

    alone = True
    here = True

    def capacity(self) -> Capacity:
        """One task, with all that is available."""
        return Capacity(tasks=1, memory=available_memory(), threads=0)

    def check_access(self, particles: str, scratch: str) -> None:
        """Nothing to check: this process has opened both."""

    def run(
        self, tasks: Sequence[Task], listen: Listen, done: Callable[[Any], Any] | None = None
    ) -> list[Any]:
        """Run every task in turn."""
        results = []
        for task in tasks:
            result = task.function(task.item, listen(task.key))
            if done is not None:
                done(result)
            results.append(result)
        return results
