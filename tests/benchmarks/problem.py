"""What is timed: random views with CTF of a phantom, and the normal equations of its noisy images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from dcryo.geometry.rotations import matrix_to_quaternion, random_rotations
from dcryo.imaging.basis import BandLimited
from dcryo.imaging.ctf import random_defocus
from dcryo.imaging.particles import Optics, Particles
from dcryo.imaging.phantom import gaussian_cloud, rasterise
from dcryo.operators.kernel import PlaneKernel
from dcryo.operators.normal import NormalEquations
from dcryo.operators.projector import backproject, project
from dcryo.operators.views import Radial, Views, make_radial, make_views
from dcryo.operators.window import window

PIXEL_SIZE = 1.5
"""Å; with the defocus below, the CTF of an image oscillates as in real data."""

ONE_THREAD = 1


@dataclass(frozen=True)
class Problem:
    """P views of a box of n voxels: CTF with astigmatism, shifts, white noise of variance 1."""

    box: int
    views: Views
    radial: Radial
    volume: np.ndarray
    images: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def without_ctf(self) -> Problem:
        """The same views through a perfect microscope; shifts stay."""
        coefficients = self.views.coefficients.copy()
        coefficients[:, 1] = np.pi / 2
        coefficients[:, 2:10] = 0
        return replace(self, views=replace(self.views, coefficients=coefficients))

    def project(self) -> np.ndarray:
        """Hc."""
        return project(self.volume, self.views, self.radial, box=self.box, threads=ONE_THREAD)

    def backproject(self, images: np.ndarray) -> np.ndarray:
        """Hᵀb."""
        return backproject(images, self.views, self.radial, self.box, threads=ONE_THREAD)

    def spectrum(self) -> np.ndarray:
        """The kernel of HᵀH, as the spectrum that the convolution multiplies by."""
        kernel = PlaneKernel(self.box, window("default"))
        kernel.add(self.views, self.radial, threads=ONE_THREAD)
        return kernel.spectrum(threads=ONE_THREAD)


@lru_cache(maxsize=1)
def make_problem(box: int, count: int) -> Problem:
    """``count`` random views of a phantom in a box of ``box``."""
    rng = np.random.default_rng(0)
    particles = Particles.empty_columns(
        count,
        rotation=matrix_to_quaternion(random_rotations(count, rng)),
        shift=rng.uniform(-3, 3, (count, 2)) * PIXEL_SIZE,
        defocus=random_defocus(count, 8000, 20000, rng),
        optics=(Optics(pixel_size=PIXEL_SIZE),),
    )
    # 0.32 of the box, as the phantoms of `dcryo simulate`: where the kernel stands for HᵀH.
    cloud = gaussian_cloud(seed=1, count=400, radius=0.32 * box)
    return Problem(
        box=box,
        views=make_views(particles, PIXEL_SIZE),
        radial=make_radial(BandLimited().fourier, [np.ones(box // 2 + 1)], box, [1.0]),
        volume=rasterise(cloud, box),
        images=rng.standard_normal((count, box, box), dtype=np.float32),
    )


@lru_cache(maxsize=1)
def make_equations(box: int, count: int) -> NormalEquations:
    """Normal equations of noisy images of the phantom, 0.1 in signal to noise."""
    problem = make_problem(box, count)
    clean = problem.project()
    clean *= np.sqrt(0.1 / clean.var())
    clean += problem.images
    rhs = problem.backproject(clean)
    return NormalEquations(rhs, problem.spectrum(), float(np.square(clean, dtype=np.float64).sum()), count)
