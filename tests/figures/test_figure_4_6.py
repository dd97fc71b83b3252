"""Figures 4.6 to 4.15 in tiny boxes, with a refinement that finds the poses; checks that fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from dcryo.figures import figure_4_6, figure_4_8, figure_4_10, figure_4_12
from dcryo.figures.experiment import Reproduction, find, reproduce
from dcryo.figures.joint_data import Case
from dcryo.figures.joint_ways import ANGLE_BINS, OURS, PEER, SHIFT_BINS, UNREFINED

CASE = Case("cloud", "cloud:1", 20, 80, 6.0, 6.0, 1.0, 0.6, 0.02)
TINY: dict[ModuleType, Any] = {
    figure_4_6: replace(
        figure_4_6.SMALL, cases=(CASE, replace(CASE, name="other", phantom="cloud:2")), most_unrefined=0.8
    ),
    figure_4_8: replace(figure_4_8.SMALL, case=CASE, trials=2),
    figure_4_10: figure_4_10.Parameters(CASE, 1.5),
    figure_4_12: figure_4_12.Parameters(replace(CASE, euler_error=None, ctf=True, snr_definition="variance")),
}


@pytest.fixture(scope="module")
def make(install_refinement: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An experiment, run once."""
    made: dict[ModuleType, Reproduction] = {}

    def reproduced(module: ModuleType) -> Reproduction:
        if module not in made:
            name = module.__name__.rpartition(".")[2].replace("figure_4_", "figure-4.")
            with pytest.MonkeyPatch.context() as patch:
                install_refinement(patch)
                patch.setattr(module, "SMALL", TINY[module])
                made[module] = reproduce(name, tmp_path_factory.mktemp(name), threads=1)
        return made[module]

    return reproduced


def numbers_of(made: Reproduction) -> dict[str, Any]:
    return dict(json.loads(made.json.read_text("utf-8"))["numbers"])


@pytest.mark.parametrize(
    ("number", "name"),
    [("4.7", "4.6"), ("4.11", "4.6"), ("4.9", "4.8"), ("4.13", "4.12"), ("4.14", "4.12"), ("4.15", "4.12")],
)
def test_figures_that_another_one_covers(number: str, name: str) -> None:
    assert find(number) == f"figure-{name}"


def test_full_sizes_are_those_of_the_thesis() -> None:
    assert [(case.box, case.views) for case in figure_4_6.FULL.cases] == [(84, 500), (90, 500)]
    assert (figure_4_6.FULL.trials, figure_4_6.FULL.least_of_oracle) == (5, 0.97)
    assert (figure_4_8.FULL.largest_angle_deg, figure_4_8.FULL.largest_shift_px) == (2.0, 0.3)
    hard = figure_4_12.FULL.case
    assert (hard.box, hard.views, hard.pixel_size, hard.snr_db) == (124, 20_000, 2.0, -14.2)
    assert (hard.ctf, hard.max_shift, hard.euler_error) == (True, 3.0, None)


@pytest.mark.parametrize("module", TINY, ids=lambda module: module.__name__.rpartition(".")[2])
def test_found_poses_pass_and_the_picture_is_drawn_from_the_numbers(
    make: Any, module: ModuleType, tmp_path: Path
) -> None:
    made = make(module)
    assert made.outcome.passed, made.outcome.checks
    again = tmp_path / "again.png"
    module.draw(numbers_of(made), again)
    drawn, kept = imread(again), imread(made.png)
    assert drawn.shape == kept.shape
    # letters may be smoothed otherwise once more fonts are loaded; a curve is some thousandths of it all
    assert np.mean(np.abs(drawn - kept).max(axis=-1) > 0.1) < 1e-3


@pytest.mark.parametrize("module", [figure_4_6, figure_4_8, figure_4_12])
def test_relion_is_drawn_where_it_was_run_and_named_where_not(
    make: Any, module: ModuleType, tmp_path: Path
) -> None:
    made = make(module)
    numbers = numbers_of(made)
    assert (PEER, "RELION is out of the way") in [(n.rpartition(", ")[2], v) for n, v in made.outcome.shown]
    for case in numbers.get("cases", [numbers]):
        assert case["relion_missing"] == "RELION is out of the way"
        assert PEER not in case["ways"]
        case["ways"][PEER] = case["ways"][OURS]
    module.draw(numbers, tmp_path / "with.png")
    assert (tmp_path / "with.png").read_bytes() != made.png.read_bytes()


def test_trials_differ_and_their_means_are_reported(make: Any) -> None:
    numbers = numbers_of(make(figure_4_6))
    assert [case["name"] for case in numbers["cases"]] == ["cloud", "other"]
    for case in numbers["cases"]:
        assert len(case["trials"]) == 1
        assert list(case["sections"]) == ["truth", "start", UNREFINED, OURS, "true poses"]
        assert len(case["course_r_c"]) == 3
    numbers = numbers_of(make(figure_4_8))
    one, two = (trial[OURS]["mean_fsc"] for trial in numbers["trials"])
    assert one != two
    assert numbers["ways"][OURS]["mean_fsc"] == pytest.approx((one + two) / 2)
    for name in (UNREFINED, OURS):
        for key in ("angle_deg", "shift_px"):
            assert sum(numbers["ways"][name][key]["counts"]) == 160


def test_the_course_has_a_section_of_every_map(make: Any) -> None:
    numbers = numbers_of(make(figure_4_10))
    assert len(numbers["sections"]) == len(numbers["r_c"]) == 3
    assert len({*numbers["sections"], numbers["truth"]}) == 4


def test_without_poses_nothing_is_unrefined(make: Any) -> None:
    numbers = numbers_of(make(figure_4_12))
    assert list(numbers["ways"]) == [OURS, "true poses"]
    assert list(numbers["sections"]) == ["a view", "truth", "start", OURS, "true poses"]


def way(r_c: float, mean: float = 0.5, halves: float = 8.0, angle: float = 1.0, shift: float = 0.2) -> Any:
    """Numbers of a way that the checks look at."""
    errors = {"angle_deg": {"median": angle}, "shift_px": {"median": shift}}
    return {"r_c_of_oracle": r_c, "mean_fsc": mean, "halves_0143_A": halves} | errors


@pytest.mark.parametrize(
    ("ours", "unrefined", "peer", "passed"),
    [
        (way(0.9), way(0.6), None, [True, True]),
        (way(0.89), way(0.6), None, [False, True]),
        (way(0.9), way(0.61), None, [True, False]),
        (way(0.9, 0.5), way(0.5), way(1, 0.5), [True, True, True]),
        (way(0.9, 0.5), way(0.5), way(0.1, 0.51), [True, True, False]),
    ],
)
def test_checks_of_maps(ours: Any, unrefined: Any, peer: Any, passed: list[bool]) -> None:
    ways = {OURS: ours, UNREFINED: unrefined} | ({PEER: peer} if peer else {})
    found = figure_4_6.checks(figure_4_6.SMALL, [{"name": "one", "ways": ways}])
    assert [check.passed for check in found] == passed


@pytest.mark.parametrize(
    ("ours", "peer", "passed"),
    [
        (way(1, angle=3, shift=0.5), None, [True, True]),
        (way(1, angle=3.1, shift=0.4), None, [False, True]),
        (way(1, angle=2, shift=0.6), None, [True, False]),
        (way(1, angle=2, shift=0.4), way(1, angle=2, shift=0.3), [True, True, True, False]),
        (way(1, angle=2, shift=0.3), way(1, angle=1, shift=0.3), [True, False, True, True]),
    ],
)
def test_checks_of_errors(ours: Any, peer: Any, passed: list[bool]) -> None:
    found = figure_4_8.checks(figure_4_8.SMALL, {OURS: ours} | ({PEER: peer} if peer else {}))
    assert [check.passed for check in found] == passed


@pytest.mark.parametrize(
    ("ours", "peer", "passed"),
    [
        (way(0.9), None, [True]),
        (way(0.89), None, [False]),
        (way(0.9, 0.5, 8.0), way(1, 0.5, 8.0), [True, True, True]),
        (way(0.9, 0.5, 8.1), way(1, 0.5, 8.0), [True, False, True]),
        (way(0.9, 0.4, 8.0), way(1, 0.5, 8.0), [True, True, False]),
    ],
)
def test_checks_of_the_noisy_case(ours: Any, peer: Any, passed: list[bool]) -> None:
    found = figure_4_12.checks(figure_4_12.SMALL, {OURS: ours} | ({PEER: peer} if peer else {}))
    assert [check.passed for check in found] == passed


def test_the_check_of_the_course() -> None:
    (check,) = figure_4_10.checks(figure_4_10.SMALL, [0.02, 0.1, 0.04])
    assert check.passed
    (check,) = figure_4_10.checks(figure_4_10.SMALL, [0.02, 0.1, 0.039])
    assert not check.passed


def test_histograms_reach_far_enough() -> None:
    assert ANGLE_BINS[-1] > figure_4_12.SMALL.largest_angle_deg
    assert SHIFT_BINS[-1] >= np.hypot(2, 2)
