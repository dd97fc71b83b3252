"""Deterministic, nearly uniform grids on the rotation group SO(3)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dcryo.errors import InputError
from dcryo.geometry.rotations import quaternion_to_matrix

_VOLUME = 8 * math.pi**2
"""Volume of SO(3) where the distance of two rotations is the angle between them (rad^3)."""

_LEVEL_ZERO_COUNT = 72
"""Rotations at level 0; every level has eight times more, so half the spacing."""

_MOST = 50_000_000
"""Rotations in the largest grid built: 3.6 GB of matrices."""

_PSI = 1.533751168755204288118041
"""Root of x^4 = x + 4, the second irrational step of the spiral (Alexa 2022)."""


def so3_grid(level: int | None = None, *, spacing: float | None = None) -> NDArray[np.float64]:
    """Near-uniform grid of rotations.

    Parameters
    ----------
    level : int, optional
        Resolution in octaves: 0 has 72 rotations about 59 degrees apart, and each level halves the spacing.
    spacing : float, optional
        Mean distance of neighbours in rad, in (0, pi/3]; exactly one of the two is given.

    Returns
    -------
    ndarray, (N, 3, 3)
        ``N = ceil(8 pi^2 / spacing^3)`` rotations.  No rotation is farther than ``spacing`` from the grid.

    Raises
    ------
    InputError
        If not exactly one of ``level`` and ``spacing`` is given, or it is out of range.

    Notes
    -----
    Super-Fibonacci spirals: quaternions that wind round a torus of every radius with two irrational
    frequencies (Alexa 2022, CVPR, "Super-Fibonacci spirals: fast, low-discrepancy sampling of SO(3)").
    """
    if (level is None) == (spacing is None):
        raise InputError("a grid of rotations needs either a level or a spacing; give exactly one")
    if level is not None:
        if level < 0:
            raise InputError(f"grid level {level} is negative; give 0 (72 rotations) or more")
        count = _LEVEL_ZERO_COUNT * 8**level
    else:
        assert spacing is not None
        if not 0 < spacing <= math.pi / 3:
            raise InputError(f"grid spacing {spacing} rad is not in (0, pi/3]; give an angle in rad")
        # A spacing below 1e-6 rad is refused by the count; the bound keeps the power from overflowing.
        count = math.ceil(_VOLUME / max(spacing, 1e-6) ** 3)
    if count > _MOST:
        raise InputError(f"a grid of {count} rotations is too fine (at most {_MOST}); take a coarser one")

    step = np.arange(count) + 0.5
    inner = np.sqrt(step / count)
    outer = np.sqrt(1 - step / count)
    alpha = 2 * math.pi * step / math.sqrt(2)
    beta = 2 * math.pi * step / _PSI
    quaternion = np.stack(
        [inner * np.sin(alpha), inner * np.cos(alpha), outer * np.sin(beta), outer * np.cos(beta)], axis=-1
    )
    return quaternion_to_matrix(quaternion)
