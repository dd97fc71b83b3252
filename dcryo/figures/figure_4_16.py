"""Figure 4.16 of the thesis: ADMM with inner conjugate gradients, without an inner loop, and what came after.

Every solver minimises the same objective from zero: few noisy views with slightly wrong angles, total
variation, nonnegativity.  The gap is that of the feasible point next to the iterate, (F - F*) / (F(0) - F*),
from products that are neither counted nor timed; F* is the lower end of two long runs of different solvers.
Setting up counts nothing (the norm of HᵀH, which all need; twelve products for the circular majoriser).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from dcryo.bench.timing import ONE_THREAD
from dcryo.figures.experiment import Check, Outcome, Setting
from dcryo.geometry.rotations import matrix_to_quaternion, random_rotations, rotation_vector_to_matrix
from dcryo.imaging.basis import BandLimited, KaiserBessel
from dcryo.imaging.ctf import random_defocus
from dcryo.imaging.particles import Optics, Particles
from dcryo.imaging.phantom import gaussian_cloud, rasterise
from dcryo.methods.linear_map import solve_linear, surroundings
from dcryo.methods.regularise import MapProblem, Method
from dcryo.operators.normal import Accumulator
from dcryo.operators.projector import project
from dcryo.operators.views import make_radial, make_views
from dcryo.report.plot import BLUE, GREEN, GREY, ORANGE, RED, SOFT, STYLE, VIOLET, mpl, new_figure, save
from dcryo.solvers import admm, fista
from dcryo.solvers.fista import Quadratic, inner
from dcryo.solvers.linear_step import InnerCG
from dcryo.solvers.prox import AnalysisPrior

TITLE = "Objective over products with HᵀH and over seconds, for every solver"
SOURCE = "Figure 4.16: 30 views of 256³, signal to noise 1, no PSF; TV and nonnegativity; CG-1, CG-3, ILF"

GAPS = (1e-2, 1e-3, 1e-4)
"""Gaps whose products and seconds are tabulated; the second is what `auto` is chosen by."""

PIXEL_SIZE = 3.0
"""Å; with the defocus below, the CTF of an image oscillates as in real data."""

DEFAULT = "FISTA"
THESIS = "ILF, ‖H‖² (thesis)"
SOLVERS = {
    DEFAULT: ("fista", BLUE),
    "ILF, circulant": ("ilf-circulant", GREEN),
    "ADMM, preconditioned CG-1, carried": ("admm-pcg", VIOLET),
    "ADMM, CG-3 (thesis)": ("admm-cg", ORANGE),
    "ADMM, CG-1 (thesis)": ("admm-cg", RED),
    THESIS: ("ilf", GREY),
}
"""Name, the setting ``solver`` of a reconstruction, and colour."""


@dataclass(frozen=True)
class Case:
    """One problem of the table; ``weight`` is the dimensionless one of a reconstruction."""

    views: int
    ctf: bool
    weight: float


@dataclass(frozen=True)
class Parameters:
    """What is solved.

    Attributes
    ----------
    box, case
        Of the figure.
    table_box, counts, weights
        Of the table: every number of views with every weight, without and with a CTF.
    products : int
        Products with HᵀH after which a solver of the table is given up.
    long_products : int
        The same in the figure, where all have to agree.
    reference : int
        Iterations of the two runs that find the minimum; twice as many for the figure.
    snr, angle_error_deg
        Of the images; every view's axis is wrong by up to so many degrees.
    largest_disagreement, least_saving
        What the checks want.
    """

    box: int
    table_box: int
    case: Case = field(default_factory=lambda: Case(30, False, 0.3))
    counts: tuple[int, ...] = (30, 300)
    weights: tuple[float, ...] = (0.1, 0.3, 1.0)
    products: int = 150
    long_products: int = 3000
    reference: int = 250
    snr: float = 1.0
    angle_error_deg: float = 2.0
    largest_disagreement: float = 1e-5
    least_saving: float = 2.0


SMALL = Parameters(box=48, table_box=24)
FULL = Parameters(box=128, table_box=48)


@dataclass
class Trace:
    """One solver on one problem: products with HᵀH, seconds and objective after every iteration."""

    products: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    objectives: list[float] = field(default_factory=list)


def make_problem(box: int, case: Case, parameters: Parameters, seed: int) -> MapProblem:
    """Views of a phantom, projected with Kaiser-Bessel windows, as equations of band-limited voxels."""
    rng = np.random.default_rng([seed, case.views, int(case.ctf)])
    true = random_rotations(case.views, rng)
    axes = rng.standard_normal((case.views, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    angles = np.radians(rng.uniform(0, parameters.angle_error_deg, (case.views, 1)))
    assumed = rotation_vector_to_matrix(axes * angles) @ true
    optics = (Optics(pixel_size=PIXEL_SIZE, ctf=case.ctf),)
    defocus = random_defocus(case.views, 8000, 20000, rng)

    def particles(rotation: Any) -> Particles:
        quaternion = matrix_to_quaternion(rotation)
        return Particles.empty_columns(
            case.views, rotation=quaternion, shift=np.zeros((case.views, 2)), defocus=defocus, optics=optics
        )

    flat = [np.ones(box // 2 + 1)]
    generating = make_radial(KaiserBessel(4, 19, 2).fourier, flat, box, [1.0])
    cloud = rasterise(gaussian_cloud(seed=seed + 1, count=400, radius=0.32 * box), box)
    views = make_views(particles(true), PIXEL_SIZE)
    clean = project(cloud, views, generating, box=box, accuracy="accurate", threads=ONE_THREAD)
    clean *= np.sqrt(parameters.snr) / clean.std()
    images = clean + rng.standard_normal(clean.shape, dtype=np.float32)
    accumulator = Accumulator(box, make_radial(BandLimited().fourier, flat, box, [1.0]), threads=ONE_THREAD)
    accumulator.add(images, make_views(particles(assumed), PIXEL_SIZE))
    equations = accumulator.finish()
    level = surroundings(solve_linear(MapProblem(equations, ONE_THREAD))[0])
    return MapProblem(equations, ONE_THREAD, None, level)


class Referee:
    """Runs solvers on one problem, and counts and times their products."""

    def __init__(self, problem: MapProblem, weight: float) -> None:
        self.problem = problem
        self.weight = weight
        self.quadratic = problem.quadratic()
        self.lowest = np.inf
        self._products = 0

    def _apply(self, x: Any) -> Any:
        self._products += 1
        return self.problem.apply(x)

    def objective(self, x: Any, prior: AnalysisPrior) -> float:
        """F at the feasible point next to ``x``."""
        x = prior.feasible(x)
        half = np.float32(0.5) * self.problem.apply(x) - self.quadratic.linear
        return inner(x, half) + self.quadratic.constant + prior.value(x)

    def gap(self, objective: float) -> float:
        """Relative gap of an objective value."""
        return (objective - self.lowest) / (self.quadratic.constant - self.lowest)

    def _iterates(self, name: str) -> tuple[AnalysisPrior, Iterator[Any]]:
        method = Method("tv", SOLVERS[name][0])
        prior = method.make_prior(ONE_THREAD)
        prior.weight = self.weight * self.problem.noise
        prior.nonnegative = True
        problem: Quadratic = replace(self.quadratic, apply=self._apply)
        advance: Callable[[Any], Any]
        if method.solver == "fista":
            state: Any = fista.init(problem)
            advance = lambda state: fista.step(problem, prior, state)  # noqa: E731
        else:
            scheme = method.make_scheme(self.problem, self.weight)
            if "CG-1 (thesis)" in name:
                scheme = replace(scheme, linear_step=InnerCG(1))
            state = admm.init(problem, prior, scheme)
            advance = lambda state: admm.step(problem, prior, scheme, state)  # noqa: E731

        def walk() -> Iterator[Any]:
            nonlocal state
            while True:
                state = advance(state)
                yield state

        return prior, walk()

    def find_lowest(self, iterations: int) -> float:
        """Find F* from two solvers; returns by how much, relative to F*, their ends differ."""
        ends = []
        for name in (DEFAULT, "ADMM, preconditioned CG-1, carried"):
            prior, states = self._iterates(name)
            for _ in range(iterations):
                state = next(states)
            ends.append(self.objective(state.x, prior))
        self.lowest = min(ends)
        return (max(ends) - self.lowest) / self.lowest

    def trace(self, name: str, products: int, stop: Callable[[float], bool]) -> Trace:
        """Run a solver until ``stop`` likes its objective, or for so many products at most."""
        trace = Trace()
        prior, states = self._iterates(name)
        self._products = 0
        seconds = 0.0
        while self._products < products:
            began = time.process_time()
            state = next(states)
            seconds += time.process_time() - began
            trace.products.append(self._products)
            trace.seconds.append(seconds)
            trace.objectives.append(self.objective(state.x, prior))
            if stop(trace.objectives[-1]):
                break
        return trace


def run(setting: Setting) -> Outcome:
    """The curves of the figure, and the table of all cases."""
    p = FULL if setting.full else SMALL
    cases = [Case(*values) for values in product(p.counts, (False, True), p.weights)]
    setting.progress.start("solvers", 1 + len(cases))
    curves, ends, agreement = _figure(p, setting.seed)
    setting.progress.advance()
    table = []
    for case in cases:
        table.append(_row(p, case, setting.seed))
        setting.progress.advance()
    numbers: dict[str, Any] = {
        "parameters": asdict(p),
        "curves": curves,
        "relative_objective": ends,
        "reference_agreement": agreement,
        "table": table,
        "mean_seconds": {name: _mean(row["seconds"][name][1] for row in table) for name in SOLVERS},
        "mean_products": {name: _mean(row["products"][name][1] for row in table) for name in SOLVERS},
    }
    return Outcome(numbers, _checks(p, numbers), _shown(numbers))


def _figure(p: Parameters, seed: int) -> tuple[dict[str, Any], dict[str, float], float]:
    """Curves of every solver, how far above the minimum it ends, and the agreement of the reference."""
    referee = Referee(make_problem(p.box, p.case, p, seed), p.case.weight)
    agreement = referee.find_lowest(2 * p.reference)
    curves, ends = {}, {}
    for name in SOLVERS:
        trace = referee.trace(
            name,
            p.long_products,
            lambda f: f - referee.lowest <= 0.5 * p.largest_disagreement * referee.lowest,
        )
        ends[name] = trace.objectives[-1] / referee.lowest - 1
        curves[name] = {
            "products": trace.products,
            "seconds": trace.seconds,
            "gap": [referee.gap(f) for f in trace.objectives],
        }
    return curves, ends, agreement


def _row(p: Parameters, case: Case, seed: int) -> dict[str, Any]:
    """Products and seconds of every solver to the gaps of :data:`GAPS`; None where it was given up."""
    referee = Referee(make_problem(p.table_box, case, p, seed), case.weight)
    agreement = referee.find_lowest(p.reference)
    row: dict[str, Any] = asdict(case) | {"reference_agreement": agreement, "products": {}, "seconds": {}}
    for name in SOLVERS:
        trace = referee.trace(name, p.products, lambda f: referee.gap(f) <= GAPS[-1])
        reached = [
            next((i for i, f in enumerate(trace.objectives) if referee.gap(f) <= gap), None) for gap in GAPS
        ]
        row["products"][name] = [None if i is None else trace.products[i] for i in reached]
        row["seconds"][name] = [None if i is None else trace.seconds[i] for i in reached]
    return row


def _mean(values: Any) -> float | None:
    """Geometric mean; None where one of them was never reached."""
    known = list(values)
    return None if None in known else float(np.exp(np.mean(np.log(known))))


def _first(curve: Mapping[str, Any], gap: float) -> int | None:
    return next((n for n, g in zip(curve["products"], curve["gap"], strict=True) if g <= gap), None)


def _checks(p: Parameters, numbers: Mapping[str, Any]) -> tuple[Check, ...]:
    ends = numbers["relative_objective"]
    worst = max(ends, key=lambda name: ends[name])
    default, thesis = (_first(numbers["curves"][name], GAPS[1]) for name in (DEFAULT, THESIS))
    saving = None if default is None or thesis is None else thesis / default
    means = numbers["mean_seconds"]
    reached = {name: seconds for name, seconds in means.items() if seconds is not None}
    fastest = min(reached, key=lambda name: reached[name]) if reached else "none"
    return (
        Check(
            f"objectives of all solvers at {p.box}³, relative to the lowest",
            ends[worst] <= p.largest_disagreement,
            f"{ends[worst]:.1e} above it: {worst}",
            f"at most {p.largest_disagreement:.0e}",
        ),
        Check(
            "products to a gap of 1e-3, thesis' ILF over the default",
            saving is not None and saving >= p.least_saving,
            "not reached" if saving is None else f"{saving:.1f}× ({thesis} and {default})",
            f"at least {p.least_saving:g}×",
        ),
        Check(
            "least mean CPU seconds to a gap of 1e-3 over the table",
            fastest == DEFAULT,
            ", ".join(
                f"{name} {seconds:.2f} s" for name, seconds in sorted(reached.items(), key=lambda e: e[1])
            ),
            f"{DEFAULT}, which is what solver = auto takes",
        ),
    )


def _shown(numbers: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    lines = []
    for row in numbers["table"]:
        case = f"{row['views']} views, {'CTF' if row['ctf'] else 'no CTF'}, w = {row['weight']:g}"
        text = "; ".join(
            f"{name}: {'-' if row['products'][name][1] is None else row['products'][name][1]}"
            for name in SOLVERS
        )
        lines.append((case, f"products to 1e-3: {text}"))
    return tuple(lines)


@mpl.rc_context(STYLE)
def draw(numbers: Mapping[str, Any], path: Path) -> None:
    """Three panels: gap over products, gap over seconds, and products to 1e-3 over the cases of the table."""
    figure = new_figure(11.0, 4.3)
    products, seconds, table = figure.subplots(1, 3, width_ratios=(1, 1, 1.25))
    for axes, key, label in (
        (products, "products", "products with HᵀH"),
        (seconds, "seconds", "CPU seconds"),
    ):
        _draw_gaps(axes, numbers, key, label)
    box = numbers["parameters"]["box"]
    products.set_title(f"a   {numbers['parameters']['case']['views']} views of {box}³", loc="left")
    products.set_ylabel("(F − F*) / (F(0) − F*)")
    seconds.set_title("b", loc="left")
    _draw_table(table, numbers)
    handles, labels = products.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    save(figure, path)


def _draw_gaps(axes: Axes, numbers: Mapping[str, Any], key: str, label: str) -> None:
    longest = 0.0
    for name, (_, colour) in SOLVERS.items():
        curve = numbers["curves"][name]
        gap = np.maximum(np.array(curve["gap"], float), 1e-9)
        axes.semilogy(curve[key], gap, color=colour, label=name, linewidth=1.4)
        reached = np.flatnonzero(gap <= GAPS[-1])
        longest = max(longest, curve[key][int(reached[0]) if reached.size else -1])
    axes.axhline(GAPS[1], color=SOFT, linewidth=0.8, linestyle=":")
    axes.set(xlabel=label, xlim=(0, 1.05 * longest), ylim=(1e-5, 1.2))
    axes.grid(True)


def _draw_table(axes: Axes, numbers: Mapping[str, Any]) -> None:
    """A mark per solver and case; open at the right edge where it was given up."""
    table, limit = numbers["table"], numbers["parameters"]["products"]
    rows = np.arange(len(table))[::-1]
    for name, (_, colour) in SOLVERS.items():
        for row, y in zip(table, rows, strict=True):
            reached = row["products"][name][1]
            face = colour if reached is not None else "white"
            axes.plot(
                limit if reached is None else reached,
                y,
                "o",
                color=colour,
                markerfacecolor=face,
                markersize=5,
            )
    names = [f"{row['views']} views{', CTF' if row['ctf'] else ''}, w = {row['weight']:g}" for row in table]
    axes.set_yticks(rows, names)
    axes.set(xscale="log", xlabel="products to a gap of 1e-3", xlim=(3, 1.2 * limit))
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="x")
    axes.set_title(f"c   the table, {numbers['parameters']['table_box']}³", loc="left")
