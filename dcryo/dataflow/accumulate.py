"""The tasks: fold one slice of a particle store into normal equations, and merge two partials.

Both are idempotent: a result that is committed already is kept, and what a task returns is a small handle,
never an array.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dcryo.arrays import check_device, own_stream
from dcryo.dataflow.batches import read_batches
from dcryo.dataflow.commits import Commits
from dcryo.dataflow.executor import Executor, Listen, Task
from dcryo.dataflow.plan import Merge, Plan, Slice, check_halves
from dcryo.dataflow.pose_source import check_poses, find_poses
from dcryo.errors import DamagedStoreError, InputError
from dcryo.geometry.symmetry import point_group
from dcryo.imaging.basis import parse_basis
from dcryo.io.particle_store import ParticleStore, open_particles
from dcryo.operators.normal import Accumulator, NormalEquations, accumulation_bytes
from dcryo.operators.views import Radial, make_radial, make_views

if TYPE_CHECKING:
    from dcryo.methods.progress import Progress


@dataclass(frozen=True)
class Fold:
    """How slices are folded: the same for all tasks of a plan.

    particles: URL of the store; commits: URL of the partial sums; noise: "auto" for every group's measured
    spectrum, "white" for its mean; scale: image pixels per voxel edge; device: "cpu" or "cuda", where tasks
    compute; partial sums are on disk and look the same; poses: ``RUN@iteration``, or None: the store's own.
    """

    particles: str
    commits: str
    n: int
    scale: float
    batch: int
    halves: str
    symmetry: str
    noise: str
    basis: str
    accuracy: str
    threads: int
    device: str = "cpu"
    poses: str | None = None


@dataclass(frozen=True)
class Handle:
    """What a task says about its result; peak_rss is that of the process it ran in, bytes.

    seconds: all that the task took; computed: of them, until the sum was there to be committed, without
    waited: the seconds in which folding waited for images to be read.
    """

    key: str
    count: int
    seconds: float
    bytes_read: int
    resumed: bool
    peak_rss: int
    computed: float = 0.0
    waited: float = 0.0


@dataclass(frozen=True)
class SliceTask:
    """Fold one slice."""

    fold: Fold
    slice: Slice


@dataclass(frozen=True)
class MergeTask:
    """Add two partials."""

    commits: str
    merge: Merge


def half_sets(store: ParticleStore, rule: str, start: int = 0, stop: int | None = None) -> NDArray[np.int8]:
    """Half set of rows: the store's ("auto"), by the parity of the original row, or all 0 ("none").

    Parameters
    ----------
    store : ParticleStore
    rule : str
        Of the three.
    start, stop : int
        First row, and the one after the last; all by default.

    Raises
    ------
    InputError
        For another rule.
    """
    if rule == "auto":
        return store.column("half", start, stop)
    if rule == "even-odd":
        return (store.column("row", start, stop) % 2 + 1).astype(np.int8)
    if rule == "none":
        return np.zeros((store.count if stop is None else stop) - start, np.int8)
    raise InputError(f"--halves {rule!r} is not known; choose auto, even-odd or none")


def assign_halves(store: ParticleStore, rule: str) -> NDArray[np.int8]:
    """Half set of every row by :func:`half_sets`.

    Raises
    ------
    InputError
        For another rule, or if a half set that others belong to is empty.
    """
    halves = half_sets(store, rule)
    check_halves(halves, store.url)
    return halves


def radial_tables(store: ParticleStore, fold: Fold) -> Radial:
    """Basis function and noise weights of every optics group at the scale of the reconstruction.

    Raises
    ------
    InputError
        If a spectrum is not positive.

    Notes
    -----
    A group without a spectrum (clean images, or no particles) counts as noise of variance 1.
    """
    spectra = []
    ratios = []
    for optics in store.optics:
        spectrum = np.ones(fold.n // 2 + 1) if optics.noise is None else np.asarray(optics.noise, np.float64)
        if not (np.isfinite(spectrum) & (spectrum > 0)).all():
            raise InputError(
                f"{store.url}: the noise spectrum of optics group {optics.name} is not positive; ingest again"
            )
        if fold.noise == "white":
            # every shell counts by its number of frequencies
            spectrum = np.full_like(spectrum, np.average(spectrum, weights=np.arange(len(spectrum)) + 0.5))
        spectra.append(spectrum)
        ratios.append(store.pixel_size / optics.pixel_size)
    return make_radial(parse_basis(fold.basis).fourier, spectra, fold.n, ratios)


def rows_of(store: ParticleStore, task: SliceTask) -> NDArray[np.intp]:
    """Rows of the store that a slice folds, ascending."""
    part = task.slice
    half = half_sets(store, task.fold.halves, part.start, part.stop)
    return part.start + np.flatnonzero(half == part.half)


def peak_rss() -> int:
    """Peak resident memory of this process, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def device_bytes(n: int, box: int, batch: int, accuracy: str) -> int:
    """Memory that a task takes on a GPU, in bytes: its sums, and batches of images of ``box`` pixels.

    Of a batch there are the images twice, their spectra, cuFFT's work area, lattices, energies, and a copy of
    one of them.
    """
    return accumulation_bytes(n, accuracy, "cuda") + 28 * batch * box**2


def accumulate_slice(task: SliceTask, progress: Progress) -> Handle:
    """Fold the particles of a slice, in order, into a committed partial sum."""
    fold, part = task.fold, task.slice
    commits = Commits(fold.commits)
    if commits.has(part.key):
        return Handle(part.key, part.count, 0.0, 0, True, peak_rss())
    began = time.perf_counter()
    progress.start(part.key, part.count)
    # opened afresh: a store that was replaced is not remembered, and bytes_read counts this task alone
    store = open_particles(fold.particles, verify=False)
    batch = min(fold.batch, part.count)
    needed = 0 if fold.device == "cpu" else device_bytes(fold.n, store.box, batch, fold.accuracy)
    check_device(fold.device, needed)
    with own_stream(fold.device):
        equations, computed, waited = _fold(task, store, progress)
    put_equations(commits, part.key, equations)
    return Handle(
        part.key, part.count, time.perf_counter() - began, store.bytes_read, False, peak_rss(), computed,
        waited,
    )  # fmt: skip


def _fold(task: SliceTask, store: ParticleStore, progress: Progress) -> tuple[NormalEquations, float, float]:
    """The sum of a slice, on the host, and the seconds that it computed and that it waited."""
    fold = task.fold
    group = point_group(fold.symmetry)
    poses = None if fold.poses is None else find_poses(fold.poses)
    with read_batches(store, rows_of(store, task), fold.batch, fold.device, poses) as batches:
        began = time.perf_counter()
        accumulator = Accumulator(
            fold.n,
            radial_tables(store, fold),
            accuracy=fold.accuracy,
            symmetry=group if len(group) > 1 else None,
            threads=fold.threads,
            device=fold.device,
        )
        for particles, images in batches:
            check_poses(poses or store, particles)
            accumulator.add(images, make_views(particles, store.pixel_size, fold.scale))
            progress.advance(len(images))
    equations = accumulator.finish().to("cpu")
    return equations, time.perf_counter() - began - batches.waited, batches.waited


def merge_partials(task: MergeTask, progress: Progress) -> Handle:
    """Add two committed partials, commit the sum, read it back, and only then delete the two.

    Raises
    ------
    InputError
        If this process does not see the partials that others have committed.
    """
    commits, merge = Commits(task.commits), task.merge
    began = time.perf_counter()
    resumed = commits.has(merge.key)
    if not resumed:
        try:
            total = get_equations(commits, merge.left) + get_equations(commits, merge.right)
        except (KeyError, DamagedStoreError) as error:
            # a worker that was given up for dead may have finished this very merge in the meantime
            if not commits.has(merge.key):
                if isinstance(error, DamagedStoreError):
                    raise
                raise InputError(
                    f"{commits.url}: the partial sum {error.args[0]} was committed and is not there; put RUN "
                    "on a file system that all workers share, or in an object store"
                ) from error
            resumed = True
        else:
            put_equations(commits, merge.key, total)
            del total
    if commits.has(merge.left) or commits.has(merge.right):
        # also what an earlier attempt put, which may have died before it read it back
        get_equations(commits, merge.key)
    count = int(commits.meta(merge.key)["count"])
    commits.delete(merge.left)
    commits.delete(merge.right)
    return Handle(merge.key, count, time.perf_counter() - began, 0, resumed, peak_rss())


def put_equations(commits: Commits, key: str, equations: NormalEquations) -> None:
    """Commit normal equations under ``key``."""
    arrays = {"rhs": equations.rhs, "spectrum": equations.spectrum}
    commits.put(key, arrays, {"energy": equations.energy, "count": equations.count})


def get_equations(commits: Commits, key: str) -> NormalEquations:
    """The normal equations committed under ``key``, verified."""
    arrays, meta = commits.get(key)
    return NormalEquations(arrays["rhs"], arrays["spectrum"], float(meta["energy"]), int(meta["count"]))


def run_plan(
    plan: Plan, fold: Fold, executor: Executor, listen: Listen, done: Callable[[Handle], None] | None = None,
    fold_slice: Callable[[Slice], Task] | None = None,
) -> list[Handle]:  # fmt: skip
    """Run what is left of a plan; afterwards the root of every half set is committed.

    A partial is needed only while nothing above it in the tree is committed, so a rerun repeats neither
    slices nor merges.  Two partials are merged as soon as both are there: few exist at a time.
    ``fold_slice`` makes the task that commits the sum of a slice; by default :func:`accumulate_slice` does.
    """
    committed = set(Commits(fold.commits).keys())
    needed: set[str] = set()

    def need(key: str) -> None:
        needed.add(key)
        children = plan.children(key)
        if key not in committed and children is not None:
            for child in children:
                need(child)

    for root in plan.roots.values():
        need(root)
    tasks = []
    for part in plan.order():
        if part.key not in needed:
            continue
        if isinstance(part, Slice):
            own = Task(part.key, accumulate_slice, SliceTask(fold, part))
            tasks.append(own if fold_slice is None else fold_slice(part))
        else:
            # a sum that is committed needs nothing, but what is left of its children must still go
            needs = () if part.key in committed else (part.left, part.right)
            tasks.append(Task(part.key, merge_partials, MergeTask(fold.commits, part), needs, urgent=True))
    return executor.run(tasks, listen, done)
