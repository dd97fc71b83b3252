"""The sampling compensation factor of distributions for which it is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dcryo.errors import InputError
from dcryo.metrics.directional import fibonacci_hemisphere
from dcryo.metrics.orientation import SHELL, compensation_factor, histogram_views, sampling

DIRECTIONS = fibonacci_hemisphere(200)


def even(count: int) -> np.ndarray:
    return fibonacci_hemisphere(count)


def test_an_even_spread_is_one() -> None:
    sampled = sampling(even(20_000), np.ones(20_000), DIRECTIONS)
    # A slab of a twentieth of the sphere holds 1000 views of a low-discrepancy set.
    np.testing.assert_allclose(sampled, 1, atol=0.02)
    assert compensation_factor(sampled) == pytest.approx(1, abs=1e-3)


def test_side_views_are_worth_what_the_integral_says() -> None:
    """Views around the equator: a direction at the angle t from the pole is in the slab of few of them."""
    turn = 2 * np.pi * (np.arange(20_000) + 0.5) / 20_000
    views = np.stack([np.cos(turn), np.sin(turn), 0 * turn], axis=1)
    sampled = sampling(views, np.ones(len(views)), DIRECTIONS)
    # |cos(turn - phi)| sin t <= reach: the share of turns is (2/pi) asin(min(1, reach / sin t))
    reach = 1 / (2 * SHELL)
    sine = np.sqrt(1 - DIRECTIONS[:, 2] ** 2)
    expected = 2 / np.pi * np.arcsin(np.minimum(1, reach / sine)) / reach
    np.testing.assert_allclose(sampled, expected, atol=5e-3 * expected.max())
    # mean of sin t over directions is pi/4, and the sampling is 2/(pi sin t): 1/SCF = pi^2/8
    assert compensation_factor(sampled) == pytest.approx(8 / math.pi**2, abs=0.02)


def test_a_missing_cone_is_zero() -> None:
    views = even(10_000)
    top = views[views[:, 2] > math.cos(math.radians(40))]
    sampled = sampling(top, np.ones(len(top)), DIRECTIONS)
    # directions within 50 degrees of the axis, less the thickness of a slab, are never sampled
    empty = DIRECTIONS[:, 2] > math.cos(math.radians(50) - 1 / (2 * SHELL) - 0.02)
    assert np.all(sampled[empty] == 0)
    assert sampled[DIRECTIONS[:, 2] < 0.1].min() > 1
    assert compensation_factor(sampled) == 0


def test_weights_count_as_copies() -> None:
    views = Rotation.random(300, random_state=0).as_matrix()[:, 2]
    weights = np.random.default_rng(0).integers(1, 5, 300)
    np.testing.assert_allclose(
        sampling(views, weights, DIRECTIONS),
        sampling(np.repeat(views, weights, axis=0), np.ones(weights.sum()), DIRECTIONS),
    )


def test_a_histogram_stands_for_its_views() -> None:
    tilt, rot = np.linspace(0, np.pi, 19), np.linspace(-np.pi, np.pi, 37)
    # 30,000 views with a preference: the measure of the histogram is that of the views, but for its bins of
    # 10 degrees, which blur the slabs of 6 degrees.
    rng = np.random.default_rng(1)
    views = rng.standard_normal((30_000, 3)) * [1, 1, 2]
    views /= np.linalg.norm(views, axis=1)[:, None]
    counts, _, _ = np.histogram2d(
        np.arccos(views[:, 2]), np.arctan2(views[:, 1], views[:, 0]), bins=(tilt, rot)
    )
    binned, weights = histogram_views(counts, tilt, rot)
    assert weights.sum() == pytest.approx(len(views))
    np.testing.assert_allclose(np.linalg.norm(binned, axis=1), 1)
    np.testing.assert_allclose(
        (binned.T * weights) @ binned / weights.sum(), views.T @ views / len(views), atol=0.01
    )
    exact = sampling(views, np.ones(len(views)), DIRECTIONS)
    np.testing.assert_allclose(sampling(binned, weights, DIRECTIONS), exact, atol=0.08)
    assert compensation_factor(exact) == pytest.approx(
        compensation_factor(sampling(binned, weights, DIRECTIONS)), abs=0.01
    )


def test_an_even_histogram_is_even() -> None:
    tilt, rot = np.linspace(0, np.pi, 19), np.linspace(-np.pi, np.pi, 37)
    counts = np.repeat((np.cos(tilt[:-1]) - np.cos(tilt[1:]))[:, None], 36, axis=1)
    sampled = sampling(*histogram_views(counts, tilt, rot), DIRECTIONS)
    # the grid of 2 degrees in a slab of 5.7
    np.testing.assert_allclose(sampled, 1, atol=0.1)
    assert compensation_factor(sampled) > 0.995


def test_symmetry_copies_views() -> None:
    tilt, rot = np.linspace(0, np.pi, 19), np.linspace(-np.pi, np.pi, 37)
    counts = np.zeros((18, 36))
    counts[8, 18] = 7  # near x
    views, weights = histogram_views(counts, tilt, rot, "C4")
    assert weights.sum() == pytest.approx(7)
    mean = (views * weights[:, None]).sum(axis=0) / 7
    np.testing.assert_allclose(mean[:2], 0, atol=1e-12)  # four copies about z cancel
    around = np.degrees(np.arctan2(views[:, 1], views[:, 0])).round() % 90
    assert set(np.abs(((around + 45) % 90) - 45)) <= set(range(11))  # within a bin of x, y, -x, -y


def test_no_views_are_refused() -> None:
    with pytest.raises(InputError, match="no views"):
        sampling(np.zeros((0, 3)), np.zeros(0), DIRECTIONS)
