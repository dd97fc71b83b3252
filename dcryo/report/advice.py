"""What a user should do next, from what a run found: short sentences, the most important first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.dataflow.pose_update import LOST_SIGMA
from dcryo.report.course import Course

Table = Mapping[str, NDArray[Any]]

TIGHT_MASK = 0.143
"""A phase-randomised FSC above the resolution's own threshold, at that resolution, is the mask speaking."""

MANY_LOST = 0.05
"""A larger share of lost particles is worth a look before anything else."""


def next_steps(
    run: str,
    pixel_size: float,
    result: Mapping[str, Any],
    config: Mapping[str, Any],
    fsc: Table | None,
    weights: Table | None,
    orientation: str | None,
    refinement: Sequence[str] = (),
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
    orientation
        What to do about a preferred orientation, None where there is none.
    refinement
        What `refinement_steps` finds.
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
    steps += refinement
    if orientation is not None:
        steps.append(orientation)
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


def refinement_steps(course: Course, config: Mapping[str, Any], complete: bool) -> list[str]:
    """Sentences on how a refinement ended, or that it has not."""
    steps = []
    if not complete:
        done = f"after {course.count} iteration{'' if course.count == 1 else 's'}"
        steps.append(
            f"This refinement is not finished: the page shows it {done}. If it does not run any more, give "
            "its `dcryo refine` command again, and it goes on where it stopped."
        )
    elif course.count and course.count == config.get("rounds"):
        steps.append(
            f"The refinement used all of the {course.count} iterations it was allowed. Where its poses still "
            "turn by as much as they are uncertain, refine into a new run with more `--rounds`."
        )
    poses = course.poses
    if poses is not None and poses.lost > MANY_LOST * poses.count:
        steps.append(
            f"{poses.lost:,} particles ({100 * poses.lost / poses.count:.0f} %) are lost: leave them out, as "
            "said below, or find out what they are."
        )
    return steps


def lost_particles(course: Course, run: str) -> list[str]:
    """Sentences on the particles without a sure pose: how many, what that means, what to do with them."""
    poses = course.poses
    if poses is None or not poses.iteration:
        return []
    limit = f"{math.degrees(LOST_SIGMA):.0f}°"
    search = course.last_search
    before = int(course.column("lost")[search - 1]) if search is not None else 0
    steps = []
    if poses.lost:
        steps += [
            f"{poses.lost:,} of {poses.count:,} particles ({100 * poses.lost / poses.count:.2g} %) are lost: "
            f"their rotation is known no better than {limit} (standard deviation), or another pose of their "
            "search, at least that far away, explains the image as well. They count in the maps all the "
            "same, where they add noise and no detail.",
            f"To leave them out: `dcryo export {quote(run)} refined.star --no-lost` writes the others; "
            f"ingest that and refine it. The array `poses/{poses.iteration:04d}/lost` of the run marks them.",
        ]
    else:
        steps.append(
            f"No particle is lost: all rotations are known better than {limit} (standard deviation)."
        )
    if search is not None and search < poses.iteration:
        marked = f"; `poses/{search:04d}/lost` marks them" if before and search in course.held else ""
        steps.append(
            "Other poses are only looked for in a search. After the last one, of iteration "
            f"{search}, {f'{before:,} particles were' if before else 'none was'} lost{marked}."
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
