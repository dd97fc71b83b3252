"""How our pictures look: PNG by matplotlib's objects, never through pyplot's state."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from dcryo.report.figures import section_png
from dcryo.report.svg import picture_style

INK, SOFT, LINE = "#1b2530", "#5c6b7a", "#dfe4ea"
BLUE, ORANGE, GREEN, RED, VIOLET, GREY = "#2463ae", "#d2691e", "#2b8a5b", "#c0392b", "#7b4fb0", "#98a2ad"
CYCLE = (BLUE, ORANGE, GREEN, VIOLET, RED, GREY)
"""The colours of the report's light page, in the order they are given out."""

STYLE: Any = picture_style(INK, SOFT, LINE) | {"axes.titlesize": 10, "axes.axisbelow": True}
"""For ``with mpl.rc_context(STYLE)`` or as a decorator of ``draw``."""

DPI = 200


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this many inches that lays itself out; make it inside ``rc_context(STYLE)``."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, whatever the ending of ``path``."""
    figure.savefig(path, format="png", dpi=DPI, metadata={"Software": None})


def encode_section(section: NDArray[np.floating[Any]], limits: tuple[float, float]) -> str:
    """A section (rows, columns) of a volume as text for the JSON: the base64 of an 8-bit grey PNG.

    ``limits`` are black and white; row 0 is at the bottom, and sections above 256 pixels are reduced to that.
    """
    return base64.b64encode(section_png(section, limits)).decode("ascii")


def show_section(axes: Axes, text: str, extent: float) -> None:
    """Draw what :func:`encode_section` made, ``extent`` wide in the units of the axes, about their origin."""
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
    half = extent / 2
    frame = (-half, half, -half, half)
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=frame, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


__all__ = [
    "BLUE", "CYCLE", "DPI", "GREEN", "GREY", "INK", "LINE", "ORANGE", "RED", "SOFT", "STYLE", "VIOLET",
    "encode_section", "mpl", "new_figure", "save", "show_section",
]  # fmt: skip
