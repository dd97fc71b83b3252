"""One pass of a refinement over the images of a slice: new poses, and the sums at those poses.

The images are read once: a batch gets its poses from the reference of its half set, and is folded with them
at once.  The poses are committed before the sum, so that a sum, and what it is merged into, always has them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcryo.dataflow.accumulate import (
    Fold,
    Handle,
    SliceTask,
    peak_rss,
    put_equations,
    radial_tables,
    rows_of,
)
from dcryo.dataflow.batches import read_batches
from dcryo.dataflow.commits import Commits
from dcryo.dataflow.plan import Plan, Slice
from dcryo.dataflow.pose_source import PoseSource, check_poses, find_poses
from dcryo.dataflow.pose_update import Batch, PoseRule, is_settled, update_unsettled
from dcryo.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix
from dcryo.geometry.so3 import so3_grid
from dcryo.geometry.symmetry import point_group
from dcryo.imaging.particles import Particles
from dcryo.io.particle_store import ParticleStore, open_particles
from dcryo.io.run_poses import ROWS
from dcryo.io.run_store import RunStore
from dcryo.metrics.pose import geodesic_distance_modulo, to_asymmetric_unit
from dcryo.metrics.rigid import Registration, half_spectrum, resampled
from dcryo.operators.normal import Accumulator, NormalEquations
from dcryo.operators.pose_search import PoseSearch
from dcryo.operators.poses import PoseModel
from dcryo.operators.projector import half_width, to_lattice
from dcryo.operators.slices import HalfGrid
from dcryo.operators.views import Radial, make_views
from dcryo.operators.window import window
from dcryo.solvers.pose_fit import posterior_points

if TYPE_CHECKING:
    from dcryo.methods.progress import Progress

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class PosePass:
    """How the slices of one iteration are treated: the same for all tasks.

    fold: its ``poses`` are those that the iteration begins with; rule: None leaves the poses as they are;
    references: URL of the commits that hold the references, under ``state``, as ``half1`` and ``half2``;
    frames: how the poses of each half set are moved afterwards, which keeps half maps in one frame.
    """

    fold: Fold
    rule: PoseRule | None
    references: str
    state: str
    frames: tuple[tuple[int, Registration], ...] = ()


@dataclass(frozen=True)
class PoseTask:
    """Refine and fold one slice."""

    of: PosePass
    slice: Slice


def pose_bytes(n: int, batch: int, accuracy: str) -> int:
    """Memory that new poses take beside the sums, in bytes: the reference's grid, and lattices of a batch.

    Of a batch there are the lattice, a copy at another grey scale, and one of what is searched.
    """
    lattice = 8 * batch * (2 * half_width(n) + 1) * (half_width(n) + 1)
    return 4 * int(np.prod([float(side) for side in HalfGrid(n, window(accuracy)).shape])) + 3 * lattice


def poses_key(slice_key: str) -> str:
    """Key of the commit with the poses of a slice."""
    return f"poses/{slice_key}"


def refine_slice(task: PoseTask, progress: Progress) -> Handle:
    """New poses and the sum of a slice, both committed."""
    fold, part = task.of.fold, task.slice
    commits = Commits(fold.commits)
    if commits.has(part.key):
        return Handle(part.key, part.count, 0.0, 0, True, peak_rss())
    began = time.perf_counter()
    progress.start(part.key, part.count)
    store = open_particles(fold.particles, verify=False)
    equations, columns, computed, waited = _refine(task, store, progress)
    commits.put(poses_key(part.key), columns)
    put_equations(commits, part.key, equations)
    return Handle(
        part.key, part.count, time.perf_counter() - began, store.bytes_read, False, peak_rss(), computed,
        waited,
    )  # fmt: skip


def _refine(
    task: PoseTask, store: ParticleStore, progress: Progress
) -> tuple[NormalEquations, Columns, float, float]:
    fold = task.of.fold
    assert fold.poses is not None
    poses = find_poses(fold.poses)
    group = point_group(fold.symmetry)
    radial = radial_tables(store, fold)
    windows: list[Columns] = []
    rows = rows_of(store, SliceTask(fold, task.slice))
    with read_batches(store, rows, fold.batch, "cpu", poses) as batches:
        began = time.perf_counter()
        # references are voxels, whatever the maps are made of
        update = _updater(task, radial_tables(store, replace(fold, basis="voxel")), store)
        accumulator = Accumulator(
            fold.n, radial, accuracy=fold.accuracy, symmetry=group if len(group) > 1 else None,
            threads=fold.threads,
        )  # fmt: skip
        share = 1
        settled, lost = _known(task, poses, rows)
        for particles, images in batches:
            seen = sum(len(w["turn"]) for w in windows)
            here = slice(seen, seen + len(images))
            posed, columns = update(particles, images, settled[here])
            # without a search nothing is found again
            columns["lost"] |= (lost[here] & settled[here]).astype(np.uint8)
            if task.of.rule is None:
                check_poses(poses, posed[0])
            share = len(posed)
            part = images if share == 1 else images / np.float32(share)
            for new in posed:
                views = make_views(new, store.pixel_size, fold.scale)
                accumulator.add(part, replace(views, measure=views.measure / share))
            windows.append(columns)
            progress.advance(len(images))
    columns = {name: np.concatenate([w[name] for w in windows]) for name in windows[0]}
    equations = accumulator.finish()
    # every image was added ``share`` times, a share of it each: the energy is quadratic
    equations = replace(equations, energy=equations.energy * share, count=equations.count // share)
    return equations, columns, time.perf_counter() - began - batches.waited, batches.waited


def _known(
    task: PoseTask, poses: PoseSource, rows: NDArray[np.intp]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of the rows no search looks at, and which were lost before."""
    rule = task.of.rule
    search = None if rule is None else rule.search
    settled, lost = np.full(len(rows), search is None), np.zeros(len(rows), np.bool_)
    if poses.iteration == 0:
        return settled, lost
    names, stop = ("turn", "lost"), int(rows[-1]) + 1
    before = RunStore(poses.run).poses(poses.iteration, names, int(rows[0]), stop)
    lost = before["lost"][rows - rows[0]] > 0
    if search is not None and search.settled > 0:
        settled = is_settled(before, search)[rows - rows[0]]
    return settled, lost


Update = Callable[[Particles, Float32, NDArray[np.bool_]], tuple[list[Particles], Columns]]
"""What gives a batch its poses: the particles at those they are folded at, and the columns of the run."""


def _updater(task: PoseTask, radial: Radial, store: ParticleStore) -> Update:
    """What gives a batch its new poses, and the columns that go into the run."""
    fold, rule = task.of.fold, task.of.rule
    if rule is None:
        return _unchanged
    group = point_group(fold.symmetry)
    reference = Commits(task.of.references).get(task.of.state)[0][f"half{task.slice.half}"]
    volume = resampled(half_spectrum(reference), len(reference), fold.n)
    accuracy = "accurate" if fold.accuracy == "reference" else fold.accuracy
    model = PoseModel(volume, accuracy, fold.threads)
    search = None
    if rule.search is not None:
        grid = in_asymmetric_unit(so3_grid(spacing=rule.search.spacing), group)
        search = PoseSearch(model, grid, rule.search.radius, rule.search.spacing, fold.threads)
    frame = dict(task.of.frames).get(task.slice.half)

    def update(
        particles: Particles, images: Float32, settled: NDArray[np.bool_]
    ) -> tuple[list[Particles], Columns]:
        pixel = np.array([o.pixel_size for o in particles.optics])[np.asarray(particles.optics_group)]
        before = quaternion_to_matrix(particles.rotation)
        moved = np.asarray(particles.shift, np.float64) / pixel[:, None]
        bare = replace(
            particles, rotation=np.tile([0.0, 0, 0, 1], (len(particles), 1)), shift=np.zeros_like(moved)
        )
        views = make_views(bare, store.pixel_size, fold.scale)
        batch = Batch(
            to_lattice(images, fold.n, fold.threads), views, radial, store.box, before, moved, group
        )
        new = update_unsettled(model, search, batch, rule, settled)

        def placed(rotation: Float64, shift: Float64) -> tuple[Float64, Float64]:
            """Poses as they are stored: in the common frame, shifts in Å, in the asymmetric unit."""
            turned, moved = rotation, shift * pixel[:, None]
            if frame is not None:
                turned, moved = frame.apply_to_poses(turned, moved, store.pixel_size * fold.scale)
            return (to_asymmetric_unit(turned, group) if len(group) > 1 else turned), moved

        rotation, shift = placed(new.rotation, new.shift)
        columns = {
            "rotation": matrix_to_quaternion(rotation),
            "shift": shift,
            "cost": new.cost.astype(np.float32),
            "turn": geodesic_distance_modulo(rotation, before, group).astype(np.float32),
            "sigma_rotation": new.sigma_rotation.astype(np.float32),
            "sigma_shift": (new.sigma_shift * pixel).astype(np.float32),
            "lost": new.lost.astype(np.uint8),
        }
        points = [(rotation, shift)]
        if rule.soft:
            points = [placed(*p) for p in posterior_points(new.rotation, new.shift, new.normal)]
        return [replace(particles, rotation=matrix_to_quaternion(r), shift=t) for r, t in points], columns

    return update


def _unchanged(
    particles: Particles, images: Float32, settled: NDArray[np.bool_]
) -> tuple[list[Particles], Columns]:
    """The poses as they are."""
    unknown = np.full(len(particles), np.nan, np.float32)
    return [particles], {
        "rotation": np.asarray(particles.rotation, np.float64),
        "shift": np.asarray(particles.shift, np.float64),
        "cost": unknown,
        "turn": np.zeros(len(particles), np.float32),
        "sigma_rotation": unknown,
        "sigma_shift": unknown,
        "lost": np.zeros(len(particles), np.uint8),
    }


def in_asymmetric_unit(grid: Float64, group: Float64) -> Float64:
    """The rotations of a grid that stand for their equivalents ``A g``: those nearest to the identity."""
    if len(group) == 1:
        return grid
    nearest = to_asymmetric_unit(grid, group)
    own: Float64 = grid[np.abs(nearest - grid).max(axis=(1, 2)) < 1e-9]
    return own


def gather_poses(run: RunStore, iteration: int, plan: Plan, of: PosePass, attrs: dict[str, Any]) -> None:
    """Write the poses of an iteration into the run from the commits of its slices; kept if it is there."""
    if iteration in run.pose_iterations():
        return
    store = open_particles(of.fold.particles, verify=False)
    with run.create_poses(iteration, store.count, attrs) as writer:
        for window in _windows(store, plan, of):
            writer.append(window)


def _windows(store: ParticleStore, plan: Plan, of: PosePass) -> Iterator[Columns]:
    """The rows of the store in order, some tens of thousands at a time; one slice of every half is held."""
    commits = Commits(of.fold.commits)
    held: dict[int, tuple[str, NDArray[np.intp], Columns]] = {}
    for start in range(0, store.count, ROWS):
        stop = min(start + ROWS, store.count)
        window: Columns = {}
        for part in plan.slices:
            if part.stop <= start or part.start >= stop:
                continue
            if held.get(part.half, ("",))[0] != part.key:
                rows = rows_of(store, SliceTask(of.fold, part))
                held[part.half] = part.key, rows, commits.get(poses_key(part.key))[0]
            _, rows, columns = held[part.half]
            first, last = np.searchsorted(rows, (start, stop))
            for name, values in columns.items():
                if name not in window:
                    window[name] = np.zeros((stop - start, *values.shape[1:]), values.dtype)
                window[name][rows[first:last] - start] = values[first:last]
        yield window
