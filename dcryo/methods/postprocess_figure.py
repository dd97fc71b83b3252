"""The picture of a post-processing: FSC, Guinier plot, directions and local resolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dcryo.io.atomic import atomic_file
from dcryo.methods.postprocess_measure import THRESHOLD, Measured

BLUE, ORANGE, GREEN, RED, GREY = "#1f5fa8", "#d9730d", "#2f8f4e", "#b8352f", "#8a8f98"

_STYLE: Any = {
    "font.size": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "grid.color": "#e4e6ea",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


@mpl.rc_context(_STYLE)
def write_figure(path: Path, found: Measured) -> Path:
    """Draw what was measured as a PNG; panels of what was not are left out."""
    panels = [_fsc, _guinier]
    if found.directional is not None:
        panels.append(_directional)
    if found.local is not None:
        panels.append(_local)
    rows = (len(panels) + 1) // 2
    figure = Figure(figsize=(10, 4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for place, panel in enumerate(panels, 1):
        panel(figure.add_subplot(rows, 2, place), found)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
    return path


def _fsc(axes: Axes, found: Measured) -> None:
    fsc, final = found.fsc, found.resolution(found.fsc.corrected)
    axes.plot(found.frequency, fsc.corrected, color=BLUE, linewidth=2.2, label="corrected", zorder=4)
    axes.plot(found.frequency, fsc.masked, color=BLUE, linewidth=1, dashes=(4, 2), label="masked")
    axes.plot(found.frequency, fsc.unmasked, color=GREEN, linewidth=1.2, label="unmasked")
    if fsc.shell is not None:
        axes.plot(found.frequency, fsc.randomised, color=RED, linewidth=1, label="masked, phases randomised")
    axes.axhline(THRESHOLD, color=GREY, linewidth=0.8, dashes=(2, 2))
    axes.plot([1 / final], [THRESHOLD], "o", color=BLUE, markersize=5, zorder=5)
    axes.set_title(f"FSC of the half maps: {final:.2f} Å at 0.143", fontsize=10)
    _frame(axes, found, "Fourier shell correlation")


def _guinier(axes: Axes, found: Measured) -> None:
    sharpened, squared = found.sharpened, found.frequency**2
    for values, label, colour in (
        (sharpened.original, "original", GREY),
        (sharpened.weighted, "FSC-weighted", BLUE),
        (sharpened.sharpened, "sharpened", ORANGE),
    ):
        seen = values > 0
        axes.plot(squared[seen], np.log(values[seen]), color=colour, linewidth=1.4, label=label)
    title = f"Guinier plot: B = {sharpened.bfactor:.0f} Å²"
    if sharpened.fit is not None:
        seen = sharpened.weighted > 0
        line = sharpened.fit.slope * squared + sharpened.fit.intercept
        axes.plot(squared[seen], line[seen], color=RED, linewidth=1, dashes=(4, 2), label="fit")
        title += f" (r² = {sharpened.fit.correlation:.2f})"
    axes.set_title(title, fontsize=10)
    axes.set(
        xlabel="squared spatial frequency (1/Å²)", ylabel="ln of the mean amplitude", xlim=(0, squared[-1])
    )
    axes.legend()


def _directional(axes: Axes, found: Measured) -> None:
    assert found.directional is not None
    curves = found.directional.curves
    mean, spread = curves.mean(axis=0), curves.std(axis=0)
    outer = axes.fill_between(
        found.frequency, curves.min(axis=0), curves.max(axis=0), color=GREEN, alpha=0.15, linewidth=0
    )
    outer.set_label("least to most")
    inner = axes.fill_between(
        found.frequency, mean - spread, mean + spread, color=GREEN, alpha=0.35, linewidth=0
    )
    inner.set_label("mean ± standard deviation")
    axes.plot(found.frequency, found.fsc.corrected, color=BLUE, linewidth=1.6, label="FSC of whole shells")
    axes.axhline(THRESHOLD, color=GREY, linewidth=0.8, dashes=(2, 2))
    best, worst = found.directional.resolution.min(), found.directional.resolution.max()
    axes.set_title(f"FSC in cones of 20°: {best:.2f} to {worst:.2f} Å at 0.143", fontsize=10)
    _frame(axes, found, "FSC by direction")


def _local(axes: Axes, found: Measured) -> None:
    assert found.local is not None
    local = found.local.resolution
    inside = local[(found.mask > 0.5) & (local > 0)]
    axes.hist(inside, bins=60, color=BLUE, alpha=0.8)
    axes.set_title(f"Local resolution in the mask: median {np.median(inside):.2f} Å", fontsize=10)
    axes.set(xlabel="local resolution (Å)", ylabel="voxels")


def _frame(axes: Axes, found: Measured, label: str) -> None:
    axes.set(xlabel="spatial frequency (1/Å)", ylabel=label, xlim=(0, found.frequency[-1]), ylim=(-0.1, 1.02))
    axes.legend(loc="best")
