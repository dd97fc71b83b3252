"""Pictures of a run: sections as PNG, plots as SVG that takes its colours and its font from the page.

Plots are drawn in the placeholder colours of ``THEME``; `_svg` swaps them for CSS variables, so one drawing
serves light pages, dark pages and paper.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator
from numpy.typing import NDArray
from PIL import Image

FloatArray = NDArray[np.floating[Any]]

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

SECTION_PIXELS = 256
"""Sections of larger maps are reduced to this width, which keeps the page light."""

FSC_STYLES: dict[str, tuple[str, dict[str, Any]]] = {
    "corrected": ("linear halves, mask-corrected", {"color": BLUE, "linewidth": 2.2, "zorder": 5}),
    "masked": ("linear halves, masked", {"color": BLUE, "linewidth": 1, "dashes": (4, 2)}),
    "unmasked": ("linear halves, no mask", {"color": GREEN, "linewidth": 1.2}),
    "randomised": ("phases randomised, masked", {"color": GREY, "linewidth": 1.2, "dashes": (1, 1.5)}),
    "regularised": ("regularised halves (inflated)", {"color": ORANGE, "linewidth": 1.6}),
    "truth": ("full map against the truth", {"color": VIOLET, "linewidth": 1.6}),
    "truth_linear": ("linear map against the truth", {"color": VIOLET, "linewidth": 1, "dashes": (4, 2)}),
}

_RESOLUTION_TICKS = (
    100,
    50,
    30,
    20,
    15,
    12,
    10,
    8,
    7,
    6,
    5,
    4.5,
    4,
    3.5,
    3,
    2.7,
    2.5,
    2.2,
    2,
    1.8,
    1.5,
    1.2,
    1,
)


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


_STYLE: Any = picture_style(INK, SOFT, LINE) | {"svg.fonttype": "none"}


def central_sections(volume: FloatArray) -> dict[str, FloatArray]:
    """The three sections through the centre n // 2 of a volume (z, y, x), named "xy", "xz" and "yz".

    The first letter runs to the right and the second one upwards once row 0 is drawn at the bottom.
    """
    c = volume.shape[0] // 2
    return {"xy": volume[c], "xz": volume[:, c], "yz": volume[:, :, c]}


def grey_limits(volume: FloatArray) -> tuple[float, float]:
    """Densities to draw as black and as white: percentiles 1 and 99.8 of the central sections."""
    values = np.concatenate([section.ravel() for section in central_sections(volume).values()])
    low, high = (float(v) for v in np.nanpercentile(values, (1.0, 99.8)))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def section_png(section: FloatArray, limits: tuple[float, float]) -> bytes:
    """A section (rows, columns) as an 8-bit grey PNG, row 0 at the bottom, ``limits`` black and white."""
    low, high = limits
    grey = np.clip((np.nan_to_num(section, nan=low) - low) / (high - low), 0, 1)[::-1]
    image = Image.fromarray(np.round(255 * grey).astype(np.uint8))
    if image.width > SECTION_PIXELS:
        height = max(1, round(image.height * SECTION_PIXELS / image.width))
        image = image.resize((SECTION_PIXELS, height), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return data.getvalue()


def scale_bar(width: float) -> float:
    """A round length (1, 2 or 5 times a power of ten) up to a third of ``width``, in Å."""
    decade = 10.0 ** math.floor(math.log10(width / 3))
    return next(decade * step for step in (5.0, 2.0, 1.0) if decade * step <= width / 3)


@mpl.rc_context(_STYLE)
def fsc_figure(curves: Mapping[str, FloatArray], resolution: float | None) -> str:
    """SVG of the curves of ``FSC_STYLES`` over ``curves["frequency"]`` (1/Å), ``resolution`` (Å) marked."""
    figure, axes = _figure(6.0, 4.3)
    frequency = np.asarray(curves["frequency"], np.float64)
    end = float(frequency[-1])
    for level, text in ((0.143, "0.143"), (0.5, "0.5")):
        axes.axhline(level, color=SOFT, linewidth=0.8, dashes=(2, 2))
        axes.text(end / 100, level + 0.015, text, color=SOFT, fontsize=8.5)
    lowest = 0.0
    for name, (label, style) in FSC_STYLES.items():
        if name in curves and np.isfinite(curves[name]).any():
            axes.plot(frequency, curves[name], label=label, **style)
            lowest = min(lowest, float(np.nanmin(curves[name])))
    if resolution is not None and np.isfinite(resolution):
        axes.plot([1 / resolution], [0.143], "o", color=BLUE, markersize=6, zorder=6)
        axes.plot([1 / resolution] * 2, [-0.1, 0.143], color=BLUE, linewidth=0.8, dashes=(2, 2))
    axes.set(xlim=(0, end), ylim=(max(-0.3, min(-0.05, lowest)), 1.02))
    axes.set(xlabel="spatial frequency (1/Å)", ylabel="Fourier shell correlation")
    _resolution_axis(axes, end)
    figure.legend(loc="outside lower center", ncols=2, handlelength=2.6, columnspacing=1.6)
    return _svg(figure, "fsc")


@mpl.rc_context(_STYLE)
def pose_figure(density: FloatArray) -> str:
    """SVG of a density of views (tilt, rot; 1 = even) in Mollweide's projection, which keeps areas."""
    figure = Figure(figsize=(4.9, 3.0), layout="constrained")
    axes = figure.add_subplot(projection="mollweide")
    rows, columns = density.shape
    longitude = np.linspace(-math.pi, math.pi, columns + 1)
    latitude = np.linspace(math.pi / 2, -math.pi / 2, rows + 1)
    top = max(2.0, float(np.ceil(density.max())))
    mesh = axes.pcolormesh(longitude, latitude, density, cmap="cividis", vmin=0, vmax=top, rasterized=True)
    axes.grid(True, color=LINE, linewidth=0.5, alpha=0.5)
    axes.set_xticks(np.radians([-120, -60, 0, 60, 120]), [""] * 5)
    axes.set_yticks(np.radians([-60, -30, 0, 30, 60]), ["150°", "120°", "tilt 90°", "60°", "30°"])
    bar = figure.colorbar(mesh, ax=axes, orientation="horizontal", fraction=0.06, pad=0.06, aspect=30)
    bar.set_label("views, relative to an even spread")
    bar.outline.set_visible(False)
    return _svg(figure, "poses")


@mpl.rc_context(_STYLE)
def objective_figure(solves: Mapping[str, tuple[FloatArray, FloatArray]]) -> str:
    """SVG of the objective of each solve, name -> (iteration, objective), above its own lowest value.

    Values are divided by the drop of that solve, so that solves of different data share one axis.
    """
    figure, axes = _figure(4.9, 3.2)
    colours = dict(zip(("full", "half1", "half2", "linear", "linear1", "linear2"), _CYCLE, strict=True))
    other = "search for the weight"
    for name, (iteration, objective) in solves.items():
        low, high = float(np.nanmin(objective)), float(np.nanmax(objective))
        if not high > low:
            continue
        excess = (np.asarray(objective, np.float64) - low) / (high - low)
        excess[excess <= 0] = np.nan
        if name in colours:
            axes.semilogy(iteration, excess, label=name, color=colours[name], linewidth=1.5, zorder=3)
        else:
            axes.semilogy(iteration, excess, label=other, color=GREY, linewidth=0.8)
            other = "_no label"
    axes.set(xlabel="iteration", ylabel="objective above its lowest")
    if not axes.lines:
        axes.set(ylim=(1e-3, 1), yscale="log")
    axes.yaxis.set_major_locator(LogLocator(numticks=6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlim(left=0)
    if axes.lines:
        axes.legend(loc="upper right", ncols=2, handlelength=1.4)
    return _svg(figure, "objective")


@mpl.rc_context(_STYLE)
def cross_validation_figure(
    weight: FloatArray, misfit: FloatArray, nonnegative: NDArray[Any], chosen: float | None
) -> str:
    """SVG of the misfit of one half's map on the other half against the weight of the prior."""
    lowest = float(np.nanmin(misfit))
    excess = 100 * (np.asarray(misfit, np.float64) - lowest) / abs(lowest)
    figure, axes = _figure(4.9, 3.2)
    for flag, label, style in (
        (True, "nonnegative", {"color": BLUE, "marker": "o"}),
        (False, "any sign", {"color": ORANGE, "marker": "s"}),
    ):
        rows = np.flatnonzero((np.asarray(nonnegative) != 0) == flag)
        rows = rows[np.argsort(weight[rows])]
        if len(rows):
            axes.semilogx(weight[rows], excess[rows], label=label, linewidth=1.5, markersize=4, **style)
    if chosen is not None and chosen > 0:
        axes.axvline(chosen, color=SOFT, linewidth=0.9, dashes=(2, 2), label="chosen")
    axes.set(xlabel="weight of the prior", ylabel="misfit above the lowest (%)")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(handlelength=1.8)
    return _svg(figure, "weights")


_NOT_INLINE = (
    r"(?<=<svg)(?:[^>]*?(?= viewBox))",  # name spaces, width and height: the page decides
    r"<defs>\s*<style.*?</style>\s*</defs>",  # it would style the whole page
    r"(?<=<g) id=\"[^\"]*\"",  # the same in every figure, and nothing refers to them
    r" ?font-family: [^;\"]*;?",
)
_CYCLE = (BLUE, ORANGE, GREEN, RED, VIOLET, INK)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure in the page's style; never through pyplot, which keeps global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(True)
    axes.set_axisbelow(True)
    return figure, axes


def _resolution_axis(axes: Axes, end: float) -> None:
    """Ticks in Å, kept apart from each other, along the top of a plot whose x axis is 1/Å up to ``end``."""
    ticks: list[float] = []
    for d in _RESOLUTION_TICKS:
        if 1 / d <= end and (not ticks or 1 / d - 1 / ticks[-1] > end / 14):
            ticks.append(d)
    top = axes.secondary_xaxis("top")
    top.xaxis.set_major_locator(FixedLocator([1 / d for d in ticks]))
    top.set_xticks([1 / d for d in ticks], [f"{d:g}" for d in ticks])
    top.set_xlabel("resolution (Å)")


def _svg(figure: Figure, salt: str) -> str:
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
