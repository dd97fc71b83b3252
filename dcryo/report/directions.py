"""Where the particles were seen from, and which Fourier directions that leaves thin.

A particle with pose ``A`` is seen along ``e3``, the third row of A: the beam in specimen coordinates,
``(sin tilt cos rot, sin tilt sin rot, cos tilt)`` in RELION's angles.  Its image holds the Fourier plane
perpendicular to e3.  A run keeps the histogram of (tilt, rot); both functions smooth it on the sphere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.geometry.symmetry import point_group

FloatArray = NDArray[np.floating[Any]]

ROWS, COLUMNS = 36, 72
"""The grid that results are given on: 5 degrees of tilt, 5 degrees of rot."""

SPREAD = math.radians(8)
"""Of the smoothing: density by a von Mises-Fisher kernel of the concentration 1 / SPREAD²."""

_BLOCK = 512


def grid_directions(rows: int, columns: int) -> FloatArray:
    """Unit vectors x, y, z (rows, columns, 3) at the bin centres of tilt in (0, pi), rot in (-pi, pi)."""
    tilt = (np.arange(rows) + 0.5)[:, None] * (math.pi / rows)
    rot = (np.arange(columns) + 0.5)[None, :] * (2 * math.pi / columns) - math.pi
    x, y, z = np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt) + 0 * rot
    return np.stack([x, y, z], axis=-1)


def solid_angles(rows: int, columns: int) -> FloatArray:
    """Share of the sphere (rows, columns) of each bin; sums to 1."""
    edges = np.cos(np.arange(rows + 1) * (math.pi / rows))
    return np.repeat(((edges[:-1] - edges[1:]) / (2 * columns))[:, None], columns, axis=1)


def viewing_density(counts: NDArray[Any], symmetry: str = "C1") -> FloatArray:
    """How often each direction is looked along, 1 for views spread evenly, smoothed by 8 degrees.

    ``counts`` (rows, columns) is the histogram of tilt in (0, pi) and rot in (-pi, pi); the views are
    copied by the point group.  Result (ROWS, COLUMNS).
    """
    return _smooth(symmetrised(counts, symmetry), lambda cosine: np.exp((cosine - 1) / SPREAD**2))


def fourier_coverage(counts: NDArray[Any], symmetry: str = "C1") -> FloatArray:
    """How many particles inform each Fourier direction, relative to views spread evenly.

    A view along e3 informs the directions q with ``q.e3 = 0`` (within 8 degrees here).  Arguments and
    result as for `viewing_density`.  Values near 0 are a missing cone or wedge.
    """
    return _smooth(symmetrised(counts, symmetry), lambda cosine: np.exp(-(cosine**2) / (2 * SPREAD**2)))


def symmetrised(counts: NDArray[Any], symmetry: str) -> FloatArray:
    """Histogram (ROWS, COLUMNS) of the views after A -> A g for every g of the point group."""
    counts = np.asarray(counts, np.float64)
    rows, columns = np.nonzero(counts)
    views = grid_directions(*counts.shape)[rows, columns]
    weight = counts[rows, columns]
    histogram = np.zeros((ROWS, COLUMNS))
    for g in point_group(symmetry):
        x, y, z = (views @ g).T
        row = np.minimum((np.arccos(np.clip(z, -1, 1)) * (ROWS / math.pi)).astype(int), ROWS - 1)
        column = ((np.arctan2(y, x) + math.pi) * (COLUMNS / (2 * math.pi))).astype(int) % COLUMNS
        np.add.at(histogram, (row, column), weight)
    return histogram


def _smooth(histogram: FloatArray, kernel: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """Sum of ``kernel(cosine of the angle)`` over the views, relative to an even spread of them."""
    points = grid_directions(ROWS, COLUMNS).reshape(-1, 3)
    share = histogram.ravel() / max(float(histogram.sum()), 1.0)
    even = solid_angles(ROWS, COLUMNS).ravel()
    ratio = np.empty(len(points))
    for start in range(0, len(points), _BLOCK):
        weights = kernel(points[start : start + _BLOCK] @ points.T)
        ratio[start : start + _BLOCK] = (weights @ share) / (weights @ even)
    return ratio.reshape(ROWS, COLUMNS)
