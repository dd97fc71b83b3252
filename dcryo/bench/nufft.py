"""Peers of H and Hᵀ that are nonuniform FFTs, ducc0 and finufft, with our image FFTs and CTF around them.

They get what suits them best: single precision, a requested accuracy of 1e-3, and of the frequencies of real
images one of each opposite pair below the band limit.  Their points are made beforehand, which ours are not.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dcryo.bench import truth
from dcryo.bench.ours import job_problem
from dcryo.bench.subject import Job, Numbers
from dcryo.bench.timed_views import Problem
from dcryo.operators.projector import (
    from_lattice,
    grid_rows,
    half_width,
    halve_origin,
    modulate_views,
    to_lattice,
)
from dcryo.operators.transfer import ADJOINT, FORWARD

Complex64 = NDArray[np.complex64]

EPSILON = 1e-3
"""Accuracy that is asked of them."""


class Transform(Protocol):
    """A library's nonuniform FFT of one set of points (M, 3), z y x in radians per voxel."""

    def at_points(self, volume: Complex64) -> Complex64:
        """sum over voxels k, counted from the centre, of volume[k] exp(-i w . k), (M,)."""

    def on_grid(self, values: Complex64, shape: tuple[int, int, int]) -> Complex64:
        """The adjoint: sum over points of values exp(+i w . k) for all k."""


class Ducc:
    """``ducc0.nufft``."""

    def __init__(self, points: truth.Float32, threads: int) -> None:
        """Keep the points."""
        self.points, self.threads = points, threads

    def at_points(self, volume: Complex64) -> Complex64:
        """Type 2."""
        from ducc0 import nufft

        out: Complex64 = nufft.u2nu(
            grid=volume, coord=self.points, forward=True, epsilon=EPSILON, nthreads=self.threads
        )
        return out

    def on_grid(self, values: Complex64, shape: tuple[int, int, int]) -> Complex64:
        """Type 1."""
        from ducc0 import nufft

        out: Complex64 = nufft.nu2u(
            points=values, coord=self.points, forward=False, epsilon=EPSILON, nthreads=self.threads,
            out=np.zeros(shape, np.complex64),
        )  # fmt: skip
        return out


class Finufft:
    """``finufft``."""

    def __init__(self, points: truth.Float32, threads: int) -> None:
        """Keep the points, by coordinate."""
        self.axes = [np.ascontiguousarray(axis) for axis in points.T]
        self.threads = threads

    def at_points(self, volume: Complex64) -> Complex64:
        """Type 2."""
        import finufft

        out: Complex64 = finufft.nufft3d2(*self.axes, volume, eps=EPSILON, isign=-1, nthreads=self.threads)
        return out

    def on_grid(self, values: Complex64, shape: tuple[int, int, int]) -> Complex64:
        """Type 1."""
        import finufft

        out: Complex64 = finufft.nufft3d1(
            *self.axes, values, shape, eps=EPSILON, isign=1, nthreads=self.threads
        )
        return out


class Lattice:
    """Frequencies of the images that are below the band limit, one of each pair of opposite ones."""

    def __init__(self, problem: Problem) -> None:
        """Points of all views."""
        n = problem.box
        h = half_width(n)
        b, a = np.meshgrid(np.arange(-h, h + 1), np.arange(h + 1), indexing="ij")
        chosen = (a * a + b * b < (n / 2) ** 2) & ~((a == 0) & (b < 0))
        self.shape = a.shape
        self.index = np.flatnonzero(chosen)
        steps = np.stack([a[chosen], b[chosen]], axis=1).astype(np.float64)
        points = steps @ grid_rows(problem.views, n, n).astype(np.float64) * (2 * math.pi / n)
        self.points = np.ascontiguousarray(points.reshape(-1, 3)[:, ::-1], np.float32)

    def gather(self, values: truth.Float32) -> Complex64:
        """The values (P, 2h+1, h+1, 2) of a stack at the points."""
        lattice = values.reshape(len(values), -1).view(np.complex64)
        return np.take(lattice, self.index, axis=1).reshape(-1)

    def scatter(self, values: Complex64, count: int) -> truth.Float32:
        """A stack of ``count`` lattices with these values at the points, zero elsewhere."""
        out = np.zeros((count, self.shape[0] * self.shape[1]), np.complex64)
        out[:, self.index] = values.reshape(count, -1)
        return out.view(np.float32).reshape(count, *self.shape, 2)


class Operator:
    """What has the views of a job at nonuniform points, and the library's transforms there."""

    transform: type[Ducc] | type[Finufft]

    def __init__(self, job: Job) -> None:
        """Make the views and their points."""
        self.job = job
        self.problem = job_problem(job)
        self.lattice = Lattice(self.problem)
        self.nufft: Transform = self.transform(self.lattice.points, job.threads)


class Projection(Operator):
    """Hc by a nonuniform FFT of type 2."""

    def run(self) -> truth.Float32:
        """Project."""
        n, threads, problem = self.job.box, self.job.threads, self.problem
        found = self.nufft.at_points(problem.volume.astype(np.complex64))
        values = self.lattice.scatter(found, len(problem))
        radial = problem.radial
        modulate_views(values, problem.views, radial.forward, radial.energy, n, n // 2, FORWARD, threads)
        return from_lattice(values, n, threads)

    def check(self, result: truth.Float32) -> Numbers:
        """As ours."""
        return {"relative": truth.projection_error(self.problem, result)}


class Backprojection(Operator):
    """Hᵀb by a nonuniform FFT of type 1."""

    def run(self) -> truth.Float32:
        """Backproject."""
        n, threads, problem = self.job.box, self.job.threads, self.problem
        values = to_lattice(problem.images, n, threads)
        radial = problem.radial
        modulate_views(values, problem.views, radial.rhs, radial.energy, n, n // 2, ADJOINT, threads)
        halve_origin(values)
        # the other half of the frequencies adds the complex conjugate
        scale = np.float32(2 / n**2)
        volume = self.nufft.on_grid(self.lattice.gather(values), (n, n, n)).real * scale
        return np.ascontiguousarray(volume)

    def check(self, result: truth.Float32) -> Numbers:
        """As ours."""
        return {"relative": truth.backprojection_error(self.problem, self.problem.images, result)}


class DuccProjection(Projection):
    """Hc by ducc0."""

    transform = Ducc


class DuccBackprojection(Backprojection):
    """Hᵀb by ducc0."""

    transform = Ducc


class FinufftProjection(Projection):
    """Hc by finufft."""

    transform = Finufft


class FinufftBackprojection(Backprojection):
    """Hᵀb by finufft."""

    transform = Finufft


class DuccKernel:
    """The kernel of HᵀH without any CTF, on (2n)³: type 1 of ones, and no FFT to its spectrum afterwards."""

    def __init__(self, job: Job) -> None:
        """Make the points, and one for each of them; the pair of opposite frequencies counts two."""
        self.job = job
        self.problem = job_problem(job)
        lattice = Lattice(self.problem)
        self.ones = np.ones(len(lattice.points), np.complex64)
        origin = int(np.flatnonzero(~lattice.points[: len(lattice.index)].any(axis=1))[0])
        self.ones[origin :: len(lattice.index)] = 0.5
        self.nufft = Ducc(lattice.points, job.threads)

    def run(self) -> truth.Float32:
        """Sum."""
        size = 2 * self.job.box
        return self.nufft.on_grid(self.ones, (size, size, size)).real

    def check(self, result: truth.Float32) -> Numbers:
        """Against the plain sum, on some lags."""
        return {"relative": truth.lattice_kernel_error(self.problem, 2 * result)}
