"""Particles without poses in, poses and maps out: as good as the data allow; the same bits however run."""

from __future__ import annotations

import os
import pkgutil
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
import oracle
import pytest

import dcryo
from dcryo.dataflow.cluster import DaskExecutor, local_workers
from dcryo.dataflow.executor import Task
from dcryo.dataflow.pose_tasks import refine_slice
from dcryo.errors import InputError
from dcryo.geometry.rotations import (
    geodesic_distance,
    matrix_to_quaternion,
    quaternion_to_matrix,
    rotation_vector_to_matrix,
)
from dcryo.geometry.symmetry import point_group
from dcryo.io.mrc import write_volume
from dcryo.io.particle_store import ParticleStore, create_particles, open_particles
from dcryo.io.run_store import RunStore, open_run, read_map
from dcryo.methods.progress import Silent
from dcryo.methods.reconstruct import ReconstructConfig, reconstruct
from dcryo.methods.refine import RefineConfig, refine
from dcryo.methods.simulate import SimulateConfig, simulate
from dcryo.metrics.fsc import fsc_curve, mean_fsc, soft_ball
from dcryo.metrics.pose import PoseErrors, pose_errors
from dcryo.metrics.rigid import Registration

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


def against_truth(run: RunStore, true: ParticleStore) -> np.ndarray:
    """FSC of the linear map with the truth, in the frame that it has."""
    truth = true.truth()
    assert truth is not None
    mask = soft_ball(BOX, 0.4 * BOX, 3.0)
    return np.asarray(fsc_curve(run.volume("linear")[0] * mask, truth * mask))


def test_the_map_is_nearly_that_of_the_true_poses(
    found: RunStore, posed: RunStore, true: ParticleStore
) -> None:
    curves = [against_truth(run, true) for run in (found, posed)]
    assert mean_fsc(curves[0]) > 0.95 * mean_fsc(curves[1])
    # and the half maps do not claim more: FSC with the truth sqrt(2 f / (1 + f)) (Rosenthal & Henderson 2003)
    half = np.maximum(found.table("fsc")["corrected"], 0)
    predicted = np.sqrt(2 * half / (1 + half))
    # a shell of radius 3 has 50 independent voxels: f is known to 0.14 sqrt(1 - f), and maps share one frame
    assert np.all((predicted - curves[0])[half > 0.3] < 0.1)


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
    # searched until few particles jump any more
    searched = table["searched"]
    assert searched[0] == searched[1] == COUNT
    assert (np.diff(searched) <= 0).all()
    assert searched[-1] == 0
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
    curves = [against_truth(r, true) for r in (run, posed)]
    assert mean_fsc(curves[0]) > 0.95 * mean_fsc(curves[1])


@pytest.mark.parametrize("group", ["C2", "D2"])
def test_symmetry(group: str, tmp_path: Path) -> None:
    images = simulate(str(tmp_path / "true.zarr"), replace(GOOD, particles=80, symmetry=group))
    bare = without_poses(images, tmp_path / "p.zarr")
    config = RefineConfig(
        initial=f"{images.url}:truth",
        low_pass=LOW_PASS,
        symmetry=group,
        weight=0.7,
        nonnegative=True,
        rounds=6,
    )
    run = refine(bare.url, str(tmp_path / "run.zarr"), config, threads=1)
    wrong = errors(run, images, group=group)
    sigma = run.poses(names=["sigma_rotation"])["sigma_rotation"]
    assert np.median(wrong.rotation) < 1.3 * 0.89 * np.median(sigma)
    assert np.mean(wrong.rotation > 4 * sigma) < 0.08
    # one of each set of equivalents
    rotation = quaternion_to_matrix(run.poses()["rotation"])
    angles = np.stack([geodesic_distance(rotation @ g, np.eye(3)) for g in point_group(group)])
    assert (angles[0] <= angles.min(axis=0) + 1e-9).all()


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


class Watcher(Silent):
    """A progress that remembers."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.images = 0
        self.stage = ""

    def start(self, stage: str, total: int | None) -> None:
        self.stage = stage

    def advance(self, count: int = 1) -> None:
        self.images += count * (self.stage == "images")

    def message(self, text: str) -> None:
        self.messages.append(text)


MOMENTS = {
    "start": ("dcryo.io.run_poses.PoseWriter.append", 1),
    "slice": ("dcryo.dataflow.pose_tasks.put_equations", 6),
    "merge": ("dcryo.dataflow.accumulate.put_equations", 3),
    "gather": ("dcryo.io.run_poses.PoseWriter.append", 3),
    "round": ("dcryo.methods.refine_round.solve_linear", 4),
    "record": ("dcryo.methods.refine.write_iterations", 2),
    "next": ("dcryo.methods.refine.remove_tree", 2),
    "maps": ("dcryo.methods.reconstruct.solve_maps", 1),
    "volumes": ("dcryo.io.run_store.RunStore.write_volume", 4),
    "end": ("dcryo.io.run_store.RunStore.finish", 1),
}
"""What is interrupted, and at which call: most of them in the second of three iterations."""


@pytest.mark.parametrize("moment", MOMENTS)
def test_interrupted_at_any_moment_it_goes_on_to_the_same_bits(
    small: ParticleStore, quick: RefineConfig, undisturbed: RunStore, tmp_path: Path, moment: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    target, last = MOMENTS[moment]
    parent, name = target.rsplit(".", 1)
    owner = pkgutil.resolve_name(parent)
    original, calls = getattr(owner, name), 0

    def interrupted(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == last:
            raise KeyboardInterrupt
        return original(*arguments, **more)

    out = str(tmp_path / "run.zarr")
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            refine(small.url, out, quick, threads=1)
    assert not open_run(out).complete
    watcher = Watcher()
    run = refine(small.url, out, quick, threads=1, progress=watcher)
    assert_same_bits(run, undisturbed)
    # what was committed was not done again: images of an iteration that is done, or slices of one that is not
    whole = undisturbed.attributes["result"]["bytes_read"]
    share = run.attributes["result"]["bytes_read"] / whole
    assert (share == 0) if moment in ("maps", "volumes", "end") else (share < 1) or moment == "start"
    said = [text for text in watcher.messages if text.startswith("iteration")]
    begun = {"start": 1, "slice": 2, "merge": 2, "gather": 2, "round": 2, "record": 3, "next": 3}
    assert [text.split(":")[0] for text in said] == [f"iteration {i}" for i in range(begun.get(moment, 4), 4)]


def environment() -> dict[str, str]:
    root = Path(dcryo.__file__).resolve().parents[1]
    return os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


def command(store: ParticleStore, config: RefineConfig, out: Path) -> list[str]:
    return [
        sys.executable, "-m", "dcryo", "refine", store.url, str(out), "--initial", str(config.initial),
        "--low-pass", repr(config.low_pass), "--weight", repr(config.weight), "--nonnegative", "on",
        "--slice-size", str(config.slice_size), "--rounds", str(config.rounds), "--threads", "1",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_killed_the_same_command_goes_on_to_the_same_bits(
    small: ParticleStore, quick: RefineConfig, undisturbed: RunStore, tmp_path: Path
) -> None:
    for attempt in range(10):
        out = tmp_path / f"run{attempt}.zarr"
        process = subprocess.Popen(
            command(small, quick, out),
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        commits = out / "scratch" / "round-0002" / "commits"
        while process.poll() is None and not any(commits.glob("*.json")):
            time.sleep(1e-3)
        process.kill()
        process.wait()
        states = {path.stem for path in (out / "scratch" / "states" / "commits").glob("*.json")}
        if states == {"round-0000", "round-0001"} and any(commits.glob("*.json")):
            break
    else:
        pytest.fail("ten processes were done with their second iteration before they could be killed")
    kept = len(list(commits.glob("*.json")))
    done = subprocess.run(
        command(small, quick, out), env=environment(), capture_output=True, text=True, timeout=200, check=True
    )
    assert kept >= 1
    assert "iteration 1" not in done.stderr
    assert "iteration 2" in done.stderr
    run = open_run(str(out))
    assert_same_bits(run, undisturbed)
    assert run.attributes["result"]["bytes_read"] < undisturbed.attributes["result"]["bytes_read"]


class Deadly(Silent):
    """A progress that kills its process with the first images, once."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def advance(self, count: int = 1) -> None:
        try:
            self.marker.touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


def by_value(marker: Path) -> Callable[[Any, Any], Any]:
    """:func:`refine_slice` with a deadly progress, which no pickle takes for a name."""

    def task(item: Any, progress: Any) -> Any:
        return refine_slice(item, Deadly(marker))

    return task


class Killing(DaskExecutor):
    """Kills a worker in the midst of the second iteration."""

    def __init__(self, executor: DaskExecutor, marker: Path) -> None:
        super().__init__(executor.client, alone=True)
        self.marker = marker

    def run(self, tasks: Any, listen: Any, done: Any = None) -> list[Any]:
        return super().run([self._marked(task) for task in tasks], listen, done)

    def _marked(self, task: Task) -> Task:
        if task.function is not refine_slice or not task.item.of.fold.commits.endswith("round-0002"):
            return task
        return replace(task, function=by_value(self.marker))


@pytest.fixture(scope="module")
def workers() -> Iterator[DaskExecutor]:
    with local_workers(2) as executor:
        yield executor


@pytest.mark.slow
@pytest.mark.distributed
def test_two_workers_and_one_that_dies_change_nothing(
    small: ParticleStore, quick: RefineConfig, undisturbed: RunStore, workers: DaskExecutor, tmp_path: Path
) -> None:
    watcher = Watcher()
    run = refine(small.url, str(tmp_path / "run.zarr"), quick, executor=workers, progress=watcher)
    assert_same_bits(run, undisturbed)
    assert watcher.images == 3 * small.count
    marker = tmp_path / "killed"
    run = refine(small.url, str(tmp_path / "killed.zarr"), quick, executor=Killing(workers, marker))
    assert marker.exists()
    assert_same_bits(run, undisturbed)


# --- runs that are there


def test_a_complete_run_is_left_as_it_is(
    small: ParticleStore, quick: RefineConfig, undisturbed: RunStore
) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in Path(undisturbed.url).rglob("*")}
    watcher = Watcher()
    again = refine(small.url, undisturbed.url, quick, threads=1, progress=watcher, max_memory=1000)
    assert again.attributes == undisturbed.attributes
    assert {path: path.stat().st_mtime_ns for path in Path(undisturbed.url).rglob("*")} == stamps
    assert "complete already" in watcher.messages[-1]
    assert not Path(again.scratch).exists()


def test_another_start_is_another_run(
    small: ParticleStore, quick: RefineConfig, undisturbed: RunStore, tmp_path: Path
) -> None:
    volume = undisturbed.volume("full")[0].copy()
    other = write_volume(tmp_path / "other.mrc", np.roll(volume, 1, 0), small.pixel_size)
    for change, name in (
        ({"initial": str(other)}, "initial"),
        ({"low_pass": 25.0}, "initial_digest|low_pass"),
        ({"rounds": 4}, "rounds"),
        ({"update": "gradient"}, "update"),
    ):
        with pytest.raises(InputError, match=f"is a run with ({name}) = .*--overwrite"):
            refine(small.url, undisturbed.url, replace(quick, **change), threads=1)
    np.testing.assert_array_equal(open_run(undisturbed.url).volume("full")[0], volume)


def test_another_map_under_the_same_name_is_another_start(
    small: ParticleStore, quick: RefineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "start.mrc"
    path.write_bytes(Path(str(quick.initial)).read_bytes())
    config = replace(quick, initial=str(path))
    with monkeypatch.context() as patched:
        patched.setattr("dcryo.methods.refine.run_plan", interrupt)
        with pytest.raises(KeyboardInterrupt):
            refine(small.url, str(tmp_path / "run.zarr"), config, threads=1)
    write_volume(path, oracle.blob(16), small.pixel_size)
    with pytest.raises(InputError, match=r"is a run with initial_digest .*--overwrite"):
        refine(small.url, str(tmp_path / "run.zarr"), config, threads=1)


def interrupt(*arguments: Any, **more: Any) -> None:
    raise KeyboardInterrupt


# --- settings


def test_rounds_and_limit_are_kept(small: ParticleStore, quick: RefineConfig, tmp_path: Path) -> None:
    config = replace(quick, rounds=2, limit=64 / 3.5)
    run = refine(small.url, str(tmp_path / "run.zarr"), config, threads=1)
    assert run.pose_iterations() == [0, 1, 2]
    table = run.table("iterations")
    assert len(table["iteration"]) == 2
    np.testing.assert_allclose(table["cutoff"], [3.0, 3.5])  # the half maps would have allowed more
    assert table["support"][0] >= 5
    assert run.attributes["result"]["rounds"] == 2


def test_a_single_iteration_without_a_map_is_the_map_of_the_poses(
    true: ParticleStore, tmp_path: Path
) -> None:
    config = RefineConfig(rounds=1, prior="none")
    run = refine(true.url, str(tmp_path / "run.zarr"), config, threads=1)
    plain = reconstruct(true.url, str(tmp_path / "plain.zarr"), ReconstructConfig(prior="none"), threads=1)
    for name in plain.volumes():
        np.testing.assert_array_equal(run.volume(name)[0], plain.volume(name)[0])
    assert run.attributes["result"]["cutoff_A"] is None


def test_maps_of_another_basis_are_folded_at_the_last_poses(
    small: ParticleStore, quick: RefineConfig, undisturbed: RunStore, tmp_path: Path
) -> None:
    run = refine(
        small.url, str(tmp_path / "run.zarr"), replace(quick, basis="kbwf:2,10.8,2", rounds=2), threads=1
    )
    np.testing.assert_array_equal(run.poses(2)["rotation"], undisturbed.poses(2)["rotation"])
    config = ReconstructConfig(
        weight=0.7, nonnegative=True, basis="kbwf:2,10.8,2", slice_size=16, poses=run.url
    )
    plain = reconstruct(small.url, str(tmp_path / "plain.zarr"), config, threads=1)
    for name in plain.volumes():
        np.testing.assert_array_equal(run.volume(name)[0], plain.volume(name)[0], err_msg=name)


def test_the_grey_scale_of_the_start_does_not_matter(
    small: ParticleStore, quick: RefineConfig, undisturbed: RunStore, tmp_path: Path
) -> None:
    volume, pixel_size = read_map(str(quick.initial))
    other = write_volume(tmp_path / "other.mrc", 50 * volume, pixel_size)
    config = replace(quick, initial=str(other), rounds=1)
    run = refine(small.url, str(tmp_path / "run.zarr"), config, threads=1)
    turns = geodesic_distance(*(quaternion_to_matrix(r.poses(1)["rotation"]) for r in (run, undisturbed)))
    assert np.mean(turns < 1e-3) > 0.95  # but for images that two poses fit alike


def test_half_sets_do_not_see_each_other(small: ParticleStore, quick: RefineConfig, tmp_path: Path) -> None:
    """Other noise in half 2; what the halves share, cut-off, weight and constraint, is given and the same."""
    config = replace(quick, rounds=2, limit=quick.low_pass)
    second = small.halves() == 2
    images = small.images(0, small.count).copy()
    images[second] += 0.2 * oracle.noise(images[second].shape, 1)
    other = without_poses(small, tmp_path / "other.zarr", images)
    runs = [
        refine(store.url, str(tmp_path / f"run{i}.zarr"), config, threads=1)
        for i, store in enumerate((small, other))
    ]
    assert runs[0].table("iterations")["cutoff"].tolist() == runs[1].table("iterations")["cutoff"].tolist()
    for iteration in (1, 2):
        one, two = (run.poses(iteration) for run in runs)
        for name in one:
            np.testing.assert_array_equal(one[name][~second], two[name][~second], err_msg=name)
        assert (one["rotation"][second] != two["rotation"][second]).any(axis=1).all()
    for half in (1, 2):
        maps = [run.volume(f"linear{half}")[0] for run in runs]
        assert np.array_equal(*maps) == (half == 1)


@pytest.mark.parametrize("limit", [12.0, 18.0], ids=["fine", "coarse"])
def test_half_sets_in_two_frames_come_into_one(true: ParticleStore, tmp_path: Path, limit: float) -> None:
    """Poses that fit two specimens, one turned and moved; the maps of later iterations may be coarser.

    The first iteration leaves poses as they are, so that the second is the first to know their uncertainty.
    """
    table = true.particles()
    second = table.half == 2
    frame = Registration(rotation_vector_to_matrix([0.03, -0.05, 0.04]), np.array([0.8, -0.6, 0.7]), 1.0)
    rotation = quaternion_to_matrix(table.rotation)
    shift = table.shift.copy()
    rotation[second], shift[second] = frame.apply_to_poses(rotation[second], shift[second], PIXEL)
    split = rewritten(true, tmp_path / "p.zarr", matrix_to_quaternion(rotation), shift)
    config = RefineConfig(weight=0.7, nonnegative=True, rounds=3, limit=limit)
    run = refine(split.url, str(tmp_path / "run.zarr"), config, threads=1)
    assert run.table("iterations")["box"].tolist() == [24] + 2 * [24 if limit == 12 else 20]
    apart = []
    for iteration in (0, 3):
        poses = run.poses(iteration)
        halves = [
            pose_errors(
                quaternion_to_matrix(poses["rotation"][half]), poses["shift"][half],
                quaternion_to_matrix(table.rotation[half]), table.shift[half],
            )
            for half in (~second, second)
        ]  # fmt: skip
        turn = geodesic_distance(*(h.alignment.rotation for h in halves))
        apart.append((float(turn), float(np.linalg.norm(halves[0].offset - halves[1].offset))))
    assert apart[0][0] == pytest.approx(frame.angle, abs=1e-6)
    assert apart[0][1] == pytest.approx(np.linalg.norm(frame.translation) * PIXEL, rel=1e-3)
    # 80 poses know a frame to a ninth of their own errors, 0.06 rad and 0.4 Å, and the maps hardly better
    assert apart[1][0] < 0.02
    assert apart[1][1] < 0.4
