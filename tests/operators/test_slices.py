"""Insertion and extraction of slices against sample-by-sample spreading in float64."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import i0

from dcryo.operators.slices import TILE, HalfGrid
from dcryo.operators.window import Window, window


def spread(geometry: HalfGrid, values: np.ndarray, rows: np.ndarray, radius2: np.ndarray) -> np.ndarray:
    """Every sample of every slice on its W^3 cells, by the window's formula; u_x < 0 is mirrored."""
    chosen: Window = geometry.window
    grid = np.zeros((*geometry.shape[:2], geometry.shape[2] // 2), complex)
    h = values.shape[2] - 1
    origin = np.array([geometry.pad, geometry.size // 2 + geometry.pad, geometry.size // 2 + geometry.pad])
    for p in range(len(values)):
        for b in range(-h, h + 1):
            for a in range(h + 1):
                if a * a + b * b >= radius2[p] or (a == 0 and b < 0):
                    continue
                u = a * rows[p, 0].astype(float) + b * rows[p, 1]
                value = complex(*values[p, b + h, a])
                if u[0] < 0:
                    u, value = -u, value.conjugate()
                first = np.ceil(u - chosen.width / 2).astype(int)
                x = first + np.arange(chosen.width)[:, None] - u
                w = i0(chosen.beta * np.sqrt(np.maximum(1 - (2 * x / chosen.width) ** 2, 0))) / i0(
                    chosen.beta
                )
                cells = np.ix_(*((first + origin)[i] + np.arange(chosen.width) for i in (2, 1, 0)))
                grid[cells] += value * w[:, 2, None, None] * w[:, 1, None] * w[:, 0]
    return grid


def slices(geometry: HalfGrid, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random slices; one along the axes, so that samples fall on the borders of tiles and on u_x = 0."""
    rng = np.random.default_rng(seed)
    n = geometry.n
    h = (n - 1) // 2
    values = rng.standard_normal((count, 2 * h + 1, h + 1, 2)).astype(np.float32)
    values[:, :h, 0] = 0
    rotations = np.stack([np.linalg.qr(rng.standard_normal((3, 3)))[0] for _ in range(count)])
    rotations[0] = np.eye(3)[[1, 2, 0]]
    rows = (rotations[:, :2] * (geometry.size / n)).astype(np.float32)
    return values, rows, np.full(count, np.float32(n * n / 4))


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
