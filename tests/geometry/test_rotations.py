"""Rotations against worked values, scipy's independent code, and files of other programs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from scipy.stats import kstest

from dcryo.errors import InputError
from dcryo.geometry import (
    euler_to_matrix,
    geodesic_distance,
    matrix_to_euler,
    matrix_to_quaternion,
    quaternion_to_matrix,
    random_rotations,
    rotation_vector_to_matrix,
)

ROUNDING = 1e-14
"""A few dozen float64 operations on numbers of size 1."""

angles = st.floats(-7, 7)


def quarter_turns_and_random(count: int = 500) -> np.ndarray:
    """Random rotations and all those of the cube: half turns and gimbal lock are among them."""
    cube = Rotation.create_group("O").as_matrix().round()
    return np.concatenate([cube, random_rotations(count, np.random.default_rng(5))])


def test_relion_matrix_of_a_pose_worked_by_hand() -> None:
    # rot 90, tilt 90, psi 0: c(rot)=0, s(rot)=1, c(tilt)=0, s(tilt)=1, c(psi)=1, s(psi)=0 in the formula
    expected = [[0, 0, -1], [-1, 0, 0], [0, 1, 0]]
    np.testing.assert_allclose(euler_to_matrix(math.pi / 2, math.pi / 2, 0), expected, atol=ROUNDING)


@given(angles, angles, angles)
def test_euler_matrix_is_the_transposed_intrinsic_zyz_rotation(rot: float, tilt: float, psi: float) -> None:
    expected = Rotation.from_euler("ZYZ", [rot, tilt, psi]).as_matrix().T
    np.testing.assert_allclose(euler_to_matrix(rot, tilt, psi), expected, atol=ROUNDING)


def test_euler_angles_broadcast() -> None:
    tilt = np.linspace(0, 3, 4)
    matrices = euler_to_matrix(0.3, tilt[:, None], np.array([0.1, 0.2]))
    assert matrices.shape == (4, 2, 3, 3)
    np.testing.assert_array_equal(matrices[2, 1], euler_to_matrix(0.3, tilt[2], 0.2))


def test_euler_angles_come_back_from_the_matrix() -> None:
    rng = np.random.default_rng(0)
    rot, psi = rng.uniform(-math.pi, math.pi, (2, 200))
    tilt = rng.uniform(0.1, math.pi - 0.1, 200)
    # The angle of (sin tilt cos rot, sin tilt sin rot) loses 1/sin(0.1) of its digits.
    found = matrix_to_euler(euler_to_matrix(rot, tilt, psi))
    np.testing.assert_allclose(found, np.stack([rot, tilt, psi], -1), atol=10 * ROUNDING)


@given(angles, st.sampled_from([0.0, 1e-300, 1e-17, 1e-9, 1e-4]), st.booleans(), angles)
def test_matrix_survives_euler_angles_at_the_poles(rot: float, tilt: float, south: bool, psi: float) -> None:
    matrix = euler_to_matrix(rot, math.pi - tilt if south else tilt, psi)
    again = euler_to_matrix(*matrix_to_euler(matrix))
    np.testing.assert_allclose(again, matrix, atol=ROUNDING)


def test_conversions_agree_with_scipy() -> None:
    matrices = quarter_turns_and_random()
    reference = Rotation.from_matrix(matrices)
    quaternions = matrix_to_quaternion(matrices)
    np.testing.assert_allclose(np.linalg.norm(quaternions, axis=1), 1, atol=ROUNDING)
    assert np.all(quaternions[:, 3] >= 0)
    overlap = np.abs(np.sum(quaternions * reference.as_quat(), axis=1))  # q and -q are one rotation
    np.testing.assert_allclose(overlap, 1, atol=ROUNDING)
    np.testing.assert_allclose(quaternion_to_matrix(reference.as_quat()), matrices, atol=ROUNDING)
    np.testing.assert_allclose(quaternion_to_matrix(-3 * quaternions), matrices, atol=ROUNDING)
    np.testing.assert_allclose(rotation_vector_to_matrix(reference.as_rotvec()), matrices, atol=ROUNDING)


@given(st.floats(-9, 0.49), st.integers(0, 99))
def test_small_rotation_vectors_keep_their_digits(exponent: float, seed: int) -> None:
    axis = np.random.default_rng(seed).standard_normal(3)
    angle = 10.0**exponent
    matrix = rotation_vector_to_matrix(angle * axis / np.linalg.norm(axis))
    # An entry of size 1 has an error of 2e-16, which is what any angle can be known to.
    assert geodesic_distance(matrix, np.eye(3)) == pytest.approx(angle, abs=1e-15, rel=1e-13)


def test_geodesic_distance_is_accurate_near_half_a_turn() -> None:
    for angle in (math.pi, math.pi - 1e-9, math.pi - 1e-4):
        matrix = rotation_vector_to_matrix(angle * np.array([0.6, 0, 0.8]))
        assert geodesic_distance(np.eye(3), matrix) == pytest.approx(angle, abs=1e-15, rel=1e-15)


def test_geodesic_distance_is_invariant_symmetric_and_a_metric() -> None:
    rng = np.random.default_rng(1)
    a, b, c = (random_rotations(300, rng) for _ in range(3))
    direct = geodesic_distance(a, b)
    np.testing.assert_allclose(geodesic_distance(b, a), direct, atol=ROUNDING)
    np.testing.assert_allclose(geodesic_distance(c @ a, c @ b), direct, atol=ROUNDING)
    np.testing.assert_allclose(geodesic_distance(a @ c, b @ c), direct, atol=ROUNDING)
    assert np.all(direct <= geodesic_distance(a, c) + geodesic_distance(c, b) + ROUNDING)


def test_random_rotations_are_uniform() -> None:
    rotations = random_rotations(20_000, np.random.default_rng(2))
    np.testing.assert_allclose(np.linalg.det(rotations), 1, atol=ROUNDING)
    # Haar measure: every entry is uniform on [-1, 1] (Archimedes); (t - sin t)/pi of the angle t on [0, 1].
    # 0.0163 = 2.3/sqrt(20000) has p = 5e-5 for one such statistic; ten are looked at.
    for i in range(3):
        for j in range(3):
            assert kstest(rotations[:, i, j], "uniform", args=(-1, 2)).statistic < 0.0163
    angle = geodesic_distance(rotations, np.eye(3))
    assert kstest((angle - np.sin(angle)) / math.pi, "uniform").statistic < 0.0163
    np.testing.assert_array_equal(rotations, random_rotations(20_000, np.random.default_rng(2)))


def test_missing_poses_stay_missing() -> None:
    quaternions = np.array([[0, 0, 0, 1.0], [np.nan] * 4])
    matrices = quaternion_to_matrix(quaternions)
    assert np.isnan(matrices[1]).all()
    assert np.isnan(matrix_to_quaternion(matrices)[1]).all()
    assert np.isnan(matrix_to_euler(matrices)[1]).all()
    np.testing.assert_array_equal(matrix_to_quaternion(matrices)[0], quaternions[0])


@pytest.mark.parametrize("bad", [np.diag([1, 1, -1.0]), 1.01 * np.eye(3), np.zeros((3, 3)), np.ones((3, 3))])
def test_what_is_no_rotation_is_refused_by_row(bad: np.ndarray) -> None:
    rows = np.stack([np.eye(3), bad])
    for convert in (matrix_to_quaternion, matrix_to_euler):
        with pytest.raises(InputError, match="matrix in row 1 is not a rotation"):
            convert(rows)


def test_wrong_shapes_and_zero_quaternions_are_refused() -> None:
    with pytest.raises(InputError, match="quaternion in row 2 is zero"):
        quaternion_to_matrix([[0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]])
    with pytest.raises(InputError, match=r"expected \(\.\.\., 4\)"):
        quaternion_to_matrix(np.zeros((2, 3)))
    with pytest.raises(InputError, match=r"expected \(\.\.\., 3\)"):
        rotation_vector_to_matrix(np.zeros(4))
    with pytest.raises(InputError, match=r"expected \(\.\.\., 3, 3\)"):
        geodesic_distance(np.zeros((3, 2)), np.eye(3))


def test_published_rotation_vectors_and_matrices_agree(shared_data: Path) -> None:
    folder = shared_data / "particles" / "cryosparc"
    (table,) = folder.glob("*.cs")
    (matrices,) = folder.glob("*rotation_matrices.npy")
    vectors = np.load(table, allow_pickle=False)["alignments3D/pose"]
    # The matrices are the transposes of the vectors' (data/README); both are float32.
    expected = np.load(matrices, allow_pickle=False)
    found = np.swapaxes(rotation_vector_to_matrix(vectors), -1, -2)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert geodesic_distance(quaternion_to_matrix(matrix_to_quaternion(expected)), expected).max() < 1e-6
