"""The sentences that tell a user what to do next, each by the finding that calls for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dcryo.report.advice import next_steps

FREQUENCY = np.arange(33) / 192
FSC = {"frequency": FREQUENCY, "randomised": np.where(FREQUENCY < 0.06, 1.0, 0.02)}
WEIGHTS = {"weight": np.array([0.1, 0.01, 0.001, 0.1, 0.01, 0.001])}


def steps(**changes: Any) -> list[str]:
    """Advice on a run with nothing wrong, but for ``changes``."""
    given: dict[str, Any] = {
        "run": "run.zarr",
        "pixel_size": 3.0,
        "result": {"resolution_0143_A": 8.0, "weight": 0.01},
        "config": {"scale": 1.0},
        "fsc": FSC,
        "weights": WEIGHTS,
        "coverage": 0.9,
    }
    return next_steps(**(given | changes))


def test_a_sound_run_is_to_be_looked_at() -> None:
    (only,) = steps()
    assert "`dcryo export run.zarr map.mrc`" in only


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fsc": None}, "`--halves auto`"),
        ({"result": {"resolution_0143_A": None, "weight": 0.01}}, "`--halves auto`"),
        ({"coverage": 0.04}, "Preferred orientation: the thinnest Fourier direction holds 4 %"),
        ({"result": {"resolution_0143_A": 8.0, "weight": 0.1}}, "`--weight`"),
        ({"result": {"resolution_0143_A": 8.0, "weight": 0.001}}, "`--weight`"),
        ({"result": {"resolution_0143_A": 6.0, "weight": 0.01}}, "smaller pixel"),
        ({"result": {"resolution_0143_A": 6.0, "weight": 0.01}, "config": {"scale": 2.0}}, "`--scale 1`"),
        ({"fsc": FSC | {"randomised": np.full(33, 0.4)}}, "still correlate by 0.40"),
    ],
)
def test_a_finding_comes_before_the_default(changes: dict[str, Any], words: str) -> None:
    first, last = steps(**changes)
    assert words in first
    assert "ChimeraX" in last


def test_a_weight_given_by_hand_is_no_end_of_a_path() -> None:
    assert len(steps(weights={"weight": np.array([0.01])})) == 1
    assert len(steps(weights=None)) == 1
