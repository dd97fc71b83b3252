"""A cupy for numba's CUDA simulator: numpy inside, and cupy's manners outside.

What cupy refuses is refused: mixing with numpy arrays, and becoming one other than by ``get``.  Only
functions that cupy has are here; before adding a name, look it up in cupy's reference.  Arguments of kernels
have to be contiguous, since numba would compile one anew for every other layout.

Streams are as late as they may be: a copy that is queued in one happens when somebody waits for it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import scipy.fft
from numba import cuda
from numba.core.dispatcher import Dispatcher
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray
from numpy.lib.mixins import NDArrayOperatorsMixin

FUNCTIONS = (
    "abs arange argmax array ascontiguousarray astype bincount broadcast_to clip concatenate conj copyto cos "
    "empty empty_like exp full full_like interp isfinite max maximum mean median min minimum multiply ones "
    "ones_like permute_dims ravel reshape rint roll sqrt stack subtract sum swapaxes take transpose where "
    "zeros zeros_like"
).split()
"""Functions of the cupy namespace."""

FFTS = "fft fftn ifft ifftn irfft irfft2 irfftn rfft rfft2 rfftn".split()
"""Functions of cupyx.scipy.fft."""

DEVICES = 2
"""GPUs of the machine."""

MOVES = ("asarray", "array")
"""What may be called with numpy arrays."""


class ndarray(NDArrayOperatorsMixin):
    """Has cupy's name and module, by which it is told."""

    __module__ = "cupy"

    def __init__(self, array: Any) -> None:
        self.host = np.asarray(array)

    def get(self) -> np.ndarray:
        return self.host.copy()

    def set(self, array: np.ndarray, stream: Stream) -> None:
        assert (array.shape, array.dtype) == (self.host.shape, self.host.dtype)
        stream.queue.append(lambda: np.copyto(self.host, array))

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__":
            return NotImplemented
        return call(ufunc, *inputs, **kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function.__name__ not in FUNCTIONS:
            return NotImplemented
        return call(function, *args, **kwargs)

    def __getitem__(self, index: Any) -> ndarray:
        return wrapped(self.host[unwrapped(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self.host[unwrapped(index)] = unwrapped(value)

    def __len__(self) -> int:
        return len(self.host)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __float__(self) -> float:
        return float(self.host)

    def __int__(self) -> int:
        return int(self.host)

    def __bool__(self) -> bool:
        return bool(self.host)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # numpy's protocols would reach the memory behind __array__
            raise AttributeError(name)
        value = getattr(self.host, name)
        if callable(value):
            return lambda *args, **kwargs: call(value, *args, **kwargs)
        return wrapped(value)


class Stream:
    """Copies and events wait in its queue; all else is done at once, and is in the stream that is current."""

    current: ClassVar[list[Stream]] = []

    def __init__(self, non_blocking: bool = False) -> None:
        assert non_blocking  # one that waits for the default stream would compute and copy in turns
        self.ptr = 0
        self.queue: list[Callable[[], None]] = []

    def __enter__(self) -> Stream:
        self.current.append(self)
        return self

    def __exit__(self, *error: Any) -> None:
        assert self.current.pop() is self

    def wait_event(self, event: Event) -> None:
        if self in self.current:
            event.synchronize()
        else:
            self.queue.append(event.synchronize)

    def synchronize(self) -> None:
        while self.queue:
            self.queue.pop(0)()


class Event:
    """Comes when its stream has done what was queued before."""

    def __init__(self, disable_timing: bool = False) -> None:
        assert disable_timing
        self.stream: Stream | None = None
        self.come = True

    def record(self, stream: Stream) -> None:
        self.stream, self.come = stream, False
        stream.queue.append(self.happen)

    def happen(self) -> None:
        self.come = True

    def synchronize(self) -> None:
        while not self.come:
            assert self.stream is not None
            self.stream.queue.pop(0)()


NULL = Stream(non_blocking=True)
Stream.current.append(NULL)


def unwrapped(value: Any) -> Any:
    """The numpy inside; TypeError for numpy from outside."""
    if isinstance(value, ndarray):
        return value.host
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, tuple | list):
        return type(value)(unwrapped(v) for v in value)
    return value


def wrapped(value: Any) -> Any:
    """cupy has no scalars: what reductions and single elements give are arrays without axes."""
    return ndarray(value) if isinstance(value, np.ndarray | np.generic) else value


def call(function: Any, *args: Any, **kwargs: Any) -> Any:
    out = kwargs.get("out")
    result = function(*map(unwrapped, args), **{name: unwrapped(value) for name, value in kwargs.items()})
    if out is not None:
        return out[0] if isinstance(out, tuple) else out
    return wrapped(result)


def twin(function: Any) -> Any:
    return lambda *args, **kwargs: call(function, *args, **kwargs)


def moving(function: Any) -> Any:
    def move(array: Any, *args: Any, **kwargs: Any) -> ndarray:
        inside = array.host if isinstance(array, ndarray) else array
        return ndarray(function(inside, *args, **kwargs))

    return move


def as_cuda_array(array: ndarray, sync: bool) -> FakeCUDAArray:
    """What a kernel of the simulator works on: the very memory of ``array``."""
    assert isinstance(array, ndarray)
    assert array.host.flags.c_contiguous
    return FakeCUDAArray(array.host)


def install() -> None:
    """Put the modules where imports find them."""
    cupy, fft = ModuleType("cupy"), ModuleType("cupy.fft")
    for name in FUNCTIONS:
        setattr(cupy, name, twin(getattr(np, name)))
    for name in MOVES:
        setattr(cupy, name, moving(getattr(np, name)))
    for name in ("fftfreq", "fftshift", "ifftshift", "rfftfreq"):
        setattr(fft, name, twin(getattr(np.fft, name)))
    for name in ("float32", "float64", "complex64", "complex128", "int64"):
        setattr(cupy, name, getattr(np, name))
    cupy.ndarray, cupy.fft = ndarray, fft  # type: ignore[attr-defined]
    cupy.is_available = lambda: True  # type: ignore[attr-defined]
    cupy.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        get_current_stream=lambda: Stream.current[-1],
        Stream=Stream,
        Event=Event,
        runtime=SimpleNamespace(
            memGetInfo=lambda: (7_000_000_000, 8_000_000_000), getDeviceCount=lambda: DEVICES
        ),
    )
    pool = SimpleNamespace(free_bytes=lambda: 500_000_000, free_all_blocks=lambda stream: None)
    cupy.get_default_memory_pool = lambda: pool  # type: ignore[attr-defined]
    cupyx, cupyx_scipy, transforms = (ModuleType(n) for n in ("cupyx", "cupyx.scipy", "cupyx.scipy.fft"))
    cupyx.empty_pinned = lambda shape, dtype: np.full(shape, np.nan, dtype)  # type: ignore[attr-defined]
    for name in FFTS:
        setattr(transforms, name, twin(getattr(scipy.fft, name)))
    cupyx.scipy, cupyx_scipy.fft = cupyx_scipy, transforms  # type: ignore[attr-defined]
    for loaded in (cupy, fft, cupyx, cupyx_scipy, transforms):
        sys.modules[loaded.__name__] = loaded
    cuda.as_cuda_array = as_cuda_array
    interpret(importlib.import_module("dcryo.operators.cuda"))


def interpret(kernels: ModuleType) -> None:
    """Kernels are interpreted, and so must be what they hand arrays to."""

    for name, value in vars(kernels).items():
        if isinstance(value, Dispatcher):
            setattr(kernels, name, value.py_func)
