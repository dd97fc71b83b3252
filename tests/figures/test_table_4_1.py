"""Table 4.1 in a tiny box: the product and its error, the factors, and the picture from the JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dcryo.bench.timed_views import Problem
from dcryo.figures import table_4_1 as module
from dcryo.figures.experiment import Outcome, Setting, reproduce
from dcryo.figures.table_4_1 import SMALL, Parameters
from dcryo.methods.progress import Silent

TINY = Parameters(box=16, views=12, counts=(6, 12, 18), rounds=1)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL", TINY)
    monkeypatch.setattr(module, "THESIS_BOX", 20)


def outcome(tmp_path: Path) -> Outcome:
    return module.run(Setting(False, 0, 1, Silent(), tmp_path))


def timed(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """Let the five operations take so many seconds, and everything else one."""
    names = {"project": "Hc", "backproject": "Hᵀb", "direct": "HᵀHc, direct", "fast": "HᵀHc, convolution"}
    given = {names.get(name, name): value for name, value in seconds.items()}

    def cpu_seconds(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
        return {name: given.get(name, 1.0) for name in calls}

    monkeypatch.setattr(module, "cpu_seconds", cpu_seconds)


def passed(found: Outcome) -> list[bool]:
    return [check.passed for check in found.checks]


def test_presets_are_the_thesis_case_and_a_smaller_one() -> None:
    assert (module.FULL.box, module.FULL.views) == (128, 500)
    assert (SMALL.box, SMALL.views) == (64, 200)
    assert module.FULL.views in module.FULL.counts


def test_error_sees_a_kernel_of_other_views(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spectrum = Problem.spectrum
    monkeypatch.setattr(Problem, "spectrum", lambda self: spectrum(self.first(len(self) - 1)))
    found = outcome(tmp_path)
    # one view of twelve is missing from the sum
    assert found.numbers["error"] > 0.02
    assert not found.checks[0].passed


def test_factors_follow_from_the_seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    timed(monkeypatch, direct=1.0, fast=0.1, kernel=4.0)
    found = outcome(tmp_path)
    assert found.numbers["gain"] == pytest.approx(10)
    # 4 + 0.1 m < m from m = 4.44 on
    assert found.numbers["break_even"] == 5
    assert found.numbers["gain_in_a_solve"] == pytest.approx(100 / 14)
    # the product at the thesis' box took a second, more than the table's
    assert passed(found) == [True, False, True, True]
    assert found.checks[1].measured == "1.000 s"


def test_a_slow_convolution_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    timed(monkeypatch, direct=1.0, fast=1.0, kernel=1.0)
    found = outcome(tmp_path)
    assert passed(found) == [True, False, False, False]
    made = reproduce("T4.1", tmp_path / "out")
    assert made.outcome.numbers["break_even"] is None
    assert made.png.stat().st_size > 10_000


def test_a_dear_kernel_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    timed(monkeypatch, direct=1.0, fast=0.1, kernel=9.9)
    assert passed(outcome(tmp_path))[3] is False
    timed(monkeypatch, direct=1.0, fast=0.1, kernel=8.9)
    assert passed(outcome(tmp_path))[3] is True


def test_numbers_and_picture(tmp_path: Path) -> None:
    made = reproduce("table-4.1", tmp_path, threads=1)
    document = json.loads(made.json.read_text("utf-8"))
    numbers: dict[str, Any] = document["numbers"]
    assert numbers["parameters"]["box"] == 16
    assert numbers["thesis_seconds"]["HᵀHc, direct"] == 257.41
    assert numbers["by_views"]["views"] == [6, 12, 18]
    for name, seconds in numbers["seconds"].items():
        assert len(numbers["by_views"][name]) == 3
        assert numbers["by_views"][name][1] == seconds
    assert all(value > 0 for value in numbers["seconds"].values())
    assert [check["passed"] for check in document["checks"]][:2] == [True, True]
    assert any(label == "across" and "other hardware" in text for label, text in made.outcome.shown)
    again = tmp_path / "again.png"
    module.draw(numbers, again)
    assert again.read_bytes() == made.png.read_bytes()
