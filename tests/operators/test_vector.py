"""Vectors inside kernels against numpy, number by number."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
from numba import njit

from dcryo.operators.vector import LANES, at_least, load, modulus, root, shifted, store

OPERATIONS = 8


@njit(error_model="numpy")
def kernel(a: Any, b: Any, first: Any, s: Any, out: Any) -> None:
    x, y = load(a, first), load(b, first)
    store(out[0], first, x + y)
    store(out[1], first, x - y * s)
    store(out[2], first, s * x)
    store(out[3], first, s / y)
    store(out[4], first, root(modulus(x)))
    store(out[5], first, at_least(x, s))
    store(out[6], first, shifted(x, s))
    store(out[7], first, x / s)


def test_every_operation_is_that_of_numpy() -> None:
    a, b = oracle.noise((2, LANES + 5), 1)
    out = np.zeros((OPERATIONS, LANES + 5), np.float32)
    first, s = 3, np.float32(0.3)  # where no vector is aligned
    kernel(a, b, first, s, out)
    here = slice(first, first + LANES)
    x, y = a[here], b[here]
    moved = np.append(x[1:], s)
    expected = [x + y, x - y * s, s * x, s / y, np.sqrt(np.abs(x)), np.maximum(x, s), moved, x / s]
    # fused or approximated: a few units in the last place of what goes in
    np.testing.assert_allclose(out[:, here], expected, rtol=1e-6, atol=1e-6)
    assert not out[:, :first].any()
    assert not out[:, here.stop :].any()
