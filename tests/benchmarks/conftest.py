"""How a benchmark is timed and recorded.

Times are CPU seconds of this process (``time.process_time``) on one thread of ours, so another job on the
machine lengthens them little.  Nothing here asserts a time: a figure goes to ``extra_info`` beside the one it
is to be compared with, and into the JSON of ``--benchmark-json``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def record(benchmark: Any) -> Callable[..., Any]:
    """Time a call and note what to compare it with.

    ``record(call, thesis=seconds, target=seconds, per=count)`` returns what the last call returned.
    """

    def run(
        call: Callable[[], Any],
        *,
        setup: Callable[[], Any] | None = None,
        thesis: float | None = None,
        target: float | None = None,
        per: int | None = None,
        rounds: int = 3,
    ) -> Any:
        result = benchmark.pedantic(call, setup=setup, rounds=rounds, warmup_rounds=1)
        if benchmark.stats is None:  # --benchmark-disable: run once, nothing measured
            return result
        seconds = benchmark.stats.stats.median
        info: dict[str, float] = {"cpu_seconds": seconds}
        if per is not None:
            info["cpu_ms_per_particle"] = 1e3 * seconds / per
        if thesis is not None:
            info |= {"thesis_seconds": thesis, "times_faster_than_thesis": thesis / seconds}
        if target is not None:
            info["target_seconds"] = target
        benchmark.extra_info.update(info)
        return result

    return run
