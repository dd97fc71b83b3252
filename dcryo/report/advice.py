"""What a user should do next, from what a run found: short sentences, the most important first."""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray

Table = Mapping[str, NDArray[Any]]

THIN_COVERAGE = 0.3
"""A Fourier direction with less than this share of an even coverage is worth a warning."""

TIGHT_MASK = 0.143
"""A phase-randomised FSC above the resolution's own threshold, at that resolution, is the mask speaking."""


def next_steps(
    run: str,
    pixel_size: float,
    result: Mapping[str, Any],
    config: Mapping[str, Any],
    fsc: Table | None,
    weights: Table | None,
    coverage: float | None,
) -> list[str]:
    """Sentences in plain words; commands stand between backquotes.

    Parameters
    ----------
    run
        Where the run store is, for the commands.
    pixel_size
        Å per voxel of the full map.
    result, config
        The attributes of the run of those names.
    fsc, weights
        The tables of those names, None where the run has none.
    coverage
        Lowest relative coverage of a Fourier direction (1 = even), None if unknown.
    """
    steps = []
    resolution = result.get("resolution_0143_A")
    if fsc is None or resolution is None:
        steps.append(
            "The resolution is unknown because the run has no half sets. Run again with `--halves auto` to "
            "measure it."
        )
    else:
        steps += _resolution_steps(float(resolution), pixel_size, config, fsc)
    if coverage is not None and coverage < THIN_COVERAGE:
        steps.append(
            f"Preferred orientation: the thinnest Fourier direction holds {100 * coverage:.0f} % of what "
            "evenly spread views would give, so the map is stretched along it. Tilted data or other grids "
            "help; more of the same particles do not."
        )
    if weights is not None and _at_the_end(weights, result.get("weight")):
        steps.append(
            "Cross-validation chose the first or last weight it tried. Try one beyond with `--weight` and "
            "compare the linear FSC and the map by eye."
        )
    steps.append(
        f"To look at the map: `dcryo export {quote(run)} map.mrc`, then open map.mrc in ChimeraX. Density "
        "that appears in only one of the half maps below is noise, however sharp it looks."
    )
    return steps


def _resolution_steps(
    resolution: float, pixel_size: float, config: Mapping[str, Any], fsc: Table
) -> list[str]:
    steps = []
    if resolution <= 2.1 * pixel_size:
        finer = (
            "Run again with `--scale 1`"
            if float(config.get("scale", 1.0)) > 1
            else "Extract the particles with a smaller pixel"
        )
        steps.append(
            f"The FSC stays high up to the sampling limit of {2 * pixel_size:.2f} Å, so the pixel size sets "
            f"the resolution and not the data. {finer} to see more."
        )
    frequency = np.asarray(fsc["frequency"], np.float64)
    randomised = np.interp(1 / resolution, frequency, np.nan_to_num(fsc["randomised"]))
    if randomised > TIGHT_MASK:
        steps.append(
            f"Phase-randomised maps still correlate by {randomised:.2f} at the stated resolution: the FSC "
            "mask is tight. The corrected curve accounts for it, but a wider mask gives a figure that others "
            "will trust more."
        )
    return steps


def _at_the_end(weights: Table, chosen: Any) -> bool:
    """Whether ``chosen`` is the smallest or the largest of three or more weights tried."""
    tried = np.unique(np.asarray(weights["weight"], np.float64))
    return (
        chosen is not None and len(tried) >= 3 and bool(np.isclose(chosen, tried[[0, -1]], rtol=1e-6).any())
    )
