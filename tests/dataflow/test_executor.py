"""The serial executor: the order and the reports that every other executor must reproduce."""

from __future__ import annotations

from typing import Any

import pytest

from dcryo.dataflow.executor import SerialExecutor, Task
from dcryo.methods.progress import Progress, Silent


def silent(key: str) -> Progress:
    return Silent()


def tasks(function: Any, items: list[int]) -> list[Task]:
    return [Task(str(item), function, item) for item in items]


def test_results_come_in_the_order_of_the_tasks_and_each_is_reported_at_once() -> None:
    events: list[tuple[str, int]] = []

    def task(item: int, progress: Progress) -> int:
        events.append(("ran", item))
        return item**2

    results = SerialExecutor().run(
        tasks(task, [3, 1, 2]), silent, lambda result: events.append(("done", result))
    )
    assert results == [9, 1, 4]
    assert events == [("ran", 3), ("done", 9), ("ran", 1), ("done", 1), ("ran", 2), ("done", 4)]


def test_every_task_reports_to_the_progress_of_its_key() -> None:
    told: list[tuple[str, int]] = []

    class Counted(Silent):
        def __init__(self, key: str) -> None:
            self.key = key

        def advance(self, count: int = 1) -> None:
            told.append((self.key, count))

    SerialExecutor().run(tasks(lambda item, progress: progress.advance(item), [5, 7]), Counted)
    assert told == [("5", 5), ("7", 7)]


def test_nobody_has_to_listen_for_results_and_there_may_be_nothing_to_do() -> None:
    assert SerialExecutor().run(tasks(lambda item, progress: abs(item), [-1, 2]), silent) == [1, 2]
    assert SerialExecutor().run([], silent) == []


def test_an_error_ends_the_run_where_it_happened() -> None:
    ran: list[int] = []

    def task(item: int, progress: Progress) -> float:
        ran.append(item)
        return 1 // item

    with pytest.raises(ZeroDivisionError):
        SerialExecutor().run(tasks(task, [1, 0, 2]), silent)
    assert ran == [1, 0]
