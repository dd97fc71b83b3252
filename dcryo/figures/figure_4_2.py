"""Figure 4.2 of the thesis: what coarse voxels make of wrong angles and of few class averages.

Views with wrong orientations are sorted into classes by their directions and averaged, as projection
matching does, and maps are made of the averages at the scales 1 to 4.  (a) The resolution of a coarse map
loses less as the angles get worse.  (b) More classes give more resolution, and with the fewest all scales are
alike.

The weight of total variation is chosen as ``dcryo reconstruct`` chooses it: by cross-validation between class
averages of the two half sets, which does not know the truth.  What the thesis did, the best of five powers of
ten by the FSC against the truth, is measured beside it and named so.

Resolution is where the FSC against the truth falls to 0.5, and no map has a finer one than its voxels allow.
How much of (a) is that limit and how much is robustness shows in the band that all scales share.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from dcryo.figures.class_averages import Halves, assigned, averaged, turned
from dcryo.figures.experiment import Check, Outcome, Setting
from dcryo.figures.simulation import model_in_box, simulated
from dcryo.geometry.rotations import quaternion_to_matrix
from dcryo.imaging.basis import BandLimited
from dcryo.imaging.mapping import sample_map
from dcryo.io.particle_store import ParticleStore
from dcryo.methods.measure import FSC_EDGE, TRUTH_RADIUS
from dcryo.methods.regularise import MapProblem, solve_map
from dcryo.methods.simulate import SimulateConfig
from dcryo.methods.weight import choose_weight
from dcryo.metrics.fsc import fsc_curve, resolution, soft_ball
from dcryo.operators.normal import NormalEquations
from dcryo.report.plot import (
    CYCLE,
    INK,
    SOFT,
    STYLE,
    encode_section,
    mpl,
    new_figure,
    save,
    show_section,
)
from dcryo.solvers.stopping import iterations, objective_gap

Float32 = NDArray[np.float32]

TITLE = "Scale of the basis function against wrong angles and few class averages"
SOURCE = "Figure 4.2: 20,000 views of 128³ in 11 to 99 classes, s = 1 to 4; curves, no numbers"

TAKES_ATOMS = True

PHANTOM = "protein"
"""Of ``dcryo simulate``; without symmetry, as that of a beta-galactosidase is not imposed in the thesis."""

FIELD = 281.6
"""Width of the box in Å, 128 of 2.2 Å; with --atoms the model decides."""


@dataclass(frozen=True)
class Parameters:
    """What is simulated, averaged and solved.

    Attributes
    ----------
    box, views, classes : int
        Of (a).
    half_widths_deg : tuple of float
        The error of every Euler angle is uniform between minus and plus this, in degrees.
    few_box : int
        Box of (b).
    few_classes : tuple of int
        Numbers of classes of (b), ascending; the first is that for which all scales are compared.
    few_half_width_deg, few_scale : float, int
        Error of the angles in (b), and the scale at which numbers of classes are compared.
    scales : tuple of int
        Voxels per pixel, fine to coarse.
    snr : float
        Variance of a view over that of its noise.
    weights : tuple of float
        Weights of total variation of which the one best by the truth is reported.
    iterations, tolerance
        Of a solve, as in ``dcryo reconstruct``.
    largest_spread : float
        What (b) allows between the scales, of the finest resolution.
    """

    box: int
    views: int
    classes: int
    half_widths_deg: tuple[float, ...]
    few_box: int = 128
    few_classes: tuple[int, ...] = (11, 31, 59, 99)
    few_half_width_deg: float = 6.81
    few_scale: int = 3
    scales: tuple[int, ...] = (1, 2, 3, 4)
    snr: float = 1.0
    weights: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0)
    iterations: int = 100
    tolerance: float = 1e-3
    largest_spread: float = 0.1


SMALL = Parameters(box=48, views=2000, classes=40, half_widths_deg=(0, 6.81, 13.62, 20.43))
FULL = Parameters(
    box=128, views=20_000, classes=80, half_widths_deg=(0, 6.81, 10.21, 13.62, 17.02, 20.43, 23.83, 27.24)
)


def run(setting: Setting) -> Outcome:
    """Average and reconstruct at every error of the angles, then at every number of classes."""
    p = FULL if setting.full else SMALL
    views = make_views(p, p.box, setting)
    more = views if p.few_box == p.box else make_views(p, p.few_box, setting)
    robustness, few = _robustness(views), _few_classes(more, p.few_classes)
    # In a smaller box, that of (a), (b) finds the limits of coarse voxels; said, not checked.
    smaller = _few_classes(views, p.few_classes[:1]) if p.box < p.few_box else None
    numbers: dict[str, Any] = {
        "parameters": asdict(p),
        "specimen": setting.atoms or f"phantom {PHANTOM}",
        "robustness": robustness,
        "few": few,
        "few_in_smaller_box": smaller,
    }
    return Outcome(numbers, checks(p, robustness, few), _shown(p, numbers))


def variance(half_width: float) -> float:
    """Variance of what is uniform between minus and plus ``half_width``, in its unit squared."""
    return half_width**2 / 3


@dataclass(frozen=True)
class Views:
    """Simulated views in one box, their truth, and how their class averages are solved."""

    p: Parameters
    setting: Setting
    store: ParticleStore
    truth: Float32

    @property
    def box(self) -> int:
        """Pixels."""
        return self.store.box

    @property
    def frequency(self) -> NDArray[np.float64]:
        """Of the shells, 1/Å."""
        return np.arange(self.box // 2 + 1) / (self.box * self.store.pixel_size)

    def averaged(self, half_widths_deg: Sequence[float], counts: Sequence[int]) -> list[Halves]:
        """Class averages of both half sets for pairs of an error of the angles and a number of classes."""
        jobs = [(math.radians(width), count) for width, count in zip(half_widths_deg, counts, strict=True)]
        return averaged(self.store, jobs, self.setting.seed, self.setting.threads, self.setting.progress)

    def band(self, scale: int) -> int:
        """The last shell that a map of this scale holds."""
        return (round(self.box / scale) - 1) // 2

    def equations(self, halves: Halves, scale: int) -> tuple[NormalEquations, NormalEquations]:
        """Normal equations of the averages of both half sets."""
        one, two = (half.equations(self.store.pixel_size, scale, self.setting.threads) for half in halves)
        return one, two

    def weight(self, equations: tuple[NormalEquations, NormalEquations]) -> float:
        """Weight of total variation by cross-validation between the half sets."""
        one, two = (MapProblem(half, self.setting.threads) for half in equations)
        return choose_weight(one, two, self.p.iterations, self.p.tolerance, nonnegative=False).weight

    def compared(self, equations: tuple[NormalEquations, NormalEquations], weight: float) -> dict[str, Any]:
        """The map of all views against the truth, in the ball of ``dcryo reconstruct``."""
        one, two = equations
        problem = MapProblem(one + two, self.setting.threads)
        stop = iterations(self.p.iterations) | objective_gap(self.p.tolerance)
        volume = sample_map(solve_map(problem, weight, False, stop).coefficients, BandLimited(), self.box)
        ball = soft_ball(self.box, TRUTH_RADIUS * self.box, FSC_EDGE)
        curve = fsc_curve(volume * ball, self.truth * ball)
        curve[(one.n - 1) // 2 + 1 :] = 0  # what the ball spills there is no map's
        return {
            "weight": weight,
            "fsc": curve,
            "resolution_A": resolution(curve, 0.5, self.box, self.store.pixel_size),
            "common_band_fsc": float(np.mean(curve[1 : self.band(max(self.p.scales)) + 1])),
        }


def make_views(p: Parameters, box: int, setting: Setting) -> Views:
    """Views without CTF in a box, of the phantom or of the model of the setting."""
    config = SimulateConfig(phantom=PHANTOM, box=box, pixel_size=FIELD / box, particles=p.views, snr=p.snr)
    config = replace(config, defocus=None, max_shift=0.0)
    model = None if setting.atoms is None else model_in_box(setting.atoms, box, "C1")
    store = simulated(setting, config, model)
    truth = store.truth()
    assert truth is not None  # a simulated store has one
    return Views(p, setting, store, truth)


def _robustness(views: Views) -> dict[str, Any]:
    """(a): every error of the angles at every scale."""
    p, progress = views.p, views.setting.progress
    halves = views.averaged(p.half_widths_deg, [p.classes] * len(p.half_widths_deg))
    progress.start("maps of (a)", len(halves) * len(p.scales))
    levels: list[dict[str, Any]] = []
    for width, pair in zip(p.half_widths_deg, halves, strict=True):
        scales = []
        for s in p.scales:
            equations = views.equations(pair, s)
            grid = [views.compared(equations, weight) for weight in p.weights]
            best = min(grid, key=lambda entry: entry["resolution_A"])
            chosen = views.compared(equations, views.weight(equations))
            best = {key: best[key] for key in ("weight", "resolution_A")}
            scales.append({"scale": s, **chosen, "best_by_truth": best})
            progress.advance()
        levels.append({"half_width_deg": width, "variance_deg2": variance(width), "scales": scales})
    return {
        "pixel_size_A": views.store.pixel_size,
        "frequency": views.frequency,
        "common_band": views.band(max(p.scales)),
        "levels": levels,
        "slopes": slopes(levels, lambda entry: entry["resolution_A"]),
        "slopes_best_by_truth": slopes(levels, lambda entry: entry["best_by_truth"]["resolution_A"]),
        "images": _pictures(views.store, halves),
    }


def slopes(levels: Sequence[Mapping[str, Any]], of: Callable[[Mapping[str, Any]], float]) -> list[float]:
    """Resolution lost per variance of the angles [Å/deg²] at every scale: the slope of a straight line."""
    variances = [level["variance_deg2"] for level in levels]
    lost = np.array([[of(entry) for entry in level["scales"]] for level in levels])
    return [float(slope) for slope in np.polyfit(variances, lost, 1)[0]]


def _few_classes(views: Views, counts: Sequence[int]) -> dict[str, Any]:
    """(b): every number of classes at one scale, and the fewest at every scale, with one weight for them."""
    p, progress = views.p, views.setting.progress
    halves = views.averaged([p.few_half_width_deg] * len(counts), counts)
    progress.start("maps of (b)", len(counts) + len(p.scales) - 1)
    by_classes: list[dict[str, Any]] = []
    for count, pair in zip(counts, halves, strict=True):
        equations = views.equations(pair, p.few_scale)
        by_classes.append({"classes": count, **views.compared(equations, views.weight(equations))})
        progress.advance()
    by_scale: list[dict[str, Any]] = []
    for s in p.scales:
        fewest = by_classes[0]
        if s != p.few_scale:
            fewest = views.compared(views.equations(halves[0], s), fewest["weight"])
            progress.advance()
        by_scale.append({**fewest, "scale": s})
    found = [entry["resolution_A"] for entry in by_scale]
    return {
        "box": views.box,
        "pixel_size_A": views.store.pixel_size,
        "variance_deg2": variance(p.few_half_width_deg),
        "frequency": views.frequency,
        "by_classes": by_classes,
        "by_scale": by_scale,
        "spread": max(found) / min(found) - 1,
    }


def _pictures(store: ParticleStore, halves: list[Halves]) -> dict[str, Any]:
    """The first view, and the average of its class at every error of the angles."""
    rotation = quaternion_to_matrix(store.particles(0, 1).rotation)
    (index,), (angle,) = assigned(rotation, halves[0][0].poses)
    count = [int(one.counts[index] + two.counts[index]) for one, two in halves]
    averages = [
        (one.sums[index] + two.sums[index]) / max(views, 1)
        for (one, two), views in zip(halves, count, strict=True)
    ]
    view = turned(store.images(0, 1)[0], float(angle))
    return {
        "view": encode_section(view, _limits(view)),
        "averages": [encode_section(average, _limits(averages)) for average in averages],
        "counts": count,
    }


def _limits(images: Any) -> tuple[float, float]:
    """Black and white for images."""
    low, high = np.percentile(images, (1, 99.8))
    return float(low), float(high)


def checks(p: Parameters, robustness: Mapping[str, Any], few: Mapping[str, Any]) -> tuple[Check, ...]:
    """What the figure must show."""
    slope = dict(zip(p.scales, robustness["slopes"], strict=True))
    coarse = [s for s in p.scales if s >= 3]
    numbers = [entry["classes"] for entry in few["by_classes"]]
    found = [entry["resolution_A"] for entry in few["by_classes"]]
    return (
        Check(
            "(a) resolution lost per variance of the angles, " + ", ".join(f"s={s}" for s in p.scales),
            all(slope[s] < slope[1] for s in coarse),
            ", ".join(f"{slope[s]:.3f}" for s in p.scales) + " Å/deg²",
            "less at s=" + " and ".join(map(str, coarse)) + " than at s=1",
        ),
        Check(
            f"(b) resolution at s={p.few_scale} from {', '.join(map(str, numbers))} classes",
            all(more < fewer for fewer, more in itertools.pairwise(found)),
            ", ".join(f"{value:.2f}" for value in found) + " Å",
            "finer with every number",
        ),
        Check(
            f"(b) spread of the resolution from {numbers[0]} classes over s={', '.join(map(str, p.scales))}",
            few["spread"] <= p.largest_spread,
            f"{few['spread']:.1%}",
            f"at most {p.largest_spread:.0%}",
        ),
    )


def _shown(p: Parameters, numbers: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    robustness, few, smaller = (numbers[key] for key in ("robustness", "few", "few_in_smaller_box"))
    levels, fewest = robustness["levels"], p.few_classes[0]
    widest = max(level["variance_deg2"] for level in levels)

    def course(of: Callable[[Mapping[str, Any]], float], digits: int, k: int) -> str:
        return ", ".join(f"{of(level['scales'][k]):.{digits}f}" for level in levels)

    lines = []
    for k, s in enumerate(p.scales):
        found = course(lambda entry: entry["resolution_A"], 2, k)
        best = course(lambda entry: entry["best_by_truth"]["resolution_A"], 2, k)
        band = course(lambda entry: entry["common_band_fsc"], 3, k)
        lines += [
            (
                f"(a) s = {s}, variance 0 to {widest:.0f} deg²",
                f"{found} Å; weight best by the truth {best} Å",
            ),
            (f"    mean FSC up to shell {robustness['common_band']}", band),
        ]
    parts = {"": few} | ({", where voxels are the limit": smaller} if smaller else {})
    for remark, part in parts.items():
        name = f"(b) every scale from {fewest} classes at {part['box']}³{remark}"
        lines.append((name, ", ".join(f"{entry['resolution_A']:.2f}" for entry in part["by_scale"]) + " Å"))
    return tuple(lines)


@mpl.rc_context(STYLE)
def draw(numbers: Mapping[str, Any], path: Path) -> None:
    """Class averages, (a) and the curves behind it, and the FSC curves of (b)."""
    p, robustness, few = (numbers[key] for key in ("parameters", "robustness", "few"))
    figure = new_figure(10.0, 8.2)
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.25, 5.2))
    top, bottom = parts
    _draw_images(top.subplots(1, 1 + len(robustness["levels"])), p, robustness)
    (loss, behind), (classes, scales) = bottom.subplots(2, 2)
    _draw_loss(loss, robustness)
    loss.set_title(f"a   {p['classes']} classes, wrong angles", loc="left")
    first, last = robustness["levels"][0], robustness["levels"][-1]
    for level, style in ((first, {"linewidth": 1.0, "dashes": (3, 2)}), (last, {"linewidth": 1.8})):
        _draw_curves(behind, robustness["frequency"], [entry["fsc"] for entry in level["scales"]], **style)
        behind.plot([], [], color=INK, label=f"±{level['half_width_deg']:g}°", **style)
    behind.set_title("a′   the curves behind it", loc="left")
    curves = [entry["fsc"] for entry in few["by_classes"]]
    _draw_curves(
        classes, few["frequency"], curves, [f"n = {entry['classes']}" for entry in few["by_classes"]]
    )
    classes.set_title(f"b   s = {p['few_scale']}, n classes, ±{p['few_half_width_deg']:g}°", loc="left")
    curves = [entry["fsc"] for entry in few["by_scale"]]
    _draw_curves(scales, few["frequency"], curves, [f"s = {entry['scale']}" for entry in few["by_scale"]])
    scales.set_title(f"b′   {p['few_classes'][0]} classes at every scale", loc="left")
    for axes, place in ((behind, "upper right"), (classes, "lower left"), (scales, "upper right")):
        axes.legend(loc=place)
    save(figure, path)


def _draw_images(row: NDArray[Any], p: Mapping[str, Any], robustness: Mapping[str, Any]) -> None:
    images, levels = robustness["images"], robustness["levels"]
    titles = ["one view"] + [
        f"{count} averaged, ±{level['half_width_deg']:g}°"
        for count, level in zip(images["counts"], levels, strict=True)
    ]
    for axes, image, title in zip(row, [images["view"], *images["averages"]], titles, strict=True):
        show_section(axes, image, robustness["pixel_size_A"] * p["box"])
        axes.set_title(title, fontsize=8.5 if len(row) < 7 else 6.5)


def _draw_loss(axes: Axes, robustness: Mapping[str, Any]) -> None:
    """Resolution over the variance of the angles; rings are the thesis' choice of the weight."""
    levels = robustness["levels"]
    variances = [level["variance_deg2"] for level in levels]
    ring: dict[str, Any] = {"marker": "o", "markersize": 6.5, "markerfacecolor": "none", "linewidth": 0}
    dots: dict[str, Any] = {"linewidth": 0.9, "dashes": (1, 2)}
    for entries, colour in zip(zip(*(level["scales"] for level in levels), strict=True), CYCLE, strict=False):
        s, found = entries[0]["scale"], [entry["resolution_A"] for entry in entries]
        axes.plot(variances, found, "o-", color=colour, markersize=4, label=f"s = {s}")
        axes.plot(
            variances, [entry["best_by_truth"]["resolution_A"] for entry in entries], color=colour, **ring
        )
        axes.axhline(2 * s * robustness["pixel_size_A"], color=colour, **dots)
    axes.plot([], [], color=INK, label="weight best by the truth", **ring)
    axes.plot([], [], color=SOFT, label="2 s pixels", **dots)
    axes.set(xlabel="variance of the angles (deg²)", ylabel="FSC 0.5 with the truth (Å)", ylim=(0, None))
    axes.grid(True)
    axes.legend(ncols=2, loc="lower right")


def _draw_curves(
    axes: Axes, frequency: list[float], curves: list[list[float]], labels: Sequence[str] = (), **style: Any
) -> None:
    """FSC curves with the truth, each as far as its voxels go."""
    last = 1
    for index, (curve, colour) in enumerate(zip(curves, CYCLE, strict=False)):
        label = labels[index] if labels else None
        end = int(np.max(np.flatnonzero(curve))) + 2
        axes.plot(frequency[:end], curve[:end], color=colour, label=label, **({"linewidth": 1.6} | style))
        last = max(last, min(end, len(frequency)))
    axes.axhline(0.5, color=SOFT, linewidth=0.8, dashes=(2, 2))
    axes.set(xlim=(0, frequency[last - 1]), ylim=(-0.05, 1.03))
    axes.set(xlabel="spatial frequency (1/Å)", ylabel="FSC with the truth")
    axes.grid(True)
