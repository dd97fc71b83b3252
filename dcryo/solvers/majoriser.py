"""A circular convolution that majorises Q: the metric of the inner-loop-free iteration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.arrays import namespace
from dcryo.operators.circulant import filtered
from dcryo.solvers.fista import largest_eigenvalue

Array = NDArray[np.floating[Any]]

FLOOR = 0.01
"""Least eigenvalue of an approximation, in its largest: what it says is nothing, Q may yet see."""

SEED = 0
"""Of the power iteration's start, which must have all frequencies."""


def positive(circulant: Array) -> Array:
    """Nonnegative eigenvalues lifted off zero."""
    lifted: Array = circulant + np.float32(FLOOR) * circulant.max()
    return lifted


def majoriser(
    apply: Callable[[Array], Array],
    circulant: Array,
    shape: tuple[int, ...],
    *,
    iterations: int = 12,
    margin: float = 1.05,
    workers: int = 1,
) -> Array:
    """Eigenvalues of A = kappa C, at least Q, in the layout of rfftn.

    Parameters
    ----------
    apply : callable
        Q.
    circulant : (n, n, n//2+1)
        Positive eigenvalues of C.
    shape : (n, n, n)
    iterations : int
        Of the power iteration for kappa, the largest eigenvalue of C^-1/2 Q C^-1/2: so many products.
    margin : float
        What makes up for its coming from below.
    """
    root = 1 / np.sqrt(circulant)

    def relative(x: Array) -> Array:
        return filtered(apply(filtered(x, root, workers)), root, workers)

    noise = np.random.default_rng(SEED).standard_normal(shape, dtype=np.float32)
    start = namespace(circulant).asarray(noise)
    return np.float32(largest_eigenvalue(relative, start, iterations, margin)) * circulant
