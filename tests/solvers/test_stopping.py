"""Stopping rules, alone and combined."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dcryo.solvers.stopping import Progress, Rule, iterations, objective_gap, relative_change


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
        ([100.0, 50.0, 0.4, 0.3, 0.2, 0.1], False),  # eight times 0.1 is left: wait for less than 0.5
        ([100.0, 50.0, 10.0, 9.999, 9.998, 9.997], True),
        ([100.0, 50.0, 10.0], False),  # too few to tell
        ([100.0, 100.0, 100.0, 100.0, 100.0], False),  # never fell: nothing to measure against
        ([100.0, 50.0, 10.0, 10.0, 20.0, 60.0], False),  # rises: this is not convergence
    ],
)
def test_gap_is_measured_against_the_fall(objectives: list[float], stops: bool) -> None:
    reason = objective_gap(5e-3, window=3).check(Progress(objectives, objectives[0], 1.0))
    assert (reason is not None) == stops


@pytest.mark.parametrize("tolerance", [3e-2, 3e-3, 3e-4, 3e-5])
@pytest.mark.parametrize("decay", [lambda k: 1 / k**2, lambda k: 0.85**k, lambda k: 0.85**k + 1e-2 / k**2])
def test_stops_within_the_gap_and_not_long_after(decay: Callable[[float], float], tolerance: float) -> None:
    """As an accelerated method falls, in the mean by a geometric series or by 1 / k^2."""
    gaps = [decay(k) / decay(1) for k in range(1, 2000)]
    objectives = [4096.0 + 7.0 * gap for gap in gaps]
    stopped = next(
        k
        for k in range(1, len(gaps))
        if objective_gap(tolerance).check(Progress(objectives[:k], objectives[0], 1.0))
    )
    reached = next(k for k, gap in enumerate(gaps, 1) if gap <= tolerance)
    assert gaps[stopped - 1] <= tolerance
    assert stopped <= 1.5 * reached + 8


def test_gap_does_not_see_a_constant() -> None:
    """The energy of the noise is in every value; the rule must not care how much it is."""
    values = [100.0, 50.0, 10.0, 9.0, 8.5, 8.3]
    for tolerance in (1e-2, 1e-1, 1.0):
        rule = objective_gap(tolerance, window=3)
        one = rule.check(Progress(values, 100.0, 1.0))
        other = rule.check(Progress([v + 4096.0 for v in values], 4196.0, 1.0))
        assert one == other


def test_a_warm_start_is_measured_by_the_fall_from_zero() -> None:
    """It begins near the end: against its own fall it would never be done."""
    values = [10.001, 10.0004, 10.0002, 10.0001, 10.0]
    rule = objective_gap(1e-3, window=3)
    assert rule.check(Progress(values, 100.0, 1.0)) is not None
    assert rule.check(Progress(values, values[0], 1.0)) is None


def test_the_turn_of_a_swing_is_not_the_end() -> None:
    """Down, up, and down again: where the endpoints of a window happen to agree."""
    values = [100.0, 20.0, 10.0, 6.0, 4.0, 3.0, 3.5, 3.5, 3.0, 2.0, 2.2, 2.4, 2.4, 2.2]
    rule = objective_gap(1e-1, window=3)
    assert rule.check(Progress(values[:9], 100.0, 1.0)) is not None
    assert rule.check(Progress(values[:9], 100.0, 1.0, swinging=True)) is None
    # from 3.5 to 2 in six iterations is 0.255 % of the fall for each, and fourteen times that is left
    assert objective_gap(3.5e-2, window=3).check(Progress(values, 100.0, 1.0, swinging=True)) is None
    assert objective_gap(3.7e-2, window=3).check(Progress(values, 100.0, 1.0, swinging=True)) is not None
    assert rule.check(Progress(values[8:], 100.0, 1.0, swinging=True)) is None  # too few


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
