"""Rotations as matrices, quaternions, RELION's Euler angles and rotation vectors.

A pose is the matrix A of :mod:`dcryo.conventions`: ``r' = A r`` takes specimen coordinates (x, y, z) to
microscope coordinates; its rows are the detector axes x, y and the beam.  Everything is vectorised over
leading axes, computed in float64, and lets NaN (a missing pose) through as NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dcryo.errors import InputError

FloatArray = NDArray[np.float64]


def euler_to_matrix(rot: ArrayLike, tilt: ArrayLike, psi: ArrayLike) -> FloatArray:
    """Matrix A of RELION's Euler angles: ``A = Rz(psi) Ry(tilt) Rz(rot)``, passive rotations.

    Parameters
    ----------
    rot, tilt, psi : array_like, shapes that broadcast to (...)
        ``rlnAngleRot``, ``rlnAngleTilt``, ``rlnAnglePsi`` in rad.

    Returns
    -------
    ndarray, (..., 3, 3)

    Notes
    -----
    With a = rot, b = tilt, p = psi (Heymann et al. 2005, J. Struct. Biol. 151:196)::

        [ cp cb ca - sp sa    cp cb sa + sp ca   -cp sb ]
        [-sp cb ca - cp sa   -sp cb sa + cp ca    sp sb ]
        [ sb ca               sb sa               cb    ]
    """
    a, b, p = np.broadcast_arrays(*(np.asarray(angle, np.float64) for angle in (rot, tilt, psi)))
    ca, cb, cp = np.cos(a), np.cos(b), np.cos(p)
    sa, sb, sp = np.sin(a), np.sin(b), np.sin(p)
    matrix = np.empty((*a.shape, 3, 3))
    matrix[..., 0, 0] = cp * cb * ca - sp * sa
    matrix[..., 0, 1] = cp * cb * sa + sp * ca
    matrix[..., 0, 2] = -cp * sb
    matrix[..., 1, 0] = -sp * cb * ca - cp * sa
    matrix[..., 1, 1] = -sp * cb * sa + cp * ca
    matrix[..., 1, 2] = sp * sb
    matrix[..., 2, 0] = sb * ca
    matrix[..., 2, 1] = sb * sa
    matrix[..., 2, 2] = cb
    return matrix


def matrix_to_euler(matrix: ArrayLike) -> FloatArray:
    """RELION's angles (rot, tilt, psi) of A.

    Parameters
    ----------
    matrix : array_like, (..., 3, 3)
        Rotation matrices.

    Returns
    -------
    ndarray, (..., 3)
        rad; rot and psi in [-pi, pi], tilt in [0, pi].  At tilt 0 and pi, where only a combination of
        rot and psi is defined, rot is whatever rounding leaves and psi makes up for it.

    Raises
    ------
    InputError
        If a matrix is not a rotation.
    """
    a = _checked_rotations(matrix)
    rot = np.arctan2(a[..., 2, 1], a[..., 2, 0])
    tilt = np.arctan2(np.hypot(a[..., 2, 0], a[..., 2, 1]), a[..., 2, 2])
    # psi is read after undoing rot, not from the third column: it then stays exact where sin(tilt) vanishes.
    sine, cosine = np.sin(rot), np.cos(rot)
    psi = np.arctan2(
        a[..., 0, 1] * cosine - a[..., 0, 0] * sine,
        a[..., 1, 1] * cosine - a[..., 1, 0] * sine,
    )
    return np.stack([rot, tilt, psi], axis=-1)


def quaternion_to_matrix(quaternion: ArrayLike) -> FloatArray:
    """Matrix that rotates column vectors as the quaternion does.

    Parameters
    ----------
    quaternion : array_like, (..., 4)
        x, y, z, w, of any non-zero length.

    Returns
    -------
    ndarray, (..., 3, 3)

    Raises
    ------
    InputError
        If a quaternion is zero.
    """
    q = np.asarray(quaternion, np.float64)
    _check_shape(q, (4,), "quaternions")
    length = np.linalg.norm(q, axis=-1, keepdims=True)
    _refuse(length[..., 0] == 0, "quaternion", "is zero; give a unit quaternion x, y, z, w (NaN for no pose)")
    x, y, z, w = np.moveaxis(q / length, -1, 0)
    matrix = np.empty((*q.shape[:-1], 3, 3))
    matrix[..., 0, 0] = 1 - 2 * (y * y + z * z)
    matrix[..., 0, 1] = 2 * (x * y - z * w)
    matrix[..., 0, 2] = 2 * (x * z + y * w)
    matrix[..., 1, 0] = 2 * (x * y + z * w)
    matrix[..., 1, 1] = 1 - 2 * (x * x + z * z)
    matrix[..., 1, 2] = 2 * (y * z - x * w)
    matrix[..., 2, 0] = 2 * (x * z - y * w)
    matrix[..., 2, 1] = 2 * (y * z + x * w)
    matrix[..., 2, 2] = 1 - 2 * (x * x + y * y)
    return matrix


def matrix_to_quaternion(matrix: ArrayLike) -> FloatArray:
    """Unit quaternion (x, y, z, w) of a rotation, w >= 0.

    Parameters
    ----------
    matrix : array_like, (..., 3, 3)
        Rotation matrices.

    Returns
    -------
    ndarray, (..., 4)

    Raises
    ------
    InputError
        If a matrix is not a rotation.

    Notes
    -----
    The matrix determines ``4 q q^T``; the row with the largest diagonal element is free of cancellation
    (Shepperd 1978, J. Guidance 1:223).
    """
    a = _checked_rotations(matrix)
    trace = a[..., 0, 0] + a[..., 1, 1] + a[..., 2, 2]
    outer = np.empty((*a.shape[:-2], 4, 4))
    for i in range(3):
        outer[..., i, i] = 1 - trace + 2 * a[..., i, i]
    outer[..., 3, 3] = 1 + trace
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        outer[..., i, j] = outer[..., j, i] = a[..., i, j] + a[..., j, i]
        outer[..., i, 3] = outer[..., 3, i] = a[..., k, j] - a[..., j, k]
    best = np.argmax(np.diagonal(outer, axis1=-2, axis2=-1), axis=-1)
    q: FloatArray = np.take_along_axis(outer, best[..., None, None], axis=-2)[..., 0, :]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    return np.where(q[..., 3:] < 0, -q, q)


def rotation_vector_to_matrix(vector: ArrayLike) -> FloatArray:
    """Rotation about ``vector`` by its length, right-handed: ``exp([v]x)``.

    Parameters
    ----------
    vector : array_like, (..., 3)
        x, y, z in rad.

    Returns
    -------
    ndarray, (..., 3, 3)
        Rodrigues' formula, ``1 + sinc(a) K + sinc(a/2)^2/2 K^2`` with ``sinc(a) = sin(a)/a``, exact at 0.
    """
    v = np.asarray(vector, np.float64)
    _check_shape(v, (3,), "rotation vectors")
    angle = np.linalg.norm(v, axis=-1)[..., None, None]
    cross = np.zeros((*v.shape[:-1], 3, 3))
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        cross[..., i, j] = -v[..., k]
        cross[..., j, i] = v[..., k]
    first = np.sinc(angle / np.pi)
    second = np.sinc(angle / (2 * np.pi)) ** 2 / 2
    result: FloatArray = np.eye(3) + first * cross + second * (cross @ cross)
    return result


def geodesic_distance(a: ArrayLike, b: ArrayLike) -> FloatArray:
    """Angle of the rotation that takes ``a`` to ``b``.

    Parameters
    ----------
    a, b : array_like, shapes that broadcast to (..., 3, 3)
        Rotation matrices.

    Returns
    -------
    ndarray, (...)
        rad, in [0, pi], accurate to rounding over the whole range (an arc cosine of the trace would lose
        half of the digits at both ends).
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    _check_shape(a, (3, 3), "rotations")
    _check_shape(b, (3, 3), "rotations")
    between = a @ np.swapaxes(b, -1, -2)
    twice_sine = np.sqrt(
        (between[..., 2, 1] - between[..., 1, 2]) ** 2
        + (between[..., 0, 2] - between[..., 2, 0]) ** 2
        + (between[..., 1, 0] - between[..., 0, 1]) ** 2
    )
    twice_cosine = between[..., 0, 0] + between[..., 1, 1] + between[..., 2, 2] - 1
    angle: FloatArray = np.arctan2(twice_sine, twice_cosine)
    return angle


def random_rotations(count: int, rng: np.random.Generator) -> FloatArray:
    """``count`` independent rotations, uniform on SO(3) (Haar measure).

    Parameters
    ----------
    count : int
        How many, 0 or more.
    rng : numpy.random.Generator
        Source of randomness; the same state gives the same rotations.

    Returns
    -------
    ndarray, (count, 3, 3)
        From normalised Gaussian quaternions (Shoemake 1992, Graphics Gems III).
    """
    return quaternion_to_matrix(rng.standard_normal((count, 4)))


def _checked_rotations(matrix: ArrayLike) -> FloatArray:
    """``matrix`` as float64, refused where it is no rotation.

    The bound 1e-3 lets matrices through that were rounded to float32 or printed with four digits, and stops
    scaled, mirrored or transposed-axis ones, which a quaternion would silently turn into another pose.
    """
    a = np.asarray(matrix, np.float64)
    _check_shape(a, (3, 3), "rotations")
    gram = a @ np.swapaxes(a, -1, -2)
    skewed = np.abs(gram - np.eye(3)).max(axis=(-2, -1)) > 1e-3
    # The triple product of the rows; a determinant by elimination would warn of missing (NaN) poses.
    mirrored = np.sum(np.cross(a[..., 0, :], a[..., 1, :]) * a[..., 2, :], axis=-1) < 0
    _refuse(
        skewed | mirrored, "matrix", "is not a rotation (orthogonal, determinant 1); check the pose table"
    )
    return a


def _check_shape(array: NDArray[Any], trailing: tuple[int, ...], what: str) -> None:
    if array.shape[-len(trailing) :] != trailing:
        expected = ", ".join(map(str, trailing))
        raise InputError(f"{what} have shape {array.shape}; expected (..., {expected})")


def _refuse(bad: NDArray[np.bool_], what: str, why: str) -> None:
    if np.any(bad):
        row = np.argwhere(bad)[0]
        where = f" in row {', '.join(map(str, row))}" if row.size else ""
        raise InputError(f"{what}{where} {why}")
