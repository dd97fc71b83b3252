"""Rigid registration of two maps: the rotation, translation and hand that make one agree with the other.

For a moving map m and a fixed map f the registration (G, x, h) says

    f(r) ~ m(h G (r - x)),        r from the centre n // 2, h = 1, or -1 for the other hand.

The correlation is that of the band-limited maps in a soft ball.  Its derivatives need no derivative of what
is interpolated: turning by a small d and moving by a small e changes a map that agrees with f by

    (r x grad f) . d - grad f . e,

known once from the spectrum of f.  A Gauss-Newton step costs one interpolation of m (the inverse
compositional scheme of Baker and Matthews 2004, Int. J. Comput. Vis. 56:221); rotations and translations keep
norms, so it stops where the correlation is stationary, also for noisy maps.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike
from scipy.ndimage import map_coordinates, spline_filter

from dcryo.errors import InputError
from dcryo.geometry.rotations import geodesic_distance, rotation_vector_to_matrix
from dcryo.geometry.so3 import so3_grid
from dcryo.imaging.radial import LOW_PASS_EDGE, low_pass
from dcryo.metrics.rigid import (
    OVERSAMPLING,
    ComplexArray,
    FloatArray,
    Registration,
    cube,
    half_spectrum,
    resampled,
)

FINEST = 40
"""Cut-off in Fourier voxels where none is given, at most: it places a particle to a hundredth of a voxel."""

COARSEST = 6
"""A local registration begins at no lower cut-off: its reach is about a quarter of the period there."""

INNER, OUTER = 0.4, 0.46
"""The ball that is compared, in boxes; a cosine in between."""

ROUNDS, FIRST_ROUNDS = 25, 8
"""Gauss-Newton steps at most, of a registration and of a candidate of a search."""

SMALL_TURN, SMALL_MOVE = 1e-5, 1e-4
"""rad and voxels: a smaller step is the last."""

DAMPING = 1e-3
"""Of the first Gauss-Newton step, relative to the diagonal (Marquardt 1963)."""


SEARCHED = 8.0
"""Cut-off of a search in Fourier voxels, at most."""

SPACING = math.radians(15)
"""Of the rotations that a search tries: about where a particle of 0.6 boxes decorrelates at that cut-off."""

CANDIDATES = 12
"""Of each hand, the rotations from which a search goes on."""

SEARCH_PADDING = 4
"""Of the transform that a search interpolates linearly."""

BATCH = 128
"""Rotations tried at once."""


class Pair:
    """Two maps, low-passed and sampled as coarsely as that allows, ready to be registered.

    Parameters
    ----------
    moving, fixed : (n, n, n//2+1) complex
        Half spectra of the maps.
    n : int
        Their box.
    cutoff : float
        Fourier voxels.

    Raises
    ------
    InputError
        If the fixed map has nothing below the cut-off.
    """

    def __init__(self, moving: ComplexArray, fixed: ComplexArray, n: int, cutoff: float) -> None:
        gain = low_pass(cutoff)
        size = scipy.fft.next_fast_len(2 * math.ceil(cutoff + LOW_PASS_EDGE / 2) + 2, real=True)
        self._n, self._fine = n, OVERSAMPLING * size
        place = (np.arange(size) - size // 2) * (n / size)
        z, y, x = np.meshgrid(place, place, place, indexing="ij")
        radius = np.sqrt(x * x + y * y + z * z)
        inside = radius < OUTER * n
        weight = 0.5 + 0.5 * np.cos(np.pi * np.clip((radius[inside] / n - INNER) / (OUTER - INNER), 0, 1))
        self._weight = weight / weight.sum()
        self._place = np.stack([x[inside], y[inside], z[inside]], axis=1)
        self._moving = spline_filter(resampled(moving, n, self._fine, gain), order=3, mode="grid-wrap")
        # rotations count as the way of a point a quarter of the box from the centre, in voxels
        self._lever = n / 4
        along = np.stack([resampled(fixed, n, size, gain, axis)[inside] for axis in (2, 1, 0)], axis=1)
        jacobian = np.concatenate([np.cross(self._place, along) / self._lever, -along], axis=1)
        self._fixed = self._centred(resampled(fixed, n, size, gain)[inside])
        self._jacobian = jacobian - self._weight @ jacobian
        self._normal = self._jacobian.T @ (self._weight[:, None] * self._jacobian)
        self._power = float(self._weight @ self._fixed**2)
        if not self._power > 0:
            raise InputError(f"a map holds nothing below {cutoff:g} Fourier voxels to be registered by")

    def solve(self, start: Registration, rounds: int = ROUNDS) -> Registration:
        """The registration of stationary correlation, by damped Gauss-Newton steps from ``start``."""
        best, values = self.measure(start)
        damping = DAMPING
        for _ in range(rounds):
            scale = float(self._weight @ (values * self._fixed)) / self._power
            residual = self._fixed - values / scale if scale > 0 else self._fixed
            step = self._step(residual, damping)
            turn, move = step[:3] / self._lever, step[3:]
            rotation = rotation_vector_to_matrix(turn)
            trial, there = self.measure(
                Registration(
                    best.rotation @ rotation,
                    move + rotation.T @ best.translation,
                    0.0,
                    best.mirrored,
                )
            )
            if trial.correlation >= best.correlation:
                best, values, damping = trial, there, damping / 10
            else:
                damping = max(damping, DAMPING) * 10
            if np.linalg.norm(turn) < SMALL_TURN and np.linalg.norm(move) < SMALL_MOVE:
                break
        return best

    def measure(self, at: Registration) -> tuple[Registration, FloatArray]:
        """``at`` with its correlation, and the moving map at the places compared, (K,)."""
        sign = -1.0 if at.mirrored else 1.0
        place = (self._place - at.translation) @ (sign * at.rotation).T
        index = place.T[::-1] * (self._fine / self._n) + self._fine // 2
        values = self._centred(
            map_coordinates(self._moving, index, np.float64, order=3, mode="grid-wrap", prefilter=False)
        )
        power = float(self._weight @ values**2) * self._power
        shared = float(self._weight @ (values * self._fixed))
        correlation = shared / math.sqrt(power) if power > 0 else 0.0
        return Registration(at.rotation, at.translation, correlation, at.mirrored), values

    def _step(self, residual: FloatArray, damping: float) -> FloatArray:
        """The damped step; nothing along what the map does not determine, as the turn of a ball."""
        gradient = self._jacobian.T @ (self._weight * residual)
        damped = self._normal + damping * np.diag(np.diag(self._normal))
        step: FloatArray = np.linalg.pinv(damped, 1e-6, hermitian=True) @ gradient
        return step

    def _centred(self, values: FloatArray) -> FloatArray:
        centred: FloatArray = values - self._weight @ values
        return centred


def register(
    moving: ArrayLike,
    fixed: ArrayLike,
    cutoff: float | None = None,
    start: Registration | None = None,
    *,
    search: bool = False,
    hand: bool = False,
) -> Registration:
    """Register one map with another.

    Parameters
    ----------
    moving, fixed : array_like, (n, n, n)
        Maps of one box and pixel size; what lies beyond 0.46 boxes from the centre does not count.
    cutoff : float, optional
        Fourier voxels: the maps are compared up to there.  By default a quarter of the box, at most 40.
    start : Registration, optional
        Where the local registration begins; by default the maps as they are.  From coarse to fine it finds
        turns of up to some 20 degrees and translations of a few voxels.
    search : bool
        Try all rotations and translations instead.
    hand : bool
        Try the mirror image as well (only with ``search``).

    Returns
    -------
    Registration

    Raises
    ------
    InputError
        If the maps are not cubes of one size, hold values that are not finite, or are constant.
    """
    first, second = cube(moving), cube(fixed)
    n = len(first)
    if second.shape != first.shape:
        raise InputError(f"maps of {n} and {len(second)} voxels cannot be registered; give maps of one box")
    highest = (n - 1) // 2 - LOW_PASS_EDGE / 2
    if highest < 2:
        raise InputError(f"a map of {n} voxels is too small to be registered; give one of 7 or more")
    band = min(float(min(n / 4, FINEST) if cutoff is None else cutoff), highest)
    if not band >= 1:
        raise InputError(f"the cut-off of a registration is {band:g} Fourier voxels; give 1 or more")
    spectra = half_spectrum(first), half_spectrum(second)
    starts = [start or Registration(np.eye(3), np.zeros(3), 0.0)]
    if search:
        starts = _search(*spectra, n, min(SEARCHED, band), hand)
    return max((_march(spectra, n, band, each) for each in starts), key=lambda found: found.correlation)


def _march(
    spectra: tuple[ComplexArray, ComplexArray], n: int, cutoff: float, at: Registration
) -> Registration:
    """Local registration at cut-offs that double up to the one wanted."""
    octaves = max(0, math.floor(math.log2(cutoff / COARSEST)))
    for octave in range(octaves, -1, -1):
        at = Pair(*spectra, n, cutoff / 2**octave).solve(at)
    return at


def _search(
    moving: ComplexArray, fixed: ComplexArray, n: int, cutoff: float, hand: bool
) -> list[Registration]:
    """The best registration of each hand tried, up to ``cutoff``: the best places of a grid, made better."""
    grid = so3_grid(spacing=SPACING)
    hands = (False, True) if hand else (False,)
    score, place = _scan(moving, fixed, n, cutoff, grid, len(hands))
    pair = Pair(moving, fixed, n, cutoff)
    found = []
    for mirrored in hands:
        rank = np.argsort(-score[int(mirrored)])
        chosen: list[int] = []
        for index in rank:
            if all(geodesic_distance(grid[index], grid[other]) > 1.5 * SPACING for other in chosen):
                chosen.append(int(index))
            if len(chosen) == CANDIDATES:
                break
        starts = [Registration(grid[i], place[int(mirrored), i], 0.0, mirrored) for i in chosen]
        found.append(
            max((pair.solve(start, FIRST_ROUNDS) for start in starts), key=lambda at: at.correlation)
        )
    return found


def _scan(
    moving: ComplexArray, fixed: ComplexArray, n: int, cutoff: float, grid: FloatArray, hands: int
) -> tuple[FloatArray, FloatArray]:
    """For one hand or both and rotations (R, 3, 3) the best cross-correlation (H, R) and its place (H, R, 3).

    In Fourier space, where turning a map turns its transform, the other hand is the complex conjugate, and
    all translations are one FFT.  Amplitudes count by |q|: the lowest frequencies, which hardly depend on
    the rotation, would outweigh all others.
    """
    gain = low_pass(cutoff)
    size = scipy.fft.next_fast_len(2 * math.ceil(cutoff + LOW_PASS_EDGE / 2) + 2, real=True)
    target = scipy.fft.rfftn(scipy.fft.ifftshift(resampled(fixed, n, size, lambda q: q * gain(q))))
    coarse = resampled(moving, n, size, gain)
    wide = SEARCH_PADDING * size
    padded = np.zeros((wide,) * 3, np.float32)
    corner = wide // 2 - size // 2
    padded[(slice(corner, corner + size),) * 3] = coarse
    transform = scipy.fft.fftshift(scipy.fft.fftn(scipy.fft.ifftshift(padded)))
    q = np.fft.fftfreq(size, 1 / size)
    z, y, x = np.meshgrid(q, q, np.arange(size // 2 + 1.0), indexing="ij")
    used = np.flatnonzero((radius := np.sqrt(x * x + y * y + z * z)).ravel() < cutoff + LOW_PASS_EDGE / 2)
    lattice = np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1)[used]
    lift = radius.ravel()[used]
    score, place = np.empty((hands, len(grid))), np.empty((hands, len(grid), 3))
    for first in range(0, len(grid), BATCH):
        part = slice(first, first + BATCH)
        index = np.einsum("rij,kj->irk", grid[part], lattice)[::-1] * SEARCH_PADDING + wide // 2
        turned = map_coordinates(transform, index, np.complex64, order=1, prefilter=False) * lift
        norm = np.sqrt((np.abs(turned) ** 2).sum(axis=1))
        for hand, values in enumerate((turned, turned.conj())[:hands]):
            product = np.zeros((len(values), target.size), np.complex64)
            product[:, used] = target.ravel()[used] * values.conj()
            cross = scipy.fft.irfftn(product.reshape(-1, *target.shape), s=(size,) * 3, axes=(1, 2, 3))
            flat = cross.reshape(len(values), -1)
            peak = flat.argmax(axis=1)
            score[hand, part] = flat[np.arange(len(peak)), peak] / norm
            at = np.stack(np.unravel_index(peak, (size,) * 3)[::-1], axis=1)
            place[hand, part] = (at - size * (at > size // 2)) * (n / size)
    return score, place
