"""From normal equations to maps: the problem on the ball, its priors, and the choice of the weight.

The unknown x lives on the voxels; the coefficients are c = S (x + b), with S a soft ball inside which the
kernel is exact, and b the level of the particle's surroundings: images have no absolute zero, so x >= 0 must
count from there.  b is measured once, on the linear map; were it free, x >= 0 would constrain nothing,
because total variation does not see constants and b could sink below the deepest voxel.  The data term is
1/2 cᵀ(r * c) - cᵀ rhs + 1/2 energy, and the weight of total variation is

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
"""Width of the ball's soft edge, voxels; less in boxes below 60, which it would confine."""

SURROUNDINGS = 0.85
"""The outermost shell of the ball begins at this part of its radius."""


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
        n = self.equations.n
        largest = n / 2 - BALL_MARGIN
        radius = largest if self.radius is None else min(self.radius, largest)
        edge = min(BALL_EDGE, n / 20)
        self.ball = soft_ball(n, max(radius - edge, 1.0), edge)
        if self.equations.count == 0:
            raise ValueError("there are no particles in these normal equations")
        self._convolve = Convolution(self.equations.spectrum, n, self.threads)
        # the solvers work in float32 whatever the accuracy of the equations
        self.linear = self.ball * np.asarray(self.equations.rhs, np.float32)

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
    result = solve(problem.quadratic(), prior, stop, None if start is None else start.x)
    return Solution(result.x, problem.coefficients(result.x), result.history, result.reason)


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
    spectrum = np.asarray(problem.equations.spectrum, np.float32)
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


def surroundings(linear_map: Real) -> float:
    """Level of what surrounds the particle: the median of a linear map in the outermost shell of its ball."""
    n = linear_map.shape[0]
    inside = n / 2 - BALL_MARGIN - min(BALL_EDGE, n / 20)
    axis = (np.arange(n) - n // 2) ** 2
    radius2 = axis[:, None, None] + axis[None, :, None] + axis
    shell = (radius2 <= inside**2) & (radius2 >= (SURROUNDINGS * inside) ** 2)
    return float(np.median(linear_map[shell]))


def _radial_mean(spectrum: Real, n: int) -> Real:
    """Mean of a padded spectrum over shells, at the frequencies of a box of n: (n, n, n//2+1) float32."""
    length = spectrum.shape[0]
    frequency = np.fft.fftfreq(length, 1 / n)
    half = np.fft.rfftfreq(length, 1 / n)
    in_plane = frequency[:, None] ** 2 + half**2
    pairs = np.full(len(half), 2.0)  # every plane x > 0 stands for its mirror image as well
    pairs[[0, -1]] = 1
    shells = n  # corners of the box lie below sqrt(3)/2 n
    total, count = np.zeros(shells), np.zeros(shells)
    for z, plane in zip(frequency, spectrum, strict=True):
        index = np.rint(np.sqrt(z * z + in_plane)).astype(np.intp).ravel()
        total += np.bincount(index, (plane * pairs).ravel(), shells)
        count += np.bincount(index, np.broadcast_to(pairs, plane.shape).ravel(), shells)
    profile = total / np.maximum(count, 1)
    # beyond the band nothing is measured: keep the damping there at the level of the band's edge
    edge = (n - 1) // 2
    profile[edge:] = profile[edge]
    profile = np.maximum(profile, 1e-6 * profile.max())
    frequency = np.fft.fftfreq(n, 1 / n)
    squares = frequency**2
    radius = np.sqrt(squares[:, None, None] + squares[None, :, None] + np.fft.rfftfreq(n, 1 / n) ** 2)
    return np.asarray(np.interp(radius, np.arange(shells), profile), np.float32)
