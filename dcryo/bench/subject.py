"""One thing that is timed, in a process of its own: ``python -m dcryo.bench.subject``.

The parent (:mod:`dcryo.bench.process`) writes a JSON object on stdin, what to make and for which job, and
then one word per line; every answer is a line of JSON on what was stdout.  What libraries print goes to
stderr.  Only the standard library is imported here: the peak memory of a program that a subject starts begins
with that of the process that starts it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

RUN, CHECK = "run", "check"

Numbers = dict[str, float]


@dataclass(frozen=True)
class Job:
    """What a subject is to do.

    box n, count P and seed make the data; threads, where its library takes a number of them; device "cpu" or
    "cuda"; folder holds the files that were prepared, and takes those it writes.
    """

    box: int
    count: int
    seed: int
    threads: int
    device: str
    folder: str


class Subject(Protocol):
    """What is timed.  Making one reads its inputs and plans what does not depend on the data: not timed."""

    def run(self) -> Any:
        """The call that is timed; everything it was asked for is done when it returns."""

    def check(self, result: Any) -> Numbers:
        """Errors and other numbers of the last result, by name: not timed."""


@dataclass(frozen=True)
class Usage:
    """Seconds so far: of the clock, of this process and its threads, of programs it ran to their end."""

    wall: float
    own: float
    programs: float

    @classmethod
    def now(cls) -> Usage:
        """As it stands."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return cls(time.perf_counter(), time.process_time(), ended.ru_utime + ended.ru_stime)


def load(factory: str) -> Callable[[Job], Subject]:
    """What ``module:name`` names."""
    module, name = factory.split(":")
    made: Callable[[Job], Subject] = getattr(importlib.import_module(module), name)
    return made


def status(field: str) -> int | None:
    """Bytes of a line of /proc/self/status, None where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)


def forget_peak() -> None:
    """Let the peak of this process begin at what it has now, where the kernel does that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak() -> int:
    """Peak resident memory of this process since :func:`forget_peak`, bytes."""
    return status("VmHWM") or _maxrss(resource.RUSAGE_SELF)


def _maxrss(who: int) -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(who).ru_maxrss * unit


def measured(call: Callable[[], Any]) -> tuple[Any, Numbers]:
    """The result of a call, and what it took: ``wall`` and ``cpu`` seconds, ``peak`` bytes.

    Where the call ran a program to its end, the peak is that of the program.
    """
    gc.collect()
    before = Usage.now()
    result = call()
    after = Usage.now()
    programs = after.programs - before.programs
    return result, {
        "wall": after.wall - before.wall,
        "cpu": after.own - before.own + programs,
        "peak": _maxrss(resource.RUSAGE_CHILDREN) if programs > 0 else peak(),
        "program": programs > 0,
    }


def serve(commands: TextIO, answers: TextIO) -> None:
    """Make the subject that the first line asks for, then do as the lines say until they end."""

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        asked = json.loads(commands.readline())
        subject = load(asked["factory"])(Job(**asked["job"]))
        gc.collect()
        forget_peak()
        answer({"resident": status("VmRSS") or peak()})
        result = None
        for line in commands:
            if line.strip() == RUN:
                result = None  # the last one is not part of the next one's memory
                result, numbers = measured(subject.run)
                answer(numbers)
            else:
                answer({"checks": subject.check(result)})
    except Exception as error:
        said = f"{error}".strip().splitlines()
        answer({"failed": f"{type(error).__name__}: {said[0] if said else 'no message'}"})
        raise


def main() -> None:
    """Serve on stdin and stdout, with stdout kept from everybody else."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
