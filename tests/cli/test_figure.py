"""``dcryo figure``: what it prints and writes, its exit code, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dcryo.cli.main import main
from dcryo.figures import EXPERIMENTS, table_4_1


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = table_4_1.Parameters(
        box=16, views=12, counts=(6, 12), rounds=1, least_gain=0.0, latest_break_even=10**9
    )
    monkeypatch.setattr(table_4_1, "SMALL", small)
    monkeypatch.setattr(table_4_1, "THESIS_BOX", 16)
    monkeypatch.chdir(tmp_path)


def test_a_line_per_check_and_where_the_files_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["figure", "T4.1", "out", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == table_4_1.TITLE
    assert lines[-2:] == ["out/table-4.1.json", "out/table-4.1.png"]
    assert sum(line.startswith("pass  ") for line in lines) == 4
    assert any(line.startswith("Hc  ") and "CPU s at 16³, 12 views" in line for line in lines)
    assert sorted(path.name for path in Path("out").iterdir()) == ["table-4.1.json", "table-4.1.png"]


def test_a_check_that_fails_is_the_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_4_1, "SMALL", replace(table_4_1.SMALL, largest_error=0.0))
    assert main(["figure", "table-4.1", "out", "--json"]) == 2
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["passed"] is False
    assert [check["passed"] for check in result["checks"]] == [False, True, True, True]
    assert result["numbers"] == json.loads(Path(result["json"]).read_text("utf-8"))["numbers"]
    assert main(["figure", "table-4.1", "out", "--overwrite"]) == 2
    assert "FAIL  error of the convolution" in capsys.readouterr().out


def test_the_seed_is_that_of_the_views(capsys: pytest.CaptureFixture[str]) -> None:
    errors = []
    for out, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        main(["figure", "table-4.1", out, "--seed", seed, "--json"])
        errors.append(json.loads(capsys.readouterr().out)["numbers"]["error_with_ctf"])
    assert errors[0] == errors[1] != errors[2]


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["figure", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(EXPERIMENTS)
    assert lines[0].endswith(table_4_1.TITLE)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give an experiment and a folder, as figure-4.1 figures/, or --list"),
        (["figure-4.1"], "give an experiment and a folder"),
        (["figure-4.17", "out"], "there is no experiment 'figure-4.17'; give one of table-4.1"),
        (["T4.1", "out", "--seed", "-1"], "--seed -1"),
        (["T4.1", "out", "--atoms", "model.pdb"], "no specimen that atoms could replace"),
        (["figure-4.1", "out", "--atoms", "model.pdb"], "model.pdb"),
        (["T4.1", "out", "--map", "map.mrc"], "no specimen that a map could replace"),
        (["figure-4.8", "out", "--map", "map.mrc"], "map.mrc"),
        (["T4.1", "there"], "there/table-4.1.json exists already"),
        (["T4.1", "there/table-4.1.json"], "is a file; give the name of a folder"),
    ],
)
def test_bad_input(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("there").mkdir()
    Path("there/table-4.1.json").write_text("mine")
    assert main(["figure", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    complaint = captured.err.splitlines()[-1]
    assert complaint.startswith("dcryo figure: ")
    assert sentence in complaint
    assert [path.name for path in Path().iterdir()] == ["there"]
    assert Path("there/table-4.1.json").read_text() == "mine"
