"""torch-projectors as a peer of H and Hᵀ: interpolation on a grid of twice the size, linear or cubic.

Our image FFTs and CTF are around it, as around the nonuniform FFTs; volumes are divided by the transform of
the interpolation kernel, without which its errors were those of the kernel's roll-off.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.bench import truth
from dcryo.bench.ours import job_problem
from dcryo.bench.subject import Job, Numbers
from dcryo.operators.projector import from_lattice, modulate_views, to_lattice
from dcryo.operators.transfer import ADJOINT, FORWARD

OVERSAMPLING = 2


def roll_off(interpolation: str, n: int) -> truth.Float32:
    """Transform (n,) of the interpolation kernel at the voxels of one axis of the volume."""
    t = np.linspace(-2, 2, 4001)
    s = np.abs(t)
    if interpolation == "linear":
        kernel = np.maximum(1 - s, 0)
    else:  # Keys (1981) with a = -1/2
        near, far = 1 + s**2 * (1.5 * s - 2.5), 2 + s * (-4 + s * (2.5 - 0.5 * s))
        kernel = np.where(s < 1, near, far)
    x = (np.arange(n) - n // 2) / (OVERSAMPLING * n)
    waves = np.cos(2 * np.pi * x[:, None] * t)
    return np.asarray(np.trapezoid(waves * kernel, t, axis=1), np.float32)


class Linear:
    """What both directions share."""

    interpolation = "linear"

    def __init__(self, job: Job) -> None:
        """Make the views, their matrices, and what the volume is divided by."""
        import torch

        torch.set_num_threads(job.threads)
        self.job = job
        self.problem = job_problem(job)
        matrices = np.ascontiguousarray(self.problem.views.rotation.swapaxes(1, 2), np.float32)
        self.rotation = torch.from_numpy(matrices)[None]
        inverse = 1 / roll_off(self.interpolation, job.box)
        self.inverse = inverse[:, None, None] * inverse[:, None] * inverse
        size = OVERSAMPLING * job.box
        at = (np.arange(job.box) - job.box // 2) % size
        self.at = np.ix_(at, at, at)
        self.size = size

    def settings(self) -> dict[str, Any]:
        """What its functions take."""
        return {
            "interpolation": self.interpolation,
            "oversampling": float(OVERSAMPLING),
            "fourier_radius_cutoff": self.job.box / 2,
        }


class LinearProjection(Linear):
    """Hc with trilinear interpolation."""

    def run(self) -> truth.Float32:
        """Project."""
        import torch
        import torch_projectors

        n, threads, problem = self.job.box, self.job.threads, self.problem
        padded = np.zeros((self.size,) * 3, np.float32)
        padded[self.at] = problem.volume * self.inverse
        with torch.no_grad():
            transform = torch.fft.rfftn(torch.from_numpy(padded))
            found = torch_projectors.project_3d_to_2d_forw(
                transform[None], self.rotation, output_shape=(n, n), **self.settings()
            )
        values = half_plane(found[0].numpy())
        radial = problem.radial
        modulate_views(values, problem.views, radial.forward, radial.energy, n, n // 2, FORWARD, threads)
        return from_lattice(values, n, threads)

    def check(self, result: truth.Float32) -> Numbers:
        """As ours."""
        return {"relative": truth.projection_error(self.problem, result)}


class LinearBackprojection(Linear):
    """Hᵀb with trilinear interpolation."""

    def run(self) -> truth.Float32:
        """Backproject."""
        import torch
        import torch_projectors

        n, threads, problem = self.job.box, self.job.threads, self.problem
        values = to_lattice(problem.images, n, threads)
        radial = problem.radial
        modulate_views(values, problem.views, radial.rhs, radial.energy, n, n // 2, ADJOINT, threads)
        with torch.no_grad():
            found, _ = torch_projectors.backproject_2d_to_3d_forw(
                torch.from_numpy(whole_plane(values, n))[None], self.rotation, **self.settings()
            )
            volume = torch.fft.irfftn(found[0], norm="forward").numpy()
        return np.asarray(volume[self.at] * (self.inverse / n**2), np.float32)

    def check(self, result: truth.Float32) -> Numbers:
        """As ours."""
        return {"relative": truth.backprojection_error(self.problem, self.problem.images, result)}


class CubicProjection(LinearProjection):
    """Hc with tricubic interpolation."""

    interpolation = "cubic"


class CubicBackprojection(LinearBackprojection):
    """Hᵀb with tricubic interpolation."""

    interpolation = "cubic"


def half_plane(spectrum: NDArray[np.complex64]) -> truth.Float32:
    """From the layout of ``rfft2`` to our lattice of the frequencies below Nyquist."""
    n = spectrum.shape[1]
    h = (n - 1) // 2
    out = np.empty((len(spectrum), 2 * h + 1, h + 1), np.complex64)
    out[:, h:] = spectrum[:, : h + 1, : h + 1]
    out[:, :h] = spectrum[:, n - h :, : h + 1]
    return out.view(np.float32).reshape(*out.shape, 2)


def whole_plane(values: truth.Float32, n: int) -> NDArray[np.complex64]:
    """The inverse of :func:`half_plane`, zero at Nyquist."""
    h = values.shape[2] - 1
    lattice = values.reshape(*values.shape[:2], -1).view(np.complex64)
    out = np.zeros((len(values), n, n // 2 + 1), np.complex64)
    out[:, : h + 1, : h + 1] = lattice[:, h:]
    out[:, n - h :, : h + 1] = lattice[:, :h]
    return out
