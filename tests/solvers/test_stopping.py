"""Stopping rules, alone and combined."""

from __future__ import annotations

import pytest

from dcryo.solvers.stopping import Progress, Rule, iterations, objective_change, relative_change


def always(text: str) -> Rule:
    return Rule(lambda _: text)


NEVER = Rule(lambda _: None)
SOME = Progress([3.0, 2.0], 3.0, 0.5)


def test_iterations_count_the_objectives() -> None:
    assert iterations(2).check(SOME) == "2 iterations done"
    assert iterations(3).check(SOME) is None


def test_relative_change() -> None:
    assert relative_change(0.6).check(SOME) is not None
    assert relative_change(0.5).check(SOME) is None


@pytest.mark.parametrize(
    ("objectives", "stops"),
    [
        ([100.0, 50.0, 0.3, 0.2, 0.1], False),  # still falls by 0.07 of 100 a step: wait until 0.01 of it
        ([100.0, 50.0, 10.0, 9.999, 9.998, 9.997], True),
        ([100.0, 50.0, 10.0], False),  # too few to tell
        ([100.0, 100.0, 100.0, 100.0, 100.0], False),  # never fell: nothing to measure against
        ([100.0, 50.0, 10.0, 10.0, 20.0, 60.0], False),  # rises: this is not convergence
    ],
)
def test_objective_change_is_measured_against_the_fall(objectives: list[float], stops: bool) -> None:
    reason = objective_change(5e-4).check(Progress(objectives, objectives[0], 1.0))
    assert (reason is not None) == stops


def test_objective_change_does_not_see_a_constant() -> None:
    """The energy of the noise is in every value; the rule must not care how much it is."""
    values = [100.0, 50.0, 10.0, 9.0, 8.5, 8.3]
    for tolerance in (1e-3, 1e-2, 1e-1):
        one = objective_change(tolerance).check(Progress(values, 100.0, 1.0))
        other = objective_change(tolerance).check(Progress([v + 4096.0 for v in values], 4196.0, 1.0))
        assert one == other


def test_a_warm_start_is_measured_by_the_fall_from_zero() -> None:
    """It begins near the end: against its own fall it would never be done."""
    values = [10.001, 10.0004, 10.0002, 10.0001, 10.0]
    assert objective_change(1e-4).check(Progress(values, 100.0, 1.0)) is not None
    assert objective_change(1e-4).check(Progress(values, values[0], 1.0)) is None


def test_the_turn_of_a_swing_is_not_the_end() -> None:
    """Down, up, and down again: where the endpoints of a window happen to agree."""
    values = [100.0, 20.0, 10.0, 6.0, 4.0, 3.0, 3.5, 3.5, 3.0, 2.0, 2.2, 2.4, 2.4, 2.2]
    assert objective_change(1e-2).check(Progress(values[:9], 100.0, 1.0)) is not None
    assert objective_change(1e-2).check(Progress(values[:9], 100.0, 1.0, swinging=True)) is None
    # from 4 to 2 in nine iterations is 0.227 % of the fall for each
    assert objective_change(2.2e-3).check(Progress(values, 100.0, 1.0, swinging=True)) is None
    assert objective_change(2.4e-3).check(Progress(values, 100.0, 1.0, swinging=True)) is not None
    assert objective_change(1e-2).check(Progress(values[5:], 100.0, 1.0, swinging=True)) is None  # too few


def test_or_stops_with_the_first_that_says_so() -> None:
    assert (always("a") | always("b")).check(SOME) == "a"
    assert (NEVER | always("b")).check(SOME) == "b"
    assert (NEVER | NEVER).check(SOME) is None


def test_and_needs_both() -> None:
    assert (always("a") & always("b")).check(SOME) == "a; b"
    assert (always("a") & NEVER).check(SOME) is None
    assert (NEVER & always("b")).check(SOME) is None


def test_rules_nest() -> None:
    rule = (iterations(2) & relative_change(0.1)) | iterations(5)
    assert rule.check(SOME) is None
    assert rule.check(Progress([3.0, 2.0], 3.0, 0.01)) is not None
    assert rule.check(Progress([1.0] * 5, 3.0, 1.0)) == "5 iterations done"
