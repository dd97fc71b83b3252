"""The demonstration, at a fraction of its size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dcryo.cli.main import main
from dcryo.methods import demo as module


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "SIMULATION", replace(module.SIMULATION, box=16, particles=60, snr=1.0))
    monkeypatch.chdir(tmp_path)


def test_demo_leaves_a_report_and_can_be_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 0
    out = capsys.readouterr().out
    assert "resolution, FSC 0.143" in out
    assert "dcryo-demo/report.html" in out
    page = Path("dcryo-demo/report.html")
    assert page.read_text("utf-8").startswith("<!DOCTYPE html>")
    page.unlink()
    Path("dcryo-demo/mine.txt").touch()
    assert main(["demo", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["resolution_0143_A"] > 0
    assert page.exists()
    assert Path("dcryo-demo/mine.txt").exists()


def test_demo_is_of_two_thousand_particles_with_tv_and_nonnegativity() -> None:
    from dcryo.methods.demo import RECONSTRUCTION

    assert (RECONSTRUCTION.prior, RECONSTRUCTION.nonnegative) == ("tv", True)


def test_other_folders_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("thesis")
    folder.mkdir()
    (folder / "chapter.tex").write_text("important")
    assert main(["demo", "thesis"]) == 2
    assert "thesis is not empty" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["chapter.tex"]
    assert main(["demo", "thesis/chapter.tex"]) == 2
    assert (folder / "chapter.tex").read_text() == "important"
    # A file of the same name that says something else is no mark of ours.
    (folder / "demo.json").write_text('["demo"]')
    assert main(["demo", "thesis"]) == 2


def test_empty_folder_is_taken() -> None:
    Path("empty").mkdir()
    assert main(["demo", "empty"]) == 0
