"""Comparing particles with projections of a volume at many rotations and shifts, by matrix products.

At low frequency an image is a few hundred numbers, so an exhaustive search costs two products of matrices:

    corr(p, t, r) = sum_w W Re( conj(B_p) T_p e^(-i w t) S_r ),      norm(p, r) = sum_w W |T_p|^2 |S_r|^2,

S_r the central slices at all rotations r, shared by all particles.  The data term falls by
corr - norm / 2 against an empty image; where the scale of the volume is unknown, by corr^2 / (2 norm), the
fall at the best scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.geometry.rotations import geodesic_distance
from dcryo.operators.compiled import blocks, compile_kernel, for_each
from dcryo.operators.poses import PoseModel
from dcryo.operators.projector import half_width
from dcryo.operators.vector import LANES, load, store
from dcryo.operators.views import Radial, Views

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

ROWS = 8
"""Images that a product takes at once; with two vectors of rotations they fill the registers."""

SCORES = 1 << 21
"""Scores that a block of particles has at once, 8 MB."""

APART = 1.2
"""Candidates of one particle are at least so many grid spacings apart."""

LISTED = 16
"""Best rotations per candidate asked for, from which those that are apart are taken."""


@dataclass(frozen=True)
class Candidates:
    """Poses found for P particles, M each, best first.

    rotation (P, M, 3, 3); shift (P, M, 2) pixels, beyond that of the views; score (P, M) the fall of the data
    term against an empty image; scale (P, M) that of the volume that fits best.
    """

    rotation: Float64
    shift: Float64
    score: Float64
    scale: Float64


@compile_kernel("void(f4[:,::1], f4[::1], f4[::1], i8)")
def _multiply(left: Any, right: Any, out: Any, columns: int) -> None:
    """out = left @ right: (M, K) @ (K, columns), M a multiple of ROWS, columns of 2 LANES.

    ``right`` is packed (:func:`packed`), ``out`` flat.

    Every number is one sum in the order of k, whatever the shapes: its bits depend on no blocking.
    """
    length = left.shape[1]
    for c in range(0, columns, 2 * LANES):
        for m in range(0, left.shape[0], ROWS):
            zero = load(right, c) * np.float32(0)
            a0, a1, a2, a3, a4, a5, a6, a7 = zero, zero, zero, zero, zero, zero, zero, zero
            b0, b1, b2, b3, b4, b5, b6, b7 = zero, zero, zero, zero, zero, zero, zero, zero
            at_right = c * length
            for k in range(length):
                a, b = load(right, at_right), load(right, at_right + LANES)
                at_right += 2 * LANES
                a0, b0 = a0 + left[m, k] * a, b0 + left[m, k] * b
                a1, b1 = a1 + left[m + 1, k] * a, b1 + left[m + 1, k] * b
                a2, b2 = a2 + left[m + 2, k] * a, b2 + left[m + 2, k] * b
                a3, b3 = a3 + left[m + 3, k] * a, b3 + left[m + 3, k] * b
                a4, b4 = a4 + left[m + 4, k] * a, b4 + left[m + 4, k] * b
                a5, b5 = a5 + left[m + 5, k] * a, b5 + left[m + 5, k] * b
                a6, b6 = a6 + left[m + 6, k] * a, b6 + left[m + 6, k] * b
                a7, b7 = a7 + left[m + 7, k] * a, b7 + left[m + 7, k] * b
            at = m * columns + c
            store(out, at, a0)
            store(out, at + LANES, b0)
            at += columns
            store(out, at, a1)
            store(out, at + LANES, b1)
            at += columns
            store(out, at, a2)
            store(out, at + LANES, b2)
            at += columns
            store(out, at, a3)
            store(out, at + LANES, b3)
            at += columns
            store(out, at, a4)
            store(out, at + LANES, b4)
            at += columns
            store(out, at, a5)
            store(out, at + LANES, b5)
            at += columns
            store(out, at, a6)
            store(out, at + LANES, b6)
            at += columns
            store(out, at, a7)
            store(out, at + LANES, b7)


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def packed(right: Float32) -> Float32:
    """A matrix (K, C), C filled up to a multiple of 2 LANES, as (C / 2 LANES, K, 2 LANES): read in order."""
    length, count = right.shape
    panels = _up(count, 2 * LANES) // (2 * LANES)
    filled = np.zeros((length, panels * 2 * LANES), np.float32)
    filled[:, :count] = right
    return np.ascontiguousarray(filled.reshape(length, panels, 2 * LANES).swapaxes(0, 1))


def product(left: Float32, right: Float32) -> Float32:
    """left (M, K) @ right, :func:`packed`: (M, C), C as it was filled up."""
    rows = left
    if len(left) % ROWS:
        rows = np.zeros((_up(len(left), ROWS), left.shape[1]), np.float32)
        rows[: len(left)] = left
    columns = len(right) * 2 * LANES
    out = np.empty(len(rows) * columns, np.float32)
    _multiply(np.ascontiguousarray(rows), right.reshape(-1), out, columns)
    return out.reshape(len(rows), columns)[: len(left)]


def shift_grid(distance: float, step: float) -> Float64:
    """Shifts (S, 2) on a square grid through zero, in the disc of radius ``distance``; all in pixels."""
    count = math.floor(distance / step + 1e-9)
    axis = np.arange(-count, count + 1) * step
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    inside: Float64 = grid[np.hypot(grid[:, 0], grid[:, 1]) <= distance + 1e-9]
    return inside


def lattice_samples(n: int, radius: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Columns a and rows b of the half-plane frequencies 0 < |(a, b)| < radius of a lattice of n."""
    h = half_width(n)
    b, a = np.mgrid[-h : h + 1, : h + 1]
    inside = (a * a + b * b < radius * radius) & ((a > 0) | (b > 0))
    return a[inside], b[inside]


class PoseSearch:
    """A volume at many rotations, ready to be compared with images.

    Parameters
    ----------
    model : PoseModel
        The volume.
    rotations : (R, 3, 3)
        Where it is looked at.
    radius : float
        Only frequencies below so many Fourier pixels are compared, the zero frequency is not: the level of an
        image says nothing.
    spacing : float
        Distance of neighbours among the rotations, rad.
    """

    def __init__(
        self, model: PoseModel, rotations: Float64, radius: float, spacing: float, threads: int = 0
    ) -> None:
        self._model = model
        self._rotations = rotations
        self._spacing = spacing
        self._threads = threads
        self._a, self._b = lattice_samples(model.n, radius)
        self._slices: dict[bytes, tuple[Float32, Float32]] = {}

    @property
    def n(self) -> int:
        """Side of the volume."""
        return self._model.n

    def _at(self, distortion: Float64) -> tuple[Float32, Float32]:
        """Slices as (2K, R), real parts above minus imaginary parts, and their squares (K, R), packed."""
        key = distortion.tobytes()
        if key not in self._slices:
            values = self._model.slices(self._rotations, distortion, self._a, self._b).T
            self._slices[key] = (
                packed(np.concatenate([values.real, -values.imag])),
                packed(values.real**2 + values.imag**2),
            )
        return self._slices[key]

    def find(
        self, data: Float32, views: Views, radial: Radial, shifts: Float64, *, box: int, count: int = 1,
        free_scale: bool = False,
    ) -> Candidates:  # fmt: skip
        """The best ``count`` poses of P particles, apart from each other.

        Parameters
        ----------
        data : (P, 2h+1, h+1, 2) float32
            Their images as :func:`dcryo.operators.projector.to_lattice` leaves them.
        views : Views
            Their transfer functions, and the shifts that ``shifts`` add to; the rotations are not used.
        radial : Radial
            Basis function and noise weight.
        shifts : (S, 2)
            Pixels.
        box : int
            Side of the images.
        free_scale : bool
            The volume is known up to a positive factor of each particle's.
        """
        n = self._model.n
        total = len(views)
        found = Candidates(
            np.empty((total, count, 3, 3)), np.empty((total, count, 2)), np.empty((total, count)),
            np.empty((total, count)),
        )  # fmt: skip
        groups = [self._at(d) for d in views.distortion]
        turn = 2 * math.pi / box
        phase = np.exp(-1j * turn * (shifts[:, :1] * self._a + shifts[:, 1:] * self._b)).astype(np.complex64)
        size = max(1, SCORES // max(1, len(shifts) * len(self._rotations)))

        def work(part: slice) -> None:
            some = views.take(part)
            factor = self._model.factors(some, radial, box)[:, self._b + half_width(n), self._a]
            image = data[part][:, self._b + half_width(n), self._a]
            weight = 2 * _weights(some, radial, n, self._a, self._b) / (box * box)
            t = factor[..., 0] + 1j * factor[..., 1]
            y = (image[..., 0] - 1j * image[..., 1]) * t * weight
            t2 = (np.abs(t) ** 2 * weight).astype(np.float32)
            for i in range(len(some)):
                slices, squares = groups[part.start + i]
                moved = y[i] * phase
                left = np.concatenate([moved.real, moved.imag], axis=1).astype(np.float32)
                corr = product(left, slices)
                norm = product(t2[i : i + 1], squares)[0]
                self._take_best(found, part.start + i, corr, norm, shifts, count, free_scale)

        for_each(work, blocks(total, max(1, min(size, 64))), self._threads)
        return found

    def _take_best(
        self, found: Candidates, p: int, corr: Float32, norm: Float32, shifts: Float64, count: int,
        free_scale: bool,
    ) -> None:  # fmt: skip
        size = len(self._rotations)
        best = corr.argmax(axis=0)[:size]
        peak = corr[best, np.arange(size)].astype(np.float64)
        energy = np.maximum(norm[:size].astype(np.float64), 1e-30)
        positive = np.maximum(peak, 0)
        score = positive**2 / (2 * energy) if free_scale else peak - energy / 2
        listed = min(size, LISTED * count)
        order = np.argpartition(-score, listed - 1)[:listed] if listed < size else np.arange(size)
        order = order[np.lexsort((order, -score[order]))]
        chosen = [int(order[0])]
        for r in order[1:]:
            if len(chosen) == count:
                break
            near = geodesic_distance(self._rotations[r], self._rotations[chosen])
            if near.min() > APART * self._spacing:
                chosen.append(int(r))
        while len(chosen) < count:
            chosen.append(chosen[-1])
        found.rotation[p] = self._rotations[chosen]
        found.shift[p] = shifts[best[chosen]]
        found.score[p] = score[chosen]
        found.scale[p] = positive[chosen] / energy[chosen]


def _weights(views: Views, radial: Radial, n: int, a: Any, b: Any) -> Float32:
    """Inverse noise spectra (P, K) at the frequencies of a lattice; 0 beyond the band limit."""
    step = 2 * math.pi / n
    w = np.stack([a, b], axis=-1) * step
    v = w @ np.swapaxes(views.distortion, 1, 2)
    square = (v**2).sum(axis=-1)
    table = radial.energy[views.group]
    size = table.shape[1] - 2
    at = np.minimum(square * (size / math.pi**2), size)
    low = at.astype(np.intp)
    rest = at - low
    weight = np.take_along_axis(table, low, 1) * (1 - rest) + np.take_along_axis(table, low + 1, 1) * rest
    return np.asarray(np.where(square < views.limit2[:, None], weight, 0), np.float32)
