"""Find the symmetry axes of an atomic model and turn it into the frame of its point group.

An operation of the model is ``S = R' g R`` with g of the point group and R the rotation looked for.  The
search looks at overlaps: the mean of the blurred density of the atoms, read off at the atoms moved by S, is
as large as at rest only if S is a symmetry.  First the axis of one operation of highest order, over a
hemisphere; then the angle about it, with all operations; then a simplex search; last, atoms are paired with
their images and the residual rotations solved for, which is exact for an exactly symmetric model.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.optimize import minimize
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from dcryo.errors import InputError
from dcryo.geometry.symmetry import point_group

Float64 = NDArray[np.float64]

GRID = 64
PROBES = 1500
AXES = 4000
ACCEPT = 0.9
"""A model whose best overlap, relative to that at rest, is below this does not have the symmetry."""


class _Blur:
    """Density of points blurred to ``width`` [Å], read off at other points by linear interpolation."""

    def __init__(self, positions: Float64, width: float) -> None:
        extent = float(np.abs(positions).max()) + 4 * width
        self.step = 2 * extent / (GRID - 1)
        edges = (np.arange(GRID + 1) - GRID / 2) * self.step
        counts, _ = np.histogramdd(positions, bins=(edges, edges, edges))
        self.density = gaussian_filter(counts.astype(np.float32), width / self.step)

    def at(self, points: Float64) -> float:
        """Mean density at ``points`` (..., 3)."""
        index = points.reshape(-1, 3).T / self.step + (GRID - 1) / 2
        return float(map_coordinates(self.density, index, order=1, mode="constant").mean())


def align_to_symmetry(positions: NDArray[Any], symmetry: str, name: str) -> Float64:
    """Rotation R (3, 3) such that ``positions @ R.T`` has the axes of the point group ``symmetry``.

    Parameters
    ----------
    positions : (N, 3) array
        Atoms x, y, z [Å], centred on their centre of mass.
    symmetry : str
        Name of a point group (RELION's axes).
    name : str
        What the positions came from, for the message.

    Raises
    ------
    InputError
        If the model does not have that symmetry.
    """
    group = np.asarray(point_group(symmetry), dtype=np.float64)
    if len(group) == 1:
        return np.eye(3)
    points = np.asarray(positions, dtype=np.float64)
    probes = points[np.linspace(0, len(points) - 1, min(PROBES, len(points))).astype(int)]
    radius = float(np.sqrt((points**2).sum(1).mean()))
    coarse, fine = _Blur(points, radius / 6), _Blur(points, radius / 20)

    def loss(rotvec: Float64, start: Float64, blur: _Blur) -> float:
        rotation = Rotation.from_rotvec(rotvec).as_matrix() @ start
        return -blur.at(np.einsum("gij,pj->gpi", rotation.T @ group[1:] @ rotation, probes))

    starts = _starting_frames(group, probes, coarse, fine)
    best, rotation = math.inf, np.eye(3)
    for start in starts:
        for blur in (coarse, fine):
            found = minimize(
                loss,
                np.zeros(3),
                args=(start, blur),
                method="Nelder-Mead",
                options={
                    "initial_simplex": np.vstack([np.zeros(3), 0.05 * np.eye(3)]),
                    "xatol": 1e-4,
                    "fatol": 1e-9,
                },
            )
            start = Rotation.from_rotvec(found.x).as_matrix() @ start
        if found.fun < best:
            best, rotation = float(found.fun), start
    overlap = -best / fine.at(probes)
    if overlap < ACCEPT:
        raise InputError(
            f"{name}: the model does not have the symmetry {symmetry} (best overlap with its images "
            f"{overlap:.2f}); give the symmetry that it has, or leave --symmetry out"
        )
    return _pair_and_solve(points, rotation, group)


def _starting_frames(group: Float64, probes: Float64, coarse: _Blur, fine: _Blur) -> list[Float64]:
    """The most promising rotations R, from an axis search and then one about the axis."""
    rotvecs = Rotation.from_matrix(group[1:]).as_rotvec()
    angles = np.linalg.norm(rotvecs, axis=1)
    # The smallest angle belongs to the operation of highest order, which the fewest axes share.
    principal = rotvecs[np.argmin(angles)]
    angle = float(np.linalg.norm(principal))

    # Directions on a hemisphere, evenly by the golden angle.
    z = (np.arange(AXES) + 0.5) / AXES
    azimuth = np.arange(AXES) * math.pi * (3 - math.sqrt(5))
    axes = np.stack([np.sqrt(1 - z**2) * np.cos(azimuth), np.sqrt(1 - z**2) * np.sin(azimuth), z], axis=1)
    turned = Rotation.from_rotvec(axes * angle).as_matrix()
    scores = np.array([coarse.at(probes @ turn.T) for turn in turned])

    frames: list[tuple[float, Float64]] = []
    taken: list[Float64] = []
    for index in np.argsort(-scores):
        axis = axes[index]
        if any(abs(float(axis @ other)) > math.cos(0.3) for other in taken):
            continue
        taken.append(axis)
        for sign in (1.0, -1.0):
            onto = _turn_onto(sign * axis, principal / angle)
            about = Rotation.from_rotvec(
                np.outer(np.radians(np.arange(0, 360, 3)), principal / angle)
            ).as_matrix()
            for turn in about @ onto:
                images = np.einsum("gij,pj->gpi", turn.T @ group[1:] @ turn, probes[::5])
                frames.append((coarse.at(images), turn))
        if len(taken) == 6:
            break
    frames.sort(key=lambda frame: -frame[0])
    return [turn for _, turn in frames[:4]]


def _turn_onto(axis: Float64, target: Float64) -> Float64:
    """A rotation that takes the unit vector ``axis`` to the unit vector ``target``."""
    cross = np.cross(axis, target)
    sine, cosine = float(np.linalg.norm(cross)), float(axis @ target)
    if sine < 1e-9:
        if cosine > 0:
            return np.eye(3)
        cross = np.cross(target, np.eye(3)[int(np.argmin(np.abs(target)))])
        sine = float(np.linalg.norm(cross))
        return np.asarray(Rotation.from_rotvec(cross / sine * math.pi).as_matrix())
    return np.asarray(Rotation.from_rotvec(cross / sine * math.atan2(sine, cosine)).as_matrix())


def _pair_and_solve(points: Float64, rotation: Float64, group: Float64) -> Float64:
    """Refine R from pairs of atoms.

    With ``S = exp(w) g exp(-w)`` the model's operation in the current frame, ``S g^-1`` is the rotation by
    ``(1 - g) w`` to first order: solved for w over all g, three times.
    """
    for _ in range(3):
        turned = points @ rotation.T
        tree = cKDTree(turned)
        left, right = [], []
        for operation in group[1:]:
            images = turned @ operation.T
            distance, partner = (np.asarray(found) for found in tree.query(images))
            near = distance <= np.quantile(distance, 0.9)
            residual, _ = Rotation.align_vectors(turned[partner[near]], images[near])
            left.append(np.eye(3) - operation)
            right.append(residual.as_rotvec())
        correction: Float64 = np.linalg.lstsq(np.concatenate(left), np.concatenate(right), rcond=None)[0]
        rotation = Rotation.from_rotvec(-correction).as_matrix() @ rotation
    return np.asarray(rotation, dtype=np.float64)
