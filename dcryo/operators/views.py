"""What the operators need to know about a batch of particles, as arrays: no files, no units but voxels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.geometry.rotations import quaternion_to_matrix
from dcryo.imaging.ctf import distortion, transfer_coefficients
from dcryo.imaging.particles import Optics, Particles
from dcryo.operators.transfer import LUT_SIZE, NORMAL, PHASE_FLIPPED, PREMULTIPLIED

Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]

SHIFT = slice(10, 12)
"""The linear phase among the coefficients of a transfer function, -D^-T t for a shift of t voxels."""


@dataclass(frozen=True)
class Views:
    """P particles as seen by the operators, in voxels of the volume.

    rotation (P, 3, 3) the matrices A; coefficients (P, 19), amplitude and gain included; gain (P,) what an
    ideal projection is multiplied with for the sizes of voxels and pixels; distortion (P, 2, 2) the D of
    ``v = D w``; limit2 (P,) squared band limit in (rad/voxel)^2; measure (P,) the share of a full-size
    image's frequency plane that a unit of v stands for, 1 / (scale^2 det D); group (P,) row of the radial
    tables; treatment (P,) see :mod:`dcryo.operators.transfer`.
    """

    rotation: Float64
    coefficients: Float64
    gain: Float64
    distortion: Float64
    limit2: Float64
    measure: Float64
    group: NDArray[np.int64]
    treatment: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rotation)

    def take(self, index: Any) -> Views:
        """The particles ``index``."""
        return Views(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def rotated(self, rotation: Float64) -> Views:
        """The same images seen as views of the volume turned by ``rotation`` (A -> A @ rotation)."""
        return replace(self, rotation=self.rotation @ rotation)

    def posed(self, rotation: Float64, shift: Float64) -> Views:
        """The same images at the rotations (P, 3, 3), their shifts moved on by ``shift`` (P, 2) [voxels]."""
        coefficients = self.coefficients.copy()
        across = np.swapaxes(self.distortion, 1, 2)
        coefficients[:, SHIFT] -= np.linalg.solve(across, shift[:, :, None])[..., 0]
        return replace(self, rotation=rotation, coefficients=coefficients)


def concatenate(parts: Sequence[Views]) -> Views:
    """The particles of several views, in order."""
    return Views(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in Views.__dataclass_fields__)
    )


def make_views(particles: Particles, pixel_size: float, scale: float = 1.0) -> Views:
    """Prepare particles for a volume of voxels of ``pixel_size * scale`` [Å].

    The images are those of the store, Fourier-cropped by ``scale`` (every group's pixel grows by it); the
    map's values stay those of the full-size map: a projection is measured in voxels of ``pixel_size``.  A
    group with another pixel size is scaled by its distortion, and its band ends at its own Nyquist frequency.

    Raises
    ------
    InputError
        From :func:`dcryo.imaging.ctf.transfer_coefficients`.
    """
    optics = tuple(replace(o, pixel_size=o.pixel_size * scale) for o in particles.optics)
    scaled = replace(particles, optics=optics)
    voxel = pixel_size * scale
    coefficients = transfer_coefficients(scaled, voxel)
    group = np.asarray(particles.optics_group, np.int64)
    distortions = np.array([distortion(o, voxel) for o in optics])
    gain = np.array([scale**3 * (voxel / o.pixel_size) ** 2 for o in optics])
    limits = np.array(
        [min(math.pi, math.pi * float(np.linalg.svd(d, compute_uv=False)[-1])) ** 2 for d in distortions]
    )
    limits *= 1 - 1e-12  # what is right on the band limit is out, whatever the rounding
    coefficients[:, 0] *= gain[group]
    return Views(
        rotation=quaternion_to_matrix(particles.rotation),
        coefficients=coefficients,
        gain=gain[group],
        distortion=distortions[group],
        limit2=limits[group],
        measure=1 / (scale**2 * np.linalg.det(distortions)[group]),
        group=group,
        treatment=np.array([_treatment(o) for o in optics], np.int64)[group],
    )


def _treatment(optics: Optics) -> int:
    if optics.premultiplied:
        return PREMULTIPLIED
    return PHASE_FLIPPED if optics.phase_flipped else NORMAL


@dataclass(frozen=True)
class Radial:
    """Radial tables at equidistant |v|^2 in [0, pi^2], (groups, LUT_SIZE + 2) float64.

    ``basis`` is the Fourier transform of the basis function, ``weight`` the inverse noise spectrum.
    """

    basis: Float64
    weight: Float64

    @property
    def forward(self) -> Float32:
        """What multiplies the slices of a projection."""
        return self.basis.astype(np.float32)

    @property
    def rhs(self) -> Float32:
        """What multiplies the data in the right-hand side."""
        return (self.basis * self.weight).astype(np.float32)

    @property
    def kernel(self) -> Float32:
        """What multiplies the squared CTF in the kernel."""
        return (self.basis**2 * self.weight).astype(np.float32)

    @property
    def energy(self) -> Float32:
        """What multiplies the squared data in their energy."""
        return self.weight.astype(np.float32)


def make_radial(
    basis: Callable[[Float64], Float64],
    spectra: Sequence[Float64],
    box: int,
    distortions: Sequence[float],
) -> Radial:
    """Tables for every optics group.

    Parameters
    ----------
    basis : callable
        Fourier transform of the basis function at frequencies [rad/voxel].
    spectra : sequence of (n//2+1,) arrays
        Noise spectrum per group over the shells of its images; ``box`` is the size of the (cropped) images.
    distortions : sequence of float
        Per group, volume frequency over image frequency.
    """
    frequency = np.sqrt(np.arange(LUT_SIZE + 2) * (math.pi**2 / LUT_SIZE))
    phi = np.asarray(basis(np.minimum(frequency, math.pi)), np.float64)
    weights = [
        1 / np.interp(frequency / d * box / (2 * math.pi), np.arange(len(s)), np.asarray(s, np.float64))
        for s, d in zip(spectra, distortions, strict=True)
    ]
    return Radial(
        basis=np.tile(phi, (len(weights), 1)),
        weight=np.array(weights),
    )
