"""Contenders side by side: all alive, one at a time at work, round after round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dcryo.bench.process import SubjectError, SubjectProcess
from dcryo.bench.suites import Contender

PATIENCE = 60.0
"""Seconds; a contender whose first call takes longer is called no more, and that call is its measurement."""


@dataclass
class Line:
    """What one contender took: seconds of every round, bytes, what it says of its result, or why it failed.

    ``resident`` is its memory before the first call, ``peak`` its largest in any call; both are those of the
    program where it starts one, which has nothing before.
    """

    contender: Contender
    threads: int
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    resident: int = 0
    peak: int = 0
    checks: dict[str, float] = field(default_factory=dict)
    failed: str | None = None

    def note(self, numbers: dict[str, Any], timed: bool) -> None:
        """Take the numbers of a call; its memory counts also where its time does not."""
        self.peak = max(self.peak, int(numbers["peak"]))
        if numbers["program"]:
            self.resident = 0
        if timed:
            self.wall.append(float(numbers["wall"]))
            self.cpu.append(float(numbers["cpu"]))


def measure(
    contenders: Sequence[tuple[Contender, int]],
    start: Callable[[Contender, int], SubjectProcess],
    rounds: int,
    advance: Callable[[], None] = lambda: None,
) -> list[Line]:
    """Time contenders with their threads: a call of each to warm up, then ``rounds`` in turns, then checks.

    Odd rounds go through them backwards, so that what the one before leaves behind (a warm or a full cache,
    a faster or a slower clock) meets both neighbours.  Who fails is out, and the others go on.
    """
    lines = [Line(contender, threads) for contender, threads in contenders]
    alive: dict[int, SubjectProcess] = {}

    def ask(index: int, question: Callable[[SubjectProcess], Any]) -> Any:
        try:
            return question(alive[index])
        except SubjectError as error:
            lines[index].failed = str(error)
            alive.pop(index).stop()
            return None

    def call(index: int, timed: bool) -> None:
        numbers = ask(index, SubjectProcess.run)
        if numbers is not None:
            lines[index].note(numbers, timed or numbers["wall"] > PATIENCE)

    try:
        for index, line in enumerate(lines):
            alive[index] = start(line.contender, line.threads)
        for index in list(alive):
            lines[index].resident = ask(index, SubjectProcess.ready) or 0
        for index in list(alive):
            call(index, timed=False)
            advance()
        patient = [index for index in alive if not lines[index].wall]
        for number in range(rounds):
            for index in patient if number % 2 == 0 else reversed(patient):
                if index in alive:
                    call(index, timed=True)
            advance()
        for index in list(alive):
            lines[index].checks = ask(index, SubjectProcess.check) or {}
        return lines
    finally:
        for process in alive.values():
            process.stop()


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Median, lowest and highest; None where there are none."""
    if not values:
        return {"median": None, "lowest": None, "highest": None}
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
