"""The solves of a reconstruction: from committed sums to all of its maps.  No image is read here."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.arrays import check_device, to_device, to_host
from dcryo.dataflow.accumulate import Fold, get_equations
from dcryo.dataflow.commits import Commits
from dcryo.dataflow.plan import Plan
from dcryo.methods.linear_map import solve_linear, surroundings
from dcryo.methods.progress import Progress
from dcryo.methods.reconstruct_config import ReconstructConfig
from dcryo.methods.regularise import MapProblem, Method, Solution, solve_map
from dcryo.methods.weight import Trial, choose_weight
from dcryo.solvers.prox import AnalysisPrior
from dcryo.solvers.stopping import Rule, iterations, objective_gap

Real = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Maps:
    """Coefficients by volume name, and how they were found."""

    coefficients: dict[str, Real]
    history: list[tuple[int, list[float]]]
    trials: list[Trial]
    weight: float
    nonnegative: bool
    reason: str


def solve_maps(chosen: Plan, fold: Fold, voxel: float, config: ReconstructConfig, progress: Progress) -> Maps:
    """All maps from the committed sums, solved on the fold's device and returned on the host; ``voxel`` in Å.

    Raises
    ------
    InputError
        If the device is not there, or too small.
    """
    check_device(fold.device, chosen.solve_memory)
    commits = Commits(fold.commits)
    sums = {half: get_equations(commits, root) for half, root in chosen.roots.items()}
    total = functools.reduce(operator.add, sums.values())
    maps: dict[str, Real] = {}
    progress.start("linear maps", len(sums))
    radius = None if config.mask_diameter is None else config.mask_diameter / voxel / 2
    problems: dict[int, MapProblem] = {}
    for half, equations in sums.items():
        there = equations.to(fold.device)
        linear = solve_linear(MapProblem(there, fold.threads), config.ridge)[0]
        problems[half] = MapProblem(there, fold.threads, radius, surroundings(linear))
        maps[f"linear{half}" if half else "linear"] = to_host(linear)
        progress.advance()
    stop = iterations(config.iterations) | objective_gap(config.tolerance)
    method = Method(config.prior, config.solver, config.rho)
    regularised = config.prior != "none"
    if regularised and len(problems) == 2:
        found = _solve_halves(problems[1], problems[2], config, method, stop, progress)
        maps |= {f"half{half}": volume for half, volume in found.coefficients.items()}
    else:
        progress.start("maps", 1)
        weight = _given(config.weight, 0.0) if regularised else 0.0
        found = _Halves({}, [], [], weight, regularised and bool(_given(config.nonnegative, True)))
    # the memory of the halves is that of the full map
    problems.clear()
    sums.clear()
    there = total.to(fold.device)
    if "linear" not in maps:
        maps["linear"] = to_host(solve_linear(MapProblem(there, fold.threads), config.ridge)[0])
    full = MapProblem(there, fold.threads, radius, surroundings(maps["linear"]))
    history, reason = list(found.history), ""
    if regularised:
        solution = solve_map(full, found.weight, found.nonnegative, stop, method=method)
        maps["full"] = to_host(solution.coefficients)
        history.append((0, solution.history))
        reason = solution.reason
    else:
        maps["full"] = maps["linear"]
        maps |= {f"half{h}": maps[f"linear{h}"] for h in (1, 2) if f"linear{h}" in maps}
        history.append((0, [full.misfit(to_device(maps["full"], fold.device))]))
    progress.advance()
    return Maps(maps, history, found.trials, found.weight, found.nonnegative, reason)


@dataclass(frozen=True)
class _Halves:
    """What comes of the half sets: their maps, on the host, and the weight and constraint of all maps."""

    coefficients: dict[int, Real]
    history: list[tuple[int, list[float]]]
    trials: list[Trial]
    weight: float
    nonnegative: bool


def _solve_halves(
    one: MapProblem,
    two: MapProblem,
    config: ReconstructConfig,
    method: Method,
    stop: Rule,
    progress: Progress,
) -> _Halves:
    """The regularised half maps, with the weight and the constraint that are given or cross-validated."""
    weight, nonnegative = _given(config.weight, 0.0), bool(_given(config.nonnegative, False))
    trials: list[Trial] = []
    starts: tuple[Solution | None, Solution | None] = (None, None)
    priors: tuple[AnalysisPrior | None, AnalysisPrior | None] = (None, None)
    if "auto" in (config.weight, config.nonnegative):
        progress.start("weight", None)
        choice = choose_weight(
            one, two, config.iterations, config.tolerance,
            weight=None if config.weight == "auto" else weight,
            nonnegative=None if config.nonnegative == "auto" else nonnegative,
            method=method, tried=lambda: progress.advance(),
        )  # fmt: skip
        weight, nonnegative = choice.weight, choice.nonnegative
        trials, starts, priors = choice.trials, (choice.first, choice.second), choice.priors
    progress.start("maps", 3)
    coefficients: dict[int, Real] = {}
    history: list[tuple[int, list[float]]] = []
    for half, problem, start, prior in zip((1, 2), (one, two), starts, priors, strict=True):
        solution = solve_map(problem, weight, nonnegative, stop, start, prior, method)
        coefficients[half] = to_host(solution.coefficients)
        history.append((half, solution.history))
        progress.advance()
    return _Halves(coefficients, history, trials, weight, nonnegative)


def _given(setting: float | bool | str, auto: float) -> float:
    """A setting as a number; ``auto`` where it is "auto"."""
    return auto if isinstance(setting, str) else float(setting)
