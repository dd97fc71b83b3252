"""Fourier shell correlation (FSC), resolution, and the correction for the mask.

    FSC(k) = Re sum_k F_a conj(F_b) / sqrt(sum_k |F_a|^2 sum_k |F_b|^2)

over the shell k of Fourier voxels q (cycles per box) with ``round(|q|) == k`` (Harauz and van Heel 1986,
Optik 73:146).  A mask makes maps alike by itself; :func:`corrected_fsc` measures by how much on maps whose
phases were randomised, and takes it off (Chen et al. 2013, Ultramicroscopy 135:24).

Transforms and sums are double precision whatever the maps are, so that empty shells of band-limited maps
do not correlate by rounding.  FFT threads are the caller's choice: ``with scipy.fft.set_workers(k)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray

from dcryo.errors import InputError
from dcryo.imaging.radial import multiplicities, squared_radii
from dcryo.metrics.correction import corrected_for_mask

FloatArray = NDArray[np.float64]
ComplexArray = NDArray[np.complexfloating[Any, Any]]

RANDOMISE_BELOW = 0.8
"""Phases are randomised from the first shell whose unmasked FSC is below this (RELION's default)."""


@dataclass(frozen=True)
class CorrectedFSC:
    """FSC curves of one pair of maps, each (n//2+1,), and the shell where randomisation begins.

    ``unmasked`` is of the maps as they are, ``masked`` inside the mask, ``randomised`` inside the mask after
    the phases of both were randomised, ``corrected`` is ``(masked - randomised) / (1 - randomised)`` from
    two shells after ``shell`` on, at least 0.  ``shell`` is None where the unmasked FSC never falls below
    0.8: there is nothing to correct then, and all three masked curves are the same.
    """

    unmasked: FloatArray
    masked: FloatArray
    randomised: FloatArray
    corrected: FloatArray
    shell: int | None


def fsc_curve(a: ArrayLike, b: ArrayLike) -> FloatArray:
    """Fourier shell correlation of two volumes.

    Parameters
    ----------
    a, b : array_like, (n, n, n)
        Real volumes, n even or odd.

    Returns
    -------
    ndarray, (n//2+1,)
        FSC of shells 0 to n//2, in [-1, 1]; 0 where a map has no power in the shell.

    Raises
    ------
    InputError
        If the volumes are not cubes of one size, or contain NaN or infinity.
    """
    a, b = _cubes(a, b)
    return _curve(_spectrum(a), _spectrum(b), len(a))


def resolution(curve: ArrayLike, threshold: float, n: int, pixel_size: float) -> float:
    """Resolution at which an FSC curve first falls below ``threshold``.

    Parameters
    ----------
    curve : array_like, (n//2+1,)
        FSC of shells 0 to n//2.
    threshold : float
        0.143 between half maps, 0.5 against a truth (Rosenthal and Henderson 2003, J. Mol. Biol. 333:721).
    n : int
        Box size in voxels.
    pixel_size : float
        Å per voxel.

    Returns
    -------
    float
        Å, linearly interpolated between the shells on either side; ``2 * pixel_size`` where the curve never
        falls below.  Shell 0 is the mean of the maps, which says nothing of resolution and has either sign;
        where it is not above ``threshold`` itself it counts as 1.

    Raises
    ------
    InputError
        If the curve has not n//2+1 finite values.
    """
    values = np.asarray(curve, np.float64)
    if values.shape != (n // 2 + 1,) or not np.all(np.isfinite(values)):
        raise InputError(
            f"an FSC curve of a box of {n} needs {n // 2 + 1} finite values, not shape {values.shape}"
            f" with {int(np.sum(~np.isfinite(values)))} that are not finite"
        )
    below = np.flatnonzero(values[1:] < threshold)
    if below.size == 0:
        return 2 * pixel_size
    last = int(below[0])  # the shell before the first one below
    high, low = values[last], values[last + 1]
    if last == 0 and high <= threshold:
        high = 1.0
    shell = last + (high - threshold) / (high - low)
    return float(n * pixel_size / shell)


def mean_fsc(curve: ArrayLike) -> float:
    """Mean of an FSC curve (n//2+1,) over shells 1 to n//2."""
    return float(np.mean(np.asarray(curve, np.float64)[1:]))


def soft_ball(n: int, radius_px: float, edge_px: float) -> NDArray[np.float32]:
    """Ball about the centre n//2 with a raised-cosine edge.

    Parameters
    ----------
    n : int
        Box size in voxels.
    radius_px : float
        Radius of the inside, where the mask is 1, in voxels.
    edge_px : float
        Width of the edge in voxels, 0 for none; beyond ``radius_px + edge_px`` the mask is 0.

    Returns
    -------
    ndarray of float32, (n, n, n)

    Raises
    ------
    InputError
        If a length is negative or the box empty.
    """
    if n < 1 or radius_px < 0 or edge_px < 0:
        raise InputError(
            f"a ball of radius {radius_px} and edge {edge_px} in a box of {n}: no length may be negative"
        )
    x = np.arange(n) - n // 2
    across = x[:, None] ** 2 + x[None, :] ** 2
    mask = np.empty((n, n, n), np.float32)
    for plane, z in zip(mask, x, strict=True):
        beyond = np.sqrt(across + z * z) - radius_px
        if edge_px == 0:
            plane[...] = beyond <= 0
        else:
            plane[...] = 0.5 * (1 + np.cos(np.pi * np.clip(beyond / edge_px, 0, 1)))
    return mask


def phase_randomise(volume: ArrayLike, shell: int, rng: np.random.Generator) -> NDArray[np.floating[Any]]:
    """``volume`` with uniformly random phases at ``|q| >= shell`` and every amplitude kept.

    Parameters
    ----------
    volume : array_like, (n, n, n)
        Real volume.
    shell : int
        First randomised frequency, in cycles per box, at least 1 (the mean is never touched).
    rng : numpy.random.Generator
        Source of the phases.

    Returns
    -------
    ndarray, (n, n, n)
        float32 for a float32 volume, else float64.

    Raises
    ------
    InputError
        If the volume is not a cube, or ``shell`` is below 1.
    """
    if shell < 1:
        raise InputError(f"phases cannot be randomised from shell {shell}; give 1 or more")
    (cube,) = _cubes(volume)
    spectrum = _spectrum(cube)
    _randomise(spectrum, len(cube), shell, rng)
    result = _volume(spectrum, len(cube))
    return result.astype(np.float32) if cube.dtype == np.float32 else result


def corrected_fsc(a: ArrayLike, b: ArrayLike, mask: ArrayLike, rng: np.random.Generator) -> CorrectedFSC:
    """FSC inside a mask, with the correlation that the mask itself makes removed.

    Parameters
    ----------
    a, b : array_like, (n, n, n)
        Half maps, as reconstructed.
    mask : array_like, (n, n, n)
        Soft mask, 0 to 1.
    rng : numpy.random.Generator
        Source of the random phases, drawn for a, then for b.

    Returns
    -------
    CorrectedFSC

    Raises
    ------
    InputError
        If the three are not cubes of one size, or the maps contain NaN or infinity.

    Notes
    -----
    Chen et al. (2013), with RELION's choices: phases are random from the first shell above 0 whose unmasked
    FSC is below 0.8, the correction begins two shells later, and is 0 where random phases correlate better.
    """
    a, b, mask = _cubes(a, b, mask)
    n = len(a)
    spectrum_a, spectrum_b = _spectrum(a), _spectrum(b)
    unmasked = _curve(spectrum_a, spectrum_b, n)
    masked = _curve(_masked_spectrum(a, mask), _masked_spectrum(b, mask), n)
    below = np.flatnonzero(unmasked[1:] < RANDOMISE_BELOW)
    if below.size == 0:
        return CorrectedFSC(unmasked, masked, masked.copy(), masked.copy(), None)

    shell = int(below[0]) + 1
    _randomise(spectrum_a, n, shell, rng)
    random_a = _masked_spectrum(_volume(spectrum_a, n), mask)
    del spectrum_a  # a third spectrum at once would be the peak of memory
    _randomise(spectrum_b, n, shell, rng)
    random_b = _masked_spectrum(_volume(spectrum_b, n), mask)
    randomised = _curve(random_a, random_b, n)

    corrected = corrected_for_mask(masked, randomised, shell)
    return CorrectedFSC(unmasked, masked, randomised, corrected, shell)


def _cubes(*volumes: ArrayLike) -> list[NDArray[Any]]:
    arrays = [np.asarray(volume) for volume in volumes]
    n = arrays[0].shape[0] if arrays[0].ndim else 0
    for array in arrays:
        if n < 1 or array.shape != (n, n, n):
            shapes = " and ".join(str(each.shape) for each in arrays)
            raise InputError(f"volumes of shape {shapes}: cubes of one size are needed; pad or crop them")
        if np.iscomplexobj(array):
            raise InputError("a complex volume: the Fourier shell correlation is taken of real ones")
    return arrays


def _spectrum(volume: NDArray[Any]) -> ComplexArray:
    # scipy transforms float32 in float32, hence the cast.
    spectrum: ComplexArray = scipy.fft.rfftn(volume.astype(np.float64, copy=False))
    return spectrum


def _masked_spectrum(volume: NDArray[Any], mask: NDArray[Any]) -> ComplexArray:
    return _spectrum(np.multiply(volume, mask, dtype=np.float64))


def _volume(spectrum: ComplexArray, n: int) -> FloatArray:
    volume: FloatArray = scipy.fft.irfftn(spectrum, s=(n, n, n))
    return volume


def _curve(spectrum_a: ComplexArray, spectrum_b: ComplexArray, n: int) -> FloatArray:
    """FSC of two half spectra; one plane at a time, so that no array of the size of the map is made."""
    weights = np.broadcast_to(multiplicities(n), (n, n // 2 + 1)).ravel()
    shells = n // 2 + 1
    cross, power_a, power_b = np.zeros((3, shells))
    for plane_a, plane_b, squared in zip(spectrum_a, spectrum_b, squared_radii(n), strict=True):
        # No square root of an integer is half an integer: rounding to a shell is never a tie.
        shell = np.minimum(np.rint(np.sqrt(squared)).astype(np.int64), shells).ravel()
        a, b = plane_a.ravel(), plane_b.ravel()
        for total, product in (
            (cross, a.real * b.real + a.imag * b.imag),
            (power_a, a.real**2 + a.imag**2),
            (power_b, b.real**2 + b.imag**2),
        ):
            total += np.bincount(shell, weights * product, minlength=shells + 1)[:shells]
    scale = np.sqrt(power_a) * np.sqrt(power_b)
    if not np.all(np.isfinite(scale)):
        raise InputError("a volume contains NaN or infinite values; reconstruct or export it again")
    curve: FloatArray = np.divide(cross, scale, out=np.zeros(shells), where=scale > 0)
    return curve


def _randomise(spectrum: ComplexArray, n: int, shell: int, rng: np.random.Generator) -> None:
    """Give the half spectrum random phases at ``|q| >= shell``, in place.

    The phases are those of white noise, which are uniform, independent and those of a real volume: the half
    spectrum stays consistent on the planes that contain both q and -q.
    """
    noise = scipy.fft.rfftn(rng.standard_normal((n, n, n), dtype=np.float32))
    for plane, phases, squared in zip(spectrum, noise, squared_radii(n), strict=True):
        beyond = squared >= shell * shell
        phase = phases[beyond].astype(np.complex128)
        size = np.abs(phase)
        phase = np.divide(phase, size, out=np.ones_like(phase), where=size > 0)
        plane[beyond] = np.abs(plane[beyond]) * phase
