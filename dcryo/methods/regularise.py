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
from typing import Any

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

Real = NDArray[np.floating[Any]]

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
    ball: Real = field(init=False, repr=False)

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

    def apply(self, x: Real) -> Real:
        """S HᵀWH S x."""
        out = self._convolve(self.ball * x)
        out *= self.ball
        return out

    @cached_property
    def _constant(self) -> tuple[Real, float, float]:
        """Response Q 1 to the constant, 1ᵀQ1 and 1ᵀ S rhs."""
        one = np.ones_like(self.ball)
        response = self.apply(one)
        return response, inner(one, response), inner(one, self.linear)

    def quadratic(self, baseline: bool) -> Quadratic:
        """The data term; with ``baseline``, minimised over the free constant."""
        half_energy = 0.5 * self.equations.energy
        if not baseline:
            return Quadratic(self.apply, self.linear, self.lipschitz, half_energy, self.threads)
        response, curvature, slope = self._constant

        def apply(x: Real) -> Real:
            out = self.apply(x)
            out -= np.float32(inner(response, x, self.threads) / curvature) * response
            return out

        linear = self.linear - np.float32(slope / curvature) * response
        constant = half_energy - 0.5 * slope**2 / curvature
        return Quadratic(apply, linear, self.lipschitz, constant, self.threads)

    def coefficients(self, x: Real, baseline: bool) -> Real:
        """c = S (x + b), b the best constant."""
        if not baseline:
            return self.ball * x
        response, curvature, slope = self._constant
        b = np.float32((slope - inner(response, x)) / curvature)
        return self.ball * (x + b)

    def misfit(self, c: Real) -> float:
        """Data term 1/2 sum |b - Hc|^2 W of coefficients c: of other data, a cross-validation."""
        eq = self.equations
        return 0.5 * inner(c, self._convolve(c)) - inner(c, eq.rhs) + 0.5 * eq.energy

    def misfit_error(self, c: Real, other: Real) -> float:
        """Standard deviation, by the noise of these data, of the difference of two maps' misfits.

        The noise enters the difference as (c - other)ᵀ HᵀW noise, and the covariance of HᵀW noise is HᵀWH.
        """
        difference = c - other
        return math.sqrt(max(inner(difference, self._convolve(difference)), 0.0))


@dataclass(frozen=True)
class Solution:
    """A regularised map: unknown x, coefficients c, objective before every iteration, and why it stopped."""

    x: Real
    coefficients: Real
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
    return Solution(result.x, problem.coefficients(result.x, nonnegative), result.history, result.reason)


def solve_linear(
    problem: MapProblem, ridge: float = 0.5, tolerance: float = 1e-2, iterations: int = 30
) -> tuple[Real, list[float]]:
    """Tikhonov-regularised coefficients c = S x, (S HᵀWH S + R) x = S rhs, and the residual norms.

    R multiplies every Fourier shell by ``ridge`` times the mean of the kernel's spectrum there: it damps what
    the views of a shell hardly determine, alike at all resolutions and whatever the noise spectrum, and
    leaves the weights inside a shell, hence its FSC, to the data.  Linear in the images: the FSC of two such
    half maps cannot profit from a common prior.  Conjugate gradients, preconditioned by the spectrum itself.
    """
    n = problem.equations.n
    spectrum = problem.equations.spectrum
    workers = thread_count(problem.threads)
    damping = ridge * _radial_mean(spectrum, n)
    if spectrum.shape[0] % n == 0:
        every = spectrum.shape[0] // n
        diagonal = np.maximum(spectrum[::every, ::every, ::every][:, :, : n // 2 + 1], 0)
    else:
        diagonal = damping / np.float32(ridge)
    inverse = 1 / (diagonal + damping)

    def filtered(x: Real, factor: Real) -> Real:
        out: Real = scipy.fft.irfftn(scipy.fft.rfftn(x, workers=workers) * factor, s=x.shape, workers=workers)
        return out

    x, norms = conjugate_gradients(
        lambda v: problem.apply(v) + filtered(v, damping),
        problem.linear,
        precondition=lambda v: filtered(v, inverse),
        tolerance=tolerance,
        iterations=iterations,
    )
    return problem.ball * x, norms


def _radial_mean(spectrum: Real, n: int) -> Real:
    """Mean of a padded spectrum over shells, at the frequencies of a box of n: (n, n, n//2+1) float32."""
    length = spectrum.shape[0]
    frequency = np.fft.fftfreq(length, 1 / n)
    half = np.fft.rfftfreq(length, 1 / n)
    in_plane = frequency[:, None] ** 2 + half**2
    shells = n  # corners of the box lie below sqrt(3)/2 n
    total, count = np.zeros(shells), np.zeros(shells)
    for z, plane in zip(frequency, spectrum, strict=True):
        index = np.rint(np.sqrt(z * z + in_plane)).astype(np.intp).ravel()
        total += np.bincount(index, plane.ravel(), shells)
        count += np.bincount(index, minlength=shells)
    profile = total / np.maximum(count, 1)
    # beyond the band nothing is measured: keep the damping there at the level of the band's edge
    edge = (n - 1) // 2
    profile[edge:] = profile[edge]
    profile = np.maximum(profile, 1e-6 * profile.max())
    frequency = np.fft.fftfreq(n, 1 / n)
    squares = frequency**2
    radius = np.sqrt(squares[:, None, None] + squares[None, :, None] + np.fft.rfftfreq(n, 1 / n) ** 2)
    return np.asarray(np.interp(radius, np.arange(shells), profile), np.float32)
