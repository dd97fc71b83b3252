"""The priors of a reconstruction: a weighted norm |Lx|, and x >= 0, through their duals.

    g(x) = weight |Lx| + (x >= 0) = max over p in the dual ball, m <= 0 of <weight Lᵀp + m, x>

Every solver needs no more of it than four things that an :class:`Analysis` knows how to do in few passes over
memory: the value, z - mu Lᵀp, a projected step on p along Lx, and the eigenvalues of LᵀL.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


class Analysis(Protocol):
    """A linear operator L together with a norm of its range.

    The layout of a dual is the operator's own business.
    """

    @property
    def norm2(self) -> float:
        """Upper bound of the squared norm of L."""

    def dual(self, x: Array) -> Array:
        """A dual of zero for volumes like ``x``."""

    def value(self, x: Array) -> float:
        """|Lx|."""

    def primal_sweep(self, z: Array, dual: Array, out: Array, mu: float, nonnegative: bool) -> None:
        """Set ``out = z - mu Lᵀ dual``, then its maximum with 0 if ``nonnegative``."""

    def dual_sweep(self, x: Array, ahead: Array, dual: Array, step: float, momentum: float) -> None:
        """new = project(ahead + step L x) on the ball; ahead = new + momentum (new - dual); dual = new."""

    def eigenvalues(self, shape: tuple[int, ...]) -> Array:
        """LᵀL, diagonal in the discrete Fourier transform, in the layout of rfftn."""


@dataclass
class AnalysisPrior:
    """weight * |Lx| + (x >= 0): its value, its prox, and its part in a primal-dual iteration.

    The prox is that of fast gradient projection (Beck & Teboulle 2009, IEEE TIP 18:2419) with ``steps`` steps
    per call, warm-started: inside an outer iteration the dual of the last call is nearly right, a few steps
    keep up.

    Attributes
    ----------
    analysis : Analysis
    weight : float
        May be changed between solves; the dual lives in a ball of fixed size and stays a good start.  0: no
        prior but the constraint.
    nonnegative : bool
    steps : int
    """

    analysis: Analysis
    weight: float
    nonnegative: bool = False
    steps: int = 8
    _dual: Array | None = field(default=None, repr=False)
    _ahead: Array | None = field(default=None, repr=False)
    _multiplier: Array | None = field(default=None, repr=False)
    _shape: tuple[int, ...] = field(default=(), repr=False)

    def value(self, x: Array) -> float:
        """Weight times |Lx|; the constraint is not checked."""
        return self.weight * self.analysis.value(x) if self.weight else 0.0

    def prox(self, z: Array, step: float) -> Array:
        """Approximate argmin_x 1/2 |x - z|^2 + step * weight * |Lx|, subject to x >= 0."""
        mu = step * self.weight
        if mu == 0:
            return self.feasible(z)
        dual, ahead = self._duals(z)
        ahead[:] = dual
        out = np.empty_like(z)
        t = 1.0
        for _ in range(self.steps):
            self.analysis.primal_sweep(z, ahead, out, mu, self.nonnegative)
            t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2
            self.analysis.dual_sweep(out, ahead, dual, 1 / (self.analysis.norm2 * mu), (t - 1) / t_next)
            t = t_next
        self.analysis.primal_sweep(z, dual, out, mu, self.nonnegative)
        return out

    def feasible(self, x: Array) -> Array:
        """The nearest point that the constraint allows; ``x`` itself without it."""
        return np.maximum(x, np.float32(0)) if self.nonnegative else x

    def pull(self, z: Array) -> Array:
        """``z - weight Lᵀp - m``, by the duals as they are."""
        out = z
        if self.weight:
            dual, _ = self._duals(z)
            out = np.empty_like(z)
            self.analysis.primal_sweep(z, dual, out, self.weight, False)
        return out - self._signs(z) if self.nonnegative else out

    def ascend(self, x: Array, rho: float) -> None:
        """Move both duals: p <- project(p + rho / weight L x), m <- min(m + rho x, 0)."""
        if self.weight:
            dual, ahead = self._duals(x)
            self.analysis.dual_sweep(x, ahead, dual, rho / self.weight, 0.0)
        if self.nonnegative:
            signs = self._signs(x)
            signs += np.float32(rho) * x
            np.minimum(signs, np.float32(0), out=signs)

    def penalty(self, shape: tuple[int, ...]) -> Array:
        """LᵀL, and 1 for the constraint: the eigenvalues in the layout of rfftn of what ADMM splits off."""
        signs = np.float32(self.nonnegative)
        if self.weight:
            return self.analysis.eigenvalues(shape) + signs
        return np.full((*shape[:-1], shape[-1] // 2 + 1), signs)

    def _duals(self, x: Array) -> tuple[Array, Array]:
        """The dual and its extrapolation, as equal as they were left; zeros for a volume of a new shape."""
        if self._dual is None or self._ahead is None or self._shape != x.shape:
            self._dual, self._ahead = self.analysis.dual(x), self.analysis.dual(x)
            self._shape = x.shape
        return self._dual, self._ahead

    def _signs(self, x: Array) -> Array:
        """The multiplier m of x >= 0; zero for a volume of a new shape."""
        if self._multiplier is None or self._multiplier.shape != x.shape:
            self._multiplier = np.zeros_like(x)
        return self._multiplier
