"""A circular convolution that majorises Q: the metric of the inner-loop-free iteration."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal

from dcryo.arrays import namespace
from dcryo.operators.circulant import filtered
from dcryo.solvers.fista import inner

Array = NDArray[np.floating[Any]]

FLOOR = 0.01
"""Least eigenvalue of an approximation, in its largest: what it says is nothing, Q may yet see."""

SEED = 0
"""Of the noise that the search for kappa starts from, which must have all frequencies."""


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
        Lanczos steps for kappa, the largest eigenvalue of C^-1/2 Q C^-1/2: so many products.
    """
    root = 1 / np.sqrt(circulant)

    def relative(x: Array) -> Array:
        return filtered(apply(filtered(x, root, workers)), root, workers)

    noise = np.random.default_rng(SEED).standard_normal(shape, dtype=np.float32)
    kappa = largest_eigenvalue_bound(relative, namespace(circulant).asarray(noise), iterations)
    return np.float32(kappa) * circulant


def largest_eigenvalue_bound(apply: Callable[[Array], Array], start: Array, iterations: int) -> float:
    """Upper estimate of the largest eigenvalue of a positive semidefinite operator, by Lanczos' method.

    The largest Ritz value comes from below; the norm of its residual is added, within which there is an
    eigenvalue.  Where ``start`` has next to nothing of the largest one's vector, that is another's.
    """
    before, vector = np.zeros_like(start), start / np.float32(math.sqrt(inner(start, start)))
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(iterations):
        image = apply(vector)
        diagonal.append(inner(vector, image))
        image -= np.float32(diagonal[-1]) * vector
        if beside:
            image -= np.float32(beside[-1]) * before
        beside.append(math.sqrt(inner(image, image)))
        if beside[-1] <= 1e-6 * max(diagonal):  # nothing but rounding is left
            break
        before, vector = vector, image / np.float32(beside[-1])
    values, vectors = eigh_tridiagonal(diagonal, beside[:-1])
    return float(values[-1] + beside[-1] * abs(vectors[-1, -1]))
