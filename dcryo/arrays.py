"""numpy or cupy, told from the data itself: a few functions, no wrapper; and what brings data to a GPU.

Physics and solvers take arrays and follow them: what comes in as cupy stays on its device, and work goes to
cupy's current stream.  Only :mod:`dcryo.dataflow` and the solves' entry move data between devices.  What
describes a computation and is small (poses, coefficients, tables) stays in numpy everywhere; a kernel on a
GPU is handed a copy.
"""

from __future__ import annotations

import os
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


def check_device(device: str, needed: int = 0, sharing: int = 1) -> None:
    """Refuse a device that is not there, or has too little memory free.

    So many processes are ``sharing`` it, and each takes ``needed`` bytes.  Memory of the host is not looked
    at.

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
    if sharing * needed > free:
        each, fewer = (f" by each of {sharing} workers", "fewer --workers, ") if sharing > 1 else ("", "")
        raise InputError(
            f"{needed / 1e9:.1f} GB of memory are needed on the GPU{each} and {free / 1e9:.1f} GB are free; "
            f"use {fewer}a coarser --scale, a larger GPU, or the device cpu"
        )


def on_device(*arrays: Array) -> bool:
    """Whether any of these lives on a GPU."""
    return any(type(array).__module__.partition(".")[0] == "cupy" for array in arrays)


def visible_gpus() -> tuple[str, ...]:
    """The GPUs of this process as CUDA_VISIBLE_DEVICES would name each of them; empty where there is none."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(name.strip() for name in named.split(",") if name.strip())
    try:
        check_device("cuda")
    except InputError:
        return ()
    return tuple(str(i) for i in range(module("cuda").cuda.runtime.getDeviceCount()))


@contextmanager
def own_stream(device: str) -> Iterator[None]:
    """What this thread queues on a GPU goes to a stream of its own, which is through at the end.

    Memory that was freed in it goes back to the device then, where the next stream finds it.
    """
    if device == "cpu":
        yield
        return
    cupy = module(device)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        try:
            yield
        finally:
            stream.synchronize()
            cupy.get_default_memory_pool().free_all_blocks(stream)


class Buffer:
    """Room for float32 numbers that one thread fills and another computes with; this one is on the host.

    The one that fills: :meth:`wait`, write to ``host``, :meth:`send`.  The one that computes: :meth:`take`,
    compute, :meth:`release`.  They take turns.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        """``host``, not initialised."""
        self.host: NDArray[np.float32] = np.empty(shape, np.float32)

    def wait(self) -> None:
        """Until ``host`` may be written."""

    def send(self, count: int) -> None:
        """``count`` rows of ``host`` are written: bring them to the device."""

    def take(self, count: int) -> Array:
        """``count`` rows on the device, until :meth:`release`."""
        return self.host[:count]

    def release(self) -> None:
        """All that computes with them is queued."""


class DeviceBuffer(Buffer):
    """The same on a GPU, by way of page-locked memory: it is copied while the device computes.

    ``copies`` is the stream of the copies.  Computing waits for a copy, and a copy for what still computes,
    on the device: neither thread does.
    """

    def __init__(self, shape: tuple[int, ...], copies: Any) -> None:
        """Memory on the host and on the current device."""
        import cupyx

        cupy = module("cuda")
        self.host = cupyx.empty_pinned(shape, np.float32)
        self._there = cupy.empty(shape, np.float32)
        self._copies = copies
        self._sent = cupy.cuda.Event(disable_timing=True)
        self._used = cupy.cuda.Event(disable_timing=True)

    def wait(self) -> None:
        """Until the last copy is through."""
        self._sent.synchronize()

    def send(self, count: int) -> None:
        """Queue the copy, behind what computes with the rows before."""
        self._copies.wait_event(self._used)
        self._there[:count].set(self.host[:count], self._copies)
        self._sent.record(self._copies)

    def take(self, count: int) -> Array:
        """``count`` rows on the device; the current stream waits for them."""
        module("cuda").cuda.get_current_stream().wait_event(self._sent)
        return self._there[:count]

    def release(self) -> None:
        """All that computes with them is queued in the current stream."""
        self._used.record(module("cuda").cuda.get_current_stream())


@contextmanager
def buffer_pair(shape: tuple[int, ...], device: str) -> Iterator[tuple[Buffer, Buffer]]:
    """Two buffers for ``device``: one is filled while the other is computed with."""
    if device == "cpu":
        yield Buffer(shape), Buffer(shape)
        return
    copies = module(device).cuda.Stream(non_blocking=True)
    try:
        yield DeviceBuffer(shape, copies), DeviceBuffer(shape, copies)
    finally:
        copies.synchronize()  # before the memory goes to somebody else


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
