"""Levenberg-Marquardt on poses: steps by hand on quadratics, and what it finds in images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import oracle
import pytest
from scipy.spatial.transform import Rotation

from dcryo.imaging.particles import Optics
from dcryo.imaging.phantom import gaussian_cloud, rasterise
from dcryo.operators.poses import PoseModel, PoseTerms
from dcryo.operators.projector import project, to_lattice
from dcryo.operators.views import Radial, Views, make_radial, make_views
from dcryo.solvers.pose_fit import (
    EASE,
    FIRST_DAMPING,
    TIGHTEN,
    PoseFit,
    levenberg_marquardt,
    posterior_points,
    shortened,
    uncertainty,
)

P = oracle.PIXEL
N = 18


@dataclass
class Bowl:
    """Costs 1/2 h |d|^2 + 1/2 t^T diag(k) t per particle, d the turn from the identity, as far as pi.

    A turn towards the identity stays on its great circle, where the cost is quadratic.  ``lie`` multiplies
    the curvature that is reported; ``calls`` are the particles of every evaluation.
    """

    h: np.ndarray
    k: np.ndarray
    lie: float = 1.0

    def __post_init__(self) -> None:
        self.calls: list[list[int]] = []

    def evaluate(self, index: np.ndarray, rotation: np.ndarray, shift: np.ndarray) -> PoseTerms:
        self.calls.append(index.tolist())
        d = -Rotation.from_matrix(rotation).as_rotvec()
        h, k = self.h[index], self.k[index]
        cost = 0.5 * h * (d**2).sum(1) + 0.5 * (k * shift**2).sum(1)
        curvature = np.concatenate([np.repeat(h[:, None], 3, 1), k], axis=1)
        gradient = np.concatenate([h[:, None] * d, k * shift], axis=1)
        return PoseTerms(cost, gradient, self.lie * curvature[:, :, None] * np.eye(5))


def turned(vectors: list[list[float]]) -> np.ndarray:
    return Rotation.from_rotvec(vectors).as_matrix()


def test_steps_on_a_bowl_are_damped_as_marquardt_says() -> None:
    """Damping in the diagonal: whatever the curvature, a step leaves the share w / (1 + w) of the way."""
    bowl = Bowl(np.array([3.0, 400.0]), np.array([[5.0, 0.2], [1e3, 50.0]]))
    vectors = [[0.1, -0.2, 0.05], [0.0, 0.3, 0.1]]
    shift = np.array([[0.7, -0.4], [0.1, 1.1]])
    left = 1.0
    for steps in range(4):
        fit = levenberg_marquardt(bowl.evaluate, turned(vectors), shift, steps=steps, tolerance=0)
        wanted = left * np.array(vectors)
        # FLOOR damps as well: 1e-9 of curvatures up to 25 times as large, beside a damping of 9e-4 or more
        np.testing.assert_allclose(
            Rotation.from_matrix(fit.rotation).as_rotvec(), wanted, rtol=1e-4, atol=1e-15
        )
        np.testing.assert_allclose(fit.shift, left * shift, rtol=1e-4)
        assert fit.accepted.tolist() == [steps, steps]
        np.testing.assert_allclose(fit.cost, bowl.evaluate(np.arange(2), fit.rotation, fit.shift).cost)
        damping = FIRST_DAMPING * EASE**steps
        left *= damping / (1 + damping)


def test_a_step_that_does_not_lower_the_cost_is_taken_back_and_damped() -> None:
    """Curvature ten times too small: steps are too long until the damping has grown over four."""
    bowl = Bowl(np.ones(1), np.ones((1, 2)), lie=0.1)
    rotation, shift = turned([[0, 0, 0]]), np.array([[0.3, -0.4]])
    assert FIRST_DAMPING * TIGHTEN**2 < 4 < FIRST_DAMPING * TIGHTEN**3
    for steps in range(4):
        fit = levenberg_marquardt(bowl.evaluate, rotation, shift, steps=steps, distance=100, tolerance=0)
        assert fit.accepted.tolist() == [0]
        np.testing.assert_array_equal(fit.shift, shift)
        np.testing.assert_array_equal(fit.cost, fit.first)
    fit = levenberg_marquardt(bowl.evaluate, rotation, shift, steps=4, distance=100, tolerance=0)
    assert fit.accepted.tolist() == [1]
    left = 1 - 10 / (1 + FIRST_DAMPING * TIGHTEN**3)
    np.testing.assert_allclose(fit.shift, left * shift, rtol=1e-7)
    assert fit.cost[0] < fit.first[0] == pytest.approx(0.125)


def test_a_step_goes_no_farther_than_the_data_are_trusted() -> None:
    bowl = Bowl(np.ones(3), np.ones((3, 2)))
    vectors = [[0.0, 0.8, 0.6], [0.0, 0.0, 0.01], [0.001, 0, 0]]
    shift = np.array([[0.1, 0.0], [3.0, 4.0], [0.2, 0.1]])
    fit = levenberg_marquardt(bowl.evaluate, turned(vectors), shift, steps=1, turn=0.25, distance=0.5)
    full = 1 / (1 + FIRST_DAMPING)
    # the whole step is shortened, in its direction: a quarter of the turn, and a tenth of the move
    shares = np.array([0.25, 0.1, full])
    wanted = (1 - shares)[:, None] * np.array(vectors)
    np.testing.assert_allclose(Rotation.from_matrix(fit.rotation).as_rotvec(), wanted, atol=1e-9)
    np.testing.assert_allclose(fit.shift, (1 - shares)[:, None] * shift, atol=1e-9)


def test_the_shorter_limit_decides() -> None:
    steps = np.array([[0.0, 0.6, 0.8, 3.0, 4.0], [0.0, 0.0, 2.0, 0.1, 0.0], [0.1, 0.0, 0.0, 0.0, 0.3]])
    shares = shortened(steps, 0.5, 1.0) / np.where(steps == 0, 1, steps)
    np.testing.assert_allclose(shares.max(axis=1), [0.2, 0.25, 1.0])
    np.testing.assert_allclose(shortened(steps, 0.5, 1.0), shares.max(axis=1)[:, None] * steps)


def test_what_is_at_its_best_is_not_evaluated_again() -> None:
    bowl = Bowl(np.ones(3), np.ones((3, 2)))
    shift = np.array([[0.5, 0.0], [0.0, 0.0], [0.05, 0.0]])
    # a full step of the last one promises 0.05^2 / 2
    fit = levenberg_marquardt(bowl.evaluate, turned([[0, 0, 0]] * 3), shift, steps=9, tolerance=2e-3)
    assert bowl.calls == [[0, 1, 2], [0]]
    np.testing.assert_array_equal(fit.shift[1:], shift[1:])
    assert fit.accepted.tolist() == [1, 0, 0]


def test_without_any_curvature_poses_stay() -> None:
    bowl = Bowl(np.zeros(2), np.zeros((2, 2)))
    shift = np.array([[0.5, 0.0], [0.0, 2.0]])
    fit = levenberg_marquardt(bowl.evaluate, turned([[0.1, 0, 0]] * 2), shift)
    np.testing.assert_array_equal(fit.shift, shift)
    assert len(bowl.calls) == 1


# --- images


OPTICS = Optics(pixel_size=P, beam_tilt=(2e-3, -1e-3))
SIGMA = 3.0
VOLUME = rasterise(gaussian_cloud(seed=2, count=20, radius=0.3 * N, width=1.2), N)


@dataclass(frozen=True)
class Images:
    """Noisy images of a phantom at known poses, ``image[i]`` that of pose i."""

    model: PoseModel
    data: np.ndarray
    views: Views
    radial: Radial
    rotation: np.ndarray
    shift: np.ndarray

    def evaluate(self, index: np.ndarray, rotation: np.ndarray, shift: np.ndarray) -> PoseTerms:
        views = self.views.take(index).posed(rotation, shift)
        return self.model.terms(self.data, views, self.radial, box=N, image=index)


def simulated(count: int, repeats: int, sigma: float) -> Images:
    """``repeats`` images with noise of deviation ``sigma`` at each of ``count`` poses."""
    given = oracle.example(count, 5, OPTICS)
    some = given.take(np.repeat(np.arange(count), repeats))
    radial = make_radial(oracle.flat, [np.full(N // 2 + 1, max(sigma, 1.0) ** 2)], N, [1.0])
    clean = project(VOLUME, make_views(some, P), radial, box=N, accuracy="accurate", threads=1)
    images = 200 / clean.std() * clean + sigma * oracle.noise(clean.shape, 11)
    still = replace(some, rotation=np.tile([0.0, 0, 0, 1], (len(some), 1)), shift=0 * some.shift)
    return Images(
        PoseModel(200 / clean.std() * VOLUME, "accurate", 1), to_lattice(images.astype(np.float32), N),
        make_views(still, P), radial, Rotation.from_quat(some.rotation).as_matrix(), some.shift / P,
    )  # fmt: skip


def perturbed(known: Images, turn: float, distance: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    vectors, moves = (rng.standard_normal((len(known.shift), d)) for d in (3, 2))
    vectors *= turn / np.linalg.norm(vectors, axis=1)[:, None]
    moves *= distance / np.linalg.norm(moves, axis=1)[:, None]
    return known.rotation @ Rotation.from_rotvec(vectors).as_matrix(), known.shift + moves


def off(known: Images, fit: PoseFit) -> tuple[np.ndarray, np.ndarray]:
    """Rotation vectors (P, 3) and shifts (P, 2) from the truth to what was found."""
    between = np.swapaxes(known.rotation, 1, 2) @ fit.rotation
    return -Rotation.from_matrix(between).as_rotvec(), fit.shift - known.shift


def test_a_pose_that_is_off_is_found_again_in_clean_images() -> None:
    known = simulated(12, 1, 0.0)
    rotation, shift = perturbed(known, 0.2, 0.8)
    fit = levenberg_marquardt(known.evaluate, rotation, shift, steps=12, tolerance=0)
    turns, moves = off(known, fit)
    # projector and terms share one accurate window, whose slopes err by 4e-5 of their size
    assert np.linalg.norm(turns, axis=1).max() < 2e-4
    assert np.linalg.norm(moves, axis=1).max() < 2e-3
    assert (fit.cost < 1e-6 * fit.first).all()
    # nothing below it: the gradient is zero there
    again = known.evaluate(np.arange(12), fit.rotation, fit.shift)
    np.testing.assert_array_equal(again.cost, fit.cost)
    np.testing.assert_array_equal(again.normal, fit.normal)


def test_a_particle_does_not_depend_on_its_batch() -> None:
    known = simulated(5, 2, SIGMA)
    rotation, shift = perturbed(known, 0.2, 0.8)
    # one that is done at once, so that the others' batches shrink
    rotation[3] = known.rotation[3]
    all_ = levenberg_marquardt(known.evaluate, rotation, shift)
    for some in ([0], [7, 3], [9, 8, 1]):

        def evaluate(
            index: np.ndarray, rotation: np.ndarray, shift: np.ndarray, some: list[int] = some
        ) -> PoseTerms:
            return known.evaluate(np.array(some)[index], rotation, shift)

        fit = levenberg_marquardt(evaluate, rotation[some], shift[some])
        for name in ("rotation", "shift", "cost", "first", "normal", "accepted"):
            np.testing.assert_array_equal(getattr(fit, name), getattr(all_, name)[some], err_msg=name)


# --- uncertainty


def test_uncertainty_is_that_of_the_inverse() -> None:
    rng = np.random.default_rng(4)
    root = rng.standard_normal((3, 7, 5)) * [1, 2, 30, 4, 0.5]
    normal = np.swapaxes(root, 1, 2) @ root
    turn, move = uncertainty(normal)
    for p in range(3):
        covariance = np.linalg.inv(normal[p])
        assert turn[p] == pytest.approx(np.sqrt(np.trace(covariance[:3, :3])), rel=1e-9)
        assert move[p] == pytest.approx(np.sqrt(np.trace(covariance[3:, 3:])), rel=1e-9)


def test_what_the_data_leave_open_has_no_uncertainty() -> None:
    """A turn about one axis that changes nothing, and a volume of nothing, beside a pose that is known."""
    normal = np.tile(np.eye(5), (3, 1, 1))
    normal[0, 2, 2] = 0
    normal[1] = 0
    turn, move = uncertainty(normal)
    assert np.isinf(turn[:2]).all()
    assert np.isinf(move[:2]).all()
    assert turn[2] == pytest.approx(np.sqrt(3))
    assert move[2] == pytest.approx(np.sqrt(2))


def test_ten_points_have_the_mean_and_the_covariance_of_the_posterior() -> None:
    rng = np.random.default_rng(4)
    root = rng.standard_normal((3, 9, 5)) * [300, 100, 200, 4, 9]
    normal = np.swapaxes(root, 1, 2) @ root
    normal[2, 4] = normal[2, :, 4] = 0  # of the last one a shift is open
    rotation, shift = Rotation.random(3, rng=rng).as_matrix(), rng.standard_normal((3, 2))
    points = posterior_points(rotation, shift, normal)
    turns = np.array([Rotation.from_matrix(np.swapaxes(rotation, 1, 2) @ r).as_rotvec() for r, _ in points])
    steps = np.concatenate([-turns, np.array([t - shift for _, t in points])], axis=2)
    assert steps.shape == (10, 3, 5)
    for p in range(2):
        wanted = np.linalg.inv(normal[p])
        size = np.sqrt(np.diag(wanted))
        np.testing.assert_allclose(steps[:, p].mean(axis=0), 0, atol=1e-9)
        covariance = np.einsum("sa,sb->ab", steps[:, p], steps[:, p]) / 10
        np.testing.assert_allclose(
            covariance / np.outer(size, size), wanted / np.outer(size, size), atol=1e-9
        )
    np.testing.assert_allclose(steps[:, 2], 0, atol=1e-12)
    near = posterior_points(rotation, shift, 1e-8 * normal, 0.1, 0.5)
    for turned_, moved in near:
        between = Rotation.from_matrix(np.swapaxes(rotation, 1, 2) @ turned_).magnitude()
        assert (between < 0.1 + 1e-9).all()
        assert (np.linalg.norm(moved - shift, axis=1) < 0.5 + 1e-9).all()


PARTS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "turn": lambda turns, moves: turns,
    "move": lambda turns, moves: moves,
}


@pytest.mark.parametrize("part", PARTS)
def test_uncertainty_is_the_spread_over_draws_of_the_noise(part: str) -> None:
    count, repeats = 3, 200
    known = simulated(count, repeats, 20.0)
    fit = levenberg_marquardt(known.evaluate, known.rotation, known.shift, steps=8, tolerance=1e-6)
    at_truth = known.evaluate(np.arange(count * repeats), known.rotation, known.shift)
    errors = PARTS[part](*off(known, fit)).reshape(count, repeats, -1)
    predicted = uncertainty(at_truth.normal)[part == "move"].reshape(count, repeats)[:, 0]
    found = (errors**2).sum(axis=2).mean(axis=1)
    covariance = np.linalg.inv(at_truth.normal[::repeats])
    block = covariance[:, :3, :3] if part == "turn" else covariance[:, 3:, 3:]
    # variance of |e|^2 of a normal e is 2 tr(C^2)
    deviation = np.sqrt(2 * np.einsum("pij,pij->p", block, block) / repeats)
    # errors are small enough for the quadratic model: 0.03 rad against a radian of features
    assert predicted.max() < (0.05 if part == "turn" else 0.5)
    assert (abs(found - predicted**2) < 3.5 * deviation).all()
    # each found pose tells its own uncertainty as well, to the few per cent by which it varies around it
    own = uncertainty(fit.normal)[part == "move"].reshape(count, repeats)
    assert (abs(own / predicted[:, None] - 1) < 0.2).mean() > 0.95
