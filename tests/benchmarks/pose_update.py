"""Three ways to update poses against one reference: Levenberg-Marquardt, Algorithm 5, projection matching.

    python tests/benchmarks/pose_update.py [--box 48] [--particles 100] [--seed 0] [--rounds 3]

Analytic projections of a cloud of Gaussians, without CTF, in white noise of -0.57 dB (section 4.2 of the
thesis); Euler angles and shifts off by Unif(+-0.2 rad) and Unif(+-1 px).  The reference is the true map cut
at a low frequency, which is where comparisons end as well.  CPU seconds of one thread, the least of some
rounds in which the ways take turns.  Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dcryo.geometry.rotations import euler_to_matrix, geodesic_distance, matrix_to_quaternion
from dcryo.imaging.particles import Optics, Particles
from dcryo.imaging.phantom import gaussian_cloud, project_gaussians, rasterise
from dcryo.operators.poses import PoseModel, PoseTerms
from dcryo.operators.projection_matching import MatchingGrid, match_projections
from dcryo.operators.projector import to_lattice
from dcryo.operators.views import Radial, Views, make_radial, make_views
from dcryo.solvers.pose_descent import gradient_descent
from dcryo.solvers.pose_fit import levenberg_marquardt

SNR = 10 ** (-0.57 / 10)
ANGLE, SHIFT = 0.2, 1.0
CUTOFF = 0.25
"""Band limit of the reference and of the comparison, cycles per pixel."""

Poses = tuple[np.ndarray, np.ndarray]


@dataclass
class Problem:
    """Images, a reference, true and given poses, and how many comparisons were made."""

    data: np.ndarray
    views: Views
    radial: Radial
    model: PoseModel
    box: int
    truth: Poses
    start: Poses
    radius: float
    comparisons: int = 0

    def evaluate(self, index: np.ndarray, rotation: np.ndarray, shift: np.ndarray) -> PoseTerms:
        self.comparisons += len(index)
        views = self.views.take(index).posed(rotation, shift)
        return self.model.terms(self.data[index], views, self.radial, box=self.box, radius=self.radius)


def low_passed(volume: np.ndarray, cutoff: float) -> np.ndarray:
    """Without the frequencies of ``cutoff`` cycles per voxel and more."""
    q = np.fft.fftfreq(len(volume)) ** 2
    spectrum = np.fft.fftn(volume)
    spectrum[q[:, None, None] + q[:, None] + q >= cutoff**2] = 0
    return np.fft.ifftn(spectrum).real.astype(np.float32)


def make_problem(box: int, count: int, seed: int) -> Problem:
    rng = np.random.default_rng(seed)
    cloud = gaussian_cloud(seed, round(90 * (box / 48) ** 3), 0.36 * box, 1.3)
    angles = np.stack(
        [
            rng.uniform(-np.pi, np.pi, count),
            np.arccos(rng.uniform(-1, 1, count)),
            rng.uniform(-np.pi, np.pi, count),
        ]
    )
    truth = euler_to_matrix(*angles), rng.uniform(-3, 3, (count, 2))
    start = (
        euler_to_matrix(*(angles + rng.uniform(-ANGLE, ANGLE, angles.shape))),
        truth[1] + rng.uniform(-SHIFT, SHIFT, (count, 2)),
    )
    clean = project_gaussians(cloud, *truth, box)
    sigma2 = np.square(clean, dtype=np.float64).mean() / SNR
    images = clean + np.sqrt(sigma2) * rng.standard_normal(clean.shape)
    particles = Particles.empty_columns(
        count,
        rotation=matrix_to_quaternion(truth[0]),
        shift=np.zeros((count, 2)),
        optics=(Optics(pixel_size=1.0, ctf=False),),
    )
    radial = make_radial(np.ones_like, [np.full(box // 2 + 1, sigma2)], box, [1.0])
    data, views = to_lattice(images.astype(np.float32), box), make_views(particles, 1.0)
    model = PoseModel(low_passed(rasterise(cloud, box), CUTOFF), threads=1)
    return Problem(data, views, radial, model, box, truth, start, CUTOFF * box)


def by_fit(steps: int) -> Callable[[Problem], Poses]:
    def way(problem: Problem) -> Poses:
        fit = levenberg_marquardt(problem.evaluate, *problem.start, steps=steps)
        return fit.rotation, fit.shift

    return way


def by_descent(steps: int) -> Callable[[Problem], Poses]:
    def way(problem: Problem) -> Poses:
        fit = gradient_descent(problem.evaluate, *problem.start, steps=steps)
        return fit.rotation, fit.shift

    return way


def by_matching(rounds: int) -> Callable[[Problem], Poses]:
    """Of a grid that reaches as far as the errors do, and is halved after every round."""

    def way(problem: Problem) -> Poses:
        poses = problem.start
        grid = MatchingGrid(0.6 * ANGLE, 0.5 * SHIFT)
        for _ in range(rounds):
            found = match_projections(
                problem.model, problem.data, problem.views, problem.radial, *poses, grid, box=problem.box,
                radius=problem.radius, threads=1,
            )  # fmt: skip
            problem.comparisons += len(found.score) * len(grid.turns()) * len(grid.shifts())
            poses = found.rotation, found.shift
            grid = grid.halved()
        return poses

    return way


WAYS: dict[str, Callable[[Problem], Poses]] = {
    "as given": lambda problem: problem.start,
    "Levenberg-Marquardt, 4 steps": by_fit(4),
    "Levenberg-Marquardt, 10 steps": by_fit(10),
    "Algorithm 5, K = 3": by_descent(3),
    "Algorithm 5, K = 10": by_descent(10),
    "Algorithm 5, K = 30": by_descent(30),
    "projection matching, 1 round": by_matching(1),
    "projection matching, 3 rounds": by_matching(3),
    "projection matching, 5 rounds": by_matching(5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--box", type=int, default=48)
    parser.add_argument("--particles", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    problem = make_problem(args.box, args.particles, args.seed)
    seconds = dict.fromkeys(WAYS, np.inf)
    rows: dict[str, tuple[np.ndarray, np.ndarray, int]] = {}
    for _ in range(args.rounds):
        for name, way in WAYS.items():
            problem.comparisons = 0
            began = time.process_time()
            rotation, shift = way(problem)
            seconds[name] = min(seconds[name], time.process_time() - began)
            turned = np.degrees(geodesic_distance(rotation, problem.truth[0]))
            moved = np.linalg.norm(shift - problem.truth[1], axis=1)
            rows[name] = turned, moved, problem.comparisons
    print("| way | angle, median [deg] | angle, p90 [deg] | shift, median [px] | shift, p90 [px] |"
          " comparisons per particle | CPU ms per particle |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for name, (turned, moved, comparisons) in rows.items():
        errors = [f"{np.percentile(x, q):.3g}" for x in (turned, moved) for q in (50, 90)]
        effort = f"{comparisons / args.particles:.1f} | {1e3 * seconds[name] / args.particles:.2f}"
        print(f"| {name} | {' | '.join(errors)} | {effort} |")


if __name__ == "__main__":
    main()
