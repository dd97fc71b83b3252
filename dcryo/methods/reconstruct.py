"""Particles in, map out: stream the images once, solve, and say honestly how good the map is.

The images of each half set are folded into normal equations (dataflow).  From those alone come the weight of
the prior (cross-validation between the halves), both regularised half maps, the regularised map of all
particles, and linear half maps, whose FSC is the headline: a prior that two halves share inflates theirs.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from dcryo.arrays import check_device, visible_gpus
from dcryo.dataflow.accumulate import (
    Fold,
    Handle,
    assign_halves,
    check_poses,
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
from dcryo.dataflow.versions import versions
from dcryo.errors import InputError
from dcryo.geometry.symmetry import point_group
from dcryo.io.location import exists, is_remote, join, normalise, sizes
from dcryo.io.particle_store import ParticleStore, open_particles
from dcryo.io.run_store import RunStore, create_run, open_run
from dcryo.io.store_root import SCRATCH, clear, read_mark
from dcryo.methods.maps import solve_maps
from dcryo.methods.measure import write_maps
from dcryo.methods.progress import Progress, Silent
from dcryo.methods.reconstruct_config import ReconstructConfig
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


class _Images:
    """How many images are folded: heard from tasks that may run side by side, and again after a death."""

    def __init__(self, chosen: Plan, progress: Progress) -> None:
        self._counts = {s.key: s.count for s in chosen.slices}
        self._heard = dict.fromkeys(self._counts, 0)
        self._progress = progress
        self._lock = threading.Lock()
        progress.start("images", sum(self._counts.values()))

    def listen(self, key: str) -> _OneSlice:
        """What the task of a slice, or of a merge, reports to."""
        return _OneSlice(self, key)

    def done(self, handle: Handle) -> None:
        """A task is done; one that was committed before has reported nothing."""
        self.reached(handle.key, self._counts.get(handle.key, 0))

    def reached(self, key: str, count: int) -> None:
        """``count`` images of a slice are folded; a slice that begins again is not counted again."""
        with self._lock:
            more = min(count, self._counts.get(key, 0)) - self._heard.get(key, 0)
            if more > 0:
                self._heard[key] += more
                self._progress.advance(more)


class _OneSlice:
    """The progress of one slice."""

    def __init__(self, images: _Images, key: str) -> None:
        self._images, self._key, self._count = images, key, 0

    def start(self, stage: str, total: int | None) -> None:
        self._count = 0

    def advance(self, count: int = 1) -> None:
        self._count += count
        self._images.reached(self._key, self._count)

    def message(self, text: str) -> None:
        """Tasks have nothing to say."""


class _Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


@dataclass(frozen=True)
class MapsTask:
    """Everything after the sums: solve, measure, write into the run."""

    run: str
    plan: Plan
    fold: Fold
    config: ReconstructConfig


def make_maps(task: MapsTask, progress: Progress) -> tuple[dict[str, Any], dict[str, float]]:
    """Maps, curves and tables from committed sums into the run: (result, seconds per stage)."""
    clock = _Clock()
    store = open_particles(task.fold.particles)
    with clock.stage("solve"):
        maps = solve_maps(task.plan, task.fold, store.pixel_size * task.fold.scale, task.config, progress)
    with clock.stage("measure"):
        result = write_maps(open_run(task.run), store, task.plan, task.config, maps, progress)
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
    clock = _Clock()
    began = time.perf_counter()
    store = open_particles(particles)
    capacity = executor.capacity()
    chosen = make_plan(store, config, capacity.tasks)
    _check_poses(store)
    if 0 in chosen.roots and config.prior != "none" and config.weight == "auto":
        raise InputError(
            f"{store.url} has no half sets, which --weight auto needs; give --halves even-odd, or a --weight"
        )
    if overwrite or not _finished(run):
        check_resources(
            chosen,
            None if is_remote(run) else normalise(run),
            task_memory=max_memory or capacity.memory,
            solve_memory=max_memory or (None if executor.here else capacity.memory),
            tasks=capacity.tasks,
            present=0 if overwrite else _scratch_bytes(run),
            coarser=lambda scale: make_plan(store, replace(config, scale=scale), capacity.tasks),
        )
        if device != "cpu" and executor.here:
            _check_gpus(chosen, config.accuracy, device, capacity.tasks)
    out = create_run(run, "reconstruct", _recorded(store, config), overwrite=overwrite)
    if out.complete:
        out.clean()
        progress.message(f"{out.url} is complete already; nothing to do (--overwrite starts again)")
        return out
    fresh = "plan" not in out.attributes
    _record_plan(out, chosen, progress)
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


def _finished(run: str) -> bool:
    """Whether there is a complete run."""
    mark = read_mark(run)
    return mark is not None and mark["kind"] == "run" and bool(mark.get("complete"))


def _scratch_bytes(run: str) -> int:
    """Bytes in the scratch of an unfinished run on disk."""
    scratch = join(run, SCRATCH)
    return 0 if is_remote(run) or not exists(scratch) else sum(sizes(scratch).values())


def _check_poses(store: ParticleStore) -> None:
    """Refuse a store with particles that have no pose before a run is made for it."""
    posed = int(store.attributes["poses"])
    if posed == 0:
        raise InputError(
            f"{store.url} holds no poses; reconstruct needs one per particle: ingest the STAR or .cs file of "
            "a finished refinement"
        )
    for first in range(0, store.count if posed < store.count else 0, 100_000):
        check_poses(store, store.particles(first, min(first + 100_000, store.count)))


def _recorded(store: ParticleStore, config: ReconstructConfig) -> dict[str, Any]:
    """What makes a run this run and no other."""
    return {"particles": store.url, "particles_digest": _store_digest(store), **asdict(config)}


def _store_digest(store: ParticleStore) -> str:
    """Hash of the store's attributes, which hold how and when it was written."""
    return hashlib.sha256(json.dumps(store.attributes, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _record_plan(out: RunStore, chosen: Plan, progress: Progress) -> None:
    now = versions()
    before = out.attributes.get("versions")
    if before is not None and before != now:
        progress.message(
            f"{out.url} was begun with other versions or another processor: the result may differ in its "
            "last bits"
        )
    out.update(
        plan={
            "digest": chosen.digest, "slices": len(chosen.slices), "merges": len(chosen.merges),
            "batch": chosen.batch, "n": chosen.n, "task_memory": chosen.task_memory,
            "solve_memory": chosen.solve_memory, "disk": chosen.disk, "read_bytes": chosen.read_bytes,
        },
        versions=before or now,
        provenance={"command": sys.argv, "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())},
    )  # fmt: skip


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
    )


def _accumulate(chosen: Plan, fold: Fold, executor: Executor, progress: Progress) -> list[Handle]:
    images = _Images(chosen, progress)
    handles = run_plan(chosen, fold, executor, images.listen, images.done)
    slices = {s.key for s in chosen.slices}
    if resumed := sum(h.resumed and h.key in slices for h in handles):
        progress.message(f"{resumed} of {len(slices)} slices were committed before and kept")
    return handles


__all__ = ["ReconstructConfig", "make_plan", "plan", "reconstruct"]
