"""What a run keeps of the course of a refinement, finished or under way, as its page shows it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.geometry.rotations import quaternion_to_matrix
from dcryo.io.run_poses import ROWS as WINDOW
from dcryo.io.run_store import RunStore
from dcryo.report.directions import COLUMNS, ROWS

Float64 = NDArray[np.float64]
Table = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class LastPoses:
    """Poses of the last iteration that the run holds.

    iteration: its number, 0 for those it began with; count, posed, lost: particles, those with a pose, and
    those that are lost; views (ROWS, COLUMNS): histogram of viewing directions by tilt and rot; turns, moves:
    standard deviations of rotation [rad] and shift [Å] where they are known.
    """

    iteration: int
    count: int
    posed: int
    lost: int
    views: NDArray[np.int64]
    turns: Float64
    moves: Float64


@dataclass(frozen=True)
class Course:
    """Tables of the iterations, None before the first has finished, and the last poses, None before any.

    given: particles that had a pose to begin with; held: iterations whose poses the run still has.
    """

    iterations: Table | None
    curves: Table | None
    poses: LastPoses | None
    given: int
    held: tuple[int, ...]

    @property
    def count(self) -> int:
        """Iterations that have finished."""
        return 0 if self.iterations is None else len(self.iterations["iteration"])

    @property
    def side(self) -> float:
        """Side of the box in Å, by which Fourier pixels become frequencies."""
        return math.nan if self.curves is None else 1 / float(self.curves["frequency"][1])

    def column(self, name: str) -> Float64:
        """A column of the iterations, which are there."""
        assert self.iterations is not None
        return np.asarray(self.iterations[name], np.float64)

    @property
    def looked(self) -> Float64:
        """Å that the poses of each iteration looked to, NaN where they were left as they are."""
        return self.side / self.column("cutoff")

    @property
    def last_search(self) -> int | None:
        """The last iteration that searched all rotations."""
        searched = np.flatnonzero(self.column("searched")) if self.count else np.zeros(0, np.intp)
        return int(self.column("iteration")[searched[-1]]) if len(searched) else None


def read_course(run: RunStore) -> Course:
    """The course of a refinement from its run; of one under way what is there."""
    known = set(run.tables())
    complete = {"iterations", "iteration_fsc"} <= known
    held = run.pose_iterations()
    given = 0
    if 0 in held:
        given = sum(
            int(np.isfinite(window["rotation"]).all(axis=1).sum())
            for window in _windows(run, 0, ("rotation",))
        )
    return Course(
        iterations=run.table("iterations") if complete else None,
        curves=run.table("iteration_fsc") if complete else None,
        poses=_last_poses(run, held[-1]) if held else None,
        given=given,
        held=tuple(held),
    )


def _last_poses(run: RunStore, iteration: int) -> LastPoses:
    record = run.pose_record(iteration)
    names = [n for n in ("rotation", "sigma_rotation", "sigma_shift", "lost") if n in record["columns"]]
    views = np.zeros((ROWS, COLUMNS), np.int64)
    posed = lost = 0
    sigmas: dict[str, list[Float64]] = {"sigma_rotation": [], "sigma_shift": []}
    for window in _windows(run, iteration, tuple(names)):
        rotation = window["rotation"]
        rotation = rotation[np.isfinite(rotation).all(axis=1)]
        posed += len(rotation)
        views += count_views(rotation)
        lost += int(window["lost"].sum()) if "lost" in window else 0
        for name, kept in sigmas.items():
            if name in window:
                kept.append(window[name][np.isfinite(window[name])].astype(np.float64))
    turns, moves = (np.concatenate([*kept, np.zeros(0)]) for kept in sigmas.values())
    return LastPoses(iteration, int(record["count"]), posed, lost, views, turns, moves)


def count_views(rotation: Float64) -> NDArray[np.int64]:
    """Histogram (ROWS, COLUMNS) by tilt and rot of the directions that poses (P, 4) are seen along."""
    x, y, z = quaternion_to_matrix(rotation)[:, 2].T
    row = np.minimum((np.arccos(np.clip(z, -1, 1)) * (ROWS / math.pi)).astype(int), ROWS - 1)
    column = ((np.arctan2(y, x) + math.pi) * (COLUMNS / (2 * math.pi))).astype(int) % COLUMNS
    counts = np.zeros((ROWS, COLUMNS), np.int64)
    np.add.at(counts, (row, column), 1)
    return counts


def _windows(run: RunStore, iteration: int, names: tuple[str, ...]) -> Iterator[Table]:
    """Columns of an iteration, some tens of thousands of rows at a time."""
    count = int(run.pose_record(iteration)["count"])
    for start in range(0, count, WINDOW):
        yield run.poses(iteration, names, start, min(start + WINDOW, count))
