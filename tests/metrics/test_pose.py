"""Pose errors: poses that differ by a known frame, hand, offset and perturbation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dcryo.errors import InputError
from dcryo.geometry import geodesic_distance, point_group, random_rotations, rotation_vector_to_matrix
from dcryo.metrics import align_rotations, geodesic_distance_modulo, pose_errors, to_asymmetric_unit

ROUNDING = 1e-9
"""The robust fit stops where the mean error gains less than this (rad)."""


def poses(count: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return random_rotations(count, rng), rng.normal(0, 3, (count, 2))


def perturbed(rotations: np.ndarray, angle: float, seed: int) -> np.ndarray:
    axis = np.random.default_rng(seed).standard_normal((len(rotations), 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    return rotation_vector_to_matrix(angle * axis) @ rotations


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_change_of_frame_hand_and_origin_is_no_error(mirrored: bool) -> None:
    true, t_true = poses()
    frame = random_rotations(1, np.random.default_rng(7))[0]
    origin = np.array([3.0, -2.0, 5.0])
    hand = np.diag([-1.0, -1.0, 1.0]) if mirrored else np.eye(3)
    estimate = hand @ true @ frame.T
    errors = pose_errors(estimate, t_true - true[:, :2] @ origin, true, t_true)
    assert errors.alignment.mirrored is mirrored
    np.testing.assert_allclose(errors.alignment.rotation, frame, atol=ROUNDING)
    np.testing.assert_allclose(errors.offset, origin, atol=1e-8)
    assert errors.rotation.max() < ROUNDING
    assert errors.shift.max() < 1e-8
    assert errors.alignment.mean_error < ROUNDING
    assert errors.alignment.mean_error_other_hand > 0.5  # the wrong hand leaves uniform-like distances


def test_the_gauges_are_those_of_projections() -> None:
    """Numbers, not definitions: line integrals of one function through the poses of the docstring."""
    rng = np.random.default_rng(1)
    centres, width = rng.uniform(-2, 2, (6, 3)), 1.5

    def function(r: np.ndarray) -> np.ndarray:
        return np.exp(-((r[..., None, :] - centres) ** 2).sum(-1) / width).sum(-1)

    def image(f: object, pose: np.ndarray, shift: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Integral of f(A^T (y - t + tau e3)) over tau: the trapezoid rule is exact to rounding here."""
        tau = np.linspace(-12, 12, 241)
        y = np.concatenate([np.broadcast_to((at - shift)[:, None], (len(at), 241, 2)),
                            np.broadcast_to(tau[:, None], (len(at), 241, 1))], axis=-1)  # fmt: skip
        return f(y @ pose).sum(axis=1) * 0.1  # type: ignore[operator, no-any-return]

    pose, frame = random_rotations(2, rng)
    origin, shift = rng.normal(0, 1, (2, 3))
    shift = shift[:2]
    at = rng.uniform(-3, 3, (20, 2))
    expected = image(function, pose, shift, at)
    turned = image(lambda r: function(r @ frame.T), pose @ frame, shift, at)
    moved = image(lambda r: function(r - origin), pose, shift - pose[:2] @ origin, at)
    mirror = image(lambda r: function(-r), np.diag([-1.0, -1.0, 1.0]) @ pose, shift, at)
    for other in (turned, moved, mirror):
        np.testing.assert_allclose(other, expected, rtol=1e-9)


def test_errors_are_the_perturbation() -> None:
    true, t_true = poses(4000)
    angle = 0.1
    rng = np.random.default_rng(3)
    direction = rng.uniform(0, 2 * math.pi, len(true))
    push = 0.7 * np.stack([np.cos(direction), np.sin(direction)], -1)
    frame = random_rotations(1, rng)[0]
    errors = pose_errors(perturbed(true, angle, 2) @ frame, t_true + push, true, t_true)
    # The fitted frame and origin are off by about error / sqrt(P / 3): 3 % here, four times that allowed.
    np.testing.assert_allclose(errors.rotation, angle, rtol=0.12)
    np.testing.assert_allclose(np.median(errors.rotation), angle, rtol=0.01)
    np.testing.assert_allclose(np.median(errors.shift), 0.7, rtol=0.03)
    np.testing.assert_allclose(errors.offset, 0, atol=0.1)


def test_a_minority_of_wrong_poses_does_not_pull_on_the_rest() -> None:
    true, t_true = poses(500)
    estimate = true.copy()
    # All wrong in the same way, the worst case for least squares: a quarter turns the mean by 0.2 rad.
    estimate[:125] = true[:125] @ rotation_vector_to_matrix([0.0, 0, 1.0])
    shifts = t_true.copy()
    shifts[:125] += 10
    errors = pose_errors(estimate, shifts, true, t_true)
    # The weight of an exact row is 1e6 against about 1 of a wrong one: what is left is 1e-6 rad.
    assert errors.rotation[125:].max() < 1e-5
    np.testing.assert_allclose(errors.rotation[:125], 1.0, atol=1e-5)
    assert errors.shift[125:].max() < 1e-4
    np.testing.assert_allclose(errors.shift[:125], 10 * math.sqrt(2), atol=1e-3)


def test_alignment_applies_what_it_reports() -> None:
    true, _ = poses(50)
    estimate = perturbed(np.diag([-1.0, -1.0, 1.0]) @ true, 0.2, 4)
    alignment = align_rotations(estimate, true)
    assert alignment.mirrored
    remaining = geodesic_distance(alignment.apply(estimate), true).mean()
    assert alignment.mean_error == pytest.approx(remaining, abs=1e-12)


def test_unrelated_poses_align_to_a_rotation_not_to_a_reflection() -> None:
    rng = np.random.default_rng(8)
    for _ in range(20):  # half of such sets are fitted best by a reflection, which is no change of frame
        alignment = align_rotations(random_rotations(3, rng), random_rotations(3, rng))
        assert np.linalg.det(alignment.rotation) == pytest.approx(1)


def test_particles_without_a_pose_are_left_out_and_stay_nan() -> None:
    true, t_true = poses(40)
    estimate, shifts = true.copy(), t_true.copy()
    estimate[3] = np.nan
    shifts[5] = np.nan
    errors = pose_errors(estimate, shifts, true, t_true)
    assert np.isnan(errors.rotation[3])
    assert np.isnan(errors.shift[[3, 5]]).all()
    assert np.nanmax(errors.rotation) < ROUNDING
    assert np.isnan(errors.rotation).sum() == 1
    assert np.isnan(errors.shift).sum() == 2


def test_one_pose_and_one_view_align_without_a_claim_on_the_hand() -> None:
    true, t_true = poses(1)
    errors = pose_errors(random_rotations(1, np.random.default_rng(9)), t_true + 1, true, t_true)
    assert not errors.alignment.mirrored
    assert errors.rotation[0] < ROUNDING
    assert errors.shift[0] < 1e-8


def test_poses_that_do_not_pair_are_refused() -> None:
    true, t_true = poses(4)
    with pytest.raises(InputError, match=r"both must be \(P, 3, 3\)"):
        align_rotations(true[:3], true)
    with pytest.raises(InputError, match=r"\(4, 2\) belong to these poses"):
        pose_errors(true, t_true[:, :1], true, t_true)
    with pytest.raises(InputError, match="no particle has a pose in both sets"):
        align_rotations(np.full((4, 3, 3), np.nan), true)


def shuffled(rotations: np.ndarray, group: np.ndarray, seed: int) -> np.ndarray:
    """Every pose replaced by a random equivalent."""
    choice = np.random.default_rng(seed).integers(len(group), size=len(rotations))
    return rotations @ group[choice]


@pytest.mark.parametrize("symmetry", ["C4", "D2", "I"])
def test_equivalent_poses_have_one_representative(symmetry: str) -> None:
    group = point_group(symmetry)
    rotations, _ = poses(200)
    chosen = to_asymmetric_unit(rotations, group)
    np.testing.assert_allclose(to_asymmetric_unit(shuffled(rotations, group, 1), group), chosen, atol=1e-12)
    # by brute force: it is one of the equivalents, and none of them is nearer to the identity
    every = rotations[:, None] @ group
    angle = geodesic_distance(every, np.eye(3))
    np.testing.assert_allclose(geodesic_distance(chosen, np.eye(3)), angle.min(axis=1), atol=1e-7)
    np.testing.assert_allclose(np.abs(every - chosen[:, None]).max(axis=(2, 3)).min(axis=1), 0, atol=1e-15)


def test_of_equally_near_poses_the_first_is_chosen() -> None:
    group = point_group("C4")
    # an eighth of a turn about the axis is as near as an eighth back, whichever way rounding falls
    eighth = math.pi / 4 + np.array([0, 1e-12, -1e-12])
    there_and_back = rotation_vector_to_matrix(np.outer(np.append(eighth, -eighth), [0, 0, 1.0]))
    np.testing.assert_allclose(to_asymmetric_unit(there_and_back, group), there_and_back, atol=1e-15)
    assert np.isnan(to_asymmetric_unit(np.full((1, 3, 3), np.nan), group)).all()


@pytest.mark.parametrize("symmetry", ["C4", "D2", "I"])
def test_distances_modulo_a_group_are_the_least_ones(symmetry: str) -> None:
    group = point_group(symmetry)
    a, b = (poses(50, seed)[0] for seed in (1, 2))
    expected = geodesic_distance(a[:, None], b[:, None] @ group).min(axis=1)
    np.testing.assert_allclose(geodesic_distance_modulo(a, b, group), expected, atol=1e-12)
    np.testing.assert_allclose(
        geodesic_distance_modulo(shuffled(a, group, 3), shuffled(b, group, 4), group), expected, atol=1e-12
    )


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("symmetry", ["C4", "D2", "I"])
def test_symmetry_frame_and_hand_are_no_error(symmetry: str, mirrored: bool) -> None:
    group = point_group(symmetry)
    true, t_true = poses(150)
    frame = random_rotations(1, np.random.default_rng(7))[0]
    origin = np.array([3.0, -2.0, 5.0])
    hand = np.diag([-1.0, -1.0, 1.0]) if mirrored else np.eye(3)
    right = shuffled(true, group, 5)
    right[:30] = perturbed(right[:30], 0.1, 6)
    estimate = hand @ right @ frame.T
    shifts = t_true - right[:, :2] @ origin
    # the frame is fitted to all poses: those without an error pull 1e6 times more, as above
    without = pose_errors(estimate, shifts, true, t_true)
    assert np.median(without.rotation) > 0.3, "without their symmetry these poses look wrong"
    errors = pose_errors(estimate, shifts, true, t_true, symmetry)
    assert errors.alignment.mirrored is mirrored
    np.testing.assert_allclose(errors.rotation[:30], 0.1, atol=1e-5)
    assert errors.rotation[30:].max() < 1e-5
    assert errors.shift.max() < 1e-4
    # of the frames that differ by the symmetry, the one nearest to no turn at all
    found = errors.alignment.rotation
    np.testing.assert_allclose(found, to_asymmetric_unit(frame[None], group)[0], atol=1e-5)
    np.testing.assert_allclose(frame.T @ found @ errors.offset, origin, atol=1e-4)


def test_an_unknown_symmetry_is_refused() -> None:
    true, t_true = poses(4)
    with pytest.raises(InputError, match="not a point group"):
        pose_errors(true, t_true, true, t_true, "X7")
