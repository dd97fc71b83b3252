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

CAPABILITIES = {"sm_80": (8, 0), "sm_90": (9, 0)}
"""A100 and H100."""


@pytest.fixture(params=CAPABILITIES)
def capability(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    try:
        nvvm.NVVM()
    except NvvmSupportError:
        pytest.skip("NVVM, the compiler library of the CUDA toolkit, is not here")
    chosen = CAPABILITIES[request.param]
    # which device to compile for is otherwise asked of the driver
    device = SimpleNamespace(compute_capability=chosen)
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: device)
    return chosen


def f4(dimensions: int) -> Any:
    return types.Array(types.float32, dimensions, "C")


def f8(dimensions: int) -> Any:
    return types.Array(types.float64, dimensions, "C")


I8 = types.Array(types.int64, 1, "C")

SLICES = (f4(1), *5 * (types.int64,), f4(4), f4(3), f4(1), f4(2))
PLANES = (f8(3), f8(2), f8(2), f8(1), I8, f4(2), f4(2), types.int64)
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
    "extract 4": (lambda: kernels._slice_kernel(4, False), SLICES),
    "extract 6": (lambda: kernels._slice_kernel(6, False), SLICES),
    "planes 4": (lambda: kernels._plane_kernel(4), PLANES),
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
def test_kernel_compiles(name: str, capability: tuple[int, int]) -> None:
    make, signature = KERNELS[name]
    code, returned = cuda.compile_ptx(make().py_func, signature, cc=capability)
    assert returned == types.void
    assert ".entry" in code
    assert f".target sm_{capability[0]}{capability[1]}" in code
    # float32 atomic additions where slices are inserted and nowhere else
    assert ("atom.global.add.f32" in code) == name.startswith("insert")


@pytest.mark.parametrize("width", [4, 6])
def test_a_warp_shares_the_rows_of_a_sample(width: int, capability: tuple[int, int]) -> None:
    """W x W rows of 2 W floats take 4, or 3 x 6 accesses of a warp, unrolled: not one for every float."""
    accesses = {4: 4, 6: 18}[width]
    code, _ = cuda.compile_ptx(kernels._slice_kernel(width, True).py_func, SLICES, cc=capability)
    assert code.count("atom.global.add.f32") == accesses
