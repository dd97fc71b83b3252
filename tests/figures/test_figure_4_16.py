"""Figure 4.16 in tiny boxes: what is counted, what is compared, and that a wrong solver does not pass."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcryo.figures import figure_4_16 as module
from dcryo.figures.experiment import Setting
from dcryo.figures.figure_4_16 import DEFAULT, SOLVERS, THESIS, Case, Parameters, Referee, make_problem
from dcryo.io.store_root import plain
from dcryo.methods.progress import Silent
from dcryo.methods.regularise import MapProblem, Method

TINY = Parameters(
    box=14, table_box=12, case=Case(8, False, 0.5), counts=(8,), weights=(0.5,), products=60, reference=150
)


@pytest.fixture(scope="module")
def problem() -> MapProblem:
    return make_problem(12, Case(8, True, 0.5), TINY, 3)


def settings(tmp_path: Path) -> Setting:
    return Setting(False, 3, 1, Silent(), tmp_path)


def test_presets_are_the_thesis_case_and_three_weights() -> None:
    for preset in (module.SMALL, module.FULL):
        assert (preset.case.views, preset.case.ctf, preset.snr) == (30, False, 1.0)
        assert len(preset.weights) == 3
        assert len(preset.counts) == 2
    assert (module.SMALL.box, module.FULL.box) == (48, 128)


def test_problem_is_the_one_that_was_asked_for(problem: MapProblem) -> None:
    again = make_problem(12, Case(8, True, 0.5), TINY, 3)
    np.testing.assert_array_equal(problem.equations.rhs, again.equations.rhs)
    assert problem.equations.count == 8
    # images of signal and noise of variance 1 each, in units of the noise; 8 of 12 x 12 pixels scatter
    assert problem.equations.energy / (8 * 144) == pytest.approx(2.0, rel=0.2)
    straight = make_problem(12, Case(8, True, 0.5), replace(TINY, angle_error_deg=0.0), 3)
    assert straight.equations.energy == pytest.approx(problem.equations.energy, rel=1e-6)  # the same images
    assert np.abs(straight.equations.rhs - problem.equations.rhs).max() > 1e-3 * np.abs(problem.linear).max()


@pytest.mark.parametrize(
    ("name", "each"),
    [(DEFAULT, 1), ("ILF, circulant", 1), ("ADMM, preconditioned CG-1, carried", 1), (THESIS, 1),
     ("ADMM, CG-1 (thesis)", 2), ("ADMM, CG-3 (thesis)", 4)],
)  # fmt: skip
def test_products_of_an_iteration_are_counted(problem: MapProblem, name: str, each: int) -> None:
    trace = Referee(problem, 0.5).trace(name, 12, lambda f: False)
    # FISTA knows the product at its start, zero
    first = 0 if name == DEFAULT else each
    assert trace.products == list(range(first, first + each * len(trace.products), each))
    assert trace.products[-1] >= 12
    assert np.all(np.diff(trace.seconds) >= 0)


def test_gaps_are_of_feasible_points_and_end_at_nothing(problem: MapProblem) -> None:
    referee = Referee(problem, 0.5)
    assert referee.find_lowest(800) < 1e-5  # two solvers, one minimum
    for name in SOLVERS:
        trace = referee.trace(name, 2000, lambda f: referee.gap(f) <= 1e-4)
        gaps = [referee.gap(f) for f in trace.objectives]
        assert 0 < gaps[0] < 1
        assert gaps[-1] <= 1e-4, name
        # no feasible point lies below the minimum: rounding of the objective alone
        assert min(gaps) > -1e-6, name


@pytest.mark.slow
def test_all_solvers_reach_one_objective_at_the_size_of_the_small_figure() -> None:
    _, ends, agreement = module._figure(module.SMALL, 0)
    assert agreement <= 1e-6
    # the line that a run stops at is half of what is asked for
    assert max(ends.values()) <= 1e-5
    assert min(ends.values()) >= -1e-6


def outcome_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parameters: Parameters = TINY) -> Any:
    monkeypatch.setattr(module, "SMALL", parameters)
    return module.run(settings(tmp_path))


def test_numbers_checks_and_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = outcome_of(tmp_path, monkeypatch)
    agreement, saving, _ = found.checks  # the third is of seconds, which a busy machine decides
    assert agreement.passed
    assert saving.passed
    assert [(row["views"], row["ctf"]) for row in found.numbers["table"]] == [(8, False), (8, True)]
    assert found.numbers["table"][0]["products"].keys() == SOLVERS.keys()
    numbers = json.loads(json.dumps(plain(found.numbers)))
    module.draw(numbers, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_solver_of_another_objective_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Method.make_prior

    def heavier(self: Method, threads: int = 0) -> Any:
        prior = make(self, threads)
        if self.solver == "ilf":  # one of six minimises with another prior
            prior.analysis = replace(prior.analysis, isotropic=False)
        return prior

    monkeypatch.setattr(Method, "make_prior", heavier)
    found = outcome_of(tmp_path, monkeypatch, replace(TINY, long_products=300))
    assert not found.checks[0].passed
    assert THESIS in found.checks[0].measured


def test_a_default_that_saves_too_little_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = outcome_of(tmp_path, monkeypatch, replace(TINY, least_saving=100.0, long_products=300))
    assert not found.checks[1].passed


def test_a_gap_that_is_never_reached_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = outcome_of(tmp_path, monkeypatch, replace(TINY, products=2, long_products=2))
    assert found.numbers["table"][0]["products"]["ADMM, CG-3 (thesis)"] == [None, None, None]
    assert found.numbers["mean_seconds"]["ADMM, CG-3 (thesis)"] is None
    assert not found.passed
    module.draw(json.loads(json.dumps(plain(found.numbers))), tmp_path / "figure.png")
