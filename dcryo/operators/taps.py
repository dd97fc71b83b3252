"""Per-sample arithmetic of slice insertion and extraction, unrolled by hand for the two window widths.

These functions are the single source of truth for what happens at one sample: the CPU kernels inline them
and those of :mod:`dcryo.operators.cuda` compile the same Python functions for the device.  They work on
tuples so that every weight stays in a register; a loop over a small array is three times slower.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from dcryo.operators.window import TABLE_ROWS

inline = njit(inline="always", fastmath=True)

_ROWS = np.float32(TABLE_ROWS)


@inline
def first_point(x: Any) -> Any:
    """First grid point of a sample whose window begins at ``x``."""
    return np.int32(math.ceil(x))


@inline
def table_row(gap: Any) -> Any:
    """Row of the table for a window that begins ``gap`` before a grid point, and the fraction to the next."""
    f = gap * _ROWS
    k = np.int32(f)
    return k, f - np.float32(k)


@inline
def taps4(table: Any, k: Any, f: Any) -> Any:
    """The 4 weights of table row ``k``, interpolated by the fraction ``f`` to the next row."""
    t, d = table[0, k], table[1, k]
    return (t[0] + f * d[0], t[1] + f * d[1], t[2] + f * d[2], t[3] + f * d[3])


@inline
def taps6(table: Any, k: Any, f: Any) -> Any:
    """The 6 weights of table row ``k``, interpolated by the fraction ``f`` to the next row."""
    t, d = table[0, k], table[1, k]
    return (
        t[0] + f * d[0],
        t[1] + f * d[1],
        t[2] + f * d[2],
        t[3] + f * d[3],
        t[4] + f * d[4],
        t[5] + f * d[5],
    )


@inline
def values4(re: Any, im: Any, t: Any) -> Any:
    """One complex value times 4 weights, interleaved (re, im)."""
    return (re * t[0], im * t[0], re * t[1], im * t[1], re * t[2], im * t[2], re * t[3], im * t[3])


@inline
def values6(re: Any, im: Any, t: Any) -> Any:
    """One complex value times 6 weights, interleaved (re, im)."""
    return (
        re * t[0],
        im * t[0],
        re * t[1],
        im * t[1],
        re * t[2],
        im * t[2],
        re * t[3],
        im * t[3],
        re * t[4],
        im * t[4],
        re * t[5],
        im * t[5],
    )


@inline
def add_row4(buffer: Any, o: Any, c: Any, v: Any) -> None:
    """Add c * v to 4 complex entries of the flat buffer."""
    g = buffer[o : o + 8]
    g[0] += c * v[0]
    g[1] += c * v[1]
    g[2] += c * v[2]
    g[3] += c * v[3]
    g[4] += c * v[4]
    g[5] += c * v[5]
    g[6] += c * v[6]
    g[7] += c * v[7]


@inline
def add_row6(buffer: Any, o: Any, c: Any, v: Any) -> None:
    """Add c * v to 6 complex entries of the flat buffer."""
    g = buffer[o : o + 12]
    g[0] += c * v[0]
    g[1] += c * v[1]
    g[2] += c * v[2]
    g[3] += c * v[3]
    g[4] += c * v[4]
    g[5] += c * v[5]
    g[6] += c * v[6]
    g[7] += c * v[7]
    g[8] += c * v[8]
    g[9] += c * v[9]
    g[10] += c * v[10]
    g[11] += c * v[11]


@inline
def dot_row4(buffer: Any, o: Any, t: Any) -> Any:
    """Weighted sum of 4 complex entries, as (re, im)."""
    g = buffer[o : o + 8]
    re = t[0] * g[0] + t[1] * g[2] + t[2] * g[4] + t[3] * g[6]
    im = t[0] * g[1] + t[1] * g[3] + t[2] * g[5] + t[3] * g[7]
    return re, im


@inline
def dot_row6(buffer: Any, o: Any, t: Any) -> Any:
    """Weighted sum of 6 complex entries, as (re, im)."""
    g = buffer[o : o + 12]
    re = t[0] * g[0] + t[1] * g[2] + t[2] * g[4] + t[3] * g[6] + t[4] * g[8] + t[5] * g[10]
    im = t[0] * g[1] + t[1] * g[3] + t[2] * g[5] + t[3] * g[7] + t[4] * g[9] + t[5] * g[11]
    return re, im


@inline
def add_line4(line: Any, o: Any, c: Any, t: Any) -> None:
    """Add c * t to 4 real entries of a line."""
    g = line[o : o + 4]
    g[0] += c * t[0]
    g[1] += c * t[1]
    g[2] += c * t[2]
    g[3] += c * t[3]


@inline
def add_line6(line: Any, o: Any, c: Any, t: Any) -> None:
    """Add c * t to 6 real entries of a line."""
    g = line[o : o + 6]
    g[0] += c * t[0]
    g[1] += c * t[1]
    g[2] += c * t[2]
    g[3] += c * t[3]
    g[4] += c * t[4]
    g[5] += c * t[5]
