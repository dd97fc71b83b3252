"""What timed results are compared with: formulas, and plain sums in float64 that share no code with them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from dcryo.bench.timed_views import OBJECT_RADIUS, Problem
from dcryo.imaging.ctf import ctf_image
from dcryo.imaging.phantom import images, project_fourier
from dcryo.metrics.fsc import fsc_curve, mean_fsc, soft_ball
from dcryo.operators.compiled import blocks
from dcryo.operators.normal import Convolution

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

POINTS = 200
"""Voxels, or lags, that a plain sum is made for."""

BLOCK = 32
"""Views that a plain sum takes at once."""

MASK_RADIUS, MASK_EDGE = 0.3, 5.0
"""Ball that maps are compared in: boxes, pixels."""


def relative(result: NDArray[Any], truth: NDArray[Any]) -> float:
    """|result - truth| / |truth|."""
    wanted = np.asarray(truth, np.float64)
    return float(np.linalg.norm(np.asarray(result, np.float64) - wanted) / np.linalg.norm(wanted))


def in_band(n: int) -> NDArray[np.bool_]:
    """Where the lattice of ``rfft2`` lies below Nyquist in all directions, (n, n // 2 + 1)."""
    return np.asarray(np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)) < 0.5)


def projection_error(problem: Problem, result: Float32) -> float:
    """Relative error of Hc against the analytic projections of the Gaussians, through the CTF, in the band.

    The transform of a Gaussian is a Gaussian, and a slice of it is the transform of its projection: no grid
    was projected.  c are samples of the cloud.
    """
    n, band = problem.box, in_band(problem.box)
    wrong = size = 0.0
    for part in blocks(len(problem), BLOCK):
        slices = project_fourier(problem.cloud, problem.views.rotation[part], n) * band
        particles = problem.particles.take(part)
        wanted = images(slices * ctf_image(particles, particles.optics[0].pixel_size, n), n)
        wrong += float(np.square(result[part] - wanted, dtype=np.float64).sum())
        size += float(np.square(wanted, dtype=np.float64).sum())
    return math.sqrt(wrong / size)


def backprojection_error(problem: Problem, data: Float32, result: Float32) -> float:
    """Relative error of Hᵀb against its definition, a plain sum over all frequencies, on random voxels."""
    n, band = problem.box, in_band(problem.box)
    voxel = _in_ball(min(0.45 * n, n / 2 - 1))
    total = np.zeros(len(voxel))
    for part in blocks(len(problem), BLOCK):
        particles = problem.particles.take(part)
        centred = scipy.fft.ifftshift(np.asarray(data[part], np.float64), axes=(1, 2))
        spectrum = scipy.fft.rfft2(centred) * band
        spectrum *= np.conj(ctf_image(particles, particles.optics[0].pixel_size, n))
        total += _plain_sum(spectrum, problem.views.rotation[part], voxel)
    z, y, x = voxel.T[::-1] + n // 2
    return relative(result[z, y, x], total / n**2)


def lattice_kernel_error(problem: Problem, result: Float32) -> float:
    """Relative error of a kernel (2n, 2n, 2n) without CTF against the plain sum, on random lags."""
    n, band = problem.box, in_band(problem.box)
    lag = _in_ball(0.9 * n)
    total = np.zeros(len(lag))
    for part in blocks(len(problem), BLOCK):
        rotation = problem.views.rotation[part]
        flat = np.broadcast_to(band.astype(np.complex128), (len(rotation), *band.shape))
        total += _plain_sum(flat, rotation, lag)
    z, y, x = lag.T[::-1] + n
    return relative(result[z, y, x], total)


def kernel_error(problem: Problem) -> float:
    """Relative error of HᵀHc by our kernel, c the cloud, of the first views without CTF, on random voxels.

    Against the analytic slices of the Gaussians, backprojected by a plain sum.  Voxels lie where the object
    is; with a CTF the two differ by what it carries over the edges of images.
    """
    few = problem.first(8).without_ctf()
    n = problem.box
    voxel = _in_ball(OBJECT_RADIUS * n)
    rotation = few.views.rotation
    slices = project_fourier(problem.cloud, rotation, n) * in_band(n)
    wanted = _plain_sum(slices, rotation, voxel) / n**2
    found = Convolution(few.spectrum(), n, 1)(problem.volume)
    z, y, x = voxel.T[::-1] + n // 2
    return relative(found[z, y, x], wanted)


def convolution_error(spectrum: Float32, volume: Float32, result: Float32) -> float:
    """Relative error of a padded convolution against the full one in float64."""
    n, length = len(volume), len(spectrum)
    padded = scipy.fft.rfftn(volume.astype(np.float64), s=(length,) * 3)
    padded *= spectrum
    return relative(result, scipy.fft.irfftn(padded, s=(length,) * 3, overwrite_x=True)[:n, :n, :n])


def map_errors(volume: Float32, truth: Float32) -> dict[str, float]:
    """Mean FSC over shells and correlation of a map with the truth, in a ball.

    The correlation has the map's sign, the mean FSC is that of the map with the sign of the truth.
    """
    ball = soft_ball(len(truth), MASK_RADIUS * len(truth), MASK_EDGE)
    inside = ball > 0.5
    correlation = float(np.corrcoef(volume[inside], truth[inside])[0, 1])
    curve = fsc_curve(math.copysign(1.0, correlation) * volume * ball, truth * ball)
    return {"mean_fsc": mean_fsc(curve), "correlation": correlation}


def _in_ball(radius: float) -> NDArray[np.intp]:
    """Lattice points (POINTS, 3), x y z, spread over a ball about the origin; always the same ones."""
    rng = np.random.default_rng(0)
    direction = rng.standard_normal((POINTS, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return np.rint(direction * radius * rng.random((POINTS, 1)) ** (1 / 3)).astype(np.intp)


def _plain_sum(
    spectrum: NDArray[np.complexfloating[Any]], rotation: Float64, at: NDArray[np.intp]
) -> Float64:
    """Sum over views p and frequencies w of Re spectrum_p(w) exp(i w . A_p[:2] k) for the points k, (K,).

    ``spectrum`` (P, n, n // 2 + 1) in the layout of ``rfft2``: frequencies with w1 > 0 count twice.
    """
    n = spectrum.shape[1]
    twice = np.where(np.arange(spectrum.shape[2]) > 0, 2.0, 1.0)
    total = np.zeros(len(at))
    for image, matrix in zip(spectrum, rotation, strict=True):
        u1, u2 = matrix[:2] @ at.T
        along = np.exp(2j * math.pi * np.fft.rfftfreq(n)[:, None] * u1)
        across = np.exp(2j * math.pi * np.fft.fftfreq(n)[:, None] * u2)
        total += ((image * twice) @ along * across).sum(axis=0).real
    return total
