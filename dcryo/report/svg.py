"""Plots as SVG that takes its colours and its font from the page.

They are drawn in the placeholder colours of ``THEME``; `to_svg` swaps them for CSS variables, so one drawing
serves light pages, dark pages and paper.
"""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

THEME = {
    "#100001": "--ink",
    "#100002": "--soft",
    "#100003": "--line",
    "#100011": "--blue",
    "#100012": "--orange",
    "#100013": "--green",
    "#100014": "--red",
    "#100015": "--violet",
    "#100016": "--grey",
}
INK, SOFT, LINE, BLUE, ORANGE, GREEN, RED, VIOLET, GREY = THEME

_ROUND_RESOLUTIONS = (
    100, 50, 30, 20, 15, 12, 10, 8, 7, 6, 5, 4.5, 4, 3.5, 3, 2.7, 2.5, 2.2, 2, 1.8, 1.5, 1.2, 1,
)  # fmt: skip


def picture_style(ink: str, soft: str, line: str) -> dict[str, Any]:
    """matplotlib's settings for fonts, spines and legends of all our pictures, in these colours."""
    return {
        "font.size": 9.5,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": soft,
        "axes.linewidth": 0.8,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "xtick.color": soft,
        "ytick.color": soft,
        "xtick.labelcolor": ink,
        "ytick.labelcolor": ink,
        "grid.color": line,
        "grid.linewidth": 0.7,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
    }


STYLE: Any = picture_style(INK, SOFT, LINE) | {"svg.fonttype": "none"}
"""For ``with mpl.rc_context(STYLE)`` or as a decorator of what draws."""

_NOT_INLINE = (
    r"(?<=<svg)(?:[^>]*?(?= viewBox))",  # name spaces, width and height: the page decides
    r"<defs>\s*<style.*?</style>\s*</defs>",  # it would style the whole page
    r"(?<=<g) id=\"[^\"]*\"",  # the same in every figure, and nothing refers to them
    r" ?font-family: [^;\"]*;?",
)


def new_plot(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure in the page's style; never through pyplot, which keeps global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(True)
    axes.set_axisbelow(True)
    return figure, axes


def resolution_ticks(end: float, start: float = 0.0) -> list[float]:
    """Round resolutions in Å whose frequencies, from ``start`` to ``end`` in 1/Å, are well apart."""
    ticks: list[float] = []
    for d in _ROUND_RESOLUTIONS:
        if start <= 1 / d <= end and (not ticks or 1 / d - 1 / ticks[-1] > (end - start) / 14):
            ticks.append(d)
    return ticks


def resolution_axis(axes: Axes, end: float) -> None:
    """Ticks in Å, kept apart from each other, along the top of a plot whose x axis is 1/Å up to ``end``."""
    ticks = resolution_ticks(end)
    top = axes.secondary_xaxis("top")
    top.xaxis.set_major_locator(FixedLocator([1 / d for d in ticks]))
    top.set_xticks([1 / d for d in ticks], [f"{d:g}" for d in ticks])
    top.set_xlabel("resolution (Å)")


def to_svg(figure: Figure, salt: str) -> str:
    """The figure as inline SVG: no size of its own, the page's colours and font, ids salted by ``salt``."""
    data = io.StringIO()
    FigureCanvasSVG(figure)
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": salt}):
        figure.savefig(data, format="svg", transparent=True, dpi=150, metadata=nothing)
    text = data.getvalue()
    text = text[text.index("<svg") :]
    for pattern in _NOT_INLINE:
        text = re.sub(pattern, "", text)
    text = text.replace("xlink:href", "href")
    for colour, variable in THEME.items():
        text = text.replace(colour, f"var({variable})")
    return text
