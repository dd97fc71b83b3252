"""``dcryo fsc --align``: maps in different frames, made from Gaussians that were turned exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcryo.cli.main import main
from dcryo.geometry import rotation_vector_to_matrix
from dcryo.imaging.phantom import gaussian_cloud, rasterise
from dcryo.io.mrc import write_volume

N, PIXEL = 32, 2.0
TURN = rotation_vector_to_matrix([0.4, -0.9, 0.5])
MOVE = np.array([1.5, -0.8, 2.1])


@pytest.fixture
def maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """a.mrc; b.mrc, the same turned by TURN and moved by MOVE voxels; c.mrc, of the other hand as well."""
    monkeypatch.chdir(tmp_path)
    cloud = gaussian_cloud(2, 100, 9.0, 1.2)
    write_volume("a.mrc", rasterise(cloud, N), PIXEL)
    for name, hand in (("b", 1), ("c", -1)):
        placed = replace(cloud, centers=hand * cloud.centers @ TURN + MOVE)
        write_volume(f"{name}.mrc", rasterise(placed, N), PIXEL)


@pytest.fixture
def fsc(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def run(*arguments: str) -> Any:
        assert main(["fsc", *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.mark.usefixtures("maps")
def test_maps_in_different_frames_agree_once_aligned(fsc: Callable[..., Any]) -> None:
    before = fsc("a.mrc", "b.mrc", "--mask-radius", "0.4")
    assert "alignment" not in before
    assert before["mean_fsc"] < 0.5
    after = fsc("a.mrc", "b.mrc", "--mask-radius", "0.4", "--align")
    assert min(after["fsc"][1:-1]) > 0.99
    found = after["alignment"]
    # 0.1 degrees and 0.02 voxels: a cut-off of a quarter of this small box
    np.testing.assert_allclose(found["rotation"], TURN, atol=2e-3)
    np.testing.assert_allclose(found["translation_A"], MOVE * PIXEL, atol=0.02 * PIXEL)
    assert found["angle_deg"] == pytest.approx(np.degrees(np.sqrt(0.4**2 + 0.9**2 + 0.5**2)), abs=0.1)
    assert found["mirrored"] is False
    assert found["correlation"] > 0.999


@pytest.mark.usefixtures("maps")
def test_the_other_hand(fsc: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert fsc("a.mrc", "c.mrc", "--align")["mean_fsc"] < 0.8
    after = fsc("a.mrc", "c.mrc", "--align", "--hand")
    assert after["alignment"]["mirrored"] is True
    assert after["mean_fsc"] > 0.97  # what is not 1 is the Nyquist shell, and corners turned out of the box
    np.testing.assert_allclose(after["alignment"]["rotation"], TURN, atol=2e-3)
    assert main(["fsc", "a.mrc", "c.mrc", "--align", "--hand"]) == 0
    said = capsys.readouterr().out
    assert "the other hand, turned by 63.2" in said
    assert "moved by (3.0" in said


@pytest.mark.usefixtures("maps")
def test_what_cannot_be_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*arguments: str) -> str:
        assert main(["fsc", *arguments]) == 2
        return capsys.readouterr().err

    assert "--align" in fails("a.mrc", "b.mrc", "--hand")
    write_volume("flat.mrc", np.ones((N, N, N), np.float32), PIXEL)
    sentence = fails("a.mrc", "flat.mrc", "--align")
    assert "flat.mrc" in sentence
    assert "constant" in sentence
