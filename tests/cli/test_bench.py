"""``dcryo bench``: a tiny workload through the command, failing peers, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dcryo.bench import peers, suites
from dcryo.bench.peers import PEERS, Peer
from dcryo.bench.suites import SUITES, Contender, Suite
from dcryo.cli.main import main


@pytest.fixture(autouse=True)
def inside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def fake(name: str, peer: str = "scipy") -> Contender:
    return Contender(peer, f"{peer}, {name}", f"bench.fakes:{name}")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite in which we burn CPU seconds, one peer burns them twice, and another fails."""
    contenders = (fake("Burns", "dcryo"), fake("Runs"), fake("CannotBeMade"))
    monkeypatch.setitem(SUITES, "fakes", Suite("nothing", ((8, 3),), ((8, 3), (8, 4)), {"x": contenders}))


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    return value


def test_a_small_workload(capsys: pytest.CaptureFixture[str]) -> None:
    line = "bench out --suite convolution,threads --box 16 --count 4 --rounds 2 --peers scipy --threads 1,2"
    assert main([*line.split(), "--json"]) == 0
    result = said(capsys)
    document = json.loads(Path("out/bench.json").read_text("utf-8"))
    assert {key: result[key] for key in document} == document
    assert (result["json"], result["png"]) == ("out/bench.json", "out/bench.png")
    assert sorted(path.name for path in Path("out").iterdir()) == ["bench.json", "bench.png"]
    assert Path("out/bench.png").read_bytes().startswith(b"\x89PNG")
    cases = result["cases"]
    names = [("convolution", "HᵀHc", 1), ("convolution", "HᵀHc", 2)]
    names += [("threads", what, 1) for what in ("Hc", "Hᵀb", "kernel")]
    assert [(case["suite"], case["what"], case["threads"]) for case in cases] == names
    assert [case["clock"] for case in cases] == ["cpu", "wall", "wall", "wall", "wall"]
    for case in cases:
        assert (case["box"], case["count"]) == (16, 4)
        for line_ in case["lines"]:
            assert line_["status"] == "measured"
            assert line_["calls"] == 2
            assert 0 < line_["cpu"]["lowest"] <= line_["cpu"]["median"] <= line_["cpu"]["highest"]
            # the cloud's edges are cut off by a box of 16
            assert 0 < line_["checks"]["relative"] < 1e-2
    compared = {peer["name"] for peer in result["peers"] if peer["compared"]}
    assert compared == {"scipy"}


def test_a_failing_peer_is_reported_and_the_others_go_on(
    fakes: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("bench out --suite fakes --rounds 1 --peers scipy --json".split()) == 0
    ours, runs, broken = said(capsys)["cases"][0]["lines"]
    assert broken["status"] == "failed"
    assert broken["reason"] == "OSError: libpeer.so: undefined symbol"
    assert broken["cpu"] == {"median": None, "lowest": None, "highest": None}
    assert broken["ratios"] == []
    (ratio,) = runs["ratios"]
    assert ratio["of"] == "dcryo, Burns"
    assert ratio["median"] == pytest.approx(ours["cpu"]["median"] / runs["cpu"]["median"])
    assert runs["memory"]["before"] == 0
    assert runs["memory"]["above"] == runs["memory"]["peak"]
    assert main("bench out --suite fakes --rounds 1 --peers scipy --overwrite".split()) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert any("scipy, CannotBeMade" in line and "failed" in line and "libpeer.so" in line for line in lines)
    assert any("dcryo, Burns" in line and "0.2" in line for line in lines)
    assert lines[-2:] == ["out/bench.json", "out/bench.png"]
    assert "scipy, CannotBeMade failed: OSError: libpeer.so" in captured.err


def test_our_own_failure_is_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contenders = (fake("CannotBeMade", "dcryo"), fake("Fake"))
    monkeypatch.setitem(SUITES, "fakes", Suite("nothing", ((8, 3),), (), {"x": contenders}))
    assert main("bench out --suite fakes --rounds 1 --peers scipy --json".split()) == 2
    ours, theirs = said(capsys)["cases"][0]["lines"]
    assert (ours["status"], theirs["status"]) == ("failed", "measured")
    assert theirs["ratios"] == []


def test_full_sizes(fakes: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("bench out --suite fakes --rounds 1 --peers none --full --json".split()) == 0
    result = said(capsys)
    assert result["full"] is True
    assert [(case["box"], case["count"]) for case in result["cases"]] == [(8, 3), (8, 4)]
    assert [len(case["lines"]) for case in result["cases"]] == [1, 1]


def test_list(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "absent", Peer("nobody", "pip install absent", module="no_such_module"))
    monkeypatch.setitem(PEERS, "program", Peer("nobody", "buy it", program="no_such_program"))
    assert main(["bench", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in (*SUITES, *PEERS))
    assert "nobody: not installed; pip install absent" in out
    assert "nobody: not installed; buy it" in out
    assert main(["bench", "--list", "--json"]) == 0
    listed = said(capsys)
    assert [suite["name"] for suite in listed["suites"]] == list(SUITES)
    assert {peer["name"]: peer["version"] for peer in listed["peers"]} == peers.versions()
    assert peers.versions()["scipy"] is not None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("", "give a folder for the results, or --list"),
        (
            "out --suite operators,operator",
            "--suite operator: not known; give some of operators, convolution",
        ),
        ("out --peers scipy,fftw", "--peers fftw: not known; give auto, none, or some of scipy, ducc0"),
        ("out --peers absent", "--peers absent: it is not installed here; pip install absent"),
        ("out --peers ,", "',' is not a list of names with commas between them"),
        ("out --threads 1,some", "--threads some: give numbers, 1 or more, or all"),
        ("out --threads 0", "--threads 0: give numbers"),
        ("out --rounds 0", "--rounds 0: give 1 or more"),
        ("out --box 15", "--box 15: give an even number, 16 or more"),
        ("out --count 0", "--count 0: give 1 or more"),
        ("out --device gpu", "--device gpu: give cpu or cuda"),
        ("out --seed -1", "--seed -1: give an integer"),
        ("out --limit 0", "--limit 0: give a positive number of seconds"),
        ("there", "there/bench.json exists already; give another folder, or --overwrite"),
        ("there/bench.json", "there/bench.json is a file; give the name of a folder"),
    ],
)
def test_bad_input(
    arguments: str, sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PEERS, "absent", Peer("nobody", "pip install absent", module="no_such_module"))
    Path("there").mkdir()
    Path("there/bench.json").write_text("mine")
    assert main(["bench", *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    complaint = captured.err.splitlines()[-1]
    assert complaint.startswith("dcryo bench: ")
    assert sentence in complaint
    assert [path.name for path in Path().iterdir()] == ["there"]
    assert Path("there/bench.json").read_text() == "mine"


def test_nothing_is_left_of_a_run_that_breaks(fakes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(suites, "sizes", breaks)
    assert main("bench out --suite fakes --peers none".split()) == 130
    assert list(Path().iterdir()) == []
