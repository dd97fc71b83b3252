"""Figure 4.2 in tiny boxes: curves end with their voxels, slopes are right, every check can fail."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcryo.figures import figure_4_2 as module
from dcryo.figures.class_averages import ClassAverages, class_poses
from dcryo.figures.experiment import Reproduction, Setting, reproduce
from dcryo.figures.figure_4_2 import FULL, SMALL, Parameters
from dcryo.methods.progress import Silent
from dcryo.methods.specimen import FILL

TINY = Parameters(
    box=24, views=150, classes=20, half_widths_deg=(0, 34.64), few_box=32, few_classes=(4, 24),
    scales=(1, 3), weights=(0.01, 10.0), iterations=30,
)  # fmt: skip

ATOM = "ATOM  {0:5d}  CA  ALA A{0:4d}    {1:8.3f}{2:8.3f}{3:8.3f}  1.00 20.00           C\n"


@pytest.fixture(autouse=True)
def a_phantom_of_few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PHANTOM", "cloud")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Reproduction:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SMALL", TINY)
        patch.setattr(module, "PHANTOM", "cloud")
        return reproduce("figure-4.2", tmp_path_factory.mktemp("figure"), threads=1)


@pytest.fixture(scope="module")
def numbers(made: Reproduction) -> dict[str, Any]:
    return json.loads(made.json.read_text("utf-8"))["numbers"]


def test_presets_are_the_thesis_case_and_a_smaller_one() -> None:
    assert (FULL.box, FULL.views, FULL.classes, FULL.snr) == (128, 20_000, 80, 1.0)
    assert FULL.few_classes == (11, 31, 59, 99)
    assert FULL.few_scale == 3
    assert FULL.weights == (1e-2, 1e-1, 1e0, 1e1, 1e2)
    assert (SMALL.box, SMALL.views, SMALL.classes, len(SMALL.half_widths_deg)) == (48, 2000, 40, 4)
    same = {"box": 128, "views": 20_000, "classes": 80, "half_widths_deg": FULL.half_widths_deg}
    assert replace(SMALL, **same) == FULL


def test_variance_of_the_angles_is_that_of_the_thesis() -> None:
    # deg², the caption of the figure; the half width is rounded to 0.005 of 6.81, twice that in the square
    assert module.variance(SMALL.few_half_width_deg) == pytest.approx(15.47, rel=2e-3)
    assert SMALL.few_half_width_deg in SMALL.half_widths_deg
    drawn = np.random.default_rng(0).uniform(-6.81, 6.81, 100_000)
    # the square of a uniform number has a standard deviation of 0.9 of its mean
    assert drawn.var() == pytest.approx(module.variance(6.81), rel=3 * 0.9 / math.sqrt(100_000))


def test_slopes_are_those_of_straight_lines() -> None:
    levels = [
        {"variance_deg2": v, "scales": [{"r": 10 + 0.5 * v}, {"r": 30 + 0.1 * v}, {"r": 40.0}]}
        for v in (0.0, 4.0, 25.0)
    ]
    np.testing.assert_allclose(module.slopes(levels, lambda entry: entry["r"]), [0.5, 0.1, 0.0], atol=1e-12)


def test_a_curve_ends_with_its_voxels(numbers: dict[str, Any]) -> None:
    robustness = numbers["robustness"]
    assert robustness["common_band"] == 3
    for level in robustness["levels"]:
        for entry, band in zip(level["scales"], (11, 3), strict=True):
            curve = np.array(entry["fsc"])
            assert curve.shape == (13,)
            assert not curve[band + 1 :].any()
            assert entry["common_band_fsc"] == pytest.approx(curve[1:4].mean())
            shell = 24 * robustness["pixel_size_A"] / entry["resolution_A"]
            assert shell <= band + 1
            low = int(shell)
            between = curve[low] + (shell - low) * (curve[min(low + 1, 12)] - curve[low])
            assert between == pytest.approx(0.5, abs=1e-9)
    assert [round(value * 24 * robustness["pixel_size_A"]) for value in robustness["frequency"]] == list(
        range(13)
    )


def test_wrong_angles_cost_resolution_and_the_fine_scale_most(numbers: dict[str, Any]) -> None:
    exact, wrong = numbers["robustness"]["levels"]
    assert (exact["variance_deg2"], wrong["variance_deg2"]) == (0, pytest.approx(400, rel=1e-3))
    assert exact["scales"][0]["fsc"][3] > 0.9
    assert wrong["scales"][0]["resolution_A"] > 1.3 * exact["scales"][0]["resolution_A"]
    assert numbers["robustness"]["slopes"][0] > numbers["robustness"]["slopes"][1]


def test_the_weight_best_by_the_truth_is_one_of_the_grid_and_best(
    made: Reproduction, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for level in made.outcome.numbers["robustness"]["levels"]:
        assert {entry["best_by_truth"]["weight"] for entry in level["scales"]} <= set(TINY.weights)
    p = replace(TINY, half_widths_deg=(0,), weights=(1e-2, 1e3))
    setting = Setting(False, 0, 1, Silent(), tmp_path)
    views = module.make_views(p, p.box, setting)
    (halves,) = views.averaged(p.half_widths_deg, [p.classes])
    equations = views.equations(halves, 1)
    light, heavy = (views.compared(equations, weight) for weight in p.weights)
    assert light["resolution_A"] < heavy["resolution_A"]
    monkeypatch.setattr(module, "slopes", lambda *_: [])
    (level,) = module._robustness(views)["levels"]
    assert level["scales"][0]["best_by_truth"] == {key: light[key] for key in ("weight", "resolution_A")}


def test_numbers_of_classes_at_one_scale_and_scales_at_one_number(numbers: dict[str, Any]) -> None:
    few = numbers["few"]
    assert (few["box"], len(few["frequency"])) == (32, 17)
    assert [entry["classes"] for entry in few["by_classes"]] == [4, 24]
    assert [entry["scale"] for entry in few["by_scale"]] == [1, 3]
    # one weight, found at the scale of the figure without the truth
    assert {entry["weight"] for entry in few["by_scale"]} == {few["by_classes"][0]["weight"]}
    assert few["by_scale"][1]["fsc"] == few["by_classes"][0]["fsc"]
    # 32 pixels are 11 voxels at s = 3, which hold the shells up to 5
    assert [np.flatnonzero(entry["fsc"]).max() for entry in few["by_classes"]] == [5, 5]
    assert np.flatnonzero(few["by_scale"][0]["fsc"]).max() == 15
    found = [entry["resolution_A"] for entry in few["by_scale"]]
    assert few["spread"] == pytest.approx(max(found) / min(found) - 1)
    fewer, more = (entry["common_band_fsc"] for entry in few["by_classes"])
    assert fewer < more
    # the fine map is of the fewest classes as well
    assert few["by_scale"][0]["common_band_fsc"] < (fewer + more) / 2
    assert numbers["few_in_smaller_box"]["box"] == 24


def test_the_picture_is_drawn_from_the_numbers(
    made: Reproduction, numbers: dict[str, Any], tmp_path: Path
) -> None:
    again = tmp_path / "again.png"
    module.draw(numbers, again)
    assert again.read_bytes() == made.png.read_bytes()


def test_pictures_are_of_one_class(tmp_path: Path) -> None:
    setting = Setting(False, 0, 1, Silent(), tmp_path)
    views = module.make_views(TINY, TINY.box, setting)
    halves = views.averaged((0.0, 5.0), (20, 20))
    found = module._pictures(views.store, halves)
    assert len(found["averages"]) == 2
    first = views.store.particles(0, 1).rotation
    direction = module.quaternion_to_matrix(first)[0, 2]
    index = int(np.argmax(class_poses(20)[:, 2] @ direction))
    assert found["counts"] == [int(one.counts[index] + two.counts[index]) for one, two in halves]
    assert found["counts"][0] > 0
    # the view is turned onto its class: it is more like the average than it was
    average = sum(half.sums[index] for half in halves[0])
    (_, (angle,)) = module.assigned(module.quaternion_to_matrix(first), class_poses(20))
    view = module.turned(views.store.images(0, 1)[0], float(angle))
    assert found["view"] == module.encode_section(view, module._limits(view))
    assert np.vdot(view, average) > np.vdot(views.store.images(0, 1)[0], average)


@pytest.mark.usefixtures("made")
def test_class_poses_that_are_wrong_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    true = ClassAverages.equations

    def shuffled(self: ClassAverages, pixel_size: float, scale: float, threads: int = 0) -> Any:
        other = ClassAverages(np.roll(self.poses, 1, axis=0), self.sums.shape[1])
        other.sums, other.counts = self.sums, self.counts
        return true(other, pixel_size, scale, threads)

    monkeypatch.setattr(ClassAverages, "equations", shuffled)
    views = module.make_views(TINY, 32, Setting(False, 0, 1, Silent(), tmp_path))
    found = module._few_classes(views, TINY.few_classes)
    assert found["by_classes"][1]["common_band_fsc"] < 0.9


def outcome_of(slopes: list[float], found: list[float], spread: float) -> list[bool]:
    few = {
        "by_classes": [
            {"classes": n, "resolution_A": r} for n, r in zip(SMALL.few_classes, found, strict=True)
        ],
        "spread": spread,
    }
    return [check.passed for check in module.checks(SMALL, {"slopes": slopes}, few)]


@pytest.mark.parametrize(
    ("slopes", "found", "spread", "passed"),
    [
        ([0.06, 0.07, 0.01, 0.05], [22, 14, 13, 12], 0.1, [True, True, True]),
        ([0.06, 0.01, 0.01, 0.06], [22, 14, 13, 12], 0.1, [False, True, True]),
        ([0.06, 0.01, 0.07, 0.01], [22, 14, 13, 12], 0.1, [False, True, True]),
        ([0.06, 0.01, 0.01, 0.01], [22, 14, 14, 12], 0.1, [True, False, True]),
        ([0.06, 0.01, 0.01, 0.01], [22, 14, 13, 12], 0.11, [True, True, False]),
    ],
)
def test_checks(slopes: list[float], found: list[float], spread: float, passed: list[bool]) -> None:
    assert outcome_of(slopes, found, spread) == passed


def test_atoms_are_seen_in_a_box_that_they_fill(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    positions = rng.normal(size=(40, 3))
    positions *= 30 * rng.random((40, 1)) ** (1 / 3) / np.linalg.norm(positions, axis=1, keepdims=True)
    model = tmp_path / "model.pdb"
    model.write_text("".join(ATOM.format(i + 1, *p) for i, p in enumerate(positions)) + "END\n")
    setting = Setting(False, 0, 1, Silent(), tmp_path, str(model))
    views = module.make_views(replace(TINY, views=4), 24, setting)
    # a ball of about 30 Å is 0.32 boxes in radius
    assert views.store.pixel_size * 24 == pytest.approx(30 / FILL, rel=0.15)
    assert views.store.optics[0].ctf is False
