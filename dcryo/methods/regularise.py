"""From normal equations to maps: the problem on the ball, and its solution with any prior by any solver.

The unknown x lives on the voxels; the coefficients are c = S (x + b), with S a soft ball inside which the
kernel is exact, and b the level of the particle's surroundings: images have no absolute zero, so x >= 0 must
count from there.  b is measured once, on the linear map; were it free, x >= 0 would constrain nothing,
because the priors do not see constants and b could sink below the deepest voxel.  The data term is
1/2 cᵀ(r * c) - cᵀ rhs + 1/2 energy, and the weight of the prior is

    lambda = w sqrt(r[0]),

r[0] the variance per voxel of the noise in rhs.  So w is a pure number, and the same w fits half the data as
well as all of it: r[0] grows like the number of particles N, hence lambda like sqrt(N).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.arrays import namespace
from dcryo.metrics.fsc import soft_ball
from dcryo.operators.circulant import nearest_circulant
from dcryo.operators.compiled import thread_count
from dcryo.operators.gradient import Gradient
from dcryo.operators.normal import Convolution, NormalEquations
from dcryo.operators.wavelet import Haar
from dcryo.solvers import admm, fista
from dcryo.solvers.driver import Result
from dcryo.solvers.fista import Quadratic, inner
from dcryo.solvers.linear_step import InnerCG, LinearStep, Majorised
from dcryo.solvers.majoriser import largest_eigenvalue_bound, majoriser, positive
from dcryo.solvers.prox import AnalysisPrior
from dcryo.solvers.stopping import Rule

Real = NDArray[np.floating[Any]]

BALL_MARGIN = 2.0
"""Voxels between the ball and the faces of the box."""

BALL_EDGE = 3.0
"""Width of the ball's soft edge, voxels; less in boxes below 60, which it would confine."""

NORM_STEPS = 5
"""Lanczos steps for the largest eigenvalue of the data term, each a product; FISTA mends an underestimate."""

RHO = 0.5
"""Penalty of ADMM where it is "auto": per weight of the prior, in the data term's largest eigenvalue."""

LEAST_WEIGHT = 0.05
"""The penalty follows the weight no further down."""

CG_STEPS = 3
"""Inner conjugate gradients of the thesis' ADMM."""

SHARE = 0.55
"""What is taken of the circular majoriser: above one half the iteration converges, the less the faster."""


@dataclass
class MapProblem:
    """The data term of one particle set on the ball, for any prior.

    ``radius`` is that of the ball in voxels, its edge included; default and largest value n/2 - 2;
    ``baseline`` the level b of the surroundings.
    """

    equations: NormalEquations
    threads: int = 0
    radius: float | None = None
    baseline: float = 0.0
    ball: Real = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n, xp = self.equations.n, namespace(self.equations.rhs)
        largest = n / 2 - BALL_MARGIN
        radius = largest if self.radius is None else min(self.radius, largest)
        edge = min(BALL_EDGE, n / 20)
        self.ball = xp.asarray(soft_ball(n, max(radius - edge, 1.0), edge))
        if self.equations.count == 0:
            raise ValueError("there are no particles in these normal equations")
        self._convolve = Convolution(self.equations.spectrum, n, self.threads)
        # the solvers work in float32 whatever the accuracy of the equations
        self.linear = self.ball * self.equations.rhs.astype(np.float32, copy=False)

    @cached_property
    def lipschitz(self) -> float:
        """Largest eigenvalue of S HᵀWH S to some percent; its vector is smooth, the ball a good start."""
        return largest_eigenvalue_bound(self.apply, self.ball, NORM_STEPS)

    @cached_property
    def circulant(self) -> Real:
        """The circular convolution nearest to S HᵀWH S, its eigenvalues lifted off zero."""
        return positive(nearest_circulant(self.equations.spectrum, self.ball, thread_count(self.threads)))

    @cached_property
    def majoriser(self) -> Real:
        """Its multiple that S HᵀWH S never exceeds."""
        return majoriser(self.apply, self.circulant, self.ball.shape, workers=thread_count(self.threads))

    @cached_property
    def noise(self) -> float:
        """Standard deviation of the noise in one voxel of rhs."""
        return math.sqrt(max(self.equations.zero_lag(), 0.0))

    def apply(self, x: Real) -> Real:
        """S HᵀWH S x."""
        out = self._convolve(self.ball * x)
        out *= self.ball
        return out

    def quadratic(self) -> Quadratic:
        """The data term as a function of x."""
        constant = 0.5 * self.equations.energy
        if self.baseline == 0:
            return Quadratic(self.apply, self.linear, self.lipschitz, constant, self.threads)
        b = self.baseline
        one = np.ones_like(self.ball)
        response = self.apply(one)
        constant += 0.5 * b * b * inner(one, response, self.threads) - b * inner(
            one, self.linear, self.threads
        )
        linear = self.linear - np.float32(b) * response
        return Quadratic(self.apply, linear, self.lipschitz, constant, self.threads)

    def coefficients(self, x: Real) -> Real:
        """c = S (x + b)."""
        return self.ball * (x + np.float32(self.baseline))

    def misfit(self, c: Real) -> float:
        """Data term 1/2 sum |b - Hc|^2 W of coefficients c: of other data, a cross-validation."""
        eq = self.equations
        product = inner(c, self._convolve(c), self.threads)
        return 0.5 * product - inner(c, eq.rhs, self.threads) + 0.5 * eq.energy

    def misfit_error(self, c: Real, other: Real) -> float:
        """Standard deviation, by the noise of these data, of the difference of two maps' misfits.

        The noise enters the difference as (c - other)ᵀ HᵀW noise, and the covariance of HᵀW noise is HᵀWH.
        """
        difference = c - other
        return math.sqrt(max(inner(difference, self._convolve(difference), self.threads), 0.0))


@dataclass(frozen=True)
class Solution:
    """A regularised map: unknown x, coefficients c, objective before every iteration, and why it stopped."""

    x: Real
    coefficients: Real
    history: list[float]
    reason: str


@dataclass(frozen=True)
class Method:
    """Prior and solver of a regularised map, by the names of the settings of a reconstruction."""

    prior: str = "tv"
    solver: str = "auto"
    rho: float | str = "auto"

    def make_prior(self, threads: int = 0) -> AnalysisPrior:
        """The prior, its dual at zero; a weight is set by :func:`solve_map`."""
        match self.prior:
            case "haar":
                # the frame is tight: a dual step solves nearly all of its prox
                return AnalysisPrior(Haar(threads), 0.0, steps=2)
            case "tv-aniso":
                return AnalysisPrior(Gradient(isotropic=False, threads=threads), 0.0)
        return AnalysisPrior(Gradient(threads=threads), 0.0)

    def make_scheme(self, problem: MapProblem, weight: float) -> admm.Scheme:
        """The linear step and the penalty of the ADMM ones among the solvers."""
        step: LinearStep
        match self.solver:
            case "admm-cg":
                step = InnerCG(CG_STEPS)
            case "admm-pcg":
                step = InnerCG(1, problem.circulant, carried=True)
            case "ilf":
                step = Majorised(problem.lipschitz)
            case _:
                step = Majorised(np.float32(SHARE) * problem.majoriser)
        rho = RHO * max(weight, LEAST_WEIGHT) if self.rho == "auto" else float(self.rho)
        return admm.Scheme(step, rho * problem.lipschitz)


DEFAULT = Method()


def solve_map(
    problem: MapProblem, weight: float, nonnegative: bool, stop: Rule, start: Solution | None = None,
    prior: AnalysisPrior | None = None, method: Method = DEFAULT,
) -> Solution:  # fmt: skip
    """The map with a prior of weight ``weight`` (dimensionless), with or without x >= 0.

    ``start`` and ``prior`` (whose duals are the other half of the state) warm-start it.
    """
    if prior is None:
        prior = method.make_prior(problem.threads)
    prior.weight = weight * problem.noise
    prior.nonnegative = nonnegative
    x = None if start is None else start.x
    quadratic = problem.quadratic()
    result: Result[Any]
    if method.solver in ("auto", "fista"):
        result = fista.solve(quadratic, prior, stop, x)
    else:
        result = admm.solve(quadratic, prior, method.make_scheme(problem, weight), stop, x)
    return Solution(result.x, problem.coefficients(result.x), result.history, result.reason)
