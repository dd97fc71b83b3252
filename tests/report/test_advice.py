"""The sentences that tell a user what to do next, each by the finding that calls for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dcryo.report.advice import lost_particles, next_steps, refinement_steps
from dcryo.report.course import Course, LastPoses

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
        "orientation": None,
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
        ({"orientation": "Preferred orientation: so and so."}, "Preferred orientation: so and so."),
        ({"refinement": ["The refinement used all"]}, "The refinement used all"),
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


def course(
    lost: int = 0, before: int = 0, searched: tuple[int, ...] = (), iteration: int = 4, held: bool = True
) -> Course:
    """A refinement of 200 particles: ``lost`` of them in the end, ``before`` after the iterations before."""
    count = max(iteration, 1)
    table = {
        "iteration": np.arange(1, count + 1),
        "searched": np.isin(np.arange(1, count + 1), searched) * 200,
        "lost": np.append(np.full(count - 1, before), lost),
    }
    views = np.zeros((36, 72), np.int64)
    poses = LastPoses(iteration, 200, 190, lost, views, np.full(200, 0.01), np.full(200, 0.3))
    return Course(table, None, poses, 200, tuple(range(count + 1)) if held else (iteration,))


def test_lost_particles_are_explained() -> None:
    what, how = lost_particles(course(3), "run.zarr")
    assert what.startswith("3 of 200 particles (1.5 %) are lost: their rotation is known no better than 20°")
    assert "`dcryo export run.zarr refined.star --no-lost`" in how
    assert "`poses/0004/lost`" in how


def test_none_lost() -> None:
    (only,) = lost_particles(course(), "run.zarr")
    assert only.startswith("No particle is lost: all rotations are known better than 20°")


def test_the_last_search_has_its_own_count() -> None:
    *_, said = lost_particles(course(0, 7, (1, 2)), "run.zarr")
    assert "of iteration 2, 7 particles were lost; `poses/0002/lost` marks them." in said
    *_, said = lost_particles(course(0, 7, (1, 2), held=False), "run.zarr")
    assert said.endswith("7 particles were lost.")
    *_, said = lost_particles(course(5, 0, (1,)), "run.zarr")
    assert said.endswith("of iteration 1, none was lost.")
    # the last iteration searched itself, and its count is the one before it
    assert len(lost_particles(course(5, 0, (4,)), "run.zarr")) == 2


def test_poses_it_began_with_are_not_lost() -> None:
    assert lost_particles(course(iteration=0), "run.zarr") == []


def test_how_a_refinement_ended() -> None:
    assert refinement_steps(course(), {"rounds": 25}, complete=True) == []
    (unfinished,) = refinement_steps(course(), {"rounds": 4}, complete=False)
    assert "not finished: the page shows it after 4 iterations." in unfinished
    assert "`dcryo refine`" in unfinished
    (all_used,) = refinement_steps(course(), {"rounds": 4}, complete=True)
    assert "`--rounds`" in all_used
    assert refinement_steps(course(10), {"rounds": 25}, complete=True) == []
    (many,) = refinement_steps(course(11), {"rounds": 25}, complete=True)
    assert many.startswith("11 particles (6 %) are lost")
