"""Projection matching: the best of a grid of poses around the present one, without derivatives.

What refinement was before gradients, and the yardstick for them.  Every particle is compared with projections
of the reference on a grid of rotations and shifts, which is halved from round to round as RELION does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dcryo.errors import InputError
from dcryo.geometry.rotations import rotation_vector_to_matrix
from dcryo.geometry.so3 import so3_grid
from dcryo.operators.pose_search import PoseSearch, shift_grid
from dcryo.operators.poses import PoseModel
from dcryo.operators.views import Radial, Views

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class MatchingGrid:
    """Poses around the present one that are tried.

    Attributes
    ----------
    spacing : float
        Distance of neighbouring rotations, rad.
    step : float
        Distance of neighbouring shifts, pixels.
    reach : float
        Rotations within so many spacings of the present one are tried; infinity for all there are.
    distance : float
        Shifts within so many steps of the present one are tried.

    Raises
    ------
    InputError
        If one is not positive.
    """

    spacing: float
    step: float
    reach: float = 3.0
    distance: float = 3.0

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not getattr(self, name) > 0:
                raise InputError(f"{name} {getattr(self, name):g} of a matching grid is not positive")

    def halved(self) -> MatchingGrid:
        """Half the spacing and half the step, as many poses."""
        return replace(self, spacing=self.spacing / 2, step=self.step / 2)

    def turns(self) -> Float64:
        """Turns (R, 3, 3) of the present rotation: rotation vectors on a cubic lattice in a ball."""
        count = math.floor(self.reach + 1e-9)
        k = np.arange(-count, count + 1)
        lattice = np.stack(np.meshgrid(k, k, k, indexing="ij"), axis=-1).reshape(-1, 3)
        inside = np.linalg.norm(lattice, axis=1) <= self.reach + 1e-9
        return rotation_vector_to_matrix(self.spacing * lattice[inside])

    def shifts(self) -> Float64:
        """Shifts (S, 2) from the present one, pixels."""
        return shift_grid(self.distance * self.step, self.step)


@dataclass(frozen=True)
class Match:
    """Poses found for P particles.

    rotation (P, 3, 3); shift (P, 2) pixels; score (P,) the fall of the data term against an empty image.
    """

    rotation: Float64
    shift: Float64
    score: Float64


def match_projections(
    model: PoseModel, data: Float32, views: Views, radial: Radial, rotation: Float64, shift: Float64,
    grid: MatchingGrid, *, box: int, radius: float, threads: int = 0,
) -> Match:  # fmt: skip
    """The best poses of a grid.

    Parameters
    ----------
    model : PoseModel
        The reference.
    data : (P, 2h+1, h+1, 2) float32
        Images as :func:`dcryo.operators.projector.to_lattice` leaves them.
    views : Views
        Their transfer functions, and shifts that ``shift`` adds to; the rotations are not used.
    radial : Radial
        Basis function and noise weight.
    rotation : (P, 3, 3)
        Present rotations; not used where the grid holds all there are.
    shift : (P, 2)
        Present shifts, pixels.
    grid : MatchingGrid
        What is tried.
    box : int
        Side of the images.
    radius : float
        Frequencies of so many Fourier pixels and more are not compared.
    """
    present = views.posed(views.rotation, shift * (model.n / box))
    moves = grid.shifts()
    found = Match(np.empty((len(shift), 3, 3)), np.empty((len(shift), 2)), np.empty(len(shift)))

    def match(part: slice, rotations: Float64) -> None:
        search = PoseSearch(model, rotations, radius, grid.spacing, threads)
        best = search.find(data[part], present.take(part), radial, moves, box=box)
        found.rotation[part] = best.rotation[:, 0]
        found.shift[part] = shift[part] + best.shift[:, 0]
        found.score[part] = best.score[:, 0]

    if math.isinf(grid.reach):
        match(slice(0, len(shift)), so3_grid(spacing=grid.spacing))
    else:
        turns = grid.turns()
        for p in range(len(shift)):
            match(slice(p, p + 1), rotation[p] @ turns)
    return found
