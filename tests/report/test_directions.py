"""The smoothed histograms of views, against what the sphere says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dcryo.geometry.rotations import euler_to_matrix
from dcryo.report.directions import (
    COLUMNS,
    ROWS,
    fourier_coverage,
    grid_directions,
    solid_angles,
    viewing_density,
)

SPREAD = math.radians(8)


def one_view(tilt: float, rot: float, rows: int = 180, columns: int = 360) -> np.ndarray:
    """Histogram of a single view, degrees, on bins of 1 degree."""
    counts = np.zeros((rows, columns))
    counts[int(tilt * rows / 180), int((rot + 180) * columns / 360)] = 1
    return counts


def nearest(direction: tuple[float, float, float]) -> tuple[int, int]:
    cosine = grid_directions(ROWS, COLUMNS) @ np.asarray(direction)
    return np.unravel_index(np.argmax(cosine), cosine.shape)


def test_directions_are_the_beam_in_specimen_coordinates() -> None:
    rows, columns = 6, 8
    tilt = (np.arange(rows)[:, None] + 0.5) * math.pi / rows
    rot = (np.arange(columns)[None, :] + 0.5) * 2 * math.pi / columns - math.pi
    beam = euler_to_matrix(rot + 0 * tilt, tilt + 0 * rot, np.full((rows, columns), 0.7))[..., 2, :]
    np.testing.assert_allclose(grid_directions(rows, columns), beam, atol=1e-12)


def test_solid_angles_fill_the_sphere() -> None:
    share = solid_angles(12, 24)
    assert share.sum() == pytest.approx(1)
    # The band within 30 degrees of the equator is half of the sphere (Archimedes).
    assert share[4:8].sum() == pytest.approx(0.5)


def test_even_views_give_one_everywhere() -> None:
    counts = 1e6 * solid_angles(ROWS, COLUMNS)
    np.testing.assert_allclose(viewing_density(counts), 1, rtol=1e-9)
    np.testing.assert_allclose(fourier_coverage(counts), 1, rtol=1e-9)


def test_a_view_is_densest_along_itself() -> None:
    density = viewing_density(one_view(62.5, 102.5))
    row, column = np.unravel_index(np.argmax(density), density.shape)
    assert (row, column) == (12, 56)
    # von Mises-Fisher kernel: its mean over the sphere is spread^2 / 2, up to exp(-2 / spread^2).
    # The sum over bins of 5 degrees is within a few per cent of the integral.
    assert density.max() == pytest.approx(2 / SPREAD**2, rel=0.03)


def test_a_view_informs_the_plane_across_it() -> None:
    coverage = fourier_coverage(one_view(0.5, 0.5))
    assert coverage[0].max() < 1e-6
    assert coverage[-1].max() < 1e-6
    # Mean of exp(-c^2 / 2 s^2) over the sphere is s sqrt(pi / 2).  View and equator both sit at most half a
    # bin (2.5 degrees) off, which costs up to 1 - exp(-(5 / 8)^2 / 2) = 18 %.
    peak = 1 / (SPREAD * math.sqrt(math.pi / 2))
    assert 0.82 * peak < coverage[17:19].mean() < 1.01 * peak


def test_opposite_views_inform_the_same_plane() -> None:
    one, other = fourier_coverage(one_view(42.5, 17.5)), fourier_coverage(one_view(137.5, -162.5))
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_symmetry_copies_the_views() -> None:
    counts = one_view(62.5, 12.5)
    single, double = viewing_density(counts), viewing_density(counts, "C2")
    np.testing.assert_allclose(double, (single + np.roll(single, COLUMNS // 2, axis=1)) / 2, atol=1e-12)


def test_dihedral_symmetry_turns_about_x() -> None:
    density = viewing_density(one_view(32.5, 2.5), "D2")
    a, r = math.radians(32.5), math.radians(2.5)
    x, y, z = math.sin(a) * math.cos(r), math.sin(a) * math.sin(r), math.cos(a)
    for copy in ((x, y, z), (-x, -y, z), (x, -y, -z), (-x, y, -z)):
        assert density[nearest(copy)] > 0.2 * density.max()
    assert density[nearest((x, -y, z))] == pytest.approx(density[nearest((x, y, z))], rel=0.5)
    assert density[nearest((0, 1, 0))] < 1e-3
