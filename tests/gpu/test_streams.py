"""Reading, copying and computing side by side: every batch arrives whole, and none is overwritten in use."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import oracle
import pytest
from gpu.backend import SIMULATED, need_a_device

from dcryo.arrays import buffer_pair, check_device, on_device, own_stream, to_device, to_host, visible_gpus
from dcryo.dataflow.accumulate import device_bytes
from dcryo.dataflow.batches import read_batches
from dcryo.errors import InputError
from dcryo.imaging.particles import Particles
from dcryo.io.particle_store import ParticleStore
from dcryo.operators.normal import Accumulator
from dcryo.operators.views import make_radial, make_views

need_a_device()

pytestmark = pytest.mark.gpu

BOX = 6 if SIMULATED else 128


def current() -> Any:
    import cupy

    return cupy.cuda.get_current_stream()


def busy() -> None:
    """Give a GPU something to do for some milliseconds, so that whoever does not wait for it is too early."""
    side = 4 if SIMULATED else 4096
    a = to_device(np.ones((side, side), np.float32), "cuda")
    for _ in range(1 if SIMULATED else 20):
        a = a @ a if not SIMULATED else a * a


class Store:
    """Every pixel of an image is its row."""

    box, count, chunk = BOX, 90, 7

    def images(self, start: int, stop: int) -> np.ndarray:
        rows = np.arange(start, stop, dtype=np.float32)
        return np.broadcast_to(rows[:, None, None], (len(rows), BOX, BOX))

    def particles(self, start: int, stop: int) -> Particles:
        return oracle.example(self.count, BOX).take(np.arange(start, stop))


def test_batches_arrive_in_order() -> None:
    store = Store()
    rows = np.flatnonzero(np.arange(store.count) % 5)
    found = []
    with own_stream("cuda"), read_batches(cast(ParticleStore, store), rows, 8, "cuda") as batches:
        for _, images in batches:
            assert on_device(images)
            busy()
            found.append(images * np.float32(2))
    assert [len(images) for images in found] == [8] * 9
    np.testing.assert_array_equal(
        np.concatenate([to_host(images) for images in found])[:, 1, 2], 2 * rows.astype(np.float32)
    )


def test_a_buffer_is_overwritten_when_nobody_needs_it_any_more() -> None:
    with own_stream("cuda"), buffer_pair((3, BOX, BOX), "cuda") as (buffer, _):
        found = []
        for number in range(4):
            buffer.wait()
            buffer.host[:] = number
            buffer.send(3)
            there = buffer.take(3)
            if SIMULATED:
                assert cast(Any, buffer)._used.come  # the copy has waited for what computed with the last
            busy()
            found.append(there + np.float32(1))
            buffer.release()
            if SIMULATED:
                assert not cast(Any, buffer)._used.come
    for number, images in enumerate(found):
        np.testing.assert_array_equal(to_host(images), number + 1)


def test_host_memory_is_free_when_its_copy_is_through() -> None:
    with own_stream("cuda"), buffer_pair((3, BOX, BOX), "cuda") as (buffer, _):
        buffer.host[:] = 1
        buffer.send(3)
        buffer.wait()
        buffer.host[:] = 2
        found = to_host(buffer.take(3))
    np.testing.assert_array_equal(found, 1)


def test_work_goes_to_a_stream_of_its_own() -> None:
    outside = current()

    def fail() -> None:
        assert current() != outside
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"), own_stream("cuda"):
        fail()
    assert current() == outside


def test_gpus_are_named_as_the_environment_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus()[0] == "0"
    assert len(visible_gpus()) == 2 or not SIMULATED
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5ebe")
    assert visible_gpus() == ("3", "GPU-5ebe")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == ()


def test_memory_is_for_all_that_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import cupy

    monkeypatch.setattr(
        cupy, "get_default_memory_pool", lambda: SimpleNamespace(free_bytes=lambda: 1_000_000_000)
    )
    monkeypatch.setattr(cupy.cuda.runtime, "memGetInfo", lambda: (6_500_000_000, 8_000_000_000))
    check_device("cuda", 3_700_000_000, 2)
    with pytest.raises(InputError, match=r"3\.8 GB .* GPU by each of 2 workers .*; use fewer --workers, a"):
        check_device("cuda", 3_800_000_000, 2)
    check_device("cuda", 7_400_000_000)
    with pytest.raises(InputError, match=r"7\.6 GB .* on the GPU and 7\.5 GB are free; use a coarser"):
        check_device("cuda", 7_600_000_000)


@pytest.mark.skipif(SIMULATED, reason="the simulator has no memory of its own")
@pytest.mark.parametrize("accuracy", ["fast", "default", "accurate"])
@pytest.mark.parametrize(("n", "count"), [(64, 300), (128, 40)])
def test_a_task_stays_within_its_plan(n: int, count: int, accuracy: str) -> None:
    import cupy

    pool = cupy.get_default_memory_pool()
    cupy.fft.config.get_plan_cache().clear()
    pool.free_all_blocks()
    particles = oracle.example(count, n)
    radial = make_radial(oracle.flat, [np.ones(n // 2 + 1)], n, [1.0])
    before = pool.get_limit()
    pool.set_limit(size=pool.used_bytes() + device_bytes(n, n, count, accuracy))
    try:
        with own_stream("cuda"):
            accumulator = Accumulator(n, radial, accuracy=accuracy, device="cuda")
            with buffer_pair((count, n, n), "cuda") as buffers:
                for buffer in buffers:
                    buffer.host[:] = 1
                    buffer.send(count)
                    accumulator.add(buffer.take(count), make_views(particles, oracle.PIXEL))
                    buffer.release()
            sums = accumulator.finish().to("cpu")
    finally:
        pool.set_limit(size=before)
    assert sums.count == 2 * count
