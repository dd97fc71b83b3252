"""How our numba kernels are compiled, and the thread pool that runs them.

Kernels are serial and release the GIL; parallelism is a list of independent work items (tiles, slabs,
particles) given to one pool, so results never depend on the number of threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from dcryo.arrays import Array, on_device

_lock = threading.RLock()
_pools: dict[int, ThreadPoolExecutor] = {}
_local = threading.local()


@contextmanager
def _superword_vectorisation() -> Iterator[None]:
    """Let LLVM pack unrolled scalar code into vectors; numba leaves that pass out by default (2x slower)."""
    settings: Any = numba.config
    with _lock:
        before = settings.SLP_VECTORIZE
        settings.SLP_VECTORIZE = 1
        try:
            yield
        finally:
            settings.SLP_VECTORIZE = before


def compile_kernel(*signatures: str) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a kernel: compiled for ``signatures`` at once, cached on disk where that is possible."""

    def decorate(function: Callable[..., Any]) -> Any:
        options: dict[str, Any] = {"nogil": True, "fastmath": True, "error_model": "numpy"}
        with _superword_vectorisation():
            try:
                return numba.njit(list(signatures), cache=True, **options)(function)
            except RuntimeError:  # numba found no folder it may write its cache to
                return numba.njit(list(signatures), **options)(function)

    return decorate


def thread_count(threads: int = 0) -> int:
    """``threads``, or for 0 the number of processors this process may use."""
    return threads if threads > 0 else len(os.sched_getaffinity(0))


def blocks(count: int, size: int) -> list[slice]:
    """Consecutive slices of at most ``size``: work items that no number of threads changes."""
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def slabs(array: Array, size: int) -> list[slice]:
    """Blocks of the first axis of an array; all of it at once on a GPU, which is parallel by itself."""
    return blocks(len(array), len(array) if on_device(array) else size)


def for_each(work: Callable[[Any], None], items: Sequence[Any], threads: int = 0) -> None:
    """Call ``work`` on every item, on ``threads`` threads; items must not write to the same memory.

    A single item is worked on in the caller's thread, and with it in the caller's stream on a GPU.
    """
    count = thread_count(threads)
    if count == 1 or len(items) == 1:
        for item in items:
            work(item)
        return
    with _lock:
        pool = _pools.setdefault(count, ThreadPoolExecutor(count, thread_name_prefix="dcryo"))
    for future in [pool.submit(work, item) for item in items]:
        future.result()


def scratch(name: str, size: int) -> NDArray[np.float32]:
    """Flat memory of this thread under ``name``, the same at every call, with whatever was left in it.

    Memory that is handed out afresh for each of many short items costs more than what most of them do with
    it: threads wait for each other while the system maps and clears pages.
    """
    held: dict[str, NDArray[np.float32]] = _local.__dict__.setdefault("held", {})
    if name not in held or held[name].size < size:
        held[name] = np.empty(size, np.float32)
    return held[name][:size]
