"""The norms behind the priors, written out as dense matrices that know nothing of the operators.

``tv``: length of the periodic forward differences; ``tv-aniso``: sum of their absolute values; ``haar``: mean
over eight shifts of the l1 norm of the detail coefficients of an orthonormal Haar transform of three levels,
after padding with zeros to multiples of eight.
"""

from __future__ import annotations

import itertools
from functools import lru_cache

import cvxpy
import numpy as np
import scipy.sparse as sp

from dcryo.operators.gradient import Gradient
from dcryo.operators.wavelet import Haar
from dcryo.solvers.prox import Analysis

NAMES = ("tv", "tv-aniso", "haar")

SHIFTS = [(0, 0, 0), (1, 4, 2), (2, 1, 4), (3, 5, 6), (4, 2, 1), (5, 6, 3), (6, 3, 5), (7, 7, 7)]
"""(z, y, x): 0 to 7 along each axis, and every parity once."""


def analysis(name: str, threads: int = 1) -> Analysis:
    """The operator under test."""
    if name == "haar":
        return Haar(threads)
    return Gradient(name == "tv", threads)


def differences(shape: tuple[int, ...]) -> list[sp.csr_array]:
    """Periodic forward differences along z, y, x, each a matrix on the flattened volume."""
    size = int(np.prod(shape))
    index = np.arange(size).reshape(shape)
    rows = np.arange(size)
    ones = np.ones(size)
    identity = sp.csr_array((ones, (rows, rows)))
    return [
        sp.csr_array((ones, (rows, np.roll(index, -1, axis).ravel())), shape=(size, size)) - identity
        for axis in range(3)
    ]


def haar(size: int, level: int) -> dict[str, np.ndarray]:
    """Scaling functions and wavelets of one level on ``size`` points, one per row, of norm one."""
    length = 2**level
    scaling = np.kron(np.eye(size // length), np.ones(length)) / np.sqrt(length)
    wavelet = np.kron(np.eye(size // length), np.repeat([1.0, -1.0], length // 2)) / np.sqrt(length)
    return {"a": scaling, "d": wavelet}


@lru_cache
def details(shape: tuple[int, ...]) -> sp.csr_array:
    """Rows: all detail functions of all shifts, restricted to the volume, over the number of shifts."""
    padded = tuple(-(-n // 8) * 8 for n in shape)
    inside = np.zeros(padded, bool)
    inside[tuple(slice(n) for n in shape)] = True
    blocks = []
    for level in (1, 2, 3):
        lines = [haar(n, level) for n in padded]
        for kind in set(itertools.product("ad", repeat=3)) - {("a", "a", "a")}:
            one, two, three = (sp.csr_array(line[k]) for line, k in zip(lines, kind, strict=True))
            blocks.append(sp.kron(sp.kron(one, two), three))
    transform = sp.csc_array(sp.vstack(blocks))
    index = np.arange(inside.size).reshape(padded)
    frame = []
    for shift in SHIFTS:
        # coefficient = <row, shifted volume>: column k of the volume stands where the shift has moved it to
        at = np.empty(inside.size, int)
        at[np.roll(index, shift, (0, 1, 2)).ravel()] = index.ravel()
        frame.append(transform[:, at][:, inside.ravel()])
    return sp.csr_array(sp.vstack(frame)) / len(SHIFTS)


def value(name: str, x: np.ndarray) -> float:
    """The norm of a volume."""
    flat = x.ravel().astype(np.float64)
    if name == "haar":
        return float(np.abs(details(x.shape) @ flat).sum())
    steps = np.stack([d @ flat for d in differences(x.shape)])
    return float(np.abs(steps).sum() if name == "tv-aniso" else np.sqrt((steps**2).sum(axis=0)).sum())


def expression(name: str, x: cvxpy.Variable, shape: tuple[int, ...]) -> cvxpy.Expression:
    """The norm of a flattened volume, for a convex solver."""
    if name == "haar":
        return cvxpy.norm1(details(shape) @ x)
    steps = cvxpy.vstack([d @ x for d in differences(shape)])
    return cvxpy.norm1(steps) if name == "tv-aniso" else cvxpy.sum(cvxpy.norm(steps, 2, axis=0))
