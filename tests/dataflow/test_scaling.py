"""The model of many workers against arithmetic, and against a simulation that only counts ticks."""

from __future__ import annotations

import math

import pytest
from benchmarks.scaling_model import Costs, Machine, bounds, even_tasks, simulate, tasks_of
from hypothesis import given, settings
from hypothesis import strategies as st

from dcryo.dataflow.executor import Task
from dcryo.dataflow.plan import Merge, Slice

SLICE, MERGE = 7.0, 3.0


def sleeping(image: float, merge: float) -> Costs:
    """Tasks that only take time."""
    return Costs(image=image, image_bytes=0.0, partial=0.0, finish=0.0, merge=merge)


def makespan(tasks: list[Task], costs: Costs, machine: Machine) -> float:
    return max(simulate(tasks, costs, machine).values())


def even(most: int) -> st.SearchStrategy[int]:
    """Numbers of slices that give both half sets as many."""
    return st.integers(1, most // 2).map(lambda half: 2 * half)


def ticks(tasks: list[Task], slice_ticks: int, merge_ticks: int, workers: int) -> int:
    """The same rules by brute force: every worker looks for work at every tick."""
    done: set[str] = set()
    begun: set[str] = set()
    busy: dict[str, int] = {}
    now = 0
    while len(done) < len(tasks):
        for key in [key for key, end in busy.items() if end == now]:
            del busy[key]
            done.add(key)
        ready = [t for t in tasks if t.key not in begun and all(need in done for need in t.needs)]
        ready.sort(key=lambda task: not task.urgent)
        for task in ready[: workers - len(busy)]:
            begun.add(task.key)
            busy[task.key] = now + (merge_ticks if isinstance(task.item, Merge) else slice_ticks)
        now += 1
    return now - 1


@settings(max_examples=60, deadline=None)
@given(
    slices=even(40),
    workers=st.integers(1, 50),
    slice_s=st.integers(1, 9),
    merge_s=st.integers(1, 9),
    slices_first=st.booleans(),
)
def test_tasks_end_when_a_clock_that_ticks_says(
    slices: int, workers: int, slice_s: int, merge_s: int, slices_first: bool
) -> None:
    tasks = even_tasks(slices)
    if slices_first:  # else the order alone prefers merges
        tasks.sort(key=lambda task: task.urgent)
    costs = sleeping(slice_s / 8, merge_s)
    assert makespan(tasks, costs, Machine(workers)) == pytest.approx(
        ticks(tasks, slice_s, merge_s, workers), rel=1e-12
    )


@settings(max_examples=60, deadline=None)
@given(slices=even(60), workers=st.integers(1, 80), partial=st.floats(0.1, 5.0))
def test_no_schedule_leaves_the_bounds_of_graham(slices: int, workers: int, partial: float) -> None:
    tasks = even_tasks(slices)
    costs = Costs(image=SLICE / 8, image_bytes=0.2, partial=partial, finish=1.0, merge=MERGE)
    machine = Machine(workers, link=1.0)
    least, most = bounds(tasks, costs, machine)
    assert least * (1 - 1e-9) <= makespan(tasks, costs, machine) <= most * (1 + 1e-9)


@pytest.mark.parametrize("levels", [0, 1, 3, 5])
def test_enough_workers_need_a_slice_and_a_merge_on_every_level(levels: int) -> None:
    tasks = even_tasks(2 * 2**levels)
    assert makespan(tasks, sleeping(SLICE / 8, MERGE), Machine(1000)) == pytest.approx(SLICE + levels * MERGE)


def test_one_worker_does_it_all() -> None:
    tasks = even_tasks(20)
    assert makespan(tasks, sleeping(SLICE / 8, MERGE), Machine(1)) == pytest.approx(20 * SLICE + 18 * MERGE)


def test_all_share_the_storage() -> None:
    # 16 slices that end at once and write 5 bytes each at 2 bytes a second of all; no merges' time but bytes:
    # 8, 4 and 2 at a time, each moving 4 sums.
    tasks = even_tasks(16)
    costs = Costs(image=SLICE / 8, image_bytes=0.0, partial=5.0, finish=0.0, merge=0.0)
    expected = SLICE + 16 * 5 / 2 + (8 + 4 + 2) * 4 * 5 / 2
    assert makespan(tasks, costs, Machine(16, storage=2.0)) == pytest.approx(expected)
    # a link of half a byte a second each is as much for 4 of them, and less for 2 of them
    slow = SLICE + 16 * 5 / 2 + (8 + 4) * 4 * 5 / 2 + 4 * 5 / 0.5
    assert makespan(tasks, costs, Machine(16, storage=2.0, link=0.5)) == pytest.approx(slow)


def test_reading_hides_behind_computing_and_computing_behind_reading() -> None:
    (one, other) = even_tasks(2)
    for image_bytes, seconds in ((0.5, SLICE), (2.0, 16.0)):
        costs = Costs(image=SLICE / 8, image_bytes=image_bytes, partial=0.0, finish=0.0, merge=0.0)
        assert makespan([one, other], costs, Machine(2, link=1.0)) == pytest.approx(seconds)


def test_a_scheduler_hands_out_one_task_at_a_time() -> None:
    tasks = even_tasks(64)
    costs = sleeping(SLICE / 8, 0.0)
    # the last slice is handed out after 64 turns, its merges after 5 more turns of their own
    assert makespan(tasks, costs, Machine(64, handout=0.5)) >= 64 * 0.5 + SLICE
    alone = [task for task in tasks if isinstance(task.item, Slice)]
    assert makespan(alone, costs, Machine(64, handout=0.5)) == pytest.approx(64 * 0.5 + SLICE)


def test_a_merge_waits_for_the_word() -> None:
    tasks = even_tasks(16)
    costs = sleeping(SLICE / 8, MERGE)
    assert makespan(tasks, costs, Machine(16, latency=0.25)) == pytest.approx(SLICE + 3 * (MERGE + 0.25))


@pytest.mark.parametrize("workers", [1, 3, 16, 500])
def test_more_workers_are_bounded_by_work_path_and_bytes(workers: int) -> None:
    tasks = tasks_of(10**6, 256)
    slices = sum(isinstance(task.item, Slice) for task in tasks)
    merges = len(tasks) - slices
    costs = Costs(image=1e-3, image_bytes=4.0 * 256**2, partial=3e8, finish=1.0, merge=2.0)
    machine = Machine(workers, link=1e9, storage=1e10)
    least, _ = bounds(tasks, costs, machine)
    work = 1e6 * 1e-3 + slices * 1.3 + merges * 3.2
    path = max(s.item.count for s in tasks if isinstance(s.item, Slice)) * 1e-3 + 1.3
    depth = math.ceil(math.log2(slices / 2))
    moved = 1e6 * 4.0 * 256**2 + (slices + 4 * merges) * 3e8
    assert least == pytest.approx(max(work / workers, path + depth * 3.2, moved / 1e10), rel=0.02)
