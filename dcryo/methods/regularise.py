"""From normal equations to maps: the problem on the ball, its priors, and the choice of the weight.

The unknown x lives on the voxels; the coefficients are c = S (x + b), with S a soft ball inside which the
kernel is exact, and b a free constant where x >= 0 is asked for (a map has no absolute zero).  The data term
is  1/2 cᵀ(r * c) - cᵀ rhs + 1/2 energy,  and the weight of total variation is

    lambda = w sqrt(r[0]),

r[0] the variance per voxel of the noise in rhs.  So w is a pure number, and the same w fits half the data as
well as all of it: r[0] grows like the number of particles N, hence lambda like sqrt(N).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from dcryo.metrics.fsc import soft_ball
from dcryo.operators.compiled import thread_count
from dcryo.operators.normal import Convolution, NormalEquations
from dcryo.solvers.cg import conjugate_gradients
from dcryo.solvers.fista import Quadratic, inner, largest_eigenvalue, solve
from dcryo.solvers.prox import TotalVariation
from dcryo.solvers.stopping import Rule

Float32 = NDArray[np.float32]

BALL_MARGIN = 2.0
"""Voxels between the ball and the faces of the box."""

BALL_EDGE = 3.0
"""Width of the ball's soft edge, voxels."""


@dataclass
class MapProblem:
    """The data term of one particle set on the ball, for any prior.

    ``radius`` is that of the ball in voxels, its edge included; default and largest value n/2 - 2.
    Everything that costs a product with the kernel and does not depend on the prior is computed once: the
    largest eigenvalue, and the kernel's response to the constant.
    """

    equations: NormalEquations
    threads: int = 0
    radius: float | None = None
    ball: Float32 = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n = self.equations.n
        largest = n / 2 - BALL_MARGIN
        radius = largest if self.radius is None else min(self.radius, largest)
        self.ball = soft_ball(n, max(radius - BALL_EDGE, 1.0), BALL_EDGE)
        self._convolve = Convolution(self.equations.spectrum, n, self.threads)
        self.linear = self.ball * self.equations.rhs

    @cached_property
    def lipschitz(self) -> float:
        """Largest eigenvalue of S HᵀWH S; its eigenvector is smooth, so the ball is a good start."""
        return largest_eigenvalue(self.apply, self.ball)

    @cached_property
    def noise(self) -> float:
        """Standard deviation of the noise in one voxel of rhs."""
        return math.sqrt(max(self.equations.zero_lag(), 0.0))

    def apply(self, x: Float32) -> Float32:
        """S HᵀWH S x."""
        out = self._convolve(self.ball * x)
        out *= self.ball
        return out

    @cached_property
    def _constant(self) -> tuple[Float32, float, float]:
        """Response Q 1 to the constant, 1ᵀQ1 and 1ᵀ S rhs."""
        one = np.ones_like(self.ball)
        response = self.apply(one)
        return response, inner(one, response), inner(one, self.linear)

    def quadratic(self, baseline: bool) -> Quadratic:
        """The data term; with ``baseline``, minimised over the free constant."""
        half_energy = 0.5 * self.equations.energy
        if not baseline:
            return Quadratic(self.apply, self.linear, self.lipschitz, half_energy)
        response, curvature, slope = self._constant

        def apply(x: Float32) -> Float32:
            out = self.apply(x)
            out -= np.float32(inner(response, x) / curvature) * response
            return out

        linear = self.linear - np.float32(slope / curvature) * response
        return Quadratic(apply, linear, self.lipschitz, half_energy - 0.5 * slope**2 / curvature)

    def coefficients(self, x: Float32, baseline: bool) -> Float32:
        """c = S (x + b), b the best constant."""
        if not baseline:
            return self.ball * x
        response, curvature, slope = self._constant
        b = np.float32((slope - inner(response, x)) / curvature)
        return self.ball * (x + b)

    def misfit(self, c: Float32) -> float:
        """Data term 1/2 sum |b - Hc|^2 W of coefficients c: of other data, a cross-validation."""
        eq = self.equations
        return 0.5 * inner(c, self._convolve(c)) - inner(c, eq.rhs) + 0.5 * eq.energy


@dataclass(frozen=True)
class Solution:
    """A regularised map: unknown x, coefficients c, objective before every iteration, and why it stopped."""

    x: Float32
    coefficients: Float32
    history: list[float]
    reason: str


def solve_tv(
    problem: MapProblem, weight: float, nonnegative: bool, stop: Rule, start: Solution | None = None,
    prior: TotalVariation | None = None,
) -> Solution:  # fmt: skip
    """Total variation of weight ``weight`` (dimensionless), with or without x >= 0.

    ``start`` and ``prior`` (whose dual is the other half of the state) warm-start it.
    """
    if prior is None:
        prior = TotalVariation(0.0, threads=problem.threads)
    prior.weight = weight * problem.noise
    prior.nonnegative = nonnegative
    result = solve(problem.quadratic(nonnegative), prior, stop, None if start is None else start.x)
    return Solution(
        result.x, problem.coefficients(result.x, nonnegative), result.history, result.reason
    )


def solve_linear(
    problem: MapProblem, ridge: float = 1e-2, tolerance: float = 1e-3, iterations: int = 40
) -> tuple[Float32, list[float]]:
    """Tikhonov-regularised coefficients: (S HᵀWH S + mu) x = S rhs, mu = ridge * r[0].

    Linear in the images: the FSC of two such half maps cannot profit from a common prior.  Conjugate gradients,
    preconditioned by the kernel's spectrum sampled at the frequencies of the box.
    """
    n = problem.equations.n
    mu = np.float32(ridge * problem.noise**2)
    spectrum = problem.equations.spectrum
    workers = thread_count(problem.threads)
    if spectrum.shape[0] % n == 0:
        every = spectrum.shape[0] // n
        circulant = np.maximum(spectrum[::every, ::every, ::every], 0)[:, :, : n // 2 + 1]
        inverse = 1 / (circulant + mu)

        def precondition(x: Float32) -> Float32:
            return scipy.fft.irfftn(scipy.fft.rfftn(x, workers=workers) * inverse, s=x.shape, workers=workers)

    else:
        precondition = None  # type: ignore[assignment]
    x, norms = conjugate_gradients(
        lambda v: problem.apply(v) + mu * v, problem.linear, precondition=precondition, tolerance=tolerance,
        iterations=iterations,
    )  # fmt: skip
    return problem.ball * x, norms

