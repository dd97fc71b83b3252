"""numpy or cupy, told from the data itself: a few functions, no wrapper.

Physics and solvers take arrays and follow them: what comes in as cupy stays on its device.  Only
:mod:`dcryo.dataflow` moves data between devices.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

Array = Any
"""A numpy or a cupy array: both have numpy's interface, and they do not share a type."""


def on_device(*arrays: Array) -> bool:
    """Whether any of these lives on a GPU."""
    return any(type(array).__module__.partition(".")[0] == "cupy" for array in arrays)


def namespace(*arrays: Array) -> ModuleType:
    """The module whose functions work on these arrays: numpy, or cupy if any of them is on a GPU."""
    if on_device(*arrays):
        import cupy

        module: ModuleType = cupy
        return module
    return np


def to_host(array: Array) -> NDArray[Any]:
    """``array`` as numpy; itself if it is one."""
    return np.asarray(array.get() if on_device(array) else array)


def rfftn(array: Array, workers: int = 1) -> Array:
    """Real FFT over all axes, in the precision of ``array``; ``workers`` threads where it is on the host."""
    if on_device(array):
        return namespace(array).fft.rfftn(array)
    return scipy.fft.rfftn(array, workers=workers)


def irfftn(spectrum: Array, shape: tuple[int, ...], workers: int = 1) -> Array:
    """Inverse of :func:`rfftn` for an array of ``shape``."""
    if on_device(spectrum):
        return namespace(spectrum).fft.irfftn(spectrum, s=shape)
    return scipy.fft.irfftn(spectrum, s=shape, workers=workers)
