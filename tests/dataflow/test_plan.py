"""The plan: every particle once, fixed merges, a digest of what decides bits, and refusals with a remedy."""

from __future__ import annotations

import math
import os
import random
import re
from collections import Counter, namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dcryo.dataflow import plan as module
from dcryo.dataflow.plan import (
    COMMIT_PER_VOXEL,
    COMMIT_RATIO,
    COMPUTE_PER_PIXEL,
    Merge,
    Plan,
    Slice,
    available_memory,
    batch_size,
    check_halves,
    check_resources,
    in_order,
    make_merges,
    make_slices,
    partials_at_once,
    slice_particles,
)
from dcryo.errors import InputError, PlanError
from dcryo.operators.compiled import blocks


def sorted_halves(first: int, second: int) -> NDArray[np.int8]:
    return np.repeat(np.array([1, 2], np.int8), [first, second])


def rows(halves: NDArray[np.int8], part: Slice) -> NDArray[np.intp]:
    return part.start + np.flatnonzero(halves[part.start : part.stop] == part.half)


half_sets = st.one_of(
    st.builds(sorted_halves, st.integers(1, 400), st.integers(1, 400)),
    st.builds(lambda count: np.zeros(count, np.int8), st.integers(1, 800)),
    # --halves even-odd: scattered over the store
    st.builds(lambda count: (np.arange(count) % 2 + 1).astype(np.int8), st.integers(2, 800)),
    st.builds(
        lambda count, seed: np.r_[np.random.default_rng(seed).integers(1, 3, count), [1, 2]].astype(np.int8),
        st.integers(0, 500),
        st.integers(0, 9),
    ),
)


@given(halves=half_sets, size=st.integers(1, 300), chunk=st.integers(1, 60), shard=st.integers(1, 5))
def test_slices_hold_every_particle_once_and_never_two_half_sets(
    halves: NDArray[np.int8], size: int, chunk: int, shard: int
) -> None:
    slices = make_slices(halves, size, chunk, chunk * shard)
    taken = np.concatenate([rows(halves, part) for part in slices])
    assert sorted(taken) == list(range(len(halves)))
    assert len({part.key for part in slices}) == len(slices)
    for part in slices:
        assert part.count == len(rows(halves, part)) > 0
    assert list(slices) == sorted(slices, key=lambda part: (part.half, part.start))


@given(halves=half_sets, size=st.integers(1, 300), chunk=st.integers(1, 60), shard=st.integers(1, 5))
def test_slices_end_on_whole_chunks_and_on_whole_shards_where_they_hold_several(
    halves: NDArray[np.int8], size: int, chunk: int, shard: int
) -> None:
    unit = chunk * shard if size >= chunk * shard else chunk
    for half in set(halves.tolist()):
        own = np.flatnonzero(halves == half)
        ends = [int(own[0]), int(own[-1]) + 1]
        for part in make_slices(halves, size, chunk, chunk * shard):
            if part.half == half:
                assert part.start % unit == 0 or part.start in ends
                assert part.stop % unit == 0 or part.stop in ends


@given(
    first=st.integers(1, 500), second=st.integers(1, 500), size=st.integers(1, 300), chunk=st.integers(1, 60)
)
def test_slices_are_about_as_large_as_wished(first: int, second: int, size: int, chunk: int) -> None:
    shard = 4 * chunk
    unit = shard if size >= shard else chunk
    slices = make_slices(sorted_halves(first, second), size, chunk, shard)
    # Rounded up to a unit; the last takes a remainder of less than half a slice as well.
    assert max(part.count for part in slices) <= 1.5 * (size + unit)
    for half in (1, 2):
        counts = [part.count for part in slices if part.half == half]
        assert len(counts) == 1 or counts[-1] >= max(unit, size) // 2


def test_slices_of_a_known_store() -> None:
    # Rows 0..99 and 100..229 in chunks of 20: the half sets meet on a chunk's edge.
    assert [(p.half, p.start, p.stop) for p in make_slices(sorted_halves(100, 130), 40, 20, 80)] == [
        (1, 0, 40),
        (1, 40, 80),
        (1, 80, 100),
        (2, 100, 140),
        (2, 140, 180),
        (2, 180, 230),  # 220 to 230 would be less than half a slice
    ]
    # ... and inside the chunk 80..99: the second half set is back on whole chunks after its first slice.
    assert [(p.half, p.start, p.stop) for p in make_slices(sorted_halves(90, 90), 40, 20, 80)] == [
        (1, 0, 40),
        (1, 40, 90),
        (2, 90, 120),
        (2, 120, 160),
        (2, 160, 180),
    ]


def test_a_scattered_half_set_makes_slices_of_the_wished_number_of_particles() -> None:
    halves = (np.arange(4000) % 2 + 1).astype(np.int8)
    slices = make_slices(halves, 500, 10, 100)
    assert [part.count for part in slices] == [500] * 8
    assert [part.stop for part in slices[:4]] == [1000, 2000, 3000, 3999]


@pytest.mark.parametrize("present", [(1,), (2,), (0, 1), (0, 1, 2), (0, 2)])
def test_half_sets_that_make_no_pair_are_refused_with_the_remedy(present: tuple[int, ...]) -> None:
    halves = np.repeat(np.array(present, np.int8), 10)
    with pytest.raises(InputError, match=r"^p\.zarr: .*both 1 and 2 .*--halves none.*--halves even-odd"):
        check_halves(halves, "p.zarr")


def test_merges_pair_neighbours_level_by_level() -> None:
    slices = [Slice(f"s{i}", 1, i, i + 1, 1) for i in range(5)] + [Slice("t0", 2, 5, 6, 1)]
    merges, roots = make_merges(slices)
    assert merges == (
        Merge("half1-sum1-00000", "s0", "s1"),
        Merge("half1-sum1-00001", "s2", "s3"),
        Merge("half1-sum2-00000", "half1-sum1-00000", "half1-sum1-00001"),
        Merge("half1-sum3-00000", "half1-sum2-00000", "s4"),
    )
    assert roots == {1: "half1-sum3-00000", 2: "t0"}


@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=2))
def test_merges_are_one_tree_per_half_set(counts: list[int]) -> None:
    slices = [Slice(f"h{half}s{i}", half, i, i + 1, 1) for half, n in enumerate(counts, 1) for i in range(n)]
    merges, roots = make_merges(slices)
    there = {part.key for part in slices}
    used: Counter[str] = Counter()
    half_of = {part.key: part.half for part in slices}
    for merge in merges:  # children first
        assert {merge.left, merge.right} <= there
        assert half_of[merge.left] == half_of[merge.right]
        half_of[merge.key] = half_of[merge.left]
        used.update([merge.left, merge.right])
        there.add(merge.key)
    # Everything goes up exactly once, except the roots.
    assert all(used[key] == (0 if key in roots.values() else 1) for key in there)
    assert {half: half_of[key] for half, key in roots.items()} == {half: half for half in roots}
    assert len(merges) == sum(n - 1 for n in counts)


def example(**changes: object) -> Plan:
    slices = make_slices(sorted_halves(200, 200), 50, 10, 50)
    merges, roots = make_merges(slices)
    known = Plan(
        box=64, n=64, batch=256, slices=slices, merges=merges, roots=roots,
        task_memory=8 * 10**9, solve_memory=10**9, disk=10**9, read_bytes=400 * 64 * 64 * 4,
    )  # fmt: skip
    return replace(known, **changes)  # type: ignore[arg-type]


def test_digest_is_of_what_decides_the_bits() -> None:
    known = example().digest
    assert known == example().digest
    fewer = make_slices(sorted_halves(200, 200), 100, 10, 50)
    moved = make_slices(sorted_halves(199, 201), 50, 10, 50)
    swapped = (Merge(m.key, m.right, m.left) for m in example().merges)
    others = [
        example(slices=fewer), example(slices=moved), example(merges=tuple(swapped)), example(batch=128),
        example(n=32), example(box=60), example(roots={1: "half1-sum1-00000", 2: "half2-sum1-00000"}),
    ]  # fmt: skip
    assert len({known, *(other.digest for other in others)}) == 1 + len(others)


def test_digest_does_not_depend_on_what_it_costs() -> None:
    known = example().digest
    for name in ("task_memory", "solve_memory", "disk", "read_bytes"):
        assert example(**{name: 12345}).digest == known


def test_children_are_those_of_the_merges() -> None:
    plan = example()
    assert plan.children("half1-sum1-00001") == (plan.slices[2].key, plan.slices[3].key)
    assert plan.children(plan.slices[0].key) is None


@pytest.mark.parametrize("counts", [(4, 4), (1, 1), (7, 3), (64, 64), (5, 0)])
def test_order_merges_what_it_can_and_few_partials_exist(counts: tuple[int, int]) -> None:
    halves = sorted_halves(50 * counts[0], 50 * counts[1])
    slices = make_slices(halves, 50, 10, 50)
    merges, roots = make_merges(slices)
    parts = list(in_order(slices, merges))
    assert [p.key for p in parts if isinstance(p, Slice)] == [s.key for s in slices]
    assert sorted(p.key for p in parts if isinstance(p, Merge)) == sorted(m.key for m in merges)
    alive: set[str] = set()
    most = 0
    for part in parts:
        if isinstance(part, Merge):
            assert {part.left, part.right} <= alive
        else:  # no slice begins while two partials wait to be merged
            assert not any({m.left, m.right} <= alive for m in merges)
        alive.add(part.key)
        most = max(most, len(alive))
        if isinstance(part, Merge):
            alive -= {part.left, part.right}
    assert alive == set(roots.values())
    assert partials_at_once(slices, merges) == most
    assert most <= math.log2(len(slices)) + 3


@settings(max_examples=60)
@given(count=st.integers(1, 40), tasks=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_partials_of_tasks_side_by_side_stay_within_the_bound(count: int, tasks: int, seed: int) -> None:
    """Tasks begin in the plan's order as their needs allow, merges first, and end in any order."""
    slices = make_slices(np.zeros(50 * count, np.int8), 50, 10, 50)
    merges, _ = make_merges(slices)
    rng = random.Random(seed)
    waiting = list(in_order(slices, merges))
    running: list[Slice | Merge] = []
    alive: set[str] = set()
    done: set[str] = set()
    most = 0
    while waiting or running:
        ready = [p for p in waiting if isinstance(p, Slice) or {p.left, p.right} <= done]
        ready.sort(key=lambda p: isinstance(p, Slice))
        for part in ready[: tasks - len(running)]:
            waiting.remove(part)
            running.append(part)
        part = running.pop(rng.randrange(len(running)))
        alive.add(part.key)
        done.add(part.key)
        # what is under way may have written its result already
        most = max(most, len(alive) + len(running))
        if isinstance(part, Merge):
            alive -= {part.left, part.right}
    assert most <= partials_at_once(slices, merges, tasks)


def test_description_says_what_is_read_and_taken() -> None:
    text = example().describe()
    for part in (
        "64²", "64³", "256 images", "half 1: 200 particles in 4 slices", "half 2: 200 particles in 4 slices",
        "merges: 6", "reads: 6.55 MB", "8 GB to accumulate", "1 GB to solve", "1 GB of disk",
    ):  # fmt: skip
        assert part in text, part


def fold_seconds(n: int, box: int, order: int) -> float:
    return COMPUTE_PER_PIXEL * n**2 * order + 2e-9 * box**2


@pytest.mark.parametrize(("n", "box", "order"), [(64, 64, 1), (128, 128, 4), (32, 128, 60), (256, 256, 1)])
def test_slice_is_the_smallest_that_outweighs_its_commit(n: int, box: int, order: int) -> None:
    count = slice_particles(n, box, order)
    wanted = COMMIT_RATIO * COMMIT_PER_VOXEL * n**3
    assert count * fold_seconds(n, box, order) >= wanted > (count - 1) * fold_seconds(n, box, order)


def test_batch_depends_on_the_box_alone_and_fits() -> None:
    assert batch_size(128) == 512
    assert batch_size(256) == 256
    assert batch_size(1024) == 256
    assert batch_size(16) == 1024


@given(count=st.integers(0, 1000), size=st.integers(1, 300))
def test_batches_cover_in_order(count: int, size: int) -> None:
    parts = blocks(count, size)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(count))
    assert all(part.stop - part.start == size for part in parts[:-1])


def test_memory_that_suffices_is_accepted(tmp_path: Path) -> None:
    check_resources(example(), str(tmp_path), task_memory=8 * 10**9, solve_memory=10**9)
    check_resources(example(task_memory=1, solve_memory=1, disk=1), str(tmp_path / "not" / "yet"))


def test_too_little_memory_is_refused_with_the_numbers_and_a_scale_that_fits() -> None:
    with pytest.raises(PlanError, match=r"8 GB of memory to accumulate, and 1 GB is allowed") as refused:
        check_resources(example(), None, task_memory=10**9, solve_memory=10**9)
    # Memory goes with the cube of the scale: 8 GB need a box half as large or less, but not much less.
    scale = re.search(r"--scale (\S+)", str(refused.value))
    assert scale is not None
    assert 2 <= float(scale[1]) <= 2.2
    with pytest.raises(PlanError, match=r"9 GB of memory to solve"):
        check_resources(example(solve_memory=9 * 10**9), None, task_memory=10**9, solve_memory=10**9)


def test_memory_of_a_task_that_shares_a_machine_is_refused_with_the_remedy() -> None:
    limits = {"task_memory": 7 * 10**9, "solve_memory": 10**12, "tasks": 4}
    with pytest.raises(
        PlanError, match=r"8 GB of memory to accumulate.*7 GB is allowed for each of 4 tasks.*fewer"
    ):
        check_resources(example(), None, **limits)  # type: ignore[arg-type]
    # the solve is one task, and is not told about workers
    with pytest.raises(PlanError) as refused:
        check_resources(example(), None, task_memory=10**12, solve_memory=10**8, tasks=4)
    assert "workers" not in str(refused.value)


def test_the_scale_that_is_advised_counts_from_the_pixels() -> None:
    # At --scale 2 it needs 8 times too much: half as many voxels along each axis are --scale 4.
    with pytest.raises(PlanError) as refused:
        check_resources(example(n=32), None, task_memory=10**9, solve_memory=10**9)
    scale = re.search(r"--scale (\S+)", str(refused.value))
    assert scale is not None
    assert 4 <= float(scale[1]) <= 4.4


def test_too_little_disk_is_refused_with_the_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = namedtuple("usage", "total used free")
    asked: list[Path] = []

    def disk_usage(folder: Path) -> usage:
        asked.append(Path(folder))
        return usage(10**12, 0, 5 * 10**8)

    monkeypatch.setattr(module.shutil, "disk_usage", disk_usage)
    with pytest.raises(PlanError, match=r"need 1 GB of disk.*has 500 MB free; put RUN on a larger disk"):
        check_resources(
            example(), str(tmp_path / "new" / "run.zarr"), task_memory=10**12, solve_memory=10**12
        )
    assert asked == [tmp_path]  # the folder that will hold the run and exists
    check_resources(
        example(), None, task_memory=10**12, solve_memory=10**12
    )  # an object store has no such limit


def test_available_memory_is_within_the_machine() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < available_memory() <= total


def test_available_memory_respects_the_cgroup(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/meminfo": "MemTotal: 16000 kB\nMemAvailable: 9000 kB\n",
        "/sys/fs/cgroup/memory.current": "1000000\n",
        "/sys/fs/cgroup/memory.max": "3000000\n",
    }
    monkeypatch.setattr(module.Path, "read_text", lambda self: files[str(self)])
    assert available_memory() == 2_000_000
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert available_memory() == 9000 * 1024
