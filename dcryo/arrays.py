"""numpy or cupy, told from the data itself: a few functions, no wrapper.

Physics and solvers take arrays and follow them: what comes in as cupy stays on its device, and work goes to
cupy's current stream.  Only :mod:`dcryo.dataflow` and the solves' entry move data between devices.  What
describes a computation and is small (poses, coefficients, tables) stays in numpy everywhere; a kernel on a
GPU is handed a copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from dcryo.errors import InputError

Array = Any
"""A numpy or a cupy array: both have numpy's interface, and they do not share a type."""

DEVICES = ("cpu", "cuda")
"""Where arrays may live."""


def check_device(device: str, needed: int = 0) -> None:
    """Refuse a device that is not there, or has less than ``needed`` bytes of memory free.

    Memory of the host is not looked at.

    Raises
    ------
    InputError
        If ``device`` is not one of ``DEVICES``, what drives it is not installed, no GPU is visible, or it is
        too small.
    """
    if device not in DEVICES:
        raise InputError(f"device {device!r} is not known; choose one of {', '.join(DEVICES)}")
    if device == "cpu":
        return
    try:
        import cupy
        import numba.cuda
    except ImportError as error:
        raise InputError(
            f'the device cuda needs {error.name}, which is not installed: pip install "dcryo[gpu]"'
        ) from None
    if not (cupy.is_available() and numba.cuda.is_available()):
        raise InputError(
            "the device cuda was asked for and no NVIDIA GPU is visible: see what nvidia-smi and "
            "CUDA_VISIBLE_DEVICES say, or use the device cpu"
        )
    # cupy keeps what it has freed
    free = cupy.cuda.runtime.memGetInfo()[0] + cupy.get_default_memory_pool().free_bytes()
    if needed > free:
        raise InputError(
            f"{needed / 1e9:.1f} GB of memory are needed on the GPU and {free / 1e9:.1f} GB are free; use a "
            "coarser --scale, a larger GPU, or the device cpu"
        )


def on_device(*arrays: Array) -> bool:
    """Whether any of these lives on a GPU."""
    return any(type(array).__module__.partition(".")[0] == "cupy" for array in arrays)


def namespace(*arrays: Array) -> ModuleType:
    """The module whose functions work on these arrays: numpy, or cupy if any of them is on a GPU.

    Another library's arrays that follow the array API standard say themselves which.
    """
    if on_device(*arrays):
        return module("cuda")
    for array in arrays:
        if not isinstance(array, np.ndarray | np.generic) and hasattr(array, "__array_namespace__"):
            other: ModuleType = array.__array_namespace__()
            return other
    return np


def module(device: str) -> ModuleType:
    """numpy for "cpu", cupy for "cuda"."""
    if device == "cpu":
        return np
    import cupy

    chosen: ModuleType = cupy
    return chosen


def to_device(array: Array, device: str) -> Array:
    """``array`` on that device; itself if it is there."""
    if device == "cpu":
        return to_host(array)
    return array if on_device(array) else module(device).asarray(array)


def to_host(array: Array) -> NDArray[Any]:
    """``array`` as numpy; itself if it is one."""
    return np.asarray(array.get() if on_device(array) else array)


@contextmanager
def fourier(array: Array, workers: int = 1) -> Iterator[ModuleType]:
    """The FFTs for ``array``: those of scipy.fft on ``workers`` threads, or their twins on its GPU.

    Their bits do not depend on the number of threads.
    """
    if on_device(array):
        import cupyx.scipy.fft

        yield cupyx.scipy.fft
    else:
        with scipy.fft.set_workers(workers):
            yield scipy.fft


def rfftn(array: Array, workers: int = 1) -> Array:
    """Real FFT over all axes, in the precision of ``array``; ``workers`` threads where it is on the host."""
    with fourier(array, workers) as fft:
        return fft.rfftn(array)


def irfftn(spectrum: Array, shape: tuple[int, ...], workers: int = 1) -> Array:
    """Inverse of :func:`rfftn` for an array of ``shape``."""
    with fourier(spectrum, workers) as fft:
        return fft.irfftn(spectrum, s=shape)
