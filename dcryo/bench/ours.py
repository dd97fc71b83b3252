"""Our side: the operators as the rest of dcryo calls them, on the job's device and threads."""

from __future__ import annotations

import numpy as np

from dcryo.arrays import Array, module, on_device, to_device, to_host
from dcryo.bench import truth
from dcryo.bench.subject import Job, Numbers
from dcryo.bench.timed_views import Problem, make_problem
from dcryo.operators.kernel import PlaneKernel, padded_length
from dcryo.operators.normal import Convolution
from dcryo.operators.projector import backproject, project
from dcryo.operators.window import window

WIDTH = 1.5
"""Voxels of the Gaussians: their transform is 1e-5 at Nyquist, so samples say all about them."""


def job_problem(job: Job) -> Problem:
    """The views of a job."""
    return make_problem(job.box, job.count, job.seed, WIDTH)


def finished(array: Array) -> Array:
    """``array``, once its device has done all work that was given to it."""
    if on_device(array):
        module("cuda").cuda.Device().synchronize()
    return array


def device_memory(job: Job) -> Numbers:
    """What cupy holds of the GPU's memory now, used or not."""
    if job.device == "cpu":
        return {}
    return {"device_bytes": module("cuda").get_default_memory_pool().total_bytes()}


class Projection:
    """Hc: images of a volume, CTF and image FFTs included."""

    accuracy = "default"

    def __init__(self, job: Job) -> None:
        """Make the views, and put the volume where it is projected."""
        self.job = job
        self.problem = job_problem(job)
        self.volume = finished(to_device(self.problem.volume, job.device))

    def run(self) -> Array:
        """Project."""
        views, radial = self.problem.views, self.problem.radial
        box, threads = self.job.box, self.job.threads
        images = project(self.volume, views, radial, box=box, accuracy=self.accuracy, threads=threads)
        return finished(images)

    def check(self, result: Array) -> Numbers:
        """Against the Gaussians."""
        error = truth.projection_error(self.problem, to_host(result))
        return {"relative": error} | device_memory(self.job)


class FastProjection(Projection):
    """The same to the accuracy that the peers are asked for."""

    accuracy = "fast"


class Backprojection:
    """Hᵀb of white noise, CTF and image FFTs included."""

    accuracy = "default"

    def __init__(self, job: Job) -> None:
        """Make the views, and put the images where they are backprojected."""
        self.job = job
        self.problem = job_problem(job)
        self.images = finished(to_device(self.problem.images, job.device))

    def run(self) -> Array:
        """Backproject."""
        views, radial = self.problem.views, self.problem.radial
        box, threads = self.job.box, self.job.threads
        return finished(backproject(self.images, views, radial, box, accuracy=self.accuracy, threads=threads))

    def check(self, result: Array) -> Numbers:
        """Against the plain sum."""
        error = truth.backprojection_error(self.problem, self.problem.images, to_host(result))
        return {"relative": error} | device_memory(self.job)


class FastBackprojection(Backprojection):
    """The same to the accuracy that the peers are asked for."""

    accuracy = "fast"


class Kernel:
    """The kernel of HᵀH with every view's CTF, up to the spectrum that the convolution multiplies by."""

    def __init__(self, job: Job) -> None:
        """Make the views."""
        self.job = job
        self.problem = job_problem(job)

    def run(self) -> Array:
        """Sum over the views, then transform."""
        kernel = PlaneKernel(self.job.box, window("default"), self.job.device)
        kernel.add(self.problem.views, self.problem.radial, threads=self.job.threads)
        return finished(kernel.spectrum(threads=self.job.threads))

    def check(self, result: Array) -> Numbers:
        """Of the first views, without a CTF: the convolution with it, against plain sums."""
        return {"relative": truth.kernel_error(self.problem)} | device_memory(self.job)


class Convolve:
    """HᵀHc by convolution: pruned FFTs."""

    def __init__(self, job: Job) -> None:
        """Make a spectrum and a volume."""
        self.job = job
        self.spectrum, self.volume = convolution_problem(job)
        self._there = finished(to_device(self.volume, job.device))
        self._convolve = Convolution(to_device(self.spectrum, job.device), job.box, job.threads)

    def run(self) -> Array:
        """Convolve."""
        return finished(self._convolve(self._there))

    def check(self, result: Array) -> Numbers:
        """Against the full padded convolution in float64."""
        error = truth.convolution_error(self.spectrum, self.volume, to_host(result))
        return {"relative": error} | device_memory(self.job)


def convolution_problem(job: Job) -> tuple[truth.Float32, truth.Float32]:
    """Spectrum (L, L, L//2+1) that falls with frequency as a kernel's does, and white noise (n, n, n)."""
    length = padded_length(job.box)
    frequency = np.fft.fftfreq(length).astype(np.float32) ** 2
    half = np.fft.rfftfreq(length).astype(np.float32) ** 2
    radius = np.sqrt(frequency[:, None, None] + frequency[None, :, None] + half)
    spectrum = np.float32(job.count) / (1 + 2 * job.box * radius)
    rng = np.random.default_rng(job.seed)
    return spectrum, rng.standard_normal((job.box,) * 3, dtype=np.float32)
