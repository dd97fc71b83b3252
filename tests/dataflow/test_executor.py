"""The serial executor: the order and the reports that every other executor must reproduce."""

from __future__ import annotations

import pytest

from dcryo.dataflow.executor import SerialExecutor


def test_results_come_in_the_order_of_the_items_and_each_is_reported_at_once() -> None:
    events: list[tuple[str, int]] = []

    def task(item: int) -> int:
        events.append(("ran", item))
        return item**2

    results = SerialExecutor().map(task, [3, 1, 2], lambda result: events.append(("done", result)))
    assert results == [9, 1, 4]
    assert events == [("ran", 3), ("done", 9), ("ran", 1), ("done", 1), ("ran", 2), ("done", 4)]


def test_nobody_has_to_listen_and_there_may_be_nothing_to_do() -> None:
    assert SerialExecutor().map(abs, [-1, 2]) == [1, 2]
    assert SerialExecutor().map(abs, []) == []


def test_an_error_ends_the_map_where_it_happened() -> None:
    ran: list[int] = []

    def task(item: int) -> int:
        ran.append(item)
        return 1 // item

    with pytest.raises(ZeroDivisionError):
        SerialExecutor().map(task, [1, 0, 2])
    assert ran == [1, 0]
