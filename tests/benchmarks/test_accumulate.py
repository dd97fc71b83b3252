"""What streaming costs: folding a batch of images, reading a store, and finishing a partial sum."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.problem import ONE_THREAD, make_problem

from dcryo.dataflow.plan import COMMIT_PER_VOXEL, COMPUTE_PER_PIXEL, batch_size
from dcryo.imaging.particles import Particles
from dcryo.io.particle_store import create_particles, open_particles
from dcryo.operators.normal import Accumulator

pytestmark = pytest.mark.benchmark(timer=time.process_time)


@pytest.mark.parametrize("box", [64, 128])
@pytest.mark.parametrize("accuracy", ["fast", "default", "accurate"])
def test_fold_a_batch(box: int, accuracy: str, record: Callable[..., Any]) -> None:
    """Insertion and kernel of one batch; the plan reckons with COMPUTE_PER_PIXEL."""
    problem = make_problem(box, batch_size(box))
    sums = Accumulator(box, problem.radial, accuracy=accuracy, threads=ONE_THREAD)
    record(
        lambda: sums.add(problem.images, problem.views), per=len(problem), rounds=3,
        target=COMPUTE_PER_PIXEL * box**2 * len(problem) if accuracy == "default" else None,
    )  # fmt: skip
    assert sums.count >= len(problem)  # once a round, and to warm up


@pytest.mark.parametrize("box", [64, 128])
def test_finish_a_slice(box: int, record: Callable[..., Any]) -> None:
    """From grids to right-hand side and spectrum, once a slice; the plan reckons with COMMIT_PER_VOXEL."""
    problem = make_problem(box, 100)

    def full() -> tuple[tuple[Accumulator], dict[str, Any]]:
        sums = Accumulator(box, problem.radial, threads=ONE_THREAD)
        sums.add(problem.images, problem.views)
        return (sums,), {}

    equations = record(lambda sums: sums.finish(), setup=full, rounds=3, target=COMMIT_PER_VOXEL * box**3)
    assert equations.count == 100


def test_read_images(tmp_path: Path, record: Callable[..., Any]) -> None:
    """CPU time of reading and verifying 64 MB of images (checksums; nothing is compressed)."""
    count, box = 4096, 64
    noise = np.random.default_rng(0).standard_normal((count, box, box), dtype=np.float32)
    half = np.repeat(np.array([1, 2], np.int8), count // 2)
    particles = Particles.empty_columns(count, half=half)
    with create_particles(tmp_path / "p.zarr", particles, box, 1.0, provenance={}) as writer:
        writer.append(noise)
    store = open_particles(tmp_path / "p.zarr")
    images = record(lambda: store.images(0, count), per=count, rounds=3)
    assert np.array_equal(images, noise)
