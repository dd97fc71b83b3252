"""The parent's side of a subject: a process that is started, asked, and ended."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from dcryo.bench.subject import CHECK, RUN, Job

THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "DUCC0_NUM_THREADS",
)
"""What libraries read when they are loaded."""

LONGEST_LINE = 160
"""Characters of a reason that are kept."""


class SubjectError(Exception):
    """A subject failed, died or took too long; the message says which."""


class SubjectProcess:
    """A subject in a process of its own, which stays alive between its calls."""

    def __init__(self, factory: str, job: Job, log: Path, limit: float) -> None:
        """Start it; ``limit`` seconds are the longest it may take to answer, ``log`` takes what it prints."""
        self.limit = limit
        self.log = log
        environment = os.environ | dict.fromkeys(THREADS, str(job.threads))
        # what is to be had here is to be had there, whatever its folder
        environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in sys.path)
        with log.open("wb") as printed:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "dcryo.bench.subject"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=printed,
                env=environment,
                cwd=job.folder,
                start_new_session=True,
            )
        self._answers = _Lines(self._pipe(self._process.stdout))
        self._say(json.dumps({"factory": factory, "job": asdict(job)}))

    def ready(self) -> int:
        """Wait until it is made; the bytes that are resident then."""
        return int(self._answer()["resident"])

    def run(self) -> dict[str, Any]:
        """One timed call: ``wall`` and ``cpu`` seconds, ``peak`` bytes, ``program``."""
        self._say(RUN)
        return self._answer()

    def check(self) -> dict[str, float]:
        """What it says of its last result."""
        self._say(CHECK)
        checks: dict[str, float] = self._answer()["checks"]
        return checks

    def stop(self) -> None:
        """End it and whatever it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                self._pipe(pipe).close()

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None  # both were asked for
        return pipe

    def _say(self, line: str) -> None:
        pipe = self._pipe(self._process.stdin)
        try:
            pipe.write(f"{line}\n".encode())
            pipe.flush()
        except BrokenPipeError:
            return  # it is dead, and its answer will say so

    def _answer(self) -> dict[str, Any]:
        line = self._answers.next(self.limit)
        if line is None:
            raise SubjectError(f"no answer within {self.limit:g} s")
        if not line:
            raise SubjectError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise SubjectError(str(answer["failed"])[:LONGEST_LINE])
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        printed = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        said = next((line.strip() for line in reversed(printed) if line.strip()), "")
        return f"{how}{': ' if said else ''}{said}"[:LONGEST_LINE]


class _Lines:
    """Lines of a pipe, each waited for no longer than a limit."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._rest = b""

    def next(self, limit: float) -> bytes | None:
        """The next line; empty at the end of the pipe, None after ``limit`` seconds."""
        until = time.monotonic() + limit
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._pipe], [], [], max(until - time.monotonic(), 0))
            if not ready:
                return None
            more = os.read(self._pipe.fileno(), 65536)
            if not more:
                return b""
            self._rest += more
        line, self._rest = self._rest.split(b"\n", 1)
        return line
