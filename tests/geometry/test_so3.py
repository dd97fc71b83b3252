"""The grid on SO(3): covering, separation and balance, measured against exact facts of the group."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial import cKDTree

from dcryo.errors import InputError
from dcryo.geometry import matrix_to_quaternion, random_rotations, so3_grid


def distance_to_nearest(grid: np.ndarray, rotations: np.ndarray, neighbour: int = 1) -> np.ndarray:
    """Geodesic distance by a tree of quaternions: |p - q| = 2 sin(angle/4), p of the nearer sign."""
    q = matrix_to_quaternion(grid)
    tree = cKDTree(np.concatenate([q, -q]))
    chord = tree.query(matrix_to_quaternion(rotations), k=[neighbour])[0][:, 0]
    return 4 * np.arcsin(np.minimum(chord / 2, 1))


@pytest.mark.parametrize("arguments", [{"level": 0}, {"level": 1}, {"level": 2}, {"spacing": 0.37}])
def test_no_rotation_is_farther_than_the_spacing(arguments: dict[str, float]) -> None:
    grid = so3_grid(**arguments)  # type: ignore[arg-type]
    spacing = (8 * math.pi**2 / len(grid)) ** (1 / 3)
    probes = random_rotations(20_000, np.random.default_rng(0))
    assert distance_to_nearest(grid, probes).max() < spacing
    # Neighbours in the densest packing of R^3 (fcc) at this density are 2^(1/6) apart; a random set of points
    # this large has pairs closer than a tenth.
    separation = distance_to_nearest(grid, grid, neighbour=2)
    assert separation.min() > 0.5 * spacing
    assert separation.max() < 2 ** (1 / 6) * 1.1 * spacing


@pytest.mark.parametrize(("level", "tolerance"), [(0, 0.03), (1, 0.004), (2, 0.0005)])
def test_averages_over_the_grid_are_those_over_the_group(level: int, tolerance: float) -> None:
    grid = so3_grid(level)
    # Over SO(3) <A> = 0 and <A_ij A_kl> = delta_ik delta_jl / 3 (Schur).  The worst entry of random sets of
    # these sizes misses by about 0.1, 0.03 and 0.01; low discrepancy improves by 8 a level, not by 2.8.
    np.testing.assert_allclose(grid.mean(axis=0), 0, atol=tolerance)
    second = np.einsum("pij,pkl->ijkl", grid, grid) / len(grid)
    exact = np.einsum("ik,jl->ijkl", np.eye(3), np.eye(3)) / 3
    np.testing.assert_allclose(second, exact, atol=tolerance)


def test_count_follows_from_the_volume_of_the_group() -> None:
    assert [len(so3_grid(level)) for level in range(3)] == [72, 576, 4608]
    assert len(so3_grid(spacing=0.5)) == math.ceil(8 * math.pi**2 / 0.125)
    np.testing.assert_array_equal(so3_grid(1), so3_grid(1))


@pytest.mark.parametrize("spacing", [0.0, -0.1, 60.0, float("nan"), 1e-200])
def test_spacing_out_of_range_is_refused(spacing: float) -> None:
    with pytest.raises(InputError, match=r"spacing|too fine"):
        so3_grid(spacing=spacing)


def test_other_bad_arguments_are_refused() -> None:
    for arguments in ({}, {"level": 1, "spacing": 0.1}):
        with pytest.raises(InputError, match="exactly one"):
            so3_grid(**arguments)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="negative"):
        so3_grid(-1)
    with pytest.raises(InputError, match="too fine"):
        so3_grid(30)
