"""``bench``: prepare the workloads, measure every case, and write one JSON and the picture drawn from it."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dcryo import __version__
from dcryo.arrays import DEVICES, check_device
from dcryo.bench import machine, peers, suites
from dcryo.bench.chart import draw
from dcryo.bench.measure import Line, measure, spread
from dcryo.bench.peers import OURS, PEERS
from dcryo.bench.process import SubjectProcess
from dcryo.bench.subject import Job
from dcryo.bench.suites import STAR_READERS, Contender, Size, Suite
from dcryo.dataflow.versions import versions
from dcryo.errors import InputError
from dcryo.io.atomic import atomic_file
from dcryo.io.store_root import plain
from dcryo.methods.progress import Progress, Silent
from dcryo.operators.compiled import thread_count

RECORD, PICTURE = "bench.json", "bench.png"

ALL_THREADS = "all"


@dataclass(frozen=True)
class BenchConfig:
    """What is measured.

    Parameters
    ----------
    suite : tuple of str
        Names of :data:`dcryo.bench.suites.SUITES`; all of them if empty.
    full : bool
        The large sizes instead of those that take a minute.
    box, count : int or None
        Replace the box, or the number of views or particles, of every size.
    rounds : int
        Timed calls of everybody, after one that is not.
    threads : tuple of str
        Every case is measured with each of these numbers of threads; "all" is that of the processors.
    device : {"cpu", "cuda"}
        Where dcryo computes; peers are on the CPU.
    peers : tuple of str
        Names of :data:`dcryo.bench.peers.PEERS`, or "auto" for those that are installed, or "none".
    seed : int
        Of everything random.
    limit : float
        Seconds after which a call is given up.
    """

    suite: tuple[str, ...] = ()
    full: bool = False
    box: int | None = None
    count: int | None = None
    rounds: int = 5
    threads: tuple[str, ...] = ("1",)
    device: str = "cpu"
    peers: tuple[str, ...] = ("auto",)
    seed: int = 0
    limit: float = 3600.0

    def __post_init__(self) -> None:
        suites.choose(self.suite)
        if self.box is not None and (self.box < 16 or self.box % 2):
            raise InputError(f"--box {self.box}: give an even number, 16 or more")
        if self.count is not None and self.count < 1:
            raise InputError(f"--count {self.count}: give 1 or more")
        if self.rounds < 1:
            raise InputError(f"--rounds {self.rounds}: give 1 or more")
        for text in self.threads:
            if text != ALL_THREADS and not (text.isdecimal() and int(text) > 0):
                raise InputError(f"--threads {text}: give numbers, 1 or more, or all")
        if self.device not in DEVICES:
            raise InputError(f"--device {self.device}: give {' or '.join(DEVICES)}")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: give an integer, 0 or more")
        if not 0 < self.limit < math.inf:
            raise InputError(f"--limit {self.limit:g}: give a positive number of seconds")


@dataclass(frozen=True)
class Benchmark:
    """A finished one: what the JSON holds, and where the files are."""

    document: dict[str, Any]
    json: Path
    png: Path

    @property
    def passed(self) -> bool:
        """Whether dcryo itself did everything that it was asked for."""
        return not any(
            line["peer"] == OURS and line["status"] != "measured"
            for case in self.document["cases"]
            for line in case["lines"]
        )


@dataclass
class _Bench:
    """A run of ``bench``: its settings, where files go, and what was prepared there."""

    config: BenchConfig
    chosen: tuple[str, ...]
    scratch: Path
    progress: Progress
    prepared: dict[Size, Path] = field(default_factory=dict)

    def cases(self) -> Iterator[tuple[str, Suite, str, Size, int]]:
        """Suite, what is computed, size and threads of every case."""
        config = self.config
        for name, suite in suites.choose(config.suite).items():
            for size in suites.sizes(suite, config.full, config.box, config.count):
                for threads in ("1",) if suite.fixed else config.threads:
                    for what in suite.cases:
                        number = thread_count() if threads == ALL_THREADS else int(threads)
                        yield name, suite, what, size, number

    def measure(self, name: str, suite: Suite, what: str, size: Size, threads: int) -> dict[str, Any]:
        """One case, as the JSON has it."""
        box, count = size
        sides = [
            (contender, thread_count(threads if contender.threads is None else contender.threads))
            for contender in suite.cases[what]
            if contender.peer in (OURS, *self.chosen)
        ]
        folder = self.prepare(suite, size) if suite.particles else self.scratch
        label = f"{name}: {what}, {box}, {count}, {threads} threads"
        self.progress.start(label, len(sides) + self.config.rounds)

        def start(contender: Contender, number: int) -> SubjectProcess:
            device = self.config.device if contender.peer == OURS else "cpu"
            job = Job(box, count, self.config.seed, number, device, str(folder))
            log = self.scratch / f"{len(list(self.scratch.glob('*.log')))}.log"
            return SubjectProcess(contender.factory, job, log, self.config.limit)

        lines = measure(sides, start, self.config.rounds, self.progress.advance)
        for line in lines:
            if line.failed is not None:
                self.progress.message(f"{name}, {what}: {line.contender.label} failed: {line.failed}")
        alone = self.config.device == "cpu" and all(number == 1 for _, number in sides)
        clock = suite.clock if alone else "wall"
        return {
            "suite": name,
            "what": what,
            "box": box,
            "count": count,
            "threads": threads,
            "device": self.config.device,
            "clock": clock,
            "lines": _lines(lines, clock),
        }

    def prepare(self, suite: Suite, size: Size) -> Path:
        """The folder with the particles of a size, and with what the suite wants to know of them."""
        from dcryo.bench import particles

        box, count = size
        folder = self.prepared.setdefault(size, self.scratch / f"particles-{box}-{count}")
        if not folder.exists():
            folder.mkdir()
            particles.make_particles(folder, box, count, self.config.seed, self.progress)
        sides = {contender.peer for contenders in suite.cases.values() for contender in contenders}
        if sides.intersection(STAR_READERS, self.chosen) and not (folder / particles.STAR).exists():
            particles.write_star(folder, self.progress)
        if suite.solves and not (folder / particles.TARGET).exists():
            self.progress.start("the objective that is close enough", None)
            particles.find_target(folder, box, count, self.config.seed, 0)
        return folder


def bench(
    out: Path,
    config: BenchConfig = BenchConfig(),
    *,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Benchmark:
    """Measure dcryo and its peers; write ``out/bench.json`` and ``out/bench.png``, both or neither.

    Raises
    ------
    InputError
        For peers that are not known or not installed, a device that is not there, or files in the way.
    """
    progress = progress or Silent()
    installed = peers.versions()
    chosen = peers.choose(config.peers, [name for name, version in installed.items() if version])
    check_device(config.device)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give the name of a folder")
    record, picture = out / RECORD, out / PICTURE
    for target in (record, picture):
        if target.exists() and not overwrite:
            raise InputError(f"{target} exists already; give another folder, or --overwrite")
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory(prefix=".bench-", dir=out) as scratch:
            run = _Bench(config, chosen, Path(scratch).resolve(), progress)
            cases = [run.measure(*case) for case in run.cases()]
        document = plain(
            {
                "version": __version__,
                "full": config.full,
                "seed": config.seed,
                "rounds": config.rounds,
                "machine": machine.describe(config.device),
                "load": os.getloadavg()[0],
                "versions": versions(),
                "peers": _peers(installed, chosen),
                "cases": cases,
                "seconds": time.perf_counter() - began,
            }
        )
        with atomic_file(record) as text, atomic_file(picture) as image:
            text.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            draw(document, image)
    except BaseException:
        if made and not any(out.iterdir()):
            out.rmdir()
        raise
    return Benchmark(document, record, picture)


def _peers(installed: dict[str, str | None], chosen: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"name": name, "title": peer.title, "version": installed[name], "compared": name in chosen,
         "install": peer.install}
        for name, peer in PEERS.items()
    ]  # fmt: skip


def _lines(lines: Sequence[Line], clock: str) -> list[dict[str, Any]]:
    """The lines of a case for the JSON, each with the ratios of ours above it to it."""
    return [
        {
            "peer": line.contender.peer,
            "label": line.contender.label,
            "threads": line.threads,
            "status": "measured" if line.failed is None else "failed",
            "reason": line.failed,
            "calls": len(line.wall),
            "cpu": spread(line.cpu),
            "wall": spread(line.wall),
            "memory": {"before": line.resident, "peak": line.peak, "above": line.peak - line.resident},
            "ratios": _ratios(lines[:index], line, clock) if line.failed is None else [],
            "checks": line.checks,
        }
        for index, line in enumerate(lines)
    ]


def _ratios(above: Sequence[Line], line: Line, clock: str) -> list[dict[str, Any]]:
    """Our seconds over those of a line, round by round."""
    return [
        {"of": ours.contender.label}
        | spread([a / b for a, b in zip(getattr(ours, clock), getattr(line, clock), strict=False) if b > 0])
        for ours in above
        if ours.contender.peer == OURS and ours.failed is None
    ]
