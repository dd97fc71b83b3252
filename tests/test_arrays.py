"""Arrays say where they live, and a device that is not there is refused with the remedy."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType, SimpleNamespace

import array_api_strict
import numpy as np
import pytest

from dcryo.arrays import check_device, fourier, irfftn, namespace, on_device, rfftn, to_device, to_host
from dcryo.errors import InputError


class FromCupy:
    """Told by where its class was made."""

    __module__ = "cupy._core.core"

    def get(self) -> np.ndarray:
        return np.arange(3.0)


def cupy(monkeypatch: pytest.MonkeyPatch, available: bool) -> ModuleType:
    """A cupy of which one can ask whether there is a GPU and how much memory is free."""
    module = ModuleType("cupy")
    module.is_available = lambda: available  # type: ignore[attr-defined]
    module.cuda = SimpleNamespace(runtime=SimpleNamespace(memGetInfo=lambda: (3 * 10**9, 8 * 10**9)))  # type: ignore[attr-defined]
    module.get_default_memory_pool = lambda: SimpleNamespace(free_bytes=lambda: 10**9)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def test_arrays_are_told_by_their_type(monkeypatch: pytest.MonkeyPatch) -> None:
    host = np.zeros(2)
    assert namespace(host, host) is np
    assert not on_device(host)
    assert to_host(host) is host
    assert to_device(host, "cpu") is host
    there = FromCupy()
    assert on_device(host, there)
    module = cupy(monkeypatch, True)
    assert namespace(host, there) is module
    assert to_device(there, "cuda") is there
    np.testing.assert_array_equal(to_device(there, "cpu"), [0, 1, 2])


def test_other_arrays_of_the_standard_say_their_namespace() -> None:
    assert namespace(np.float32(1), array_api_strict.zeros(2)) is array_api_strict


def test_the_cpu_is_there() -> None:
    check_device("cpu", 10**18)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(InputError, match="device 'gpu' is not known; choose one of cpu, cuda"):
        check_device("gpu")


def test_without_cupy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(InputError, match=r'needs cupy, which is not installed: pip install "dcryo\[gpu\]"'):
        check_device("cuda")


def test_without_a_gpu_one_sentence_says_where_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy(monkeypatch, False)
    with pytest.raises(InputError, match="no NVIDIA GPU is visible: see what nvidia-smi"):
        check_device("cuda")


def test_a_gpu_that_is_too_small_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba.cuda

    cupy(monkeypatch, True)
    monkeypatch.setattr(numba.cuda, "is_available", lambda: True)
    check_device("cuda", 4 * 10**9)
    with pytest.raises(InputError, match=r"5\.5 GB of memory are needed on the GPU and 4\.0 GB are free"):
        check_device("cuda", 5_500_000_000)


@pytest.mark.parametrize("shape", [(4, 5, 6), (5, 5, 5)])
def test_fourier_transforms_keep_the_precision(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    spectrum = rfftn(x, 2)
    assert spectrum.dtype == np.complex64
    np.testing.assert_allclose(spectrum, np.fft.rfftn(x.astype(float)), atol=1e-5)
    np.testing.assert_allclose(irfftn(spectrum, shape), x, atol=1e-6)
    with fourier(x, 2) as fft:
        np.testing.assert_array_equal(fft.rfftn(x), spectrum)


def test_nothing_of_cuda_is_loaded_without_a_gpu() -> None:
    code = """
import sys
import numpy as np
from dcryo.operators.normal import Accumulator
from dcryo.operators.views import make_radial
sums = Accumulator(6, make_radial(np.ones_like, [np.ones(4)], 6, [1.0]), threads=1).finish()
loaded = [name for name in sys.modules if name.startswith(("cupy", "numba.cuda", "dcryo.operators.cuda"))]
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
