"""Registration of maps of Gaussians, which were turned and moved exactly, not interpolated."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from dcryo.errors import InputError
from dcryo.geometry import geodesic_distance, random_rotations, rotation_vector_to_matrix
from dcryo.imaging.phantom import Cloud, gaussian_cloud, project_gaussians, rasterise
from dcryo.imaging.radial import filtered, low_pass
from dcryo.metrics import Registration, register

TURN = math.radians(0.02)
MOVE = 0.01
"""What a registration is to be good for: it places every point of a particle to a hundredth of a voxel."""


def specimen(n: int, seed: int = 1) -> Cloud:
    return gaussian_cloud(seed, 120, 0.3 * n, 1.2)


def carried(cloud: Cloud, registration: Registration) -> Cloud:
    """The cloud whose density is m(h G (r - x)): a point of m at c is at r = h G^T c + x."""
    sign = -1 if registration.mirrored else 1
    return replace(cloud, centers=sign * cloud.centers @ registration.rotation + registration.translation)


def placed(seed: int, angle: float | None, move: float, mirrored: bool = False) -> Registration:
    """A random turn by ``angle`` rad (None: by any), and a move of up to ``move`` voxels along every axis."""
    rng = np.random.default_rng(seed)
    axis = rng.standard_normal(3)
    turn = rotation_vector_to_matrix((angle or 0) * axis / np.linalg.norm(axis))
    rotation = random_rotations(1, rng)[0] if angle is None else turn
    return Registration(rotation, rng.uniform(-move, move, 3), 1.0, mirrored)


def check(found: Registration, true: Registration, turn: float = TURN, move: float = MOVE) -> None:
    assert found.mirrored is true.mirrored
    assert geodesic_distance(found.rotation, true.rotation) < turn
    np.testing.assert_allclose(found.translation, true.translation, atol=move)


@pytest.mark.parametrize(("n", "seed"), [(48, 1), (47, 2), (50, 3)])
def test_a_turned_and_moved_map_is_found(n: int, seed: int) -> None:
    cloud, true = specimen(n, seed), placed(seed, math.radians(4), 2)
    found = register(rasterise(cloud, n), rasterise(carried(cloud, true), n), 14)
    check(found, true)
    # what is lost is the error of cubic splines at twice the samples, at most (1/3)^4, squared
    assert found.correlation > 1 - 2e-4


def test_scale_and_level_of_a_map_do_not_count() -> None:
    n = 48
    cloud, true = specimen(n), placed(1, math.radians(4), 2)
    check(register(3 * rasterise(cloud, n) + 5, 0.2 * rasterise(carried(cloud, true), n) - 1, 14), true)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_search_needs_no_start(mirrored: bool) -> None:
    n = 40
    cloud, true = specimen(n, 4), placed(5, None, 4, mirrored)
    fixed = rasterise(carried(cloud, true), n)
    check(register(rasterise(cloud, n), fixed, 12, search=True, hand=True), true)


def test_the_other_hand_is_tried_only_where_asked() -> None:
    n = 40
    cloud = specimen(n, 4)
    fixed = rasterise(carried(cloud, Registration(np.eye(3), np.zeros(3), 1.0, True)), n)
    found = register(rasterise(cloud, n), fixed, 12, search=True)
    assert not found.mirrored
    assert found.correlation < 0.9


def test_a_start_is_where_it_begins() -> None:
    n = 48
    cloud, true = specimen(n), placed(6, None, 3, mirrored=True)
    maps = rasterise(cloud, n), rasterise(carried(cloud, true), n)
    near = rotation_vector_to_matrix([0.03, 0.02, -0.03])
    check(register(*maps, 14, Registration(true.rotation @ near, true.translation + 1, 0.0, True)), true)
    assert register(*maps, 14).correlation < 0.8


@pytest.mark.parametrize("mirrored", [False, True])
def test_poses_are_carried_with_the_map(mirrored: bool) -> None:
    """Images of the carried specimen at the carried poses are the old images, in any unit of length."""
    n, pixel_size = 32, 2.5
    cloud, registration = specimen(n), placed(7, None, 2, mirrored)
    rng = np.random.default_rng(8)
    rotations, shifts = random_rotations(5, rng), rng.uniform(-2, 2, (5, 2))
    expected = project_gaussians(cloud, rotations, shifts, n)
    turned, moved = registration.apply_to_poses(rotations, shifts)
    images = project_gaussians(carried(cloud, registration), turned, moved, n)
    np.testing.assert_allclose(images, expected, atol=1e-4 * expected.max())  # single precision sums
    in_angstrom = registration.apply_to_poses(rotations, shifts * pixel_size, pixel_size)[1]
    np.testing.assert_allclose(in_angstrom, moved * pixel_size, rtol=1e-12)
    assert np.isnan(registration.apply_to_poses(np.full((1, 3, 3), np.nan), shifts[:1])[0]).all()


@pytest.mark.parametrize(("n", "mirrored"), [(40, False), (40, True), (39, True)])
def test_a_map_is_carried_as_the_density_is(n: int, mirrored: bool) -> None:
    cloud, registration = specimen(n), placed(9, None, 2, mirrored)
    expected = rasterise(carried(cloud, registration), n)
    carried_map = registration.apply_to_map(rasterise(cloud, n))
    # widths of 1.2 voxels: exp(-(1.2 pi)^2/2) = 8e-4 at the Nyquist frequency, where splines err most
    np.testing.assert_allclose(carried_map, expected, atol=1e-3 * expected.max())


def test_what_comes_from_outside_is_at_the_level_of_the_faces() -> None:
    n = 24
    volume = rasterise(specimen(n), n) + np.float32(7)
    turned = placed(1, math.pi / 4, 5).apply_to_map(volume)
    np.testing.assert_allclose(turned[[0, 0, -1, -1], [0, -1, 0, -1], [0, -1, -1, 0]], 7, atol=0.05)


def test_noisy_maps_stop_where_the_correlation_is_largest() -> None:
    n, cutoff = 40, 10.0
    cloud, true = specimen(n, 2), placed(3, math.radians(3), 1.5)
    rng = np.random.default_rng(0)
    first, second = (rasterise(c, n) for c in (cloud, carried(cloud, true)))
    noise = 2 * first.std()
    moving, fixed = (
        np.asarray(m + noise * rng.standard_normal(m.shape), np.float32) for m in (first, second)
    )
    found = register(moving, fixed, cutoff)
    x = np.arange(n) - n // 2
    radius = np.sqrt(x[:, None, None] ** 2 + x[:, None] ** 2 + x**2)
    ball = 0.5 + 0.5 * np.cos(np.pi * np.clip((radius / n - 0.4) / 0.06, 0, 1))

    def correlation(turn: np.ndarray, move: np.ndarray) -> float:
        at = Registration(found.rotation @ rotation_vector_to_matrix(turn), found.translation + move, 0)
        a, b = (filtered(m, low_pass(cutoff)).astype(float) for m in (at.apply_to_map(moving), fixed))
        a, b = (m - np.average(m, weights=ball) for m in (a, b))
        return float((ball * a * b).sum() / math.sqrt((ball * a * a).sum() * (ball * b * b).sum()))

    best = correlation(np.zeros(3), np.zeros(3))
    assert found.correlation == pytest.approx(best, abs=2e-3)
    for direction in np.eye(6):
        for sign in (-1, 1):
            # a hundredth of a radian and a tenth of a voxel: the noise itself moves the maximum by more
            assert correlation(0.01 * sign * direction[:3], 0.1 * sign * direction[3:]) < best
    check(found, true, math.radians(2), 0.3)


def test_turns_that_a_map_does_not_determine_are_not_made_up() -> None:
    n = 40
    ball = Cloud(np.zeros((1, 3)), np.ones(1), np.full(1, 4.0))
    true = Registration(np.eye(3), np.array([1.0, -0.5, 2.0]), 1.0)
    rng = np.random.default_rng(0)
    first, second = (rasterise(each, n) for each in (ball, carried(ball, true)))
    # noise of 1e-4 turns the ball by 0.05 rad where nothing keeps it from that
    noise = 1e-4 * first.max() * rng.standard_normal((2, n, n, n))
    found = register(first + noise[0], second + noise[1], 8)
    np.testing.assert_allclose(found.translation, true.translation, atol=MOVE)
    assert found.angle < 0.01


def test_maps_that_do_not_compare_are_refused() -> None:
    n = 16
    good = rasterise(specimen(n), n)
    with pytest.raises(InputError, match="one box"):
        register(good, rasterise(specimen(18), 18))
    with pytest.raises(InputError, match="cube"):
        register(good[:, :, :-1], good)
    with pytest.raises(InputError, match="constant"):
        register(good, np.ones_like(good))
    with pytest.raises(InputError, match="NaN"):
        register(np.where(good > 0.1, np.nan, good), good)
    with pytest.raises(InputError, match="cut-off"):
        register(good, good, 0)
    waves = np.broadcast_to(np.where(np.arange(n) % 2, 1.0, -1.0), good.shape)
    with pytest.raises(InputError, match="nothing below 4"):
        register(good, waves, 4)
    with pytest.raises(InputError, match="too small"):
        register(good[:5, :5, :5], good[:5, :5, :5])
