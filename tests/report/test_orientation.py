"""Preferred orientation in words: spreads whose thin directions are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dcryo.geometry.rotations import matrix_to_quaternion, random_rotations
from dcryo.report.course import count_views
from dcryo.report.directions import COLUMNS, ROWS, grid_directions, solid_angles
from dcryo.report.orientation import find_orientations, orientation_caption, remedy, warning

EVEN = 1e6 * solid_angles(ROWS, COLUMNS)
BIN = math.radians(5)


def cap(axis: np.ndarray, width: float) -> np.ndarray:
    """Views spread evenly within ``width`` degrees of an axis, a million of them."""
    near = grid_directions(ROWS, COLUMNS) @ axis >= math.cos(math.radians(width))
    return EVEN * near * (EVEN.sum() / EVEN[near].sum())


def unit(x: float, y: float, z: float) -> np.ndarray:
    return np.array([x, y, z]) / math.hypot(x, y, z)


def test_even_views_are_not_preferred() -> None:
    found = find_orientations(EVEN)
    assert found is not None
    assert warning(found) is None
    assert remedy(found) is None
    assert found.thinnest == pytest.approx(1, rel=1e-6)
    # slices of one voxel at a radius of ten are counted in 200 directions, from bins of 5 degrees in 5 x 5
    # views: a few per cent
    assert found.compensation == pytest.approx(1, abs=0.02)
    # the axis with most of them: bins of 5 degrees on the rim of a cone of 30 go in or out
    assert found.crowd == pytest.approx(1 - math.cos(math.radians(30)), abs=0.02)


def test_no_views_no_statement() -> None:
    assert find_orientations(np.zeros((18, 36))) is None
    assert warning(None) is None
    assert remedy(None) is None


def test_side_views_leave_nothing_thin() -> None:
    counts = np.zeros((ROWS, COLUMNS))
    counts[ROWS // 2 - 1 : ROWS // 2 + 1] = 1000
    found = find_orientations(counts)
    assert found is not None
    # Baldwin and Lyumkis: 8 / pi^2; the belt here is 10 degrees wide, which only evens it out
    assert found.compensation == pytest.approx(8 / math.pi**2, abs=0.03)
    assert warning(found) is None


@pytest.mark.parametrize("axis", [unit(0.5, 0.3, 0.8), unit(-0.7, 0.6, 0.2), unit(1, -1, -0.5)])
def test_views_along_one_axis_leave_it_thin(axis: np.ndarray) -> None:
    found = find_orientations(cap(axis, 25))
    assert found is not None
    assert found.preferred
    # a bin of 5 degrees
    assert abs(found.thin @ axis) > math.cos(BIN)
    assert abs(found.crowded @ axis) > math.cos(2 * BIN)
    assert found.crowd == pytest.approx(1, abs=1e-9)
    assert found.compensation == 0
    # Views within 25 degrees inform nothing within 65 of the axis, but for the smoothing by 8.
    assert found.thin_share == pytest.approx(1 - math.cos(math.radians(65)), abs=0.12)


def test_an_axis_has_a_name_or_angles() -> None:
    told = warning(find_orientations(cap(unit(0, 0.1, 1), 25)))
    assert told is not None
    assert "100 % of the views are within 30° of the z axis or its opposite" in told
    assert "Fourier directions about the z axis are thin" in told
    to_do = remedy(find_orientations(cap(unit(-1, -0.1, 0), 20)))
    assert to_do is not None
    assert "smeared along the x axis, for lack" in to_do
    told = warning(find_orientations(cap(unit(1, -1, math.sqrt(2)), 20)))
    assert told is not None
    assert "the axis at tilt 45°, rot −45°" in told


def test_opposite_views_are_one_axis() -> None:
    axis = unit(0.5, 0.3, 0.8)
    both = find_orientations(cap(axis, 20) + cap(-axis, 20))
    assert both is not None
    assert both.crowd == pytest.approx(1, abs=1e-9)
    assert abs(both.thin @ axis) > math.cos(BIN)


def test_symmetry_fills_what_one_axis_leaves() -> None:
    along_x = cap(unit(1, 0, 0), 20)
    assert warning(find_orientations(along_x)) is not None
    # Under O the views are along all three axes, and every direction is at right angles to one of them, or
    # within 55 degrees (the body diagonals) of all; the slices through them are thin there.
    found = find_orientations(along_x, "O")
    assert found is not None
    assert found.order == 24
    assert np.abs(found.thin) == pytest.approx(np.ones(3) / math.sqrt(3), abs=2 * BIN)
    copied = find_orientations(cap(unit(0, 0, 1), 20), "C4")
    told = warning(copied)
    assert told is not None
    assert "of the views, with the copies that C4 makes, are" in told
    assert "about the z axis and its copies under C4 are thin" in told


def test_a_low_compensation_factor_alone_is_preferred() -> None:
    # 36 % even and the rest along z: no direction below 0.3, but all off the equator at little more
    found = find_orientations(0.36 * EVEN + 0.64 * cap(unit(0, 0, 1), 5))
    assert found is not None
    assert found.thinnest > 0.3
    assert found.compensation < 0.5
    assert "0 % of all directions hold less than 30 %" in (warning(found) or "")


@pytest.mark.parametrize("count", [10, 60, 200])
def test_chance_is_no_preference(count: int) -> None:
    for seed in range(3):
        poses = matrix_to_quaternion(random_rotations(count, np.random.default_rng(seed)))
        assert warning(find_orientations(count_views(poses))) is None


def test_the_caption_has_the_numbers() -> None:
    found = find_orientations(EVEN, "D2")
    assert found is not None
    caption = orientation_caption(found)
    assert "with the copies that D2 makes" in caption
    assert "1,000,000 particles" in caption
    # 1 / (0.1396 sqrt(4e6)) = 0.36 %
    assert "scatter by 0 %" in caption
    assert "holds 100 % of what" in caption
    assert f"compensation factor is {found.compensation:.2f}" in caption
