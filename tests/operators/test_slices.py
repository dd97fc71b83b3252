"""Insertion and extraction of slices against sample-by-sample spreading in float64."""

from __future__ import annotations

import numpy as np
import pytest
from spreading import slices, spread

from dcryo.operators.slices import MARGIN, TILE, HalfGrid
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
        assert apart.min() >= TILE + geometry.window.width + 2 * MARGIN


@pytest.mark.parametrize("accuracy", ["fast", "default"])
@pytest.mark.parametrize("n", [64, 80])
def test_samples_on_the_walls_of_tiles_are_inserted_once(n: int, accuracy: str) -> None:
    """Along the axes whole rows of samples lie on a wall, or a rounding error beside it."""
    geometry = HalfGrid(n, window(accuracy))
    quarter = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    turns = [np.eye(3), quarter, quarter.T, quarter[[2, 0, 1]], -quarter[[0, 2, 1]], np.eye(3)[[1, 2, 0]]]
    step = np.array([[1, 0, 0], [0, 1, 0]]) * geometry.size / n
    rows = np.array([step @ (turn + 1e-9 * i * np.ones((3, 3))) for i, turn in enumerate(turns)], np.float32)
    h = (n - 1) // 2
    values = np.zeros((len(rows), 2 * h + 1, h + 1, 2), np.float32)
    values[..., 0] = 1
    grid = np.zeros(geometry.shape)
    radius2 = np.full(len(rows), (n / 2) ** 2, np.float32)
    geometry.insert(grid, values, rows, radius2, 1)
    b, a = np.mgrid[-h : h + 1, : h + 1]
    samples = len(rows) * np.sum((a * a + b * b < (n / 2) ** 2) & ((a > 0) | (b >= 0)))
    # the weights of a sample add up to the same wherever it is, but for the ripple of the window
    offsets = np.random.default_rng(0).uniform(-1, 1, 1000)
    sums = sum(
        np.polynomial.polynomial.polyval(offsets, geometry.window.polynomial[:, tap].astype(float))
        for tap in range(geometry.window.width)
    )
    total = grid.view(complex).sum().real
    assert samples * sums.min() ** 3 * 0.9999 < total < samples * sums.max() ** 3 * 1.0001


@pytest.mark.parametrize("threads", [2, 4])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    geometry = HalfGrid(42, window("default"))
    values, rows, radius2 = slices(geometry, 5, 9)
    one, many = np.zeros(geometry.shape), np.zeros(geometry.shape)
    geometry.insert(one, values, rows, radius2, 1)
    geometry.insert(many, values, rows, radius2, threads)
    assert np.array_equal(one, many)
