"""The map that a refinement starts from: any map, brought to the particles' box and filtered.

What surrounds the particle is taken to zero, then a soft ball is cut out, then the map is low-passed: a
starting map gives the poses their direction, and what it shows beyond its own resolution would be found again
in the noise (Henderson 2013, PNAS 110:18037).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray

from dcryo.errors import InputError
from dcryo.imaging.radial import filtered, multiplicities, squared_radii
from dcryo.imaging.radial import low_pass as low_pass_gain
from dcryo.io.run_store import MAP_SUFFIXES, read_map
from dcryo.methods.linear_map import surroundings
from dcryo.methods.progress import Progress, Silent
from dcryo.methods.regularise import BALL_EDGE, BALL_MARGIN
from dcryo.metrics.fsc import soft_ball

Float32 = NDArray[np.float32]
FloatArray = NDArray[np.float64]

SAME_PIXEL = 1e-3
"""Pixel sizes that differ by less are equal: headers round the length of the box."""

EDGE = 0.25
"""Width of the low-pass filter's cosine edge, beyond its frequency, as a part of it."""

CUT = 0.02
"""Share of a low-passed map's energy that may lie outside of the particles' box."""

VANISHED = 1e-2
"""Power relative to Porod's law, at its best so far, from which on a map counts as filtered away.

A lower one would take for signal what a mask spreads beyond the band of a map that was low-passed before."""

RUN_OF_SHELLS = 3
"""Shells in a row that must have vanished: a single one may be a zero of the particle's form factor."""


@dataclass(frozen=True)
class StartMap:
    """A map to start from.

    ``volume`` (n, n, n) float32 in the particles' box, which is that of the voxel basis as well: its
    coefficients are its samples.  ``band`` is how far the map reaches, in Fourier voxels of that box, and
    ``resolution`` the same in Å: beyond it, poses have nothing to compare with.
    """

    volume: Float32
    band: float
    resolution: float


def prepare_start(
    spec: str,
    box: int,
    pixel_size: float,
    low_pass: float,
    mask_diameter: float | None = None,
    progress: Progress | None = None,
    *,
    initial_pixel_size: float | None = None,
) -> StartMap:
    """Read a map and make it one to start from.

    Parameters
    ----------
    spec : str
        As :func:`dcryo.io.run_store.read_map` takes it: a file, RUN, RUN:half1, PARTICLES:truth.
    box, pixel_size : int, float
        Of the particles, in pixels and Å.
    low_pass : float
        Å; a cosine falls from 1 at this resolution to 0 at 1.25 times its frequency.
    mask_diameter : float, optional
        Å, of the soft ball outside of which the map is zero; by default the largest that fits the box.
    initial_pixel_size : float, optional
        Å, whatever the map itself says.

    Returns
    -------
    StartMap

    Raises
    ------
    InputError
        If the map cannot be read, is no cube, is constant, states no pixel size, or does not fit the box; if
        the filter is finer than two pixels or coarser than the box, or the mask has no positive diameter.
    """
    told = progress or Silent()
    _check_filter(box, pixel_size, low_pass, mask_diameter)
    volume, own = read_map(spec)
    own = _pixel_size(spec, own, pixel_size, initial_pixel_size)
    if len(set(volume.shape)) != 1 or len(volume) < 2 * BALL_MARGIN + 4:
        raise InputError(
            f"{spec}: a map of {volume.shape} voxels cannot be a start; give a cube of 8 or more"
        )
    if not np.isfinite(volume).all():
        raise InputError(f"{spec}: holds values that are NaN or infinite; write the map again")
    if not np.ptp(volume) > 0:
        raise InputError(f"{spec}: is constant, there is no particle in it; give another map")
    volume = volume - np.float32(surroundings(volume))
    if abs(own / pixel_size - 1) <= SAME_PIXEL:
        own = pixel_size
    _check_extent(spec, volume, own, box * pixel_size, low_pass)
    if own != pixel_size:
        told.message(f"{spec} is resampled from {own:g} Å to the {pixel_size:g} Å of the particles")
    placed = resample(volume, box, own / pixel_size)
    radius = box / 2 - BALL_MARGIN
    if mask_diameter is not None:
        radius = min(radius, mask_diameter / pixel_size / 2)
    edge = min(BALL_EDGE, box / 20)
    placed *= soft_ball(box, max(radius - edge, 1.0), edge)
    if float(placed.sum(dtype=np.float64)) < 0:
        told.message(f"{spec} is darker than what surrounds it; if its contrast is inverted, invert it")
    shell = box * pixel_size / low_pass
    # a mask spreads signal to where there was none, so the map counts as it was given as well
    band = min(signal_band(volume) * box * pixel_size / (len(volume) * own), signal_band(placed), shell)
    if band < 1:
        raise InputError(f"{spec}: holds nothing within {box * pixel_size:.0f} Å; give another map")
    smooth = filtered(placed, low_pass_gain((1 + EDGE / 2) * shell, EDGE * shell))
    return StartMap(smooth, band, box * pixel_size / band)


def signal_band(volume: ArrayLike) -> float:
    """The last shell, in Fourier voxels, of a map (n, n, n) that still has signal.

    A map that was low-passed ends where its power has fallen to a hundredth of what Porod's law predicts:
    the power of a particle with a surface falls as ``|q|^-4``, and as nothing at all where atoms are resolved
    (Rosenthal and Henderson 2003, J. Mol. Biol. 333:721), so ``|q|^4`` times the power falls only where it
    was filtered.
    """
    power = _shell_power(np.asarray(volume, np.float32))
    shells = np.arange(len(power), dtype=np.float64)
    porod = power * shells**4
    best = np.maximum.accumulate(porod)
    gone = porod < VANISHED * best
    for shell in range(1, len(power)):
        if gone[shell : shell + RUN_OF_SHELLS].all():
            return float(shell - 1)
    return float(len(power) - 1)


def resample(volume: Float32, box: int, scale: float = 1.0) -> Float32:
    """A map on ``box`` samples that are 1 / ``scale`` of its voxels apart; zero where it is not known.

    By the trigonometric interpolation of its samples, exact for a band-limited map, up to the lower of the
    two Nyquist frequencies; with the scale 1 it is padded or cropped.  Index n // 2 goes to ``box // 2``.

    Parameters
    ----------
    volume : (n, n, n) float32
    box : int
    scale : float
        Its voxel size over the new one.

    Returns
    -------
    (box, box, box) float32
    """
    n = len(volume)
    place = (np.arange(box) - box // 2) / scale + n // 2
    inside = (place > -0.5) & (place < n - 0.5)
    if scale == 1:
        matrix = np.zeros((box, n), np.float32)
        matrix[inside, np.rint(place[inside]).astype(np.intp)] = 1
    else:
        q = np.arange(-((n - 1) // 2), (n - 1) // 2 + 1)
        q = q[np.abs(q) * max(1.0, 1 / scale) < n / 2]
        new, old = (2 * math.pi / n * np.outer(at, q) for at in (place, np.arange(n)))
        waves = np.cos(new) @ np.cos(old).T + np.sin(new) @ np.sin(old).T
        matrix = np.where(inside[:, None], waves / n, 0).astype(np.float32)
    out = volume
    for _ in range(3):  # the last axis becomes the first one every time
        out = np.tensordot(matrix, out, axes=(1, 2))
    return np.ascontiguousarray(out, np.float32)


def _check_filter(box: int, pixel_size: float, low_pass: float, mask_diameter: float | None) -> None:
    if not 2 * pixel_size <= low_pass <= box * pixel_size:
        raise InputError(
            f"--low-pass {low_pass:g} Å: give between {2 * pixel_size:g} Å, two pixels, and "
            f"{box * pixel_size:g} Å, the box"
        )
    if mask_diameter is not None and not 0 < mask_diameter < math.inf:
        raise InputError(f"--mask-diameter {mask_diameter:g} is not a positive number of Å")


def _pixel_size(spec: str, own: float, wanted: float, given: float | None) -> float:
    """The pixel size of the map in Å; refused where its header leaves it open."""
    if given is not None:
        if not 0 < given < math.inf:
            raise InputError(f"--initial-pixel-size {given:g} is not a positive number of Å")
        return given
    if not 0 < own < math.inf:
        raise InputError(f"{spec}: its header states no pixel size; give it with --initial-pixel-size")
    # many programs write 1 where they do not know
    if own == 1 and spec.endswith(MAP_SUFFIXES) and abs(wanted - 1) > SAME_PIXEL:
        raise InputError(
            f"{spec}: its header says 1 Å per voxel, which is also what programs write that do not know, and "
            f"the particles have {wanted:g} Å; state it with --initial-pixel-size"
        )
    return own


def _check_extent(spec: str, volume: Float32, own: float, extent: float, low_pass: float) -> None:
    """Refuse a map whose particle does not fit the particles' box of ``extent`` Å."""
    n = len(volume)
    if n * own <= extent * (1 + SAME_PIXEL):
        return
    shell = min(n * own / low_pass, n / 2)
    energy = filtered(volume, low_pass_gain(shell)).astype(np.float64) ** 2
    place = np.abs(np.arange(n) - n // 2) * own <= extent / 2
    outside = 1 - float(energy[np.ix_(place, place, place)].sum()) / float(energy.sum())
    if outside > CUT:
        raise InputError(
            f"{spec}: {outside:.0%} of its density lies outside of the particles' box, {extent:.0f} Å of its "
            f"{n * own:.0f} Å; centre it, mask it, or extract the particles in a larger box"
        )


def _shell_power(volume: Float32) -> FloatArray:
    """Mean power of the coefficients of the shells 0 to n//2 - 1."""
    n = len(volume)
    weights = np.broadcast_to(multiplicities(n), (n, n // 2 + 1)).ravel()
    last = n // 2
    total, count = np.zeros(last), np.zeros(last)
    spectrum: NDArray[Any] = scipy.fft.rfftn(volume.astype(np.float64))
    for plane, squared in zip(spectrum, squared_radii(n), strict=True):
        shell = np.minimum(np.rint(np.sqrt(squared)).astype(np.int64), last).ravel()
        power = weights * np.abs(plane.ravel()) ** 2
        total += np.bincount(shell, power, minlength=last + 1)[:last]
        count += np.bincount(shell, weights, minlength=last + 1)[:last]
    return total / count
