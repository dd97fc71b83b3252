"""Point groups of proteins, as rotations about RELION's axes.

A specimen has the symmetry g if ``f(g r) = f(r)``; its poses A and ``A @ g`` are then the same.

==========  ==========================================================================================
group       axes (x, y, z)
==========  ==========================================================================================
Cn          n-fold along z
Dn          n-fold along z, 2-fold along x
T           3-fold along z, 2-fold along (0, sqrt 2, 1)
O           4-fold along x, y and z, 3-fold along (1, 1, 1)
I1          2-fold along x, y and z, 5-fold along (g, 0, -1), g the golden ratio
I2 (or I)   2-fold along x, y and z, 5-fold along (1, 0, g): I1 turned by 90 degrees about z
I3          5-fold along z and (-2, 0, 1), 2-fold along y
I4          5-fold along z and (2, 0, 1), 2-fold along y: I3 turned by 180 degrees about z
==========  ==========================================================================================

The axes are those of RELION 3 to 5 (``relion_refine --print_symmetry_ops``).  Groups with mirrors are not
offered: molecules of one hand have none.
"""

from __future__ import annotations

import math
import re

import numpy as np
from numpy.typing import NDArray

from dcryo.errors import InputError
from dcryo.geometry.rotations import rotation_vector_to_matrix

FloatArray = NDArray[np.float64]
Axis = tuple[int, tuple[float, float, float]]

_GOLDEN = (1 + math.sqrt(5)) / 2

_GENERATORS: dict[str, tuple[Axis, Axis]] = {
    "T": ((3, (0, 0, 1)), (2, (0, math.sqrt(2), 1))),
    "O": ((4, (0, 0, 1)), (3, (1, 1, 1))),
    "I1": ((2, (1, 0, 0)), (5, (_GOLDEN, 0, -1))),
    "I2": ((2, (0, 0, 1)), (5, (1, 0, _GOLDEN))),
    "I3": ((5, (0, 0, 1)), (5, (-2, 0, 1))),
    "I4": ((5, (0, 0, 1)), (5, (2, 0, 1))),
}

_LARGEST_FOLD = 99
"""RELION reads at most two digits."""


def point_group(name: str) -> FloatArray:
    """All rotations of a point group, the identity first.

    Parameters
    ----------
    name : str
        C1, Cn, Dn (n = 1 to 99), T, O, I, I1, I2, I3 or I4, in either case; I is I2, as in RELION.

    Returns
    -------
    ndarray, (order, 3, 3)
        Always in the same order.

    Raises
    ------
    InputError
        If there is no such group here.
    """
    group = name.strip().upper()
    cyclic = re.fullmatch(r"([CD])0*([1-9][0-9]?)", group)
    if cyclic:
        fold = int(cyclic[2])
        turns = np.stack([_rotation(2 * math.pi * k / fold, (0, 0, 1)) for k in range(fold)])
        if cyclic[1] == "C":
            return turns
        return np.concatenate([turns, turns @ np.diag([1.0, -1.0, -1.0])])
    group = "I2" if group == "I" else group
    if group not in _GENERATORS:
        raise InputError(
            f"symmetry {name!r} is not a point group of rotations; "
            f"use C1 to C{_LARGEST_FOLD}, D1 to D{_LARGEST_FOLD}, T, O, I, I1, I2, I3 or I4 (RELION's axes)"
        )
    return _closure([_rotation(2 * math.pi / fold, axis) for fold, axis in _GENERATORS[group]])


def _rotation(angle: float, axis: tuple[float, float, float]) -> FloatArray:
    direction = np.asarray(axis) / np.linalg.norm(axis)
    return rotation_vector_to_matrix(angle * direction)


def _closure(generators: list[FloatArray]) -> FloatArray:
    """The group the generators make, breadth first from the identity (so products stay short and exact)."""
    elements = [np.eye(3)]
    for element in elements:  # grows while it is walked
        for generator in generators:
            product = element @ generator
            # Different elements of these groups differ by more than 0.5 in some entry; rounding is 1e-15.
            if not any(np.abs(product - known).max() < 1e-6 for known in elements):
                elements.append(product)
    return np.stack(elements)
