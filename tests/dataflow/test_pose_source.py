"""Poses of a refinement in place of those of the particle store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dcryo.dataflow.batches import read_batches
from dcryo.dataflow.pose_source import (
    check_all_poses,
    check_halves,
    check_source,
    find_poses,
    posed_particles,
)
from dcryo.errors import InputError
from dcryo.imaging.particles import Optics, Particles
from dcryo.io.particle_store import ParticleStore, create_particles, open_particles
from dcryo.io.run_store import RunStore, create_run

COUNT, BOX = 40, 8


@pytest.fixture
def store(tmp_path: Path) -> ParticleStore:
    """Particles all looking along z, each image its own number."""
    table = Particles.empty_columns(
        COUNT,
        rotation=np.tile([0.0, 0.0, 0.0, 1.0], (COUNT, 1)),
        half=np.repeat([1, 2], COUNT // 2).astype(np.int8),
        defocus=np.arange(3.0 * COUNT).reshape(COUNT, 3),
        row=np.arange(COUNT)[::-1],
        optics=(Optics(pixel_size=2.0),),
    )
    with create_particles(tmp_path / "p.zarr", table, BOX, 2.0, provenance={}) as writer:
        writer.append(np.broadcast_to(np.arange(COUNT, dtype=np.float32)[:, None, None], (COUNT, BOX, BOX)))
    return open_particles(tmp_path / "p.zarr")


def poses(seed: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return {
        "rotation": Rotation.random(COUNT, random_state=seed).as_quat(),
        "shift": rng.normal(size=(COUNT, 2)),
    }


def refined(path: Path, store: ParticleStore, *iterations: dict[str, NDArray[Any]]) -> RunStore:
    run = create_run(
        path, "refine", {"particles": store.url, "particles_digest": store.digest, "halves": "auto"}
    )
    for iteration, columns in enumerate(iterations):
        run.write_poses(iteration, columns)
    return run


def test_a_run_and_an_iteration(store: ParticleStore, tmp_path: Path) -> None:
    run = refined(tmp_path / "r.zarr", store, poses(0), poses(1))
    last, first = find_poses(run.url), find_poses(f"{run.url}@0")
    assert (last.run, last.iteration, last.count, last.url) == (run.url, 1, COUNT, f"{run.url}@1")
    assert (first.iteration, first.digest) == (0, run.pose_record(0)["digest"])
    assert find_poses(last.url) == last
    check_source(last, store)
    check_halves(last, "auto")
    check_all_poses(store, last)
    run.write_poses(2, poses(2))
    assert find_poses(run.url).iteration == 2
    assert find_poses(last.url) == last


def test_a_path_may_hold_an_at_sign(store: ParticleStore, tmp_path: Path) -> None:
    (tmp_path / "me@home").mkdir()
    run = refined(tmp_path / "me@home" / "r", store, poses(0), poses(1))
    assert find_poses(run.url).url == f"{run.url}@1"
    assert find_poses(f"{run.url}@0").iteration == 0
    named = refined(tmp_path / "r@1", store, poses(0))
    assert find_poses(named.url).url == f"{named.url}@0"
    with pytest.raises(InputError, match="r@last does not exist"):
        find_poses(f"{tmp_path}/r@last")


def test_everything_else_is_the_stores(store: ParticleStore, tmp_path: Path) -> None:
    known = poses(1)
    source = find_poses(refined(tmp_path / "r.zarr", store, known).url)
    own, found = store.particles(7, 31), posed_particles(store, source, 7, 31)
    np.testing.assert_array_equal(found.rotation, known["rotation"][7:31])
    np.testing.assert_array_equal(found.shift, known["shift"][7:31])
    for name in ("defocus", "half", "row", "scale"):
        np.testing.assert_array_equal(getattr(found, name), getattr(own, name))
    assert found.optics == own.optics
    np.testing.assert_array_equal(posed_particles(store, None, 7, 31).rotation, own.rotation)


def test_batches_bring_image_and_pose_of_one_particle(
    store: ParticleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dcryo.io.run_poses.ROWS", 6)
    known = poses(3)
    source = find_poses(refined(tmp_path / "r.zarr", store, known).url)
    rows = np.array([3, 4, 9, 17, 18, 22, 35, 36, 38])
    seen = []
    with read_batches(store, rows, 4, poses=source) as batches:
        for particles, images in batches:
            index = np.asarray(images)[:, 0, 0].astype(int)
            np.testing.assert_array_equal(particles.rotation, known["rotation"][index])
            np.testing.assert_array_equal(particles.shift, known["shift"][index])
            seen += index.tolist()
    assert seen == rows.tolist()


def test_the_particle_without_a_pose_is_named(store: ParticleStore, tmp_path: Path) -> None:
    known = poses(0)
    known["rotation"][[12, 30]] = np.nan
    source = find_poses(refined(tmp_path / "r.zarr", store, known).url)
    # the table counts rows from the end: row 12 of the store is its row 27, the user's 28th
    with pytest.raises(
        InputError, match=r"r\.zarr@0: particle 28 .* has no pose; .*choose another iteration"
    ):
        check_all_poses(store, source)
    check_all_poses(store, None)
