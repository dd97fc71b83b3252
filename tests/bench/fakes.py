"""Contenders that use a known amount of something, or fail in a known way.

Imported by the processes of the subjects as ``bench.fakes``: light, so that they start at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from dcryo.bench.subject import Job, Numbers

SECONDS = 0.2
MEBIBYTE = 2**20
SIZE = 64 * MEBIBYTE


class Fake:
    """Writes its name into the folder at every call."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.calls = 0

    def run(self) -> Any:
        self.calls += 1
        with (Path(self.job.folder) / "order").open("a") as file:
            file.write(f"{type(self).__name__}\n")
        return self.work()

    def work(self) -> Any:
        """Nothing."""

    def check(self, result: Any) -> Numbers:
        return {"calls": self.calls}


class Burns(Fake):
    """CPU seconds."""

    def work(self) -> None:
        until = time.process_time() + SECONDS
        while time.process_time() < until:
            pass


class Sleeps(Fake):
    """Seconds on the clock."""

    def work(self) -> None:
        time.sleep(SECONDS)


class Allocates(Fake):
    """Memory in every page of which something is written."""

    def work(self: Fake) -> int:
        held = bytearray(SIZE)
        held[:: os.sysconf("SC_PAGE_SIZE")] = b"x" * len(held[:: os.sysconf("SC_PAGE_SIZE")])
        return len(held)


class Prepares(Fake):
    """Takes memory while it is made, and gives it back."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        Allocates.work(self)


class Returns(Allocates):
    """Half as much memory, in a result that is there when it is called again."""

    def work(self) -> Any:
        return b"x" * (SIZE // 2)


class Runs(Fake):
    """A program that burns CPU seconds and takes memory."""

    def work(self) -> None:
        code = (
            f"import time; held = b'x' * {SIZE}\nuntil = time.process_time() + {SECONDS}\n"
            "while time.process_time() < until: pass"
        )
        subprocess.run([sys.executable, "-S", "-c", code], check=True)


class Sees(Fake):
    """What it was given."""

    def check(self, result: Any) -> Numbers:
        return {
            "threads": self.job.threads,
            "variable": float(os.environ["OMP_NUM_THREADS"]),
            "here": float(os.path.samefile(os.getcwd(), self.job.folder)),
            "box": self.job.box,
        }


class Talks(Fake):
    """Prints what could be taken for an answer."""

    def work(self) -> None:
        print('{"failed": "not at all"}', flush=True)
        os.write(1, b"{}\n")


class CannotBeMade:
    """A library that is broken."""

    def __init__(self, job: Job) -> None:
        raise OSError("libpeer.so: undefined symbol\nand more")


class FailsLater(Fake):
    """Fails in its third call."""

    def work(self) -> None:
        if self.calls == 3:
            raise ValueError("three is too many")


class Dies(Fake):
    """Is killed, as by a system that is out of memory."""

    def work(self) -> None:
        print("last words", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


class Hangs(Fake):
    """Never comes back."""

    def work(self) -> None:
        time.sleep(1000)
