"""Fitting the poses of many particles at once: Levenberg-Marquardt on SO(3) x R^2.

A pose moves by five numbers: a rotation vector d in the frame of the volume, A -> A exp(-[d]x), and a shift
in pixels.  Every particle has its own damping and its own trust region, and one that has converged is not
evaluated again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dcryo.geometry.rotations import rotation_vector_to_matrix

Float64 = NDArray[np.float64]

TURNS = slice(0, 3)
"""The rotation vector among the five numbers."""

MOVES = slice(3, 5)
"""The shift among them."""

FIRST_DAMPING = 1e-2
"""Damping of the first step, in the diagonal of the Gauss-Newton matrix (Levenberg-Marquardt)."""

EASE, TIGHTEN = 0.3, 8.0
"""What a step that lowers the cost, and one that does not, multiply the damping with."""

FLOOR = 1e-9
"""Damping of what the data do not see, in the largest diagonal element."""


class Terms(Protocol):
    """Costs (P,), gradients (P, 5) and Gauss-Newton matrices (P, 5, 5) of P particles."""

    @property
    def cost(self) -> Float64:
        """Data terms."""

    @property
    def gradient(self) -> Float64:
        """Their gradients."""

    @property
    def normal(self) -> Float64:
        """Their Gauss-Newton matrices."""


Evaluate = Callable[[NDArray[np.intp], Float64, Float64], Terms]
"""Terms of the particles ``index`` (Q,) at the rotations (Q, 3, 3) and shifts (Q, 2) [pixels]."""


@dataclass(frozen=True)
class PoseFit:
    """Poses found for P particles.

    rotation (P, 3, 3); shift (P, 2) pixels; cost (P,) at them and first (P,) where they began; normal
    (P, 5, 5) the Gauss-Newton matrix there; accepted (P,) steps that lowered the cost.
    """

    rotation: Float64
    shift: Float64
    cost: Float64
    first: Float64
    normal: Float64
    accepted: NDArray[np.int64]


def move(rotation: Float64, shift: Float64, step: Float64) -> tuple[Float64, Float64]:
    """Poses after steps (P, 5): A exp(-[d]x), and the shifts."""
    return rotation @ rotation_vector_to_matrix(-step[:, TURNS]), shift + step[:, MOVES]


def shortened(step: Float64, turn: float, distance: float) -> Float64:
    """Steps (P, 5) in their direction, turning by at most ``turn`` rad and moving by ``distance`` pixels."""
    turned = np.linalg.norm(step[:, TURNS], axis=1) / turn
    moved = np.linalg.norm(step[:, MOVES], axis=1) / distance
    shorter: Float64 = step / np.maximum(1.0, np.maximum(turned, moved))[:, None]
    return shorter


def levenberg_marquardt(
    evaluate: Evaluate, rotation: Float64, shift: Float64, *, steps: int = 4, turn: float = 0.35,
    distance: float = 2.0, tolerance: float = 1e-4,
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
        At most so many, each an evaluation.
    turn, distance : float
        Longest step: rad, pixels.
    tolerance : float
        A particle is done when the quadratic model promises less than this: the cost is minus a log
        likelihood, so that 1e-4 is nothing against the uncertainty of the pose.
    """
    everyone = np.arange(len(rotation))
    rotation, shift = np.array(rotation, np.float64), np.array(shift, np.float64)
    terms = evaluate(everyone, rotation, shift)
    cost, gradient, normal = terms.cost.copy(), terms.gradient.copy(), terms.normal.copy()
    first = cost.copy()
    damping = np.full(len(rotation), FIRST_DAMPING)
    accepted = np.zeros(len(rotation), np.int64)
    active = everyone
    for _ in range(steps):
        step = shortened(_damped_step(normal[active], gradient[active], damping[active]), turn, distance)
        promised = _promised(normal[active], gradient[active], step)
        worth = promised > tolerance
        active, step = active[worth], step[worth]
        if not len(active):
            break
        tried_rotation, tried_shift = move(rotation[active], shift[active], step)
        tried = evaluate(active, tried_rotation, tried_shift)
        better = tried.cost < cost[active]
        damping[active] *= np.where(better, EASE, TIGHTEN)
        won = active[better]
        rotation[won], shift[won] = tried_rotation[better], tried_shift[better]
        cost[won], gradient[won], normal[won] = (
            tried.cost[better], tried.gradient[better], tried.normal[better]
        )  # fmt: skip
        accepted[won] += 1
    return PoseFit(rotation, shift, cost, first, normal, accepted)


def _damped_step(normal: Float64, gradient: Float64, damping: Float64) -> Float64:
    diagonal = np.diagonal(normal, axis1=1, axis2=2)
    added = damping[:, None] * diagonal + FLOOR * diagonal.max(axis=1, keepdims=True) + 1e-300
    system = normal + added[:, :, None] * np.eye(normal.shape[1])
    return -np.linalg.solve(system, gradient[:, :, None])[:, :, 0]


def _promised(normal: Float64, gradient: Float64, step: Float64) -> Float64:
    """Fall of the quadratic model of the cost along a step."""
    curved: Any = np.einsum("pi,pij,pj->p", step, normal, step)
    fall: Float64 = -np.einsum("pi,pi->p", gradient, step) - 0.5 * curved
    return fall


def posterior_points(
    rotation: Float64, shift: Float64, normal: Float64, turn: float = 0.35, distance: float = 2.0
) -> list[tuple[Float64, Float64]]:
    """Ten poses of each particle that stand for its posterior, all of one weight.

    With exp(-cost) the likelihood and ``normal`` its curvature, the posterior of the five numbers is a
    Gaussian of the covariance ``normal``^-1 (Laplace); the points +-sqrt(5) times the columns of its Cholesky
    factor have its mean and its covariance (spherical cubature, Arasaratnam and Haykin 2009, IEEE TAC
    54:1254).  A particle whose pose the data leave open keeps the one it has; no point is farther away than
    ``turn`` rad and ``distance`` pixels.
    """
    eigenvalues, vectors = np.linalg.eigh(normal)
    open_ = ~(eigenvalues[:, 0] > 1e-12 * np.maximum(eigenvalues[:, -1], 1e-300))
    root = vectors / np.sqrt(np.where(open_[:, None], 1, eigenvalues))[:, None, :]
    root[open_] = 0
    numbers = normal.shape[1]
    steps = [sign * math.sqrt(numbers) * root[:, :, i] for i in range(numbers) for sign in (1, -1)]
    return [move(rotation, shift, shortened(step, turn, distance)) for step in steps]


def uncertainty(normal: Float64) -> tuple[Float64, Float64]:
    """Standard deviations of rotation [rad] and shift [pixels] of a pose, (P,) each.

    From the inverse of the Gauss-Newton matrix, the curvature of minus the log likelihood where residuals are
    whitened (Laplace's approximation): the root mean square of the rotation vector's length, and of the
    shift's.  Infinite where the data leave a pose open.
    """
    eigenvalues = np.linalg.eigvalsh(normal)
    open_ = ~(eigenvalues[:, 0] > 1e-12 * np.maximum(eigenvalues[:, -1], 1e-300))
    covariance = np.linalg.inv(np.where(open_[:, None, None], np.eye(normal.shape[1]), normal))
    variances = np.diagonal(covariance, axis1=1, axis2=2)
    turn, distance = np.sqrt(variances[:, TURNS].sum(axis=1)), np.sqrt(variances[:, MOVES].sum(axis=1))
    return np.where(open_, np.inf, turn), np.where(open_, np.inf, distance)
