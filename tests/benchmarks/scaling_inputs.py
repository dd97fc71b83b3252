"""Seconds of one slice and one merge by box, from the very tasks: what docs/scaling.md calls inputs.

Two slices of different length give the cost of an image (their difference) and what every slice pays beside
(the rest: opening the store, grids, the last transforms, the hash and the write).  CPU seconds of one thread,
median of several rounds; what a task waits for its disk is not in them and is given as wall beside.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Callable
from typing import Any

from dcryo.dataflow.accumulate import MergeTask, SliceTask, accumulate_slice, merge_partials
from dcryo.dataflow.commits import Commits
from dcryo.dataflow.plan import Merge, Slice
from dcryo.io.particle_store import open_particles
from dcryo.io.run_store import create_run
from dcryo.methods.progress import Silent
from dcryo.methods.reconstruct import ReconstructConfig, make_fold, make_plan
from dcryo.methods.simulate import SimulateConfig, simulate
from dcryo.operators.normal import spectrum_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--boxes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument(
        "--particles", type=int, default=512, help="at 128², in proportion to pixels elsewhere"
    )
    parser.add_argument("--rounds", type=int, default=3)


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - cpu, time.perf_counter() - wall


def measure(args: argparse.Namespace, box: int) -> dict[str, Any]:
    count = max(64, args.particles * 128**2 // box**2)
    url = args.out / f"inputs-{box}-{count}.zarr"
    if not url.exists():
        simulate(str(url), SimulateConfig(box=box, particles=2 * count, snr=0.1, seed=1))
    store = open_particles(str(url))
    config = ReconstructConfig()
    run = create_run(str(args.out / "inputs-run.zarr"), "reconstruct", {}, overwrite=True)
    fold = make_fold(store, run, make_plan(store, config), config, 1)
    few, many = Slice("few", 1, 0, count // 4, count // 4), Slice("many", 1, 0, count, count)
    rows: list[dict[str, float]] = []
    accumulate_slice(SliceTask(fold, few), Silent())  # compiles
    for _ in range(args.rounds):
        Commits(fold.commits).delete("few")
        short = timed(lambda: accumulate_slice(SliceTask(fold, few), Silent()))
        long = timed(lambda: accumulate_slice(SliceTask(fold, many), Silent()))
        merge = timed(lambda: merge_partials(MergeTask(fold.commits, Merge("sum", "few", "many")), Silent()))
        Commits(fold.commits).delete("sum")
        accumulate_slice(SliceTask(fold, few), Silent())
        image = (long[0] - short[0]) / (many.count - few.count)
        rows.append(
            {
                "image_ms": 1e3 * image,
                "rest_of_slice": short[0] - few.count * image,
                "merge": merge[0],
                "merge_wall": merge[1],
            }
        )
    shutil.rmtree(run.url)
    return {
        "box": box,
        "images": many.count,
        "partial_MB": (4 * box**3 + spectrum_bytes(box)) / 1e6,
        **{name: statistics.median(row[name] for row in rows) for name in rows[0]},
        "rounds": rows,
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    return {"boxes": [measure(args, box) for box in args.boxes]}
