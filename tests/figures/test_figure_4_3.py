"""Figures 4.3 to 4.5 in a tiny box: the specimen is D7, profiles compare what they say, checks can fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dcryo.figures import figure_4_3 as module
from dcryo.figures.experiment import Reproduction, Setting, reproduce
from dcryo.figures.figure_4_3 import FULL, SMALL, Parameters, proteasome
from dcryo.geometry.rotations import rotation_vector_to_matrix
from dcryo.geometry.symmetry import point_group
from dcryo.methods.progress import Silent
from dcryo.methods.specimen import FILL

TINY = Parameters(box=24, views=60, points=8, snr=0.5, scales=(1, 2))

Float64 = NDArray[np.float64]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Reproduction:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SMALL", TINY)
        return reproduce("figure-4.3", tmp_path_factory.mktemp("figure"), threads=1)


@pytest.fixture(scope="module")
def numbers(made: Reproduction) -> dict[str, Any]:
    return json.loads(made.json.read_text("utf-8"))["numbers"]


def test_presets_are_the_thesis_case_and_a_smaller_one() -> None:
    assert (FULL.box, FULL.views, FULL.scales) == (192, 22_884, (1, 2, 3, 4))
    assert (SMALL.box, SMALL.views) == (48, 1500)
    assert replace(SMALL, box=192, views=22_884, points=FULL.points) == FULL


def unmatched(centers: Float64, operation: Float64) -> float:
    """Largest distance of a turned point from the nearest point, by trying all."""
    turned = centers @ operation.T
    return float(np.linalg.norm(turned[:, None] - centers, axis=2).min(axis=1).max())


def test_the_specimen_is_d7_and_no_more() -> None:
    cloud = proteasome(TINY).cloud
    assert len(cloud) == 28 * TINY.points
    for operation in point_group("D7"):
        assert unmatched(cloud.centers, operation) < 1e-9
    others = [np.diag([1.0, 1, -1]), np.diag([-1.0, 1, 1]), np.diag([-1.0, -1, -1]), np.diag([-1.0, 1, -1])]
    others += [rotation_vector_to_matrix([0, 0, 2 * np.pi / 14])]
    for operation in others:
        assert unmatched(cloud.centers, operation) > 0.2


def test_its_samples_are_symmetric_too() -> None:
    specimen = proteasome(TINY)
    volume = specimen.volume()
    inner = volume[1:, 1:, 1:]  # without the planes at -n/2, which have no partner
    # the twofold axis along x takes (x, y, z) to (x, -y, -z): exact on the lattice
    np.testing.assert_allclose(inner[::-1, ::-1, :], inner, atol=1e-5 * volume.max())
    # masses turn with their points: the transform at a turned frequency is the same
    cloud, q = specimen.cloud, np.array([0.31, -0.22, 0.4])
    turned = np.asarray(point_group("D7")) @ q
    values = np.exp(-1j * turned @ cloud.centers.T) @ cloud.mass
    np.testing.assert_allclose(values, values[0], rtol=1e-9)


def test_28_subunits_in_four_rings_that_fit() -> None:
    specimen = proteasome(SMALL)
    places = specimen.cloud.centers.reshape(-1, SMALL.points, 3).mean(axis=1) * specimen.pixel_size
    assert places.shape == (28, 3)
    heights, count = np.unique(np.round(places[:, 2], 3), return_counts=True)
    np.testing.assert_allclose(heights, [-55, -19, 19, 55], atol=1e-3)
    np.testing.assert_array_equal(count, 7)
    np.testing.assert_allclose(sorted(set(np.round(np.hypot(*places[:, :2].T), 3))), [33, 36], atol=1e-3)
    assert specimen.radius <= (FILL + 0.01) * SMALL.box * specimen.pixel_size
    # two kinds: as many masses as there are points in two subunits
    assert len(np.unique(np.round(specimen.cloud.mass, 9))) == 2 * SMALL.points
    assert proteasome(FULL).pixel_size * FULL.box == pytest.approx(specimen.pixel_size * SMALL.box)


@pytest.mark.parametrize("n", [8, 9])
def test_low_pass_keeps_whole_shells(n: int) -> None:
    volume = np.random.default_rng(1).normal(size=(n, n, n))
    found = np.fft.fftn(module.low_passed(volume, 2))
    full = np.fft.fftn(volume)
    frequency = np.round(np.fft.fftfreq(n) * n).astype(int)
    for index in np.ndindex(n, n, n):
        shell = round(float(np.linalg.norm(frequency[list(index)])))
        # float32 transforms of n^3 normal numbers
        assert found[index] == pytest.approx(full[index] if shell <= 2 else 0, abs=1e-4)


def test_section_and_line_are_across_the_barrel() -> None:
    specimen = proteasome(SMALL)
    truth = specimen.volume()
    height = module.section_height(truth)
    assert height >= 24
    assert truth[height].var() == max(plane.var() for plane in truth[24:])
    # 36 + 25 Å at most from the axis, in voxels of 5.33 Å
    assert 9 <= module.barrel_radius(specimen) <= 12


def line(volume: Float64, height: int, half_width: int) -> Float64:
    middle = len(volume) // 2
    return np.array([volume[height, middle, middle + x] for x in range(-half_width, half_width + 1)])


def test_profiles_are_compared_at_the_resolution_of_the_coarser() -> None:
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(24, 24, 24)).astype(np.float32)
    fine, coarse = module.low_passed(truth, 11), module.low_passed(truth, 5)
    maps = [fine, (2 * coarse + 1).astype(np.float32)]
    found = module.compared_profiles(TINY, truth, maps, 14, 6)
    np.testing.assert_array_equal(found["x"], np.arange(-6, 7))
    np.testing.assert_array_equal(found["truth"], line(truth, 14, 6))
    np.testing.assert_array_equal(found["maps"][1], line(maps[1], 14, 6))
    np.testing.assert_allclose(found["with_truth"], [1, 1], atol=1e-5)
    raw = [np.corrcoef(line(volume, 14, 6), line(truth, 14, 6))[0, 1] for volume in maps]
    np.testing.assert_allclose(found["with_truth_as_it_is"], raw, atol=1e-6)
    assert raw[1] < 0.9
    ((first, second, value),) = found["between"]
    assert (first, second) == (1, 2)
    assert value == pytest.approx(1, abs=1e-5)
    wrong = module.compared_profiles(TINY, truth, [fine, maps[1][::-1]], 14, 6)
    assert max(wrong["with_truth"][1], wrong["between"][0][2]) < 0.9


class FinishedRun:
    """Curves that fall in straight lines from 1 at shell 0 to 0 at shells 12, 8 and 10."""

    attributes: ClassVar[dict[str, Any]] = {"result": {"weight": 0.7, "nonnegative": True}}

    def table(self, name: str) -> dict[str, Float64]:
        assert name == "fsc"
        ends = {"corrected": 12, "regularised": 8, "truth": 10, "unmasked": 6, "masked": 7}
        return {column: np.maximum(0, 1 - np.arange(13) / end) for column, end in ends.items()}


def test_numbers_of_a_run_are_read_off_the_right_curves() -> None:
    found = module._curves(FinishedRun(), TINY, 2.0)  # type: ignore[arg-type]
    assert (found["weight"], found["nonnegative"]) == (0.7, True)
    for name, end, level in (("halves", 12, 0.143), ("regularised_halves", 8, 0.143), ("truth", 10, 0.5)):
        assert found[name]["resolution_A"] == pytest.approx(24 * 2.0 / (end * (1 - level)))
        # shells 1 to 5, those of 12 voxels
        assert found[name]["common_band_fsc"] == pytest.approx(1 - 3 / end)


def test_every_scale_has_its_curves(numbers: dict[str, Any]) -> None:
    fine, coarse = numbers["scales"]
    assert [fine["voxels"], coarse["voxels"]] == [24, 12]
    assert numbers["common_band"] == 5
    for name in ("halves", "regularised_halves", "truth"):
        curve = np.array(coarse[name]["fsc"])
        assert curve.shape == (13,)
        assert not curve[6:].any()
        assert np.array(fine[name]["fsc"])[6:].any()
        assert coarse[name]["common_band_fsc"] == pytest.approx(curve[1:6].mean())
    assert coarse["halves"]["resolution_A"] > fine["halves"]["resolution_A"]
    assert coarse["truth"]["common_band_fsc"] > 0.9


def test_outcome_of_a_tiny_run(made: Reproduction, numbers: dict[str, Any]) -> None:
    assert [check.passed for check in made.outcome.checks] == [True, True, True]
    assert made.outcome.shown
    assert numbers["pixel_size_A"] == pytest.approx(256 / 24)
    assert len(numbers["maps"]) == 2
    assert len(numbers["profiles"]["x"]) == len(numbers["profiles"]["truth"])


def test_the_picture_is_drawn_from_the_numbers(
    made: Reproduction, numbers: dict[str, Any], tmp_path: Path
) -> None:
    again = tmp_path / "again.png"
    module.draw(numbers, again)
    assert again.read_bytes() == made.png.read_bytes()


def test_symmetry_is_imposed_and_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    configs: list[Any] = []
    runs: list[Any] = []
    true = module.reconstruct

    def spied(particles: str, run: str, config: Any, **given: Any) -> Any:
        configs.append(config)
        runs.append(true(particles, run, replace(config, symmetry="T"), **given))
        return runs[-1]

    monkeypatch.setattr(module, "SMALL", TINY)
    monkeypatch.setattr(module, "reconstruct", spied)
    found = module.run(Setting(False, 0, 1, Silent(), tmp_path))
    assert [(config.scale, config.symmetry) for config in configs] == [(1, "D7"), (2, "D7")]
    pixel_size = found.numbers["pixel_size_A"]
    height = 12 + round(found.numbers["height_A"] / pixel_size)
    half_width = round(found.numbers["barrel_radius_A"] / pixel_size)
    for made, profile in zip(runs, found.numbers["profiles"]["maps"], strict=True):
        np.testing.assert_array_equal(profile, line(made.volume("full")[0], height, half_width))
    # tetrahedral maps of a barrel are no barrel
    assert not found.checks[1].passed


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        ({}, [True, True, True]),
        ({"halves": [13.0, 22.0, 22.0, 44.0]}, [False, True, True]),
        ({"with_truth": [0.99, 0.99, 0.95, 0.99]}, [True, False, True]),
        ({"between": [(1, 2, 0.99), (2, 3, 0.94)]}, [True, True, False]),
    ],
)
def test_checks(change: dict[str, Any], passed: list[bool]) -> None:
    halves = change.pop("halves", [13.0, 22.0, 33.0, 44.0])
    numbers = {
        "scales": [{"halves": {"resolution_A": value}} for value in halves],
        "profiles": {"with_truth": [0.99] * 4, "between": [(1, 2, 0.96)]} | change,
    }
    assert [check.passed for check in module.checks(SMALL, numbers)] == passed


def test_the_proteasome_of_the_thesis_is_d7(shared_data: Path) -> None:
    specimen = module.model_in_box(str(shared_data / "models" / "6bdf.pdb.gz"), 24, "D7")
    centers = specimen.cloud.centers
    tree = cKDTree(centers)
    for operation in point_group("D7")[1:]:
        distance, _ = tree.query(centers[::100] @ operation.T)
        # the coordinates of a PDB file have three decimals, in Å
        assert np.max(distance) * specimen.pixel_size < 0.02
