"""Preconditioned conjugate gradients for (Q + mu) x = q: the linear reconstruction."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.solvers.fista import inner

Array = NDArray[np.floating[Any]]


def conjugate_gradients(
    apply: Callable[[Array], Array],
    linear: Array,
    *,
    precondition: Callable[[Array], Array] | None = None,
    tolerance: float = 1e-3,
    iterations: int = 50,
) -> tuple[Array, list[float]]:
    """Solve ``apply(x) = linear`` from zero.

    Stops when the residual (in the preconditioner's norm) has fallen by ``tolerance``.  Returns the solution
    and the residual norms.
    """
    x = np.zeros_like(linear)
    residual = linear.copy()
    z = precondition(residual) if precondition else residual
    direction = z.copy()
    energy = inner(residual, z)
    norms = [math.sqrt(max(energy, 0.0))]
    for _ in range(iterations):
        if norms[-1] <= tolerance * norms[0]:
            break
        product = apply(direction)
        alpha = energy / inner(direction, product)
        x += alpha * direction
        residual -= alpha * product
        z = precondition(residual) if precondition else residual
        before, energy = energy, inner(residual, z)
        norms.append(math.sqrt(max(energy, 0.0)))
        direction = z + (energy / before) * direction
    return x, norms
