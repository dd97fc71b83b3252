"""Errors of poses, after what no data can tell has been taken out.

A reconstruction is known up to a rotation and a translation of the specimen, and, from images alone, up to
its hand.  In the conventions of dcryo a specimen turned by G, ``f(r) -> f(G r)``, has the poses ``A G``; one
moved by x has the shifts ``t - A[:2] x``; and the mirror image ``f(-r)`` gives the same images with the poses
``diag(-1, -1, 1) A``.  A specimen with the point group g_1, g_2, ... looks alike from all poses ``A g``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dcryo.errors import InputError
from dcryo.geometry.rotations import geodesic_distance
from dcryo.geometry.symmetry import point_group

FloatArray = NDArray[np.float64]

_OTHER_HAND = np.diag([-1.0, -1.0, 1.0])

_ROUNDS = 30
"""Reweightings of a robust fit; each costs one pass over the poses, and the fit gains a digit in a few."""

_TIE = 1e-9
"""Traces that differ by less are equal: it is above rounding, and some 1e-9 rad for most angles."""

_SEEDS = 32
"""Poses each of which proposes a frame of a symmetric specimen; one right pose among them suffices."""

_JURY = 500
"""Poses, at most, by which the proposals are judged."""


@dataclass(frozen=True)
class Alignment:
    """The change of specimen frame that takes one set of poses to another.

    ``rotation`` (3, 3) is G; ``mirrored`` says that the other hand fits better; ``mean_error`` is the mean
    geodesic distance that remains, in rad, and ``mean_error_other_hand`` what the hand not chosen leaves.
    """

    rotation: FloatArray
    mirrored: bool
    mean_error: float
    mean_error_other_hand: float

    def apply(self, rotations: ArrayLike) -> FloatArray:
        """Poses (..., 3, 3) in the frame, and of the hand, they were aligned to."""
        poses = np.asarray(rotations, np.float64)
        aligned: FloatArray = (_OTHER_HAND @ poses if self.mirrored else poses) @ self.rotation
        return aligned


@dataclass(frozen=True)
class PoseErrors:
    """What remains between two sets of poses after alignment; NaN for a particle without a pose.

    ``rotation`` (P,) geodesic distances in rad; ``shift`` (P,) lengths in the unit the shifts were given in;
    ``alignment`` the frame; ``offset`` (3,) the translation of the specimen (x, y, z), in the same unit.
    """

    rotation: FloatArray
    shift: FloatArray
    alignment: Alignment
    offset: FloatArray


def align_rotations(rotations: ArrayLike, reference: ArrayLike, symmetry: str | None = None) -> Alignment:
    """Frame and hand in which ``rotations`` come closest to ``reference``.

    Parameters
    ----------
    rotations, reference : array_like, (P, 3, 3)
        Poses A of the same particles; rows with NaN in either are left out.
    symmetry : str, optional
        Point group of the specimen, about its axes in the frame of ``reference``: distances are modulo it,
        and of the frames that it leaves open the one that turns least is chosen.

    Returns
    -------
    Alignment
        Of least mean geodesic distance, to first order: the least-squares rotation (Kabsch 1976, Acta Cryst.
        A32:922), reweighted by the reciprocal distances, so that a minority of wrong poses does not pull on
        the right ones.  The hand is changed only where that is better by more than rounding.

    Raises
    ------
    InputError
        If the shapes differ, no particle has both poses, or there is no such point group.
    """
    a, b = _paired(rotations, reference)
    known = np.isfinite(a).all(axis=(1, 2)) & np.isfinite(b).all(axis=(1, 2))
    if not known.any():
        raise InputError("no particle has a pose in both sets; poses cannot be compared")
    a, b = a[known], b[known]
    group = point_group(symmetry or "C1")
    same, same_error = _robust_frame(a, b, group)
    other, other_error = _robust_frame(_OTHER_HAND @ a, b, group)
    if other_error < same_error - 1e-7:
        return Alignment(other, True, other_error, same_error)
    return Alignment(same, False, same_error, other_error)


def pose_errors(
    rotations: ArrayLike,
    shifts: ArrayLike,
    true_rotations: ArrayLike,
    true_shifts: ArrayLike,
    symmetry: str | None = None,
) -> PoseErrors:
    """Rotation and shift errors of each particle after global alignment.

    Parameters
    ----------
    rotations, true_rotations : array_like, (P, 3, 3)
        Poses A; NaN where there is none.
    shifts, true_shifts : array_like, (P, 2)
        Shifts t (x, y), all in one unit.
    symmetry : str, optional
        Point group of the specimen in the frame of the true poses, as C4 or D2.  Without it, poses that
        differ by a symmetry of the specimen count as different.

    Returns
    -------
    PoseErrors
        The alignment is that of :func:`align_rotations`; the offset x of the specimen is then fitted to
        ``t_true = t + A[:2] x``, in the same robust way.

    Raises
    ------
    InputError
        If the shapes differ, no particle has both poses, or there is no such point group.
    """
    a, b = _paired(rotations, true_rotations)
    t, t_true = np.asarray(shifts, np.float64), np.asarray(true_shifts, np.float64)
    if t.shape != (len(a), 2) or t_true.shape != (len(a), 2):
        raise InputError(f"shifts of shape {t.shape} and {t_true.shape}: ({len(a)}, 2) belong to these poses")
    alignment = align_rotations(a, b, symmetry)
    aligned = alignment.apply(a)
    rows = aligned[:, :2]
    difference = t_true - t
    known = np.isfinite(rows).all(axis=(1, 2)) & np.isfinite(difference).all(axis=1)
    offset = _robust_offset(rows[known], difference[known])
    return PoseErrors(
        rotation=geodesic_distance_modulo(aligned, b, point_group(symmetry or "C1")),
        shift=np.linalg.norm(difference - rows @ offset, axis=1),
        alignment=alignment,
        offset=offset,
    )


def to_asymmetric_unit(rotations: ArrayLike, group: ArrayLike) -> FloatArray:
    """Of the poses ``A g`` of one view of a symmetric specimen, the one that is nearest to the identity.

    Parameters
    ----------
    rotations : array_like, (P, 3, 3)
        Poses A; NaN stays NaN.
    group : array_like, (order, 3, 3)
        The point group, as :func:`dcryo.geometry.symmetry.point_group` gives it.

    Returns
    -------
    ndarray, (P, 3, 3)
        Of poses that are equally near, to rounding, the one whose g comes first in the group.
    """
    poses = np.asarray(rotations, np.float64)
    return _nearest_equivalent(poses, np.broadcast_to(np.eye(3), poses.shape), np.asarray(group, np.float64))


def geodesic_distance_modulo(a: ArrayLike, b: ArrayLike, group: ArrayLike) -> FloatArray:
    """Least angle between ``a`` and the poses ``b g`` of the same view of a symmetric specimen.

    Parameters
    ----------
    a, b : array_like, (P, 3, 3)
        Poses A.
    group : array_like, (order, 3, 3)
        The point group.

    Returns
    -------
    ndarray, (P,)
        rad; NaN where a pose is.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return geodesic_distance(first, _nearest_equivalent(second, first, np.asarray(group, np.float64)))


def _nearest_equivalent(poses: FloatArray, targets: FloatArray, group: FloatArray) -> FloatArray:
    """Of the poses ``A g`` (P, 3, 3), those nearest to the targets (P, 3, 3)."""
    between = (np.swapaxes(poses, 1, 2) @ targets).reshape(-1, 9)
    best, highest = np.zeros(len(poses), np.intp), np.full(len(poses), -np.inf)
    for index, element in enumerate(group):
        # the trace of (A g)^T B = g^T A^T B falls with the angle
        trace = between @ element.ravel()
        higher = trace > highest + _TIE
        best[higher], highest[higher] = index, trace[higher]
    nearest: FloatArray = poses @ group[best]
    return nearest


def _robust_frame(a: FloatArray, b: FloatArray, group: FloatArray) -> tuple[FloatArray, float]:
    """:func:`_robust_rotation` modulo a point group of the poses ``b``.

    Which of the equivalent poses belong together depends on the frame.  Every pair of poses proposes one; the
    one by which most pairs agree is made better by turns with the choice of equivalents.
    """
    if len(group) == 1:
        return _robust_rotation(a, b)
    spread = np.linspace(0, len(a) - 1, min(len(a), _SEEDS)).astype(np.intp)
    jury = np.linspace(0, len(a) - 1, min(len(a), _JURY)).astype(np.intp)
    proposals = np.concatenate([np.eye(3)[None], np.swapaxes(a[spread], 1, 2) @ b[spread]])
    distance = [geodesic_distance_modulo(a[jury] @ frame, b[jury], group).mean() for frame in proposals]
    best = proposals[int(np.argmin(distance))]
    least = np.inf
    for _ in range(_ROUNDS):
        frame, _ = _robust_rotation(a, _nearest_equivalent(b, a @ best, group))
        mean = float(geodesic_distance_modulo(a @ frame, b, group).mean())
        if mean > least - 1e-9:
            break
        best, least = frame, mean
    # all frames G g are equally good
    return to_asymmetric_unit(best[None], group)[0], least


def _paired(a: ArrayLike, b: ArrayLike) -> tuple[FloatArray, FloatArray]:
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape or first.ndim != 3 or first.shape[1:] != (3, 3):
        raise InputError(f"poses of shape {first.shape} and {second.shape}; both must be (P, 3, 3)")
    return first, second


def _robust_rotation(a: FloatArray, b: FloatArray) -> tuple[FloatArray, float]:
    """G of least mean distance of ``a G`` to ``b``, and that distance (rad)."""
    between = np.swapaxes(a, 1, 2) @ b
    weight = np.ones(len(between))
    best, least = np.eye(3), np.inf
    for _ in range(_ROUNDS):
        rotation = _nearest_rotation(np.einsum("p,pij->ij", weight, between))
        distance = geodesic_distance(rotation, between)
        mean = float(distance.mean())
        # 1e-9 rad: below it progress is rounding.
        if mean > least - 1e-9:
            break
        best, least = rotation, mean
        weight = 1 / np.maximum(distance, 1e-6)
    return best, least


def _nearest_rotation(matrix: FloatArray) -> FloatArray:
    u, _, v = np.linalg.svd(matrix)
    sign = np.sign(np.linalg.det(u @ v))
    return np.asarray((u * np.array([1.0, 1.0, sign])) @ v)


def _robust_offset(rows: FloatArray, difference: FloatArray) -> FloatArray:
    """Offset x of least mean ``|difference - rows x|``; the shortest such x where the views leave it open."""
    weight = np.ones(len(rows))
    best, least = np.zeros(3), np.inf
    for _ in range(_ROUNDS):
        normal = np.einsum("p,pji,pjk->ik", weight, rows, rows)
        offset = np.linalg.pinv(normal, hermitian=True) @ np.einsum("p,pji,pj->i", weight, rows, difference)
        length = np.linalg.norm(difference - rows @ offset, axis=1)
        mean = float(length.mean()) if len(length) else 0.0
        if mean >= least * (1 - 1e-9):
            break
        best, least = offset, mean
        weight = 1 / np.maximum(length, 1e-6 * max(mean, 1e-300))
    return best
