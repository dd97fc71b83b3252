"""Running an experiment: its name, its files, all of them or none, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dcryo.errors import InputError
from dcryo.figures import EXPERIMENTS
from dcryo.figures.experiment import Check, Outcome, Setting, find, load, reproduce

NUMBERS = {"pair": (1, 2), "curve": np.array([0.5, math.nan]), "parameters": {"box": 8}}
CHECKS = (Check("one", True, "1 Å", "2 Å"), Check("other", False, "3", "at most 2"))


class Fake(ModuleType):
    """An experiment that records how it was called."""

    TITLE, SOURCE = "Nothing", "Figure 9.9: nothing"

    def __init__(self) -> None:
        super().__init__("fake")
        self.settings: list[Setting] = []
        self.scratch: list[list[Path]] = []
        self.drawn: list[Mapping[str, Any]] = []
        self.broken = False

    def run(self, setting: Setting) -> Outcome:
        self.settings.append(setting)
        self.scratch.append(list(setting.scratch.iterdir()))
        (setting.scratch / "views.zarr").mkdir()
        return Outcome(dict(NUMBERS), CHECKS, (("pair", "1 and 2"),))

    def draw(self, numbers: Mapping[str, Any], path: Path) -> None:
        self.drawn.append(numbers)
        path.write_bytes(b"half a picture")
        if self.broken:
            raise InputError("the pen is dry")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    module = Fake()
    monkeypatch.setitem(EXPERIMENTS, "figure-9.9", "fake")
    monkeypatch.setitem(sys.modules, "dcryo.figures.fake", module)
    return module


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("table-4.1", "table-4.1"),
        ("T4.1", "table-4.1"),
        ("Table 4.1", "table-4.1"),
        ("figure-4.1", "figure-4.1"),
        ("4.1", "figure-4.1"),
        ("f4.2", "figure-4.2"),
        ("Fig. 4.16", "figure-4.16"),
        (" figure_4.3 ", "figure-4.3"),
        ("4.4", "figure-4.3"),
        ("F4.5", "figure-4.3"),
    ],
)
def test_names_are_found(text: str, name: str) -> None:
    assert find(text) == name


@pytest.mark.parametrize("text", ["T4.2", "table-4.4", "figure-4.17", "4", "", "figure", "xfigure-4.1"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"there is no experiment .*; give one of table-4\.1, figure-4\.1"):
        find(text)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_its_names(name: str) -> None:
    module: Any = load(name)
    assert module.TITLE
    assert "\n" not in module.TITLE
    assert name.partition("-")[0].title() in module.SOURCE
    for preset in (module.SMALL, module.FULL):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(preset, dataclasses.fields(preset)[0].name, None)
    assert callable(module.run)
    assert callable(module.draw)


def test_names_cost_no_import() -> None:
    code = "import sys, dcryo.figures; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"numpy", "matplotlib", "numba"}.isdisjoint(done.stdout.split())


def test_files_hold_what_the_experiment_gave(fake: Fake, tmp_path: Path) -> None:
    made = reproduce("9.9", tmp_path / "new" / "figures", full=True, seed=3, threads=1)
    folder = tmp_path / "new" / "figures"
    assert (made.json, made.png) == (folder / "figure-9.9.json", folder / "figure-9.9.png")
    assert sorted(path.name for path in folder.iterdir()) == ["figure-9.9.json", "figure-9.9.png"]
    document = json.loads(made.json.read_text("utf-8"))
    numbers = {"pair": [1, 2], "curve": [0.5, None], "parameters": {"box": 8}}
    assert document["numbers"] == numbers
    assert fake.drawn == [numbers]
    assert made.outcome.numbers == numbers
    assert (document["experiment"], document["full"], document["seed"]) == ("figure-9.9", True, 3)
    assert document["title"] == "Nothing"
    assert document["passed"] is False
    assert document["checks"][1] == {"name": "other", "passed": False, "measured": "3", "wanted": "at most 2"}
    assert "numpy" in document["versions"]
    (setting,) = fake.settings
    assert (setting.full, setting.seed, setting.threads, setting.atoms) == (True, 3, 1, None)
    assert fake.scratch == [[]]
    assert not setting.scratch.exists()


def test_an_outcome_passes_when_all_its_checks_do() -> None:
    assert Outcome({}, CHECKS[:1]).passed
    assert not Outcome({}, CHECKS).passed


def test_files_in_the_way_are_kept(fake: Fake, tmp_path: Path) -> None:
    picture = tmp_path / "figure-9.9.png"
    picture.write_text("mine")
    with pytest.raises(InputError, match=r"figure-9\.9\.png exists already; .*--overwrite"):
        reproduce("9.9", tmp_path)
    assert not fake.settings, "refused before the work, not after it"
    assert picture.read_text() == "mine"
    reproduce("9.9", tmp_path, overwrite=True)
    assert picture.read_bytes() == b"half a picture"


def test_a_failure_leaves_nothing(fake: Fake, tmp_path: Path) -> None:
    fake.broken = True
    with pytest.raises(InputError, match="the pen is dry"):
        reproduce("9.9", tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_earlier_files(fake: Fake, tmp_path: Path) -> None:
    made = reproduce("9.9", tmp_path)
    before = made.json.read_bytes()
    made.png.write_bytes(b"whole picture")
    fake.broken = True
    with pytest.raises(InputError, match="the pen is dry"):
        reproduce("9.9", tmp_path, seed=5, overwrite=True)
    assert made.json.read_bytes() == before
    assert made.png.read_bytes() == b"whole picture"
    assert len(list(tmp_path.iterdir())) == 2


def test_bad_settings_are_refused_before_anything_is_made(fake: Fake, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--seed -1"):
        reproduce("9.9", tmp_path / "new", seed=-1)
    with pytest.raises(InputError, match=r"figure-9\.9 has no specimen .*--atoms"):
        reproduce("9.9", tmp_path / "new", atoms="model.pdb")
    with pytest.raises(InputError, match=r"figure-9\.9 has no specimen .*--map"):
        reproduce("9.9", tmp_path / "new", map="map.mrc")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file; give the name of a folder"):
        reproduce("9.9", tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert not fake.settings


@pytest.mark.parametrize("what", ["atoms", "map"])
def test_atoms_or_a_map_reach_an_experiment_that_takes_them(fake: Fake, tmp_path: Path, what: str) -> None:
    setattr(fake, f"TAKES_{what.upper()}", True)
    made = reproduce("9.9", tmp_path, **{what: "file"})  # type: ignore[arg-type]
    assert getattr(fake.settings[0], what) == "file"
    assert json.loads(made.json.read_text("utf-8"))[what] == "file"
