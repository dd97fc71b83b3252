"""Small quadratic problems with their matrix at hand, for the solvers."""

from __future__ import annotations

from dataclasses import dataclass, field

import cvxpy
import numpy as np
import penalties

from dcryo.solvers.fista import Quadratic


@dataclass
class Dense:
    """1/2 |Ax - b|^2 on a volume, matrix Q = AᵀA; counts its products, which keep the precision of x."""

    shape: tuple[int, ...]
    rows: int
    seed: int = 0
    smallest: float = 0.01
    products: int = 0
    a: np.ndarray = field(init=False)
    b: np.ndarray = field(init=False)
    matrix: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        size = int(np.prod(self.shape))
        # singular values from 3 on down: neither trivial nor hopeless
        u = np.linalg.qr(rng.standard_normal((max(self.rows, size),) * 2))[0][: self.rows, :size]
        v = np.linalg.qr(rng.standard_normal((size, size)))[0]
        self.a = 3 * (u * np.geomspace(1, self.smallest, size)) @ v
        self.b = self.a @ np.abs(rng.standard_normal(size)) + 0.5 * rng.standard_normal(self.rows)
        self.matrix = self.a.T @ self.a

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Qx."""
        self.products += 1
        return (self.matrix @ x.ravel()).reshape(self.shape).astype(x.dtype)

    def quadratic(self, dtype: type = np.float32) -> Quadratic:
        """For a solver."""
        largest = float(np.linalg.eigvalsh(self.matrix)[-1])
        linear = (self.a.T @ self.b).reshape(self.shape).astype(dtype)
        return Quadratic(self.apply, linear, largest, 0.5 * float(self.b @ self.b), threads=1)

    def objective(self, x: np.ndarray, name: str, weight: float) -> float:
        """At a point, in float64."""
        flat = x.ravel().astype(np.float64)
        return 0.5 * float(np.sum((self.a @ flat - self.b) ** 2)) + weight * penalties.value(name, x)

    def optimum(self, name: str, weight: float, nonnegative: bool) -> tuple[float, np.ndarray]:
        """Least objective, and where, by an interior-point method."""
        x = cvxpy.Variable(int(np.prod(self.shape)))
        goal = 0.5 * cvxpy.sum_squares(self.a @ x - self.b)
        goal += weight * penalties.expression(name, x, self.shape)
        cvxpy.Problem(cvxpy.Minimize(goal), [x >= 0] if nonnegative else []).solve(solver=cvxpy.CLARABEL)
        return float(goal.value), np.asarray(x.value).reshape(self.shape)
