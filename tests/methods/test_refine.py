"""Particles without poses in, poses and maps out: as good as the data allow, and the same bits however run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

import dcryo
from dcryo.dataflow.cluster import DaskExecutor, local_workers
from dcryo.dataflow.executor import Task
from dcryo.dataflow.pose_tasks import refine_slice
from dcryo.errors import InputError
from dcryo.geometry.rotations import geodesic_distance, matrix_to_quaternion, quaternion_to_matrix
from dcryo.geometry.rotations import rotation_vector_to_matrix
from dcryo.io.mrc import write_volume
from dcryo.io.particle_store import ParticleStore, create_particles, open_particles
from dcryo.io.run_store import RunStore, open_run
from dcryo.methods.progress import Silent
from dcryo.methods.reconstruct import ReconstructConfig, reconstruct
from dcryo.methods.refine import RefineConfig, refine
from dcryo.methods.simulate import SimulateConfig, simulate
from dcryo.metrics.fsc import mean_fsc
from dcryo.metrics.pose import PoseErrors, pose_errors

# Workers cannot import a test: what is defined here travels by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

BOX, PIXEL, COUNT = 24, 3.0, 160
GOOD = SimulateConfig(box=BOX, pixel_size=PIXEL, particles=COUNT, snr=2.0, max_shift=1.0, seed=1)
LOW_PASS = BOX * PIXEL / 3.5

SMALL = SimulateConfig(box=16, pixel_size=4.0, particles=64, snr=4.0, max_shift=0.8, seed=3)
QUICK = RefineConfig(low_pass=64 / 3.0, weight=0.7, nonnegative=True, slice_size=16, rounds=3)
"""No search for the weight; two slices a half set, three iterations."""


def rewritten(
    store: ParticleStore, out: Path, rotation: np.ndarray, shift: np.ndarray, images: np.ndarray | None = None
) -> ParticleStore:
    """The particles of a store with other poses, or other images; nothing else is known of them."""
    table = replace(store.particles(), rotation=rotation, shift=shift)
    with create_particles(out, table, store.box, store.pixel_size, provenance={}) as writer:
        writer.append(store.images(0, store.count) if images is None else images)
        writer.set_noise([store.optics[0].noise])
    return open_particles(out)


def without_poses(store: ParticleStore, out: Path, images: np.ndarray | None = None) -> ParticleStore:
    nothing = np.full((store.count, 4), np.nan), np.full((store.count, 2), np.nan)
    return rewritten(store, out, *nothing, images)


def errors(run: RunStore, true: ParticleStore, iteration: int | None = None, group: str = "C1") -> PoseErrors:
    """Of the poses of an iteration, after the one frame that fits all particles best; rad and Å."""
    found, table = run.poses(iteration), true.particles()
    return pose_errors(
        quaternion_to_matrix(found["rotation"]), found["shift"],
        quaternion_to_matrix(table.rotation), table.shift, group,
    )  # fmt: skip


def assert_same_bits(a: RunStore, b: RunStore) -> None:
    """Volumes, tables but for seconds, and the poses of all iterations."""
    assert a.complete
    assert b.complete
    assert a.volumes() == b.volumes() != []
    for name in a.volumes():
        np.testing.assert_array_equal(a.volume(name)[0], b.volume(name)[0], err_msg=name)
    assert a.tables() == b.tables()
    for name in a.tables():
        one, other = a.table(name), b.table(name)
        assert one.keys() == other.keys()
        for column in one.keys() - {"seconds"}:
            np.testing.assert_array_equal(one[column], other[column], err_msg=f"{name}.{column}")
    assert a.pose_iterations() == b.pose_iterations() != []
    for iteration in a.pose_iterations():
        assert a.pose_record(iteration) == b.pose_record(iteration)


# --- what it finds


@pytest.fixture(scope="module")
def true(tmp_path_factory: pytest.TempPathFactory) -> ParticleStore:
    return simulate(str(tmp_path_factory.mktemp("true") / "particles.zarr"), GOOD)


@pytest.fixture(scope="module")
def posed(true: ParticleStore, tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """The maps of the true poses."""
    out = tmp_path_factory.mktemp("posed") / "run.zarr"
    return reconstruct(true.url, str(out), ReconstructConfig(prior="none"), threads=1)


@pytest.fixture(scope="module")
def found(true: ParticleStore, tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """A refinement from nothing but images and a blob of 20 Å."""
    folder = tmp_path_factory.mktemp("found")
    images = without_poses(true, folder / "particles.zarr")
    config = RefineConfig(initial=f"{true.url}:truth", low_pass=LOW_PASS)
    return refine(images.url, str(folder / "run.zarr"), config, threads=1)


def test_poses_are_found_from_a_blob_as_well_as_the_noise_allows(
    found: RunStore, true: ParticleStore
) -> None:
    wrong = errors(found, true)
    sigma = found.poses(names=["sigma_rotation", "sigma_shift", "lost"])
    # The median length of a normal vector is 0.89 of its root mean square in three dimensions, 0.83 in two.
    # What the images know of their poses; the noise of the map that they are compared with comes on top.
    assert np.median(wrong.rotation) < 1.3 * 0.89 * np.median(sigma["sigma_rotation"])
    assert np.median(wrong.shift) < 1.3 * 0.83 * np.median(sigma["sigma_shift"])
    assert np.mean(wrong.rotation > 4 * sigma["sigma_rotation"]) < 0.05
    assert np.mean(sigma["lost"]) < 0.02
    # the frame is still that of the starting map, within what the mean of a half set's errors moves
    assert geodesic_distance(wrong.alignment.rotation, np.eye(3)) < 0.05
    assert not wrong.alignment.mirrored


def test_the_map_is_nearly_that_of_the_true_poses(found: RunStore, posed: RunStore) -> None:
    one, other = (mean_fsc(r.table("fsc")["truth_linear"]) for r in (found, posed))
    assert one > 0.95 * other
    # and the half maps do not claim to be better than that
    half = found.table("fsc")["corrected"]
    predicted = np.sqrt(2 * np.maximum(half, 0) / (1 + half))
    assert np.all(predicted - found.table("fsc")["truth_linear"] < 0.1)


def test_iterations_are_recorded(found: RunStore) -> None:
    table, result = found.table("iterations"), found.attributes["result"]
    count = len(table["iteration"])
    assert result["rounds"] == count >= 4
    np.testing.assert_array_equal(table["iteration"], np.arange(1, count + 1))
    assert found.pose_iterations() == list(range(count + 1))
    assert np.isnan(found.poses(0)["rotation"]).all()
    curves = found.table("iteration_fsc")
    np.testing.assert_allclose(curves["frequency"], np.arange(BOX // 2 + 1) / (BOX * PIXEL))
    for i in range(count):
        n, curve = int(table["box"][i]), curves["fsc"][i]
        assert np.isnan(curve[n // 2 + 1 :]).all()
        assert not np.isnan(curve[: n // 2 + 1]).any()
        assert table["mean_fsc"][i] == pytest.approx(curve[1 : n // 2 + 1].mean())
        # the first shell where half maps do not agree
        assert (curve[1 : table["support"][i]] >= 0.143).all()
        assert curve[table["support"][i]] < 0.143
        poses = found.poses(i + 1)
        known = np.isfinite(poses["turn"])
        assert known.all() == (i > 0)
        if i:
            before = found.poses(i)
            move = poses["shift"] - before["shift"]
            assert table["move_rms"][i] == pytest.approx(np.sqrt((move**2).mean()))
            turned = geodesic_distance(*(quaternion_to_matrix(p["rotation"]) for p in (poses, before)))
            np.testing.assert_allclose(poses["turn"], turned, atol=1e-6)
            assert table["turn_median"][i] == pytest.approx(np.median(turned), abs=1e-6)
            assert table["turn_p90"][i] == pytest.approx(np.quantile(turned, 0.9), abs=1e-6)
        assert table["sigma_median"][i] == pytest.approx(np.median(poses["sigma_rotation"]))
        assert table["lost"][i] == poses["lost"].sum()
    # searched until few particles jump any more, and three times at most
    searched = table["searched"]
    assert searched[0] == searched[1] == COUNT
    assert not searched[3:].any()
    # the data term of true poses is half a square of noise per number: fits lower it, signal raises it
    assert (abs(table["cost"] - 1) < 0.15).all()
    volume, pixel_size = found.volume("start")
    assert volume.shape == (BOX,) * 3
    assert pixel_size == PIXEL
    # the start has nothing beyond its low pass
    power = abs(np.fft.fftn(volume)) ** 2
    radius = np.sqrt(sum(q**2 for q in np.meshgrid(*[np.fft.fftfreq(BOX, 1 / BOX)] * 3)))
    assert power[radius > 1.25 * 3.5 + 1e-6].sum() < 1e-8 * power.sum()


def test_poses_look_no_farther_than_half_maps_have_agreed(found: RunStore) -> None:
    table = found.table("iterations")
    assert table["cutoff"][0] <= 3.5
    assert (table["cutoff"][1:] <= table["support"][:-1]).all()
    assert (table["cutoff"][1:] <= 1.4 * table["cutoff"][:-1] + 1 + 1e-9).all()
    assert table["cutoff"][-1] > 2 * table["cutoff"][0]
    assert found.attributes["result"]["cutoff_A"] == pytest.approx(BOX * PIXEL / table["cutoff"][-1])


def perturbed(store: ParticleStore, turn: float, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Poses turned by ``turn`` rad and moved by ``distance`` Å, each in its own direction."""
    rng = np.random.default_rng(7)
    table = store.particles()
    vectors = rng.standard_normal((store.count, 3))
    vectors *= turn / np.linalg.norm(vectors, axis=1)[:, None]
    moves = rng.standard_normal((store.count, 2))
    moves *= distance / np.linalg.norm(moves, axis=1)[:, None]
    rotation = quaternion_to_matrix(table.rotation) @ rotation_vector_to_matrix(vectors)
    return matrix_to_quaternion(rotation), table.shift + moves


def test_rough_poses_need_no_map(true: ParticleStore, posed: RunStore, tmp_path: Path) -> None:
    rough = rewritten(true, tmp_path / "p.zarr", *perturbed(true, 0.2, 2.0))
    config = RefineConfig(weight=0.7, nonnegative=True)
    run = refine(rough.url, str(tmp_path / "run.zarr"), config, threads=1)
    table = run.table("iterations")
    # first the map of the poses as they are
    assert np.isnan(table["cutoff"][0])
    assert np.isnan(table["cost"][0])
    assert table["turn_median"][0] == 0
    for i in (0, 1):
        np.testing.assert_array_equal(run.poses(i)["rotation"], rough.particles().rotation)
    assert (table["cutoff"][1:] <= table["support"][:-1]).all()
    assert not table["searched"].any()
    assert "start" not in run.volumes()
    wrong = errors(run, true)
    sigma = run.poses(names=["sigma_rotation", "sigma_shift"])
    assert np.median(errors(run, true, 0).rotation) > 0.19
    assert np.median(wrong.rotation) < 1.4 * 0.89 * np.median(sigma["sigma_rotation"])
    assert np.median(wrong.shift) < 1.4 * 0.83 * np.median(sigma["sigma_shift"])
    # poses that are off by more than the map's finest detail leave a few in other valleys
    assert mean_fsc(run.table("fsc")["truth_linear"]) > 0.9 * mean_fsc(posed.table("fsc")["truth_linear"])


@pytest.mark.parametrize("group", ["C2", "D2"])
def test_symmetry(group: str, tmp_path: Path) -> None:
    images = simulate(str(tmp_path / "true.zarr"), replace(GOOD, particles=80, symmetry=group))
    bare = without_poses(images, tmp_path / "p.zarr")
    config = RefineConfig(
        initial=f"{images.url}:truth", low_pass=LOW_PASS, symmetry=group, weight=0.7, nonnegative=True, rounds=6
    )
    run = refine(bare.url, str(tmp_path / "run.zarr"), config, threads=1)
    wrong = errors(run, images, group=group)
    sigma = run.poses(names=["sigma_rotation"])["sigma_rotation"]
    assert np.median(wrong.rotation) < 1.3 * 0.89 * np.median(sigma)
    assert np.mean(wrong.rotation > 4 * sigma) < 0.08
    # one of each set of equivalents
    rotation = quaternion_to_matrix(run.poses()["rotation"])
    from dcryo.geometry.symmetry import point_group

    traces = np.einsum("pij,gji->pg", rotation, np.swapaxes(point_group(group), 1, 2).swapaxes(1, 2))
    assert (traces[:, 0] >= traces.max(axis=1) - 1e-9).all()


# --- the same bits


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> ParticleStore:
    """Tiny particles without poses, beside ``start.mrc`` and the true ones."""
    folder = tmp_path_factory.mktemp("small")
    known = simulate(str(folder / "true.zarr"), SMALL)
    truth = known.truth()
    assert truth is not None
    write_volume(folder / "start.mrc", truth, known.pixel_size)
    return without_poses(known, folder / "particles.zarr")


@pytest.fixture(scope="module")
def quick(small: ParticleStore) -> RefineConfig:
    return replace(QUICK, initial=str(Path(small.url).parent / "start.mrc"))


@pytest.fixture(scope="module")
def undisturbed(
    small: ParticleStore, quick: RefineConfig, tmp_path_factory: pytest.TempPathFactory
) -> RunStore:
    run = refine(small.url, str(tmp_path_factory.mktemp("undisturbed") / "run.zarr"), quick, threads=1)
    assert run.attributes["result"]["rounds"] == 3
    assert run.attributes["plan"]["slices"] == 4
    return run


def test_threads_change_nothing(
    small: ParticleStore, quick: RefineConfig, undisturbed: RunStore, tmp_path: Path
) -> None:
    assert_same_bits(refine(small.url, str(tmp_path / "run.zarr"), quick, threads=2), undisturbed)
