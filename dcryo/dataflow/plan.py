"""The plan of a job: how a data set is cut into slices, how their sums merge, and what it all takes.

A plan depends on the data and the settings alone, never on the machine or the number of workers: same plan,
same bits.  It is made, shown (``--dry-run``) and checked against memory and disk before anything is read.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dcryo.errors import InputError, PlanError

COMPUTE_PER_PIXEL = 4e-8
"""Planned seconds to fold one image, per pixel (insertion and kernel, one core): 0.65 ms at 128^2."""

COMMIT_PER_VOXEL = 2.2e-7
"""Planned seconds to finish and commit one partial sum, per voxel of the box."""

COMMIT_RATIO = 20
"""A slice computes at least this many times longer than its commit takes."""

LARGEST_SCALE = 64
"""Coarsest voxel edge that is offered, in pixels."""

BATCH_PIXELS = 1 << 23
"""Pixels of the images that are folded at once, 512 of 128^2; sums over a batch are float32."""


@dataclass(frozen=True)
class Slice:
    """The particles of one half set in the rows [start, stop) of the store: what one task folds."""

    key: str
    half: int
    start: int
    stop: int
    count: int


@dataclass(frozen=True)
class Merge:
    """Sum of two partials."""

    key: str
    left: str
    right: str


@dataclass(frozen=True)
class Plan:
    """Slices, the fixed tree that merges them into one root per half set, and the cost.

    box: side of the images; n: side of the reconstruction; batch: images per float32 sum;
    merges in order, children first; roots: half set -> key of its total; memory and disk in bytes, disk for
    the partial sums that exist at a time.
    """

    box: int
    n: int
    batch: int
    slices: tuple[Slice, ...]
    merges: tuple[Merge, ...]
    roots: dict[int, str]
    task_memory: int
    solve_memory: int
    disk: int
    read_bytes: int

    @property
    def digest(self) -> str:
        """Hash of everything that decides the bits of the sums."""
        fixed = {
            k: v
            for k, v in asdict(self).items()
            if k not in ("task_memory", "solve_memory", "disk", "read_bytes")
        }
        return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]

    def describe(self) -> str:
        """The plan in words, for ``--dry-run``."""
        halves = ", ".join(
            f"half {half}: {sum(s.count for s in self.slices if s.half == half):,} particles in "
            f"{sum(s.half == half for s in self.slices)} slices"
            for half in self.roots
        )
        return "\n".join(
            [
                f"images {self.box}², reconstruction {self.n}³, {self.batch} images a batch",
                halves,
                f"merges: {len(self.merges)}",
                f"reads: {_size(self.read_bytes)}",
                f"memory: {_size(self.task_memory)} to accumulate, {_size(self.solve_memory)} to solve",
                f"scratch: {_size(self.disk)} of disk",
            ]
        )

    @cached_property
    def _merge_of(self) -> dict[str, Merge]:
        return {m.key: m for m in self.merges}

    def children(self, key: str) -> tuple[str, str] | None:
        """The two partials that merge into ``key``; None for a slice."""
        merge = self._merge_of.get(key)
        return None if merge is None else (merge.left, merge.right)

    def order(self) -> Iterator[Slice | Merge]:
        """The slices in order, and every merge as soon as its two parts are done."""
        return in_order(self.slices, self.merges)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def slice_particles(n: int, box: int, order: int = 1) -> int:
    """Particles a slice should hold for a box of ``n`` (images of ``box``) and a point group of ``order``."""
    fold = COMPUTE_PER_PIXEL * n * n * order + 2e-9 * box * box
    return math.ceil(COMMIT_RATIO * COMMIT_PER_VOXEL * n**3 / fold)


def batch_size(box: int) -> int:
    """Images folded at once: fixed by the box, because it decides the order of rounding."""
    return max(256, min(1024, BATCH_PIXELS // (box * box)))


def check_halves(halves: NDArray[np.int8], store: str) -> None:
    """Refuse half sets that make no pair; ``store`` is named in the sentence.

    Raises
    ------
    InputError
        If a half set that others belong to is empty.
    """
    present = [half for half in (0, 1, 2) if np.any(halves == half)]
    if set(present) not in ({0}, {1, 2}):
        raise InputError(
            f"{store}: the particles belong to the half sets {present}; both 1 and 2 must have particles (or "
            "use --halves none for one map without half maps, --halves even-odd for a new split)"
        )


def make_slices(halves: NDArray[np.int8], size: int, chunk: int, shard: int) -> tuple[Slice, ...]:
    """Cut the rows into slices of about ``size`` particles, each in one half set.

    Boundaries lie on whole shards where a slice holds several, else on whole chunks, so that no part of the
    store is decoded twice; only the chunk where the half sets meet is.  A half set without particles has no
    slices (:func:`check_halves` refuses one).
    """
    unit = shard if size >= shard else chunk
    slices: list[Slice] = []
    for half in (0, 1, 2):
        # a byte a row: indices of the rows would be eight
        own = halves == half
        held = int(np.count_nonzero(own))
        if not held:
            continue
        first, last = int(np.argmax(own)), len(own) - int(np.argmax(own[::-1]))
        # the span of a scattered half set holds other rows as well: count what it really takes
        density = held / (last - first)
        stride = max(unit, math.ceil(size / density / unit) * unit)
        cuts = [first, *range((first // unit) * unit + stride, last, stride), last]
        if len(cuts) > 2 and cuts[-1] - cuts[-2] < stride // 2:
            del cuts[-2]
        for start, stop in pairwise(cuts):
            count = int(np.count_nonzero(own[start:stop]))
            if count:
                slices.append(Slice(f"half{half}-{len(slices):05d}", half, start, stop, count))
    return tuple(slices)


def make_merges(slices: Sequence[Slice]) -> tuple[tuple[Merge, ...], dict[int, str]]:
    """Pair neighbours level by level, apart for each half set: (merges, root of every half set)."""
    merges: list[Merge] = []
    roots: dict[int, str] = {}
    for half in sorted({s.half for s in slices}):
        level = [s.key for s in slices if s.half == half]
        height = 0
        while len(level) > 1:
            height += 1
            paired = []
            for i in range(0, len(level) - 1, 2):
                merge = Merge(f"half{half}-sum{height}-{i // 2:05d}", level[i], level[i + 1])
                merges.append(merge)
                paired.append(merge.key)
            level = paired + level[len(level) // 2 * 2 :]
        roots[half] = level[0]
    return tuple(merges), roots


def in_order(slices: Sequence[Slice], merges: Sequence[Merge]) -> Iterator[Slice | Merge]:
    """The slices in order, and every merge as soon as its two parts are done."""
    above = {child: merge for merge in merges for child in (merge.left, merge.right)}
    finished: set[str] = set()
    for part in slices:
        yield part
        finished.add(part.key)
        merge = above.get(part.key)
        while merge is not None and {merge.left, merge.right} <= finished:
            yield merge
            finished.add(merge.key)
            merge = above.get(merge.key)


def partials_at_once(slices: Sequence[Slice], merges: Sequence[Merge], tasks: int = 1) -> int:
    """At most so many partial sums exist at a time if ``tasks`` tasks run side by side.

    One task after the other: counted.  Each further task can hold back one sum on every level of the tree,
    and has a result and the parts of one merge of its own; never are there more than slices and merges
    under way.
    """
    alive = most = 0
    for part in in_order(slices, merges):
        alive += 1
        most = max(most, alive)
        if isinstance(part, Merge):
            alive -= 2
    levels = math.ceil(math.log2(max(len(slices), 2)))
    return min(most + (tasks - 1) * (levels + 3), len(slices) + tasks)


def available_memory() -> int:
    """Bytes of memory that this process may still use: what the system calls available, within its cgroup."""
    limits = []
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        limits.append(int(fields["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:
        group = Path("/sys/fs/cgroup")
        used = int((group / "memory.current").read_text())
        limits.append(int((group / "memory.max").read_text()) - used)
    except (OSError, ValueError):
        pass
    return min(limits)


def check_resources(
    plan: Plan,
    scratch: str | None,
    *,
    task_memory: int | None = None,
    solve_memory: int | None = None,
    tasks: int = 1,
    present: int = 0,
    coarser: Callable[[float], Plan] | None = None,
) -> None:
    """Refuse a plan that will not fit.

    Parameters
    ----------
    scratch : str or None
        Local folder that will hold the partial sums; None for an object store, which is not checked.
    task_memory, solve_memory : int, optional
        Bytes allowed for one task, and for the solves; default what the machine has available.
    tasks : int
        So many tasks share the machine or the worker that ``task_memory`` is a part of.
    present : int
        Bytes of partial sums that the scratch holds already.
    coarser : callable, optional
        The plan of another scale; finds the scale that would fit.

    Raises
    ------
    PlanError
        With the numbers, and the option that would make it fit.
    """
    allowed = {
        "accumulate": available_memory() if task_memory is None else task_memory,
        "solve": available_memory() if solve_memory is None else solve_memory,
    }
    needs = {"accumulate": plan.task_memory, "solve": plan.solve_memory}
    stage = max(needs, key=lambda name: needs[name] / allowed[name])
    if needs[stage] > allowed[stage]:
        scale = _fitting_scale(plan, tuple(allowed.values()), coarser)
        remedies = [] if scale is None else [f"--scale {scale:g} or larger (a coarser map)"]
        each = ""
        if stage == "accumulate" and tasks > 1:
            each = f" for each of {tasks} tasks side by side"
            remedies.append("fewer --workers, or workers of one thread")
        raise PlanError(
            f"a box of {plan.n} needs {_size(needs[stage])} of memory to {stage}, and "
            f"{_size(allowed[stage])} is allowed{each}; use "
            f"{', or '.join([*remedies, 'a machine with more memory'])}"
        )
    if scratch is not None:
        folder = Path(scratch)
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        if plan.disk - present > free:
            raise PlanError(
                f"the partial sums need {_size(plan.disk - present)} of disk and {folder} has {_size(free)} "
                "free; put RUN on a larger disk, or use a coarser --scale"
            )


def _fitting_scale(
    plan: Plan, allowed: Sequence[int], coarser: Callable[[float], Plan] | None
) -> float | None:
    """A scale whose plan fits, in tenths; None if none does: no scale shrinks the images."""

    def excess(fit: Plan) -> float:
        return max(
            need / most for need, most in zip((fit.task_memory, fit.solve_memory), allowed, strict=True)
        )

    scale = math.ceil(10 * plan.box / plan.n * math.cbrt(excess(plan))) / 10
    if coarser is None:
        return scale
    while plan.box / scale >= 4 and scale <= LARGEST_SCALE:
        if excess(coarser(scale)) <= 1:
            return scale
        scale = math.ceil(11 * scale) / 10
    return None
