"""FSC in cones against a direct sum, maps with a missing cone, and surfaces whose sphericity is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dcryo.errors import InputError
from dcryo.metrics import fsc_curve
from dcryo.metrics.directional import directional_fsc, fibonacci_hemisphere, sphericity


def frequencies(n: int) -> np.ndarray:
    """q (n, n, n, 3) as x, y, z of the full transform."""
    q = np.fft.fftfreq(n) * n
    z, y, x = np.meshgrid(q, q, q, indexing="ij")
    return np.stack([x, y, z], axis=-1)


def noise(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, n, n))


@pytest.mark.parametrize("n", [8, 9])
def test_cones_are_sums_over_the_full_transform(n: int) -> None:
    a, b = noise(n, 0), noise(n, 1) + noise(n, 0)
    directions = fibonacci_hemisphere(7)
    angle = 0.6
    got = directional_fsc(a, b, directions, angle)
    q = frequencies(n)
    radius = np.linalg.norm(q, axis=-1)
    fa, fb = np.fft.fftn(a), np.fft.fftn(b)
    if n % 2 == 0:
        # On the Nyquist planes +n/2 and -n/2 are one voxel, with no direction: leave those shells out.
        shells = range(n // 2)
    else:
        shells = range(n // 2 + 1)
    whole = fsc_curve(a, b)
    for d, direction in enumerate(directions):
        for k in shells:
            inside = (np.rint(radius) == k) & (np.abs(q @ direction) >= math.cos(angle) * radius - 1e-12)
            x, y = fa[inside], fb[inside]
            expected = (
                np.vdot(y, x).real / (np.linalg.norm(x) * np.linalg.norm(y)) if inside.any() else whole[k]
            )
            assert got[d, k] == pytest.approx(expected, abs=1e-12)


def test_a_cone_of_a_right_angle_is_the_whole_shell() -> None:
    a, b = noise(10, 2), noise(10, 3) + noise(10, 2)
    curves = directional_fsc(a, b, fibonacci_hemisphere(3), math.pi / 2)
    np.testing.assert_allclose(curves, np.tile(fsc_curve(a, b), (3, 1)), atol=1e-12)


def test_empty_cones_have_the_fsc_of_the_shell() -> None:
    a, b = noise(8, 4), noise(8, 5) + noise(8, 4)
    direction = np.array([[1, 2, 3.0]]) / math.sqrt(14)
    curve = directional_fsc(a, b, direction, math.radians(5))[0]
    assert curve[1] == pytest.approx(fsc_curve(a, b)[1])  # no lattice point of the first shell is near


def test_a_missing_cone_is_seen_where_it_is() -> None:
    """Halves that share everything but a cone about y differ there, and agree elsewhere."""
    n, axis = 40, np.array([0, 1.0, 0])
    q = frequencies(n)
    radius = np.maximum(np.linalg.norm(q, axis=-1), 1e-9)
    missing = np.abs(q @ axis) / radius > math.cos(math.radians(30))
    shared, own_a, own_b = (np.fft.fftn(noise(n, seed)) for seed in (6, 7, 8))
    a = np.fft.ifftn(np.where(missing, own_a, shared)).real
    b = np.fft.ifftn(np.where(missing, own_b, shared)).real
    directions = np.array([[0, 1.0, 0], [1, 0, 0], [0, 0, 1]])
    curves = directional_fsc(a, b, directions)
    shells = slice(5, n // 2)
    np.testing.assert_allclose(curves[1:, shells], 1, atol=1e-9)
    # Chance alone: a cone holds 0.06 * 4 pi k^2 voxels, half of them independent; mean over 15 shells
    assert abs(curves[0, shells].mean()) < 4 / math.sqrt(
        0.06 * 4 * math.pi / 2 * sum(k * k for k in range(5, 20))
    )
    whole = fsc_curve(a, b)[shells]
    share = 1 - math.cos(math.radians(30))  # of a sphere inside the double cone
    assert whole.mean() == pytest.approx(1 - share, abs=0.02)


def test_directions_are_even() -> None:
    directions = fibonacci_hemisphere(500)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    assert directions[:, 2].min() > 0
    both = np.concatenate([directions, -directions])
    np.testing.assert_allclose(
        both.T @ both / len(both), np.eye(3) / 3, atol=2e-3
    )  # second moments of a sphere
    nearest = np.sort(both @ both.T, axis=1)[:, -2]
    # 1000 points: 4 pi / 1000 each, whose hexagonal packing would be 0.12 rad apart; half of that at the
    # equator, where the points of the hemisphere meet the opposites of others
    angles = np.arccos(nearest)
    assert 0.05 < angles.min()
    assert angles.max() < 0.13


def test_sphericity_of_spheres_and_spheroids() -> None:
    directions = fibonacci_hemisphere(2000)
    assert sphericity(directions, np.full(2000, 0.3)) == pytest.approx(1, abs=1e-12)
    for c in (0.5, 2.0):
        # radius of the spheroid (x^2 + y^2) + z^2/c^2 = 1 along each direction; areas in closed form
        radii = 1 / np.sqrt(directions[:, 0] ** 2 + directions[:, 1] ** 2 + (directions[:, 2] / c) ** 2)
        if c < 1:
            e = math.sqrt(1 - c * c)
            area = 2 * math.pi * (1 + (1 - e * e) / e * math.atanh(e))
        else:
            e = math.sqrt(1 - 1 / (c * c))
            area = 2 * math.pi * (1 + c / e * math.asin(e))
        exact = math.pi ** (1 / 3) * (6 * 4 / 3 * math.pi * c) ** (2 / 3) / area
        assert sphericity(directions, radii) == pytest.approx(exact, abs=2e-3)  # 4000 flat triangles
    rough = 1 + 0.3 * np.random.default_rng(0).random(2000)
    assert sphericity(directions, rough) < 0.8


def test_maps_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(InputError, match="cubes of one size"):
        directional_fsc(np.zeros((4, 4, 4)), np.zeros((5, 5, 5)), fibonacci_hemisphere(2))
