"""Gradient descent on poses: a step of it by brute force, and what it does on exact data terms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracle
import pytest
from scipy.spatial.transform import Rotation

from dcryo.imaging.particles import Optics, Particles
from dcryo.imaging.phantom import gaussian_cloud, rasterise
from dcryo.operators.poses import PoseTerms
from dcryo.solvers.pose_descent import TRIALS, gradient_descent
from dcryo.solvers.pose_fit import PoseFit

P = oracle.PIXEL
N = 12
COUNT = 4
OPTICS = Optics(pixel_size=P, beam_tilt=(2e-3, -1e-3))


class Problem:
    """Images of a phantom, and their exact data terms; ``calls`` are the particles of every evaluation."""

    def __init__(self, noise: float) -> None:
        self.particles = oracle.example(COUNT, 5, OPTICS)
        self.volume = rasterise(gaussian_cloud(seed=2, count=20, radius=0.3 * N, width=1.2), N)
        self.images = np.concatenate(
            [oracle.projected(self.one(p), N, detector=1).apply(self.volume) for p in range(COUNT)]
        )
        self.images += noise * self.images.std() * oracle.noise(self.images.shape, 7)
        self.rotation = Rotation.from_quat(self.particles.rotation).as_matrix()
        self.shift = self.particles.shift / P
        self.calls: list[list[int]] = []

    def one(self, p: int) -> Particles:
        return self.particles.take(np.array([p]))

    def terms(self, p: int, rotation: np.ndarray, shift: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        quaternion = Rotation.from_matrix(rotation[None]).as_quat()
        posed = replace(self.one(p), rotation=quaternion, shift=shift[None] * P)
        return oracle.pose_terms(posed, 0, self.volume, self.images[p])

    def evaluate(self, index: np.ndarray, rotation: np.ndarray, shift: np.ndarray) -> PoseTerms:
        self.calls.append(index.tolist())
        terms = [self.terms(p, r, t) for p, r, t in zip(index, rotation, shift, strict=True)]
        return PoseTerms(*(np.array(x) for x in zip(*terms, strict=True)))

    def perturbed(self, angle: float, distance: float) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(1)
        vectors = rng.standard_normal((COUNT, 3))
        vectors *= angle / np.linalg.norm(vectors, axis=1)[:, None]
        moves = rng.standard_normal((COUNT, 2))
        moves *= distance / np.linalg.norm(moves, axis=1)[:, None]
        return self.rotation @ Rotation.from_rotvec(vectors).as_matrix(), self.shift + moves

    def errors(self, fit: PoseFit) -> tuple[np.ndarray, np.ndarray]:
        turned = Rotation.from_matrix(np.swapaxes(self.rotation, 1, 2) @ fit.rotation).magnitude()
        return turned, np.linalg.norm(fit.shift - self.shift, axis=1)


@pytest.mark.parametrize("given", [False, True])
def test_a_step_is_the_first_of_its_lengths_that_lowers_the_cost(given: bool) -> None:
    problem = Problem(1.0)
    rotation, shift = problem.perturbed(0.3, 1.0)
    normals = np.array([np.diag(problem.terms(p, rotation[p], shift[p])[2]) for p in range(COUNT)])
    gammas = (1e-1, 1e1) if given else (4 / np.median(normals[:, :3]), 4 / np.median(normals[:, 3:]))
    fit = gradient_descent(
        problem.evaluate, rotation, shift, steps=1, first_steps=gammas if given else None, tolerance=0
    )
    shortened = 0
    for p in range(COUNT):
        best, turned, at = problem.terms(p, rotation[p], shift[p])[0], rotation[p], shift[p]
        assert fit.first[p] == pytest.approx(best, rel=1e-12)
        taken = 0
        for angles, gamma in zip((True, False), gammas, strict=True):
            slope = problem.terms(p, turned, at)[1]
            for trial in range(8):
                step = -gamma * 0.25**trial * slope
                if angles:
                    new = turned @ Rotation.from_rotvec(-step[:3]).as_matrix(), at
                else:
                    new = turned, at + step[3:]
                cost = problem.terms(p, *new)[0]
                if cost < best:
                    best, (turned, at) = cost, new
                    taken += 1
                    shortened += trial > 0
                    break
        np.testing.assert_allclose(fit.rotation[p], turned, atol=1e-12)
        np.testing.assert_allclose(fit.shift[p], at, atol=1e-12)
        assert fit.cost[p] == pytest.approx(best, rel=1e-12)
        assert fit.accepted[p] == taken
    assert shortened > 0


def test_cost_falls_step_by_step_and_belongs_to_the_pose() -> None:
    problem = Problem(1.0)
    rotation, shift = problem.perturbed(0.3, 1.0)
    before = np.full(COUNT, np.inf)
    for steps in range(4):
        fit = gradient_descent(problem.evaluate, rotation, shift, steps=steps)
        assert (fit.cost < before).all()
        before = fit.cost
    for p in range(COUNT):
        cost, _, normal = problem.terms(p, fit.rotation[p], fit.shift[p])
        assert fit.cost[p] == pytest.approx(cost, rel=1e-12)
        np.testing.assert_allclose(fit.normal[p], normal, rtol=1e-10, atol=1e-10 * abs(normal).max())
    np.testing.assert_allclose(
        fit.rotation @ np.swapaxes(fit.rotation, 1, 2), np.tile(np.eye(3), (COUNT, 1, 1)), atol=1e-12
    )


def test_a_small_error_is_undone_on_clean_images() -> None:
    problem = Problem(0.0)
    rotation, shift = problem.perturbed(0.1, 0.3)
    fit = gradient_descent(problem.evaluate, rotation, shift, steps=30)
    turned, moved = problem.errors(fit)
    print(turned, moved, fit.cost / fit.first, fit.accepted)
    # gradient descent is slow along what the image sees least: a tenth of the errors is left of one of four
    assert turned.max() < 0.01
    assert moved.max() < 0.01


def test_what_is_at_its_best_is_not_evaluated_again() -> None:
    problem = Problem(0.0)
    rotation, shift = problem.perturbed(0.1, 0.3)
    rotation[2], shift[2] = problem.rotation[2], problem.shift[2]
    fit = gradient_descent(problem.evaluate, rotation, shift, steps=3)
    assert fit.accepted[2] == 0
    np.testing.assert_array_equal(fit.rotation[2], rotation[2])
    times = [sum(p in call for call in problem.calls) for p in range(COUNT)]
    assert times[2] == 1
    assert all(problem.calls)
    # the others are at it to the end
    assert all(fit.accepted[p] == 6 and times[p] >= 7 for p in (0, 1, 3))


def test_a_step_that_promises_too_little_is_not_tried() -> None:
    problem = Problem(1.0)
    rotation, shift = problem.perturbed(0.3, 1.0)
    gammas = (1e-2, 1.0)
    slopes = np.array([problem.terms(p, rotation[p], shift[p])[1] for p in range(COUNT)])
    promise = gammas[0] * (slopes[:, :3] ** 2).sum(axis=1)
    tolerance = float(np.sort(promise)[1:3].mean())
    gradient_descent(problem.evaluate, rotation, shift, steps=1, first_steps=gammas, tolerance=tolerance)
    assert problem.calls[0] == list(range(COUNT))
    assert problem.calls[1] == np.flatnonzero(promise > tolerance).tolist()
    assert len(problem.calls[1]) == 2


def test_what_no_length_of_a_step_helps_is_given_up() -> None:
    """Cost that rises with every look at it, for one of two particles."""
    calls: list[list[int]] = []

    def evaluate(index: np.ndarray, rotation: np.ndarray, shift: np.ndarray) -> PoseTerms:
        calls.append(index.tolist())
        cost = np.where(index == 0, len(calls), -len(calls)).astype(float)
        return PoseTerms(cost, np.ones((len(index), 5)), np.tile(np.eye(5), (len(index), 1, 1)))

    poses = np.tile(np.eye(3), (2, 1, 1)), np.zeros((2, 2))
    fit = gradient_descent(evaluate, *poses, steps=3, tolerance=0)
    assert fit.accepted.tolist() == [0, 6]
    # all lengths of a turn and of a move, of which the other particle shares the first
    once = [[0, 1]] + [[0]] * (TRIALS - 1)
    assert calls == [[0, 1]] + 2 * once + 4 * [[1]]


def test_an_empty_volume_moves_nothing() -> None:
    problem = Problem(1.0)
    problem.volume = 0 * problem.volume
    fit = gradient_descent(problem.evaluate, problem.rotation, problem.shift)
    np.testing.assert_array_equal(fit.rotation, problem.rotation)
    np.testing.assert_array_equal(fit.shift, problem.shift)
    assert len(problem.calls) == 1
