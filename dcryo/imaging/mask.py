"""Soft masks around a particle: made from its map, or checked where they were made elsewhere.

A mask is 1 inside, 0 in the solvent, with a cosine edge in between.  It is made as RELION makes it: the map
is low-pass filtered, cut at a density, grown by some voxels, and given an edge outside of that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from dcryo.errors import InputError
from dcryo.imaging.radial import filtered, low_pass, nearest_shell

Float32 = NDArray[np.float32]

OTSU_BINS = 512

LEAST_SOLVENT = 0.02
"""A mask that leaves less than this share of the box to the solvent masks nothing."""


def otsu_threshold(values: ArrayLike) -> float:
    """The value that splits a histogram into two classes of the largest variance between them.

    Otsu (1979), IEEE Trans. Syst. Man Cybern. 9:62; values at or above it are the upper class.

    Raises
    ------
    InputError
        If all values are the same.
    """
    samples = np.asarray(values, np.float64).ravel()
    low, high = float(samples.min()), float(samples.max())
    if not high > low:
        raise InputError("a map that is constant has no threshold; give a map with a particle in it")
    counts, edges = np.histogram(samples, OTSU_BINS, (low, high))
    centres = (edges[1:] + edges[:-1]) / 2
    below, mass = np.cumsum(counts)[:-1].astype(np.float64), np.cumsum(counts * centres)[:-1]
    total, moment = float(counts.sum()), float((counts * centres).sum())
    between = (moment * below / total - mass) ** 2 / (below * (total - below))  # both classes hold a sample
    return float(edges[1 + int(np.argmax(between))])


def soft_mask(inside: ArrayLike, extend: float, edge: float) -> Float32:
    """A binary mask grown by ``extend`` voxels, with a cosine edge of ``edge`` voxels outside of that.

    Parameters
    ----------
    inside : array_like of bool, (n, n, n)
    extend : float
        Voxels nearer to the inside than this become inside as well.
    edge : float
        0 for none; the mask is ``(1 + cos(pi d / edge)) / 2`` at the distance d < edge, 0 beyond.

    Returns
    -------
    ndarray of float32, (n, n, n)
    """
    seed = np.asarray(inside, bool)
    if extend > 0 and seed.any():
        seed = seed | (_distance(seed) < extend)
    if edge <= 0 or not seed.any():
        return seed.astype(np.float32)
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * np.minimum(_distance(seed) / edge, 1)), np.float32)


def automatic_mask(
    volume: ArrayLike,
    pixel_size: float,
    *,
    lowpass: float,
    threshold: float | None,
    extend: float,
    edge: float,
) -> tuple[Float32, float]:
    """A mask around what is dense in a map.

    Parameters
    ----------
    volume : array_like, (n, n, n)
        The average of the half maps.
    pixel_size : float
        Å per voxel.
    lowpass : float
        Resolution in Å to which the map is filtered before it is cut.
    threshold : float, optional
        Density of the filtered map from which on a voxel is inside; by default :func:`otsu_threshold` of its
        voxels in the ball that fits the box.
    extend, edge : float
        Voxels, as in :func:`soft_mask`.

    Returns
    -------
    mask : ndarray of float32, (n, n, n)
    threshold : float
        That was used.

    Raises
    ------
    InputError
        If the mask would be empty, or leave no solvent.
    """
    values = np.asarray(volume)
    n = len(values)
    smooth = filtered(values, low_pass(nearest_shell(lowpass, n, pixel_size)))
    if threshold is None:
        threshold = otsu_threshold(smooth[_ball(n)])
    mask = soft_mask(smooth >= threshold, extend, edge)
    remedy = (
        f"cut at {threshold:.4g} (the map filtered to {lowpass:g} Å has densities from {smooth.min():.4g} "
        f"to {smooth.max():.4g}); give another --mask-threshold, or a --mask"
    )
    check_coverage(mask, "the automatic mask", remedy)
    return mask, float(threshold)


def check_mask(mask: NDArray[Any], name: str) -> Float32:
    """A mask that was made elsewhere, (n, n, n), with its values between 0 and 1.

    Raises
    ------
    InputError
        If a value is outside of [0, 1] by more than rounding, or the mask is empty or leaves no solvent.
    """
    low, high = float(mask.min()), float(mask.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise InputError(
            f"{name}: a mask has values from 0 to 1, this one from {low:.4g} to {high:.4g}; scale it"
        )
    check_coverage(mask, name, "give another mask")
    return np.asarray(np.clip(mask, 0, 1), np.float32)


def check_coverage(mask: NDArray[Any], name: str, remedy: str) -> None:
    """Refuse a mask with nothing inside it, or with nothing outside."""
    inside = int(np.count_nonzero(mask > 0.5))
    if inside == 0:
        raise InputError(f"{name}: it is empty, no voxel is inside; {remedy}")
    if inside > (1 - LEAST_SOLVENT) * mask.size:
        raise InputError(f"{name}: it covers the whole box and leaves no solvent; {remedy}")


def _distance(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance of every voxel to the nearest one inside, in voxels."""
    distance: NDArray[np.float64] = ndimage.distance_transform_edt(~inside)
    return distance


def _ball(n: int) -> NDArray[np.bool_]:
    """The voxels of the largest ball about n // 2 in the box."""
    x = np.arange(n) - n // 2
    squared = x[:, None, None] ** 2 + x[:, None] ** 2 + x**2
    return np.asarray(squared <= (n // 2) ** 2)
