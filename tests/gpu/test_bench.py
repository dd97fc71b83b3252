"""Our side of the benchmark on a device: the CPU's numbers, and a call ends when the device has done it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gpu.backend import SIMULATED, need_a_device

from dcryo.arrays import module, on_device, to_host
from dcryo.bench import ours, particles
from dcryo.bench.subject import Job, load
from dcryo.methods.progress import Silent

need_a_device()
pytestmark = pytest.mark.gpu


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows whenever the host waits for the device."""
    found: list[str] = []
    cupy = module("cuda")
    if SIMULATED:
        pool = SimpleNamespace(**vars(cupy.get_default_memory_pool()), total_bytes=lambda: 4711)
        monkeypatch.setattr(cupy, "get_default_memory_pool", lambda: pool)
    device = SimpleNamespace(synchronize=lambda: found.append("waited"))
    monkeypatch.setattr(cupy.cuda, "Device", lambda: device, raising=not SIMULATED)
    return found


def jobs(folder: Path, box: int, count: int) -> tuple[Job, Job]:
    cpu, gpu = (Job(box, count, 0, 1, device, str(folder)) for device in ("cpu", "cuda"))
    return cpu, gpu


@pytest.mark.parametrize("name", ["Projection", "Backprojection", "Kernel", "Convolve"])
def test_operators(name: str, waited: list[str], tmp_path: Path) -> None:
    cpu, gpu = (load(f"dcryo.bench.ours:{name}")(job) for job in jobs(tmp_path, 8, 2))
    wanted: Any = cpu.run()
    waited.clear()  # for what was brought there
    result: Any = gpu.run()
    assert on_device(result)
    assert waited == ["waited"]
    # single precision, in another order
    np.testing.assert_allclose(to_host(result), wanted, atol=1e-5 * np.abs(wanted).max())
    checks = gpu.check(result)
    assert checks["relative"] == pytest.approx(cpu.check(wanted)["relative"], abs=1e-5)
    assert checks["device_bytes"] > 0


@pytest.mark.parametrize("name", ["Sums", "FromMemory"])
def test_sums(name: str, waited: list[str], tmp_path: Path) -> None:
    particles.make_particles(tmp_path, 8, 6, 0, Silent())
    cpu, gpu = (load(f"dcryo.bench.particles:{name}")(job) for job in jobs(tmp_path, 8, 6))
    wanted, result = cpu.run(), gpu.run()
    assert waited
    assert on_device(result.rhs)
    for field in ("rhs", "spectrum"):
        there, here = to_host(getattr(result, field)), getattr(wanted, field)
        np.testing.assert_allclose(there, here, atol=1e-5 * np.abs(here).max())


def test_nothing_is_waited_for_on_the_cpu(waited: list[str]) -> None:
    array = np.zeros(3)
    assert ours.finished(array) is array
    assert not waited
