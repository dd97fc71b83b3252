"""Preferred orientation, from the views alone: the sampling compensation factor.

A view along e informs the Fourier directions perpendicular to e.  The variance of a reconstruction in a
direction goes with 1 over the number of views that inform it, so views that are spread unevenly cost
signal-to-noise ratio by the factor

    SCF = 1 / mean over directions of (1 / sampling),

where the sampling is 1 on average; 1 for an even spread, 0 where a direction is not sampled at all (Baldwin
and Lyumkis 2020, Prog. Biophys. Mol. Biol. 150:160).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dcryo.errors import InputError
from dcryo.geometry.symmetry import point_group
from dcryo.operators.compiled import blocks

FloatArray = NDArray[np.float64]

SHELL = 10
"""Radius, in Fourier voxels, of the sphere on which the slices are counted; a slice is one voxel thick."""

_DIVIDE = 5
"""A bin of a histogram becomes 5 x 5 views, so that its width leaves no gaps."""

_BLOCK = 4096


def histogram_views(
    counts: ArrayLike, tilt: ArrayLike, rot: ArrayLike, symmetry: str = "C1"
) -> tuple[FloatArray, FloatArray]:
    """Viewing directions and weights that stand for a histogram.

    Parameters
    ----------
    counts : array_like, (T, R)
        Particles by tilt and rot.
    tilt, rot : array_like, (T+1,), (R+1,)
        Edges of the bins in rad.
    symmetry : str
        Point group; every view is copied by it.

    Returns
    -------
    views : ndarray, (V, 3)
        Unit vectors x, y, z.
    weights : ndarray, (V,)
        Particles; a bin is spread evenly over its solid angle.
    """
    number = np.asarray(counts, np.float64)
    edges = [np.interp(np.arange(_DIVIDE * k + 1) / _DIVIDE, np.arange(k + 1), np.asarray(axis, np.float64))
             for k, axis in zip(number.shape, (tilt, rot), strict=True)]  # fmt: skip
    theta, phi = ((edge[1:] + edge[:-1]) / 2 for edge in edges)
    ring = np.cos(edges[0][:-1]) - np.cos(edges[0][1:])
    share = ring / np.repeat(ring.reshape(-1, _DIVIDE).sum(axis=1), _DIVIDE) / _DIVIDE
    weights = np.kron(number, np.ones((_DIVIDE, _DIVIDE))) * share[:, None]
    theta, phi = np.meshgrid(theta, phi, indexing="ij")
    views = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], axis=-1)
    seen = weights > 0
    group = point_group(symmetry)
    return np.concatenate([views[seen] @ g for g in group]), np.tile(weights[seen] / len(group), len(group))


def sampling(views: FloatArray, weights: ArrayLike, directions: FloatArray) -> FloatArray:
    """How often each Fourier direction is sampled, relative to an even spread of views.

    Parameters
    ----------
    views : ndarray, (V, 3)
        Unit vectors along which particles were seen.
    weights : array_like, (V,)
        Particles per view.
    directions : ndarray, (D, 3)
        Unit vectors.

    Returns
    -------
    ndarray, (D,)
        A slice counts where it passes within half a voxel at a radius of 10 Fourier voxels.

    Raises
    ------
    InputError
        If there are no particles.
    """
    particles = np.asarray(weights, np.float64)
    total = float(particles.sum())
    if not total > 0:
        raise InputError(
            "there are no views to measure a preferred orientation from; give particles with poses"
        )
    reach = 1 / (2 * SHELL)  # of |cosine|, and so the share of an even spread
    counted = np.zeros(len(directions))
    for part in blocks(len(views), _BLOCK):
        cosine = np.abs(directions @ views[part].T)
        counted += np.where(cosine <= reach, particles[part], 0).sum(axis=1)
    return counted / (total * reach)


def compensation_factor(sampled: ArrayLike) -> float:
    """The SCF of samplings (D,) in directions that are spread evenly."""
    values: NDArray[Any] = np.asarray(sampled, np.float64)
    return 0.0 if np.any(values <= 0) else 1 / math.fsum(1 / values) * len(values)
