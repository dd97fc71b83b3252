"""CPU seconds: the time of this process, which another job on the machine lengthens little."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

ONE_THREAD = 1
"""Threads of what is timed: process time adds up those of all threads."""


def cpu_seconds(
    calls: Mapping[str, Callable[[], object]], rounds: int = 3, *, warm: bool = True
) -> dict[str, float]:
    """Median CPU seconds of every call over ``rounds`` rounds.

    The calls take turns, so that a slow minute of the machine meets all of them.  ``warm``: call each once
    before, unmeasured, so that plans, compiled code and pages are there.
    """
    if warm:
        for call in calls.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.process_time()
            call()
            seconds[name].append(time.process_time() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}
