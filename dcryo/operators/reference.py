"""Right-hand side and kernel by direct float64 sums: the yardstick of the fast operators, for small boxes.

The detector is circular and ``DETECTOR`` times as wide as the images, which are zero outside: frequencies are
its exact Fourier lattice, and HᵀH is a convolution to rounding.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from dcryo.imaging.ctf import evaluate
from dcryo.operators.kernel import padded_length
from dcryo.operators.transfer import LUT_SIZE, PHASE_FLIPPED, PREMULTIPLIED
from dcryo.operators.views import Radial, Views

Float64 = NDArray[np.float64]
Direct = tuple[Float64, Float64]

DETECTOR = 2
"""Width of the circular detector in images."""


def zeros(n: int) -> Direct:
    """Empty (rhs, spectrum) in float64."""
    length = padded_length(n)
    return np.zeros((n, n, n)), np.zeros((length, length, length // 2 + 1))


def accumulate(
    sums: Direct, images: NDArray[np.floating], views: Views, radial: Radial, symmetry: Float64 | None
) -> float:
    """Add P images (m, m) to the sums and return their energy.

    Frequencies are those of images cropped to n pixels, n <= m, below their Nyquist frequency.
    """
    rhs, spectrum = sums
    n, m = rhs.shape[0], images.shape[-1]
    width = DETECTOR * m
    index = np.fft.fftfreq(width, 1 / width)
    j2, j1 = np.meshgrid(index, index, indexing="ij")
    inside = (np.abs(j1) < DETECTOR * n / 2) & (np.abs(j2) < DETECTOR * n / 2)
    omega = np.stack([j1[inside], j2[inside]], axis=-1) * (2 * math.pi / (DETECTOR * n))
    centre = m // 2 * n / m
    padded = np.fft.fft2(np.asarray(images, np.float64), s=(width, width))
    data = padded[:, inside] * np.exp(1j * omega.sum(-1) * centre)
    group = np.eye(3)[None] if symmetry is None else symmetry
    grid = np.arange(n) - n // 2
    lags = np.arange(spectrum.shape[0])
    lags = np.where(lags < spectrum.shape[0] // 2, lags, lags - spectrum.shape[0])
    kernel = np.zeros((len(lags),) * 3)
    energy = 0.0
    for p in range(len(images)):
        v = omega @ views.distortion[p].T
        s = (v**2).sum(-1)
        keep = s < views.limit2[p] * (1 - 1e-12)
        v, s, b = v[keep], s[keep], data[p, keep]
        t = evaluate(views.coefficients[p : p + 1], v)[0]
        backward, squared = np.conj(t), np.abs(t) ** 2
        if views.treatment[p] == PHASE_FLIPPED:
            backward = backward * np.sign(_real_part(views.coefficients[p], t, v))
        elif views.treatment[p] == PREMULTIPLIED:
            backward = views.gain[p] * np.exp(-1j * _odd_phase(views.coefficients[p], v))
        x = s * (LUT_SIZE / math.pi**2)
        nodes = np.arange(LUT_SIZE + 2)
        row = views.group[p]
        weight = np.interp(x, nodes, radial.weight[row])
        basis = CubicSpline(nodes, radial.basis[row])(x)  # smooth, so good to 1e-12
        energy += float((np.abs(b) ** 2 * weight).sum()) / width**2
        for rotation in group:
            q = v @ (views.rotation[p] @ rotation)[:2]
            phases = [np.exp(1j * q[:, i, None] * grid) for i in range(3)]
            value = backward * basis * weight * b / (width**2 * len(group))
            rhs += np.einsum("q,qz,qy,qx->zyx", value, *phases[::-1], optimize=True).real
            phases = [np.exp(1j * q[:, i, None] * lags) for i in range(3)]
            value = squared * basis**2 * weight / (width**2 * len(group))
            kernel += np.einsum("q,qz,qy,qx->zyx", value, *phases[::-1], optimize=True).real
    # lag -L/2 is no difference of two voxels; left out it keeps the spectrum real
    used = np.abs(lags) < n
    kernel *= used[:, None, None] * used[None, :, None] * used
    spectrum += np.fft.rfftn(kernel).real
    return energy


def _odd_phase(coefficients: Float64, v: Float64) -> Float64:
    c = coefficients
    v1, v2 = v[..., 0], v[..., 1]
    cubic = v1**2 * (c[12] * v1 + c[13] * v2) + v2**2 * (c[14] * v1 + c[15] * v2)
    return np.asarray(c[10] * v1 + c[11] * v2 + cubic)


def _real_part(coefficients: Float64, transfer: NDArray[np.complex128], v: Float64) -> Float64:
    """The transfer function without its odd phase."""
    return np.asarray((transfer * np.exp(-1j * _odd_phase(coefficients, v))).real)
