"""Panels that the pictures of joint refinement share, drawn from numbers of the JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from dcryo.figures.joint_ways import OURS, PEER, UNREFINED
from dcryo.report.plot import BLUE, GREEN, GREY, INK, ORANGE, SOFT, show_section

COLOURS = {UNREFINED: ORANGE, OURS: BLUE, PEER: GREEN}
"""Of the ways to a map; the oracle is a broad grey line behind them."""


def line_style(name: str) -> dict[str, Any]:
    """How the curve of a way is drawn."""
    if name in COLOURS:
        return {"color": COLOURS[name], "linewidth": 1.6, "label": name}
    return {"color": GREY, "linewidth": 4.0, "alpha": 0.6, "label": name, "zorder": 1.5}


def draw_sections(row: Iterable[Axes], sections: Mapping[str, str], field: float) -> None:
    """A section in each of the axes, in the order of ``sections``; axes that are left over are empty."""
    names = list(sections)
    for index, axes in enumerate(row):
        if index < len(names):
            show_section(axes, sections[names[index]], field)
            axes.set_title(names[index], fontsize=8.5)
        else:
            axes.set_axis_off()


def draw_fsc(
    axes: Axes, frequency: Sequence[float], ways: Mapping[str, Mapping[str, Any]], label: str
) -> None:
    """FSC curves with the truth."""
    for name, way in ways.items():
        axes.plot(frequency, way["fsc_ball"], **line_style(name))
    axes.axhline(0.5, color=SOFT, linewidth=0.8, dashes=(2, 2))
    axes.set(xlim=(0, frequency[-1]), ylim=(-0.05, 1.03), xlabel="spatial frequency (1/Å)", ylabel=label)
    axes.grid(True)
    axes.legend(loc="best")


def draw_course(axes: Axes, found: Sequence[float], ways: Mapping[str, Mapping[str, Any]]) -> None:
    """The frequency up to which the map of each iteration is right, between oracle and unrefined."""
    for name, way in ways.items():
        if name not in (OURS, PEER):
            axes.axhline(way["r_c"], **line_style(name))
    style = line_style(OURS) | {"marker": "o", "markersize": 4}
    axes.plot(range(len(found)), found, **style)
    axes.set(xlabel="iteration", ylabel="FSC 0.5 with the truth (1/Å)", ylim=(0, None))
    axes.grid(True)
    axes.legend(loc="lower right")


def draw_errors(
    axes: Axes, ways: Mapping[str, Mapping[str, Any]], key: str, label: str, widest: float
) -> None:
    """Histograms of the errors of angles or shifts, as fractions of the particles per bin.

    The last bin holds all that is beyond, and may leave the panel.
    """
    highest = 0.0
    for name, way in ways.items():
        if key not in way:
            continue
        edges, counts = np.array(way[key]["edges"]), np.array(way[key]["counts"])
        part = counts / counts.sum()
        style = line_style(name) | {"label": f"{name}, median {way[key]['median']:.2f}"}
        axes.stairs(part, edges, **style)
        axes.set_xlim(0, edges[-1])
        highest = max(highest, float(part[:-1].max()))
    axes.axvline(widest, color=INK, linewidth=0.9, dashes=(2, 2), label=f"median wanted, {widest:g}")
    axes.set(ylim=(0, 1.1 * highest), xlabel=label, ylabel="fraction of the particles")
    axes.grid(True)
    axes.legend(loc="center right")
