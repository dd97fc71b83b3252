"""Proximal operators: the priors of a reconstruction."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dcryo.operators.gradient import NORM2, dual_sweep, primal_sweep, total_variation

Float32 = NDArray[np.float32]


@dataclass
class TotalVariation:
    """weight * TV(x) + (x >= 0): value and prox by accelerated projection on the dual.

    Fast gradient projection (Beck & Teboulle 2009, IEEE TIP 18:2419) with ``steps`` steps per call,
    warm-started: inside an outer iteration the dual of the last call is nearly right, a few steps keep up.

    Attributes
    ----------
    weight : float
        May be changed between solves; the dual lives in the unit ball and stays a good start.
    nonnegative : bool
    steps : int
    """

    weight: float
    nonnegative: bool = False
    steps: int = 8
    threads: int = 0
    _dual: Float32 | None = field(default=None, repr=False)
    _ahead: Float32 | None = field(default=None, repr=False)

    def value(self, x: Float32) -> float:
        """Weight times the isotropic total variation; the constraint is not checked."""
        return self.weight * total_variation(x, self.threads)

    def prox(self, z: Float32, step: float) -> Float32:
        """Approximate argmin_x 1/2 |x - z|^2 + step * weight * TV(x), subject to x >= 0."""
        mu = step * self.weight
        if mu == 0:
            return np.maximum(z, np.float32(0)) if self.nonnegative else z
        if self._dual is None or self._ahead is None or self._dual.shape[1:] != z.shape:
            self._dual = np.zeros((3, *z.shape), np.float32)
            self._ahead = np.zeros_like(self._dual)
        else:
            self._ahead[:] = self._dual
        out = np.empty_like(z)
        t = 1.0
        for _ in range(self.steps):
            primal_sweep(z, self._ahead, out, mu, self.nonnegative, self.threads)
            t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2
            dual_sweep(out, self._ahead, self._dual, 1 / (NORM2 * mu), (t - 1) / t_next, self.threads)
            t = t_next
        primal_sweep(z, self._dual, out, mu, self.nonnegative, self.threads)
        return out
