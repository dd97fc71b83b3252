"""The kernels compile for a device: types, and functions that CUDA lacks, which no simulator sees.

This takes the CUDA toolkit's compiler library (NVVM) and no GPU.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from numba import cuda, types
from numba.cuda import dispatcher
from numba.cuda.cudadrv import nvvm
from numba.cuda.cudadrv.error import NvvmSupportError

from dcryo.operators import cuda as kernels

COMPUTE_CAPABILITY = (7, 5)


@pytest.fixture(autouse=True)
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        nvvm.NVVM()
    except NvvmSupportError:
        pytest.skip("NVVM, the compiler library of the CUDA toolkit, is not here")
    # which device to compile for is otherwise asked of the driver
    device = SimpleNamespace(compute_capability=COMPUTE_CAPABILITY)
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: device)


def f4(dimensions: int) -> Any:
    return types.Array(types.float32, dimensions, "C")


def f8(dimensions: int) -> Any:
    return types.Array(types.float64, dimensions, "C")


I8 = types.Array(types.int64, 1, "C")

SLICES = (f4(1), *5 * (types.int64,), f4(4), f4(3), f4(1), f4(3))
PLANES = (f8(3), f8(2), f8(2), f8(1), I8, f4(2), f4(3), types.int64)
MODULATE = (
    f4(4),
    f4(3),
    f8(2),
    f8(1),
    f8(3),
    f8(1),
    I8,
    I8,
    f4(2),
    f4(2),
    types.float64,
    types.float64,
    types.int64,
)
DUAL = (f4(3), f4(4), f4(4), types.float32, types.float32)
KERNELS = {
    "insert 4": (lambda: kernels._slice_kernel(4, True), SLICES),
    "insert 6": (lambda: kernels._slice_kernel(6, True), SLICES),
    "extract 6": (lambda: kernels._slice_kernel(6, False), SLICES),
    "planes 6": (lambda: kernels._plane_kernel(6), PLANES),
    "modulate": (lambda: kernels._modulate, MODULATE),
    "primal": (lambda: kernels._primal, (f4(3), f4(4), f4(3), types.float32, types.boolean)),
    "dual": (lambda: kernels._dual_kernel(True), DUAL),
    "dual, anisotropic": (lambda: kernels._dual_kernel(False), DUAL),
    "length": (lambda: kernels._length_kernel(True), (f4(3), f4(3))),
    "length, anisotropic": (lambda: kernels._length_kernel(False), (f4(3), f4(3))),
}
"""Kernel, and the types that it is launched with."""


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_compiles(name: str) -> None:
    make, signature = KERNELS[name]
    code, returned = cuda.compile_ptx(make().py_func, signature, cc=COMPUTE_CAPABILITY)
    assert returned == types.void
    assert ".entry" in code
    # float32 atomic additions where slices are inserted and nowhere else
    assert ("atom.global.add.f32" in code) == name.startswith("insert")
