"""The picture of a benchmark: a panel per case, a bar per contender."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from dcryo.bench.peers import OURS
from dcryo.report.plot import BLUE, GREY, INK, RED, SOFT, STYLE, mpl, new_figure, save

COLUMNS = 3

BAR = 0.27
"""Height of a bar and its gap, inches."""


@mpl.rc_context(STYLE)
def draw(document: Mapping[str, Any], path: Path) -> None:
    """Draw what the JSON holds: medians, from the lowest to the highest round, and our share of each time."""
    cases = document["cases"]
    columns = min(COLUMNS, len(cases))
    rows = math.ceil(len(cases) / columns)
    slots = [
        max(len(case["lines"]) for case in cases[row * columns : (row + 1) * columns]) for row in range(rows)
    ]
    heights = [0.85 + BAR * count for count in slots]
    figure = new_figure(4.6 * columns, 0.5 + sum(heights))
    panels = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
    for index, panel in enumerate(panels.ravel()):
        if index < len(cases):
            _draw_case(panel, cases[index], slots[index // columns])
        else:
            panel.set_axis_off()
    machine = document["machine"]
    where = " and ".join(name for name in (machine["processor"], machine["gpu"]) if name)
    head = (
        f"dcryo {document['version']} and its peers on {where}: median of the rounds, lowest to highest; "
        "“ours” is our time over that of the bar"
    )
    figure.suptitle(
        textwrap.fill(head, 60 * columns),
        x=0.01,
        ha="left",
        fontsize=8.5,
        color=SOFT,
    )
    save(figure, path)


def _draw_case(axes: Axes, case: Mapping[str, Any], slots: int) -> None:
    clock, lines = case["clock"], case["lines"]
    largest = max((line[clock]["highest"] or 0.0 for line in lines), default=0.0) or 1.0
    for row, line in enumerate(lines):
        time = line[clock]
        if line["status"] != "measured":
            axes.text(0, row, " failed", va="center", color=RED)
            continue
        axes.barh(row, time["median"], color=BLUE if line["peer"] == OURS else GREY, height=0.62)
        axes.plot([time["lowest"], time["highest"]], [row, row], color=INK, linewidth=1)
        axes.text(time["highest"] + 0.02 * largest, row, _text(line, clock), va="center", fontsize=8)
    axes.set_yticks(range(len(lines)), [line["label"] for line in lines])
    name = "CPU seconds" if clock == "cpu" else "seconds on the clock"
    axes.set(xlim=(0, 1.75 * largest), ylim=(slots - 0.4, -0.6), xlabel=name)
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="x")
    axes.set_title(title(case), loc="left")


def _text(line: Mapping[str, Any], clock: str) -> str:
    median = line[clock]["median"]
    shares = [f"{ratio['median']:.2f}" for ratio in line["ratios"] if ratio["median"] is not None]
    return f"{median:.3g} s" + (f"   ours {', '.join(shares)}" if shares else "")


def title(case: Mapping[str, Any]) -> str:
    """A case in a line: what is computed, of what size."""
    box, count = case["box"], case["count"]
    size = {
        "convolution": f"{box}³",
        "reconstruct": f"{count} of {box}²",
        "store": f"{count} of {box}²",
    }.get(case["suite"], f"{count} views of {box}³")
    many = {line["threads"] for line in case["lines"]} - {1}
    threads = f", {max(many)} threads" if many and case["suite"] != "threads" else ""
    where = ", GPU" if case["device"] == "cuda" else ""
    what = case["what"] if case["what"] == case["suite"] else f"{case['suite']}: {case['what']}"
    return f"{what}, {size}{threads}{where}"
