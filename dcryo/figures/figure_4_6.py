"""Figures 4.6, 4.7 and 4.11 of the thesis: maps and FSC curves of joint refinement, and its course.

Two specimens, a coarse map of each and poses with Euler angles wrong by up to 0.7 rad.  The refined map is to
come near the one of the true poses, where that of the unrefined poses is far from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dcryo.figures.experiment import Check, Outcome, Setting
from dcryo.figures.joint_data import HJC, PTCH1, Case, low_passed, smaller
from dcryo.figures.joint_picture import draw_course, draw_fsc, draw_sections
from dcryo.figures.joint_ways import (
    ORACLE,
    OURS,
    PEER,
    UNREFINED,
    averages,
    by_iteration,
    section,
    trial,
)
from dcryo.report.plot import STYLE, mpl, new_figure, save

TITLE = "Joint refinement of poses and map beside the true poses, the unrefined ones and RELION"
SOURCE = "Figures 4.6, 4.7 and 4.11: PTCH1 and HJC, 500 views, angles wrong by 0.7 rad; curves, no numbers"

TAKES_MAP = True


@dataclass(frozen=True)
class Parameters:
    """What is refined, and what the checks want.

    Attributes
    ----------
    cases : tuple of Case
        Specimens; a map that is given takes the place of the last one.
    trials : int
        Simulations of each, of which means are reported.
    least_of_oracle, most_unrefined : float
        Frequency at which the FSC with the truth falls to 0.5, as a fraction of that with the true poses: of
        the refined map at least, of the unrefined one at most.
    """

    cases: tuple[Case, ...]
    trials: int
    least_of_oracle: float
    most_unrefined: float = 0.6


SMALL = Parameters((smaller(PTCH1, 46, 200), smaller(HJC, 46, 200)), 1, 0.9)
FULL = Parameters((PTCH1, HJC), 5, 0.97)


def run(setting: Setting) -> Outcome:
    """Simulate, go all ways, and follow the first refinement of each specimen."""
    p = FULL if setting.full else SMALL
    cases = [_case(case, p.trials, setting, setting.map if case is p.cases[-1] else None) for case in p.cases]
    numbers: dict[str, Any] = {"parameters": asdict(p), "cases": cases}
    return Outcome(numbers, checks(p, cases), _shown(cases))


def _case(case: Case, trials: int, setting: Setting, map_path: str | None) -> dict[str, Any]:
    """The numbers of one specimen."""
    first = trial(case, setting, setting.seed, map_path)
    data = first.data
    course = by_iteration(data, first.run, setting)
    field = case.box * case.pixel_size
    sections = {"truth": data.truth, "start": low_passed(data.truth, case.start_cutoff * field)}
    sections |= {name: way.volume for name, way in first.ways.items()}
    each = [first.numbers()]
    each += [trial(case, setting, setting.seed + k, map_path).numbers() for k in range(1, trials)]
    return {
        "name": case.name,
        "specimen": map_path or f"phantom {case.phantom}",
        "field_A": field,
        "frequency": data.frequency,
        "ways": averages(each),
        "trials": each,
        "relion_missing": first.peer_missing,
        "course_r_c": [step.numbers(data)["r_c"] for step in course],
        "sections": {name: section(data, volume) for name, volume in sections.items()},
    }


def checks(p: Parameters, cases: list[dict[str, Any]]) -> tuple[Check, ...]:
    """What the figures must show, specimen by specimen."""
    found = []
    for case in cases:
        ways = case["ways"]
        ours, unrefined = ways[OURS]["r_c_of_oracle"], ways[UNREFINED]["r_c_of_oracle"]
        found += [
            Check(
                f"{case['name']}: FSC 0.5 with the truth, dcryo over true poses",
                bool(ours >= p.least_of_oracle),
                f"{ours:.1%}",
                f"at least {p.least_of_oracle:.0%}",
            ),
            Check(
                f"{case['name']}: the same, unrefined poses",
                bool(unrefined <= p.most_unrefined),
                f"{unrefined:.1%}",
                f"at most {p.most_unrefined:.0%}",
            ),
        ]
        if PEER in ways:
            mine, theirs = ways[OURS]["mean_fsc"], ways[PEER]["mean_fsc"]
            found.append(
                Check(
                    f"{case['name']}: mean FSC with the truth, dcryo and RELION",
                    bool(mine >= theirs),
                    f"{mine:.3f} and {theirs:.3f}",
                    "not below RELION's",
                )
            )
    return tuple(found)


def _shown(cases: list[dict[str, Any]]) -> tuple[tuple[str, str], ...]:
    lines = []
    for case in cases:
        for name, way in case["ways"].items():
            text = f"FSC 0.5 {way['resolution_05_A']:.2f} Å, mean FSC {way['mean_fsc']:.3f}"
            lines.append((f"{case['name']}, {name}", f"{text}, {way['cpu_seconds']:.0f} CPU s"))
        if case["relion_missing"]:
            lines.append((f"{case['name']}, RELION", case["relion_missing"]))
    return tuple(lines)


@mpl.rc_context(STYLE)
def draw(numbers: Mapping[str, Any], path: Path) -> None:
    """For each specimen: sections, FSC curves, and the course of the refinement."""
    cases = numbers["cases"]
    figure = new_figure(10.0, 4.9 * len(cases))
    parts: Any = figure.subfigures(len(cases), 1, squeeze=False)
    for part, case in zip(parts[:, 0], cases, strict=True):
        top, bottom = part.subfigures(2, 1, height_ratios=(1, 1.7))
        draw_sections(top.subplots(1, len(case["sections"])), case["sections"], case["field_A"])
        curves, course = bottom.subplots(1, 2)
        draw_fsc(curves, case["frequency"], _in_order(case["ways"]), "FSC with the truth")
        curves.set_title(f"{case['name']}   {case['specimen']}", loc="left")
        draw_course(course, case["course_r_c"], case["ways"])
    save(figure, path)


def _in_order(ways: Mapping[str, Any]) -> dict[str, Any]:
    """The oracle first: it lies behind the others."""
    return {ORACLE: ways[ORACLE]} | dict(ways)
