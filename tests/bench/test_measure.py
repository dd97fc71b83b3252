"""What is measured, by contenders that use a known amount of time and memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from bench.fakes import MEBIBYTE, SECONDS, SIZE

from dcryo.bench import measure as measure_module
from dcryo.bench.measure import Line, measure, spread
from dcryo.bench.process import SubjectProcess
from dcryo.bench.subject import Job
from dcryo.bench.suites import Contender

Measure = Callable[..., dict[str, Line]]


@pytest.fixture
def measured(tmp_path: Path) -> Measure:
    """Lines by name of fakes, measured side by side."""
    started: list[SubjectProcess] = []

    def run(*names: str, rounds: int = 2, limit: float = 60.0, threads: int = 1) -> dict[str, Line]:
        def start(contender: Contender, number: int) -> SubjectProcess:
            job = Job(8, 3, 0, number, "cpu", str(tmp_path))
            started.append(SubjectProcess(contender.factory, job, tmp_path / f"{contender.label}.log", limit))
            return started[-1]

        sides = [(Contender("fake", name, f"bench.fakes:{name}"), threads) for name in names]
        lines = measure(sides, start, rounds)
        assert all(process._process.poll() is not None for process in started), "somebody is still alive"
        return {line.contender.label: line for line in lines}

    return run


def test_times_are_those_of_the_call(measured: Measure) -> None:
    lines = measured("Burns", "Sleeps", rounds=2)
    for name in ("Burns", "Sleeps"):
        assert len(lines[name].wall) == len(lines[name].cpu) == 2
        assert min(lines[name].wall) >= SECONDS
    assert min(lines["Burns"].cpu) >= SECONDS
    assert max(lines["Burns"].cpu) < 1.5 * SECONDS  # less than another one's, or than two calls
    assert max(lines["Sleeps"].cpu) < SECONDS / 4  # nothing but waking up


def test_memory_is_what_a_call_takes_above_what_was_there(measured: Measure) -> None:
    lines = measured("Allocates", "Returns", "Prepares", rounds=2)
    # the kernel counts pages in batches, Python frees some of its own and takes some
    low, high = -MEBIBYTE, 8 * MEBIBYTE
    assert low <= lines["Allocates"].peak - lines["Allocates"].resident - SIZE < high
    # a result is dropped before the next call, or two of them were counted
    assert low <= lines["Returns"].peak - lines["Returns"].resident - SIZE / 2 < high
    assert 4 * MEBIBYTE < lines["Returns"].resident < SIZE / 2
    # making a subject is nobody's call
    assert lines["Prepares"].peak - lines["Prepares"].resident < high


def test_a_program_counts_itself(measured: Measure) -> None:
    line = measured("Runs", rounds=1)["Runs"]
    assert SECONDS <= line.cpu[0] < 2.5 * SECONDS  # and starting an interpreter
    assert line.resident == 0
    assert SIZE - MEBIBYTE <= line.peak < SIZE + 40 * MEBIBYTE  # and the interpreter


def test_turns_are_taken_and_turned_round(measured: Measure, tmp_path: Path) -> None:
    lines = measured("Fake", "Talks", rounds=3)
    order = (tmp_path / "order").read_text().split()
    assert order == ["Fake", "Talks", "Fake", "Talks", "Talks", "Fake", "Fake", "Talks"]
    assert all(line.failed is None and line.checks["calls"] == 4 for line in lines.values())


def test_job_and_threads_reach_the_subject(measured: Measure) -> None:
    checks = measured("Sees", rounds=1, threads=3)["Sees"].checks
    assert checks == {"threads": 3, "variable": 3, "here": 1, "box": 8}


def test_who_fails_is_out_and_the_others_go_on(measured: Measure, tmp_path: Path) -> None:
    names = ("Fake", "CannotBeMade", "FailsLater", "Dies")
    lines = measured(*names, rounds=3)
    assert lines["Fake"].failed is None
    assert len(lines["Fake"].cpu) == 3
    assert lines["CannotBeMade"].failed == "OSError: libpeer.so: undefined symbol"
    assert lines["FailsLater"].failed == "ValueError: three is too many"
    assert lines["Dies"].failed == "killed by SIGKILL: last words"
    assert (tmp_path / "order").read_text().split().count("FailsLater") == 3


def test_who_takes_too_long_is_given_up(measured: Measure) -> None:
    lines = measured("Hangs", "Fake", rounds=1, limit=5.0)
    assert lines["Hangs"].failed == "no answer within 5 s"
    assert lines["Fake"].failed is None


def test_a_long_first_call_is_the_measurement(measured: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_module, "PATIENCE", SECONDS / 2)
    lines = measured("Sleeps", "Fake", rounds=2)
    assert len(lines["Sleeps"].wall) == 1
    assert lines["Sleeps"].checks["calls"] == 1
    assert len(lines["Fake"].wall) == 2


def test_the_environment_of_the_parent_is_as_it_was(measured: Measure) -> None:
    before = dict(os.environ)
    measured("Fake", rounds=1, threads=3)
    assert dict(os.environ) == before


def test_spread_of_rounds() -> None:
    assert spread([3.0, 1.0, 8.0]) == {"median": 3.0, "lowest": 1.0, "highest": 8.0}
    assert spread([]) == {"median": None, "lowest": None, "highest": None}
