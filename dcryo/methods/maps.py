"""The solves of a reconstruction: from committed sums to all of its maps.  No image is read here."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.dataflow.accumulate import Fold, get_equations
from dcryo.dataflow.commits import Commits
from dcryo.dataflow.plan import Plan
from dcryo.methods.linear_map import solve_linear, surroundings
from dcryo.methods.progress import Progress
from dcryo.methods.reconstruct_config import ReconstructConfig
from dcryo.methods.regularise import MapProblem, Method, Solution, solve_map
from dcryo.methods.weight import Trial, choose_weight
from dcryo.solvers.prox import AnalysisPrior
from dcryo.solvers.stopping import iterations, objective_change

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
    """All maps from the committed sums; ``voxel`` in Å."""
    commits = Commits(fold.commits)
    sums = {half: get_equations(commits, root) for half, root in chosen.roots.items()}
    total = functools.reduce(operator.add, sums.values())
    maps: dict[str, Real] = {}
    progress.start("linear maps", len(sums))
    radius = None if config.mask_diameter is None else config.mask_diameter / voxel / 2
    problems: dict[int, MapProblem] = {}
    for half, equations in sums.items():
        linear = solve_linear(MapProblem(equations, fold.threads), config.ridge)[0]
        problems[half] = MapProblem(equations, fold.threads, radius, surroundings(linear))
        maps[f"linear{half}" if half else "linear"] = linear
        progress.advance()
    stop = iterations(config.iterations) | objective_change(config.tolerance)
    history: list[tuple[int, list[float]]] = []
    trials: list[Trial] = []
    starts: tuple[Solution | None, Solution | None] = (None, None)
    priors: tuple[AnalysisPrior | None, AnalysisPrior | None] = (None, None)
    method = Method(config.prior, config.solver, config.rho)
    weight = 0.0 if config.prior == "none" or config.weight == "auto" else float(config.weight)
    nonnegative = config.nonnegative is True or (config.nonnegative == "auto" and len(problems) == 1)
    if config.prior != "none" and len(problems) == 2 and "auto" in (config.weight, config.nonnegative):
        progress.start("weight", None)
        choice = choose_weight(
            problems[1], problems[2], config.iterations, config.tolerance,
            weight=None if config.weight == "auto" else float(config.weight),
            nonnegative=None if config.nonnegative == "auto" else bool(config.nonnegative),
            method=method, tried=lambda: progress.advance(),
        )  # fmt: skip
        weight, nonnegative = choice.weight, choice.nonnegative
        trials, starts, priors = choice.trials, (choice.first, choice.second), choice.priors
    progress.start("maps", len(problems) + (len(problems) == 2))
    reason = ""
    if len(problems) == 2 and config.prior != "none":
        for half, start, prior in zip((1, 2), starts, priors, strict=True):
            solution = solve_map(problems[half], weight, nonnegative, stop, start, prior, method)
            maps[f"half{half}"] = solution.coefficients
            history.append((half, solution.history))
            progress.advance()
    problems.clear()
    sums.clear()
    if "linear" not in maps:
        maps["linear"] = solve_linear(MapProblem(total, fold.threads), config.ridge)[0]
    full = MapProblem(total, fold.threads, radius, surroundings(maps["linear"]))
    if config.prior != "none":
        solution = solve_map(full, weight, nonnegative, stop, method=method)
        maps["full"] = solution.coefficients
        history.append((0, solution.history))
        reason = solution.reason
    else:
        maps["full"] = maps["linear"]
        maps |= {f"half{h}": maps[f"linear{h}"] for h in (1, 2) if f"linear{h}" in maps}
        history.append((0, [full.misfit(maps["full"])]))
    progress.advance()
    return Maps(maps, history, trials, weight, nonnegative and config.prior != "none", reason)
