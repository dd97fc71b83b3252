"""Projection against the dense matrix on the images' own lattice, and exact adjointness."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracle
import pytest
from equations import SMALL, SPREADING

from dcryo.imaging.particles import Optics
from dcryo.operators.projector import backproject, from_lattice, project, to_lattice
from dcryo.operators.views import Radial, Views, make_radial, make_views

P = oracle.PIXEL

MAGNIFICATION = ((1.02, 0.03), (-0.01, 0.97))


def optics(ratio: float = 1.0, magnified: bool = False) -> Optics:
    matrix = MAGNIFICATION if magnified else ((1.0, 0.0), (0.0, 1.0))
    return Optics(pixel_size=P * ratio, beam_tilt=(2e-3, -1e-3), magnification=matrix)


def setting(n: int, scale: int, chosen: Optics, count: int = 3) -> tuple[Views, Radial]:
    particles = oracle.example(count, n, chosen)
    radial = make_radial(oracle.flat, [np.ones(n // 2 + 1)], n, [P / chosen.pixel_size])
    return make_views(particles, P, scale), radial


@pytest.mark.parametrize("accuracy", SPREADING)
@pytest.mark.parametrize(("n", "scale"), [(4, 1), (6, 1), (9, 1), (12, 1), (7, 2), (8, 2)])
def test_pair_is_the_dense_matrix(n: int, scale: int, accuracy: str) -> None:
    views, radial = setting(n, scale, optics())
    box = n * scale
    dense = oracle.projected(oracle.example(3, n, optics()), n, scale=scale, detector=1)
    volume, images = oracle.noise((n, n, n), 1), oracle.noise((3, box, box), 2)
    bound = SMALL * SPREADING[accuracy]
    expected = dense.apply(volume)
    found = project(volume, views, radial, box=box, accuracy=accuracy, threads=1)
    assert found.dtype == np.float32
    assert np.linalg.norm(found - expected) < bound * np.linalg.norm(expected)
    expected = dense.rhs(images)
    found = backproject(images, views, radial, n, accuracy=accuracy, threads=1)
    assert found.dtype == np.float32
    assert np.linalg.norm(found - expected) < bound * np.linalg.norm(expected)


@pytest.mark.parametrize("accuracy", SPREADING)
@pytest.mark.parametrize(("n", "scale"), [(16, 1), (17, 1), (40, 1), (41, 1), (16, 2), (17, 2)])
@pytest.mark.parametrize(("ratio", "magnified"), [(1.0, False), (0.8, False), (1.25, True)])
def test_dot_test(n: int, scale: int, accuracy: str, ratio: float, magnified: bool) -> None:
    views, radial = setting(n, scale, optics(ratio, magnified))
    box = n * scale
    volume, images = oracle.noise((n, n, n), 3), oracle.noise((3, box, box), 4)
    forward = project(volume, views, radial, box=box, accuracy=accuracy, threads=1).astype(np.float64)
    backward = backproject(images, views, radial, n, accuracy=accuracy, threads=1).astype(np.float64)
    difference = np.sum(forward * images) - np.sum(backward * volume)
    # the acceptance of the project: float32 rounding, relative to |Hx| |y|
    assert abs(difference) < 1e-6 * np.linalg.norm(forward) * np.linalg.norm(images)


def test_pair_with_a_basis_function() -> None:
    basis = oracle.Window(2.0, 10.8).fourier
    particles = oracle.example(3, 9, optics())
    dense = oracle.projected(particles, 9, detector=1, basis=basis)
    views, radial = make_views(particles, P), make_radial(basis, [np.full(5, 4.0)], 9, [1.0])
    volume, images = oracle.noise((9, 9, 9), 1), oracle.noise((3, 9, 9), 2)
    bound = SMALL * SPREADING["accurate"]
    expected = dense.apply(volume)
    found = project(volume, views, radial, box=9, accuracy="accurate", threads=1)
    assert np.linalg.norm(found - expected) < bound * np.linalg.norm(expected)
    # the noise has the variance 4, and its inverse is in the backprojection only
    expected = dense.rhs(images) / 4
    found = backproject(images, views, radial, 9, accuracy="accurate", threads=1)
    assert np.linalg.norm(found - expected) < bound * np.linalg.norm(expected)


def test_phase_flipped_pair_is_adjoint_too() -> None:
    views, radial = setting(11, 1, replace(optics(), phase_flipped=True))
    volume, images = oracle.noise((11, 11, 11), 3), oracle.noise((3, 11, 11), 4)
    forward = project(volume, views, radial, box=11, threads=1).astype(np.float64)
    backward = backproject(images, views, radial, 11, threads=1).astype(np.float64)
    difference = np.sum(forward * images) - np.sum(backward * volume)
    assert abs(difference) < 1e-6 * np.linalg.norm(forward) * np.linalg.norm(images)


def test_arguments_are_left_alone() -> None:
    views, radial = setting(8, 1, optics())
    volume, images = oracle.noise((8, 8, 8), 5), oracle.noise((3, 8, 8), 6)
    kept = volume.copy(), images.copy(), views.coefficients.copy(), radial.basis.copy()
    project(volume, views, radial, box=8, threads=1)
    backproject(images, views, radial, 8, threads=1)
    for before, after in zip(kept, (volume, images, views.coefficients, radial.basis), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("threads", [2, 4])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    views, radial = setting(40, 1, optics(), count=70)  # several tiles, several blocks of particles
    volume, images = oracle.noise((40, 40, 40), 5), oracle.noise((70, 40, 40), 6)
    np.testing.assert_array_equal(
        project(volume, views, radial, box=40, threads=1),
        project(volume, views, radial, box=40, threads=threads),
    )
    np.testing.assert_array_equal(
        backproject(images, views, radial, 40, threads=1),
        backproject(images, views, radial, 40, threads=threads),
    )


@pytest.mark.parametrize("n", [7, 8])
def test_a_shift_by_whole_pixels_moves_the_image(n: int) -> None:
    particles = oracle.plain(1, 2)
    radial = make_radial(oracle.flat, [np.ones(n // 2 + 1)], n, [1.0])
    still = replace(particles, shift=np.zeros((1, 2)))
    moved = replace(particles, shift=np.array([[2 * P, -P]]))  # right by 2, up by 1
    volume = oracle.noise((n, n, n), 7)
    one = project(volume, make_views(still, P), radial, box=n, threads=1)
    two = project(volume, make_views(moved, P), radial, box=n, threads=1)
    # the image is periodic on its lattice; float32 sums of n^3 numbers of order 1
    np.testing.assert_allclose(two, np.roll(one, (-1, 2), axis=(1, 2)), atol=2e-6 * np.abs(one).max())


@pytest.mark.parametrize(("m", "box"), [(8, 8), (9, 9), (12, 6), (12, 7), (13, 6), (14, 7)])
def test_lattice_is_the_band_of_the_fourier_transform(m: int, box: int) -> None:
    images = oracle.noise((2, m, m), 8)
    h = (box - 1) // 2
    lattice = to_lattice(images, box).view(np.complex64)[..., 0]
    spectrum = np.fft.fft2(images.astype(np.float64))
    b = np.arange(-h, h + 1)
    # rounding of an m x m transform in float32
    np.testing.assert_allclose(lattice, spectrum[:, b[:, None], np.arange(h + 1)], atol=1e-5 * m)
    band = np.zeros_like(spectrum)
    band[:, b[:, None], b] = spectrum[:, b[:, None], b]
    back = from_lattice(to_lattice(images, box), m)
    np.testing.assert_allclose(back, np.fft.ifft2(band).real, atol=1e-6 * m)
