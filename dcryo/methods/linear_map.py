"""The linear map of a particle set: conjugate gradients on its normal equations, and what surrounds it.

Linear in the images, so that the FSC of two such half maps is a resolution: they share no prior.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.arrays import namespace
from dcryo.methods.regularise import BALL_EDGE, BALL_MARGIN, MapProblem
from dcryo.operators.circulant import filtered
from dcryo.operators.compiled import thread_count
from dcryo.solvers.cg import conjugate_gradients

Real = NDArray[np.floating[Any]]

SURROUNDINGS = 0.85
"""The outermost shell of the ball begins at this part of its radius."""


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
    spectrum = problem.equations.spectrum.astype(np.float32, copy=False)
    workers = thread_count(problem.threads)
    damping = ridge * _radial_mean(spectrum, n)
    if spectrum.shape[0] % n == 0:
        every = spectrum.shape[0] // n
        diagonal = np.maximum(spectrum[::every, ::every, ::every][:, :, : n // 2 + 1], 0)
    else:
        diagonal = damping / np.float32(ridge)
    inverse = 1 / (diagonal + damping)
    x, norms = conjugate_gradients(
        lambda v: problem.apply(v) + filtered(v, damping, workers),
        problem.linear,
        precondition=lambda v: filtered(v, inverse, workers),
        tolerance=tolerance,
        iterations=iterations,
    )
    return problem.ball * x, norms


def surroundings(linear_map: Real) -> float:
    """Level of what surrounds the particle: the median of a linear map in the outermost shell of its ball."""
    n, xp = linear_map.shape[0], namespace(linear_map)
    inside = n / 2 - BALL_MARGIN - min(BALL_EDGE, n / 20)
    axis = (xp.arange(n) - n // 2) ** 2
    radius2 = axis[:, None, None] + axis[None, :, None] + axis
    shell = (radius2 <= inside**2) & (radius2 >= (SURROUNDINGS * inside) ** 2)
    return float(xp.median(linear_map[shell]))


def _radial_mean(spectrum: Real, n: int) -> Real:
    """Mean of a padded spectrum over shells, at the frequencies of a box of n: (n, n, n//2+1) float32."""
    length, xp = spectrum.shape[0], namespace(spectrum)
    frequency = xp.fft.fftfreq(length, 1 / n)
    half = xp.fft.rfftfreq(length, 1 / n)
    in_plane = frequency[:, None] ** 2 + half**2
    pairs = xp.full(len(half), 2.0)  # every plane x > 0 stands for its mirror image as well
    pairs[[0, -1]] = 1
    shells = n  # corners of the box lie below sqrt(3)/2 n
    total, count = xp.zeros(shells), xp.zeros(shells)
    for z, plane in zip(frequency, spectrum, strict=True):
        index = xp.rint(xp.sqrt(z * z + in_plane)).astype(np.intp).ravel()
        total += xp.bincount(index, (plane * pairs).ravel(), shells)
        count += xp.bincount(index, xp.broadcast_to(pairs, plane.shape).ravel(), shells)
    profile = total / xp.maximum(count, 1)
    # beyond the band nothing is measured: keep the damping there at the level of the band's edge
    edge = (n - 1) // 2
    profile[edge:] = profile[edge]
    profile = xp.maximum(profile, 1e-6 * profile.max())
    frequency = xp.fft.fftfreq(n, 1 / n)
    squares = frequency**2
    radius = xp.sqrt(squares[:, None, None] + squares[None, :, None] + xp.fft.rfftfreq(n, 1 / n) ** 2)
    mean: Real = xp.interp(radius, xp.arange(shells), profile).astype(np.float32)
    return mean
