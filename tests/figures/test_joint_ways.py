"""Maps and poses of different frames are compared in that of the truth, and means are means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcryo.figures import joint_ways as module
from dcryo.figures import relion
from dcryo.figures.experiment import Setting
from dcryo.figures.joint_data import Case, Data, make_data
from dcryo.figures.joint_ways import OURS, UNREFINED
from dcryo.geometry.rotations import quaternion_to_matrix, rotation_vector_to_matrix
from dcryo.imaging.phantom import Cloud, gaussian_cloud, rasterise
from dcryo.methods.progress import Silent

TINY = Case("cloud", "cloud:1", 24, 120, 5.0, 3.0, 2.0, 0.5, 0.02)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(False, 0, 1, Silent(), tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def data(setting: Setting) -> Data:
    return make_data(TINY, setting, 0)


@pytest.fixture(scope="module")
def trial(install_refinement: Callable[..., None], setting: Setting) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        install_refinement(patch)
        made = module.trial(TINY, setting, 1)
        return made, module.by_iteration(made.data, made.run, setting)


@pytest.mark.parametrize("mirrored", [False, True])
def test_another_frame_is_undone(data: Data, mirrored: bool) -> None:
    turn, move = rotation_vector_to_matrix(np.array([0.3, -0.5, 0.4])), np.array([1.5, -0.7, 2.2])
    hand = -1 if mirrored else 1
    cloud = gaussian_cloud(1, 40, 7.0, 1.5)
    # a point of the specimen is at p, and in the other frame at hand * turn (p - move)
    other = Cloud(hand * (cloud.centers - move) @ turn.T, cloud.mass, cloud.width)
    truth, volume = rasterise(cloud, 24), rasterise(other, 24)
    known = data.true.particles()
    true = quaternion_to_matrix(known.rotation)
    # the image of a point is A p + t in either frame
    found = true @ turn.T if not mirrored else np.diag([-1.0, -1.0, 1.0]) @ true @ turn.T
    shift = known.shift + true[:, :2] @ move * TINY.pixel_size
    for p, q in zip(cloud.centers, other.centers, strict=True):
        np.testing.assert_allclose(found[5, :2] @ q + shift[5] / 5, true[5, :2] @ p + known.shift[5] / 5)
    measured = module.aligned(_with_truth(data, truth), volume, found, shift, 1.0)
    assert measured.errors is not None
    # the mean of the distances is minimised to 1e-9, and a distance is the root of rounding
    assert np.abs(measured.errors.rotation).max() < 1e-6
    assert measured.errors.shift.max() < 1e-5
    # rounding of float32, and the quintic splines of what is turned; 1 where there is nothing but that
    np.testing.assert_allclose(measured.fsc[1:10], 1, atol=2e-3)
    assert module.compared(data, volume, 0.0).fsc[1:10].min() < 0.9


def _with_truth(data: Data, truth: np.ndarray) -> Data:
    return Data(data.case, data.folder, data.true, data.start, data.star, data.initial, truth, data.diameter)


def test_numbers_of_errors() -> None:
    errors = np.array([1.0, 2.0, 2.0, 30.0, np.nan])
    found = module.summary(errors, np.array([0.0, 1.5, 3.0, 20.0]))
    assert found["median"] == 2
    assert found["rms"] == pytest.approx(np.sqrt(909 / 4))
    # the last bin has what is beyond
    np.testing.assert_array_equal(found["counts"], [1, 2, 1])
    assert found["p90"] == pytest.approx(2 + 0.7 * 28)


def test_means_over_trials() -> None:
    one = {
        "a": {"fsc": np.array([1.0, 0.5]), "n": 2, "none": None, "h": {"counts": np.array([1, 2])}},
        "b": {},
    }
    two = {"a": {"fsc": np.array([0.0, 0.5]), "n": 4, "none": None, "h": {"counts": np.array([3, 4])}}}
    found = module.averages([one, two])
    assert found.keys() == {"a"}
    np.testing.assert_array_equal(found["a"]["fsc"], [0.5, 0.5])
    np.testing.assert_array_equal(found["a"]["h"]["counts"], [4, 6])
    assert (found["a"]["n"], found["a"]["none"]) == (3, None)


def test_found_poses_are_nearly_as_good_as_true_ones_and_wrong_ones_are_not(trial: Any) -> None:
    made, _ = trial
    numbers = made.numbers()
    assert list(numbers) == [UNREFINED, OURS, "true poses"]
    assert numbers["true poses"]["r_c_of_oracle"] == 1
    assert numbers[OURS]["r_c_of_oracle"] > 0.9
    assert numbers[UNREFINED]["r_c_of_oracle"] < 0.7
    # turns of normal components of 0.02 rad: the median of their lengths is 1.54 times that
    assert numbers[OURS]["angle_deg"]["median"] == pytest.approx(np.degrees(0.02 * 1.538), rel=0.15)
    assert numbers[OURS]["shift_px"]["median"] < 0.1
    assert numbers[UNREFINED]["angle_deg"]["median"] > 10
    # |t| of two uniform numbers within 2 pixels; an offset of the specimen takes little of it
    assert numbers[UNREFINED]["shift_px"]["rms"] == pytest.approx(np.sqrt(8 / 3), rel=0.1)
    assert numbers[OURS]["halves_0143_A"] < 2 * numbers["true poses"]["halves_0143_A"]
    assert numbers[OURS]["iterations"] == 2
    assert made.peer_missing == "RELION is out of the way"


def test_the_course_begins_with_the_starting_map_and_ends_near_the_final_one(trial: Any) -> None:
    made, course = trial
    start, first, last = (step.numbers(made.data)["r_c"] for step in course)
    # nothing is left from 0.025 on, which is shell 3 of 24 pixels of 5 Å
    assert 2 / 120 < start < 4 / 120
    assert start < first < last
    final = made.ways[OURS]
    np.testing.assert_allclose(course[-1].fsc_ball[1:8], final.fsc_ball[1:8], atol=0.01)


def test_relion_is_a_way_where_it_ran(data: Data, setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    known = data.true.particles()
    rotation = quaternion_to_matrix(known.rotation)
    made = relion.Refined(data.truth, data.truth, data.truth, rotation, known.shift, 9.0, 2.0, 5)
    monkeypatch.setattr(relion, "missing", lambda: None)
    told: list[Any] = []
    monkeypatch.setattr(relion, "auto_refine", lambda *files, **how: told.append((*files, how)) or made)
    measured = module.by_relion(data, setting)
    assert told == [(data.star, data.initial, data.diameter, {"ctf": False})]
    assert isinstance(measured, module.Measured)
    numbers = measured.numbers(data)
    assert (numbers["cpu_seconds"], numbers["leader_seconds"], numbers["iterations"]) == (9, 2, 5)
    assert numbers["mean_fsc"] > 0.999
    assert numbers["halves_0143_A"] == pytest.approx(10.0)  # equal ones, up to Nyquist

    def fails(*_: Path, **__: bool) -> relion.Refined:
        raise relion.RelionFailedError("it ended with 1")

    monkeypatch.setattr(relion, "auto_refine", fails)
    assert module.by_relion(data, setting) == "it ended with 1"
