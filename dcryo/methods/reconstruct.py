"""Particles in, map out: stream the images once, solve, and say honestly how good the map is.

The images of each half set are folded into normal equations (dataflow).  From those alone come the weight of
the prior (cross-validation between the halves), both regularised half maps, the regularised map of all
particles, and linear half maps, whose FSC is the headline: a prior that two halves share inflates theirs.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

from dcryo.arrays import check_device, visible_gpus
from dcryo.dataflow.accumulate import (
    Fold,
    Handle,
    assign_halves,
    device_bytes,
    peak_rss,
    run_plan,
)
from dcryo.dataflow.commits import Commits
from dcryo.dataflow.executor import Executor, SerialExecutor, Task
from dcryo.dataflow.plan import (
    Plan,
    batch_size,
    check_resources,
    make_merges,
    make_slices,
    partials_at_once,
    slice_particles,
)
from dcryo.dataflow.pose_source import check_all_poses, given_poses
from dcryo.errors import InputError
from dcryo.geometry.symmetry import point_group
from dcryo.io.location import is_remote, join, normalise
from dcryo.io.particle_store import ParticleStore, open_particles
from dcryo.io.run_store import RunStore, create_run, open_run
from dcryo.io.store_root import clear
from dcryo.methods.maps import solve_maps
from dcryo.methods.measure import write_maps
from dcryo.methods.progress import Progress, Silent
from dcryo.methods.reconstruct_config import ReconstructConfig
from dcryo.methods.run_record import Clock, ImageCount, finished, record_plan, recorded, scratch_bytes
from dcryo.operators.compiled import thread_count
from dcryo.operators.kernel import padded_length
from dcryo.operators.normal import Convolution, accumulation_bytes, spectrum_bytes


def _solve_bytes(n: int, halves: int) -> int:
    columns = 3 * 8 * padded_length(n) ** 2 * Convolution.COLUMNS * thread_count()
    return int((halves + 1) * spectrum_bytes(n) + (20 * (halves + 1)) * 4 * n**3 + columns)


def make_plan(store: ParticleStore, config: ReconstructConfig, tasks: int = 1) -> Plan:
    """The plan of a reconstruction by ``tasks`` tasks at once: what is read, in which slices, what it takes.

    Raises
    ------
    InputError
        If a half set is empty.
    """
    n = max(4, round(store.box / config.scale))
    order = len(point_group(config.symmetry))
    halves = assign_halves(store, config.halves)
    size = config.slice_size or slice_particles(n, store.box, order)
    slices = make_slices(halves, size, store.chunk, store.shard)
    merges, roots = make_merges(slices)
    batch = batch_size(store.box)
    written = n if config.native_scale else store.box
    partial = 4 * n**3 + spectrum_bytes(n)
    accuracy = "default" if config.accuracy == "reference" else config.accuracy
    images = 4 * 4 * min(batch, max(s.count for s in slices)) * store.box**2
    return Plan(
        box=store.box,
        n=n,
        batch=batch,
        slices=slices,
        merges=merges,
        roots=roots,
        task_memory=accumulation_bytes(n, accuracy) + images + 4 * store.chunk * store.box**2 + 3 * partial,
        solve_memory=_solve_bytes(n, len(roots)) + 14 * 4 * written**3,
        disk=partial * partials_at_once(slices, merges, tasks),
        read_bytes=sum(store.image_bytes(s.start, s.stop) for s in slices),
    )


def plan(particles: str, config: ReconstructConfig, tasks: int = 1) -> Plan:
    """The plan of ``reconstruct(particles, ...)`` by ``tasks`` tasks at once, nothing run."""
    return make_plan(open_particles(particles), config, tasks)


@dataclass(frozen=True)
class MapsTask:
    """Everything after the sums: solve, measure, write into the run.

    free_frame: maps are registered with a known truth before they are compared.
    """

    run: str
    plan: Plan
    fold: Fold
    config: ReconstructConfig
    free_frame: bool = False


def make_maps(task: MapsTask, progress: Progress) -> tuple[dict[str, Any], dict[str, float]]:
    """Maps, curves and tables from committed sums into the run: (result, seconds per stage)."""
    clock = Clock()
    store = open_particles(task.fold.particles)
    with clock.stage("solve"):
        maps = solve_maps(task.plan, task.fold, store.pixel_size * task.fold.scale, task.config, progress)
    with clock.stage("measure"):
        out = open_run(task.run)
        result = write_maps(out, store, task.plan, task.config, maps, progress, task.free_frame)
    return result, clock.seconds


def reconstruct(
    particles: str,
    run: str,
    config: ReconstructConfig | None = None,
    *,
    executor: Executor | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    threads: int = 0,
    max_memory: int | None = None,
    device: str = "cpu",
) -> RunStore:
    """Reconstruct a map from a particle store with poses.

    Parameters
    ----------
    particles : str
        Path or URL of the particle store.
    run : str
        Path or URL of the run: new, or an unfinished one of the same settings, which is resumed.
    config : ReconstructConfig, optional
    executor : Executor, optional
        Runs the tasks; default one after the other in this process.  ``dcryo.DaskExecutor(client)`` runs them
        on the workers of a Dask cluster.
    progress : Progress, optional
    overwrite : bool
        Replace an existing run.
    threads : int
        Threads per task; 0: its share of the processors.  Results do not depend on it.
    max_memory : int, optional
        Bytes that a task may plan to use; default what is available to it.
    device : {"cpu", "cuda"}
        Where the tasks and the solves compute: on a GPU, results agree with the CPU's to rounding.

    Returns
    -------
    RunStore
        Volumes ``full, half1, half2, linear, linear1, linear2``; tables ``fsc, history, weights, poses``; the
        attribute ``result``.

    Raises
    ------
    InputError
        If the store cannot be used with these settings.
    PlanError
        If the job does not fit memory or disk.
    ClusterError
        If workers die over one task again and again, or their scheduler goes away.
    DamagedStoreError
        If a chunk of the store is missing or damaged.
    """
    config = config or ReconstructConfig()
    progress = progress or Silent()
    executor = executor or SerialExecutor()
    _check_device(config, device, executor.here)
    clock = Clock()
    began = time.perf_counter()
    store = open_particles(particles)
    capacity = executor.capacity()
    chosen = make_plan(store, config, capacity.tasks)
    poses = given_poses(store, config.poses, config.halves)
    # the iteration that was found: the run may have another last one when a task looks
    config = replace(config, poses=None if poses is None else poses.url)
    check_all_poses(store, poses)
    if 0 in chosen.roots and config.prior != "none" and config.weight == "auto":
        raise InputError(
            f"{store.url} has no half sets, which --weight auto needs; give --halves even-odd, or a --weight"
        )
    if overwrite or not finished(run):
        check_resources(
            chosen,
            None if is_remote(run) else normalise(run),
            task_memory=max_memory or capacity.memory,
            solve_memory=max_memory or (None if executor.here else capacity.memory),
            tasks=capacity.tasks,
            present=0 if overwrite else scratch_bytes(run),
            coarser=lambda scale: make_plan(store, replace(config, scale=scale), capacity.tasks),
        )
        if device != "cpu" and executor.here:
            _check_gpus(chosen, config.accuracy, device, capacity.tasks)
    out = create_run(run, "reconstruct", recorded(store, config, poses), overwrite=overwrite)
    if out.complete:
        out.clean()
        progress.message(f"{out.url} is complete already; nothing to do (--overwrite starts again)")
        return out
    fresh = "plan" not in out.attributes
    record_plan(out, chosen, progress)
    fold = make_fold(store, out, chosen, config, threads or capacity.threads, device)
    if executor.alone:
        # elsewhere a task of an earlier attempt may still be writing
        Commits(fold.commits).sweep()
    try:
        executor.check_access(store.url, out.scratch)
        with clock.stage("accumulate"):
            handles = _accumulate(chosen, fold, executor, progress)
    except InputError:
        # bad input leaves nothing behind, unless slices were committed: those are kept for the next try
        if fresh and not Commits(fold.commits).keys():
            clear(out.url)
        raise
    result, seconds = _maps(
        MapsTask(out.url, chosen, replace(fold, threads=threads), config), executor, progress
    )
    clock.seconds |= seconds
    clock.seconds["total"] = time.perf_counter() - began
    bytes_read = sum(h.bytes_read for h in handles)
    out.update(timings=clock.seconds, bytes_read=bytes_read, resumed=sum(h.resumed for h in handles))
    result |= {
        "seconds": clock.seconds["total"],
        "bytes_read": bytes_read,
        "peak_rss": peak_rss(),
        "task_peak_rss": max((h.peak_rss for h in handles), default=0),
        "computed": sum(h.computed for h in handles),
        "waited": sum(h.waited for h in handles),
    }
    out.finish(result)
    out.clean()
    return out


def _maps(task: MapsTask, executor: Executor, progress: Progress) -> tuple[dict[str, Any], dict[str, float]]:
    """Solve here where the workers are of this machine, else on one of them: this may be a login node."""
    if executor.here:
        return make_maps(task, progress)
    result: tuple[dict[str, Any], dict[str, float]]
    (result,) = executor.run([Task("maps", make_maps, task)], lambda key: progress)
    return result


def _check_device(config: ReconstructConfig, device: str, here: bool) -> None:
    """Refuse what a device cannot do before an image is read; whether a worker has one, its tasks say."""
    if device != "cpu" and config.prior == "haar":
        raise InputError("--prior haar has no GPU transform; choose tv or tv-aniso, or --device cpu")
    if device != "cpu" and config.accuracy == "reference":
        raise InputError("--accuracy reference has no GPU sums; choose accurate, or --device cpu")
    if here:
        check_device(device)


def _check_gpus(chosen: Plan, accuracy: str, device: str, tasks: int) -> None:
    """Refuse a plan that the GPUs of this machine have no room for; those of a cluster do so themselves."""
    batch = min(chosen.batch, max(part.count for part in chosen.slices))
    sharing = math.ceil(tasks / len(visible_gpus()))
    check_device(device, device_bytes(chosen.n, chosen.box, batch, accuracy), sharing)
    check_device(device, chosen.solve_memory)


def make_fold(
    store: ParticleStore, out: RunStore, chosen: Plan, config: ReconstructConfig, threads: int,
    device: str = "cpu",
) -> Fold:  # fmt: skip
    """How the slices of a run are folded."""
    return Fold(
        particles=store.url,
        commits=join(out.scratch, f"sums-{chosen.digest}"),
        n=chosen.n,
        scale=chosen.box / chosen.n,
        batch=chosen.batch,
        halves=config.halves,
        symmetry=config.symmetry,
        noise=config.noise,
        basis=config.basis,
        accuracy=config.accuracy,
        threads=threads,
        device=device,
        poses=config.poses,
    )


def _accumulate(chosen: Plan, fold: Fold, executor: Executor, progress: Progress) -> list[Handle]:
    images = ImageCount(chosen, progress)
    handles = run_plan(chosen, fold, executor, images.listen, images.done)
    slices = {s.key for s in chosen.slices}
    if resumed := sum(h.resumed and h.key in slices for h in handles):
        progress.message(f"{resumed} of {len(slices)} slices were committed before and kept")
    return handles


__all__ = ["ReconstructConfig", "make_plan", "plan", "reconstruct"]
