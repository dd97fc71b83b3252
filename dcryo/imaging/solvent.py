"""Solvent: random density around a particle, different for every one of them.

Ice is not empty.  Outside the particle we put a band-limited Gaussian random field with a constant baseline,

    g(r) = (baseline + std s(r)) (1 - envelope(A' r)),    r in the frame of the microscope,

and project it along the beam.  s is statistically the same in every direction, so it is drawn in the frame of
the microscope and only the envelope turns; the projection is then a plain sum, without any projector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft
from scipy.ndimage import map_coordinates
from scipy.spatial import KDTree

from dcryo.errors import InputError
from dcryo.imaging.phantom import Cloud

Float32 = NDArray[np.float32]

HEADROOM = 1.25
"""Samples of the field beyond what its band needs: room for its product with the envelope's edge."""


def envelope(cloud: Cloud, n: int, margin: float, edge: float = 2.0) -> Float32:
    """Where the particle is: (n, n, n) [z, y, x], 1 within ``margin`` of a point, 0 beyond ``margin + edge``.

    Lengths in voxels; the edge is a cosine.
    """
    index = np.arange(n) - n // 2
    z, y, x = np.meshgrid(index, index, index, indexing="ij")
    points = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    distance, _ = KDTree(cloud.centers).query(points, distance_upper_bound=margin + edge)
    ramp = np.clip((distance - margin) / edge, 0, 1)  # infinite where nothing is near
    return (0.5 * (1 + np.cos(np.pi * ramp))).reshape(n, n, n).astype(np.float32)


@dataclass(frozen=True)
class Solvent:
    """Random solvent around a particle in a box of n voxels.

    ``particle`` (n, n, n) [z, y, x] is the envelope in the frame of the specimen, between 0 (solvent) and 1;
    ``std`` and ``baseline`` are the standard deviation and the mean of the density; ``band`` is the highest
    frequency in it as a fraction of Nyquist.
    """

    particle: Float32
    std: float
    baseline: float = 0.0
    band: float = 0.5

    def __post_init__(self) -> None:
        shape = self.particle.shape
        if len(shape) != 3 or len(set(shape)) != 1:
            raise InputError(f"solvent envelope of shape {shape}: give a cube")
        if not (0 < self.band <= 1 and self.std >= 0 and math.isfinite(self.std + self.baseline)):
            raise InputError(
                f"solvent of deviation {self.std:g}, baseline {self.baseline:g} and band {self.band:g}: "
                "give finite densities, a standard deviation that is not negative and a band in (0, 1]"
            )

    @classmethod
    def around(
        cls,
        cloud: Cloud,
        n: int,
        *,
        strength: float = 0.3,
        baseline: float = 0.3,
        margin: float = 2.0,
        band: float = 0.5,
    ) -> Solvent:
        """Solvent around a cloud in a box of n voxels.

        ``strength`` (the standard deviation) and ``baseline`` are fractions of the cloud's mean density in
        its :func:`envelope` of ``margin`` voxels.
        """
        particle = envelope(cloud, n, margin)
        total = float((cloud.mass * cloud.forms[cloud.kind, :, 0].sum(axis=1)).sum())
        mean = total / float(particle.sum(dtype=np.float64))
        return cls(particle, strength * mean, baseline * mean, band)

    @property
    def mean(self) -> Float32:
        """What the solvent adds to the particle on average: baseline (1 - envelope), (n, n, n)."""
        return np.float32(self.baseline) * (1 - self.particle)

    def project(self, rotation: ArrayLike, rng: np.random.Generator) -> Float32:
        """Projections (P, n, n) of fresh solvent around particles with the poses A ``rotation`` (P, 3, 3).

        Line integrals through the whole box, in voxels.
        """
        n = len(self.particle)
        size = min(n, fft.next_fast_len(math.ceil(HEADROOM * self.band * n), real=True))
        step = n / size
        # Sample i lies at (i - size // 2) step from the centre, where the box has n // 2.
        index = (np.arange(size) - size // 2) * step
        z, y, x = np.meshgrid(index, index, index, indexing="ij")
        places = np.stack([x.ravel(), y.ravel(), z.ravel()])
        gain = self._gain(size)
        out = np.empty((len(np.asarray(rotation)), n, n), dtype=np.float32)
        for image, matrix in zip(out, np.asarray(rotation, dtype=np.float64), strict=True):
            turned = (matrix.T @ places)[::-1] + n // 2
            inside = map_coordinates(self.particle, turned, order=1, mode="nearest")
            noise = rng.standard_normal((size, size, size), dtype=np.float32)
            field = fft.irfftn(fft.rfftn(noise) * gain, s=noise.shape)
            density = (self.baseline + field) * (1 - inside.reshape(noise.shape))
            image[:] = _resampled(density.sum(axis=0) * step, n)
        return out

    def _gain(self, size: int) -> Float32:
        """Filter (size, size, size // 2 + 1) that turns white noise into the field."""
        q = fft.fftfreq(size) * size
        radius = np.sqrt(
            q[:, None, None] ** 2 + q[None, :, None] ** 2 + (fft.rfftfreq(size) * size)[None, None, :] ** 2
        )
        limit = self.band * len(self.particle) / 2
        # A cosine from 1 at 0.8 of the limit to 0 at the limit: no ringing, nothing above.
        gain = 0.5 * (1 + np.cos(np.pi * np.clip((radius / limit - 0.8) / 0.2, 0, 1)))
        weight = np.full(gain.shape, 2.0)
        weight[..., 0] = 1
        if size % 2 == 0:
            weight[..., -1] = 1
        variance = (weight * gain**2).sum() / size**3
        return np.asarray(gain * (self.std / math.sqrt(variance)), np.float32)


def _resampled(image: NDArray[Any], n: int) -> Float32:
    """A square image, centred at size // 2, on n samples over the same width, by Fourier padding."""
    size = len(image)
    if size == n:
        return np.asarray(image, np.float32)
    small = fft.fftshift(fft.fft2(fft.ifftshift(image)))
    if size % 2 == 0:
        # The line at -size/2 stands for both signs; alone it would not make a real image.
        small[0] = 0
        small[:, 0] = 0
    large = np.zeros((n, n), dtype=small.dtype)
    start = n // 2 - size // 2
    large[start : start + size, start : start + size] = small
    centred = fft.fftshift(fft.ifft2(fft.ifftshift(large)).real)
    return np.asarray(centred * (n / size) ** 2, np.float32)
