"""Insertion written out: every sample on its cells, by the window's formula, in float64."""

from __future__ import annotations

import numpy as np
from scipy.special import i0

from dcryo.operators.slices import HalfGrid
from dcryo.operators.window import Window


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
