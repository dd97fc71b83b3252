"""``dcryo postprocess``: what it prints, how options become settings, and what it says of bad input."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcryo.cli import postprocess as command
from dcryo.cli.main import command_parser, main
from dcryo.imaging.radial import filtered, low_pass
from dcryo.io.mrc import write_volume
from dcryo.methods.postprocess_config import PostprocessConfig

N = 24
QUICK = ["--no-local-resolution", "--no-directional", "--mask-extend", "1", "--mask-edge", "2"]


@pytest.fixture
def halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Names of two half maps of a ball, which agree up to the shell 8."""
    monkeypatch.chdir(tmp_path)
    x = np.arange(N) - N // 2
    ball = np.sqrt(x[:, None, None] ** 2 + x[:, None] ** 2 + x**2) < 5
    signal = filtered(ball * (2 + np.random.default_rng(0).standard_normal((N, N, N))), low_pass(8))
    for number in (1, 2):
        noise = 0.1 * np.random.default_rng(number).standard_normal((N, N, N))
        write_volume(f"half{number}.mrc", signal + noise, 3.0)
    return "half1.mrc", "half2.mrc"


def test_numbers_for_a_human_and_for_a_program(
    halves: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["postprocess", halves[0], "a", *QUICK]) == 0
    said = capsys.readouterr()
    assert "resolution, FSC 0.143" in said.out
    assert "postprocess.mrc" in said.out
    assert "the other half map is half2.mrc" in said.err
    assert "local resolution" not in said.out  # what was not measured is not shown
    Path(halves[1]).rename("other.mrc")
    assert main(["postprocess", halves[0], "b", "--half2", "other.mrc", "--json", *QUICK]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert result["folder"] == "b"
    assert 72 / 12 <= result["resolution_0143_A"] < 72 / 6
    assert result["sphericity"] is None
    assert sorted(path.name for path in Path("b").iterdir()) == result["files"]


def test_every_setting_has_an_option_of_its_name() -> None:
    """Those that are on by default are switched off by --no-NAME."""
    values = {
        "maps": "regularised", "mask": "m.mrc", "mtf": "k.star", "bfactor": "-70.5", "seed": "3",
        "fsc_weighting": None, "local_resolution": None, "directional": None,
    }  # fmt: skip
    parser = command_parser("postprocess", command)
    for field in fields(PostprocessConfig):
        option = field.name.replace("_", "-")
        value = values.get(field.name, "7.5")
        before = vars(parser.parse_args(["run.zarr", "out"]))
        given = [f"--no-{option}"] if value is None else [f"--{option}", value]
        after = vars(parser.parse_args(["run.zarr", *given, "out"]))
        changed = {name for name in after if after[name] != before[name]}
        assert changed == {f"no_{field.name}" if value is None else field.name}
        if value is not None:
            assert str(after[field.name]) == value
            assert before[field.name] == field.default


def test_options_reach_the_settings(halves: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--bfactor", "-33", "--lowpass", "12", "--pixel-size", "2.5", "--mask-threshold", "0.7"]
    assert main(["postprocess", halves[0], "a", *QUICK, *options, "--no-fsc-weighting", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["bfactor"], result["lowpass_A"], result["pixel_size"]) == (-33, 12, 2.5)
    assert result["mask_threshold"] == 0.7
    config = json.loads(Path("a/postprocess.json").read_text())["config"]
    assert (config["fsc_weighting"], config["directional"], config["mask_edge"]) == (False, False, 2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["half1.mrc", "out", "--mask", "none.mrc"], "none.mrc"),
        (["half1.mrc", "out", "--mask-threshold", "99"], "--mask-threshold"),
        (["half1.mrc", "out", "--half2", "half1.mrc"], "same map"),
        (["half1.mrc", "out", "--pixel-size", "-1"], "--pixel-size -1"),
        (["half1.mrc", "out", "--bfactor", "much"], "'much' is neither a number nor auto"),
        (["half1.mrc", "out", "--mtf", "half1.mrc"], "half1.mrc"),
        (["half1.mrc", "out", "--locres-radius", "0"], "--locres-radius 0"),
        (["none.zarr", "out"], "give a run"),
        (["half1.mrc"], "required: OUT"),
        (["half1.mrc", "half2.mrc"], "half2.mrc: is a file"),
    ],
)
def test_bad_input_is_one_sentence(
    halves: tuple[str, str], options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["postprocess", *options]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert says in said.err.splitlines()[-1]
    assert sorted(path.name for path in Path().iterdir()) == sorted(halves)
