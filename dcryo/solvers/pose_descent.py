"""Fitting the poses of many particles at once: gradient descent with backtracking.

Algorithm 5 of Donati (EPFL thesis, 2020), the yardstick for :mod:`dcryo.solvers.pose_fit`.  Rotations and
shifts take turns, each with a step of its own that is shortened until the cost falls.  The thesis steps in
Euler angles; here a rotation moves by its rotation vector, A -> A exp(-[d]x), which has no poles.
"""

from __future__ import annotations

import numpy as np

from dcryo.solvers.pose_fit import MOVES, TURNS, Evaluate, Float64, PoseFit, move

SHRINK = 0.25
"""What a step that does not lower the cost is multiplied with: eta."""

TRIALS = 8
"""Lengths of a step that are tried: the last is 1/16384 of the first."""

REACH = 4.0
"""First steps, in inverses of the median curvature: long ones, which backtracking shortens."""

TINY = 1e-300
"""Curvature of an empty volume, which no step changes."""


def gradient_descent(
    evaluate: Evaluate, rotation: Float64, shift: Float64, *, steps: int = 3,
    first_steps: tuple[float, float] | None = None, tolerance: float = 1e-4,
) -> PoseFit:  # fmt: skip
    """Poses of lower cost, from given ones on.

    Parameters
    ----------
    evaluate : callable
        Cost, gradient and Gauss-Newton matrix.
    rotation : (P, 3, 3)
    shift : (P, 2)
        Pixels.
    steps : int
        Of the rotation and of the shift each, K_GD; a step has one evaluation or more.
    first_steps : (float, float), optional
        What multiplies the gradients of rotation and shift in the first trial of every step, gamma_theta and
        gamma_t.  By default four times the inverse of the median curvature at the given poses.
    tolerance : float
        A step is not tried where the slope promises a fall of less than this: the cost is minus a log
        likelihood.  A particle that neither turns nor moves any more is not evaluated again.
    """
    everyone = np.arange(len(rotation))
    rotation, shift = np.array(rotation, np.float64), np.array(shift, np.float64)
    terms = evaluate(everyone, rotation, shift)
    cost, gradient, normal = terms.cost.copy(), terms.gradient.copy(), terms.normal.copy()
    first = cost.copy()
    gammas = first_steps or _first_steps(normal)
    accepted = np.zeros(len(rotation), np.int64)
    moving = everyone
    for _ in range(steps):
        before = accepted.copy()
        for part, gamma in zip((TURNS, MOVES), gammas, strict=True):
            trying = moving
            for length in gamma * SHRINK ** np.arange(TRIALS):
                trying = trying[length * np.square(gradient[trying, part]).sum(axis=1) > tolerance]
                if not len(trying):
                    break
                step = np.zeros_like(gradient[trying])
                step[:, part] = -length * gradient[trying, part]
                tried_rotation, tried_shift = move(rotation[trying], shift[trying], step)
                tried = evaluate(trying, tried_rotation, tried_shift)
                better = tried.cost < cost[trying]
                won, trying = trying[better], trying[~better]
                rotation[won], shift[won] = tried_rotation[better], tried_shift[better]
                cost[won], gradient[won], normal[won] = (
                    tried.cost[better], tried.gradient[better], tried.normal[better]
                )  # fmt: skip
                accepted[won] += 1
        # what stood still in both would do so again
        moving = moving[accepted[moving] > before[moving]]
    return PoseFit(rotation, shift, cost, first, normal, accepted)


def _first_steps(normal: Float64) -> tuple[float, float]:
    """Steps of rotation and shift from the curvature of all particles."""
    curvature = np.diagonal(normal, axis1=1, axis2=2)
    turn, distance = (REACH / max(float(np.median(curvature[:, part])), TINY) for part in (TURNS, MOVES))
    return turn, distance
