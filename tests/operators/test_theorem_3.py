"""Theorem 3 of Donati (EPFL thesis, 2020): derivatives of the data term by correlations of volumes.

    dJ/dtheta_i = 1/2 cᵀ (r_i * c) - cᵀ q_i,     r_i[k] = (d_i M k) . grad(psi * psi^v)(M k),
                                                 q_i[k] = (d_i M k) . grad(b * psi^v)(M k + t),
    dJ/dt_j = -cᵀ q_j,                           q_j[k] = d_j (b * psi^v)(M k + t),

with M the first two rows of A, psi the projected basis function blurred by the point spread function, and
psi^v its mirror image.  Here b and psi are functions on a circular detector without frequencies beyond the
band limit, so that the theorem is an identity.  `PoseModel` computes what it says from slices, in float32 and
by interpolation: between the two stands the image-space form in float64, as plain sums (`oracle.pose_terms`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracle
import pytest
from scipy.signal import convolve
from scipy.spatial.transform import Rotation

from dcryo.imaging.particles import Optics, Particles
from dcryo.imaging.phantom import gaussian_cloud, rasterise
from dcryo.operators.poses import PoseModel
from dcryo.operators.projector import to_lattice
from dcryo.operators.views import make_radial, make_views

N = 16
P = oracle.PIXEL

ANGLES = np.array([[0.4, 1.1, -2.0], [-2.8, 0.5, 1.3], [1.9, 2.6, 0.2]])
"""Rot, tilt and psi of three particles, rad."""

BASES = {"band-limited": oracle.flat, "Kaiser-Bessel": oracle.Window(4, 19).fourier}

STATED = {"accurate": (8e-6, 4e-5), "default": (6e-5, 2e-4), "fast": (5e-4, 1e-3)}
"""Errors of values and of slopes that `window.WINDOWS` and `PoseModel` state, relative to the largest."""


def turns(angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A = Rz(psi) Ry(tilt) Rz(rot), (3, 3), and its derivatives by rot, tilt and psi, (3, 3, 3)."""

    def z(c: float, s: float, one: float) -> np.ndarray:
        return np.array([[c, s, 0], [-s, c, 0], [0, 0, one]])

    def y(c: float, s: float, one: float) -> np.ndarray:
        return np.array([[c, 0, -s], [0, one, 0], [s, 0, c]])

    (rot, tilt, psi), (d_rot, d_tilt, d_psi) = (
        [f(c, s, one) for f, c, s in zip((z, y, z), cosines, sines, strict=True)]
        for cosines, sines, one in (
            (np.cos(angles), np.sin(angles), 1),
            (-np.sin(angles), np.cos(angles), 0),
        )
    )
    return psi @ tilt @ rot, np.array([psi @ tilt @ d_rot, psi @ d_tilt @ rot, d_psi @ tilt @ rot])


def rates(angles: np.ndarray) -> np.ndarray:
    """How the rotation vector d of A exp(-[d]x) moves with rot, tilt and psi, (3 of d, 3 angles)."""
    a, slopes = turns(angles)
    crosses = -a.T @ slopes
    return np.stack([crosses[:, 2, 1], crosses[:, 0, 2], crosses[:, 1, 0]])


def in_angles(gradient: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """A gradient (5,) by rotation vector and shift, as one by rot, tilt, psi and shift."""
    return np.concatenate([rates(angles).T @ gradient[:3], gradient[3:]])


def setting() -> tuple[Particles, np.ndarray, np.ndarray]:
    """Particles of an asymmetric point spread function, an object, and images of others of its kind."""
    quaternion = Rotation.from_matrix([turns(a)[0] for a in ANGLES]).as_quat()
    optics = Optics(pixel_size=P, beam_tilt=(2e-3, -1e-3))
    particles = replace(oracle.example(len(ANGLES), 5, optics), rotation=quaternion)
    volume = rasterise(gaussian_cloud(seed=2, count=20, radius=0.3 * N, width=1.2), N)
    return particles, volume, oracle.noise((len(ANGLES), N, N), 7)


def point_spread(particles: Particles, p: int, basis: str) -> np.ndarray:
    """Transform of psi at the frequencies of the oracle."""
    w = oracle.frequencies(N)
    value, phase = oracle.contrast(replace(particles, shift=0 * particles.shift), p, w)
    return value * BASES[basis](np.hypot(w[:, 0], w[:, 1])) * np.exp(1j * phase)


def correlation_slopes(
    f: np.ndarray, psi: np.ndarray, rows: np.ndarray, shift: np.ndarray, k: np.ndarray
) -> np.ndarray:
    """Gradient of f * psi^v, of their transforms, at M (x, y, z) + t for x, y and z in k: (z, y, x, 2)."""
    w = oracle.frequencies(N)
    q = w @ rows
    ex, ey, ez = (np.exp(1j * q[:, i] * k[:, None]) for i in range(3))
    value = 1j * w * (f * psi.conj() * np.exp(1j * w @ shift))[:, None] / N**2
    return np.stack([np.einsum("s,zs,ys,xs->zyx", v, ez, ey, ex, optimize=True).real for v in value.T], -1)


def cube(k: np.ndarray) -> np.ndarray:
    """All vectors (x, y, z) of numbers in k, (z, y, x, 3)."""
    return np.stack(np.meshgrid(k, k, k, indexing="ij")[::-1], axis=-1)


def by_theorem_3(
    particles: Particles, p: int, volume: np.ndarray, image: np.ndarray, basis: str
) -> np.ndarray:
    """Derivatives of the data term by rot, tilt, psi and the shift, (5,)."""
    m, slopes = turns(ANGLES[p])
    m, slopes = m[:2], slopes[:, :2]
    c = volume.astype(float)
    psi = point_spread(particles, p, basis)
    lags, voxels = np.arange(1 - N, N), np.arange(N) - N // 2
    of_psi = correlation_slopes(psi, psi, m, np.zeros(2), lags)
    spectrum, _ = oracle.transform(image, oracle.frequencies(N))
    of_image = correlation_slopes(spectrum, psi, m, particles.shift[p] / P, voxels)
    out = np.empty(5)
    for i in range(3):
        r = ((cube(lags) @ slopes[i].T) * of_psi).sum(axis=-1)
        q = ((cube(voxels) @ slopes[i].T) * of_image).sum(axis=-1)
        out[i] = 0.5 * (c * convolve(r, c, mode="valid", method="fft")).sum() - (c * q).sum()
    out[3:] = -(c[..., None] * of_image).sum(axis=(0, 1, 2))
    return out


def test_slopes_of_correlations_are_sums_over_pixels() -> None:
    """grad (b * psi^v)(y) = -sum_j b[j] (grad psi)(j - y)."""
    particles, _, images = setting()
    w = oracle.frequencies(N)
    psi = point_spread(particles, 0, "Kaiser-Bessel")
    m, shift, k = turns(ANGLES[0])[0][:2], np.array([0.3, -1.2]), np.array([-5, 8])
    y = cube(k) @ m.T + shift
    pixels = np.arange(N) - N // 2
    j = np.stack(np.meshgrid(pixels, pixels), axis=-1)
    waves = np.exp(1j * (j - y[..., None, None, :]) @ w.T)
    slopes = (waves @ (1j * w * psi[:, None])).real / N**2
    wanted = -np.einsum("vu,zyxvui->zyxi", images[0].astype(float), slopes)
    found = correlation_slopes(oracle.transform(images[0], w)[0], psi, m, shift, k)
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-10 * abs(wanted).max())


@pytest.mark.parametrize("basis", BASES)
def test_theorem_3_is_the_image_space_gradient(basis: str) -> None:
    particles, volume, images = setting()
    for p, angles in enumerate(ANGLES):
        wanted = by_theorem_3(particles, p, volume, images[p], basis)
        _, gradient, _ = oracle.pose_terms(particles, p, volume, images[p], BASES[basis])
        found = in_angles(gradient, angles)
        # two sums in float64 for the same thing: 1e-12 is seen, 1e-6 is what the theorem is held to
        assert np.linalg.norm((found - wanted)[:3]) < 1e-6 * np.linalg.norm(wanted[:3])
        assert np.linalg.norm((found - wanted)[3:]) < 1e-6 * np.linalg.norm(wanted[3:])


def test_image_space_gradient_is_that_of_differences() -> None:
    """Central differences of 1/2 |H c - b|^2 with the dense H, by Euler angles and shifts."""
    particles, volume, images = setting()
    particles = particles.take(np.array([1]))

    def cost(step: np.ndarray) -> float:
        a, _ = turns(ANGLES[1] + step[:3])
        moved = replace(
            particles,
            rotation=Rotation.from_matrix(a[None]).as_quat(),
            shift=particles.shift + step[3:] * P,
        )
        clean = oracle.projected(moved, N, detector=1).apply(volume)[0]
        return 0.5 * float(((clean - images[1]) ** 2).sum())

    value, gradient, _ = oracle.pose_terms(particles, 0, volume, images[1])
    step = 1e-4
    wanted = np.array([(cost(step * e) - cost(-step * e)) / (2 * step) for e in np.eye(5)])
    # differences of second order, of features of a pixel at a radius of 5: (5 * 1e-4)^2 of the slope
    np.testing.assert_allclose(
        in_angles(gradient, ANGLES[1]), wanted, rtol=1e-6, atol=1e-6 * abs(wanted).max()
    )
    # the dense cost counts the frequencies beyond the band limit of the image as well
    w = oracle.frequencies(N)
    beyond = float((images[1].astype(float) ** 2).sum())
    beyond -= float((np.abs(oracle.transform(images[1], w)[0]) ** 2).sum()) / N**2
    assert value + 0.5 * beyond == pytest.approx(cost(np.zeros(5)), rel=1e-10)


@pytest.mark.parametrize("accuracy", STATED)
@pytest.mark.parametrize("basis", BASES)
def test_pose_model_is_the_image_space_form(basis: str, accuracy: str) -> None:
    """To the accuracy of its window: the values decide on cost and shifts, the slopes on rotations."""
    particles, volume, images = setting()
    radial = make_radial(BASES[basis], [np.ones(N // 2 + 1)], N, [1.0])
    model = PoseModel(volume, accuracy, 1)
    found = model.terms(to_lattice(images, N), make_views(particles, P), radial, box=N)
    values, slopes = STATED[accuracy]
    for p in range(len(particles)):
        cost, gradient, normal = oracle.pose_terms(particles, p, volume, images[p], BASES[basis])
        turn, move = np.sqrt(np.diag(normal)[:3].sum()), np.sqrt(np.diag(normal)[3:].sum())
        error = (found.gradient[p] - gradient) / np.sqrt(2 * cost)
        length = np.array([turn, turn, turn, move, move])
        assert found.cost[p] == pytest.approx(cost, rel=values)
        assert np.linalg.norm(error[3:]) < values * move
        # what is stated is typical: an image may have twice that, a product of two columns twice as much
        assert np.linalg.norm(error[:3]) < 2 * slopes * turn
        assert np.linalg.norm((found.normal[p] - normal) / np.outer(length, length)) < 4 * slopes
