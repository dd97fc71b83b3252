"""Local resolution: the FSC of half maps inside a soft ball that is moved over the map.

Windowed local FSC (Cardone, Heymann and Steven 2013, J. Struct. Biol. 184:226) with the window and the
correction of RELION: a ball with a wide cosine edge, whose own correlation is measured on maps with random
phases and taken off.  Each window is cut out in a box just large enough to hold it, so a point costs the
transforms of that box and not those of the map; the shells are those of that box, as wide as the window can
tell apart.  Between the points 1/resolution is the mean of the windows that reach there, weighted by them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from dcryo.errors import InputError
from dcryo.imaging.radial import apply_gain, low_pass
from dcryo.metrics.correction import corrected_for_mask
from dcryo.metrics.fsc import fsc_curve, resolution, soft_ball
from dcryo.metrics.sharpening import fsc_weight
from dcryo.operators.compiled import blocks, for_each

Float32 = NDArray[np.float32]
Volume = NDArray[np.floating[Any]]

BATCH = 16
"""Windows measured before their results are added up; fixed, so that sums have one order."""


@dataclass(frozen=True)
class Window:
    """The soft ball and the grid of its centres, all in voxels.

    ``radius`` is that of the inside, ``edge`` the width of the cosine edge, ``step`` the spacing of the grid.
    """

    radius: int
    edge: int
    step: int

    def __post_init__(self) -> None:
        if self.radius < 1 or self.edge < 1 or self.step < 1:
            raise InputError(
                f"a window of radius {self.radius}, edge {self.edge} and spacing {self.step} voxels: "
                "each must be 1 or more; give larger lengths"
            )

    @property
    def box(self) -> int:
        """Side of the box that a window is cut out in: even, quick to transform."""
        side = 2 * (self.radius + self.edge + 1)
        return next(n for n in range(side, 2 * side + 2, 2) if scipy.fft.next_fast_len(n, real=True) == n)

    def centres(self, n: int) -> NDArray[np.int64]:
        """Grid points [z, y, x] (P, 3) through n // 2 whose inside lies in the ball that fits a box of n."""
        reach = n // 2 - self.radius
        count = max(reach, 0) // self.step
        axis = np.arange(-count, count + 1) * self.step
        grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
        return np.asarray(grid[(grid**2).sum(axis=1) <= reach**2] + n // 2, np.int64)


@dataclass(frozen=True)
class LocalResolution:
    """Local resolution of a map, and the map filtered to it.

    ``resolution`` (n, n, n) in Å, 0 where no window reaches; ``filtered`` (n, n, n), 0 there; ``centres``
    (P, 3) [z, y, x] and ``values`` (P,) in Å are the points that were measured.
    """

    resolution: Float32
    filtered: Float32
    centres: NDArray[np.int64]
    values: NDArray[np.float64]


def local_resolution(
    halves: tuple[Volume, Volume],
    randomised: tuple[Volume, Volume],
    from_frequency: float,
    sharpened: Volume,
    pixel_size: float,
    window: Window,
    *,
    coarsest: float = 50.0,
    threads: int = 1,
    done: Callable[[int], None] = lambda count: None,
) -> LocalResolution:
    """Resolution at FSC = 0.143 in a window about every point of a grid.

    Parameters
    ----------
    halves : two arrays, (n, n, n)
        Half maps, not masked.
    randomised : two arrays, (n, n, n)
        The same with random phases from ``from_frequency`` on.
    from_frequency : float
        1/Å.
    sharpened : ndarray, (n, n, n)
        The full map, sharpened and not filtered; every window of it is weighted by
        ``sqrt(2 FSC / (1 + FSC))`` of its local FSC and low-pass filtered at its resolution.
    pixel_size : float
        Å per voxel.
    window : Window
    coarsest : float
        Å; what is worse is set to this.
    threads : int
        Windows measured at a time; the result does not depend on it.
    done : callable
        Told how many windows were measured since it was last told.

    Raises
    ------
    InputError
        If the window is larger than the map.
    """
    n, m = len(sharpened), window.box
    if 2 * (window.radius + window.edge) > n:
        raise InputError(
            f"a window of {2 * (window.radius + window.edge)} voxels does not fit the box of {n}; "
            "give a smaller radius and edge of the window"
        )
    centres = window.centres(n)
    ball = soft_ball(m, window.radius, window.edge)
    # Shells are wider in the small box: the correction begins two of them beyond the one that holds the edge.
    shell = math.floor(from_frequency * m * pixel_size + 0.5)
    total, reciprocal, filtered = np.zeros((3, n, n, n), np.float32)
    for centre in centres:
        inner, outer = _overlap(centre, n, m)
        total[outer] += ball[inner]

    values = np.zeros(len(centres))
    for batch in blocks(len(centres), BATCH):
        rows = range(batch.start, batch.stop)
        parts: dict[int, Float32] = {}

        def measure(row: int, parts: dict[int, Float32] = parts) -> None:
            cut = [_cut(volume, centres[row], m) for volume in (*halves, *randomised)]
            masked = fsc_curve(cut[0] * ball, cut[1] * ball)
            noise = fsc_curve(cut[2] * ball, cut[3] * ball)
            curve = corrected_for_mask(masked, noise, shell)
            values[row] = min(resolution(curve, 0.143, m, pixel_size), coarsest)
            # The windows add up to 1 (total), so the filtered pieces add up to a map.
            sum_ = _cut(total, centres[row], m)
            share = np.divide(ball, sum_, out=np.zeros_like(ball), where=sum_ > 0)
            spectrum = scipy.fft.rfftn(_cut(sharpened, centres[row], m).astype(np.float64) * share)
            weight, shells = fsc_weight(curve), np.arange(len(curve))
            cutoff = low_pass(m * pixel_size / values[row])
            apply_gain(spectrum, lambda radius: cutoff(radius) * np.interp(radius, shells, weight))
            parts[row] = scipy.fft.irfftn(spectrum, s=(m, m, m)).astype(np.float32)

        for_each(measure, rows, threads)
        for row in rows:
            inner, outer = _overlap(centres[row], n, m)
            filtered[outer] += parts[row][inner]
            reciprocal[outer] += ball[inner] / np.float32(values[row])
        done(len(rows))
    reached = reciprocal > 0
    local = np.divide(total, reciprocal, out=np.zeros_like(total), where=reached)
    return LocalResolution(local, np.where(reached, filtered, np.float32(0)), centres, values)


def _overlap(centre: NDArray[np.int64], n: int, m: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a box of m about ``centre`` lies in the map of n: the slices of the box, and those of the map."""
    first = [int(c) - m // 2 for c in centre]
    outer = tuple(slice(max(f, 0), min(f + m, n)) for f in first)
    inner = tuple(slice(o.start - f, o.stop - f) for o, f in zip(outer, first, strict=True))
    return inner, outer


def _cut(volume: Volume, centre: NDArray[np.int64], m: int) -> Volume:
    """The box of m about ``centre``, zero beyond the map."""
    inner, outer = _overlap(centre, len(volume), m)
    box = np.zeros((m, m, m), volume.dtype)
    box[inner] = volume[outer]
    return box
