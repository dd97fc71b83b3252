"""The particles of a slice in batches: read by a thread that runs one batch ahead of what folds them.

Two batches of images are held, in buffers that take turns: the one that is folded and the one that is read
meanwhile.  Rows, batches and so bits are the caller's; what the thread reads at once is not seen outside.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dcryo.arrays import Array, Buffer, buffer_pair
from dcryo.dataflow.pose_source import PoseSource, posed_particles
from dcryo.imaging.particles import Particles
from dcryo.io.particle_store import ParticleStore
from dcryo.operators.compiled import blocks

TOGETHER = 8
"""Chunks that are read at once, 16 MB: a read costs some milliseconds, however small it is."""


class _Reader:
    """Images of ascending rows; every chunk is decoded once, also one that two batches share."""

    def __init__(self, store: ParticleStore, rows: NDArray[np.intp]) -> None:
        self._store = store
        self._rows = rows
        self._held = -1, np.empty((0, store.box, store.box), np.float32)

    def read(self, part: slice, into: NDArray[np.float32]) -> None:
        """Images of ``rows[part]``."""
        rows = self._rows[part]
        chunk = self._store.chunk
        last, images = self._held
        beyond = min((last + 1) * chunk, self._store.count)
        filled = int(np.searchsorted(rows, beyond))
        # what the batch before has left of its last chunk
        _take(images, rows[:filled] - (beyond - len(images)), into[:filled])
        for first, end in _runs(np.unique(rows[filled:] // chunk)):
            start, beyond = first * chunk, min(end * chunk, self._store.count)
            images = self._store.images(start, beyond)
            stop = int(np.searchsorted(rows, beyond))
            _take(images, rows[filled:stop] - start, into[filled:stop])
            filled = stop
            self._held = end - 1, images[(end - 1) * chunk - start :].copy()


def _take(images: NDArray[np.float32], rows: NDArray[np.intp], into: NDArray[np.float32]) -> None:
    # numpy makes another copy where it has to look out for rows that are not there
    np.take(images, rows, axis=0, out=into, mode="clip")


def _runs(chunks: NDArray[np.intp]) -> list[tuple[int, int]]:
    """Ascending chunks as ranges [first, end) of neighbours, at most TOGETHER each."""
    breaks = np.flatnonzero(np.diff(chunks) > 1) + 1
    runs = []
    for start, stop in pairwise([0, *breaks.tolist(), len(chunks)]):
        for part in blocks(stop - start, TOGETHER):
            runs.append((int(chunks[start + part.start]), int(chunks[start + part.stop - 1]) + 1))
    return runs


class Batches:
    """Iterates once over the batches of a slice.  Made by :func:`read_batches`.

    Attributes
    ----------
    waited : float
        Seconds that the caller has waited for images.
    """

    def __init__(
        self, store: ParticleStore, rows: NDArray[np.intp], batch: int, buffers: tuple[Buffer, Buffer],
        thread: ThreadPoolExecutor, poses: PoseSource | None,
    ) -> None:  # fmt: skip
        self.waited = 0.0
        self._store = store
        self._poses = poses
        self._rows = rows
        self._reader = _Reader(store, rows)
        self._parts = blocks(len(rows), batch)
        self._buffers = buffers
        self._thread = thread
        self._table = thread.submit(self._read_table)
        self._coming = thread.submit(self._read, 0)

    def _read_table(self) -> Particles:
        # at once: a column comes in large chunks, which every batch would fetch again
        first, last = int(self._rows[0]), int(self._rows[-1])
        return posed_particles(self._store, self._poses, first, last + 1)

    def _read(self, index: int) -> None:
        part, buffer = self._parts[index], self._buffers[index % 2]
        buffer.wait()
        self._reader.read(part, buffer.host)
        buffer.send(part.stop - part.start)

    def __iter__(self) -> Iterator[tuple[Particles, Array]]:
        """Particles and images (P, n, n) on the device; the images are there until the next are asked for."""
        for index, part in enumerate(self._parts):
            began = time.perf_counter()
            table = self._table.result()
            self._coming.result()
            self.waited += time.perf_counter() - began
            if index + 1 < len(self._parts):
                self._coming = self._thread.submit(self._read, index + 1)
            buffer = self._buffers[index % 2]
            yield table.take(self._rows[part] - self._rows[0]), buffer.take(part.stop - part.start)
            buffer.release()


@contextmanager
def read_batches(
    store: ParticleStore,
    rows: NDArray[np.intp],
    batch: int,
    device: str = "cpu",
    poses: PoseSource | None = None,
) -> Iterator[Batches]:
    """Batches of exactly ``batch`` particles of ascending ``rows`` in order; reading begins at once.

    Their poses are those of the store, or of ``poses``.
    An error of a read is raised where its batch is asked for.  When the context ends, so has the thread; what
    it is at then, a batch at most, is read to its end.
    """
    with buffer_pair((min(batch, len(rows)), store.box, store.box), device) as buffers:
        thread = ThreadPoolExecutor(1, thread_name_prefix="dcryo-read")
        try:
            yield Batches(store, rows, batch, buffers, thread, poses)
        finally:
            thread.shutdown(cancel_futures=True)
