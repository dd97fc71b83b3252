"""Class averages against their definition, angle by angle and pixel by pixel."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dcryo.figures.class_averages import (
    ANGLES,
    ClassAverages,
    assigned,
    averaged,
    class_poses,
    perturbed,
    turned,
)
from dcryo.geometry.rotations import (
    geodesic_distance,
    matrix_to_euler,
    matrix_to_quaternion,
    quaternion_to_matrix,
    random_rotations,
)
from dcryo.imaging.basis import BandLimited
from dcryo.imaging.particles import Optics, Particles
from dcryo.imaging.phantom import Cloud, project_gaussians
from dcryo.methods.progress import Silent
from dcryo.methods.simulate import SimulateConfig, simulate
from dcryo.operators.normal import Accumulator
from dcryo.operators.views import make_radial, make_views

Float64 = NDArray[np.float64]


def in_plane(angle: float) -> Float64:
    """G, for vectors (x, y, z): a rotation about the beam."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def smooth_cloud() -> Cloud:
    """Points so wide (2 voxels) that cubic splines follow them: their error is about (w h)^4 / 384 < 1e-3."""
    rng = np.random.default_rng(3)
    return Cloud(rng.uniform(-4, 4, (12, 3)), rng.uniform(0.5, 1.5, 12), np.full(12, 2.0))


def brute_force(images: Float64, rotation: Float64, poses: Float64) -> tuple[Float64, NDArray[np.int64]]:
    """Sums and counts by trying every in-plane rotation of every class, a tenth of a degree apart."""
    angles = np.radians(np.arange(0, 360, 0.1))
    group = np.stack([in_plane(angle) for angle in angles])
    sums, counts = np.zeros((len(poses), *images.shape[1:])), np.zeros(len(poses), np.int64)
    for image, pose in zip(images, rotation, strict=True):
        distance = np.array([geodesic_distance(group @ template, pose) for template in poses])
        index, step = np.unravel_index(int(np.argmin(distance)), distance.shape)
        sums[index] += turned(image, float(angles[step]))
        counts[index] += 1
    return sums, counts


def test_classes_have_equal_shares_of_the_sphere() -> None:
    poses = class_poses(40)
    assert poses.shape == (40, 3, 3)
    np.testing.assert_allclose(poses @ np.swapaxes(poses, 1, 2), np.tile(np.eye(3), (40, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(matrix_to_euler(poses)[:, 2], 0, atol=1e-9)
    count = 200_000
    classes, _ = assigned(random_rotations(count, np.random.default_rng(0)), poses)
    share = np.bincount(classes, minlength=40) * 40 / count
    # counting errs by sqrt(40 / 200000) = 0.014; the cells of a spiral differ most at its ends
    assert share.min() > 0.8
    assert share.max() < 1.2


def test_perturbation_is_added_to_the_angles() -> None:
    rotation = random_rotations(50, np.random.default_rng(1))
    offset = np.random.default_rng(2).uniform(-0.1, 0.1, (50, 3))
    found = perturbed(rotation, offset)
    difference = matrix_to_euler(found) - matrix_to_euler(rotation)
    inside = np.abs(np.sin(matrix_to_euler(rotation)[:, 1])) > 0.2  # tilt stays within 0 and pi
    assert inside.sum() > 40
    turns = (difference - offset)[inside] / (2 * np.pi)
    np.testing.assert_allclose(turns, np.rint(turns), atol=1e-9)


def test_a_view_goes_to_the_nearest_of_all_in_plane_rotations_of_all_classes() -> None:
    poses = class_poses(7)
    rotation = random_rotations(25, np.random.default_rng(4))
    classes, angles = assigned(rotation, poses)
    step = math.radians(0.25)
    group = np.stack([in_plane(angle) for angle in np.arange(0, 2 * np.pi, step)])
    for pose, index, angle in zip(rotation, classes, angles, strict=True):
        distance = np.array([geodesic_distance(group @ template, pose) for template in poses])
        assert index == np.argmin(distance.min(axis=1))
        best = geodesic_distance(in_plane(angle) @ poses[index], pose)
        assert best <= distance.min() + 1e-12
        # half a step off in the plane adds less than half a step
        assert distance.min() <= best + step / 2
        # what is left is the angle between the directions
        assert best == pytest.approx(math.acos(pose[2] @ poses[index, 2]), abs=1e-7)


@pytest.mark.parametrize("n", [24, 25])
def test_turning_moves_what_is_in_the_image(n: int) -> None:
    y, x = np.meshgrid(np.arange(n) - n // 2, np.arange(n) - n // 2, indexing="ij")

    def blob(x: Float64, y: Float64) -> Float64:
        return np.exp(-((x - 4) ** 2 + (y + 1) ** 2) / 8) + 0.5 * np.exp(-((x + 2) ** 2 + (y - 3) ** 2) / 8)

    angle = 0.7
    c, s = math.cos(angle), math.sin(angle)
    difference = turned(blob(x, y), angle) - blob(c * x - s * y, s * x + c * y)
    # cubic splines of a Gaussian two pixels wide: see smooth_cloud; the corners come from beyond the frame
    assert np.abs(difference[np.hypot(x, y) < 10]).max() < 1e-3


def test_an_aligned_view_is_the_view_of_its_class() -> None:
    poses = class_poses(5)
    angle = np.array([0.3, -2.0, 1.1, 3.0, -0.9])
    rotation = np.stack([in_plane(a) @ pose for a, pose in zip(angle, poses, strict=True)])
    images = project_gaussians(smooth_cloud(), rotation, np.zeros((5, 2)), 32)
    wanted = project_gaussians(smooth_cloud(), poses, np.zeros((5, 2)), 32)
    averages = ClassAverages(poses, 32)
    averages.add(images, rotation)
    np.testing.assert_array_equal(averages.counts, 1)
    y, x = np.indices((32, 32)) - 16
    inside = np.hypot(x, y) < 15  # the corners come from beyond the frame
    np.testing.assert_allclose(averages.averages[:, inside], wanted[:, inside], atol=1e-3 * wanted.max())


def test_averages_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(5)
    rotation, poses = random_rotations(30, rng), class_poses(6)
    images = project_gaussians(smooth_cloud(), rotation, np.zeros((30, 2)), 24)
    found = ClassAverages(poses, 24)
    found.add(images[:11], rotation[:11], threads=1)
    found.add(images[11:], rotation[11:], threads=2)
    sums, counts = brute_force(images, rotation, poses)
    np.testing.assert_array_equal(found.counts, counts)
    # the brute force is up to 0.05 degrees off: 1e-3 rad at 12 pixels, where the slope is below max / 2
    np.testing.assert_allclose(found.sums, sums, atol=6e-3 * images.max() * counts.max())
    full = counts > 0
    expected = found.sums[full] / counts[full, None, None]
    np.testing.assert_allclose(found.averages[full], expected, rtol=1e-12)


def test_threads_change_nothing() -> None:
    rng = np.random.default_rng(6)
    rotation, images = random_rotations(70, rng), rng.normal(size=(70, 8, 8))
    one, two = ClassAverages(class_poses(4), 8), ClassAverages(class_poses(4), 8)
    one.add(images, rotation, threads=1)
    two.add(images, rotation, threads=2)
    np.testing.assert_array_equal(one.sums, two.sums)
    classes, angles = assigned(rotation, class_poses(4))
    for index in range(4):
        members = np.flatnonzero(classes == index)
        expected = sum(turned(images[k], angles[k]) for k in members)
        np.testing.assert_allclose(one.sums[index], expected, atol=1e-12)


@pytest.mark.parametrize("scale", [1, 2])
def test_equations_of_averages_are_those_of_the_views_when_all_are_exact(scale: int) -> None:
    rng = np.random.default_rng(7)
    poses, n = class_poses(5), 12 // scale
    members = np.array([0, 0, 0, 1, 2, 2, 4])  # the class 3 is empty
    images = rng.normal(size=(len(members), 12, 12)).astype(np.float32)
    averages = ClassAverages(poses, 12)
    averages.add(images, poses[members])
    found = averages.equations(1.5, scale, threads=1)
    particles = Particles.empty_columns(
        len(members),
        rotation=matrix_to_quaternion(poses[members]),
        optics=(Optics(pixel_size=1.5, ctf=False),),
    )
    direct = Accumulator(n, make_radial(BandLimited().fourier, [np.ones(n // 2 + 1)], n, [1.0]), threads=1)
    direct.add(images, make_views(particles, 1.5, scale))
    wanted = direct.finish()
    # float32 sums in another order
    np.testing.assert_allclose(found.rhs, wanted.rhs, atol=2e-6 * np.abs(wanted.rhs).max())
    np.testing.assert_allclose(found.spectrum, wanted.spectrum, atol=2e-6 * np.abs(wanted.spectrum).max())


def test_averages_of_a_store_keep_the_half_sets_apart(tmp_path: Path) -> None:
    config = SimulateConfig(box=16, particles=21, snr=1.0, defocus=None, max_shift=0.0)
    store = simulate(str(tmp_path / "views.zarr"), config)
    (exact, wrong) = averaged(store, [(0.0, 4), (0.2, 3)], 9, 1, Silent())
    table, images = store.particles(), store.images(0, 21)
    rotation = quaternion_to_matrix(table.rotation)
    error = np.random.default_rng([9, ANGLES]).uniform(-1, 1, (21, 3))
    for pair, count, half_width in ((exact, 4, 0.0), (wrong, 3, 0.2)):
        for number, found in zip((1, 2), pair, strict=True):
            rows = table.half == number
            expected = ClassAverages(class_poses(count), 16)
            expected.add(images[rows], perturbed(rotation, half_width * error)[rows])
            np.testing.assert_array_equal(found.counts, expected.counts)
            np.testing.assert_allclose(found.sums, expected.sums, atol=1e-12)
    assert exact[0].counts.sum() == 11
    assert exact[1].counts.sum() == 10
