"""Masks of analytic balls, distances by brute force, and what is refused."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from dcryo.errors import InputError
from dcryo.imaging.mask import automatic_mask, check_mask, otsu_threshold, soft_mask


def distance(n: int, centre: tuple[float, float, float]) -> np.ndarray:
    """Distance of every voxel [z, y, x] to a point."""
    z, y, x = np.meshgrid(*(np.arange(n),) * 3, indexing="ij")
    return np.sqrt((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2)


def test_growth_and_edge_are_distances_to_the_nearest_voxel_inside() -> None:
    n, extend, edge = 12, 2.5, 3.0
    seed = np.random.default_rng(0).random((n, n, n)) > 0.997
    inside = np.argwhere(seed)
    assert len(inside) > 3
    expected = np.zeros((n, n, n))
    grown = [
        p for p in itertools.product(range(n), repeat=3) if np.linalg.norm(inside - p, axis=1).min() < extend
    ]
    for p in itertools.product(range(n), repeat=3):
        d = np.linalg.norm(np.array(grown) - p, axis=1).min()
        expected[p] = 0.5 * (1 + math.cos(math.pi * min(d / edge, 1)))
    np.testing.assert_allclose(soft_mask(seed, extend, edge), expected, atol=1e-7)  # float32
    np.testing.assert_array_equal(soft_mask(seed, 0, 0), seed)
    # An edge alone: nothing grows
    assert soft_mask(seed, 0, 2)[seed].min() == 1
    assert not soft_mask(np.zeros_like(seed), 3, 3).any()


@pytest.mark.parametrize("n", [40, 41])
def test_a_ball_is_found_where_it_is(n: int) -> None:
    """The mask of a ball of density 2 on a background of 1 is the ball, grown and softened."""
    centre, radius, pixel = (n // 2 + 3.0, n // 2 - 2.0, n // 2 + 0.0), 8.0, 2.0
    d = distance(n, centre)
    volume = 1 + (d <= radius)
    mask, threshold = automatic_mask(volume, pixel, lowpass=6.0, threshold=None, extend=3, edge=4)
    assert 1.2 < threshold < 1.8  # between the two levels
    # The filter (3 voxels) rounds the surface of the ball by less than a voxel, the lattice by half of one.
    np.testing.assert_array_equal(mask[d <= radius + 3 - 1.5], 1)
    np.testing.assert_array_equal(mask[d >= radius + 3 + 4 + 1.5], 0)
    # Half way through the edge a cosine is 1/2; a voxel and a half further out it is 0.04.
    middle = np.abs(d - (radius + 3 + 2)) < 0.5
    assert 0.04 < mask[middle].mean() < 0.5
    same, given = automatic_mask(volume, pixel, lowpass=6.0, threshold=threshold, extend=3, edge=4)
    np.testing.assert_array_equal(same, mask)
    assert given == threshold


def test_otsu_splits_where_the_variance_between_is_largest() -> None:
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(0, 1, 9000), rng.normal(8, 1, 1000)])
    cuts = np.linspace(values.min(), values.max(), 800)[1:-1]

    def between(cut: float) -> float:
        low, high = values[values < cut], values[values >= cut]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2

    best = cuts[int(np.argmax([between(cut) for cut in cuts]))]
    found = otsu_threshold(values)
    # 512 bins and 800 cuts over the range: the criterion differs by no more than a bin's worth
    assert between(found) > 0.999 * between(best)
    assert abs(found - best) < 3 * np.ptp(values) / 512
    with pytest.raises(InputError, match="constant"):
        otsu_threshold(np.ones(5))


def test_masks_that_mask_nothing_are_refused() -> None:
    volume = 1 + (distance(24, (12, 12, 12)) <= 6)
    for threshold, sentence in ((5.0, "no voxel is inside"), (-5.0, "covers the whole box")):
        with pytest.raises(InputError, match=sentence) as refused:
            automatic_mask(volume, 2.0, lowpass=8, threshold=threshold, extend=2, edge=2)
        assert "--mask-threshold" in str(refused.value)
        assert "filtered to 8 Å" in str(refused.value)


def test_given_masks_are_checked() -> None:
    good = soft_mask(distance(16, (8, 8, 8)) <= 4, 0, 3)
    np.testing.assert_array_equal(check_mask(good, "m.mrc"), good)
    nearly = check_mask(good * np.float32(1.0005), "m.mrc")
    assert nearly.max() == 1
    for bad, sentence in (
        (2 * good, "from 0 to 1, this one from 0 to 2"),
        (good - 0.5, "from -0.5"),
        (np.zeros_like(good), "empty"),
        (np.ones_like(good), "whole box"),
    ):
        with pytest.raises(InputError, match=rf"m\.mrc.*{sentence}"):
            check_mask(bad, "m.mrc")
