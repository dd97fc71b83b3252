"""Preferred orientation in words: which views crowd, and which Fourier directions that leaves thin."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dcryo.geometry.symmetry import point_group
from dcryo.metrics.directional import DIRECTIONS, fibonacci_hemisphere
from dcryo.metrics.orientation import compensation_factor, histogram_views, sampling
from dcryo.report.directions import (
    COLUMNS,
    ROWS,
    SPREAD,
    FloatArray,
    fourier_coverage,
    grid_directions,
    solid_angles,
    symmetrised,
    viewing_density,
)

THIN_COVERAGE = 0.3
"""A Fourier direction with less than this share of an even coverage is worth a warning."""

LOW_COMPENSATION = 0.5
"""So is a sampling compensation factor that costs half of the signal-to-noise ratio."""

CHANCE = 7.0
"""Even spreads of N views have no direction thinner than 1 - CHANCE / sqrt(N): the standard deviation of a
coverage is 2 / sqrt(N), and 3.5 of them stand for the thinnest of a sphere."""

MANY = 1000
"""Views from which on an even spread leaves no Fourier direction without a slice by chance."""

CONE = math.radians(30)
"""Views this close to an axis crowd about it."""

NEAR = math.radians(12)
"""An axis this close to x, y or z is called by its name."""


@dataclass(frozen=True)
class Orientations:
    """Where particles were seen from, and what that leaves thin.

    particles: with a pose; order: of the point group; density, coverage (ROWS, COLUMNS): as
    `viewing_density` and `fourier_coverage` have them; compensation: the sampling compensation factor.
    crowded, crowd: the axis that most views are near, and the share of them within 30 degrees of it or its
    opposite; thin, thin_share: the axis that the thin Fourier directions lie about, and the share of
    directions below ``THIN_COVERAGE``.
    """

    particles: int
    symmetry: str
    order: int
    density: FloatArray
    coverage: FloatArray
    compensation: float
    crowded: FloatArray
    crowd: float
    thin: FloatArray
    thin_share: float

    @property
    def thinnest(self) -> float:
        """The lowest coverage, 1 for an even spread."""
        return float(self.coverage.min())

    @property
    def preferred(self) -> bool:
        """Whether views are spread less evenly than chance has it, to the harm of the map."""
        views = self.particles * self.order
        thin = self.thinnest < min(THIN_COVERAGE, 1 - CHANCE / math.sqrt(views))
        return thin or (views >= MANY and self.compensation < LOW_COMPENSATION)


def find_orientations(counts: ArrayLike, symmetry: str = "C1") -> Orientations | None:
    """What a histogram of views tells; None where there are none.

    Parameters
    ----------
    counts : array_like, (T, R)
        Particles by tilt in (0, pi) and rot in (-pi, pi), in even steps.
    symmetry : str
        Point group; every view is copied by it.
    """
    number: NDArray[np.float64] = np.asarray(counts, np.float64)
    total = float(number.sum())
    if not total > 0:
        return None
    density, coverage = viewing_density(number, symmetry), fourier_coverage(number, symmetry)
    copies = symmetrised(number, symmetry).ravel()
    copies /= copies.sum()
    directions = grid_directions(ROWS, COLUMNS).reshape(-1, 3)
    axes = directions[directions[:, 2] > 0]
    crowds = (np.abs(axes @ directions.T) >= math.cos(CONE)) @ copies
    rows, columns = number.shape
    tilt, rot = np.linspace(0, math.pi, rows + 1), np.linspace(-math.pi, math.pi, columns + 1)
    views, weights = histogram_views(number, tilt, rot, symmetry)
    return Orientations(
        particles=round(total),
        symmetry=symmetry,
        order=len(point_group(symmetry)),
        density=density,
        coverage=coverage,
        compensation=compensation_factor(sampling(views, weights, fibonacci_hemisphere(DIRECTIONS))),
        crowded=axes[int(np.argmax(crowds))],
        crowd=float(crowds.max()),
        thin=_thin_axis(coverage, symmetry),
        thin_share=float(solid_angles(ROWS, COLUMNS)[coverage < THIN_COVERAGE].sum()),
    )


def warning(found: Orientations | None) -> str | None:
    """Sentences on a preferred orientation and what it leaves thin; None where there is none to warn of."""
    if found is None or not found.preferred:
        return None
    even = 1 - math.cos(CONE)
    seen = ""
    if found.crowd > 2 * even:
        copies = "" if found.order == 1 else f", with the copies that {found.symmetry} makes,"
        seen = (
            f"{100 * found.crowd:.0f} % of the views{copies} are within 30° of {_axis(found.crowded)} or its "
            f"opposite, where an even spread has {100 * even:.0f} %. "
        )
    return (
        f"Preferred orientation: {seen}Fourier directions about {_axis(found.thin)}{_copies(found)} are "
        f"thin. The thinnest holds {100 * found.thinnest:.0f} % of what evenly spread views would give, and "
        f"{100 * found.thin_share:.0f} % of all directions hold less than {100 * THIN_COVERAGE:.0f} %. Along "
        "that axis the map is smeared; what is missing are views at right angles to it."
    )


def remedy(found: Orientations | None) -> str | None:
    """What to do about a preferred orientation; None where there is none."""
    if found is None or not found.preferred:
        return None
    return (
        f"Preferred orientation: the map is smeared along {_axis(found.thin)}{_copies(found)}, for lack of "
        "views at right angles to it. Tilted data or other grids help; more of the same particles do not."
    )


def orientation_caption(found: Orientations) -> str:
    """What the picture of the views shows, with the numbers that belong to it."""
    copies = "" if found.order == 1 else f", with the copies that {found.symmetry} makes"
    scatter = 100 / (SPREAD * math.sqrt(found.particles * found.order))
    return (
        f"Directions the particles were seen along{copies}: both halves of the sphere from outside, areas "
        f"are true. With {found.particles:,} particles chance alone makes the density scatter by "
        f"{scatter:.0f} %. The thinnest Fourier direction holds {100 * found.thinnest:.0f} % of what evenly "
        f"spread views would give; the sampling compensation factor is {found.compensation:.2f} (1: even; "
        "0.81: side views about one axis; 0: a gap)."
    )


def _thin_axis(coverage: FloatArray, symmetry: str) -> FloatArray:
    """The axis (3,) with z >= 0 that the thin directions lie about, or one of its copies."""
    directions = grid_directions(ROWS, COLUMNS)
    if len(point_group(symmetry)) > 1:
        axis: FloatArray = directions[np.unravel_index(np.argmin(coverage), coverage.shape)]
    else:
        # the thinnest one alone would be anywhere in a cone that nothing informs
        thin = max(THIN_COVERAGE, 1.5 * float(coverage.min()))
        missing = np.maximum(thin - coverage, 0) * solid_angles(ROWS, COLUMNS)
        axis = np.linalg.eigh(np.einsum("tr,tri,trj->ij", missing, directions, directions))[1][:, -1]
    return axis if axis[2] >= 0 else -axis


def _copies(found: Orientations) -> str:
    return "" if found.order == 1 else f" and its copies under {found.symmetry}"


def _axis(direction: FloatArray) -> str:
    """An axis by the name of the one it is near, else by its angles."""
    largest = int(np.argmax(np.abs(direction)))
    if abs(direction[largest]) >= math.cos(NEAR):
        return f"the {'xyz'[largest]} axis"
    tilt, rot = math.degrees(math.acos(direction[2])), math.degrees(math.atan2(direction[1], direction[0]))
    return f"the axis at tilt {tilt:.0f}°, rot {rot:.0f}°".replace("-", "−")
