"""Clouds of Gaussians, whose volume and projections are known analytically.

A point at c with the mass m and the width s is the density m (2 pi s^2)^(-3/2) exp(-|r - c|^2 / (2 s^2)).
Its Fourier transform is m exp(-s^2 |w|^2 / 2) exp(-i w.c), and by the central-slice theorem its projection
along e3 has that transform at w = w1 e1 + w2 e2.  We sum these transforms on the Fourier lattice of the box.
Images and volumes are therefore band-limited samples of one continuous object (periodic in the box): no grid
was projected and nothing was interpolated.

Lengths are in voxels.  On even boxes the lattice line at -n/2, which no real band-limited function can hold,
is zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft
from scipy.spatial import KDTree

from dcryo.errors import InputError

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Complex64 = NDArray[np.complex64]

_POINT: Float64 = np.array([[[1.0, 0.0]]])


@dataclass(frozen=True)
class Cloud:
    """Points that are sums of Gaussians; lengths in voxels, the origin in the centre of the box.

    ``centers`` (N, 3) x, y, z; ``mass`` (N,) integral of each point; ``width`` (N,) standard deviation of
    each point.  ``forms`` (K, T, 2) holds the form factors of K kinds of point as sums of T terms (weight,
    width), weight * exp(-width^2 |w|^2 / 2); ``kind`` (N,) says which one a point has (all the first one if
    not given).
    """

    centers: Float64
    mass: Float64
    width: Float64
    kind: NDArray[np.intp] = field(default_factory=lambda: np.zeros(0, np.intp))
    forms: Float64 = field(default_factory=lambda: _POINT)

    def __post_init__(self) -> None:
        if len(self.kind) == 0:
            object.__setattr__(self, "kind", np.zeros(len(self.centers), np.intp))

    def __len__(self) -> int:
        return len(self.centers)


def gaussian_cloud(seed: int, count: int, radius: float, width: float = 0.8) -> Cloud:
    """A compact, asymmetric, protein-like cloud.

    Points of random mass fill a union of six overlapping ellipsoids, no two closer than a set distance, as
    atoms or residues do.  The same arguments give the same cloud.

    Parameters
    ----------
    seed : int
        Of the shape and the points.
    count : int
        Number of points.
    radius : float
        All points lie within this distance of the origin, which is their mean [voxels].
    width : float
        Standard deviation of every point [voxels].
    """
    if count < 1 or not radius > 0 or not width > 0:
        raise InputError(
            f"phantom of {count} points, radius {radius:g}, width {width:g}: all three must be positive"
        )
    rng = np.random.default_rng(seed)
    middles, axes = _domains(rng)
    points = _scattered(rng, middles, axes, count)
    points -= points.mean(axis=0)
    points *= radius / np.linalg.norm(points, axis=1).max() if count > 1 else 0.0
    # Peak heights of 0.5 to 1.5, whatever the width.
    peak = rng.uniform(0.5, 1.5, count)
    return Cloud(points, peak * (2 * math.pi * width**2) ** 1.5, np.full(count, float(width)))


def _domains(rng: np.random.Generator) -> tuple[Float64, Float64]:
    """Centres and semi-axes of six ellipsoids in the unit ball, each touching an earlier one."""
    middles, axes = [np.zeros(3)], [np.array([0.45, 0.35, 0.3])]
    for _ in range(5):
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        axes.append(rng.uniform(0.2, 0.42, 3))
        middle = middles[rng.integers(len(middles))] + direction * rng.uniform(0.35, 0.6)
        reach = 1 - axes[-1].max()
        middles.append(middle * min(1.0, reach / np.linalg.norm(middle)))
    return np.array(middles), np.array(axes)


def _scattered(rng: np.random.Generator, middles: Float64, axes: Float64, count: int) -> Float64:
    """``count`` random points in the union of ellipsoids that keep their distance from one another."""
    pool = rng.uniform(-1, 1, (60 * count + 200, 3))
    inside = np.any((((pool[:, None] - middles) / axes) ** 2).sum(axis=2) < 1, axis=1)
    pool = pool[inside]
    # Random sequential packing fills about a third of a volume: aim at 0.2 so that it succeeds at once.
    volume = 8 * len(pool) / len(inside)
    distance = 2 * (0.2 * volume / count * 3 / (4 * math.pi)) ** (1 / 3)
    while True:
        chosen = _packed(pool, distance)
        if len(chosen) >= count:
            return chosen[:count]
        distance *= 0.9


def _packed(pool: Float64, distance: float) -> Float64:
    """The points of ``pool`` that, taken in order, have no earlier one of the choice within ``distance``."""
    free = np.ones(len(pool), dtype=bool)
    tree = KDTree(pool)
    for index in range(len(pool)):
        if free[index]:
            near = tree.query_ball_point(pool[index], distance)
            free[near] = False
            free[index] = True
    return pool[free]


def project_fourier(cloud: Cloud, rotation: ArrayLike, n: int) -> Complex64:
    """Fourier transforms of the projections, on the ``rfft2`` lattice of n pixels.

    Parameters
    ----------
    cloud : Cloud
        Of N points, in voxels.
    rotation : (P, 3, 3) array
        Pose matrices A.
    n : int
        Box.

    Returns
    -------
    (P, n, n // 2 + 1) complex64 array
        The origin of space is the centre of the image; multiply with a transfer function and see
        :func:`images`.  The cost is O(P N n^2 / 2).
    """
    matrices = np.asarray(rotation, dtype=np.float64).reshape(-1, 3, 3)
    q = 2 * math.pi / n * np.arange(n // 2 + 1)
    damping = np.exp(-0.5 * np.square(np.outer(q, cloud.width))).astype(np.float32)
    order, groups = _by_kind(cloud)
    centers, damping = cloud.centers[order], damping[:, order]
    mass = cloud.mass[order].astype(np.float32)
    forms = _form_factors(cloud.forms, _squared_radius(n, 2))
    out = np.zeros((len(matrices), n, n // 2 + 1), dtype=np.complex64)
    for image, matrix in zip(out, matrices, strict=True):
        x, y = matrix[:2] @ centers.T
        wave_x = _waves(x, n) * damping
        wave_y = _both_signs(_waves(y, n) * damping * mass, n)
        for kind, rows in groups:
            image += forms[kind] * (wave_y[:, rows] @ wave_x[:, rows].T)
    _clear_nyquist(out, n, 2)
    return out


def images(transforms: NDArray[np.complexfloating[Any]], n: int) -> Float32:
    """Images (P, n, n), centred at n // 2, of transforms whose origin is the centre (P, n, n // 2 + 1)."""
    return np.asarray(
        fft.fftshift(fft.irfft2(transforms.astype(np.complex64, copy=False), s=(n, n)), axes=(1, 2)),
        np.float32,
    )


def project_gaussians(cloud: Cloud, rotation: ArrayLike, shift: ArrayLike, n: int) -> Float32:
    """Analytic projections, ``image(j) = projection(j - shift)``.

    Parameters
    ----------
    cloud : Cloud
        In voxels.
    rotation : (P, 3, 3) array
        Pose matrices A.
    shift : (P, 2) array
        t, x and y, in pixels.
    n : int
        Box.

    Returns
    -------
    (P, n, n) float32 array
        Line integrals in voxels.
    """
    q1 = 2 * math.pi * fft.rfftfreq(n)
    q2 = 2 * math.pi * fft.fftfreq(n)
    t = np.asarray(shift, dtype=np.float64).reshape(-1, 2)
    phase = np.exp(-1j * t[:, 1, None] * q2)[:, :, None] * np.exp(-1j * t[:, 0, None] * q1)[:, None, :]
    return images(project_fourier(cloud, rotation, n) * phase.astype(np.complex64), n)


def rasterise(cloud: Cloud, n: int) -> Float32:
    """Band-limited samples (n, n, n) [z, y, x] of the cloud: the volume whose slices its projections are."""
    q = 2 * math.pi / n * np.arange(n // 2 + 1)
    damping = np.exp(-0.5 * np.square(np.outer(q, cloud.width))).astype(np.float32)
    order, groups = _by_kind(cloud)
    damping = damping[:, order]
    x, y, z = cloud.centers[order].T
    mass = cloud.mass[order].astype(np.float32)
    wave_x = np.ascontiguousarray((_waves(x, n) * damping).T)
    wave_y = _both_signs(_waves(y, n) * damping, n)
    wave_z = _both_signs(_waves(z, n) * damping * mass, n)
    squared = _squared_radius(n, 2)
    out = np.zeros((n, n, n // 2 + 1), dtype=np.complex64)
    for plane, wave, q_z in zip(out, wave_z, 2 * math.pi * fft.fftfreq(n), strict=True):
        forms = _form_factors(cloud.forms, squared + q_z**2)
        for kind, rows in groups:
            plane += forms[kind] * ((wave_y[:, rows] * wave[rows]) @ wave_x[rows])
    _clear_nyquist(out[None], n, 3)
    return np.asarray(fft.fftshift(fft.irfftn(out, s=(n, n, n))), np.float32)


def _by_kind(cloud: Cloud) -> tuple[NDArray[np.intp], list[tuple[int, slice]]]:
    """Order of the points that puts kinds together, and the slice of each kind that occurs."""
    order = np.argsort(cloud.kind, kind="stable")
    kinds, starts = np.unique(cloud.kind[order], return_index=True)
    ends = [*starts[1:], len(order)]
    return order, [(int(k), slice(int(a), int(b))) for k, a, b in zip(kinds, starts, ends, strict=True)]


def _form_factors(forms: Float64, squared: Float64) -> Float32:
    """Form factors (K, ...) at squared frequencies (...) [rad^2 per voxel^2]."""
    weight, width = forms[..., 0], forms[..., 1]
    terms = weight[..., None, None] * np.exp(-0.5 * np.square(width)[..., None, None] * squared)
    return np.asarray(terms.sum(axis=1), np.float32)


def _squared_radius(n: int, axes: int) -> Float64:
    q1 = 2 * math.pi * fft.rfftfreq(n)
    q2 = 2 * math.pi * fft.fftfreq(n)
    return np.asarray(np.square(q2)[:, None] + np.square(q1)[None, :])


def _waves(x: Float64, n: int) -> Complex64:
    """exp(-2 pi i k x / n) for k = 0 .. n // 2 and all x, (n // 2 + 1, N).

    By doubling, wave[m + k] = wave[m] wave[k], from powers that are exact to float32: a row is the product of
    at most log2 n of them, which is as accurate as single precision allows and much faster than exp.
    """
    out = np.ones((n // 2 + 1, len(x)), dtype=np.complex64)
    done = 1
    while done < len(out):
        step = min(done, len(out) - done)
        angle = -2 * math.pi / n * np.remainder(done * x, n)
        factor = (np.cos(angle) + 1j * np.sin(angle)).astype(np.complex64)
        np.multiply(out[:step], factor, out=out[done : done + step])
        done += step
    return out


def _both_signs(waves: Complex64, n: int) -> Complex64:
    """Rows in the order of ``fft``, from those of k = 0 .. n // 2 of something Hermitian."""
    negative = waves[1 : (n + 1) // 2][::-1].conj()
    return np.concatenate([waves, negative])


def _clear_nyquist(transforms: Complex64, n: int, axes: int) -> None:
    """Zero the lattice planes at -n/2 of the last ``axes`` axes, in place."""
    if n % 2:
        return
    transforms[..., n // 2] = 0
    transforms[..., n // 2, :] = 0
    if axes == 3:
        transforms[..., n // 2, :, :] = 0
