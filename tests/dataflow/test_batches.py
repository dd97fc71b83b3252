"""Batches of a slice: the rows that were asked for, read ahead of the fold, two batches at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import pytest

from dcryo.arrays import Buffer
from dcryo.dataflow import batches as module
from dcryo.dataflow.batches import Batches, read_batches
from dcryo.errors import DamagedStoreError
from dcryo.imaging.particles import Optics, Particles
from dcryo.io.particle_store import ParticleStore

BOX, PATIENCE = 2, 60


class Store:
    """Every pixel of an image is its row; ``before`` is called with the first and last row of a read."""

    def __init__(
        self, count: int, chunk: int, before: Callable[[int, int], None] = lambda start, stop: None
    ) -> None:
        self.box, self.count, self.chunk = BOX, count, chunk
        self.before = before
        self.reads: list[tuple[int, int]] = []

    def images(self, start: int, stop: int) -> np.ndarray:
        assert 0 <= start < stop <= self.count
        self.before(start, stop)
        self.reads.append((start, stop))
        return np.repeat(np.arange(start, stop, dtype=np.float32), BOX * BOX).reshape(-1, BOX, BOX)

    def particles(self, start: int, stop: int) -> Particles:
        columns: dict[str, Any] = {"row": np.arange(start, stop), "optics": (Optics(pixel_size=1.0),)}
        return Particles.empty_columns(stop - start, **columns)


def read(store: Store, rows: np.ndarray, batch: int) -> Any:
    return read_batches(cast(ParticleStore, store), rows, batch)


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("dcryo-read")]


@pytest.mark.parametrize("seed", range(12))
def test_rows_in_order_and_every_chunk_once(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(module, "TOGETHER", int(rng.integers(1, 4)))
    count, chunk, batch = (int(rng.integers(1, most)) for most in (120, 12, 30))
    rows = np.flatnonzero(rng.random(count) < rng.choice([0.05, 0.5, 1.0]))
    rows = rows if len(rows) else np.array([count - 1])
    store = Store(count, chunk)
    found = []
    with read(store, rows, batch) as batches:
        for first, (particles, images) in zip(range(0, len(rows), batch), batches, strict=True):
            own = rows[first : first + batch]
            np.testing.assert_array_equal(images, np.broadcast_to(own[:, None, None], (len(own), BOX, BOX)))
            np.testing.assert_array_equal(particles.row, own)
            found.extend(own)
    assert found == list(rows)
    # whole chunks, a few at a time, each of those that hold a row and no others, once
    chunks = [c for start, stop in store.reads for c in range(start // chunk, -(-stop // chunk))]
    assert chunks == sorted(set(rows // chunk))
    assert all(start % chunk == 0 and stop in (count, stop // chunk * chunk) for start, stop in store.reads)
    assert max(stop - start for start, stop in store.reads) <= module.TOGETHER * chunk


class Lockstep:
    """A store with one read per batch, which lets every read begin and end where the test says so."""

    def __init__(self, count: int, fails: int | None = None) -> None:
        self.begin = [threading.Event() for _ in range(count)]
        self.ended = [threading.Event() for _ in range(count)]
        self.started: list[int] = []
        self.fails = fails
        self.store = Store(4 * count, 4, self.before)

    def before(self, start: int, stop: int) -> None:
        index = start // 4
        self.started.append(index)
        assert self.begin[index].wait(PATIENCE)
        if index == self.fails:
            raise DamagedStoreError(f"batch {index}")
        self.ended[index].set()

    def open(self) -> Any:
        return read(self.store, np.arange(self.store.count), 4)


def idle(batches: Batches) -> None:
    """Until the thread has done all that it was asked to do so far."""
    batches._thread.submit(int).result(PATIENCE)


def test_one_batch_is_read_while_one_is_folded_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    lockstep = Lockstep(5)
    lockstep.begin[0].set()
    memory = []
    with lockstep.open() as batches:
        for index, (_, images) in enumerate(batches):
            if index + 1 < 5:
                lockstep.begin[index + 1].set()  # a read begins no sooner than the batch before it is folded
                assert lockstep.ended[index + 1].wait(PATIENCE)  # and nobody has asked for its batch yet
            idle(batches)
            assert lockstep.started == list(range(min(index + 2, 5)))
            memory.append(images)
            np.testing.assert_array_equal(images[:, 0, 0], range(4 * index, 4 * index + 4))
    for index, images in enumerate(memory):
        same = [np.shares_memory(images, other) for other in memory]
        assert same == [(index - other) % 2 == 0 for other in range(5)]  # two buffers in turn


def test_reader_and_fold_take_turns_at_a_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for where memory is not the host's: see ``Buffer``."""
    told: dict[int, list[str]] = {0: [], 1: []}

    class Telling(Buffer):
        def __init__(self, name: int) -> None:
            super().__init__((4, BOX, BOX))
            self.told = told[name]

        def wait(self) -> None:
            self.told.append("wait")

        def send(self, count: int) -> None:
            self.told.append(f"send {count}")

        def take(self, count: int) -> Any:
            self.told.append(f"take {count}")
            return super().take(count)

        def release(self) -> None:
            self.told.append("release")

    def pair(shape: tuple[int, ...], device: str) -> Any:
        assert (shape, device) == ((4, BOX, BOX), "cpu")
        return nullcontext((Telling(0), Telling(1)))

    monkeypatch.setattr(module, "buffer_pair", pair)
    with read(Store(11, 3), np.arange(11), 4) as batches:
        assert len(list(batches)) == 3
    assert told[0] == ["wait", "send 4", "take 4", "release", "wait", "send 3", "take 3", "release"]
    assert told[1] == ["wait", "send 4", "take 4", "release"]


def test_an_error_of_a_read_is_raised_for_its_batch_and_the_thread_ends() -> None:
    lockstep = Lockstep(4, fails=2)
    for event in lockstep.begin:
        event.set()
    seen: list[int] = []

    def fold(batches: Batches) -> None:
        assert readers()
        for _, images in batches:
            seen.append(int(images[0, 0, 0]) // 4)

    with pytest.raises(DamagedStoreError, match="batch 2"), lockstep.open() as batches:
        fold(batches)
    assert seen == [0, 1]
    assert lockstep.started == [0, 1, 2]
    assert not readers()


def test_the_thread_ends_when_folding_fails() -> None:
    lockstep = Lockstep(5)
    lockstep.begin[0].set()

    def fold(batches: Batches) -> None:
        next(iter(batches))
        lockstep.begin[1].set()
        raise ValueError("no pose")

    with pytest.raises(ValueError, match="no pose"), lockstep.open() as batches:
        fold(batches)
    assert not readers()
    assert 2 not in lockstep.started


def test_waiting_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock goes on with reads alone: 3 s each, of which the first and the third are waited for."""
    now, folding = [0.0], [0]
    asked = [threading.Event() for _ in range(3)]
    lockstep = Lockstep(3)

    def clock() -> float:
        asked[folding[0]].set()
        return now[0]

    def before(start: int, stop: int) -> None:
        if start != 4:
            assert asked[start // 4].wait(PATIENCE)
        now[0] += 3
        lockstep.ended[start // 4].set()

    lockstep.store.before = before
    monkeypatch.setattr(module.time, "perf_counter", clock)
    waited = []
    with lockstep.open() as batches:
        for index, _ in enumerate(batches):
            waited.append(batches.waited)
            if index == 0:
                assert lockstep.ended[1].wait(PATIENCE)
            folding[0] = 2 * index  # who looks at the clock from now on, asks for the batch 2
    assert waited == [3, 3, 6]
