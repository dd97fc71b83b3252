"""Folding and merging: the sums are those of all particles, made once, and again only where they are lost."""

from __future__ import annotations

import pickle
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dcryo.dataflow import accumulate as module
from dcryo.dataflow.accumulate import (
    Fold,
    Handle,
    MergeTask,
    SliceTask,
    accumulate_slice,
    assign_halves,
    get_equations,
    merge_partials,
    put_equations,
    radial_tables,
    rows_of,
    run_plan,
)
from dcryo.dataflow.commits import Commits
from dcryo.dataflow.executor import Listen, SerialExecutor, Task
from dcryo.dataflow.plan import Merge, Plan, make_merges, make_slices
from dcryo.errors import DamagedStoreError, InputError
from dcryo.imaging.noise import white
from dcryo.imaging.particles import Optics, Particles
from dcryo.io import particle_writer
from dcryo.io.chunks import CheckedStore
from dcryo.io.location import sizes
from dcryo.io.particle_store import ParticleStore, create_particles, open_particles
from dcryo.methods.progress import Silent
from dcryo.operators.normal import Accumulator, NormalEquations
from dcryo.operators.views import make_views

BOX, COUNT = 12, 90
QUIET = Silent()


def silent(key: str) -> Silent:
    return QUIET


def table(seed: int = 0, **more: Any) -> Particles:
    """Random views with CTF and shifts; half sets of 47 and 43, the rows of the user's table shuffled."""
    rng = np.random.default_rng(seed)
    given: dict[str, Any] = {
        "rotation": Rotation.random(COUNT, random_state=seed).as_quat(),
        "shift": rng.uniform(-3, 3, (COUNT, 2)),
        "defocus": np.array([6000.0, 5500.0, 0.0]) + rng.uniform(0, 3, (COUNT, 1)) * [0, 0, 1],
        "half": np.repeat(np.array([1, 2], np.int8), [47, 43]),
        "row": rng.permutation(COUNT),
        "optics": (Optics(pixel_size=2.0),),
    }
    return Particles.empty_columns(COUNT, **(given | more))


def pictures(seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, 1]).standard_normal((COUNT, BOX, BOX)).astype(np.float32)


def write(
    path: Path,
    particles: Particles,
    *,
    chunk: int = 7,
    shard: int = 14,
    noise: np.ndarray | None = None,
    overwrite: bool = False,
) -> ParticleStore:
    """A store of random images whose chunks are as small as the test wants them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(particle_writer, "layout", lambda count, box, itemsize: (chunk, shard))
        with create_particles(path, particles, BOX, 2.0, provenance={}, overwrite=overwrite) as writer:
            writer.append(pictures())
            if noise is not None:
                writer.set_noise(noise)
    return open_particles(path)


def fold_of(store: ParticleStore, commits: Path, **changes: Any) -> Fold:
    known = Fold(
        particles=store.url, commits=str(commits), n=BOX, scale=1.0, batch=16, halves="auto", symmetry="C1",
        noise="auto", basis="voxel", accuracy="default", threads=1,
    )  # fmt: skip
    return replace(known, **changes)


def plan_of(store: ParticleStore, size: int = 14, halves: str = "auto") -> Plan:
    slices = make_slices(assign_halves(store, halves), size, store.chunk, store.shard)
    merges, roots = make_merges(slices)
    return Plan(
        box=BOX, n=BOX, batch=16, slices=slices, merges=merges, roots=roots,
        task_memory=0, solve_memory=0, disk=0, read_bytes=0,
    )  # fmt: skip


def sums(plan: Plan, fold: Fold) -> dict[int, NormalEquations]:
    return {half: get_equations(Commits(fold.commits), root) for half, root in plan.roots.items()}


def assert_same_bits(a: NormalEquations, b: NormalEquations) -> None:
    np.testing.assert_array_equal(a.rhs, b.rhs)
    np.testing.assert_array_equal(a.spectrum, b.spectrum)
    assert (a.energy, a.count) == (b.energy, b.count)


def assert_close(a: NormalEquations, b: NormalEquations, tolerance: float) -> None:
    """Differences relative to the largest number: both sums round at that size."""
    for one, two in ((a.rhs, b.rhs), (a.spectrum, b.spectrum)):
        assert np.abs(one - two).max() <= tolerance * np.abs(two).max()
    assert a.energy == pytest.approx(b.energy, rel=tolerance)
    assert a.count == b.count


def all_at_once(store: ParticleStore, rows: np.ndarray, **changes: Any) -> NormalEquations:
    """The sums of these rows from images in memory: no slices, no batches, no commits."""
    fold = fold_of(store, Path("unused"), **changes)
    accumulator = Accumulator(BOX, radial_tables(store, fold), threads=1)
    accumulator.add(
        store.images(0, store.count)[rows], make_views(store.particles().take(rows), store.pixel_size)
    )
    return accumulator.finish()


ROUNDING = 1e-5
"""float32 sums in two orders differ by some sqrt(90) units in the last place (6e-8), and taking out the
window multiplies that by up to 10 at the faces of the box."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ParticleStore:
    return write(tmp_path_factory.mktemp("accumulate") / "particles.zarr", table())


def test_slices_and_merges_make_the_sums_of_all_particles(store: ParticleStore, tmp_path: Path) -> None:
    plan, fold = plan_of(store), fold_of(store, tmp_path / "sums")
    handles = run_plan(plan, fold, SerialExecutor(), silent)
    assert [h.key for h in handles] == [part.key for part in plan.order()]
    assert not any(h.resumed for h in handles)
    counts = {h.key: h.count for h in handles}
    assert [counts[s.key] for s in plan.slices] == [s.count for s in plan.slices]
    assert [s.half for s in plan.slices] == [1, 1, 1, 2, 2, 2]
    for half, found in sums(plan, fold).items():
        assert_close(found, all_at_once(store, np.flatnonzero(store.halves() == half)), ROUNDING)
    assert Commits(fold.commits).keys() == sorted(plan.roots.values())  # everything below is gone


@pytest.mark.parametrize(("rule", "size"), [("even-odd", 20), ("none", 30)])
def test_other_half_sets_sum_the_particles_they_name(
    store: ParticleStore, tmp_path: Path, rule: str, size: int
) -> None:
    order = store.particles().row  # the user's order, not the store's
    wanted = {0: np.arange(COUNT)} if rule == "none" else {
        1: np.flatnonzero(order % 2 == 0), 2: np.flatnonzero(order % 2 == 1)
    }  # fmt: skip
    plan, fold = plan_of(store, size, rule), fold_of(store, tmp_path / "sums", halves=rule)
    assert plan.roots.keys() == wanted.keys()
    run_plan(plan, fold, SerialExecutor(), silent)
    for half, found in sums(plan, fold).items():
        assert_close(found, all_at_once(store, wanted[half]), ROUNDING)


def test_another_rule_for_half_sets_is_refused(store: ParticleStore) -> None:
    with pytest.raises(InputError, match=r"--halves 'odd' is not known; choose auto, even-odd or none"):
        assign_halves(store, "odd")


def test_bits_do_not_depend_on_the_chunks_of_the_store(store: ParticleStore, tmp_path: Path) -> None:
    slices = [s for s in make_slices(store.halves(), 1000, store.chunk, store.shard) if s.half == 2]
    found = []
    for chunk, shard in ((7, 14), (1, 5), (10, 10), (64, 128)):
        other = write(tmp_path / f"{chunk}.zarr", table(), chunk=chunk, shard=shard)
        assert other.chunk == chunk
        fold = fold_of(other, tmp_path / f"sums{chunk}")
        accumulate_slice(SliceTask(fold, slices[0]), QUIET)
        found.append(get_equations(Commits(fold.commits), slices[0].key))
    for other in found[1:]:
        assert_same_bits(found[0], other)


class Reads:
    """Every chunk that is decoded, and the bytes of every object that is fetched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: Counter[int] = Counter()
        self.bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        images, checked = ParticleStore.images, CheckedStore._checked

        def counted(store: ParticleStore, start: int, stop: int) -> Any:
            self.rows.update(range(start, stop))
            return images(store, start, stop)

        def weighed(store: CheckedStore, key: str, buffer: Any) -> Any:
            if "/c" in key:
                self.bytes[key] += len(buffer)
                self.calls[key] += 1
            return checked(store, key, buffer)

        monkeypatch.setattr(ParticleStore, "images", counted)
        monkeypatch.setattr(CheckedStore, "_checked", weighed)

    def clear(self) -> None:
        self.rows.clear()
        self.bytes.clear()
        self.calls.clear()


def test_every_image_is_decoded_once(
    store: ParticleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, fold = plan_of(store, 14), fold_of(store, tmp_path / "sums", batch=5)  # batches share chunks of 7
    reads = Reads(monkeypatch)
    handles = run_plan(plan, fold, SerialExecutor(), silent)
    meeting = 47 // 7  # the one chunk in which the half sets meet is decoded for both
    shared = {row for row in range(COUNT) if row // 7 == meeting}
    assert reads.rows == Counter({row: 2 if row in shared else 1 for row in range(COUNT)})
    stored = {key: size for key, size in sizes(store.url).items() if key.startswith("image/c")}
    fetched = sum(size for key, size in reads.bytes.items() if key.startswith("image/c"))
    chunk = 7 * BOX * BOX * 4 + 4
    # The chunk of both, and the index of a shard (16 bytes a chunk, and a checksum) for every chunk of it.
    indices = sum((16 * 2 + 4) * reads.calls[key] for key in stored)
    assert sum(stored.values()) <= fetched + chunk <= sum(stored.values()) + 2 * chunk + indices
    assert sum(h.bytes_read for h in handles) == pytest.approx(sum(reads.bytes.values()), rel=0.02)


def test_the_table_is_read_once_a_slice(
    store: ParticleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A column comes in chunks of 65,536 rows: fetched for every batch, they are half as large as the images.
    part = make_slices(store.halves(), 1000, store.chunk, store.shard)[0]
    fold = fold_of(store, tmp_path / "sums", batch=5)
    reads = Reads(monkeypatch)
    accumulate_slice(SliceTask(fold, part), QUIET)
    columns = {key: calls for key, calls in reads.calls.items() if not key.startswith(("image/", "half/"))}
    assert "rotation/c/0/0" in columns
    assert set(columns.values()) == {1}, columns


def test_handles_say_where_the_time_went(
    store: ParticleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that goes on where a batch is folded, and where a sum is committed."""
    now = [0.0]

    def slow(original: Any, seconds: float) -> Any:
        def call(*args: Any) -> Any:
            now[0] += seconds
            return original(*args)

        return call

    part = make_slices(store.halves(), 1000, store.chunk, store.shard)[0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(Accumulator, "add", slow(Accumulator.add, 10))
    monkeypatch.setattr(Commits, "put", slow(Commits.put, 1000))
    handle = accumulate_slice(SliceTask(fold_of(store, tmp_path / "sums", batch=5), part), QUIET)
    computed = 10 * -(-part.count // 5)
    assert (handle.computed, handle.waited, handle.seconds) == (computed, 0, 1000 + computed)


def test_tasks_and_handles_are_small_and_travel(store: ParticleStore, tmp_path: Path) -> None:
    plan, fold = plan_of(store), fold_of(store, tmp_path / "sums")
    task = SliceTask(fold, plan.slices[0])
    handle = accumulate_slice(pickle.loads(pickle.dumps(task)), QUIET)
    assert handle.bytes_read > 0
    for item in (task, handle, MergeTask(fold.commits, plan.merges[0])):
        assert len(pickle.dumps(item)) < 2000
        assert pickle.loads(pickle.dumps(item)) == item


def test_a_committed_slice_is_not_folded_again(store: ParticleStore, tmp_path: Path) -> None:
    task = SliceTask(fold_of(store, tmp_path / "sums"), plan_of(store).slices[0])
    first, second = accumulate_slice(task, QUIET), accumulate_slice(task, QUIET)
    assert not first.resumed
    assert second == Handle(first.key, first.count, 0.0, 0, True, second.peak_rss)


# --- interruption


class Interrupted(Exception):
    pass


class StopAfter(SerialExecutor):
    """Dies before the task after ``count`` tasks."""

    def __init__(self, count: int) -> None:
        self.left = count

    def run(
        self, tasks: Sequence[Task], listen: Listen, done: Callable[[Any], Any] | None = None
    ) -> list[Any]:
        def limited(task: Task) -> Task:
            def call(item: Any, progress: Any) -> Any:
                if self.left == 0:
                    raise Interrupted
                self.left -= 1
                return task.function(item, progress)

            return replace(task, function=call)

        return super().run([limited(task) for task in tasks], listen, done)


@pytest.fixture(scope="module")
def undisturbed(store: ParticleStore, tmp_path_factory: pytest.TempPathFactory) -> dict[int, NormalEquations]:
    plan, fold = plan_of(store), fold_of(store, tmp_path_factory.mktemp("undisturbed") / "sums")
    run_plan(plan, fold, SerialExecutor(), silent)
    return sums(plan, fold)


def test_a_run_resumes_wherever_it_stopped(
    store: ParticleStore, tmp_path: Path, undisturbed: dict[int, NormalEquations]
) -> None:
    plan = plan_of(store)
    slices = {s.key for s in plan.slices}
    order = [h.key for h in run_plan(plan, fold_of(store, tmp_path / "whole"), SerialExecutor(), silent)]
    assert len(order) == len(plan.slices) + len(plan.merges)
    for stop in range(len(order)):
        fold = fold_of(store, tmp_path / f"sums{stop}")
        with pytest.raises(Interrupted):
            run_plan(plan, fold, StopAfter(stop), silent)
        before = Commits(fold.commits).keys()
        handles = run_plan(plan, fold, SerialExecutor(), silent)
        # What was committed is neither folded nor merged again, also where a merge has removed it since.
        assert sorted(h.key for h in handles if not h.resumed) == sorted(order[stop:])
        assert {h.key for h in handles if h.resumed} <= set(before)
        assert {h.key for h in handles if h.bytes_read} == slices & set(order[stop:])
        for half, found in sums(plan, fold).items():
            assert_same_bits(found, undisturbed[half])
        assert Commits(fold.commits).keys() == sorted(plan.roots.values())


def test_a_run_that_is_done_does_nothing(store: ParticleStore, tmp_path: Path) -> None:
    plan, fold = plan_of(store), fold_of(store, tmp_path / "sums")
    run_plan(plan, fold, SerialExecutor(), silent)
    markers = {key: Commits(fold.commits)._read_marker(key) for key in Commits(fold.commits).keys()}
    handles = run_plan(plan, fold, SerialExecutor(), silent)
    assert all(h.resumed and not h.bytes_read for h in handles)
    assert {key: Commits(fold.commits)._read_marker(key) for key in markers} == markers


class Backwards(SerialExecutor):
    """Runs the slices from the last to the first, then the merges."""

    def run(
        self, tasks: Sequence[Task], listen: Listen, done: Callable[[Any], Any] | None = None
    ) -> list[Any]:
        order = [t for t in tasks if not t.urgent][::-1] + [t for t in tasks if t.urgent]
        results = dict(zip([t.key for t in order], super().run(order, listen, done), strict=True))
        return [results[t.key] for t in tasks]


def test_bits_do_not_depend_on_the_order_of_the_tasks(
    store: ParticleStore, tmp_path: Path, undisturbed: dict[int, NormalEquations]
) -> None:
    plan, fold = plan_of(store), fold_of(store, tmp_path / "sums")
    told: list[str] = []
    handles = run_plan(plan, fold, Backwards(), silent, lambda handle: told.append(handle.key))
    assert [h.key for h in handles] == [part.key for part in plan.order()]
    assert told[: len(plan.slices)] == [s.key for s in plan.slices][::-1]
    for half, found in sums(plan, fold).items():
        assert_same_bits(found, undisturbed[half])


def small(value: float) -> NormalEquations:
    zeros = NormalEquations.zeros(4)
    return NormalEquations(zeros.rhs + np.float32(value), zeros.spectrum + np.float32(value), value, 1)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Commits, MergeTask]:
    commits = Commits(tmp_path / "sums")
    put_equations(commits, "a", small(1))
    put_equations(commits, "b", small(2))
    return commits, MergeTask(commits.url, Merge("ab", "a", "b"))


def test_merging_adds_and_then_removes(pair: tuple[Commits, MergeTask]) -> None:
    commits, task = pair
    handle = merge_partials(task, QUIET)
    assert (handle.key, handle.count, handle.resumed) == ("ab", 2, False)
    assert_same_bits(get_equations(commits, "ab"), replace(small(3), count=2))
    assert commits.keys() == ["ab"]
    assert len(list(Path(commits.url, "data").iterdir())) == 1


def test_nothing_is_removed_before_the_sum_is_committed(
    pair: tuple[Commits, MergeTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    commits, task = pair

    def full(*args: Any) -> bool:
        raise InputError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Commits, "put", full)
        with pytest.raises(InputError, match="no space left"):
            merge_partials(task, QUIET)
    assert commits.keys() == ["a", "b"]
    assert merge_partials(task, QUIET).count == 2


def spoil(commits: Commits, key: str) -> Path:
    """Flip one bit in the middle of the right-hand side of a commit."""
    attempt = commits._read_marker(key)["attempt"]
    path = Path(commits.url, "data", attempt, "rhs.npy")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return Path(commits._marker(key))


def test_nothing_is_removed_before_the_sum_is_read_back(
    pair: tuple[Commits, MergeTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    commits, task = pair
    put = Commits.put

    def put_badly(self: Commits, key: str, *rest: Any) -> bool:
        won = put(self, key, *rest)
        spoil(self, key)
        return won

    with monkeypatch.context() as patch:
        patch.setattr(Commits, "put", put_badly)
        with pytest.raises(DamagedStoreError, match="commit ab is damaged"):
            merge_partials(task, QUIET)
    assert {"a", "b"} <= set(commits.keys())


def test_a_sum_of_an_earlier_attempt_is_read_back_as_well(pair: tuple[Commits, MergeTask]) -> None:
    # The process died after the sum was committed, before it was read back.
    commits, task = pair
    put_equations(commits, "ab", replace(small(3), count=2))
    marker = spoil(commits, "ab")
    with pytest.raises(DamagedStoreError, match="commit ab is damaged") as refused:
        merge_partials(task, QUIET)
    assert commits.keys() == ["a", "ab", "b"]
    assert str(marker) in str(refused.value)
    marker.unlink()
    assert merge_partials(task, QUIET).count == 2
    assert_same_bits(get_equations(commits, "ab"), replace(small(3), count=2))


@pytest.mark.parametrize("left", [("a", "b"), ("b",), ()])
def test_children_that_outlived_their_sum_are_removed(
    pair: tuple[Commits, MergeTask], left: tuple[str, ...]
) -> None:
    commits, task = pair
    put_equations(commits, "ab", replace(small(3), count=2))
    for key in {"a", "b"} - set(left):
        commits.delete(key)
    handle = merge_partials(task, QUIET)
    assert (handle.count, handle.resumed) == (2, True)
    assert commits.keys() == ["ab"]


def test_damaged_commit_is_named_and_its_slice_alone_is_folded_again(
    store: ParticleStore, tmp_path: Path, undisturbed: dict[int, NormalEquations]
) -> None:
    plan, fold = plan_of(store), fold_of(store, tmp_path / "sums")
    with pytest.raises(Interrupted):
        run_plan(plan, fold, StopAfter(2), silent)
    key, other = (s.key for s in plan.slices[:2])
    marker = spoil(Commits(fold.commits), key)
    with pytest.raises(DamagedStoreError, match=f"commit {key} is damaged.*delete .*{key}.json and run"):
        run_plan(plan, fold, SerialExecutor(), silent)
    marker.unlink()  # as the message says
    handles = run_plan(plan, fold, SerialExecutor(), silent)
    slices = {s.key for s in plan.slices}
    assert {h.key for h in handles if not h.resumed and h.key in slices} == slices - {other}
    for half, found in sums(plan, fold).items():
        assert_same_bits(found, undisturbed[half])


# --- what a fold does


def before(plan: Plan, key: str) -> list[str]:
    """What is committed when the task ``key`` begins."""
    alive: set[str] = set()
    for part in plan.order():
        if part.key == key:
            break
        alive.add(part.key)
        alive -= {part.left, part.right} if isinstance(part, Merge) else set()
    return sorted(alive)


def test_particle_without_pose_is_named_and_nothing_is_committed(tmp_path: Path) -> None:
    particles = table()
    particles.rotation[60] = np.nan  # in the second half set
    store = write(tmp_path / "p.zarr", particles)
    plan, fold = plan_of(store), fold_of(store, tmp_path / "sums")
    row = int(particles.row[60]) + 1
    with pytest.raises(InputError, match=rf"particle {row} \(of the table it came from\) has no pose"):
        run_plan(plan, fold, SerialExecutor(), silent)
    holder = next(s.key for s in plan.slices if s.start <= 60 < s.stop)
    assert Commits(fold.commits).keys() == before(plan, holder)


def test_rows_of_a_slice_are_those_of_its_half_set(store: ParticleStore, tmp_path: Path) -> None:
    for rule in ("auto", "even-odd", "none"):
        fold = fold_of(store, tmp_path, halves=rule)
        plan = plan_of(store, 10, rule)
        rows = [rows_of(store, SliceTask(fold, part)) for part in plan.slices]
        assert sorted(np.concatenate(rows)) == list(range(COUNT))
        halves = assign_halves(store, rule)
        for part, own in zip(plan.slices, rows, strict=True):
            assert set(halves[own]) == {part.half}
            assert len(own) == part.count


def one_sum(store: ParticleStore, folder: Path, **changes: Any) -> NormalEquations:
    part = make_slices(np.zeros(COUNT, np.int8), 1000, store.chunk, store.shard)[0]
    fold = fold_of(store, folder, halves="none", batch=1000, **changes)
    accumulate_slice(SliceTask(fold, part), QUIET)
    return get_equations(Commits(fold.commits), part.key)


def test_white_noise_of_variance_four_counts_a_quarter(store: ParticleStore, tmp_path: Path) -> None:
    louder = write(tmp_path / "p.zarr", table(), noise=white([4.0], BOX))
    plain = one_sum(store, tmp_path / "a")
    for rule in ("auto", "white"):
        found = one_sum(louder, tmp_path / rule, noise=rule)
        # a quarter of a float32 is exact
        np.testing.assert_array_equal(4 * found.rhs, plain.rhs)
        np.testing.assert_array_equal(4 * found.spectrum, plain.spectrum)
        assert 4 * found.energy == pytest.approx(plain.energy, rel=1e-12)


def test_white_is_the_mean_of_the_spectrum_over_frequencies(store: ParticleStore, tmp_path: Path) -> None:
    shells = np.arange(BOX // 2 + 1)
    spectrum = 1 + 3 * np.exp(-shells / 2)
    coloured = write(tmp_path / "p.zarr", table(), noise=spectrum[None])
    white_sum = one_sum(coloured, tmp_path / "white", noise="white")
    plain = one_sum(store, tmp_path / "plain")
    ratio = white_sum.energy / plain.energy
    assert np.abs(white_sum.rhs - ratio * plain.rhs).max() < ROUNDING * ratio * np.abs(plain.rhs).max()
    # Rings between the shells' midpoints have areas as k: the mean over the plane is weighted so.
    k, f = np.meshgrid(np.arange(-6, 7), np.arange(-6, 7))
    radius = np.hypot(k, f)
    mean = np.interp(radius[radius <= 6], shells, spectrum).mean()
    assert 1 / ratio == pytest.approx(mean, rel=0.1)
    found = one_sum(coloured, tmp_path / "auto")
    # "auto" is not a multiple of it: low frequencies count less.
    relation = np.vdot(found.rhs, white_sum.rhs) / np.linalg.norm(found.rhs) / np.linalg.norm(white_sum.rhs)
    assert relation < 0.99


def test_spectrum_with_a_hole_is_refused(tmp_path: Path) -> None:
    spectrum = white([1.0], BOX)
    spectrum[0, 3] = 0
    store = write(tmp_path / "p.zarr", table(), noise=spectrum)
    with pytest.raises(InputError, match=r"noise spectrum of optics group opticsGroup1 is not positive"):
        one_sum(store, tmp_path / "sums")


def test_symmetry_is_the_mean_over_equivalent_poses(store: ParticleStore, tmp_path: Path) -> None:
    found = one_sum(store, tmp_path / "c2", symmetry="C2")
    turned = Rotation.from_quat(table().rotation) * Rotation.from_euler("z", np.pi)  # A @ g
    other = write(tmp_path / "p.zarr", table(rotation=turned.as_quat()))
    one, two = one_sum(store, tmp_path / "a"), one_sum(other, tmp_path / "b")
    mean = NormalEquations(
        (one.rhs + two.rhs) / 2, (one.spectrum + two.spectrum) / 2, (one.energy + two.energy) / 2, COUNT
    )
    assert np.abs(one.rhs - two.rhs).max() > 0.1 * np.abs(one.rhs).max()  # they are not alike to begin with
    assert_close(found, mean, ROUNDING)


def test_a_store_that_was_replaced_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "p.zarr"
    first = one_sum(write(path, table()), tmp_path / "a")
    second = one_sum(write(path, table(), noise=white([4.0], BOX), overwrite=True), tmp_path / "b")
    np.testing.assert_array_equal(4 * second.rhs, first.rhs)


def test_lost_images_are_an_error(tmp_path: Path) -> None:
    store = write(tmp_path / "p.zarr", table())
    shutil.rmtree(tmp_path / "p.zarr" / "image" / "c" / "2")
    plan, fold = plan_of(store, 14), fold_of(store, tmp_path / "sums")
    with pytest.raises(DamagedStoreError, match=r"p\.zarr: the chunk image/c/2"):
        run_plan(plan, fold, SerialExecutor(), silent)
    assert Commits(fold.commits).keys() == before(plan, next(s.key for s in plan.slices if s.stop > 28))
