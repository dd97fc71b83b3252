"""What the commands print: JSON and text on stdout, progress and remarks on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    from rich.progress import Progress as RichBars
    from rich.progress import TaskID

    from dcryo.dataflow.executor import Executor
    from dcryo.io.particle_store import ParticleStore
    from dcryo.methods.progress import Progress

LOG_EVERY = 30.0
"""Seconds between two lines of a stage in a batch log."""

RESULTS = {
    "resolution_0143_A": ("resolution, FSC 0.143", "Å, between linear half maps"),
    "resolution_05_A": ("resolution, FSC 0.5", "Å, between linear half maps"),
    "mean_fsc": ("mean FSC", "between linear half maps"),
    "truth_resolution_05_A": ("resolution, FSC 0.5", "Å, of the map against the truth"),
    "truth_mean_fsc": ("mean FSC", "of the map against the truth"),
    "rounds": ("iterations of poses and map", ""),
    "cutoff_A": ("poses looked at", "Å"),
    "sigma_median_deg": ("uncertainty of a rotation", "° (median)"),
    "lost": ("lost particles", ""),
    "weight": ("weight of the prior", ""),
    "nonnegative": ("nonnegative", ""),
    "iterations": ("iterations", ""),
    "seconds": ("time", "s"),
    "bytes_read": ("read", ""),
    "peak_rss": ("peak memory", ""),
    "task_peak_rss": ("peak memory of a task", ""),
    "waited": ("waited for images", "s"),
}
"""Keys of the result of a run that a human is shown: label, and what the number is."""

SIZES = ("bytes_read", "peak_rss", "task_peak_rss")
"""Those that are bytes."""


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on stdout; NaN and infinity are null."""
    from dcryo.io.store_root import plain

    print(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def print_table(rows: Sequence[tuple[str, Any]]) -> None:
    """Print (name, value) pairs in two aligned columns; rows whose value is None are left out."""
    shown = [(name, text(value)) for name, value in rows if value is not None]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{name:<{width}}  {value}")


def result_rows(result: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The result of a run as lines for :func:`print_table`."""
    rows = []
    for key, (label, meaning) in RESULTS.items():
        value = result.get(key)
        if value is not None:
            shown = byte_size(value) if key in SIZES else text(value)
            rows.append((label, f"{shown} {meaning}".rstrip()))
    return rows


def text(value: Any) -> str:
    """A value for a human: floats to four digits, sequences joined by commas."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(text(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {text(item)}" for key, item in value.items())
    return str(value)


def particles_line(store: ParticleStore) -> str:
    """What a new particle store is, in a line."""
    size = f"{store.box}² pixels of {store.pixel_size:g} Å"
    return f"{store.url}: {store.count} particles, {size}"


def byte_size(count: float) -> str:
    """A number of bytes in the unit that suits it: ``byte_size(2e9)`` is '2.0 GB'."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"


class LogProgress:
    """Progress as lines on stderr: a stage when it begins, then now and then how far it is."""

    def __init__(self) -> None:
        self._stage, self._total, self._done = "", None, 0  # type: tuple[str, int | None, int]
        self._began = self._last = 0.0

    def start(self, stage: str, total: int | None) -> None:
        """Write the name of the stage."""
        self._stage, self._total, self._done = stage, total, 0
        self._began = self._last = time.monotonic()
        self._write(stage)

    def advance(self, count: int = 1) -> None:
        """Write how far the stage is, if the last line is some time ago."""
        self._done += count
        now = time.monotonic()
        if now - self._last >= LOG_EVERY:
            self._last = now
            of = f" of {self._total}" if self._total else ""
            self._write(f"{self._stage}: {self._done}{of} after {now - self._began:.0f} s")

    def message(self, text: str) -> None:
        """Write the sentence."""
        self._write(text)

    def _write(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class BarProgress:
    """Progress as one bar per stage in a terminal (stderr)."""

    def __init__(self, bars: RichBars) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def start(self, stage: str, total: int | None) -> None:
        """Finish the bar before and draw a new one."""
        self.finish()
        self._task = self._bars.add_task(stage, total=total)

    def advance(self, count: int = 1) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bars.advance(self._task, count)

    def message(self, text: str) -> None:
        """Write the sentence above the bars."""
        self._bars.console.print(text, markup=False, highlight=False)

    def finish(self) -> None:
        """Stop the clock of the current bar."""
        if self._task is not None:
            task = self._bars.tasks[self._bars.task_ids.index(self._task)]
            self._bars.update(
                self._task,
                total=task.total or task.completed or 1,
                completed=task.total or task.completed or 1,
            )


@contextlib.contextmanager
def progress_on_stderr() -> Iterator[Progress]:
    """Progress for a human: bars where stderr is a terminal, else lines for a log."""
    if not sys.stderr.isatty():
        yield LogProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
    with bars:
        progress = BarProgress(bars)
        yield progress
        progress.finish()


def add_executor_arguments(group: argparse._ArgumentGroup) -> None:
    """The options that say who does the work."""
    group.add_argument(
        "--workers",
        type=_count,
        metavar="N",
        help="processes of this machine, under a Dask scheduler (default: this process alone)",
    )
    group.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="use the workers of a Dask scheduler, as tcp://host:8786",
    )
    group.add_argument(
        "--scheduler-file", metavar="FILE", help="the same, by the file that the scheduler wrote"
    )


@contextlib.contextmanager
def executor(args: argparse.Namespace, progress: Progress) -> Iterator[Executor]:
    """The executor that :func:`add_executor_arguments` asks for."""
    if args.workers is None and args.scheduler is None and args.scheduler_file is None:
        from dcryo.dataflow.executor import SerialExecutor

        yield SerialExecutor()
        return
    from dcryo.arrays import visible_gpus
    from dcryo.dataflow.cluster import connected  # loads distributed

    gpus = visible_gpus() if getattr(args, "device", "cpu") != "cpu" else ()
    with connected(args.workers, args.scheduler, args.scheduler_file, progress.message, gpus) as chosen:
        yield chosen


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        import argparse

        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes; give 1 or more")
    return int(text)
