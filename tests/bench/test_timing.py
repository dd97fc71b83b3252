"""CPU seconds by a clock that the calls themselves set."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dcryo.bench import timing
from dcryo.bench.timing import cpu_seconds


def test_calls_take_turns_and_the_median_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now, order = 0.0, ""
    monkeypatch.setattr(timing.time, "process_time", lambda: now)
    durations = {"a": [100.0, 1.0, 9.0, 2.0], "b": [100.0, 5.0, 5.0, 6.0]}

    def call(name: str) -> Callable[[], None]:
        def work() -> None:
            nonlocal now, order
            now += durations[name].pop(0)
            order += name

        return work

    calls = {name: call(name) for name in durations}
    assert cpu_seconds(calls, 3) == {"a": 2.0, "b": 5.0}
    assert order == "abababab"


def test_cold_calls_are_measured_at_once() -> None:
    count = 0

    def work() -> None:
        nonlocal count
        count += 1

    assert cpu_seconds({"work": work}, 2, warm=False)["work"] >= 0
    assert count == 2
