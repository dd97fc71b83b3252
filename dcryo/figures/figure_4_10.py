"""Figure 4.10 of the thesis: the map from iteration to iteration of a joint refinement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dcryo.figures.experiment import Check, Outcome, Setting
from dcryo.figures.joint_data import PTCH1, Case, make_data, smaller
from dcryo.figures.joint_ways import by_iteration, refined, section
from dcryo.report.plot import STYLE, mpl, new_figure, save, show_section

TITLE = "The map of each iteration of a joint refinement"
SOURCE = "Figure 4.10: PTCH1, 500 views; pictures, no numbers"

TAKES_MAP = True

COLUMNS = 8
"""Maps in a row of the picture, at most."""


@dataclass(frozen=True)
class Parameters:
    """What is refined, and by what the check wants the map to gain: last frequency of FSC 0.5 over first."""

    case: Case
    least_gain: float = 2.0


SMALL = Parameters(smaller(PTCH1, 46, 200))
FULL = Parameters(PTCH1)


def run(setting: Setting) -> Outcome:
    """Simulate, refine, and make a map with the poses of every iteration."""
    p = FULL if setting.full else SMALL
    data = make_data(p.case, setting, setting.seed, setting.map)
    _, made = refined(data, setting)
    course = by_iteration(data, made, setting)
    found = [step.numbers(data)["r_c"] for step in course]
    numbers: dict[str, Any] = {
        "parameters": asdict(p),
        "specimen": setting.map or f"phantom {p.case.phantom}",
        "field_A": p.case.box * p.case.pixel_size,
        "r_c": found,
        "truth": section(data, data.truth),
        "sections": [section(data, step.volume) for step in course],
    }
    return Outcome(numbers, checks(p, found), _shown(found))


def checks(p: Parameters, found: list[float]) -> tuple[Check, ...]:
    """What the figure must show."""
    gain = found[-1] / found[0]
    return (
        Check(
            "FSC 0.5 with the truth, last map over the starting map",
            gain >= p.least_gain,
            f"{gain:.2f}× ({1 / found[0]:.1f} to {1 / found[-1]:.1f} Å)",
            f"at least {p.least_gain:g}×",
        ),
    )


def _shown(found: list[float]) -> tuple[tuple[str, str], ...]:
    return (("FSC 0.5, from iteration to iteration", ", ".join(f"{1 / r:.1f}" for r in found) + " Å"),)


@mpl.rc_context(STYLE)
def draw(numbers: Mapping[str, Any], path: Path) -> None:
    """Central sections, the start first and the truth last."""
    titles = [f"{'start' if k == 0 else k}   {1 / r:.1f} Å" for k, r in enumerate(numbers["r_c"])]
    panels = [*zip([*numbers["sections"], numbers["truth"]], [*titles, "truth"], strict=True)]
    rows = math.ceil(len(panels) / COLUMNS)
    columns = math.ceil(len(panels) / rows)
    figure = new_figure(10.0, rows * (10.0 / columns + 0.2))
    for axes in (grid := figure.subplots(rows, columns, squeeze=False)).flat:
        axes.set_axis_off()
    for axes, (image, title) in zip(grid.flat, panels, strict=False):
        show_section(axes, image, numbers["field_A"])
        axes.set_title(title, fontsize=8.5)
    save(figure, path)
