"""Table 4.1 of the thesis: what H, Hᵀ and HᵀH cost, and what the convolution that stands for HᵀH saves.

The thesis' seconds are from MATLAB on other hardware and without a CTF; here every view has a CTF,
astigmatism and a shift.  Its factor of 318 is against its own direct product.  A direct product takes a
second today, and that is what the convolution has to beat: the factor against our own H is the one that is
checked, the thesis' seconds are shown beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from dcryo.bench.timed_views import Problem, make_problem
from dcryo.bench.timing import ONE_THREAD, cpu_seconds
from dcryo.figures.experiment import Check, Outcome, Setting
from dcryo.operators.normal import Convolution
from dcryo.report.plot import BLUE, GREY, INK, ORANGE, SOFT, STYLE, mpl, new_figure, save

TITLE = "Seconds for a projection, its adjoint, and their product with and without the convolution"
SOURCE = "Table 4.1: Hc 127.70 s, Hᵀb 132.08 s, HᵀHc 257.41 s, by convolution 0.81 s; 500 views of 128³"

THESIS_BOX, THESIS_VIEWS = 128, 500
THESIS = {"Hc": 127.70, "Hᵀb": 132.08, "HᵀHc, direct": 257.41, "kernel": 118.07, "HᵀHc, convolution": 0.81}
"""Seconds of the thesis' case (the kernel in the caption of the table)."""

SOLVE = 100
"""Products in an iterative solve, a round number."""


@dataclass(frozen=True)
class Parameters:
    """What is timed, and what the checks want.

    Attributes
    ----------
    box, views : int
        Voxels, and number of projections.
    counts : tuple of int
        Numbers of projections that everything is timed for, to show what grows; ``views`` is one of them.
    rounds : int
        How often each call is timed.
    largest_error, slowest_seconds, least_gain, latest_break_even
        What the checks want.
    """

    box: int
    views: int
    counts: tuple[int, ...]
    rounds: int
    largest_error: float = 1e-3
    slowest_seconds: float = 0.8
    least_gain: float = 3.0
    latest_break_even: int = 10


SMALL = Parameters(box=64, views=200, counts=(50, 100, 200, 400), rounds=5)
FULL = Parameters(box=THESIS_BOX, views=THESIS_VIEWS, counts=(125, 250, 500, 1000), rounds=5)


def run(setting: Setting) -> Outcome:
    """Time the five operations of the table, the product over the number of views, and its error."""
    p = FULL if setting.full else SMALL
    setting.progress.start("timing", len(p.counts))
    everything = make_problem(p.box, max(p.counts), setting.seed)
    timings = {}
    for count in p.counts:
        timings[count] = cpu_seconds(_operations(everything.first(count)), p.rounds)
        setting.progress.advance()
    problem, seconds = everything.first(p.views), timings[p.views]
    direct, fast = seconds["HᵀHc, direct"], seconds["HᵀHc, convolution"]
    at_thesis_box = fast
    if p.box != THESIS_BOX:  # few views make the kernel: the time of the product does not depend on them
        product = _convolution(make_problem(THESIS_BOX, 4))
        at_thesis_box = cpu_seconds({"product": product}, p.rounds)["product"]
    numbers: dict[str, Any] = {
        "parameters": asdict(p),
        "seconds": seconds,
        "thesis_seconds": THESIS,
        "thesis_box": THESIS_BOX,
        "thesis_views": THESIS_VIEWS,
        "convolution_at_thesis_box_seconds": at_thesis_box,
        "by_views": {"views": p.counts}
        | {name: [timings[count][name] for count in p.counts] for name in seconds},
        "gain": direct / fast,
        "gain_in_a_solve": SOLVE * direct / (seconds["kernel"] + SOLVE * fast),
        "break_even": math.ceil(seconds["kernel"] / (direct - fast)) if direct > fast else math.inf,
        "error": problem.without_ctf().error(),
        "error_with_ctf": problem.error(),
    }
    return Outcome(numbers, _checks(p, numbers), _shown(numbers))


def _operations(problem: Problem) -> dict[str, Callable[[], object]]:
    """What the table times, by its names in :data:`THESIS`."""
    return {
        "Hc": problem.project,
        "Hᵀb": partial(problem.backproject, problem.images),
        "HᵀHc, direct": problem.product,
        "kernel": problem.spectrum,
        "HᵀHc, convolution": _convolution(problem),
    }


def _convolution(problem: Problem) -> Callable[[], object]:
    """HᵀHc by convolution, its kernel made before."""
    return partial(Convolution(problem.spectrum(), problem.box, ONE_THREAD), problem.volume)


def _checks(p: Parameters, numbers: Mapping[str, Any]) -> tuple[Check, ...]:
    case = f"{p.box}³, {p.views} views"
    error, product, gain, even = (
        numbers[key] for key in ("error", "convolution_at_thesis_box_seconds", "gain", "break_even")
    )
    return (
        Check(
            "error of the convolution against HᵀHc, no CTF, where the object is",
            error <= p.largest_error,
            f"{error:.1e}",
            f"at most {p.largest_error:.0e}",
        ),
        Check(
            f"convolution at {THESIS_BOX}³, CPU seconds",
            product <= p.slowest_seconds,
            f"{product:.3f} s",
            f"at most {p.slowest_seconds} s; thesis 0.81 s",
        ),
        Check(
            f"direct HᵀHc over the convolution, our own H, {case}",
            gain >= p.least_gain,
            f"{gain:.1f}×",
            f"at least {p.least_gain:g}×",
        ),
        Check(
            f"products after which the kernel has paid for itself, {case}",
            even <= p.latest_break_even,
            f"{even}",
            f"at most {p.latest_break_even}; a solve makes about {SOLVE}",
        ),
    )


def _shown(numbers: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    box, views = numbers["parameters"]["box"], numbers["parameters"]["views"]
    lines = [
        (name, f"{value:.3f} CPU s at {box}³, {views} views; thesis, 128³, 500 views: {THESIS[name]:.2f} s")
        for name, value in numbers["seconds"].items()
    ]
    own = THESIS["HᵀHc, direct"] / THESIS["HᵀHc, convolution"]
    across = THESIS["HᵀHc, direct"] / numbers["convolution_at_thesis_box_seconds"]
    return (
        *lines,
        (f"{SOLVE} products", f"{numbers['gain_in_a_solve']:.1f}× faster by convolution, kernel included"),
        ("error with a CTF", f"{numbers['error_with_ctf']:.1e}: what the CTF carries over the images' edges"),
        ("the thesis' factor", f"{own:.0f}×, its direct product over its convolution"),
        ("across", f"{across:.0f}×, the thesis' direct product over our convolution: other hardware, MATLAB"),
    )


@mpl.rc_context(STYLE)
def draw(numbers: Mapping[str, Any], path: Path) -> None:
    """Three panels: the table, the product over the number of views, and a solve over its products."""
    figure = new_figure(11.0, 3.5)
    table, growth, solve = figure.subplots(1, 3, width_ratios=(1.2, 1, 1))
    _draw_table(table, numbers)
    _draw_growth(growth, numbers)
    _draw_solve(solve, numbers)
    save(figure, path)


def _draw_table(axes: Axes, numbers: Mapping[str, Any]) -> None:
    p, names = numbers["parameters"], list(numbers["seconds"])
    rows = np.arange(len(names))[::-1]
    ours, theirs = (p["box"], p["views"]), (numbers["thesis_box"], numbers["thesis_views"])
    same = ours == theirs
    for seconds, colour, label in (
        (numbers["seconds"], BLUE, "dcryo, {}³, {} views".format(*ours)),
        (numbers["thesis_seconds"], GREY, "thesis, {}³, {} views".format(*theirs)),
    ):
        values = [seconds[name] for name in names]
        # open where it is another case, which no reader should divide by
        face = colour if same or colour == BLUE else "white"
        axes.plot(values, rows, "o", color=colour, markerfacecolor=face, markersize=7, label=label)
        for row, value in zip(rows, values, strict=True):
            text = f"{value:.2g}" if value < 10 else f"{value:.0f}"
            axes.text(value, row + 0.2, text, ha="center", fontsize=8, color=INK)
    low = min(numbers["seconds"].values())
    axes.set(xscale="log", xlim=(low / 2.5, 1e3), ylim=(-0.5, len(names) - 0.3), xlabel="seconds")
    axes.set_yticks(rows, names)
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="x")
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=2)
    axes.set_title("a   the table", loc="left")


def _draw_growth(axes: Axes, numbers: Mapping[str, Any]) -> None:
    by_views = numbers["by_views"]
    views = by_views["views"]
    axes.plot(views, by_views["HᵀHc, direct"], "o-", color=ORANGE, label="direct")
    axes.plot(views, by_views["kernel"], "s--", color=SOFT, markersize=4, label="kernel, once")
    axes.plot(views, by_views["HᵀHc, convolution"], "o-", color=BLUE, label="convolution")
    axes.set(xlabel="views", ylabel="CPU seconds", xlim=(0, None), ylim=(0, None))
    axes.grid(True)
    axes.legend(loc="upper left")
    axes.set_title(f"b   one product at {numbers['parameters']['box']}³", loc="left")


def _draw_solve(axes: Axes, numbers: Mapping[str, Any]) -> None:
    seconds = numbers["seconds"]
    products = np.geomspace(1, SOLVE, 60)
    total = seconds["kernel"] + products * seconds["HᵀHc, convolution"]
    axes.loglog(products, products * seconds["HᵀHc, direct"], color=ORANGE, label="direct")
    axes.loglog(products, total, color=BLUE, label="kernel and convolution")
    axes.set(xlabel="products in a solve", ylabel="CPU seconds", xlim=(1, SOLVE))
    axes.set_xticks((1, 10, SOLVE), ("1", "10", str(SOLVE)))
    axes.grid(True)
    axes.legend(loc="upper left")
    axes.set_title(f"c   a solve: {numbers['gain_in_a_solve']:.1f}× less in the end", loc="left")
