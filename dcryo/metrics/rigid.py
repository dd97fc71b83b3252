"""A rigid registration of two maps, and what it does to poses and to maps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import affine_transform, spline_filter

from dcryo.errors import InputError
from dcryo.geometry.rotations import geodesic_distance
from dcryo.imaging.radial import Gain

FloatArray = NDArray[np.float64]
Float32 = NDArray[np.float32]
ComplexArray = NDArray[np.complexfloating[Any, Any]]

OVERSAMPLING = 2
"""Of maps that splines interpolate: a relative error of (1/3)^(order + 1) at the band's edge, less below."""


@dataclass(frozen=True)
class Registration:
    """Where a moving map m agrees with a fixed one: ``f(r) ~ m(h G (r - x))``.

    ``rotation`` (3, 3) is G, ``translation`` (3,) is x in voxels (x, y, z), ``mirrored`` says that h = -1.
    In words: take the other hand if ``mirrored``, turn the specimen by G, then move it by x.
    ``correlation`` is that of the two maps then, up to the cut-off and in the ball compared.
    """

    rotation: FloatArray
    translation: FloatArray
    correlation: float
    mirrored: bool = False

    @property
    def angle(self) -> float:
        """Angle of G in rad."""
        return float(geodesic_distance(self.rotation, np.eye(3)))

    def apply_to_poses(
        self, rotation: ArrayLike, shift: ArrayLike, pixel_size: float = 1.0
    ) -> tuple[FloatArray, FloatArray]:
        """Poses of the particles of the moving map, in the frame (and of the hand) of the fixed one.

        Parameters
        ----------
        rotation : array_like, (P, 3, 3)
            Poses A; NaN stays NaN.
        shift : array_like, (P, 2)
            Shifts t (x, y), in voxels of the maps, or in the unit of ``pixel_size``.
        pixel_size : float
            Of the maps, in the unit of the shifts.

        Returns
        -------
        rotation : ndarray, (P, 3, 3)
            ``A' = A G``, or ``diag(-1, -1, 1) A G`` for the other hand.
        shift : ndarray, (P, 2)
            ``t - A'[:2] x``.
        """
        poses = np.asarray(rotation, np.float64)
        turned: FloatArray = (np.diag([-1.0, -1.0, 1.0]) @ poses if self.mirrored else poses) @ self.rotation
        return turned, np.asarray(shift, np.float64) - turned[..., :2, :] @ (self.translation * pixel_size)

    def apply_to_map(self, volume: ArrayLike) -> Float32:
        """The map ``m(h G (r - x))`` of a map m (n, n, n) in the frame of the moving one.

        Interpolated by quintic splines from twice the samples: relative error 2e-3 at the Nyquist
        frequency, 1e-5 at half of it.  What comes from outside of the box is the median of its faces.
        """
        values = cube(volume)
        n = len(values)
        fine = resampled(half_spectrum(values), n, OVERSAMPLING * n)
        matrix = (-1.0 if self.mirrored else 1.0) * self.rotation
        # array axes are z, y, x
        centre = n // 2 - matrix[::-1, ::-1] @ (n // 2 + self.translation[::-1])
        faces = [np.take(values, end, axis).ravel() for axis in range(3) for end in (0, -1)]
        moved = affine_transform(
            spline_filter(fine, order=5, mode="grid-wrap", output=np.float32),
            matrix[::-1, ::-1] * OVERSAMPLING,
            # the centre of the fine map is at its half, n
            offset=(centre - n // 2) * OVERSAMPLING + OVERSAMPLING * n // 2,
            output_shape=values.shape,
            output=np.float32,
            order=5,
            cval=float(np.median(np.concatenate(faces))),
            prefilter=False,
        )
        return np.asarray(moved, np.float32)


def cube(volume: ArrayLike) -> Float32:
    """A map as (n, n, n) float32.

    Raises
    ------
    InputError
        If it is no cube, holds values that are not finite, or is constant.
    """
    values = np.asarray(volume, np.float32)
    n = len(values) if values.ndim else 0
    if n < 1 or values.shape != (n, n, n):
        raise InputError(f"a map of shape {values.shape} cannot be registered; give a cube")
    if not np.isfinite(values).all():
        raise InputError("a map contains NaN or infinite values; reconstruct or export it again")
    if not np.ptp(values) > 0:
        raise InputError("a map that is constant has nothing to be registered by; give another map")
    return values


def half_spectrum(volume: Float32) -> ComplexArray:
    """``rfftn`` of a map."""
    spectrum: ComplexArray = scipy.fft.rfftn(volume)
    return spectrum


def resampled(
    spectrum: ComplexArray, n: int, size: int, gain: Gain | None = None, derivative: int | None = None
) -> Float32:
    """A map on ``size`` samples over the same field of view, its centre on ``size // 2``.

    Parameters
    ----------
    spectrum : ndarray, (n, n, n//2+1)
        Its :func:`half_spectrum`.
    n, size : int
        The old number of samples, and the new one, coarser or finer.
    gain : Gain, optional
        A filter.
    derivative : int, optional
        Array axis along which the derivative is taken instead, per old voxel.

    Returns
    -------
    (size, size, size) float32
        Nyquist planes of either grid are left out.
    """
    top = (min(n, size) - 1) // 2
    keep = np.r_[0 : top + 1, -top:0] if top else np.array([0])
    kept = np.ix_(keep, keep, np.arange(top + 1))
    q = np.meshgrid(keep, keep, np.arange(top + 1), indexing="ij", sparse=True)
    offset = (n // 2) / n - (size // 2) / size
    part = spectrum[kept] * np.exp(2j * math.pi * offset * (q[0] + q[1] + q[2])).astype(spectrum.dtype)
    if gain is not None:
        part *= gain(np.sqrt(q[0] ** 2 + q[1] ** 2 + q[2] ** 2)).astype(np.float32)
    if derivative is not None:
        part *= (2j * math.pi / n * q[derivative]).astype(spectrum.dtype)
    wide = np.zeros((size, size, size // 2 + 1), spectrum.dtype)
    wide[kept] = part
    return np.asarray(scipy.fft.irfftn(wide, s=(size,) * 3) * (size / n) ** 3, np.float32)
