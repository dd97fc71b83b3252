"""The picture of Figure 4.1: a column per scale, and one for the truth, the profile and the cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from dcryo.report.figures import scale_bar
from dcryo.report.plot import (
    BLUE,
    CYCLE,
    GREY,
    INK,
    ORANGE,
    SOFT,
    STYLE,
    mpl,
    new_figure,
    save,
    show_section,
)

BASIS_REACH = 3.0
"""Voxels of the coarsest scale that the pictures of the basis function reach on either side."""


@mpl.rc_context(STYLE)
def draw(numbers: Mapping[str, Any], path: Path) -> None:
    """A column per scale (basis function, section, FSC), and one for the truth, the profile and the cost."""
    scales, count = numbers["scales"], len(numbers["scales"])
    figure = new_figure(2.2 * (count + 1), 6.0)
    rows = figure.subplots(3, count + 1, height_ratios=(0.75, 1.15, 1), squeeze=False)
    field = numbers["pixel_size_A"] * numbers["parameters"]["box"]
    for column, (entry, colour) in enumerate(zip(scales, CYCLE, strict=False)):
        top, middle, bottom = rows[:, column]
        _draw_basis(top, numbers, entry, colour)
        show_section(middle, entry["section"], field)
        _draw_fsc(bottom, numbers, entry, colour)
        if column:
            bottom.set_yticklabels([])
            top.set_yticklabels([])
    rows[0, 0].set_ylabel("basis function")
    rows[2, 0].set_ylabel("FSC against the truth")
    rows[2, 0].annotate(
        "Nyquist / s", (scales[0]["nyquist"], 0.25), xytext=(8, 0), textcoords="offset points", color=SOFT
    )
    _draw_cost(rows[0, -1], scales)
    _draw_truth(rows[1, -1], numbers["truth"]["section"], field)
    _draw_profiles(rows[2, -1], numbers)
    save(figure, path)


def _draw_truth(axes: Axes, section: str, field: float) -> None:
    show_section(axes, section, field)
    bar, right, level = scale_bar(field), 0.46 * field, -0.45 * field
    axes.plot([right - bar, right], [level, level], color="white", linewidth=2.5)
    axes.text(right - bar / 2, level + 0.02 * field, f"{bar:g} Å", color="white", ha="center", va="bottom")
    axes.set_title("truth")


def _draw_basis(axes: Axes, numbers: Mapping[str, Any], entry: Mapping[str, Any], colour: str) -> None:
    """The basis function of a scale over the distance in Å, all scales on one axis."""
    voxel, function = entry["scale"] * numbers["pixel_size_A"], numbers["basis_function"]
    widest = BASIS_REACH * numbers["scales"][0]["scale"] * numbers["pixel_size_A"]
    r = np.array(function["r"]) * voxel
    axes.fill_between(r, function["value"], color=colour, alpha=0.25, linewidth=0)
    axes.plot(r, function["value"], color=colour)
    axes.axhline(0, color=SOFT, linewidth=0.6)
    axes.set(xlim=(-widest, widest), ylim=(-0.2, 1.08), xlabel="Å")
    axes.set_title(f"s = {entry['scale']},  {entry['voxels']}³", color=colour)


def _draw_fsc(axes: Axes, numbers: Mapping[str, Any], entry: Mapping[str, Any], colour: str) -> None:
    axes.plot(numbers["frequency"], entry["fsc"], color=colour, linewidth=1.8)
    axes.axvline(entry["nyquist"], color=INK, linewidth=0.9, dashes=(2, 2))
    axes.axhline(0.5, color=SOFT, linewidth=0.8, dashes=(2, 2))
    axes.set(xlim=(0, numbers["frequency"][-1] * 1.02), ylim=(-0.05, 1.05), xlabel="1/Å")
    axes.grid(True)


def _draw_cost(axes: Axes, scales: list[Mapping[str, Any]]) -> None:
    s = np.array([entry["scale"] for entry in scales], float)
    solve = np.array([entry["solve_seconds"] for entry in scales])
    fold = [entry["fold_seconds"] for entry in scales]
    axes.loglog(s, solve, "o-", color=BLUE, markersize=4, label="solve")
    axes.loglog(s, fold, "s-", color=ORANGE, markersize=4, label="fold")
    axes.loglog(s, solve[-1] * (s[-1] / s) ** 3, color=GREY, dashes=(2, 2), label="s⁻³")
    axes.set_xticks(s, [f"{value:g}" for value in s])
    axes.minorticks_off()
    axes.set(xlabel="s", title="CPU seconds")
    axes.grid(True)
    axes.legend(handlelength=1.4, fontsize=7.5)


def _draw_profiles(axes: Axes, numbers: Mapping[str, Any]) -> None:
    """Density along one row of the sections."""
    profile = np.array(numbers["truth"]["profile"])
    x = (np.arange(len(profile)) - len(profile) // 2) * numbers["pixel_size_A"]
    axes.plot(x, profile, color=INK, linewidth=2.4, alpha=0.25)
    for entry, colour in zip(numbers["scales"], CYCLE, strict=False):
        axes.plot(x, entry["profile"], color=colour, linewidth=1)
    axes.set(xlim=(-0.8 * x.max(), 0.8 * x.max()), xlabel="Å", yticks=[], title="profile")
