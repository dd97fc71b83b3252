"""Contrast transfer function: what the microscope does to the Fourier transform of a projection.

The recorded image is the projection multiplied, at the undistorted frequency f = (f1, f2) [1/Å], by

    h(f)   = scale sin(chi(f)) exp(-B |f|^2 / 4) exp(i phi(f)) exp(-i t . w)
    chi(f) = pi lambda f' Q f - pi/2 Cs lambda^3 |f|^4 + phase_shift + asin(amplitude_contrast) - E(f)
    Q      = R(angle) diag(defocus_u, defocus_v) R(angle)'
    phi(f) = O(f) - 2 pi Cs lambda^2 |f|^2 (f . beam_tilt)

with w the frequency of the recorded image, t the shift, and E, O the even and odd Zernike sums of RELION
(f in 1/Å, not normalised).  Underfocus is positive and ``h(0) = +amplitude_contrast``.  All of it is a
polynomial of degree four at most, so one row of 19 coefficients per particle is everything that an operator
needs; :func:`evaluate` is the reference for the kernels that use them.

References: Mindell & Grigorieff (2003) J. Struct. Biol. 142, 334; Zivanov, Nakane & Scheres (2020) IUCrJ 7,
253 (aberrations and magnification).  Signs and orders of the coefficients are RELION's (``ctf.h``,
``obs_model``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.errors import InputError
from dcryo.imaging.particles import Optics, Particles

Float64 = NDArray[np.float64]

COEFFICIENTS = 19
"""Columns of :func:`transfer_coefficients`."""

DEFOCUS_RANGE = (100.0, 1e6)
"""A set whose largest |defocus| lies outside is not in Å."""

# Zernike polynomials in Cartesian form, in the order of RELION's coefficient lists.  Even ones over the
# monomials 1; x^2, xy, y^2; x^4, x^3 y, x^2 y^2, x y^3, y^4, odd ones over x, y; x^3, x^2 y, x y^2, y^3.
_EVEN_ZERNIKE: Float64 = np.array(
    [
        [1, 0, 0, 0, 0, 0, 0, 0, 0],  # (m, n) = (0, 0)
        [0, 0, 2, 0, 0, 0, 0, 0, 0],  # (-2, 2)
        [-1, 2, 0, 2, 0, 0, 0, 0, 0],  # (0, 2)
        [0, 1, 0, -1, 0, 0, 0, 0, 0],  # (2, 2)
        [0, 0, 0, 0, 0, 4, 0, -4, 0],  # (-4, 4)
        [0, 0, -6, 0, 0, 8, 0, 8, 0],  # (-2, 4)
        [1, -6, 0, -6, 6, 0, 12, 0, 6],  # (0, 4)
        [0, -3, 0, 3, 4, 0, 0, 0, -4],  # (2, 4)
        [0, 0, 0, 0, 1, 0, -6, 0, 1],  # (4, 4)
    ],
    dtype=np.float64,
)
_ODD_ZERNIKE: Float64 = np.array(
    [
        [0, 1, 0, 0, 0, 0],  # (-1, 1)
        [1, 0, 0, 0, 0, 0],  # (1, 1)
        [0, 0, 0, 3, 0, -1],  # (-3, 3)
        [0, -2, 0, 3, 0, 3],  # (-1, 3)
        [-2, 0, 3, 0, 3, 0],  # (1, 3)
        [0, 0, 1, 0, -3, 0],  # (3, 3)
    ],
    dtype=np.float64,
)


def wavelength(voltage: float) -> float:
    """Relativistic wavelength [Å] of electrons accelerated by ``voltage`` [kV]; constants as in RELION."""
    volts = voltage * 1e3
    return 12.2643247 / math.sqrt(volts * (1 + volts * 0.978466e-6))


def distortion(optics: Optics, pixel_size: float) -> Float64:
    """Matrix D (2, 2) that takes a frequency of the recorded image to one of the volume, ``v = D w``.

    ``w`` is in rad per image pixel and ``v`` in rad per voxel of ``pixel_size`` [Å], so D is RELION's
    magnification matrix times ``pixel_size / optics.pixel_size``.

    Raises
    ------
    InputError
        If the magnification matrix is singular or mirrors the image.
    """
    magnification = np.array(optics.magnification, dtype=np.float64)
    if magnification.shape != (2, 2) or not np.linalg.det(magnification) > 0:
        raise InputError(
            f"optics group {optics.name}: magnification matrix {magnification.tolist()} has no positive "
            "determinant; correct rlnMagMat00 to rlnMagMat11"
        )
    return magnification * (pixel_size / optics.pixel_size)


def transfer_coefficients(particles: Particles, pixel_size: float) -> Float64:
    """Polynomial form of every particle's transfer function.

    With ``v = (v1, v2)`` the undistorted frequency in rad per voxel, the columns are

    ========  ============================================================================
    0         amplitude a
    1         constant c0
    2:5       q11, q12, q22
    5:10      quartic: v1^4, v1^3 v2, v1^2 v2^2, v1 v2^3, v2^4
    10:12     linear phase: v1, v2 (the shift, and the first-order Zernike terms)
    12:16     cubic phase: v1^3, v1^2 v2, v1 v2^2, v2^3
    16:19     envelope e11, e12, e22
    ========  ============================================================================

    and the transfer function is

        a sin(c0 + q11 v1^2 + 2 q12 v1 v2 + q22 v2^2 + quartic)
          exp(e11 v1^2 + 2 e12 v1 v2 + e22 v2^2) exp(i (linear + cubic)).

    An optics group without CTF has the constant pi/2, the scale as amplitude, and its shift as only phase.
    ``phase_flipped`` and ``premultiplied`` describe what was done to the images afterwards and are left to
    the operators.

    Parameters
    ----------
    particles : Particles
        P rows; ``shift`` in Å, defocus in Å and rad.
    pixel_size : float
        Voxel size of the volume [Å].

    Returns
    -------
    (P, 19) float64 array

    Raises
    ------
    InputError
        For Zernike coefficients beyond fourth (even) or third (odd) order, or a degenerate magnification.
    """
    count = len(particles)
    out = np.zeros((count, COEFFICIENTS))
    group = np.asarray(particles.optics_group)
    unknown = group[(group < 0) | (group >= len(particles.optics))]
    if len(unknown):
        raise InputError(
            f"optics group index {unknown[0]} has no entry in the optics table, which holds "
            f"{len(particles.optics)}; add the group to the table"
        )
    out[:, 0] = particles.scale
    out[:, 1] = math.pi / 2
    for index, optics in enumerate(particles.optics):
        rows = np.flatnonzero(group == index)
        if not len(rows):
            continue
        # The shift acts on the recorded image, t . w = t . D^-1 v; t in image pixels.
        inverse = np.linalg.inv(distortion(optics, pixel_size))
        out[rows, 10:12] = -(particles.shift[rows].astype(np.float64) / optics.pixel_size) @ inverse
        if optics.ctf:
            _add_ctf(out, rows, particles, optics, pixel_size)
    return out


def _add_ctf(
    out: Float64, rows: NDArray[np.intp], particles: Particles, optics: Optics, pixel_size: float
) -> None:
    """Fill the rows of one optics group; the phases are added to the shift already there."""
    lam = wavelength(optics.voltage)
    unit = 1 / (2 * math.pi * pixel_size)  # f = unit * v
    defocus = np.asarray(particles.defocus, dtype=np.float64)[rows]
    mean, half_difference = (defocus[:, 0] + defocus[:, 1]) / 2, (defocus[:, 0] - defocus[:, 1]) / 2
    cos2, sin2 = np.cos(2 * defocus[:, 2]), np.sin(2 * defocus[:, 2])
    even = _zernike_sum(optics.even_zernike, _EVEN_ZERNIKE, "rlnEvenZernike", 4, optics.name)
    odd = _zernike_sum(optics.odd_zernike, _ODD_ZERNIKE, "rlnOddZernike", 3, optics.name)

    out[rows, 1] = particles.phase_shift[rows] + math.asin(optics.amplitude_contrast) - even[0]
    paraxial = math.pi * lam * unit**2
    out[rows, 2] = paraxial * (mean + half_difference * cos2) - unit**2 * even[1]
    out[rows, 3] = paraxial * half_difference * sin2 - unit**2 * even[2] / 2
    out[rows, 4] = paraxial * (mean - half_difference * cos2) - unit**2 * even[3]
    spherical = -math.pi / 2 * optics.cs * lam**3
    out[rows, 5:10] = unit**4 * (spherical * np.array([1.0, 0.0, 2.0, 0.0, 1.0]) - even[4:])

    tilt1, tilt2 = optics.beam_tilt
    coma = -2 * math.pi * optics.cs * lam**2 * np.array([tilt1, tilt2, tilt1, tilt2])
    out[rows, 10:12] += unit * odd[:2]
    out[rows, 12:16] = unit**3 * (odd[2:] + coma)

    damping = -np.asarray(particles.bfactor, dtype=np.float64)[rows] / 4 * unit**2
    out[rows, 16] = damping
    out[rows, 18] = damping


def _zernike_sum(given: tuple[float, ...], table: Float64, column: str, order: int, name: str) -> Float64:
    """Sum of the given Zernike terms as coefficients of the monomials of ``table``."""
    values = np.array(given, dtype=np.float64)
    if np.any(values[len(table) :] != 0):
        raise InputError(
            f"optics group {name}: {column} holds aberrations beyond order {order}, which are not handled; "
            f"zero all but its first {len(table)} values, or leave the column out with --ignore {column}"
        )
    values = values[: len(table)]
    return values @ table[: len(values)]


def evaluate(coefficients: NDArray[Any], v: NDArray[Any]) -> NDArray[np.complex128]:
    """Transfer functions at chosen frequencies: the reference for every kernel that evaluates them.

    Parameters
    ----------
    coefficients : (P, 19) array
        From :func:`transfer_coefficients`.
    v : (..., 2) array
        Undistorted frequencies (v1, v2) [rad per voxel], the same for all particles.

    Returns
    -------
    (P, ...) complex128 array
    """
    v = np.asarray(v, dtype=np.float64)
    shape = v.shape[:-1]
    v1, v2 = v.reshape(-1, 2).T
    second = np.stack([v1 * v1, 2 * v1 * v2, v2 * v2])
    third = np.stack([v1**3, v1**2 * v2, v1 * v2**2, v2**3])
    fourth = np.stack([v1**4, v1**3 * v2, v1**2 * v2**2, v1 * v2**3, v2**4])
    c = np.asarray(coefficients, dtype=np.float64)
    chi = c[:, 1:2] + c[:, 2:5] @ second + c[:, 5:10] @ fourth
    phase = c[:, 10:12] @ np.stack([v1, v2]) + c[:, 12:16] @ third
    result = c[:, 0:1] * np.sin(chi) * np.exp(c[:, 16:19] @ second) * np.exp(1j * phase)
    return np.asarray(result.reshape(len(c), *shape), dtype=np.complex128)


def ctf_image(particles: Particles, pixel_size: float, n: int) -> NDArray[np.complex128]:
    """Transfer functions, shift included, on the lattice of ``rfft2`` of images of n pixels.

    Returns
    -------
    (P, n, n // 2 + 1) complex128 array
        Multiply it with the ``rfft2`` of centred projections (sampled at the images' own pixel size).
    """
    coefficients = transfer_coefficients(particles, pixel_size)
    w = np.empty((n, n // 2 + 1, 2))
    w[..., 0] = 2 * math.pi * np.fft.rfftfreq(n)
    w[..., 1] = 2 * math.pi * np.fft.fftfreq(n)[:, None]
    out = np.empty((len(particles), n, n // 2 + 1), dtype=np.complex128)
    for index, optics in enumerate(particles.optics):
        rows = np.flatnonzero(np.asarray(particles.optics_group) == index)
        if len(rows):
            out[rows] = evaluate(coefficients[rows], w @ distortion(optics, pixel_size).T)
    return out


def check_optics(particles: Particles) -> None:
    """Refuse defocus values not in Å, aberrations beyond our orders, and CTFs that would be zero everywhere.

    Raises
    ------
    InputError
        Naming the optics group and the column.
    """
    low, high = DEFOCUS_RANGE
    for index, optics in enumerate(particles.optics):
        rows = np.asarray(particles.optics_group) == index
        if not optics.ctf or not rows.any():
            continue
        group = f"optics group {optics.name}"
        _zernike_sum(optics.even_zernike, _EVEN_ZERNIKE, "rlnEvenZernike", 4, optics.name)
        _zernike_sum(optics.odd_zernike, _ODD_ZERNIKE, "rlnOddZernike", 3, optics.name)
        if not np.isfinite(particles.defocus[rows]).all():
            raise InputError(
                f"{group}: defocus is missing or not finite in some rows; correct rlnDefocusU, rlnDefocusV "
                "and rlnDefocusAngle or drop those rows"
            )
        largest = float(np.abs(particles.defocus[rows, :2]).max())
        if 0 < largest < low or largest > high:
            raise InputError(
                f"{group}: the largest defocus is {largest:g}, which is not in Å ({low:g} to {high:g}); "
                "convert rlnDefocusU and rlnDefocusV to Å"
            )
        phase = np.any(particles.phase_shift[rows]) or any(optics.even_zernike)
        if largest == 0 and optics.cs == 0 and optics.amplitude_contrast == 0 and not phase:
            raise InputError(
                f"{group}: defocus, Cs and amplitude contrast are all zero, so the CTF is zero everywhere; "
                "give rlnDefocusU or rlnAmplitudeContrast"
            )


def random_defocus(
    count: int, low: float, high: float, rng: np.random.Generator, *, astigmatism: float = 800.0
) -> Float64:
    """Defocus of simulated particles, (count, 3): u, v [Å] and the angle of u [rad].

    u is uniform in [low, high], ``u - v`` in [0, astigmatism] and the angle in [0, pi).
    """
    if not 0 <= low <= high:
        raise InputError(f"--defocus {low:g} {high:g}: give two values in Å, the smaller one first")
    u = rng.uniform(low, high, count)
    return np.stack([u, u - rng.uniform(0, astigmatism, count), rng.uniform(0, math.pi, count)], axis=1)
