"""Projection H and backprojection Hᵀ: images of a volume at known poses, and the exact adjoint.

    (H c)_p(j) = 1/n^2 sum_w T_p(w) c^(A_p[:2]ᵀ D w) exp(i w.j),      |D w| below the band limit,

with ``c^`` the Fourier transform of the coefficients c, T the transfer function times the basis function,
and w the n x n frequencies of an image.  Central slices are interpolated on an oversampled
grid with the window of the chosen accuracy; both directions use the same weights, so the pair is adjoint to
rounding.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dcryo.arrays import Array, fourier, namespace, on_device
from dcryo.operators.compiled import blocks, for_each, scratch, slabs
from dcryo.operators.grid_transform import from_half, to_half
from dcryo.operators.slices import HalfGrid
from dcryo.operators.transfer import ADJOINT, FORWARD, modulate
from dcryo.operators.views import Radial, Views
from dcryo.operators.window import window

Float32 = NDArray[np.float32]

PIXELS = 1 << 18
"""Pixels that are transformed at once: few enough for their spectra to stay in the cache."""

PLANES = 16
"""Planes of a volume that are transformed along x at once, likewise."""


def half_width(n: int) -> int:
    """Largest frequency index below n/2."""
    return (n - 1) // 2


def to_lattice(images: Array, box: int, threads: int = 1) -> Array:
    """Fourier transform P images (m, m) and keep the half-plane frequencies below box/2.

    Returns (P, 2h+1, h+1, 2) float32, h = (box-1)//2; the origin is the first pixel, not the centre.
    """
    xp = namespace(images)
    m = images.shape[-1]
    h = half_width(min(box, m))
    out = xp.empty((len(images), 2 * h + 1, h + 1), np.complex64)

    def work(part: slice) -> None:
        with fourier(images) as fft:
            spectrum = fft.rfft2(xp.asarray(images[part], np.float32))
        out[part, h:] = spectrum[:, : h + 1, : h + 1]
        out[part, :h] = spectrum[:, m - h :, : h + 1]

    for_each(work, slabs(images, max(1, PIXELS // (m * m))), threads)
    return out.view(np.float32).reshape(*out.shape, 2)


def from_lattice(values: Array, n: int, threads: int = 1) -> Float32:
    """Inverse of :func:`to_lattice`: (P, n, n) images with the given half-plane frequencies."""
    xp = namespace(values)
    h = values.shape[2] - 1
    lattice = values.reshape(*values.shape[:2], -1).view(np.complex64)
    images: Float32 = xp.empty((len(values), n, n), np.float32)

    def work(part: slice) -> None:
        some = lattice[part]
        shape = len(some), n, n // 2 + 1
        spectrum = (
            xp.zeros(shape, np.complex64)
            if on_device(values)
            else _cleared(*shape, 2).view(np.complex64)[..., 0]
        )
        spectrum[:, : h + 1, : h + 1] = some[:, h:]
        spectrum[:, n - h :, : h + 1] = some[:, :h]
        # the a = 0 column is stored for b >= 0 only; the rest follows from the image being real
        spectrum[:, n - h :, 0] = xp.conj(spectrum[:, 1 : h + 1, 0][:, ::-1])
        with fourier(spectrum) as fft:
            images[part] = fft.irfft2(spectrum, s=(n, n))

    for_each(work, slabs(values, max(1, PIXELS // (n * n))), threads)
    return images


def modulate_views(
    values: Array, views: Views, radial: Float32, weight: Float32, box: int, image_centre: float,
    direction: int, threads: int = 1,
) -> float:  # fmt: skip
    """Apply the transfer functions to a stack of lattices in place, in fixed blocks; returns the energy.

    ``box`` is the lattice's n, ``image_centre`` the centre of the transformed images in (cropped) pixels.
    """
    if on_device(values):
        from dcryo.operators import cuda

        return cuda.modulate(values, views, radial, weight, 2 * math.pi / box, image_centre, direction)
    parts = blocks(len(values), 32)
    energies = np.zeros(len(parts))

    def work(item: int) -> None:
        part = parts[item]
        energies[item] = modulate(
            values[part], views.coefficients[part], views.gain[part], views.distortion[part],
            views.limit2[part], views.group[part], views.treatment[part], radial, weight,
            2 * math.pi / box, image_centre, direction,
        )  # fmt: skip

    for_each(work, range(len(parts)), threads)
    return float(energies.sum())


def grid_rows(views: Views, grid_size: int, box: int) -> Float32:
    """Step in grid cells of one lattice step along a and b, (P, 2, 3)."""
    rows = np.swapaxes(views.distortion, 1, 2) @ views.rotation[:, :2]
    return np.ascontiguousarray(rows * (grid_size / box), dtype=np.float32)


def lattice_radius2(views: Views, box: int) -> Float32:
    """Squared lattice radius that holds every frequency below the band limit, (P,)."""
    if not len(views):
        return np.zeros(0, np.float32)
    (a, b), (c, d) = np.moveaxis(views.distortion, 0, -1)
    smallest = abs(np.hypot(a + d, b - c) - np.hypot(a - d, b + c)) / 2  # singular value of a 2 x 2 matrix
    radius = np.minimum(np.sqrt(views.limit2) / smallest * box / (2 * math.pi), box / 2)
    return np.asarray(radius**2 * (1 + 1e-6), np.float32)


def _deblur(n: int, geometry: HalfGrid) -> Float32:
    kappa = geometry.window.transform(np.arange(n) - n // 2, geometry.size)
    return np.asarray(1 / kappa, np.float32)


def grid_to_volume(grid: Array, geometry: HalfGrid, threads: int = 0) -> Float32:
    """Finish a backprojection: (n, n, n) volume of an accumulated grid, which is used up."""
    xp = namespace(grid)
    n, size = geometry.n, geometry.size
    inverse = xp.asarray(_deblur(n, geometry))
    half = to_half(grid, n, size, geometry.pad, threads)
    out: Float32 = xp.empty((n, n, n), np.float32)

    def work(part: slice) -> None:
        with fourier(half) as fft:
            x = fft.irfft(half[part], n=size, axis=2, norm="forward")
        weight = (inverse[part, None] * inverse)[:, :, None]
        for box, periodic in _halves(n, size):
            xp.multiply(x[:, :, periodic], weight * inverse[box], out=out[part, :, box])

    for_each(work, slabs(half, PLANES), threads)
    return out


def volume_to_grid(volume: Array, geometry: HalfGrid, threads: int = 0) -> Array:
    """Start a projection: the padded half grid, float32, of an (n, n, n) volume."""
    xp = namespace(volume)
    n, size = geometry.n, geometry.size
    inverse = xp.asarray(_deblur(n, geometry))
    half = xp.empty((n, n, size // 2 + 1), np.complex64)

    def work(part: slice) -> None:
        shape = len(volume[part]), n, size
        x = xp.zeros(shape, np.float32) if on_device(volume) else _cleared(*shape)
        weight = (inverse[part, None] * inverse)[:, :, None]
        for box, periodic in _halves(n, size):
            xp.multiply(volume[part, :, box], weight * inverse[box], out=x[:, :, periodic])
        with fourier(volume) as fft:
            half[part] = fft.rfft(x, axis=2)

    for_each(work, slabs(volume, PLANES), threads)
    return from_half(half, size, geometry.pad, threads)


def _cleared(*shape: int) -> Float32:
    """Scratch of this thread, all zero."""
    array = scratch("transforms", math.prod(shape)).reshape(shape)
    array[:] = 0
    return array


def _halves(n: int, size: int) -> list[tuple[slice, slice]]:
    """The two runs of positions along an axis: in the box, and on a periodic axis of ``size`` points."""
    return [(slice(n // 2, n), slice(n - n // 2)), (slice(n // 2), slice(size - n // 2, size))]


def halve_origin(values: Array) -> None:
    """Weight the zero frequency by 1/2: it is its own conjugate mirror, which is added later."""
    h = values.shape[2] - 1
    values[:, h, 0] *= np.float32(0.5)


def project(
    volume: Array, views: Views, radial: Radial, *, box: int, accuracy: str = "default", threads: int = 0
) -> Float32:
    """H: images of a volume.

    Parameters
    ----------
    volume : (n, n, n) float32
        Coefficients of the basis functions.
    views : Views
        P poses with their transfer functions; ``make_views(..., scale)`` where box > n.
    radial : Radial
        Its ``basis`` table multiplies the slices; the weight is not used.
    box : int
        Side of the images, at least n.
    accuracy : {"fast", "default", "accurate"}
        Spreading window.

    Returns
    -------
    (P, box, box) float32, where the volume is
    """
    xp = namespace(volume)
    n = volume.shape[0]
    geometry = HalfGrid(n, window(accuracy))
    grid = volume_to_grid(xp.asarray(volume, np.float32), geometry, threads)
    h = half_width(n)
    values = xp.zeros((len(views), 2 * h + 1, h + 1, 2), np.float32)
    geometry.extract(grid, values, grid_rows(views, geometry.size, n), lattice_radius2(views, n), threads)
    centre = (box // 2) * n / box
    modulate_views(values, views, radial.forward, radial.energy, n, centre, FORWARD, threads)
    return from_lattice(values, box, threads)


def backproject(
    images: Array, views: Views, radial: Radial, n: int, *, accuracy: str = "default", threads: int = 0
) -> Float32:
    """Hᵀ: the exact adjoint of :func:`project` (times the noise weight, if ``radial`` carries one).

    Parameters
    ----------
    images : (P, box, box) float32
    n : int
        Side of the volume, at most box.

    Returns
    -------
    (n, n, n) float32, where the images are
    """
    geometry = HalfGrid(n, window(accuracy))
    grid = namespace(images).zeros(geometry.shape, np.float32)
    insert_images(grid, geometry, images, views, radial, threads=threads)
    return grid_to_volume(grid, geometry, threads)


def insert_images(
    grid: Array, geometry: HalfGrid, images: Array, views: Views, radial: Radial,
    rotations: NDArray[np.float64] | None = None, threads: int = 0,
) -> float:  # fmt: skip
    """Add Hᵀ W b of P images to a grid, float64 or float32; returns their energy bᵀ W b.

    With ``rotations`` (G, 3, 3), a point group, every image is inserted at all G equivalent poses with the
    weight 1/G.
    """
    n = geometry.n
    box = images.shape[-1]
    values = to_lattice(images, n, threads)
    centre = (box // 2) * n / box
    group = np.eye(3)[None] if rotations is None else rotations
    scaled = radial.rhs * np.float32(1 / (box * box * len(group)))
    energy = modulate_views(values, views, scaled, radial.energy, n, centre, ADJOINT, threads)
    halve_origin(values)
    radius2 = lattice_radius2(views, n)
    for rotation in group:
        rows = grid_rows(views.rotated(rotation), geometry.size, n)
        geometry.insert(grid, values, rows, radius2, threads)
    return float(energy / (box * box))
