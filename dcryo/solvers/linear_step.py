"""The linear step of ADMM, (Q + P) d = residual with P circular and Q not, solved in part.

Inner-loop-free: Q is replaced by a circular A that majorises it, and the step is one division in Fourier
space (thesis, (4.55)).  With inner conjugate gradients: K steps on the system itself (thesis, Algorithm 1),
with or without a circular preconditioner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dcryo.arrays import irfftn, namespace, rfftn
from dcryo.operators.compiled import thread_count
from dcryo.solvers.fista import Quadratic, inner

Array = NDArray[np.floating[Any]]


class LinearStep(Protocol):
    """One way to solve the linear step."""

    def __call__(
        self, problem: Quadratic, penalty: Array, x: Array, product: Array, residual: Array
    ) -> tuple[Array, Array]:
        """The increment d of ``x``, and Q(x + d).

        ``product`` is Qx; ``penalty`` P in the layout of rfftn.
        """


@dataclass(frozen=True)
class Majorised:
    """d = (A + P)^-1 residual; one product.

    ``majoriser``: the eigenvalues of A, in the layout of rfftn, or one number for a multiple of the identity.
    The iteration converges where A - Q/2 is positive definite (Condat 2013, J. Optim. Theory Appl. 158:460;
    Lorenz & Pock 2015, J. Math. Imaging Vis. 51:311, for any metric): there is room for a norm that was
    estimated from below.
    """

    majoriser: Array | float

    def __call__(
        self, problem: Quadratic, penalty: Array, x: Array, product: Array, residual: Array
    ) -> tuple[Array, Array]:
        """See :class:`LinearStep`."""
        workers = thread_count(problem.threads)
        spectrum = rfftn(residual, workers)
        spectrum /= penalty + _follow(self.majoriser, residual)
        increment = irfftn(spectrum, residual.shape, workers)
        return increment, problem.apply(x + increment)


@dataclass(frozen=True)
class InnerCG:
    """``steps`` conjugate gradients from d = 0.

    ``preconditioner``: a positive approximation of Q, eigenvalues in the layout of rfftn; P is added to it.
    ``carried``: Q(x + d) is put together from the products of the steps, K products in all; else it is
    computed anew, K + 1 products as in the thesis.
    """

    steps: int
    preconditioner: Array | None = None
    carried: bool = False

    def __call__(
        self, problem: Quadratic, penalty: Array, x: Array, product: Array, residual: Array
    ) -> tuple[Array, Array]:
        """See :class:`LinearStep`."""
        workers = thread_count(problem.threads)
        increment, gain = np.zeros_like(x), np.zeros_like(x)
        direction, bent = increment, gain  # P times the direction follows its own recursion
        energy = 0.0
        for remaining in reversed(range(self.steps)):
            spectrum = rfftn(residual, workers)
            z = residual
            if self.preconditioner is not None:
                spectrum /= penalty + _follow(self.preconditioner, residual)
                z = irfftn(spectrum, residual.shape, workers)
            before, energy = energy, inner(residual, z, problem.threads)
            if energy <= 0:
                break
            ratio = np.float32(energy / before) if before else np.float32(0)
            direction = z + ratio * direction
            spectrum *= penalty
            bent = irfftn(spectrum, residual.shape, workers) + ratio * bent
            applied = problem.apply(direction)
            curvature = inner(direction, applied, problem.threads) + inner(direction, bent, problem.threads)
            length = np.float32(energy / curvature)
            increment = increment + length * direction
            gain = gain + length * applied
            if remaining:
                residual = residual - length * (applied + bent)
        return increment, product + gain if self.carried else problem.apply(x + increment)


def _follow(eigenvalues: Array | float, x: Array) -> Array:
    """Eigenvalues where ``x`` lives."""
    moved: Array = namespace(x).asarray(eigenvalues, dtype=np.float32)
    return moved
