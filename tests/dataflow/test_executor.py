"""The serial executor: the order and the reports that every other executor must reproduce."""

from __future__ import annotations

from typing import Any

import pytest

from dcryo.dataflow.executor import SerialExecutor, Task, Waiting
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


# --- what may begin


class Counting(str):
    """A key that counts how often it is looked up or compared."""

    looked_up = 0

    def __hash__(self) -> int:
        Counting.looked_up += 1
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other)


def keyed(key: str, *needs: str) -> Task:
    return Task(key, abs, 1, needs)


def test_tasks_may_begin_when_the_last_of_their_needs_is_done() -> None:
    waiting = Waiting([keyed("a"), keyed("b"), keyed("ab", "a", "b"), keyed("c"), keyed("abc", "ab", "c")])
    assert [task.key for task in waiting.first()] == ["a", "b", "c"]
    assert waiting.done("b") == []
    assert waiting.done("c") == []
    assert [task.key for task in waiting.done("a")] == ["ab"]
    assert [task.key for task in waiting.done("ab")] == ["abc"]
    assert waiting.done("abc") == []


def test_a_need_that_is_named_twice_is_one_need_and_several_tasks_may_share_one() -> None:
    waiting = Waiting([keyed("a"), keyed("twice", "a", "a"), keyed("too", "a")])
    assert [task.key for task in waiting.first()] == ["a"]
    assert [task.key for task in waiting.done("a")] == ["twice", "too"]


def test_a_task_that_is_done_costs_as_much_with_many_waiting_as_with_few() -> None:
    cost = {}
    for count in (64, 1024):
        leaves = [keyed(Counting(f"slice{i}")) for i in range(count)]
        pairs = [
            keyed(Counting(f"sum{i}"), leaves[2 * i].key, leaves[2 * i + 1].key) for i in range(count // 2)
        ]
        waiting = Waiting([*leaves, *pairs])
        waiting.first()
        Counting.looked_up = 0
        freed = [task.key for leaf in leaves for task in waiting.done(leaf.key)]
        assert freed == [pair.key for pair in pairs]
        cost[count] = Counting.looked_up / count
    assert cost[1024] == cost[64] <= 6
