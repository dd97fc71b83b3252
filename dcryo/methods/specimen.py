"""What is put under the simulated microscope: a phantom, an atomic model, or a map.

A specimen knows its own volume and its own projections; neither is made with the operators that reconstruct.
Phantoms and atoms are sums of Gaussians, whose projections are Gaussians (no discrete projector at all).  A
map is taken as band-limited samples: its Fourier transform, on a lattice twice as fine, is interpolated by
cubic splines on the central slice (relative error 2e-3 at 0.35 box from the centre, less inside).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, map_coordinates, spline_filter

from dcryo.errors import InputError
from dcryo.geometry.symmetry import point_group
from dcryo.imaging.phantom import Cloud, gaussian_cloud, project_fourier, rasterise
from dcryo.io.atoms import atom_cloud, read_atoms
from dcryo.io.run_store import read_map
from dcryo.methods.symmetry_axes import align_to_symmetry
from dcryo.metrics.fsc import soft_ball

Float32 = NDArray[np.float32]
Complex64 = NDArray[np.complex64]

PAD = 2
"""Fineness of the Fourier lattice that a map is interpolated on."""

PHANTOMS = {"cloud": (300, 1.0), "protein": (1500, 0.8)}
"""Number of Gaussians and their width in pixels; the protein takes four times as long to project."""

FILL = 0.32
"""Radius of a phantom, as a fraction of the box."""


class Specimen(Protocol):
    """An object in a box of ``n`` voxels, centred at ``n // 2``."""

    n: int
    pixel_size: float
    radius: float
    """Of the smallest ball about the centre that holds the object [Å]."""

    def volume(self) -> Float32:
        """Samples (n, n, n) of the object, band-limited."""

    def fourier(self, rotation: NDArray[Any]) -> Complex64:
        """Transforms (P, n, n // 2 + 1) of the projections for matrices A (P, 3, 3).

        They are on the lattice of ``rfft2``.  The origin of space is the centre of the image; lengths along
        the beam are in voxels.
        """


class CloudSpecimen:
    """A sum of Gaussians: a phantom or an atomic model; ``cloud`` is in voxels of ``pixel_size`` Å."""

    def __init__(self, cloud: Cloud, n: int, pixel_size: float) -> None:
        self.n, self.pixel_size = n, pixel_size
        self.radius = float(np.linalg.norm(cloud.centers, axis=1).max()) * pixel_size
        self.cloud = cloud

    def volume(self) -> Float32:
        """Band-limited samples of the sum."""
        return rasterise(self.cloud, self.n)

    def fourier(self, rotation: NDArray[Any]) -> Complex64:
        """Analytic central slices."""
        return project_fourier(self.cloud, rotation, self.n)


class MapSpecimen:
    """A density map of any cubic box and pixel size, seen in a box of ``n`` pixels of ``pixel_size`` Å."""

    def __init__(self, array: NDArray[Any], map_pixel_size: float, n: int, pixel_size: float) -> None:
        self.n, self.pixel_size = n, pixel_size
        size = len(array)
        inner = min(size * map_pixel_size, n * pixel_size) / 2
        self.radius = inner
        # What lies outside the ball would leave the frame, or be wrapped into it.
        edge = 0.05 * inner / map_pixel_size
        masked = np.asarray(array, np.float32) * soft_ball(size, inner / map_pixel_size - edge, edge)
        big = PAD * size
        padded = np.zeros((big,) * 3, np.float32)
        corner = big // 2 - size // 2
        padded[(slice(corner, corner + size),) * 3] = masked
        spectrum = scipy.fft.fftshift(scipy.fft.fftn(scipy.fft.ifftshift(padded), overwrite_x=True))
        self._spline = spline_filter(spectrum, order=3, mode="grid-wrap", output=np.complex64)
        self._step = big * map_pixel_size  # index on the fine lattice = step * frequency [1/Å] + big // 2
        self._limit = 0.5 / max(map_pixel_size, pixel_size)
        self._scale = (map_pixel_size / pixel_size) ** 3

    def _fourier(self, frequency: NDArray[Any]) -> Complex64:
        """Transform of the object at ``frequency`` (..., 3) [1/Å], in units of the output's voxels."""
        index = np.moveaxis(frequency[..., ::-1], -1, 0) * self._step + len(self._spline) // 2
        values = map_coordinates(
            self._spline, index, order=3, mode="grid-wrap", prefilter=False, output=np.complex64
        )
        values *= np.float32(self._scale) * ((frequency**2).sum(-1) < self._limit**2)
        return np.asarray(values, np.complex64)

    def volume(self) -> Float32:
        """Samples of the map at the output's pixel size."""
        f = scipy.fft.fftfreq(self.n, self.pixel_size)
        fx = scipy.fft.rfftfreq(self.n, self.pixel_size)
        lattice = np.empty((self.n, len(fx), 3))
        lattice[..., 0], lattice[..., 1] = fx, f[:, None]
        spectrum = np.empty((self.n, self.n, len(fx)), np.complex64)
        for z, fz in enumerate(f):
            lattice[..., 2] = fz
            spectrum[z] = self._fourier(lattice)
        return np.asarray(scipy.fft.fftshift(scipy.fft.irfftn(spectrum, (self.n,) * 3)), np.float32)

    def fourier(self, rotation: NDArray[Any]) -> Complex64:
        """Central slices of the spline."""
        fx = scipy.fft.rfftfreq(self.n, self.pixel_size)[None, None, :, None]
        fy = scipy.fft.fftfreq(self.n, self.pixel_size)[None, :, None, None]
        return self._fourier(fx * rotation[:, None, None, 0] + fy * rotation[:, None, None, 1])


def phantom(name: str, n: int, pixel_size: float, symmetry: str = "C1") -> CloudSpecimen:
    """The phantom ``NAME`` or ``NAME:SEED`` of :data:`PHANTOMS`.

    A symmetric one is a cloud of fewer points and its images under the group.

    Raises
    ------
    InputError
        If there is no phantom of that name.
    """
    kind, _, seed = name.partition(":")
    if kind not in PHANTOMS or not (seed.isdecimal() or name == kind):
        known = " or ".join(PHANTOMS)
        raise InputError(
            f"--phantom {name}: give {known}, or with a number for another one of its kind: cloud:7"
        )
    count, width = PHANTOMS[kind]
    group = np.asarray(point_group(symmetry))
    cloud = gaussian_cloud(int(seed or 0), max(1, count // len(group)), FILL * n, width)
    centers = np.einsum("gij,pj->gpi", group, cloud.centers).reshape(-1, 3)
    images = len(group)
    return CloudSpecimen(
        Cloud(centers, np.tile(cloud.mass, images), np.tile(cloud.width, images)), n, pixel_size
    )


def symmetrised(array: NDArray[Any], symmetry: str) -> Float32:
    """Mean of a cubic map over the rotations of a point group (cubic splines)."""
    array = np.asarray(array, np.float32)
    centre = np.full(3, len(array) // 2)
    total = np.zeros(array.shape, np.float64)
    group = np.asarray(point_group(symmetry))
    for operation in group:
        backwards = operation[::-1, ::-1]  # vectors (x, y, z), indices [z, y, x]
        total += affine_transform(
            array, backwards, offset=centre - backwards @ centre, order=3, mode="grid-constant"
        )
    return (total / len(group)).astype(np.float32)


def atomic_model(
    path: str, n: int, pixel_size: float | None, resolution: float | None, symmetry: str
) -> CloudSpecimen:
    """An atomic model, its centre of mass in the centre, turned into the frame of its point group.

    ``resolution`` in Å; None is two pixels.

    Raises
    ------
    InputError
        Without a pixel size, for a model that cannot be read, leaves the box or lacks the symmetry.
    """
    atoms = read_atoms(path).centred()
    if pixel_size is None:
        extent = 2 * float(np.linalg.norm(atoms.positions, axis=1).max())
        fits = extent / (2 * FILL * n)
        raise InputError(
            f"{path}: give --pixel-size; the model is {extent:.0f} Å across, and {fits:.2g} Å would let it "
            f"fill {2 * FILL:.0%} of a box of {n}"
        )
    frame = align_to_symmetry(atoms.positions, symmetry, path)
    atoms = replace(atoms, positions=atoms.positions @ frame.T)
    return CloudSpecimen(atom_cloud(atoms, n, pixel_size, resolution or 2 * pixel_size), n, pixel_size)


def density_map(path: str, n: int | None, pixel_size: float | None, symmetry: str) -> MapSpecimen:
    """A density map, made symmetric; ``n`` and ``pixel_size`` None are the map's own.

    Of a map whose header states no pixel size, ``pixel_size`` is the one.

    Raises
    ------
    InputError
        If the map cannot be read, or says no pixel size and none is given.
    """
    array, own = read_map(path)
    if not own > 0:
        if pixel_size is None:
            raise InputError(f"{path}: its header states no pixel size; give it with --pixel-size")
        own = pixel_size
    if point_group(symmetry).shape[0] > 1:
        array = symmetrised(array, symmetry)
    return MapSpecimen(array, own, n or len(array), pixel_size or own)
