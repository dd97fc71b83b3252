"""Data for joint refinement: poses as wrong as they should be, and nothing of the truth but the start."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dcryo.figures.experiment import Setting
from dcryo.figures.joint_data import HJC, PTCH1, Case, Data, low_passed, make_data, smaller
from dcryo.geometry.rotations import matrix_to_euler, quaternion_to_matrix
from dcryo.io.mrc import read_volume, write_volume
from dcryo.methods.progress import Silent

TINY = Case("cloud", "cloud:1", 20, 80, 5.0, 0.0, 2.0, 0.4, 0.02)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(False, 0, 1, Silent(), tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def data(setting: Setting) -> Data:
    return make_data(TINY, setting, 0)


def test_cases_are_those_of_the_thesis() -> None:
    assert (HJC.box, HJC.pixel_size, HJC.views, HJC.snr_db, HJC.max_shift) == (90, 2.867, 500, -0.57, 3)
    assert (PTCH1.box, PTCH1.pixel_size, PTCH1.views, PTCH1.snr_db, PTCH1.max_shift) == (
        84,
        1.8,
        500,
        3.578,
        0,
    )
    assert (HJC.euler_error, HJC.start_cutoff, PTCH1.start_cutoff) == (0.7, 0.02, 0.03)
    half = smaller(HJC, 45, 7)
    assert half == replace(HJC, box=45, views=7, pixel_size=half.pixel_size, snr_db=half.snr_db)
    assert half.pixel_size == pytest.approx(2 * 2.867)
    # the mean of four pixels has a quarter of the noise variance
    assert 10 ** (half.snr_db / 10) == pytest.approx(4 * 10 ** (HJC.snr_db / 10))


def test_the_start_is_the_truth_up_to_the_cutoff_with_a_cosine_edge() -> None:
    n, shell = 24, 5.0
    volume = np.random.default_rng(0).normal(size=(n, n, n)).astype(np.float32)
    f = np.fft.fftfreq(n) * n
    radius = np.sqrt(f[:, None, None] ** 2 + f[:, None] ** 2 + f**2)
    edge = 0.5 * (1 + np.cos(np.pi * np.clip((radius - shell) / (0.25 * shell), 0, 1)))
    expected = np.fft.ifftn(np.fft.fftn(volume) * edge).real
    np.testing.assert_allclose(low_passed(volume, shell), expected, atol=1e-5)  # float32


def test_images_and_half_sets_are_the_same_in_the_same_order(data: Data) -> None:
    np.testing.assert_array_equal(data.start.images(0, 80), data.true.images(0, 80))
    np.testing.assert_array_equal(data.start.particles().half, data.true.particles().half)
    assert data.start.pixel_size == pytest.approx(5.0)
    assert data.frequency[-1] == pytest.approx(0.1)


def test_angles_are_wrong_by_uniform_errors_and_shifts_unknown(data: Data) -> None:
    begun, known = data.start.particles(), data.true.particles()
    angles, true = (matrix_to_euler(quaternion_to_matrix(one.rotation)) for one in (begun, known))
    # an error may take the tilt over a pole, which changes all three angles; there, leave them
    safe = np.abs(true[:, 1] - math.pi / 2) < math.pi / 2 - 0.4
    error = np.angle(np.exp(1j * (angles - true)))[safe]
    assert np.abs(error).max() <= 0.4 + 1e-6
    # the standard deviation of 200 uniform numbers is known to 3 %; three times that
    assert error.std() == pytest.approx(0.4 / math.sqrt(3), rel=0.1)
    assert not begun.shift.any()
    assert np.abs(known.shift).max() > 5


def test_nothing_of_the_truth_is_given_but_the_start(data: Data) -> None:
    assert data.start.truth() is None
    start, pixel_size = read_volume(data.initial)
    assert pixel_size == pytest.approx(5.0)
    np.testing.assert_allclose(start, low_passed(data.truth, 2.0), atol=1e-6)


def test_signal_is_measured_as_the_case_says(setting: Setting, data: Data) -> None:
    power = np.mean(data.true.images(0, 80).astype(np.float64) ** 2)
    # signal 1 and noise 1, of 80 images; the signal is calibrated on 128 other views
    assert power == pytest.approx(2.0, rel=0.03)
    other = make_data(replace(TINY, name="variance", snr_definition="variance"), setting, 0)
    assert np.mean(other.true.images(0, 80).astype(np.float64) ** 2) > 2.1


def test_without_poses_there_are_none(setting: Setting) -> None:
    data = make_data(replace(TINY, name="none", euler_error=None, ctf=True), setting, 3)
    assert np.isnan(data.start.particles().rotation).all()
    text = data.star.read_text()
    assert "rlnAngleRot" not in text
    assert "rlnDefocusU" in text
    assert "rlnDefocusU" not in (setting.scratch / "cloud-0" / "start.star").read_text()


def test_a_map_takes_the_place_of_the_phantom(setting: Setting, tmp_path: Path) -> None:
    place = np.arange(20) - 10.0
    z, y, x = np.meshgrid(place, place, place, indexing="ij")
    volume = np.exp(-(x**2) / 18 - (y**2 + z**2) / 4.5).astype(np.float32)
    path = write_volume(tmp_path / "rod.mrc", volume, 5.0)
    data = make_data(replace(TINY, name="rod"), setting, 0, str(path))
    # splines of the transform of 2e-3, and the map ends at a ball
    assert np.corrcoef(data.truth.ravel(), volume.ravel())[0, 1] > 0.999
    assert data.diameter == pytest.approx(0.93 * 100)


def test_the_mask_holds_the_phantom(data: Data) -> None:
    radius = 0.32 * 100  # of the phantom, which leaves no place of the box's ball empty
    assert data.diameter == pytest.approx(2.2 * radius, rel=0.1)
