"""Filters that depend on the length of the frequency alone.

Frequencies q are in cycles per box.  A :data:`Gain` takes lengths |q| and returns the factors there; filters
go through the half spectrum plane by plane, so that no array of |q| of the size of the map is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
ComplexArray = NDArray[np.complexfloating[Any, Any]]
Gain = Callable[[FloatArray], FloatArray]

LOW_PASS_EDGE = 2
"""Width of the cosine edge of a low-pass filter in shells (RELION's default)."""


def squared_radii(n: int) -> Iterator[NDArray[np.int64]]:
    """|q|^2 of the half spectrum of a box of n, plane by plane in z: n arrays (n, n//2+1)."""
    q = np.arange(n)
    q = np.where(q > n // 2, q - n, q)  # the sign of the Nyquist frequency does not matter here
    across = q[:, None] ** 2 + np.arange(n // 2 + 1)[None, :] ** 2
    for z in q:
        yield across + z * z


def multiplicities(n: int) -> NDArray[np.float64]:
    """How many of q and -q a column of a half spectrum stands for, (n//2+1,): 2, or 1 on its own mirror."""
    weight = np.full(n // 2 + 1, 2.0)
    weight[0] = 1
    if n % 2 == 0:
        weight[-1] = 1
    return weight


def apply_gain(spectrum: ComplexArray, gain: Gain) -> None:
    """Multiply the half spectrum (n, n, n//2+1) by ``gain(|q|)``, in place."""
    for plane, squared in zip(spectrum, squared_radii(len(spectrum)), strict=True):
        plane *= gain(np.sqrt(squared))


def filtered(volume: ArrayLike, gain: Gain) -> NDArray[np.float32]:
    """``volume`` (n, n, n) with its spectrum multiplied by ``gain(|q|)``."""
    values = np.asarray(volume, np.float64)
    spectrum = scipy.fft.rfftn(values)
    apply_gain(spectrum, gain)
    return np.asarray(scipy.fft.irfftn(spectrum, s=values.shape), np.float32)


def low_pass(shell: float, edge: float = LOW_PASS_EDGE) -> Gain:
    """Gain that falls as a cosine from 1 to 0, centred on the shell ``shell``, over ``edge`` shells.

    With a ``shell`` that is a whole number it is RELION's filter, which rounds a resolution to a shell.
    """
    if edge == 0:
        return lambda radius: np.where(radius <= shell, 1.0, 0.0)
    start = max(shell - edge / 2, 0.0)
    width = shell + edge / 2 - start
    return lambda radius: 0.5 + 0.5 * np.cos(np.pi * np.clip((radius - start) / width, 0, 1))


def shell_gain(values: ArrayLike) -> Gain:
    """Gain with one value per shell, (n//2+1,) values; beyond the last shell 0."""
    table = np.append(np.asarray(values, np.float64), 0.0)
    last = len(table) - 1
    return lambda radius: table[np.minimum(np.rint(radius).astype(np.int64), last)]


def bfactor_gain(bfactor: float, n: int, pixel_size: float) -> Gain:
    """``exp(-B/4 s^2)`` with s = |q| / (n pixel_size) in 1/Å and B in Å^2, 0 beyond the Nyquist frequency.

    A negative B sharpens (Rosenthal and Henderson 2003, J. Mol. Biol. 333:721).
    """

    def gain(radius: FloatArray) -> FloatArray:
        s = np.minimum(radius, n / 2) / (n * pixel_size)
        return np.where(radius <= n / 2, np.exp(-bfactor / 4 * s**2), 0.0)

    return gain


def nearest_shell(resolution: float, n: int, pixel_size: float) -> int:
    """The shell nearest to ``resolution`` (Å) in a box of n voxels, at least 1."""
    return max(1, math.floor(n * pixel_size / resolution + 0.5))
