"""Insertion and extraction of slices against sample-by-sample spreading in float64."""

from __future__ import annotations

import numpy as np
import pytest
from spreading import slices, spread

from dcryo.operators.slices import TILE, HalfGrid
from dcryo.operators.window import window


@pytest.mark.parametrize("name", ["fast", "default"])
@pytest.mark.parametrize("n", [7, 42])  # one tile, and several in every direction
def test_insertion_is_spreading(name: str, n: int) -> None:
    geometry = HalfGrid(n, window(name))
    values, rows, radius2 = slices(geometry, 3, n)
    grid = np.zeros(geometry.shape)
    geometry.insert(grid, values, rows, radius2, 1)
    expected = spread(geometry, values, rows, radius2)
    # positions are float32 numbers of up to 50 cells (4e-6), weights have slopes below 1, tables err by 2e-6
    assert np.abs(grid.view(complex) - expected).max() < 1e-5 * np.abs(expected).max() * 3


@pytest.mark.parametrize("name", ["fast", "default", "accurate"])
@pytest.mark.parametrize("n", [7, 42])
def test_extraction_is_the_transpose_of_insertion(name: str, n: int) -> None:
    geometry = HalfGrid(n, window(name))
    values, rows, radius2 = slices(geometry, 3, n + 1)
    inserted = np.zeros(geometry.shape)
    geometry.insert(inserted, values, rows, radius2, 1)
    grid = np.random.default_rng(5).standard_normal(geometry.shape).astype(np.float32)
    extracted = np.zeros_like(values)
    geometry.extract(grid, extracted, rows, radius2, 1)
    # what is beyond the radius is not extracted; what is inside, all of it
    difference = np.sum(inserted * grid) - np.sum(extracted.astype(float) * values)
    # both round their float32 sums of up to 216 terms: sqrt(216) * 6e-8 of the norms
    assert abs(difference) < 1e-6 * np.linalg.norm(extracted) * np.linalg.norm(values)


@pytest.mark.parametrize("name", ["fast", "default"])
@pytest.mark.parametrize("n", [7, 42, 80])
def test_tiles_of_one_colour_do_not_touch(name: str, n: int) -> None:
    """They are worked on at the same time; a tile writes its edge and a window beyond it."""
    geometry = HalfGrid(n, window(name))
    for colour in geometry._tiles():
        corners = np.array(colour)
        apart = np.abs(corners[:, None] - corners).max(axis=-1)
        np.fill_diagonal(apart, 10**6)
        assert apart.min() >= TILE + geometry.window.width


@pytest.mark.parametrize("threads", [2, 4])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    geometry = HalfGrid(42, window("default"))
    values, rows, radius2 = slices(geometry, 5, 9)
    one, many = np.zeros(geometry.shape), np.zeros(geometry.shape)
    geometry.insert(one, values, rows, radius2, 1)
    geometry.insert(many, values, rows, radius2, threads)
    assert np.array_equal(one, many)
