"""What a page reads of the course of a refinement, against poses that were put there."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from dcryo.geometry.rotations import euler_to_matrix, matrix_to_quaternion
from dcryo.io.run_store import RunStore, create_run
from dcryo.report import course as module
from dcryo.report.course import count_views, read_course
from dcryo.report.directions import COLUMNS, ROWS

COUNT = 50


def rotations(count: int = COUNT, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    angles = rng.uniform((-math.pi, 0, -math.pi), (math.pi, math.pi, math.pi), (count, 3))
    return matrix_to_quaternion(euler_to_matrix(*angles.T))


def poses(missing: int = 0, lost: int = 0) -> dict[str, np.ndarray]:
    """Poses of which the first have none, and some are lost."""
    rotation, shift = rotations(), np.zeros((COUNT, 2))
    rotation[:missing], shift[:missing] = np.nan, np.nan
    sigma = np.linspace(0.01, 0.02, COUNT)
    sigma[:missing] = np.nan
    flags = np.arange(COUNT) >= COUNT - lost
    return {
        "rotation": rotation, "shift": shift, "sigma_rotation": sigma, "sigma_shift": 10 * sigma,
        "lost": flags,
    }  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    return create_run(tmp_path / "run", "refine", {})


@pytest.mark.parametrize(
    ("rot", "tilt", "row", "column"),
    [(102, 62, 12, 56), (-178, 3, 0, 0), (0, 178, 35, 36), (179, 91, 18, 71)],
)
def test_views_are_counted_by_tilt_and_rot(rot: float, tilt: float, row: int, column: int) -> None:
    psi = np.linspace(0, 3, 4)
    matrix = euler_to_matrix(np.full(4, math.radians(rot)), np.full(4, math.radians(tilt)), psi)
    counts = count_views(matrix_to_quaternion(matrix))
    assert counts.shape == (ROWS, COLUMNS)
    assert counts[row, column] == 4 == counts.sum()


def test_views_along_the_poles_and_the_seam_are_counted() -> None:
    rot = np.array([0, math.pi, -math.pi, math.pi])
    tilt = np.array([0, 0, math.pi, math.pi / 2])
    assert count_views(matrix_to_quaternion(euler_to_matrix(rot, tilt, rot))).sum() == 4


def test_an_empty_run_has_no_course(run: RunStore) -> None:
    found = read_course(run)
    assert (found.iterations, found.curves, found.poses) == (None, None, None)
    assert (found.count, found.given, found.held, found.last_search) == (0, 0, (), None)
    assert math.isnan(found.side)


def test_the_poses_that_it_began_with(run: RunStore) -> None:
    run.write_poses(0, {name: poses(missing=8)[name] for name in ("rotation", "shift")})
    found = read_course(run)
    assert found.given == COUNT - 8
    assert found.poses is not None
    assert (found.poses.iteration, found.poses.count, found.poses.posed, found.poses.lost) == (
        0,
        COUNT,
        42,
        0,
    )
    assert found.poses.views.sum() == 42
    assert len(found.poses.turns) == len(found.poses.moves) == 0


@pytest.mark.parametrize("window", [65536, 7])
def test_the_last_poses_are_those_read(run: RunStore, monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    monkeypatch.setattr(module, "WINDOW", window)
    run.write_poses(0, poses())
    run.write_poses(1, poses(missing=3, lost=4))
    found = read_course(run).poses
    assert found is not None
    assert (found.iteration, found.posed, found.lost) == (1, COUNT - 3, 4)
    np.testing.assert_array_equal(found.views, count_views(rotations()[3:]))
    np.testing.assert_allclose(found.turns, np.linspace(0.01, 0.02, COUNT)[3:], rtol=1e-6)
    np.testing.assert_allclose(found.moves, 10 * found.turns, rtol=1e-6)


def test_fourier_pixels_become_angstrom(run: RunStore) -> None:
    run.write_table(
        "iterations",
        {"iteration": np.arange(1, 4), "cutoff": np.array([np.nan, 8, 16]), "searched": np.array([0, 50, 0])},
    )
    # half of what an iteration records is not there yet
    assert read_course(run).count == 0
    run.write_table("iteration_fsc", {"frequency": np.arange(20) / 160, "fsc": np.zeros((3, 20))})
    found = read_course(run)
    assert found.count == 3
    assert found.side == pytest.approx(160)
    np.testing.assert_allclose(found.looked, [np.nan, 20, 10])
    assert found.last_search == 2
