"""Projection matching: which pose of a grid it takes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import oracle
import pytest
from scipy.spatial.transform import Rotation

from dcryo.errors import InputError
from dcryo.geometry.so3 import so3_grid
from dcryo.imaging.particles import Optics, Particles
from dcryo.imaging.phantom import gaussian_cloud, rasterise
from dcryo.operators.poses import PoseModel
from dcryo.operators.projection_matching import Match, MatchingGrid, match_projections
from dcryo.operators.projector import to_lattice
from dcryo.operators.views import make_radial, make_views

P = oracle.PIXEL
N = 16
COUNT = 3
VOLUME = rasterise(gaussian_cloud(seed=2, count=20, radius=0.3 * N, width=1.0), N)


def simulate(particles: Particles, noise: float) -> np.ndarray:
    """Images of exact projections."""
    images = np.concatenate(
        [
            oracle.projected(particles.take(np.array([p])), N, detector=1).apply(VOLUME)
            for p in range(len(particles))
        ]
    )
    return (images + noise * images.std() * oracle.noise(images.shape, 7)).astype(np.float32)


def matched(
    particles: Particles, images: np.ndarray, rotation: np.ndarray, shift: np.ndarray, grid: MatchingGrid
) -> Match:
    """Poses of images whose transfer functions, and nothing else, are known."""
    still = replace(particles, shift=0 * particles.shift, rotation=np.tile([0.0, 0, 0, 1], (COUNT, 1)))
    radial = make_radial(oracle.flat, [np.ones(N // 2 + 1)], N, [1.0])
    views, model = make_views(still, P), PoseModel(VOLUME, "accurate", 1)
    return match_projections(
        model, to_lattice(images, N), views, radial, rotation, shift, grid, box=N, radius=N / 2, threads=1
    )


def particles() -> Particles:
    return oracle.example(COUNT, 5, Optics(pixel_size=P, beam_tilt=(2e-3, -1e-3)))


def test_the_grid_holds_what_it_says() -> None:
    grid = MatchingGrid(0.1, 0.5, reach=2, distance=1)
    vectors = Rotation.from_matrix(grid.turns()).as_rotvec() / 0.1
    # integer vectors of length up to 2: 1 + 6 + 12 + 8 + 6
    assert len(vectors) == 33
    np.testing.assert_allclose(vectors, np.rint(vectors), atol=1e-9)
    assert len(np.unique(np.rint(vectors), axis=0)) == 33
    assert np.linalg.norm(vectors, axis=1).max() < 2 + 1e-9
    found = {tuple(s) for s in grid.shifts().tolist()}
    assert found == {(0, 0), (0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)}
    assert grid.halved() == MatchingGrid(0.05, 0.25, reach=2, distance=1)
    assert len(grid.halved().turns()) == 33


def test_the_pose_is_the_grid_point_nearest_the_truth() -> None:
    some = particles()
    images = simulate(some, 0.0)
    grid = MatchingGrid(0.15, 0.5)
    truth = Rotation.from_quat(some.rotation).as_matrix()
    rng = np.random.default_rng(3)
    # the truth is a tenth of a spacing beside a point of the grid around the present poses
    turns = np.array([[1, -2, 1], [0, 2, 0], [-1, -1, 2]]) + 0.1 * rng.uniform(-1, 1, (COUNT, 3))
    moves = np.array([[1, -1], [2, 2], [-3, 0]]) + 0.1 * rng.uniform(-1, 1, (COUNT, 2))
    rotation = truth @ Rotation.from_rotvec(-0.15 * turns).as_matrix()
    shift = some.shift / P - 0.5 * moves
    found = matched(some, images, rotation, shift, grid)
    np.testing.assert_allclose(found.shift, shift + 0.5 * np.rint(moves), atol=1e-12)
    wanted = rotation @ Rotation.from_rotvec(0.15 * np.rint(turns)).as_matrix()
    np.testing.assert_allclose(found.rotation, wanted, atol=1e-9)


def test_the_pose_is_the_best_of_all_by_brute_force() -> None:
    some = particles()
    images = simulate(some, 1.0)
    grid = MatchingGrid(0.2, 0.5, reach=1.5, distance=1)
    truth = Rotation.from_quat(some.rotation).as_matrix()
    rotation = truth @ Rotation.from_rotvec([0.1, -0.25, 0.1]).as_matrix()
    shift = some.shift / P + [0.4, -0.6]
    found = matched(some, images, rotation, shift, grid)
    for p in range(COUNT):
        turned = rotation[p] @ grid.turns()
        moved = shift[p] + grid.shifts()
        one = some.take(np.array([p]))
        costs = np.array(
            [
                [
                    oracle.pose_terms(
                        replace(one, rotation=Rotation.from_matrix(a[None]).as_quat(), shift=t[None] * P),
                        0, VOLUME, images[p],
                    )[0]
                    for t in moved
                ]
                for a in turned
            ]
        )  # fmt: skip
        r, s = np.unravel_index(costs.argmin(), costs.shape)
        np.testing.assert_allclose(found.rotation[p], turned[r], atol=1e-12)
        np.testing.assert_allclose(found.shift[p], moved[s], atol=1e-12)
        # nor is it the present pose, which is in the middle
        assert (r, s) != (len(turned) // 2, len(moved) // 2)


def test_a_grid_of_all_rotations_needs_no_present_one() -> None:
    rotations = so3_grid(spacing=0.5)
    some = particles()
    some = replace(
        some,
        rotation=Rotation.from_matrix(rotations[[10, 300, 500]]).as_quat(),
        shift=np.array([[0.5, 0], [-1, 0.5], [0, 0]]) * P,
    )
    images = simulate(some, 0.0)
    nowhere = np.full((COUNT, 3, 3), np.nan)
    grid = MatchingGrid(0.5, 0.5, reach=math.inf)
    found = matched(some, images, nowhere, np.zeros((COUNT, 2)), grid)
    np.testing.assert_array_equal(found.rotation, rotations[[10, 300, 500]])
    np.testing.assert_allclose(found.shift, some.shift / P, atol=1e-12)


@pytest.mark.parametrize("field", ["spacing", "step", "reach", "distance"])
def test_a_grid_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(InputError, match=f"{field} 0"):
        MatchingGrid(**({"spacing": 0.1, "step": 1.0} | {field: 0.0}))
