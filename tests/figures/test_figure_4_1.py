"""Figure 4.1 in a tiny box: the curves end where the voxels do, the costs are compared octave by octave."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcryo.figures import figure_4_1 as module
from dcryo.figures.experiment import Outcome, Reproduction, Setting, reproduce
from dcryo.figures.figure_4_1 import FULL, SMALL, Parameters
from dcryo.imaging.basis import BandLimited, parse_basis
from dcryo.imaging.particles import Particles
from dcryo.methods.progress import Silent
from dcryo.methods.specimen import FILL
from dcryo.operators.views import make_views

TINY = Parameters(box=32, views=120, scales=(2, 1), points=100, iterations=25)

ATOM = "ATOM  {0:5d}  CA  ALA A{0:4d}    {1:8.3f}{2:8.3f}{3:8.3f}  1.00 20.00           C\n"


def outcome(tmp_path: Path, atoms: str | None = None) -> Outcome:
    return module.run(Setting(False, 0, 1, Silent(), tmp_path, atoms))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Reproduction:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SMALL", TINY)
        return reproduce("figure-4.1", tmp_path_factory.mktemp("figure"), threads=1)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL", TINY)


def test_presets_are_the_thesis_case_and_a_smaller_one() -> None:
    assert (FULL.box, FULL.views, FULL.scales, FULL.basis) == (256, 2000, (8, 4, 2, 1), "kbwf:2,10.8,2")
    assert replace(SMALL, box=256, views=2000) == FULL


def test_basis_function_of_the_voxel_is_that_of_a_ball_in_fourier_space() -> None:
    found = module.basis_function(BandLimited(), 4.0)
    x = np.pi * np.where(found["r"] == 0, 1e-3, found["r"])
    # 3 (sin x - x cos x) / x^3; midpoints of 400 steps err by (pi r / 400)^2 / 24
    np.testing.assert_allclose(found["value"], 3 * (np.sin(x) - x * np.cos(x)) / x**3, atol=1e-4)


def test_basis_function_of_a_window_is_the_window_but_for_its_tail() -> None:
    basis = parse_basis("kbwf:4,19,2")
    found = module.basis_function(basis, 4.0)
    # 0.15 % of its energy is beyond the cut, a share of sqrt(0.0015) = 0.04 of its norm
    np.testing.assert_allclose(found["value"], basis.value(np.abs(found["r"])), atol=0.04)


def test_curves_end_at_the_nyquist_frequency_of_the_voxels(made: Reproduction) -> None:
    numbers = json.loads(made.json.read_text("utf-8"))["numbers"]
    coarse, fine = numbers["scales"]
    assert [coarse["voxels"], fine["voxels"]] == [16, 32]
    for entry, band in ((coarse, 7), (fine, 15)):
        curve = np.array(entry["fsc"])
        assert curve.shape == (17,)
        assert curve[1 : band + 1].min() > 0.9
        assert not curve[band + 1 :].any()
        step = numbers["frequency"][1]
        assert band * step < entry["cutoff"] < (band + 1) * step
        assert entry["nyquist"] == pytest.approx((band + 1) * step)
    assert [check.passed for check in made.outcome.checks[:2]] == [True, True]


def test_numbers_and_picture(made: Reproduction, tmp_path: Path) -> None:
    document = json.loads(made.json.read_text("utf-8"))
    numbers = document["numbers"]
    assert numbers["parameters"]["basis"] == TINY.basis
    assert numbers["pixel_size_A"] == 8.0
    assert numbers["specimen"].startswith("tetramer")
    assert len(numbers["truth"]["profile"]) == 32
    assert all(entry["solve_seconds"] > 0 and entry["fold_seconds"] > 0 for entry in numbers["scales"])
    # the profile of the fine map is that of the truth, along the row that varies most
    truth, fine = np.array(numbers["truth"]["profile"]), np.array(numbers["scales"][1]["profile"])
    assert np.corrcoef(truth, fine)[0, 1] > 0.99
    again = tmp_path / "again.png"
    module.draw(numbers, again)
    assert again.read_bytes() == made.png.read_bytes()


@pytest.mark.usefixtures("tiny")
def test_batches_add_up_and_each_is_timed(
    made: Reproduction, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "batch_size", lambda n: 50)
    ticks = itertools.count()
    monkeypatch.setattr(module.time, "process_time", lambda: float(next(ticks)))
    for entry, once in zip(outcome(tmp_path).numbers["scales"], made.outcome.numbers["scales"], strict=True):
        # sums in float32 over other batches
        np.testing.assert_allclose(entry["fsc"], once["fsc"], atol=1e-4)
        # three batches and the end, each a tick
        assert entry["fold_seconds"] == 4.0
        assert entry["solve_seconds"] == 1.0


@pytest.mark.usefixtures("tiny")
def test_wrong_poses_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def shuffled(particles: Particles, pixel_size: float, scale: float) -> Any:
        return make_views(particles.take(np.roll(np.arange(len(particles)), 1)), pixel_size, scale)

    monkeypatch.setattr(module, "make_views", shuffled)
    found = outcome(tmp_path)
    assert [check.passed for check in found.checks[:2]] == [False, False]


def scales(*seconds: tuple[float, float]) -> list[dict[str, Any]]:
    """Perfect curves, folded and solved in so many seconds; coarse to fine."""
    return [
        {"scale": 2**k, "cutoff": 0.99, "nyquist": 1.0, "mean_fsc_in_band": 1.0}
        | {"fold_seconds": fold, "solve_seconds": solve}
        for k, (fold, solve) in enumerate(reversed(seconds))
    ][::-1]


def test_costs_are_compared_octave_by_octave() -> None:
    *_, solve, overall = module.checks(SMALL, scales((1, 1), (2, 5), (4, 40)))
    assert (solve.passed, solve.measured) == (True, "8.0×, 5.0×")
    # 44 s over 2 s in two octaves
    assert (overall.passed, overall.measured) == (True, "4.7×")


def test_an_octave_that_saves_too_little_fails() -> None:
    *_, solve, overall = module.checks(SMALL, scales((0.1, 1), (0.1, 3), (0.1, 60)))
    assert (solve.passed, overall.passed) == (False, True)
    *_, solve, overall = module.checks(SMALL, scales((10, 1), (12, 8), (14, 64)))
    assert (solve.passed, overall.passed) == (True, False)


def test_a_curve_that_ends_early_fails() -> None:
    early = scales((1, 1), (8, 8))
    early[0]["cutoff"] = 0.79
    cutoff, mean, *_ = module.checks(SMALL, early)
    assert (cutoff.passed, mean.passed) == (False, True)
    early[0] |= {"cutoff": 0.81, "mean_fsc_in_band": 0.94}
    cutoff, mean, *_ = module.checks(SMALL, early)
    assert (cutoff.passed, mean.passed) == (True, False)


@pytest.mark.usefixtures("tiny")
def test_atoms_are_seen_in_a_box_that_they_fill(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    positions = rng.normal(size=(60, 3))
    positions *= 30 * rng.random((60, 1)) ** (1 / 3) / np.linalg.norm(positions, axis=1, keepdims=True)
    model = tmp_path / "model.pdb"
    model.write_text("".join(ATOM.format(i + 1, *p) for i, p in enumerate(positions)) + "END\n")
    found = outcome(tmp_path, str(model))
    assert found.numbers["specimen"] == str(model)
    # a ball of about 30 Å is 0.32 boxes in radius
    assert found.numbers["pixel_size_A"] * 32 == pytest.approx(30 / FILL, rel=0.15)
    assert [check.passed for check in found.checks[:2]] == [True, True]
