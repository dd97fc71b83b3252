"""Two Dask workers beside two plain processes: the same slices and merges, one thread each, in turns.

A plain process runs the tasks of one half set in a loop, with the progress and the handles thrown away.  Both
sides are timed from when their processes stand, with everything imported and compiled, to the last sum;
starting them is given apart.  CPU seconds are those of the workers, and of the process that hands out tasks.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcryo.dataflow.accumulate import Fold, run_plan
from dcryo.dataflow.cluster import DaskExecutor, local_workers
from dcryo.dataflow.executor import SerialExecutor, Task
from dcryo.dataflow.plan import Plan
from dcryo.io.particle_store import open_particles
from dcryo.io.run_store import create_run
from dcryo.methods.progress import Progress, Silent
from dcryo.methods.reconstruct import ReconstructConfig, make_fold, make_plan
from dcryo.methods.simulate import SimulateConfig, simulate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--box", type=int, default=128)
    parser.add_argument(
        "--particles", type=int, default=160_000, help="at least 60 s of compute on each side"
    )
    parser.add_argument("--distinct", type=int, default=8000, help="simulated; the store repeats them")
    parser.add_argument("--slice-size", type=int, default=0, help="0: as planned")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sleeps", type=int, default=200, help="tasks that only sleep")
    parser.add_argument("--sleep", type=float, default=0.1, help="seconds")


class OneHalf(SerialExecutor):
    """Runs what belongs to one half set."""

    def __init__(self, half: int) -> None:
        self._prefix = f"half{half}-"

    def run(self, tasks: Any, listen: Any, done: Any = None) -> Any:
        return super().run([task for task in tasks if task.key.startswith(self._prefix)], listen, done)


def silent(key: str) -> Progress:
    return Silent()


def make_store(out: Path, box: int, distinct: int, count: int) -> str:
    """A store of ``count`` particles that are ``distinct`` simulated ones again and again."""
    import numpy as np

    from dcryo.io.particle_store import create_particles

    url = out / f"particles-{box}-{count}.zarr"
    if url.exists():
        return str(url)
    few = out / f"distinct-{box}-{distinct}.zarr"
    if not few.exists():
        simulate(str(few), SimulateConfig(box=box, particles=distinct, snr=0.1, seed=1))
    source = open_particles(str(few))
    table = source.particles().take(np.arange(count) % distinct)
    halves = np.repeat(np.array([1, 2], np.int8), [count // 2, count - count // 2])
    table.half[:] = halves
    with create_particles(url, table, box, source.pixel_size, provenance={"content": "repeated"}) as writer:
        for first in range(0, count, distinct):
            for start in range(0, min(distinct, count - first), source.shard):
                writer.append(source.images(start, min(start + source.shard, distinct, count - first)))
    return str(url)


def plain(half: int, plan: Plan, fold: Fold, warm: Fold, pipe: Any) -> None:
    """A plain process: warm up, wait for the word, run one half set, say what it took."""
    run_plan(plan, warm, First(), silent)
    pipe.send("ready")
    pipe.recv()
    began = time.process_time()
    run_plan(plan, fold, OneHalf(half), silent)
    pipe.send(time.process_time() - began)


class First(SerialExecutor):
    """Runs the first slice and no more: what it loads and compiles is loaded and compiled."""

    def run(self, tasks: Any, listen: Any, done: Any = None) -> Any:
        return super().run(tasks[:1], listen, done)


def _cpu(item: object = None) -> float:
    return time.process_time()


def plain_processes(plan: Plan, fold: Fold, warm: list[Fold]) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    begun = time.perf_counter()
    for half in (1, 2):
        mine, theirs = context.Pipe()
        process = context.Process(target=plain, args=(half, plan, fold, warm[half - 1], theirs))
        process.start()
        pipes.append(mine)
        processes.append(process)
    for pipe in pipes:
        pipe.recv()
    began = time.perf_counter()
    for pipe in pipes:
        pipe.send("go")
    cpu = [pipe.recv() for pipe in pipes]
    wall = time.perf_counter() - began
    for process in processes:
        process.join()
    return {"start": began - begun, "wall": wall, "workers_cpu": sum(cpu), "driver_cpu": 0.0}


@dataclass(frozen=True)
class Warm:
    plan: Plan
    fold: Fold


def _warm(item: Warm, progress: Progress) -> None:
    run_plan(item.plan, item.fold, First(), silent)


def dask_workers(plan: Plan, fold: Fold, warm: list[Fold]) -> dict[str, float]:
    begun = time.perf_counter()
    with local_workers(2) as executor:
        executor.client.wait_for_workers(2)
        addresses = list(executor.client.scheduler_info(n_workers=-1)["workers"])
        futures = [
            executor.client.submit(_warm, Warm(plan, each), Silent(), workers=[address], pure=False)
            for address, each in zip(addresses, warm, strict=True)
        ]
        executor.client.gather(futures)
        before = sum(executor.client.run(_cpu).values())
        own, began = time.process_time(), time.perf_counter()
        run_plan(plan, fold, executor, silent)
        wall, driver = time.perf_counter() - began, time.process_time() - own
        cpu = sum(executor.client.run(_cpu).values()) - before
    return {"start": began - begun, "wall": wall, "workers_cpu": cpu, "driver_cpu": driver}


def _sleep(item: float, progress: Progress) -> None:
    progress.start("sleep", 1)
    time.sleep(item)
    progress.advance()


def per_task(executor: DaskExecutor, count: int, seconds: float) -> dict[str, float]:
    """What a task costs beside itself, milliseconds: wall on two workers, and CPU of every process."""
    tasks = [Task(f"{index:05d}", _sleep, seconds) for index in range(count)]
    executor.run(tasks[:4], silent)
    before, own = sum(executor.client.run(_cpu).values()), time.process_time()
    began = time.perf_counter()
    executor.run(tasks, silent)
    wall, driver = time.perf_counter() - began, time.process_time() - own
    cpu = sum(executor.client.run(_cpu).values()) - before
    return {
        "tasks": count,
        "sleep": seconds,
        "wall_ms": 1e3 * (2 * wall / count - seconds),
        "driver_cpu_ms": 1e3 * driver / count,
        "workers_cpu_ms": 1e3 * cpu / count,
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    # the same heaps for both: local_workers sets it for its own
    os.environ["MALLOC_ARENA_MAX"] = "2"
    with local_workers(2) as executor:
        sleeps = per_task(executor, args.sleeps, args.sleep)
    found: dict[str, Any] = {"per_task": sleeps}
    if args.particles:
        store = open_particles(make_store(args.out, args.box, args.distinct, args.particles))
        config = ReconstructConfig(slice_size=args.slice_size)
        plan = make_plan(store, config, 2)
        sides = {"plain": plain_processes, "dask": dask_workers}
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        for turn in range(args.rounds):
            # in turns, and each first as often as the other
            for name in sorted(sides, reverse=bool(turn % 2)):
                runs = [str(args.out / f"{name}-{part}.zarr") for part in ("run", "warm1", "warm2")]
                for url in runs:
                    shutil.rmtree(url, ignore_errors=True)
                fold, *warm = (
                    make_fold(store, create_run(url, "reconstruct", {}), plan, config, 1) for url in runs
                )
                rounds[name].append(sides[name](plan, fold, warm))
                for url in runs:
                    shutil.rmtree(url)

        def median(name: str, *keys: str) -> float:
            return statistics.median(sum(each[key] for key in keys) for each in rounds[name])

        found |= {
            "box": args.box, "particles": store.count, "slices": len(plan.slices), "merges": len(plan.merges),
            "rounds": rounds,
            "wall_ratio": median("dask", "wall") / median("plain", "wall"),
            "cpu_ratio": median("dask", "workers_cpu", "driver_cpu") / median("plain", "workers_cpu"),
        }  # fmt: skip
    return found
