"""The normal equations of a particle set: everything that a reconstruction needs to know about its images.

    rhs = sum_p H_pᵀ W b_p,   spectrum = F{ kernel of sum_p H_pᵀ W H_p },   energy = sum_p b_pᵀ W b_p

They form a commutative monoid under ``+``: half sets, slices of a data set, added data are all sums.  The
data term of coefficients c is  1/2 cᵀ(r * c) - cᵀ rhs + 1/2 energy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.arrays import Array, fourier, module, namespace, on_device, to_device
from dcryo.errors import InputError
from dcryo.operators import reference
from dcryo.operators.compiled import blocks, for_each, thread_count
from dcryo.operators.kernel import PlaneKernel, padded_length
from dcryo.operators.lines import filter_columns
from dcryo.operators.projector import grid_to_volume, insert_images
from dcryo.operators.slices import HalfGrid
from dcryo.operators.views import Radial, Views, concatenate
from dcryo.operators.window import window

Float64 = NDArray[np.float64]
Real = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class NormalEquations:
    """HᵀWb and HᵀWH of ``count`` particles for a box of n voxels.

    rhs (n, n, n); spectrum (L, L, L//2+1), real, L = padded_length(n), layout of rfftn; energy bᵀWb.
    float32 arrays, float64 in the reference accuracy, both on the host or both on a GPU.
    """

    rhs: Real
    spectrum: Real
    energy: float
    count: int

    @classmethod
    def zeros(cls, n: int) -> NormalEquations:
        """The neutral element."""
        length = padded_length(n)
        spectrum = np.zeros((length, length, length // 2 + 1), np.float32)
        return cls(np.zeros((n, n, n), np.float32), spectrum, 0.0, 0)

    def __add__(self, other: NormalEquations) -> NormalEquations:
        """Sum of two particle sets; one float32 rounding per number."""
        return NormalEquations(
            self.rhs + other.rhs,
            self.spectrum + other.spectrum,
            self.energy + other.energy,
            self.count + other.count,
        )

    def to(self, device: str) -> NormalEquations:
        """These sums on "cpu" or "cuda"."""
        return replace(self, rhs=to_device(self.rhs, device), spectrum=to_device(self.spectrum, device))

    @property
    def n(self) -> int:
        """Side of the box."""
        return len(self.rhs)

    def zero_lag(self) -> float:
        """r[0], the diagonal of HᵀWH: the variance per voxel of the noise in rhs."""
        length = self.spectrum.shape[0]
        total = 2 * self.spectrum.sum(dtype=np.float64)
        total -= self.spectrum[:, :, 0].sum(dtype=np.float64)
        total -= self.spectrum[:, :, length // 2].sum(dtype=np.float64)
        return float(total / length**3)


class Convolution:
    """HᵀWH as a convolution: ``apply(c)`` zero-pads, transforms, multiplies by the spectrum, and crops.

    Zero parts are never transformed: of the L lines along an axis only n hold data before the next is padded.
    Single precision on the host is left to :mod:`dcryo.operators.lines`, but for a few columns; those, double
    precision and everything on a GPU to the FFTs of a library.  Exact where c lives in the ball of diameter
    n.
    """

    COLUMNS = 16
    """x-frequencies handled at once: enough for vectorised transforms, few enough to stay in the cache."""

    DEVICE_NUMBERS = 1 << 24
    """Of a padded block on a GPU, 134 MB: all columns of 128³ at once, since launches cost time as well."""

    def __init__(self, spectrum: Array, n: int, threads: int = 0) -> None:
        """``spectrum`` (L, L, L//2+1) of a :class:`NormalEquations` for a box of ``n``."""
        self.spectrum = spectrum
        self.n = n
        self.threads = threads

    def __call__(self, volume: Real) -> Real:
        """HᵀWH c, (n, n, n) -> (n, n, n)."""
        n, length = self.n, self.spectrum.shape[0]
        workers = thread_count(self.threads)
        with fourier(volume, workers) as fft:
            x = fft.rfft(volume, n=length, axis=2)
        single = x.dtype == np.complex64 and self.spectrum.dtype == np.float32
        first = filter_columns(x, self.spectrum, self.threads) if single and not on_device(volume) else 0
        size = max(1, self.DEVICE_NUMBERS // length**2) if on_device(volume) else self.COLUMNS

        def columns(part: slice) -> None:
            with fourier(volume) as fft:
                y = fft.fft(x[:, :, part], n=length, axis=1)
                z = fft.fft(y, n=length, axis=0)
                z *= self.spectrum[:, :, part]
                y = fft.ifft(z, axis=0, overwrite_x=True)[:n]
                x[:, :, part] = fft.ifft(y, axis=1, overwrite_x=True)[:, :n]

        parts = [slice(first + part.start, first + part.stop) for part in blocks(x.shape[2] - first, size)]
        for_each(columns, parts, 1 if on_device(volume) else self.threads)
        with fourier(volume, workers) as fft:
            out: Real = namespace(volume).ascontiguousarray(fft.irfft(x, n=length, axis=2)[:, :, :n])
        return out


KERNEL_BATCH = 2048
"""Particles whose kernels are added at once, and no more than twice as many: few float32 sums for a cell, and
seldom a walk through all of them."""


class Accumulator:
    """Folds batches of particles into one :class:`NormalEquations`.

    Sums inside a batch are float32, across batches float64; the batches are the caller's and fix the bits.
    The kernel needs no images, and waits for more views than a batch has.
    ``accuracy`` is a window's name, or "reference" for direct float64 sums (small boxes only, on the CPU).
    On the device "cuda" images come, sums stay, and the result is returned there.
    """

    def __init__(
        self,
        n: int,
        radial: Radial,
        *,
        accuracy: str = "default",
        symmetry: Float64 | None = None,
        threads: int = 0,
        device: str = "cpu",
    ) -> None:
        """Empty sums for a box of ``n`` voxels; ``symmetry`` (G, 3, 3) is a point group.

        Raises
        ------
        InputError
            If the accuracy is not known, or not to be had on the device.
        """
        self.n = n
        self.radial = radial
        self.symmetry = symmetry
        self.threads = threads
        self.reference = accuracy == "reference"
        self.energy = 0.0
        self.count = 0
        if self.reference:
            if device != "cpu":
                raise InputError(f"the accuracy reference is not for the device {device}; use the device cpu")
            self._direct = reference.zeros(n)
        else:
            self._geometry = HalfGrid(n, window(accuracy))
            self._kernel = PlaneKernel(n, self._geometry.window, device)
            self._grid = module(device).zeros(self._geometry.shape)
            self._waiting: list[Views] = []

    def add(self, images: Array, views: Views) -> None:
        """Add P images (m, m), m >= n, with their views."""
        if images.shape[0] != len(views) or images.shape[1] != images.shape[2] or images.shape[1] < self.n:
            raise ValueError(
                f"images {images.shape} do not fit {len(views)} views and a box of {self.n} voxels"
            )
        if self.reference:
            self.energy += reference.accumulate(self._direct, images, views, self.radial, self.symmetry)
        else:
            self.energy += insert_images(
                self._grid, self._geometry, images, views, self.radial, self.symmetry, self.threads
            )
            self._waiting.append(views)
            if sum(map(len, self._waiting)) >= KERNEL_BATCH:
                self._add_to_kernel()
        self.count += len(images)

    def _add_to_kernel(self) -> None:
        if self._waiting:
            self._kernel.add(concatenate(self._waiting), self.radial, self.symmetry, self.threads)
            self._waiting = []

    def finish(self) -> NormalEquations:
        """The sums so far; the accumulator is used up."""
        if self.reference:
            return NormalEquations(*self._direct, self.energy, self.count)
        self._add_to_kernel()
        rhs = grid_to_volume(self._grid, self._geometry, self.threads)
        del self._grid
        return NormalEquations(rhs, self._kernel.spectrum(self.threads), self.energy, self.count)


def spectrum_bytes(n: int) -> int:
    """Memory of the spectrum in a :class:`NormalEquations` of a box of n, in bytes."""
    length = padded_length(n)
    return 4 * length * length * (length // 2 + 1)


def accumulation_bytes(n: int, accuracy: str, device: str = "cpu") -> int:
    """Memory of an :class:`Accumulator` and its finish on its device, without the images, in bytes."""
    chosen = window(accuracy)
    geometry = HalfGrid(n, chosen)
    grid = 8 * int(np.prod([float(s) for s in geometry.shape]))
    length = padded_length(n)
    plane = 8 * (length // 2 + 1) * length * (chosen.grid_size(length) + 2 * geometry.pad)
    spectrum = spectrum_bytes(n)
    # folding the grid copies it; finishing the kernel holds the spectrum and three oriented copies of a part
    work = 0 if device == "cpu" else grid // 2  # a batch's float32 sums, or the work area of cuFFT
    return max(2 * grid + work + 3 * plane, 3 * plane + 4 * spectrum)
