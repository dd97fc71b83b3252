"""FSC by direction: how much worse a map is along one axis than along another.

The FSC of the Fourier voxels inside a double cone about an axis (Tan et al. 2017, Nat. Methods 14:793, who
call it the 3DFSC), for axes spread evenly over a hemisphere.  A cone of 20 degrees holds 6 % of a shell, so
these curves are noisier than the FSC: part of their spread is chance.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import ConvexHull

from dcryo.errors import InputError
from dcryo.imaging.radial import multiplicities, squared_radii
from dcryo.operators.compiled import compile_kernel

FloatArray = NDArray[np.float64]

HALF_ANGLE = math.radians(20)
"""Half opening angle of a cone (Tan et al. 2017)."""

DIRECTIONS = 200
"""Axes on the hemisphere, about 10 degrees apart."""

SPHERICITY_AT = 0.5
"""FSC threshold of the surface whose sphericity is given (Tan et al. 2017)."""


def fibonacci_hemisphere(count: int) -> FloatArray:
    """Unit vectors x, y, z (count, 3) with z > 0, one for every equal share of the hemisphere.

    A golden-angle spiral (Gonzalez 2010, Math. Geosci. 42:49).
    """
    index = np.arange(count) + 0.5
    z = 1 - index / count
    across = np.sqrt(1 - z**2)
    turn = index * math.pi * (3 - math.sqrt(5))
    return np.stack([across * np.cos(turn), across * np.sin(turn), z], axis=1)


def directional_fsc(
    a: ArrayLike, b: ArrayLike, directions: FloatArray, half_angle: float = HALF_ANGLE
) -> FloatArray:
    """FSC inside a double cone about each direction.

    Parameters
    ----------
    a, b : array_like, (n, n, n)
        Half maps [z, y, x], masked or not.
    directions : ndarray, (D, 3)
        Unit vectors x, y, z.
    half_angle : float
        rad; pi/2 is the whole shell.

    Returns
    -------
    ndarray, (D, n//2+1)
        In a shell of which no voxel lies in a cone, as in the first ones, the FSC of the whole shell.

    Raises
    ------
    InputError
        If the maps are not cubes of one size.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    n = len(first) if first.ndim else 0
    if first.shape != (n, n, n) or second.shape != first.shape or n < 2:
        raise InputError(f"volumes of shape {first.shape} and {second.shape}: cubes of one size are needed")
    spectra = [scipy.fft.rfftn(volume) for volume in (first, second)]
    shells = n // 2 + 1
    weights = np.broadcast_to(multiplicities(n), (n, shells))
    q = np.fft.fftfreq(n, 1 / n)
    y, x = np.meshgrid(q, np.arange(float(shells)), indexing="ij")
    axes = np.ascontiguousarray(directions, np.float64)
    sums = np.zeros((len(axes), shells, 3))
    whole = np.zeros((1, shells, 3))
    limit = math.cos(half_angle) - 1e-12  # a voxel on the rim is inside
    for z, squared, plane_a, plane_b in zip(q, squared_radii(n), *spectra, strict=True):
        radius = np.sqrt(squared)
        shell = np.rint(radius).astype(np.int64)
        inside = shell < shells
        f, g, weight = plane_a[inside], plane_b[inside], weights[inside]
        products = weight[:, None] * np.stack([(f * g.conj()).real, np.abs(f) ** 2, np.abs(g) ** 2], axis=1)
        vectors = np.stack([x[inside], y[inside], np.full(len(f), z)], axis=1)
        _add_cones(axes, vectors, limit * radius[inside], shell[inside], products, sums)
        _add_cones(axes[:1], vectors, np.zeros(len(f)), shell[inside], products, whole)
    return _correlation(sums, _correlation(whole, np.zeros((1, shells))))


@compile_kernel("void(f8[:,::1], f8[:,::1], f8[::1], i8[::1], f8[:,::1], f8[:,:,::1])")
def _add_cones(directions: Any, vectors: Any, limits: Any, shells: Any, products: Any, sums: Any) -> None:
    """Add ``products`` (V, 3) of the voxels ``vectors`` (V, 3) to ``sums`` (D, shell, 3).

    A voxel belongs to the cones whose direction d has ``|d . vector| >= limit``.
    """
    for v in range(vectors.shape[0]):
        shell = shells[v]
        for d in range(directions.shape[0]):
            along = (
                directions[d, 0] * vectors[v, 0]
                + directions[d, 1] * vectors[v, 1]
                + directions[d, 2] * vectors[v, 2]
            )
            if abs(along) >= limits[v]:
                for k in range(3):
                    sums[d, shell, k] += products[v, k]


def _correlation(sums: FloatArray, otherwise: FloatArray) -> FloatArray:
    """cross / sqrt(power a, power b) of sums (D, shells, 3); ``otherwise`` where there is no power."""
    cross, power_a, power_b = np.moveaxis(sums, -1, 0)
    scale = np.sqrt(power_a) * np.sqrt(power_b)
    out: FloatArray = np.broadcast_to(otherwise, cross.shape).copy()
    np.divide(cross, scale, out=out, where=scale > 0)
    return out


def sphericity(directions: FloatArray, radii: ArrayLike) -> float:
    """How nearly a surface about the origin is a sphere: ``pi^(1/3) (6 V)^(2/3) / A``, 1 for a sphere.

    The measure of Wadell (1935), which Tan et al. (2017) take of the surface where the directional FSC
    crosses 0.5.  The surface is given by ``radii`` (D,), as cut-off frequencies, along ``directions``
    (D, 3) and their opposites; volume V and area A are those of its triangles, relative to those of the same
    triangles on a sphere.
    """
    points = np.concatenate([directions, -directions])
    triangles = ConvexHull(points).simplices
    lengths = np.tile(np.asarray(radii, np.float64), 2)

    def roundness(vertices: NDArray[Any]) -> float:
        p, q, r = (vertices[triangles[:, corner]] for corner in range(3))
        volume = float(np.abs(np.einsum("ij,ij->i", p, np.cross(q, r))).sum()) / 6
        area = float(np.linalg.norm(np.cross(q - p, r - p), axis=1).sum()) / 2
        return float((6 * volume) ** (2 / 3) / area)

    return roundness(points * lengths[:, None]) / roundness(points)
