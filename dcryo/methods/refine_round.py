"""The part of an iteration of a refinement that sees no image: from committed sums to the next references.

Linear half maps say how far the halves agree, which is how far the poses of the next iteration may look;
regularised half maps are what the images are compared with.  Everything the next iteration needs is
committed, under one key, as the last act: a refinement resumes from the last of these states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.dataflow.accumulate import get_equations
from dcryo.dataflow.commits import Commits
from dcryo.dataflow.plan import Plan
from dcryo.dataflow.pose_tasks import PosePass
from dcryo.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix
from dcryo.geometry.symmetry import point_group
from dcryo.methods.linear_map import solve_linear, surroundings
from dcryo.methods.progress import Progress
from dcryo.methods.reconstruct_config import ReconstructConfig
from dcryo.methods.regularise import MapProblem, Method, Solution, solve_map
from dcryo.methods.weight import FIRST_WEIGHT
from dcryo.metrics.fsc import fsc_curve, mean_fsc, resolution, soft_ball
from dcryo.metrics.registration import register
from dcryo.metrics.rigid import Registration, half_spectrum, resampled
from dcryo.solvers.stopping import iterations, objective_gap

Float64 = NDArray[np.float64]
Real = NDArray[np.floating[Any]]

TOLERANCE = 1e-2
"""Of the solves of an iteration: its maps are looked at with poses that change again."""

ITERATIONS = 60
"""Of one of those solves at most."""

SUPPORT = 0.143
"""FSC of the linear half maps up to which poses are refined."""

MASK_EDGE = 3.0
"""Of the ball in which that FSC is measured, voxels."""

FRAME_SHELLS = 12.0
"""Half maps are brought into one frame by what they hold below so many Fourier voxels."""

WORTH = 1.1
"""A lighter prior must explain this many times as much of the other half's images."""

LEAST_WEIGHT = 0.02
"""The prior gets no lighter."""


@dataclass(frozen=True)
class RoundTask:
    """Solve an iteration and commit its state.

    pixel_size: of the images, Å; box: their side; key: of its state; before: of the one that the iteration
    before has left, or None.
    """

    of: PosePass
    plan: Plan
    config: ReconstructConfig
    pixel_size: float
    box: int
    key: str
    before: str | None


@dataclass(frozen=True)
class Round:
    """What an iteration found: also the meta data of its commit.

    support: Fourier pixels to which the half maps agree; fsc: by shell; n: side of its maps; weight and
    nonnegative: of the prior; rotation and translation: of half 2 against half 1; voxel: of these maps, Å.
    """

    n: int
    support: int
    fsc: list[float]
    resolution_0143_A: float
    resolution_05_A: float
    mean_fsc: float
    weight: float
    nonnegative: bool
    rotation: list[list[float]]
    translation: list[float]
    voxel: float

    def frames(self, n: int, turn: float, shift: float) -> tuple[tuple[int, Registration], ...]:
        """How the poses of half 2 are moved in the next iteration, if at all; in voxels of maps of side n.

        ``turn`` [rad] and ``shift`` [Å]: half maps of noise differ by as much from what they would be without
        it, and are left where they are unless they differ by more; NaN where that is not known.
        """
        frame = Registration(np.array(self.rotation), np.array(self.translation) * (n / self.n), 1.0)
        apart = float(np.linalg.norm(self.translation)) * self.voxel
        return ((2, frame),) if frame.angle > turn or apart > shift else ()


def solve_round(task: RoundTask, progress: Progress) -> Round:
    """Maps of the half sets, how far they agree, and the references of the next iteration, committed."""
    states = Commits(task.of.references)
    if states.has(task.key):
        return Round(**states.meta(task.key))
    sums = Commits(task.of.fold.commits)
    threads = task.of.fold.threads
    n = task.plan.n
    voxel = task.pixel_size * task.box / n
    diameter = task.config.mask_diameter
    radius = None if diameter is None else diameter / voxel / 2
    progress.start("maps", None)
    linear, problems = {}, {}
    for half in (1, 2):
        equations = get_equations(sums, task.plan.roots[half])
        linear[half] = solve_linear(MapProblem(equations, threads), task.config.ridge, TOLERANCE)[0]
        problems[half] = MapProblem(equations, threads, radius, surroundings(linear[half]))
    mask = soft_ball(n, min((diameter or 0.8 * task.box * task.pixel_size) / voxel / 2, 0.5 * n), MASK_EDGE)
    curve = fsc_curve(linear[1] * mask, linear[2] * mask)
    curve[(n - 1) // 2 + 1 :] = 0
    maps, weight, nonnegative = _regularised(task, problems, linear, states)
    frame = _frame(task, linear, int(support_of(curve)))
    found = Round(
        n, support_of(curve), [float(v) for v in curve], resolution(curve, 0.143, n, voxel),
        resolution(curve, 0.5, n, voxel), mean_fsc(curve), weight, nonnegative,
        frame.rotation.tolist(), frame.translation.tolist(), voxel,
    )  # fmt: skip
    states.put(task.key, {f"half{half}": np.asarray(m, np.float32) for half, m in maps.items()}, vars(found))
    return found


def support_of(curve: Float64) -> int:
    """The first shell where half maps do not agree any more."""
    below = np.flatnonzero(curve[1:] < SUPPORT)
    return int(below[0]) + 1 if len(below) else len(curve) - 1


def _regularised(
    task: RoundTask, problems: dict[int, MapProblem], linear: dict[int, Any], states: Commits
) -> tuple[dict[int, Any], float, bool]:
    """Regularised half maps; a weight that is to be found begins at that of the noise of one voxel.

    Cross-validation of maps that hardly need a prior, as coarse ones, finds next to none, and images that are
    compared with a map of their own noise confirm the poses that they have.  So the weight is halved only
    where that explains a good deal more of the other half's images, as where the map was all but empty.
    """
    config = task.config
    if config.prior == "none":
        return linear, 0.0, False
    method = Method(config.prior, config.solver, config.rho)
    stop = iterations(min(config.iterations, ITERATIONS)) | objective_gap(TOLERANCE)
    nonnegative = False if config.nonnegative == "auto" else bool(config.nonnegative)
    before = None if task.before is None else Round(**states.meta(task.before))
    known = {} if task.before is None else states.get(task.before)[0]
    starts = {h: _start(known[f"half{h}"], problem) if known else None for h, problem in problems.items()}

    def solved(weight: float, starts: Mapping[int, Solution | None]) -> dict[int, Solution]:
        return {
            half: solve_map(problem, weight, nonnegative, stop, starts[half], method=method)
            for half, problem in problems.items()
        }

    weight, free = FIRST_WEIGHT, config.weight == "auto"
    if config.weight != "auto":
        weight = float(config.weight)
    elif before is not None and before.n == task.plan.n:
        weight, free = before.weight, False
    maps = solved(weight, starts)
    fall = explained(problems, maps) if free else 0.0
    while free and weight > LEAST_WEIGHT:
        lighter = solved(weight / 2, maps)
        more = explained(problems, lighter)
        if more <= WORTH * fall:
            break
        maps, weight, fall = lighter, weight / 2, more
    return {half: solution.coefficients for half, solution in maps.items()}, weight, nonnegative


def explained(problems: Mapping[int, MapProblem], maps: Mapping[int, Solution]) -> float:
    """What half maps explain of each other's images: fall of the misfit against empty maps, at least 0."""
    fall = 0.0
    for half, problem in problems.items():
        fall += 0.5 * problem.equations.energy - problem.misfit(maps[3 - half].coefficients)
    return max(fall, 0.0)


def _start(known: Real, problem: MapProblem) -> Solution:
    """A map of the iteration before, as a solve begins with it."""
    n = problem.equations.n
    map_ = resampled(half_spectrum(known), len(known), n)
    return Solution(map_ - np.float32(problem.baseline), map_, [], "")


def _frame(task: RoundTask, linear: dict[int, Any], support: int) -> Registration:
    """Where half map 2 agrees with half map 1, along what the symmetry leaves free."""
    still = Registration(np.eye(3), np.zeros(3), 1.0)
    group = point_group(task.config.symmetry)
    cutoff = min(FRAME_SHELLS, float(support))
    if cutoff < 4:
        return still
    along_z = np.allclose(group[:, 2, 2], 1)
    if not along_z:
        return still  # its axes hold such a specimen in place
    found = register(linear[2], linear[1], cutoff)
    # sums of a BLAS depend on its threads in their last bits, poses must not
    quaternion = np.round(matrix_to_quaternion(found.rotation), 9)
    found = replace(
        found, rotation=quaternion_to_matrix(quaternion), translation=np.round(found.translation, 6)
    )
    if len(group) == 1:
        return found
    about = np.arctan2(found.rotation[1, 0], found.rotation[0, 0])
    turn = np.array([[np.cos(about), -np.sin(about), 0], [np.sin(about), np.cos(about), 0], [0, 0, 1.0]])
    return replace(found, rotation=turn, translation=found.translation * [0, 0, 1])
