"""The tasks: fold one slice of a particle store into normal equations, and merge two partials.

Both are idempotent: a result that is committed already is kept, and what a task returns is a small handle,
never an array.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dcryo.arrays import check_device, to_device
from dcryo.dataflow.commits import Commits
from dcryo.dataflow.executor import Executor, Listen, Task
from dcryo.dataflow.plan import Merge, Plan, Slice, check_halves
from dcryo.errors import DamagedStoreError, InputError
from dcryo.geometry.symmetry import point_group
from dcryo.imaging.basis import parse_basis
from dcryo.imaging.particles import Particles
from dcryo.io.particle_store import ParticleStore, open_particles
from dcryo.operators.compiled import blocks
from dcryo.operators.normal import Accumulator, NormalEquations, accumulation_bytes
from dcryo.operators.views import Radial, make_radial, make_views

if TYPE_CHECKING:
    from dcryo.methods.progress import Progress


@dataclass(frozen=True)
class Fold:
    """How slices are folded: the same for all tasks of a plan.

    particles: URL of the store; commits: URL of the partial sums; noise: "auto" for every group's measured
    spectrum, "white" for its mean; scale: image pixels per voxel edge; device: "cpu" or "cuda", where tasks
    compute; partial sums are on disk and look the same.
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


@dataclass(frozen=True)
class Handle:
    """What a task says about its result; peak_rss is that of the process it ran in, bytes."""

    key: str
    count: int
    seconds: float
    bytes_read: int
    resumed: bool
    peak_rss: int


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


def assign_halves(store: ParticleStore, rule: str) -> NDArray[np.int8]:
    """Half set of every row: the store's ("auto"), by the parity of the original row, or all 0 ("none").

    Raises
    ------
    InputError
        For another rule, or if a half set that others belong to is empty.
    """
    if rule == "auto":
        halves = store.halves()
    elif rule == "even-odd":
        halves = (store.particles().row % 2 + 1).astype(np.int8)
    elif rule == "none":
        halves = np.zeros(store.count, np.int8)
    else:
        raise InputError(f"--halves {rule!r} is not known; choose auto, even-odd or none")
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
    half = assign_halves(store, task.fold.halves)[part.start : part.stop]
    return part.start + np.flatnonzero(half == part.half)


def _stream(
    store: ParticleStore, rows: NDArray[np.intp], batch: int
) -> Iterator[tuple[Particles, NDArray[np.float32]]]:
    """Batches of exactly ``batch`` particles in order; the next one is read while one is worked on.

    Reads go chunk by chunk, and a chunk that two batches share is decoded once.
    """
    chunk = store.chunk
    # at once: a column comes in large chunks, which every batch would fetch again
    table = store.particles(int(rows[0]), int(rows[-1]) + 1)
    held: tuple[int, NDArray[np.float32]] | None = None

    def read_chunk(index: int) -> NDArray[np.float32]:
        nonlocal held
        if held is None or held[0] != index:
            held = (index, store.images(index * chunk, min((index + 1) * chunk, store.count)))
        return held[1]

    def read(part: slice) -> tuple[Particles, NDArray[np.float32]]:
        wanted = rows[part]
        images = np.empty((len(wanted), store.box, store.box), np.float32)
        filled = 0
        for index in np.unique(wanted // chunk):
            inside = wanted[wanted // chunk == index] - index * chunk
            images[filled : filled + len(inside)] = read_chunk(int(index))[inside]
            filled += len(inside)
        return table.take(wanted - rows[0]), images

    parts = blocks(len(rows), batch)
    with ThreadPoolExecutor(1, thread_name_prefix="dcryo-read") as reader:
        coming = reader.submit(read, parts[0])
        for following in [*parts[1:], None]:
            current = coming.result()
            if following is not None:
                coming = reader.submit(read, following)
            yield current


def check_poses(store: ParticleStore, particles: Particles) -> None:
    """Refuse particles without a pose: InputError that names the first."""
    missing = np.flatnonzero(~np.isfinite(particles.rotation).all(axis=1))
    if len(missing):
        raise InputError(
            f"{store.url}: particle {int(particles.row[missing[0]]) + 1} (of the table it came from) has no "
            "pose; reconstruct needs one for every particle: use poses of a refinement"
        )


def peak_rss() -> int:
    """Peak resident memory of this process, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


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
    if fold.device != "cpu":
        # a batch is there as images, their transforms with work area, lattices and energies
        batch = 24 * min(fold.batch, part.count) * store.box**2
        check_device(fold.device, accumulation_bytes(fold.n, fold.accuracy, fold.device) + batch)
    group = point_group(fold.symmetry)
    accumulator = Accumulator(
        fold.n,
        radial_tables(store, fold),
        accuracy=fold.accuracy,
        symmetry=group if len(group) > 1 else None,
        threads=fold.threads,
        device=fold.device,
    )
    for particles, images in _stream(store, rows_of(store, task), fold.batch):
        check_poses(store, particles)
        views = make_views(particles, store.pixel_size, fold.scale)
        accumulator.add(to_device(images, fold.device), views)
        progress.advance(len(images))
    put_equations(commits, part.key, accumulator.finish().to("cpu"))
    return Handle(part.key, part.count, time.perf_counter() - began, store.bytes_read, False, peak_rss())


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
    plan: Plan, fold: Fold, executor: Executor, listen: Listen, done: Callable[[Handle], None] | None = None
) -> list[Handle]:
    """Run what is left of a plan; afterwards the root of every half set is committed.

    A partial is needed only while nothing above it in the tree is committed, so a rerun repeats neither
    slices nor merges.  Two partials are merged as soon as both are there: few exist at a time.
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
            tasks.append(Task(part.key, accumulate_slice, SliceTask(fold, part)))
        else:
            # a sum that is committed needs nothing, but what is left of its children must still go
            needs = () if part.key in committed else (part.left, part.right)
            tasks.append(Task(part.key, merge_partials, MergeTask(fold.commits, part), needs, urgent=True))
    return executor.run(tasks, listen, done)
