"""What planning takes: the column it needs, and a few bytes a particle."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from dcryo.dataflow.plan import make_slices
from dcryo.imaging.particles import Optics, Particles
from dcryo.io.particle_store import ParticleStore, create_particles, open_particles
from dcryo.methods.reconstruct import ReconstructConfig, make_plan


@pytest.mark.parametrize("scattered", [False, True])
def test_slices_take_two_bytes_a_row(scattered: bool) -> None:
    count = 10**6
    halves = np.repeat(np.array([1, 2], np.int8), count // 2)
    if scattered:
        halves = (np.arange(count) % 2 + 1).astype(np.int8)
    tracemalloc.start()
    try:
        slices = make_slices(halves, 5000, 32, 1024)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(part.count for part in slices) == count
    # one mask of a byte a row, and its successor while it is replaced
    assert peak < 2.1 * count + 200 * len(slices)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ParticleStore:
    """As many rows as a quick test allows, with the smallest images there are."""
    count, box = 300_000, 2
    rotation = np.zeros((count, 4))
    rotation[:, 3] = 1
    halves = np.repeat(np.array([1, 2], np.int8), count // 2)
    table = Particles.empty_columns(count, rotation=rotation, half=halves, optics=(Optics(),))
    url: Path = tmp_path_factory.mktemp("plan") / "particles.zarr"
    with create_particles(url, table, box, 1.0, provenance={}) as writer:
        writer.append(np.zeros((count, box, box), np.float32))
    return open_particles(url)


@pytest.mark.parametrize(("halves", "width"), [("auto", 1), ("even-odd", 8), ("none", 0)])
def test_planning_reads_one_column_and_nothing_else(store: ParticleStore, halves: str, width: int) -> None:
    """The half set, one byte, or the row of the table it came from, eight."""
    fresh = open_particles(store.url)
    plan = make_plan(fresh, ReconstructConfig(slice_size=10_000, halves=halves, prior="none"))
    assert sum(part.count for part in plan.slices) == store.count
    # chunks of 16,384 rows: the last one is whole in the store; four bytes of checksum each
    chunks = -(-store.count // 16_384)
    assert fresh.bytes_read == (chunks * (16_384 * width + 4) if width else 0)


def test_planning_takes_a_few_bytes_a_particle(store: ParticleStore) -> None:
    fresh = open_particles(store.url)
    make_plan(fresh, ReconstructConfig(slice_size=10_000))  # imports, and what is kept per store
    tracemalloc.start()
    try:
        make_plan(fresh, ReconstructConfig(slice_size=10_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # the column, its chunks on their way, masks: a row of the whole table would be 129 bytes
    assert peak < 8 * store.count
