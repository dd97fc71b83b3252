"""What `dcryo reconstruct` does before its first task, on a store of 10^7 particles without their pixels.

All columns are there, and an empty file for every shard of images, so that the store lists as a whole one
does.  Each measurement is a process of its own: everything up to the first task counts, from opening the
store to the plan in the run, and the peak is that of the whole process, interpreter and imports included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from dcryo.imaging.particles import Optics, Particles
from dcryo.io.chunks import object_key
from dcryo.io.particle_store import create_particles, open_particles


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--particles", type=float, default=1e7)
    parser.add_argument("--box", type=int, default=256)
    parser.add_argument("--halves", choices=("auto", "even-odd", "none"), default="auto")
    parser.add_argument("--rounds", type=int, default=3)


def make_store(url: Path, count: int, box: int) -> None:
    """A particle store whose shards are empty files."""
    rotation = np.zeros((count, 4))
    rotation[:, 3] = 1
    half = np.repeat(np.array([1, 2], np.int8), [count // 2, count - count // 2])
    table = Particles.empty_columns(count, rotation=rotation, half=half, optics=(Optics(),))
    with create_particles(url, table, box, 1.0, provenance={"content": "no pixels"}) as writer:
        for index in range(-(-count // writer._shard)):
            file = url / object_key(writer._image, (index, 0, 0))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        writer._written = count


def until_the_first_task(store: str, run: str, halves: str) -> dict[str, Any]:
    """Reconstruct up to where the executor is given its tasks."""
    from dcryo.dataflow.accumulate import peak_rss
    from dcryo.dataflow.executor import SerialExecutor
    from dcryo.methods.reconstruct import ReconstructConfig, reconstruct

    class FirstTask(Exception):
        """What ends the run."""

    class Stopping(SerialExecutor):
        def run(self, tasks: Any, listen: Any, done: Any = None) -> Any:
            raise FirstTask(len(tasks))

    imported, began, wall = time.process_time(), time.process_time(), time.perf_counter()
    try:
        # a plan that no machine could hold is not what is measured
        reconstruct(
            store, run, ReconstructConfig(halves=halves, weight=1.0), executor=Stopping(),
            max_memory=10**15, overwrite=True,
        )  # fmt: skip
    except FirstTask as first:
        tasks = int(first.args[0])
    return {
        "tasks": tasks,
        "cpu_seconds": time.process_time() - began,
        "wall_seconds": time.perf_counter() - wall,
        "import_cpu_seconds": imported,
        "peak_rss_MB": peak_rss() / 1e6,
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    url = args.out / f"particles{args.particles:.0e}-{args.box}.zarr"
    if not url.exists():
        make_store(url, int(args.particles), args.box)
    store = open_particles(url, verify=False)
    values = [str(url), str(args.out / "planned.zarr"), args.halves]
    code = f"import json; from {__name__} import until_the_first_task as f; print(json.dumps(f(*{values!r})))"
    rounds = [
        json.loads(subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE).stdout)
        for _ in range(args.rounds)
    ]
    return {"particles": store.count, "box": store.box, "halves": args.halves, "rounds": rounds}
