"""What is printed: JSON that any reader takes, tables, sizes, and progress for a log."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dcryo.cli import console


def test_json_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json(
        {"a": np.float32(0.5), "b": [np.nan, np.inf], "c": np.arange(3), "d": Path("x"), "e": "Å"}
    )

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    read = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert read == {"a": 0.5, "b": [None, None], "c": [0, 1, 2], "d": "x", "e": "Å"}


def test_table_aligns_and_leaves_out_what_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table([("box", 64), ("pixel size", 1.23456), ("truth", None), ("complete", True)])
    assert capsys.readouterr().out == "box         64\npixel size  1.235\ncomplete    yes\n"


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2e9, "2.0 GB"), (5e15, "5000.0 TB")]
)
def test_sizes(count: float, said: str) -> None:
    assert console.byte_size(count) == said


def test_result_shows_only_what_there_is() -> None:
    rows = console.result_rows({"resolution_0143_A": 4.5, "mean_fsc": None, "bytes_read": 2_000_000})
    assert rows == [("resolution, FSC 0.143", "4.5 Å, between linear half maps"), ("read", "2.0 MB")]


def test_log_says_now_and_then_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with console.progress_on_stderr() as progress:  # stderr is no terminal here
        progress.start("folding", 10)
        for _ in range(4):
            now += 20.0
            progress.advance(2)
        progress.message("a remark")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "folding",
        "folding: 4 of 10 after 40 s",
        "folding: 8 of 10 after 80 s",
        "a remark",
    ]


def test_bars_end_full(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.progress import Progress

    with Progress(disable=True) as rich_bars:
        bars = console.BarProgress(rich_bars)
        bars.start("one", 5)
        bars.advance(3)
        bars.start("two", None)
        bars.advance(2)
        bars.finish()
        assert [task.finished for task in rich_bars.tasks] == [True, True]
