"""What the operators are told about particles: matrices, band limits, tables."""

from __future__ import annotations

import math

import numpy as np
import oracle
import pytest
from scipy.spatial.transform import Rotation

from dcryo.imaging.basis import KaiserBessel
from dcryo.imaging.particles import Optics
from dcryo.operators.transfer import LUT_SIZE, NORMAL, PHASE_FLIPPED, PREMULTIPLIED
from dcryo.operators.views import make_radial, make_views

GROUPS = (
    Optics(pixel_size=2.0),
    Optics(pixel_size=1.6, phase_flipped=True, magnification=((0.9, 0.0), (0.0, 1.0))),
    Optics(pixel_size=3.0, premultiplied=True),
)


def test_each_particle_has_what_its_group_says() -> None:
    particles = oracle.example(6, 1, GROUPS)
    views = make_views(particles, 2.0)
    assert len(views) == 6
    np.testing.assert_allclose(views.rotation, Rotation.from_quat(particles.rotation).as_matrix(), atol=1e-14)
    np.testing.assert_array_equal(views.treatment, [NORMAL, PHASE_FLIPPED, PREMULTIPLIED] * 2)
    np.testing.assert_array_equal(views.group, [0, 1, 2] * 2)
    # finer pixels see beyond the voxels' Nyquist frequency, coarser ones not up to it
    limits = math.pi * np.array([1, 1, 2 / 3])
    np.testing.assert_allclose(np.sqrt(views.limit2[:3]), limits, rtol=1e-12)  # a little below
    assert (np.sqrt(views.limit2[:3]) < limits).all()
    np.testing.assert_allclose(
        views.distortion[:3], [np.eye(2), np.diag([0.9, 1.0]) * 1.25, np.eye(2) * 2 / 3], rtol=1e-14
    )


@pytest.mark.parametrize("scale", [1.0, 2.0, 1.5])
def test_measure_is_the_share_of_the_frequency_plane(scale: float) -> None:
    """An area of the image's own frequency plane, over the same area in rad per voxel of the map."""
    views = make_views(oracle.example(3, 1, GROUPS), 2.0, scale)
    for row, optics in enumerate(GROUPS):
        jacobian = np.linalg.det(np.array(optics.magnification) * (scale * 2.0 / optics.pixel_size))
        assert views.measure[row] == pytest.approx(1 / jacobian, rel=1e-13)


def test_take_and_rotated() -> None:
    views = make_views(oracle.example(6, 1, GROUPS), 2.0)
    taken = views.take(np.array([4, 1]))
    assert len(taken) == 2
    np.testing.assert_array_equal(taken.coefficients, views.coefficients[[4, 1]])
    np.testing.assert_array_equal(taken.treatment, views.treatment[[4, 1]])
    turn = Rotation.from_rotvec([0.1, -0.5, 0.3]).as_matrix()
    np.testing.assert_allclose(views.rotated(turn).rotation[3], views.rotation[3] @ turn, atol=1e-15)


def test_tables_hold_the_basis_and_the_inverse_noise() -> None:
    window = KaiserBessel(2, 10.8)
    spectra = [np.array([4.0, 2.0, 1.0, 1.0, 2.0]), np.full(5, 0.5)]
    radial = make_radial(window.fourier, spectra, 8, [1.0, 0.5])
    assert radial.basis.shape == radial.weight.shape == (2, LUT_SIZE + 2)
    v = np.sqrt(np.arange(LUT_SIZE + 1) / LUT_SIZE) * math.pi
    eps = np.finfo(np.float32).eps
    np.testing.assert_allclose(radial.basis[0, :-1], window.fourier(v), rtol=2 * eps)
    # shell k of an image of 8 pixels is the frequency 2 pi k / 8, in the volume of the first group the same
    np.testing.assert_allclose(
        radial.weight[0, :-1], 1 / np.interp(v * 4 / math.pi, np.arange(5), spectra[0]), rtol=2 * eps
    )
    assert (radial.weight[1] == 2).all()
    np.testing.assert_allclose(radial.kernel, radial.basis.astype(float) ** 2 * radial.weight, rtol=4 * eps)
    np.testing.assert_allclose(radial.rhs, radial.basis.astype(float) * radial.weight, rtol=4 * eps)


def test_noise_follows_the_image_not_the_map() -> None:
    """In a group whose pixels are twice as fine, the map's Nyquist frequency is the image's shell n/4."""
    spectrum = np.arange(1.0, 10.0)
    radial = make_radial(oracle.flat, [spectrum], 16, [2.0])
    assert 1 / radial.weight[0, LUT_SIZE] == pytest.approx(5.0, rel=1e-6)
