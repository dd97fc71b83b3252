"""A model of a run on many workers: the plan's own slices and merges, on workers that share one storage.

docs/scaling.md has it in formulas.  :func:`simulate` runs it, event by event, and takes what may begin when
from the class that the executor on Dask takes it from.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from dcryo.dataflow.executor import Task, Waiting
from dcryo.dataflow.plan import Slice, in_order, make_merges, make_slices, slice_particles
from dcryo.io.particle_schema import layout


@dataclass(frozen=True)
class Phase:
    """A part of a task: computing and moving bytes from or to the storage at the same time."""

    seconds: float = 0.0
    bytes: float = 0.0


@dataclass(frozen=True)
class Machine:
    """What tasks run on.

    workers: tasks at once; link: bytes per second between one worker and the storage; storage: bytes per
    second of all together; handout: seconds of the scheduling process for each task, one after the other;
    latency: seconds between that and the beginning of the task, for a task that others had to end for.
    """

    workers: int
    link: float = math.inf
    storage: float = math.inf
    handout: float = 0.0
    latency: float = 0.0


@dataclass(frozen=True)
class Costs:
    """Seconds and bytes of one slice and one merge on one worker.

    image: seconds to fold one image; image_bytes: of an image in the store; partial: bytes of a partial sum;
    finish: seconds from the last image to a sum that can be written, its hash included; merge: seconds of
    a merge apart from moving its bytes, two sums in, one out and read back; begin: seconds of every task
    before it reads anything.
    """

    image: float
    image_bytes: float
    partial: float
    finish: float
    merge: float
    begin: float = 0.0

    def phases(self, part: object) -> tuple[Phase, ...]:
        """Phases of a slice, or of a merge, one after the other."""
        start = Phase(self.begin)
        if isinstance(part, Slice):
            stream = Phase(part.count * self.image, part.count * self.image_bytes)
            return start, stream, Phase(self.finish), Phase(0.0, self.partial)
        moved = Phase(0.0, self.partial)
        return start, moved, moved, Phase(self.merge), moved, moved

    def alone(self, part: object, machine: Machine) -> float:
        """Seconds of a task that has the storage for itself."""
        rate = min(machine.link, machine.storage)
        return sum(max(phase.seconds, phase.bytes / rate) for phase in self.phases(part))


def tasks_of(count: int, box: int, size: int = 0) -> list[Task]:
    """The tasks that a run over ``count`` particles of ``box``² in two half sets hands out.

    size: particles in a slice; 0: as planned.
    """
    halves = np.repeat(np.array([1, 2], np.int8), [count // 2, count - count // 2])
    chunk, shard = layout(count, box, 4)
    return as_tasks(make_slices(halves, size or slice_particles(box, box), chunk, shard))


def even_tasks(slices: int) -> list[Task]:
    """The same for a number of slices of 8 particles, half of them in each half set."""
    halves = np.repeat(np.array([1, 2], np.int8), [8 * (slices // 2), 8 * (slices - slices // 2)])
    return as_tasks(make_slices(halves, 8, 8, 8))


def as_tasks(slices: Sequence[Slice]) -> list[Task]:
    """Slices and their merges in the plan's order."""
    merges, _ = make_merges(slices)
    return [
        Task(part.key, _nothing, part)
        if isinstance(part, Slice)
        else Task(part.key, _nothing, part, (part.left, part.right), urgent=True)
        for part in in_order(slices, merges)
    ]


def _nothing(item: object, progress: object) -> None:
    """Simulated tasks do nothing but take time."""


def simulate(tasks: Sequence[Task], costs: Costs, machine: Machine) -> dict[str, float]:
    """When each task ends, seconds: workers take what is ready in order, urgent tasks first.

    Bytes that move at a time share the storage equally, each at most at the speed of its worker's link.
    """
    waiting = Waiting(tasks)
    order = {task.key: index for index, task in enumerate(tasks)}
    told = deque((0.0, task) for task in waiting.first())  # to be handed out, and since when
    scheduler = 0.0  # free from then on
    coming: list[tuple[float, int, Task]] = []  # when a task that is handed out may begin
    ready: list[tuple[bool, int, Task]] = []
    free = machine.workers
    timers: list[tuple[float, int]] = []  # when the computing of a running task's phase ends
    rest: dict[int, deque[Phase]] = {}
    computing: set[int] = set()
    moving: dict[int, float] = {}  # bytes left
    ends: dict[str, float] = {}
    now = 0.0

    def begin_phase(index: int) -> None:
        while rest[index]:
            phase = rest[index].popleft()
            if phase.seconds > 0:
                computing.add(index)
                heappush(timers, (now + phase.seconds, index))
            if phase.bytes > 0:
                moving[index] = phase.bytes
            if index in computing or index in moving:
                return
        del rest[index]
        finish(index)

    def finish(index: int) -> None:
        nonlocal free
        free += 1
        key = tasks[index].key
        ends[key] = now
        told.extend((now, task) for task in waiting.done(key))

    while len(ends) < len(tasks):
        while told and max(told[0][0], scheduler) <= now:
            since, task = told.popleft()
            scheduler = max(since, scheduler) + machine.handout
            late = machine.latency if task.needs else 0.0
            heappush(coming, (scheduler + late, order[task.key], task))
        while coming and coming[0][0] <= now:
            _, index, task = heappop(coming)
            heappush(ready, (not task.urgent, index, task))
        if free and ready:
            free -= 1
            _, index, task = heappop(ready)
            rest[index] = deque(costs.phases(task.item))
            begin_phase(index)
            continue
        rate = min(machine.link, machine.storage / max(1, len(moving)))
        nearest = min(moving.values(), default=math.inf) / rate
        following = min(
            max(told[0][0], scheduler) if told else math.inf,
            coming[0][0] if coming else math.inf,
            timers[0][0] if timers else math.inf,
            now + nearest,
        )
        # what comes nearest in bytes has none left, whatever the rounding
        arrived = [] if now + nearest > following else [i for i, b in moving.items() if b / rate <= nearest]
        for index in moving:
            moving[index] -= rate * (following - now)
        now = following
        for index in arrived:
            del moving[index]
        over = list(arrived)
        while timers and timers[0][0] <= now:
            index = heappop(timers)[1]
            computing.discard(index)
            over.append(index)
        for index in sorted(set(over)):
            if index in rest and index not in computing and index not in moving:
                begin_phase(index)
    return ends


def bounds(tasks: Sequence[Task], costs: Costs, machine: Machine) -> tuple[float, float]:
    """No schedule ends before the first; while the storage is not what limits, ours not after the second.

    Work over workers, the longest path, and the bytes over the storage; and Graham's bound for schedules that
    leave no worker idle while a task is ready (Bounds on multiprocessing timing anomalies, SIAM J. Appl.
    Math. 17, 1969).
    """
    seconds = {task.key: costs.alone(task.item, machine) for task in tasks}
    path: dict[str, float] = {}
    for task in tasks:
        path[task.key] = seconds[task.key] + max((path[need] for need in task.needs), default=0.0)
    moved = sum(phase.bytes for task in tasks for phase in costs.phases(task.item))
    each, longest = sum(seconds.values()) / machine.workers, max(path.values())
    return max(each, longest, moved / machine.storage), each + longest * (1 - 1 / machine.workers)
