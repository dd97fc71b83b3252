"""The sections of a page that only a refinement has: its iterations, its poses, and what its halves share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from dcryo.dataflow.pose_update import LOST_SIGMA
from dcryo.geometry.symmetry import point_group
from dcryo.methods.refine import START_SHELLS
from dcryo.methods.refine_round import FRAME_SHELLS
from dcryo.methods.start_map import EDGE
from dcryo.report import refinement_figures as figures
from dcryo.report.advice import lost_particles
from dcryo.report.course import Course
from dcryo.report.markup import figure, section, sentence_html, show_duration


def headline_facts(course: Course) -> list[tuple[str, str]]:
    """Names and values that belong beside the resolution."""
    facts = [("Iterations", f"{course.count}")]
    if course.count and math.isfinite(course.looked[-1]):
        facts.append(("Poses looked to", f"{course.looked[-1]:.2f} Å"))
    if course.poses is not None and len(course.poses.turns):
        facts.append(("Rotations known to", f"{math.degrees(np.median(course.poses.turns)):.2f}°"))
        facts.append(("Lost particles", f"{course.poses.lost:,}"))
    return facts


def iteration_sections(course: Course) -> str:
    """Half maps and poses from iteration to iteration, in pictures and as a table."""
    if course.iterations is None or course.curves is None:
        return ""
    iteration, looked = course.column("iteration"), course.looked
    fsc = figures.iteration_fsc_figure(course.curves["frequency"], course.curves["fsc"], 1 / looked)
    resolutions = {"0.143": course.column("resolution_0143_A"), "0.5": course.column("resolution_05_A")}
    limit = 2 * course.side / course.column("box")
    by_iteration = figures.resolution_course_figure(iteration, resolutions, looked, limit)
    turns = {
        "change, 90 % below": np.degrees(course.column("turn_p90")),
        "change, median": np.degrees(course.column("turn_median")),
        "uncertainty, median": np.degrees(course.column("sigma_median")),
    }
    moves = {"change, root mean square": math.sqrt(2) * course.column("move_rms")}
    if course.poses is not None and len(course.poses.moves):
        moves["uncertainty, median of the last"] = np.full(len(iteration), np.median(course.poses.moves))
    parts = (
        "<div class='pair'>",
        figure(
            fsc,
            "Linear half maps of every iteration, compared in a soft ball without a correction for it; each "
            "curve ends where the maps of that iteration do, and its dot is where its poses stopped looking. "
            "Maps are only as fine as they need to be, so the first ones are coarse.",
        ),
        figure(
            by_iteration,
            "Poses look up to the shell where the half maps of the iteration before no longer agree (FSC "
            "0.143), those of the first one as far as the starting map goes. Where a curve runs along the "
            "limit, the map was too coarse to show more.",
        ),
        figure(
            figures.change_figure(iteration, turns, "rotation (°)", "turns"),
            "How far particles turned in each iteration. Poses have settled once they turn by a small part "
            "of their uncertainty.",
        ),
        figure(
            figures.change_figure(iteration, moves, "shift (Å)", "moves"),
            "How far particles moved in each iteration, in both directions of the image together.",
        ),
        "</div>",
        _table(course),
    )
    return section("Iterations", "".join(parts))


def _table(course: Course) -> str:
    """A row per iteration; it scrolls by itself where the page is narrow."""
    heads = (
        "iteration", "poses to", "maps", "FSC 0.143", "FSC 0.5", "turn, median", "turn, 90 %", "uncertainty",
        "lost", "searched", "misfit", "time",
    )  # fmt: skip
    units = ("", "Å", "voxels", "Å", "Å", "°", "°", "°", "", "", "of noise", "")
    columns = [course.column(name) for name in ("turn_median", "turn_p90", "sigma_median")]
    rows = []
    for i in range(course.count):
        box = course.column("box")[i]
        cells = [
            f"{course.column('iteration')[i]:.0f}", _number(course.looked[i], ".1f"), f"{box:.0f}³",
            *(_number(course.column(name)[i], ".2f") for name in ("resolution_0143_A", "resolution_05_A")),
            *(_number(math.degrees(column[i]), ".2f") for column in columns),
            f"{course.column('lost')[i]:,.0f}", f"{course.column('searched')[i]:,.0f}",
            _number(course.column("cost")[i], ".3f"), show_duration(course.column("seconds")[i]),
        ]  # fmt: skip
        rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = "".join(
        f"<th>{name}{f'<br>{unit}' if unit else ''}</th>" for name, unit in zip(heads, units, strict=True)
    )
    return f"<div class='scroll'><table class='course'><tr>{head}</tr>{''.join(rows)}</table></div>"


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "–"


def certainty_section(course: Course, name: str) -> str:
    """How well each particle's pose is known, and how many are lost."""
    poses = course.poses
    if poses is None or not len(poses.turns):
        return ""
    limit = math.degrees(LOST_SIGMA)
    turns = figures.uncertainty_figure(np.degrees(poses.turns), "rotation (°)", "sigma-turns", limit)
    parts = [
        "<div class='pair'>",
        figure(
            turns,
            "Standard deviation of the rotation of each particle, about all three axes together, from the "
            "curvature of its misfit. It counts the noise of its image alone: errors that all particles "
            "share, such as those of the map, come on top.",
        ),
    ]
    if len(poses.moves):
        moves = figures.uncertainty_figure(poses.moves, "shift (Å)", "sigma-moves")
        parts.append(figure(moves, "The same of the shift, in both directions of the image together."))
    parts.append("</div>")
    parts += [f"<p>{sentence_html(sentence)}</p>" for sentence in lost_particles(course, name)]
    return section("How sure the poses are", "".join(parts))


def shared_section(course: Course, config: Mapping[str, Any], side: float) -> str:
    """What the half sets have in common, which no agreement between their maps can vouch for."""
    items = []
    end = math.nan
    if config.get("initial") is not None and math.isfinite(side):
        low_pass = float(config.get("low_pass") or side / START_SHELLS)
        end = low_pass / (1 + EDGE)
        items.append(
            f"The starting map, `{config['initial']}`: as it was down to {low_pass:.3g} Å, and nothing of it "
            f"beyond {end:.3g} Å."
        )
    if course.given:
        items.append(
            f"The poses that {course.given:,} particles came with, as where to begin. What an earlier "
            "refinement mixed up between the half sets before, nothing here undoes."
        )
    items += [_frame(str(config.get("symmetry", "C1"))), _scalars(config)]
    told = "".join(f"<li>{sentence_html(item)}</li>" for item in items)
    closing = "Nothing else passes between them: each half has its own maps, and its particles see no other."
    if math.isfinite(end):
        closing += f" So whatever the half maps agree on beyond {end:.3g} Å comes from the images of each"
        closing += ", and from the poses they came with." if course.given else "."
    return section("What the half sets share", f"<ul class='told'>{told}</ul><p>{escape(closing)}</p>")


def _frame(symmetry: str) -> str:
    """How half map 2 is brought onto half map 1, by what the symmetry leaves free."""
    group = point_group(symmetry)
    if len(group) == 1:
        free = "three angles and three shifts, 6 numbers"
    elif np.allclose(group[:, 2, 2], 1):
        free = f"a turn about z and a shift along it, 2 numbers, for {symmetry} holds the rest in place"
    else:
        return f"No frame: the axes of {symmetry} hold both half sets in place."
    return (
        f"One frame: in every iteration half map 2 is registered with half map 1 ({free}), by what they hold "
        f"below {FRAME_SHELLS:.0f} Fourier voxels, and the poses of half set 2 are moved along."
    )


def _scalars(config: Mapping[str, Any]) -> str:
    looked = "how far poses look and how fine the maps are, from the FSC between the halves"
    if config.get("prior") == "none":
        return f"Of every iteration, {looked}."
    weight = "the weight of the prior, with whether density may be negative"
    return f"Of every iteration, {weight}; and {looked}."
