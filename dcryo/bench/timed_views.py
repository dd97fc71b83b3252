"""Views that operators are timed on: random poses with CTF, astigmatism and shifts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dcryo.bench.timing import ONE_THREAD
from dcryo.geometry.rotations import matrix_to_quaternion, random_rotations
from dcryo.imaging.basis import BandLimited
from dcryo.imaging.ctf import random_defocus
from dcryo.imaging.particles import Optics, Particles
from dcryo.imaging.phantom import Cloud, gaussian_cloud, rasterise
from dcryo.metrics.fsc import soft_ball
from dcryo.operators.kernel import PlaneKernel
from dcryo.operators.normal import Convolution
from dcryo.operators.projector import backproject, project
from dcryo.operators.views import Radial, Views, make_radial, make_views
from dcryo.operators.window import window

Float32 = NDArray[np.float32]

OBJECT_RADIUS = 0.32
"""Radius of the object in boxes, as the phantoms of ``dcryo simulate``: where the kernel stands for HᵀH."""

PIXEL_SIZE = 1.5
"""Å; with the defocus below, the CTF of an image oscillates as in real data."""


@dataclass(frozen=True)
class Problem:
    """P views of a box of n voxels: CTF with astigmatism, shifts; images of white noise of variance 1.

    ``volume`` is ``cloud`` in voxels; ``views`` are ``particles`` as the operators want them.
    """

    box: int
    cloud: Cloud
    particles: Particles
    views: Views
    radial: Radial
    volume: Float32
    images: Float32

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int) -> Problem:
        """The first ``count`` views."""
        chosen = slice(count)
        return replace(
            self,
            particles=self.particles.take(chosen),
            views=self.views.take(chosen),
            images=self.images[chosen],
        )

    def without_ctf(self) -> Problem:
        """The same views through a perfect microscope; shifts stay."""
        coefficients = self.views.coefficients.copy()
        coefficients[:, 1] = np.pi / 2
        coefficients[:, 2:10] = 0
        optics = tuple(replace(group, ctf=False) for group in self.particles.optics)
        return replace(
            self,
            particles=replace(self.particles, optics=optics),
            views=replace(self.views, coefficients=coefficients),
        )

    def project(self) -> Float32:
        """Hc."""
        return project(self.volume, self.views, self.radial, box=self.box, threads=ONE_THREAD)

    def backproject(self, images: Float32) -> Float32:
        """Hᵀb."""
        return backproject(images, self.views, self.radial, self.box, threads=ONE_THREAD)

    def product(self) -> Float32:
        """HᵀHc, image by image."""
        return self.backproject(self.project())

    def spectrum(self) -> Float32:
        """The kernel of HᵀH, as the spectrum that the convolution multiplies by."""
        kernel = PlaneKernel(self.box, window("default"))
        kernel.add(self.views, self.radial, threads=ONE_THREAD)
        return kernel.spectrum(threads=ONE_THREAD)

    def error(self) -> float:
        """Relative error of the convolution against the direct product, where the object is."""
        ball = soft_ball(self.box, OBJECT_RADIUS * self.box, 2.0)
        fast = Convolution(self.spectrum(), self.box, ONE_THREAD)(self.volume) * ball
        direct = self.product() * ball
        return float(np.linalg.norm(fast - direct) / np.linalg.norm(direct))


def make_problem(box: int, count: int, seed: int = 0, width: float = 0.8) -> Problem:
    """``count`` random views of a phantom of Gaussians of ``width`` voxels in a box of ``box``."""
    rng = np.random.default_rng(seed)
    particles = Particles.empty_columns(
        count,
        rotation=matrix_to_quaternion(random_rotations(count, rng)),
        shift=rng.uniform(-3, 3, (count, 2)) * PIXEL_SIZE,
        defocus=random_defocus(count, 8000, 20000, rng),
        optics=(Optics(pixel_size=PIXEL_SIZE),),
    )
    cloud = gaussian_cloud(seed=1, count=400, radius=OBJECT_RADIUS * box, width=width)
    return Problem(
        box=box,
        cloud=cloud,
        particles=particles,
        views=make_views(particles, PIXEL_SIZE),
        radial=make_radial(BandLimited().fourier, [np.ones(box // 2 + 1)], box, [1.0]),
        volume=rasterise(cloud, box),
        images=rng.standard_normal((count, box, box), dtype=np.float32),
    )
