"""Pictures of a run: sections as PNG, plots as SVG."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator
from numpy.typing import NDArray
from PIL import Image

from dcryo.report.svg import (
    BLUE,
    GREEN,
    GREY,
    INK,
    LINE,
    ORANGE,
    RED,
    SOFT,
    STYLE,
    VIOLET,
    new_plot,
    resolution_axis,
    to_svg,
)

FloatArray = NDArray[np.floating[Any]]

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
_CYCLE = (BLUE, ORANGE, GREEN, RED, VIOLET, INK)


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


@mpl.rc_context(STYLE)
def fsc_figure(curves: Mapping[str, FloatArray], resolution: float | None) -> str:
    """SVG of the curves of ``FSC_STYLES`` over ``curves["frequency"]`` (1/Å), ``resolution`` (Å) marked."""
    figure, axes = new_plot(6.0, 4.3)
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
    resolution_axis(axes, end)
    figure.legend(loc="outside lower center", ncols=2, handlelength=2.6, columnspacing=1.6)
    return to_svg(figure, "fsc")


@mpl.rc_context(STYLE)
def pose_figure(density: FloatArray) -> str:
    """SVG of a density of views (tilt, rot; 1 = even): both hemispheres from outside, areas true.

    Lambert's azimuthal projection about each pole; the discs meet where +x looks.
    """
    figure = Figure(figsize=(4.9, 3.4), layout="constrained")
    discs = figure.subplots(1, 2, subplot_kw={"projection": "polar"})
    rows, columns = density.shape
    top = max(2.0, float(np.ceil(density.max())))
    # values at the centres of bins, at the pole and on the equator, and the first column once more
    rot = (np.arange(columns + 1) + 0.5) * (2 * math.pi / columns) - math.pi
    tilt = np.concatenate([[0.0], (np.arange(rows // 2) + 0.5) * (math.pi / rows), [math.pi / 2]])
    equator = density[rows // 2 - 1 : rows // 2 + 1].mean(axis=0)
    for disc, half, turned in ((discs[0], density, 1), (discs[1], density[::-1], -1)):
        pole = np.full(columns, half[0].mean())
        values = np.concatenate([pole[None], half[: rows // 2], equator[None]])
        mesh = disc.pcolormesh(
            rot, np.sqrt(2) * np.sin(tilt / 2), np.concatenate([values, values[:, :1]], axis=1),
            cmap="cividis", norm=PowerNorm(0.5, 0, top), shading="gouraud", rasterized=True,
        )  # fmt: skip
        disc.set_theta_zero_location("E" if turned == 1 else "W")
        disc.set_theta_direction(turned)
        disc.set_thetagrids([0, 90, 180, 270], ["+x" if turned == -1 else "", "+y", "−x", "−y"])
        disc.tick_params(pad=-1)
        disc.set_rgrids(np.sqrt(2) * np.sin(np.radians([15, 30])), ["", ""])
        disc.grid(True, color=LINE, linewidth=0.5, alpha=0.6)
        disc.spines["polar"].set_color(LINE)
        disc.set_ylim(0, 1)
    discs[0].set_xlabel("seen along +z and to its sides")
    discs[1].set_xlabel("seen along −z and to its sides")
    bar = figure.colorbar(mesh, ax=discs, orientation="horizontal", fraction=0.06, pad=0.04, aspect=30)
    bar.set_ticks([value for value in (0, 0.25, 1, 2, 4, 8, 16, 32, 64) if value <= top])
    bar.ax.xaxis.set_major_formatter("{x:g}")
    bar.set_label("views, relative to an even spread")
    bar.outline.set_visible(False)
    return to_svg(figure, "poses")


@mpl.rc_context(STYLE)
def objective_figure(solves: Mapping[str, tuple[FloatArray, FloatArray]]) -> str:
    """SVG of the objective of each solve, name -> (iteration, objective), above its own lowest value.

    Values are divided by the drop of that solve, so that solves of different data share one axis.
    """
    figure, axes = new_plot(4.9, 3.2)
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
    return to_svg(figure, "objective")


@mpl.rc_context(STYLE)
def cross_validation_figure(
    weight: FloatArray, misfit: FloatArray, nonnegative: NDArray[Any], chosen: float | None
) -> str:
    """SVG of the misfit of one half's map on the other half against the weight of the prior."""
    lowest = float(np.nanmin(misfit))
    excess = 100 * (np.asarray(misfit, np.float64) - lowest) / abs(lowest)
    figure, axes = new_plot(4.9, 3.2)
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
    return to_svg(figure, "weights")
