"""The executor on hundreds of workers that sleep: strong and weak scaling of what hands out the tasks.

The slices and merges are a plan's, the executor, the scheduler and its messages (over TCP) are real, and only
folding and merging are replaced by sleep.  All workers live in this one process and share its processors with
the scheduler, which is the worst case for it: on a cluster it has a processor for itself.  What every worker
does by itself every few milliseconds (its profiler, its monitors) is turned off, because here all of them do
it on the same two cores.  The ideal is the same tasks in :mod:`benchmarks.scaling_model` without any latency.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import dask
from benchmarks.scaling_model import Costs, Machine, even_tasks, simulate
from distributed import LocalCluster

from dcryo.dataflow.cluster import DaskExecutor, _connect
from dcryo.dataflow.executor import Task
from dcryo.dataflow.plan import Merge
from dcryo.methods.progress import Progress, Silent

QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.monitor-interval": "1h",
    "distributed.admin.system-monitor.interval": "1h",
    "distributed.admin.tick.interval": "1s",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64, 128, 256, 512])
    parser.add_argument("--threads", type=int, default=8, help="slots of a worker, from 64 slots on")
    parser.add_argument("--slice", type=float, default=4.0, help="seconds that a slice sleeps")
    parser.add_argument("--merge", type=float, default=0.4, help="seconds that a merge sleeps")
    parser.add_argument("--strong", type=int, default=256, help="slices for any number of workers")
    parser.add_argument("--weak", type=int, default=2, help="slices for each worker")
    parser.add_argument("--longest", type=float, default=300.0, help="seconds; what takes longer is left out")


def fold_slice(item: tuple[str, float], progress: Progress) -> tuple[str, float, float]:
    began = time.perf_counter()
    progress.start(item[0], 1)
    time.sleep(item[1])
    progress.advance()
    return item[0], began, time.perf_counter()


def merge_sums(item: tuple[str, float], progress: Progress) -> tuple[str, float, float]:
    began = time.perf_counter()
    time.sleep(item[1])
    return item[0], began, time.perf_counter()


def sleeping(tasks: Sequence[Task], slice_seconds: float, merge_seconds: float) -> list[Task]:
    return [
        replace(task, function=merge_sums, item=(task.key, merge_seconds))
        if isinstance(task.item, Merge)
        else replace(task, function=fold_slice, item=(task.key, slice_seconds))
        for task in tasks
    ]


def measure(tasks: list[Task], workers: int, threads: int, slice_s: float, merge_s: float) -> dict[str, Any]:
    count = sum(not isinstance(task.item, Merge) for task in tasks)
    costs = Costs(slice_s / 8, 0.0, 0.0, 0.0, merge_s)
    ideal = max(simulate(tasks, costs, Machine(workers)).values())
    with (
        dask.config.set(QUIET),
        LocalCluster(
            n_workers=workers // threads, threads_per_worker=threads, processes=False, protocol="tcp",
            host="127.0.0.1", dashboard_address=None, memory_limit=0, silence_logs=logging.CRITICAL,
        ) as cluster,
        _connect(cluster) as client,
    ):  # fmt: skip
        client.wait_for_workers(workers // threads)
        executor = DaskExecutor(client)
        executor.run(sleeping(even_tasks(4), 0.0, 0.0), lambda key: Silent())
        cpu, began = time.process_time(), time.perf_counter()
        ran = executor.run(sleeping(tasks, slice_s, merge_s), lambda key: Silent())
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    starts = sorted(start - began for _, start, _ in ran)
    last = max(end for key, _, end in ran if "sum" not in key) - began
    return {
        "workers": workers, "slices": count, "tasks": len(tasks), "wall": wall, "ideal": ideal,
        "efficiency": ideal / wall, "cpu_ms_per_task": 1e3 * cpu / len(tasks),
        "all_busy": starts[min(workers, count) - 1], "last_slice": last, "tail": wall - last,
    }  # fmt: skip


def run(args: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {"slice": args.slice, "merge": args.merge}
    for kind, count in {
        "strong": lambda workers: args.strong,
        "weak": lambda workers: args.weak * workers,
    }.items():
        found[kind] = []
        for workers in args.workers:
            tasks = even_tasks(count(workers))
            if len(tasks) * args.slice / 2 / workers < args.longest:
                threads = args.threads if workers >= 64 else 1
                found[kind].append(measure(tasks, workers, threads, args.slice, args.merge))
    return found
