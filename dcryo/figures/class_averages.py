"""Class averages: views sorted by their direction, turned alike in the plane, and averaged.

A view A belongs to the class whose direction (third row of the pose) is nearest to its own, and is turned by
the rotation about the beam that brings A as near as possible to the pose T of that class.  The two together
are the nearest of all in-plane rotations of all classes: the angle that is left is that between the
directions.  Only the poses are consulted, never the images, and no template is made of any map.

An average of m views of one direction with noise of variance 1 has noise of variance 1/m.  Multiplied by the
square root of m it is a particle of that scale with noise of variance 1, and so it enters the normal
equations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from dcryo.geometry.rotations import (
    euler_to_matrix,
    matrix_to_euler,
    matrix_to_quaternion,
    quaternion_to_matrix,
)
from dcryo.imaging.basis import BandLimited
from dcryo.imaging.noise import white
from dcryo.imaging.particles import Optics, Particles
from dcryo.io.particle_store import ParticleStore
from dcryo.methods.progress import Progress
from dcryo.methods.simulate import batch_size
from dcryo.operators.compiled import blocks, for_each
from dcryo.operators.normal import Accumulator, NormalEquations
from dcryo.operators.views import make_radial, make_views

Float64 = NDArray[np.float64]

ANGLES = 1
"""What the random numbers of this module are for; the second entry of their seed."""

BLOCK = 32
"""Images that a thread turns at once."""


def class_poses(count: int) -> Float64:
    """Poses (count, 3, 3) of classes whose directions are spread evenly over the sphere.

    The directions wind about z by the golden angle, at heights of equal area; psi is 0.
    """
    index = np.arange(count)
    tilt = np.arccos(1 - (2 * index + 1) / count)
    return np.asarray(euler_to_matrix(index * math.pi * (3 - math.sqrt(5)), tilt, np.zeros(count)))


def perturbed(rotation: NDArray[Any], offset: NDArray[Any]) -> Float64:
    """Poses (P, 3, 3) whose angles rot, tilt and psi are off by ``offset`` (P, 3) [rad]."""
    return np.asarray(euler_to_matrix(*(matrix_to_euler(rotation) + offset).T))


def assigned(rotation: NDArray[Any], poses: NDArray[Any]) -> tuple[NDArray[np.intp], Float64]:
    """Class of every pose (P, 3, 3), and the angle (P,) by which its image is to be turned [rad].

    ``poses`` (C, 3, 3) are those of the classes.  Turning by the angle a means what :func:`turned` does: the
    image becomes, as nearly as that can be, the view of the class.
    """
    classes = np.argmax(rotation[:, 2] @ poses[:, 2].T, axis=1)
    # A = G T with G a rotation about the beam: the one of largest trace(A Tᵀ Gᵀ) leaves the smallest angle.
    between = rotation[:, :2] @ np.swapaxes(poses[classes, :2], 1, 2)
    angle = np.arctan2(between[:, 1, 0] - between[:, 0, 1], between[:, 0, 0] + between[:, 1, 1])
    return classes, angle


def turned(image: NDArray[Any], angle: float) -> Float64:
    """Image (n, n) about its centre n // 2, result(y) = image(G y) with G = [[c, -s], [s, c]] of ``angle``.

    Cubic splines; the frame is periodic, as in the transforms of the images.
    """
    c, s = math.cos(angle), math.sin(angle)
    rows = np.array([[c, s], [-s, c]])  # G for indices, which are (y, x)
    centre = np.full(2, len(image) // 2)
    offset = centre - rows @ centre
    return np.asarray(affine_transform(image, rows, offset, order=3, mode="grid-wrap", output=np.float64))


class ClassAverages:
    """Sums of aligned images, and how many there are in every class.

    Attributes
    ----------
    poses : (C, 3, 3) array
        Of the classes.
    sums : (C, n, n) float64 array
    counts : (C,) integer array
    """

    def __init__(self, poses: NDArray[Any], box: int) -> None:
        self.poses = np.asarray(poses, np.float64)
        self.sums: Float64 = np.zeros((len(self.poses), box, box))
        self.counts = np.zeros(len(self.poses), np.int64)

    def add(self, images: NDArray[Any], rotation: NDArray[Any], threads: int = 0) -> None:
        """Sort, turn and add images (P, n, n) of the poses ``rotation`` (P, 3, 3), in their order."""
        classes, angles = assigned(rotation, self.poses)
        aligned = np.empty(images.shape)

        def turn(part: slice) -> None:
            for index in range(part.start, part.stop):
                aligned[index] = turned(images[index], angles[index])

        for_each(turn, blocks(len(images), BLOCK), threads)
        for index, image in zip(classes, aligned, strict=True):
            self.sums[index] += image
        self.counts += np.bincount(classes, minlength=len(self.counts))

    @property
    def averages(self) -> Float64:
        """Means (C, n, n); zero in a class without views."""
        return np.asarray(self.sums / np.maximum(self.counts, 1)[:, None, None])

    def equations(self, pixel_size: float, scale: float, threads: int = 0) -> NormalEquations:
        """Normal equations of the averages on voxels of ``scale`` pixels.

        The views are without CTF and their noise is white, of variance 1; ``pixel_size`` in Å.
        """
        n = round(self.sums.shape[1] / scale)
        full = self.counts > 0
        root = np.sqrt(self.counts[full])
        particles = Particles.empty_columns(
            len(root),
            rotation=matrix_to_quaternion(self.poses[full]),
            scale=root,
            # a CTF of 1 at every frequency: without one, the scale of a particle would not be looked at
            optics=(Optics(pixel_size=pixel_size, amplitude_contrast=1.0, cs=0.0),),
        )
        radial = make_radial(BandLimited().fourier, [white(1.0, n)], n, [1.0])
        accumulator = Accumulator(n, radial, threads=threads)
        images = (self.sums[full] / root[:, None, None]).astype(np.float32)
        accumulator.add(images, make_views(particles, pixel_size, self.sums.shape[1] / n))
        return accumulator.finish()


Halves = tuple[ClassAverages, ClassAverages]
"""Averages of the half sets 1 and 2."""


def averaged(
    store: ParticleStore, jobs: Sequence[tuple[float, int]], seed: int, threads: int, progress: Progress
) -> list[Halves]:
    """Class averages of both half sets for every job; the images are read once.

    Parameters
    ----------
    store : ParticleStore
        With poses.
    jobs : sequence of (float, int)
        Half width [rad] of the uniform error that is added to every Euler angle, and number of classes.  All
        jobs see the same random numbers, which the half width multiplies.
    seed : int
        Of the errors.
    """
    error = np.random.default_rng([seed, ANGLES]).uniform(-1, 1, (store.count, 3))
    halves = [
        (ClassAverages(class_poses(count), store.box), ClassAverages(class_poses(count), store.box))
        for _, count in jobs
    ]
    progress.start("averaging", store.count)
    for first in range(0, store.count, batch_size(store.box)):
        last = min(first + batch_size(store.box), store.count)
        particles, images = store.particles(first, last), store.images(first, last)
        rotation = quaternion_to_matrix(particles.rotation)
        for (half_width, _), pair in zip(jobs, halves, strict=True):
            wrong = perturbed(rotation, half_width * error[first:last])
            for half, averages in enumerate(pair, start=1):
                rows = particles.half == half
                averages.add(images[rows], wrong[rows], threads)
        progress.advance(last - first)
    return halves
