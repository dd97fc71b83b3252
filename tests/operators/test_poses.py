"""Data terms of poses: the cost against projections, derivatives against differences, and Theorem 3."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import oracle
import pytest
from scipy.spatial.transform import Rotation

from dcryo.imaging.particles import Optics, Particles
from dcryo.imaging.phantom import gaussian_cloud, rasterise
from dcryo.operators.poses import PARAMETERS, PoseModel, PoseTerms
from dcryo.operators.projector import from_lattice, project, to_lattice
from dcryo.operators.views import Radial, Views, make_radial, make_views

P = oracle.PIXEL
N = 18

STEP = 0.04
"""Radians, or pixels."""

OPTICS = Optics(pixel_size=P, beam_tilt=(2e-3, -1e-3), magnification=((1.02, 0.03), (-0.01, 0.97)))


def moved(particles: Particles, step: np.ndarray) -> Particles:
    """The poses after the step (5,) or (P, 5) of every particle."""
    step = np.array(np.broadcast_to(step, (len(particles), PARAMETERS)))
    turned = Rotation.from_quat(particles.rotation) * Rotation.from_rotvec(step[:, :3]).inv()
    return replace(particles, rotation=turned.as_quat(), shift=particles.shift + step[:, 3:] * P)


def setting(scale: int = 1) -> tuple[Particles, Radial, Any, Any]:
    """Particles, tables with a noise weight, a smooth object, and images of others of its kind."""
    particles = oracle.example(3, 5, OPTICS)
    spectrum = np.linspace(1, 3, N // 2 + 1)
    radial = make_radial(oracle.flat, [spectrum], N, [1.0])
    images = oracle.noise((3, N * scale, N * scale), 7)
    volume = rasterise(gaussian_cloud(seed=2, count=20, radius=0.3 * N, width=1.2), N)
    return particles, radial, volume, images


def terms(
    particles: Particles, radial: Radial, volume: Any, images: Any, radius: float = np.inf, scale: int = 1,
    accuracy: str = "accurate",
) -> PoseTerms:  # fmt: skip
    views = make_views(particles, P, scale)
    data = to_lattice(images, N)
    model = PoseModel(volume, accuracy, 1)
    return model.terms(data, views, radial, box=images.shape[-1], radius=radius)


def whitened(lattice: Any, views: Views, radius: float) -> Any:
    """Samples of a lattice times the root of their weight in the cost, those that count, as real numbers."""
    h = lattice.shape[2] - 1
    b, a = np.mgrid[-h : h + 1, : h + 1]
    v = np.stack([a, b], -1) @ views.distortion.transpose(0, 2, 1)[:, None] * 2 * np.pi / N
    s = (v**2).sum(-1)
    noise = 1 / np.interp(np.sqrt(s) * N / (2 * np.pi), np.arange(N // 2 + 1), np.linspace(1, 3, N // 2 + 1))
    counts = (s < views.limit2[:, None, None]) & (a * a + b * b < radius**2) & ~((a == 0) & (b < 0))
    double = np.where((a == 0) & (b == 0), 1.0, 2.0)
    return lattice * np.sqrt(noise * counts * double)[..., None]


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("radius", [np.inf, 5.0])
def test_cost_is_that_of_the_projections(radius: float, scale: int) -> None:
    particles, radial, volume, images = setting(scale)
    views = make_views(particles, P, scale)
    found = terms(particles, radial, volume, images, radius, scale).cost
    clean = project(volume, views, radial, box=N * scale, accuracy="accurate", threads=1)
    difference = to_lattice(clean - images, N).astype(float)
    wanted = 0.5 * (whitened(difference, views, radius) ** 2).sum((1, 2, 3)) / (N * scale) ** 2
    # both interpolate in float32 with the same window; noise weights are interpolated in tables: 1e-6
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("radius", [np.inf, 5.0])
def test_gradient_and_matrix_are_those_of_differences(radius: float, scale: int) -> None:
    """Central differences of projections: the gradient is Jᵀr, the matrix JᵀJ."""
    particles, radial, volume, images = setting(scale)
    found = terms(particles, radial, volume, images, radius, scale)

    def residuals(step: np.ndarray) -> Any:
        views = make_views(moved(particles, step), P, scale)
        clean = project(volume, views, radial, box=N * scale, accuracy="accurate", threads=1)
        lattice = to_lattice(clean - images, N).astype(float)
        return whitened(lattice, views, radius).reshape(3, -1) / (N * scale)

    def slope(e: np.ndarray) -> Any:
        # of fourth order, so that the step can be long: projections are float32 numbers
        near, far = (residuals(h * e) - residuals(-h * e) for h in (STEP, 2 * STEP))
        return (8 * near - far) / (12 * STEP)

    jacobian = np.stack([slope(e) for e in np.eye(PARAMETERS)], axis=-1)
    rest = residuals(np.zeros(PARAMETERS))
    gradient = np.einsum("psi,ps->pi", jacobian, rest)
    normal = np.einsum("psi,psk->pik", jacobian, jacobian)
    # slices err by 9e-6 of the largest value, up and down in every cell: slopes by 2 pi times as much, of
    # whose cells the transform of the object has a few from hill to valley
    length = np.sqrt(np.einsum("pii->pi", normal))
    assert abs((found.gradient - gradient) / length / np.linalg.norm(rest, axis=1)[:, None]).max() < 2e-4
    assert abs((found.normal - normal) / (length[:, :, None] * length[:, None, :])).max() < 2e-4
    np.testing.assert_array_equal(found.normal, found.normal.transpose(0, 2, 1))


def test_a_gauss_newton_step_finds_a_pose_that_is_a_little_off() -> None:
    particles, radial, volume, _ = setting()
    images = project(volume, make_views(particles, P), radial, box=N, accuracy="accurate", threads=1)
    step = 0.01 * np.random.default_rng(1).standard_normal((3, PARAMETERS))
    off = moved(particles, step)
    found = terms(off, radial, volume, images)
    back = -np.linalg.solve(found.normal, found.gradient[..., None])[..., 0]
    # what is left is of second order in the step
    assert abs(back + step).max() < 0.05 * abs(step).max()


@pytest.mark.parametrize("threads", [2, 3])
def test_bits_do_not_depend_on_threads(threads: int) -> None:
    particles = oracle.example(40, 5, OPTICS)
    _, radial, volume, _ = setting()
    data = to_lattice(oracle.noise((40, N, N), 7), N)
    views = make_views(particles, P)
    one = PoseModel(volume, threads=1).terms(data, views, radial, box=N)
    many = PoseModel(volume, threads=threads).terms(data, views, radial, box=N)
    np.testing.assert_array_equal(one.normal, many.normal)
    np.testing.assert_array_equal(one.cost, many.cost)


def test_the_zero_frequency_is_half_of_no_pair() -> None:
    """A constant image has all of its energy there."""
    particles, radial, volume, _ = setting()
    flat = from_lattice(to_lattice(np.ones((3, N, N), np.float32), N), N)
    found = terms(particles, radial, volume * 0, flat).cost
    np.testing.assert_allclose(found, 0.5 * N * N, rtol=1e-6)
