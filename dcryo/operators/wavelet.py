"""Cycle-spun Haar wavelets: a tight frame made of shifted orthonormal transforms.

    L x = {W T_s P x}_s / sqrt(S),    LᵀL = 1

W is the orthonormal Haar transform of three levels (PyWavelets), T_s one of S = 8 circular shifts, and P pads
the volume with zeros to whole blocks of the coarsest level.  The norm is the mean over the shifts of the l1
norm of the detail coefficients; the coarsest averages are free.  A single orthonormal transform prefers the
blocks of its own grid, and the mean over shifts does away with that (Coifman & Donoho 1995,
"Translation-invariant de-noising").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import pywt
from numpy.typing import NDArray

from dcryo.arrays import on_device
from dcryo.errors import InputError
from dcryo.operators.compiled import blocks, for_each, thread_count

Float32 = NDArray[np.float32]

LEVELS = 3
"""The largest details span eight voxels."""

SHIFTS = tuple(tuple(((t * 0o111) >> axis) & 7 for axis in range(3)) for t in range(8))
"""(z, y, x): along every axis each shift of a block once, and all eight parities of (z, y, x) once."""

RADIUS = 1 / math.sqrt(len(SHIFTS))
"""Largest modulus of the dual of a detail coefficient: what the mean over the shifts weighs it with."""

_WAVELET: dict[str, Any] = {"wavelet": "haar", "mode": "periodization"}


@dataclass(frozen=True)
class Haar:
    """The frame L with its norm; see :class:`dcryo.solvers.prox.Analysis`.

    Duals are (8, mz, my, mx): for every shift the coefficients in the usual nested layout, sides padded to
    multiples of eight.
    """

    threads: int = 0
    norm2: ClassVar[float] = 1.0

    def dual(self, x: Float32) -> Float32:
        """A dual of zero for volumes like ``x``.

        Raises
        ------
        InputError
            If ``x`` is on a GPU, where PyWavelets cannot go.
        """
        if on_device(x):
            raise InputError("--prior haar has no GPU transform; choose tv or tv-aniso, or --device cpu")
        return np.zeros((len(SHIFTS), *_padded(x.shape)), np.float32)

    def value(self, x: Float32) -> float:
        """Mean over the shifts of the sum of the moduli of all detail coefficients."""
        parts = np.zeros(len(SHIFTS))

        def work(s: int) -> None:
            coefficients = _analyse(x, s)
            np.abs(coefficients, out=coefficients)
            _averages(coefficients)[:] = 0
            parts[s] = coefficients.sum(dtype=np.float64)

        for_each(work, range(len(SHIFTS)), self.threads)
        return math.fsum(parts) / len(SHIFTS)

    def primal_sweep(self, z: Float32, dual: Float32, out: Float32, mu: float, nonnegative: bool) -> None:
        """Set ``out = z - mu Lᵀ dual`` (then max with 0)."""
        total = np.zeros(z.shape, np.float32)
        parts = np.empty((min(thread_count(self.threads), len(SHIFTS)), *z.shape), np.float32)

        def work(s: int) -> None:
            parts[s % len(parts)] = _synthesise(dual[s], s, z.shape)

        # as many at once as there are threads, added in the order of the shifts
        for group in blocks(len(SHIFTS), len(parts)):
            shifts = range(group.start, group.stop)
            for_each(work, shifts, self.threads)
            for s in shifts:
                total += parts[s % len(parts)]
        total *= np.float32(mu * RADIUS)
        np.subtract(z, total, out=out)
        if nonnegative:
            np.maximum(out, 0, out=out)

    def dual_sweep(self, x: Float32, ahead: Float32, dual: Float32, step: float, momentum: float) -> None:
        """One projected step on the dual along ``step L x``, with momentum."""

        def work(s: int) -> None:
            new = _analyse(x, s)
            new *= np.float32(step * RADIUS)
            new += ahead[s]
            np.clip(new, -RADIUS, RADIUS, out=new)
            _averages(new)[:] = 0
            np.subtract(new, dual[s], out=ahead[s])
            ahead[s] *= np.float32(momentum)
            ahead[s] += new
            dual[s] = new

        for_each(work, range(len(SHIFTS)), self.threads)

    def eigenvalues(self, shape: tuple[int, ...]) -> Float32:
        """LᵀL in the layout of rfftn: the identity."""
        return np.ones((*shape[:2], shape[2] // 2 + 1), np.float32)


def _padded(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Sides of whole blocks of the coarsest level."""
    block = 2**LEVELS
    return tuple(-(-n // block) * block for n in shape)


def _averages(coefficients: Float32) -> Float32:
    """The coarsest averages, a view."""
    return coefficients[tuple(slice(n >> LEVELS) for n in coefficients.shape)]


@lru_cache
def _layout(shape: tuple[int, ...]) -> Any:
    """Where the coefficients of a padded volume lie in one array."""
    return pywt.coeffs_to_array(pywt.wavedecn(np.zeros(shape, np.float32), level=LEVELS, **_WAVELET))[1]


def _analyse(x: Float32, s: int) -> Float32:
    """W T_s P x, in one array."""
    padded = np.zeros(_padded(x.shape), np.float32)
    padded[tuple(slice(n) for n in x.shape)] = x
    shifted = np.roll(padded, SHIFTS[s], (0, 1, 2))
    coefficients: Float32 = pywt.coeffs_to_array(pywt.wavedecn(shifted, level=LEVELS, **_WAVELET))[0]
    return coefficients


def _synthesise(coefficients: Float32, s: int, shape: tuple[int, ...]) -> Float32:
    """Pᵀ T_sᵀ Wᵀ of coefficients in one array."""
    parts = pywt.array_to_coeffs(coefficients, _layout(coefficients.shape), output_format="wavedecn")
    shifted = pywt.waverecn(parts, **_WAVELET)
    padded = np.roll(shifted, [-by for by in SHIFTS[s]], (0, 1, 2))
    volume: Float32 = padded[tuple(slice(n) for n in shape)]
    return volume
