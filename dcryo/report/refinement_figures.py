"""Plots of a refinement: how maps and poses changed from iteration to iteration, and how sure poses are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from dcryo.report.figures import FloatArray
from dcryo.report.svg import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    SOFT,
    STYLE,
    new_plot,
    resolution_axis,
    resolution_ticks,
    to_svg,
)

# of one lightness, which both light and dark pages show
_COURSE = LinearSegmentedColormap.from_list("course", ["#d9822b", "#cc5680", "#8e66cf", "#2f86d0"])

_BINS = 40

_WIDE = 8.0
"""Uncertainties that reach so many medians are drawn on a logarithmic axis."""


@mpl.rc_context(STYLE)
def iteration_fsc_figure(frequency: FloatArray, fsc: FloatArray, looked: FloatArray) -> str:
    """SVG of the FSC by iteration, one colour each.

    ``frequency`` (S,) and ``looked`` (I,), how far the poses of the iteration looked, in 1/Å; ``fsc`` (I, S).
    """
    figure, axes = new_plot(4.9, 3.6)
    last = len(fsc)
    colours = _COURSE(np.linspace(0, 1, last)) if last > 1 else _COURSE([1.0])
    end = float(frequency[-1])
    for level, text in ((0.143, "0.143"), (0.5, "0.5")):
        axes.axhline(level, color=SOFT, linewidth=0.8, dashes=(2, 2))
        axes.text(end / 100, level + 0.015, text, color=SOFT, fontsize=8.5)
    for number, (curve, colour) in enumerate(zip(fsc, colours, strict=True), start=1):
        known = _measured(curve)
        width = 2.2 if number == last else 1.2
        axes.plot(frequency[known], curve[known], color=colour, linewidth=width, zorder=3 - number / last)
        at = looked[number - 1]
        if np.isfinite(at):
            value = np.interp(at, frequency[known], curve[known])
            axes.plot([at], [value], "o", color=colour, markersize=4, zorder=4)
    lowest = min((float(curve[_measured(curve)].min()) for curve in fsc), default=0.0)
    axes.set(xlim=(0, end), ylim=(max(-0.3, min(-0.05, lowest)), 1.02))
    axes.set(xlabel="spatial frequency (1/Å)", ylabel="Fourier shell correlation")
    resolution_axis(axes, end)
    if last > 1:
        bar = figure.colorbar(
            ScalarMappable(Normalize(1, last), _COURSE), ax=axes, fraction=0.035, pad=0.02, aspect=30
        )
        bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        bar.ax.yaxis.set_minor_locator(NullLocator())
        bar.set_label("iteration")
        bar.outline.set_visible(False)
    return to_svg(figure, "iteration-fsc")


@mpl.rc_context(STYLE)
def resolution_course_figure(
    iteration: FloatArray, resolutions: Mapping[str, FloatArray], looked: FloatArray, sampled: FloatArray
) -> str:
    """SVG of resolutions by iteration: at "0.143" and "0.5", how far poses looked, and what maps could show.

    All in Å (I,); drawn by frequency, finer detail higher up.
    """
    figure, axes = new_plot(4.9, 3.4)
    axes.plot(iteration, 1 / sampled, color=GREY, linewidth=1.2, dashes=(1, 1.5), label="limit of the maps")
    axes.plot(iteration, 1 / looked, color=ORANGE, marker="s", markersize=4, label="poses looked to")
    for (level, values), colour in zip(resolutions.items(), (BLUE, GREEN), strict=True):
        axes.plot(iteration, 1 / values, color=colour, marker="o", markersize=4, label=f"FSC = {level}")
    drawn = np.concatenate([1 / np.array([*resolutions.values(), looked, sampled]).ravel(), [0.0]])
    end = 1.05 * float(np.nanmax(drawn))
    ticks = resolution_ticks(end)
    axes.set(ylim=(0, end), ylabel="resolution (Å)")
    axes.set_yticks([1 / d for d in ticks], [f"{d:g}" for d in ticks])
    _iterations(axes, iteration)
    figure.legend(loc="outside lower center", ncols=2, handlelength=2.2, columnspacing=1.6)
    return to_svg(figure, "course")


@mpl.rc_context(STYLE)
def change_figure(iteration: FloatArray, curves: Mapping[str, FloatArray], quantity: str, salt: str) -> str:
    """SVG of changes and uncertainties by iteration, name -> (I,), on a logarithmic axis; 0 is left out.

    The name "uncertainty, median" is drawn dashed.
    """
    figure, axes = new_plot(4.9, 3.2)
    colours = iter((BLUE, ORANGE, GREEN))
    for name, values in curves.items():
        shown = np.where(values > 0, values, np.nan)
        style: dict[str, Any] = (
            {"color": GREY, "linewidth": 1.8, "dashes": (4, 2)}
            if name.startswith("uncertainty")
            else {"color": next(colours), "linewidth": 1.5, "marker": "o", "markersize": 4}
        )
        if np.isfinite(shown).any():
            axes.plot(iteration, shown, label=name, **style)
    axes.set(yscale="log", ylabel=quantity)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    _iterations(axes, iteration)
    if axes.lines:
        axes.legend(loc="upper right", handlelength=2.2)
    return to_svg(figure, salt)


@mpl.rc_context(STYLE)
def uncertainty_figure(values: FloatArray, label: str, salt: str, limit: float | None = None) -> str:
    """SVG of a histogram of positive uncertainties (P,); from ``limit`` on particles are lost.

    Logarithmic where they spread widely; else the last bin holds what is beyond the axis.
    """
    figure, axes = new_plot(4.9, 2.8)
    median = float(np.median(values))
    end = max(1.25 * float(np.quantile(values, 0.99)), 1.5 * median)
    if end > _WIDE * median:
        start, end = 0.8 * float(values[values > 0].min(initial=median)), 1.25 * float(values.max())
        edges = np.geomspace(start, end, _BINS + 1)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        edges = np.linspace(0, end, _BINS + 1)
    counts = np.histogram(np.clip(values, edges[0], end), edges)[0]
    axes.stairs(counts, edges, color=BLUE, fill=True, alpha=0.8)
    axes.axvline(median, color=ORANGE, linewidth=1.4, label=f"median {median:.2g}")
    if limit is not None and limit <= end:
        axes.axvline(limit, color=RED, linewidth=1.2, dashes=(2, 2), label=f"lost from {limit:g} on")
    axes.set(xlim=(edges[0], end), xlabel=label, ylabel="particles")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.legend(loc="upper right", handlelength=1.6)
    return to_svg(figure, salt)


def _measured(curve: FloatArray) -> FloatArray:
    """Shells of the map of an iteration: those beyond its band are NaN, and its last one is set to 0."""
    known = np.isfinite(curve)
    ends = np.flatnonzero(known & (curve != 0))
    known[int(ends[-1]) + 1 if len(ends) else 1 :] = False
    return known


def _iterations(axes: Axes, iteration: FloatArray) -> None:
    """Whole numbers along the x axis."""
    axes.set(xlabel="iteration", xlim=(0.5, float(iteration[-1]) + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
