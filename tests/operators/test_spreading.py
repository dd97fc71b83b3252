"""One sample against a block of the grid: what the vectors compute against sums written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numba import njit

from dcryo.operators.spreading import LANES, gather, spread, spread_line
from dcryo.operators.window import TAPS, Window

SIDE = 12
STEP_Y, STEP_Z = 2 * SIDE, 2 * SIDE * SIDE


@njit
def spread6(cells: Any, at: Any, polynomial: Any, s: Any, re: Any, im: Any) -> None:
    spread(6, cells, at, STEP_Y, STEP_Z, polynomial, s[0], s[1], s[2], re, im)


@njit
def gather6(cells: Any, at: Any, polynomial: Any, s: Any) -> Any:
    return gather(6, cells, at, STEP_Y, STEP_Z, polynomial, s[0], s[1], s[2])


@njit
def line(cells: Any, at: Any, polynomial: Any, s: Any, value: Any) -> None:
    spread_line(cells, at, polynomial, s, value)


def weights(window: Window, s: float) -> Any:
    return np.polynomial.polynomial.polyval(s, window.polynomial.astype(float))[: window.width]


@pytest.mark.parametrize("corner", [(0, 0, 0), (5, 1, 3), (6, 6, 6)])
def test_spread_and_gather(corner: tuple[int, int, int]) -> None:
    """``corner`` is the first cell (z, y, x); the last one ends the array."""
    window = Window(6, 1.5)
    s = np.array([-0.9, 0.3, 0.99], np.float32)
    x, y, z = (weights(window, float(v)) for v in s)
    block = z[:, None, None] * y[:, None] * x
    inside = tuple(slice(c, c + 6) for c in corner)
    at = corner[0] * STEP_Z + corner[1] * STEP_Y + 2 * corner[2]
    cells = np.random.default_rng(0).standard_normal(2 * SIDE**3 + LANES).astype(np.float32)
    before = cells[:-LANES].reshape(SIDE, SIDE, SIDE, 2).astype(float)
    found = gather6(cells, at, window.polynomial, s)
    wanted = np.einsum("zyx,zyxc->c", block, before[inside])
    # float32: 216 products of weights below 1, which add up to less than 30
    np.testing.assert_allclose(found, wanted, atol=30 * 2**-23)
    spread6(cells, at, window.polynomial, s, np.float32(1.5), np.float32(-0.5))
    after = before.copy()
    after[inside] += block[..., None] * [1.5, -0.5]
    found = cells[:-LANES].reshape(after.shape)
    np.testing.assert_allclose(found, after, atol=8 * 2**-23)
    untouched = np.ones(after.shape, bool)
    untouched[inside] = False
    assert np.array_equal(found[untouched], before[untouched])


def test_spread_line() -> None:
    window = Window(6, 2.0)
    cells = np.ones(20 + TAPS, np.float32)
    line(cells, 5, window.polynomial, np.float32(0.25), np.float32(2))
    wanted = np.ones(20 + TAPS)
    wanted[5:11] += 2 * weights(window, 0.25)
    np.testing.assert_allclose(cells, wanted, atol=8 * 2**-23)
    assert np.array_equal(cells[11:], wanted[11:])
