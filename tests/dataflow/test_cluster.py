"""Dask workers: the same bits for any number of them, whatever dies, and nothing folded or counted twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import cloudpickle
import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

import dcryo
from dcryo.dataflow import accumulate, cluster
from dcryo.dataflow.accumulate import Handle
from dcryo.dataflow.cluster import DaskExecutor, connected, local_workers
from dcryo.dataflow.executor import SerialExecutor, Task
from dcryo.errors import ClusterError, InputError, PlanError
from dcryo.io.particle_store import ParticleStore
from dcryo.io.run_store import RunStore, open_run
from dcryo.methods.progress import Progress, Silent
from dcryo.methods.reconstruct import ReconstructConfig, plan, reconstruct
from dcryo.methods.simulate import SimulateConfig, simulate

pytestmark = pytest.mark.distributed

# Workers cannot import a test: what is defined here travels by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def by_value(function: Any, **known: Any) -> Any:
    """``function``, with arguments that are known already, which no pickle takes for a name."""

    def task(item: Any, progress: Any) -> Any:
        return function(item, progress, **known)

    return task


CONFIG = ReconstructConfig(weight=0.7, nonnegative=True, slice_size=40)
"""Four slices of forty in each half set."""

PATIENCE = 120.0
"""Seconds after which a test gives up waiting for its workers."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ParticleStore:
    config = SimulateConfig(box=24, pixel_size=4.0, particles=320, snr=0.3, seed=3)
    return simulate(str(tmp_path_factory.mktemp("cluster") / "particles.zarr"), config)


@pytest.fixture(scope="module")
def serial(store: ParticleStore, tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return reconstruct(store.url, str(tmp_path_factory.mktemp("serial") / "run.zarr"), CONFIG, threads=1)


@pytest.fixture(scope="module")
def two() -> Iterator[DaskExecutor]:
    with local_workers(2) as executor:
        yield executor


def assert_same_bits(a: RunStore, b: RunStore) -> None:
    assert a.complete
    assert b.complete
    assert a.volumes() == b.volumes() != []
    for name in a.volumes():
        np.testing.assert_array_equal(a.volume(name)[0], b.volume(name)[0], err_msg=name)
    assert a.tables() == b.tables()
    for name in a.tables():
        one, other = a.table(name), b.table(name)
        assert one.keys() == other.keys()
        for column in one:
            np.testing.assert_array_equal(one[column], other[column], err_msg=f"{name}.{column}")


class Watcher(Silent):
    """A progress that remembers."""

    def __init__(self) -> None:
        self.stages: dict[str, int] = {}
        self.stage = ""
        self.messages: list[str] = []

    def start(self, stage: str, total: int | None) -> None:
        self.stage = stage
        self.stages[stage] = 0

    def advance(self, count: int = 1) -> None:
        self.stages[self.stage] += count

    def message(self, text: str) -> None:
        self.messages.append(text)


# --- the same bits


@pytest.mark.parametrize("workers", [1, 4])
def test_bits_do_not_depend_on_the_number_of_workers(
    store: ParticleStore, serial: RunStore, tmp_path: Path, workers: int
) -> None:
    with local_workers(workers) as executor:
        run = reconstruct(store.url, str(tmp_path / "run.zarr"), CONFIG, executor=executor)
    assert_same_bits(run, serial)


def test_two_workers_report_every_image_once(
    store: ParticleStore, serial: RunStore, two: DaskExecutor, tmp_path: Path
) -> None:
    watcher = Watcher()
    run = reconstruct(store.url, str(tmp_path / "run.zarr"), CONFIG, executor=two, progress=watcher)
    assert_same_bits(run, serial)
    assert watcher.stages["images"] == 320
    # images of both halves once, and no more chunks twice than where the half sets meet
    assert run.attributes["result"]["bytes_read"] == serial.attributes["result"]["bytes_read"]
    assert run.attributes["result"]["task_peak_rss"] > 0
    # the arrays of others are not computed by our workers
    assert dask.config.get("scheduler", None) is None


def test_a_cluster_that_others_have_started_also_solves(
    store: ParticleStore, serial: RunStore, two: DaskExecutor, tmp_path: Path
) -> None:
    address = two.client.scheduler.address
    watcher = Watcher()
    with connected(scheduler=address, message=watcher.message) as executor:
        assert not executor.alone
        # patched in this process alone: the workers have the function by its name
        with mock.patch("dcryo.methods.reconstruct.solve_maps", side_effect=AssertionError("solved here")):
            out = str(tmp_path / "run.zarr")
            run = reconstruct(store.url, out, CONFIG, executor=executor, progress=watcher)
    assert_same_bits(run, serial)
    assert "maps" in watcher.stages
    assert watcher.messages[0].startswith(f"dashboard of {address}: http://127.0.0.1")


# --- deaths


@dataclass(frozen=True)
class Gate:
    """Holds tasks on the workers until it opens, and says in files which process holds which."""

    folder: Path

    def passed(self, key: str) -> None:
        (self.folder / f"ran-{key}-{os.getpid()}-{time.monotonic_ns()}").touch()

    def wait(self, key: str) -> None:
        if self.is_open:
            return
        (self.folder / f"held-{os.getpid()}-{key}").touch()
        while not self.is_open:
            time.sleep(0.01)

    @property
    def is_open(self) -> bool:
        return (self.folder / "open").exists()

    def open(self) -> None:
        (self.folder / "open").touch()

    def held(self, wanted: int) -> list[int]:
        """Process ids of ``wanted`` held tasks, once there are so many."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = sorted({int(p.name.split("-")[1]) for p in self.folder.glob("held-*")})
            if len(found) >= wanted:
                return found[:wanted]
            time.sleep(0.01)
        raise AssertionError(f"{wanted} tasks were not held: {sorted(self.folder.iterdir())}")

    def runs(self) -> dict[str, int]:
        """How often each key passed."""
        counts: dict[str, int] = {}
        for path in self.folder.glob("ran-*"):
            key = path.name.removeprefix("ran-").rsplit("-", 2)[0]
            counts[key] = counts.get(key, 0) + 1
        return counts


class _Held(Silent):
    """A progress that stops at the gate when the first images are folded."""

    def __init__(self, gate: Gate, key: str) -> None:
        self.gate, self.key = gate, key

    def advance(self, count: int = 1) -> None:
        self.gate.wait(self.key)


def hold_slice(item: Any, progress: Progress, *, gate: Gate) -> Handle:
    """A slice that stops between folding and committing."""
    gate.passed(item.slice.key)
    return accumulate.accumulate_slice(item, _Held(gate, item.slice.key))


def hold_merge(item: Any, progress: Progress, *, gate: Gate) -> Handle:
    """A merge that stops between committing its sum and removing its parts."""
    gate.passed(item.merge.key)
    put = accumulate.put_equations

    def put_and_wait(commits: Any, key: str, equations: Any) -> None:
        put(commits, key, equations)
        gate.wait(key)

    with mock.patch.object(accumulate, "put_equations", put_and_wait):
        return accumulate.merge_partials(item, progress)


def count_slice(item: Any, progress: Progress, *, gate: Gate) -> Handle:
    """A slice that is counted where it is folded: one whose handle died with its worker finds its commit."""
    handle = accumulate.accumulate_slice(item, progress)
    if not handle.resumed:
        gate.passed(item.slice.key)
    return handle


class Gated(DaskExecutor):
    """Puts the gate into all slices, or into all merges."""

    def __init__(self, executor: DaskExecutor, gate: Gate, moment: str) -> None:
        super().__init__(executor.client, alone=True)
        self.gate, self.moment = gate, moment
        self.handles: list[Handle] = []

    def run(self, tasks: Any, listen: Any, done: Any = None) -> list[Any]:
        slices = hold_slice if self.moment == "slice" else count_slice
        merges = hold_merge if self.moment == "merge" else None
        gated = [self._gated(task, merges if task.urgent else slices) for task in tasks]
        self.handles = super().run(gated, listen, done)
        return self.handles

    def _gated(self, task: Task, function: Any) -> Task:
        if function is None:
            return task
        return replace(task, function=by_value(function, gate=self.gate))


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "victims"), [("slice", 1), ("slice", 2), ("merge", 1)])
def test_killed_workers_change_nothing(
    store: ParticleStore, serial: RunStore, tmp_path: Path, moment: str, victims: int
) -> None:
    gate = Gate(tmp_path / "gate")
    gate.folder.mkdir()
    with local_workers(2) as workers:
        executor = Gated(workers, gate, moment)
        found: list[Any] = []
        thread = threading.Thread(
            target=lambda: found.append(
                reconstruct(store.url, str(tmp_path / "run.zarr"), CONFIG, executor=executor)
            )
        )
        thread.start()
        try:
            for pid in gate.held(victims):
                os.kill(pid, signal.SIGKILL)
        finally:
            gate.open()
            thread.join(PATIENCE)
    assert found, "the run did not end"
    assert_same_bits(found[0], serial)
    planned = plan(store.url, CONFIG)
    slices = {s.key for s in planned.slices}
    # every slice and every merge has one result, and each was committed by one attempt alone
    assert sorted(h.key for h in executor.handles) == sorted(p.key for p in planned.order())
    assert sum(h.count for h in executor.handles if h.key in slices) == 320
    runs = gate.runs()
    if moment == "slice":
        # the slices that were under way began again, and no other did
        assert sorted(n for key, n in runs.items() if key in slices)[-victims:] == [2] * victims
        assert sum(runs.values()) == len(slices) + victims
        assert not any(h.resumed for h in executor.handles)
    else:
        # the sum was committed before its worker died: it is found, and no slice is folded again
        assert {key: n for key, n in runs.items() if key in slices} == dict.fromkeys(slices, 1)
        assert sum(h.resumed for h in executor.handles if h.key not in slices) == 1


def command(store: ParticleStore, out: Path, slice_size: int = 40) -> list[str]:
    return [
        sys.executable, "-m", "dcryo", "reconstruct", store.url, str(out),
        "--slice-size", str(slice_size), "--weight", "0.7", "--nonnegative", "on", "--workers", "2",
    ]  # fmt: skip


def committed(out: Path) -> set[str]:
    return {path.stem for path in out.glob("scratch/*/commits/*.json")}


def children_of(pid: int) -> list[int]:
    """Processes whose parent is ``pid``."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def assert_ended(workers: list[int]) -> None:
    """Two workers or more, and whatever multiprocessing adds, have all ended, or do so soon."""
    assert len(workers) >= 2
    deadline = time.monotonic() + PATIENCE
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if alive(pid)]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds worker processes through /proc")
def test_a_killed_driver_takes_its_workers_along_and_the_same_command_goes_on(
    store: ParticleStore, serial: RunStore, tmp_path: Path
) -> None:
    root = Path(dcryo.__file__).resolve().parents[1]
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    for attempt in range(10):
        out = tmp_path / f"run{attempt}.zarr"
        process = subprocess.Popen(
            command(store, out), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and not committed(out):
            time.sleep(1e-3)
        workers = children_of(process.pid)
        process.kill()
        process.wait()
        before = committed(out)
        if before and len(before) < 8 and not any("sum" in key for key in before):
            break
    else:
        pytest.fail("ten commands were done with their slices before they could be killed")
    assert_ended(workers)
    done = subprocess.run(
        command(store, out), env=environment, capture_output=True, text=True, timeout=200, check=True
    )
    run = open_run(str(out))
    assert_same_bits(run, serial)
    kept = len(committed_slices(before))
    assert f"{kept} of 8 slices were committed before and kept" in done.stderr
    assert run.attributes["resumed"] == kept
    assert "dashboard of the 2 workers: http://127.0.0.1:" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds worker processes through /proc")
def test_an_interrupt_at_the_terminal_ends_all_processes_with_one_sentence(
    store: ParticleStore, tmp_path: Path
) -> None:
    root = Path(dcryo.__file__).resolve().parents[1]
    process = subprocess.Popen(
        command(store, tmp_path / "run.zarr", slice_size=2),  # so many that it is not at its end too soon
        env=os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        start_new_session=True,  # its process group is what a terminal's Ctrl-C goes to
        text=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line == "images\n":
            break
    workers = children_of(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    lines += process.stderr.readlines()
    process.stderr.close()
    assert process.wait(PATIENCE) == 130
    assert lines[-1] == "dcryo reconstruct: interrupted; run the same command again to finish\n"
    assert not [line for line in lines if "Traceback" in line]
    assert_ended(workers)


def committed_slices(keys: set[str]) -> set[str]:
    return {key for key in keys if "sum" not in key}


# --- what goes wrong


def refuse(item: Path, progress: Progress) -> None:
    (item / f"try-{time.monotonic_ns()}").touch()
    raise InputError("particle 7 has no pose; refine first")


def stumble(item: Path, progress: Progress) -> int:
    (item / f"try-{time.monotonic_ns()}").touch()
    if len(list(item.glob("try-*"))) < 3:
        raise OSError("stale file handle")
    return 42


def die(item: Path, progress: Progress) -> None:
    (item / f"try-{time.monotonic_ns()}").touch()
    os._exit(1)


def talk(item: int, progress: Progress) -> int:
    progress.start("talking", item)
    for _ in range(item):
        progress.advance()
        time.sleep(0.3)
    progress.message("enough")
    time.sleep(1.0)
    return item


def silent(key: str) -> Progress:
    return Silent()


def test_a_refusal_of_a_task_is_raised_here_and_not_tried_again(two: DaskExecutor, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="particle 7 has no pose"):
        two.run([Task("a", by_value(refuse), tmp_path)], silent)
    assert len(list(tmp_path.glob("try-*"))) == 1


def test_what_may_pass_is_tried_again(two: DaskExecutor, tmp_path: Path) -> None:
    assert two.run([Task("a", by_value(stumble), tmp_path)], silent) == [42]
    assert len(list(tmp_path.glob("try-*"))) == 3


def test_needs_are_done_before_and_results_come_in_the_order_of_the_tasks(two: DaskExecutor) -> None:
    def stamp(item: Any, progress: Progress) -> tuple[Any, float, float]:
        began = time.time()
        time.sleep(0.05)
        return item, began, time.time()

    tasks = [Task("c", stamp, 3), Task("a", stamp, 1), Task("b", stamp, 2, needs=("a", "c"), urgent=True)]
    told: list[Any] = []
    results = two.run(tasks, silent, told.append)
    assert [r[0] for r in results] == [3, 1, 2]
    assert sorted(told) == sorted(results)
    assert results[2][1] >= max(results[0][2], results[1][2])


def test_progress_of_a_task_arrives_while_it_runs(two: DaskExecutor) -> None:
    watcher = Watcher()
    assert two.run([Task("a", by_value(talk), 4)], lambda key: watcher) == [4]
    assert watcher.messages == ["enough"]
    assert 0 < watcher.stages["talking"] <= 4


def test_a_task_that_kills_its_workers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "DEATHS", 1)
    with (
        local_workers(1) as executor,
        pytest.raises(ClusterError, match="1 workers died over a, most likely"),
    ):
        executor.run([Task("a", by_value(die), tmp_path)], silent)
    assert len(list(tmp_path.glob("try-*"))) == 2


def test_memory_and_threads_are_shared(two: DaskExecutor, store: ParticleStore, tmp_path: Path) -> None:
    capacity, alone = two.capacity(), SerialExecutor().capacity()
    assert capacity.tasks == 2
    assert capacity.threads == max(1, len(os.sched_getaffinity(0)) // 2)
    # what is available moves between the two readings
    assert capacity.memory == pytest.approx(alone.memory / 2, rel=0.2)
    little = replace(capacity, memory=10_000)
    with (
        mock.patch.object(DaskExecutor, "capacity", return_value=little),
        pytest.raises(PlanError, match=r"10 kB is allowed for each of 2 tasks side by side.*fewer --workers"),
    ):
        reconstruct(store.url, str(tmp_path / "run.zarr"), CONFIG, executor=two)
    assert not (tmp_path / "run.zarr").exists()


class Elsewhere(DaskExecutor):
    """Workers that do not see what this process sees, as on another machine."""

    def __init__(self, executor: DaskExecutor, hidden: str) -> None:
        super().__init__(executor.client)
        self.hidden = hidden

    @property
    def client(self) -> Any:
        known = self._client

        class Blind:
            scheduler = known.scheduler
            status = known.status
            scheduler_info = known.scheduler_info

            @staticmethod
            def run(function: Any, *args: Any) -> Any:
                if function is cluster._missing:
                    return {"tcp://node7:1": [url for url in args[0] if self.hidden in url]}
                return known.run(function, *args)

        return Blind

    @client.setter
    def client(self, value: Any) -> None:
        self._client = value


@pytest.mark.parametrize(
    ("hidden", "sentence"),
    [
        ("particles.zarr", "does not see the particle store; put it on"),
        ("probe-", "scratch of the run; put RUN on"),
    ],
)
def test_a_worker_that_does_not_see_the_files_is_named(
    store: ParticleStore, two: DaskExecutor, tmp_path: Path, hidden: str, sentence: str
) -> None:
    with pytest.raises(InputError, match=f"tcp://node7:1 .*{sentence}"):
        reconstruct(store.url, str(tmp_path / "run.zarr"), CONFIG, executor=Elsewhere(two, hidden))
    assert not (tmp_path / "run.zarr").exists()


def test_workers_spend_their_time_on_tasks(two: DaskExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask's profiler would interrupt them a hundred times a second; who wants it says so."""

    def settings() -> tuple[bool, str]:
        return dask.config.get("distributed.worker.profile.enabled"), os.environ["MALLOC_ARENA_MAX"]

    assert set(two.client.run(settings).values()) == {(False, "2")}
    monkeypatch.setenv(cluster.PROFILE, "True")
    with local_workers(1) as asked:
        assert set(asked.client.run(settings).values()) == {(True, "2")}


def test_other_versions_of_a_worker_are_said(two: DaskExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    executor = DaskExecutor(two.client, message=told.append)
    executor.capacity()
    assert told == []
    monkeypatch.setattr(cluster, "versions", lambda: {"numpy": "9.9"})
    executor.capacity()
    assert "2 workers, tcp://127.0.0.1" in told[0]
    assert "other versions" in told[0]


def test_the_first_worker_is_waited_for() -> None:
    told: list[str] = []
    with (
        LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", host="127.0.0.1") as empty,
        Client(empty) as client,
    ):
        threading.Timer(0.5, lambda: empty.scale(1)).start()
        capacity = DaskExecutor(client, message=told.append).capacity()
    assert capacity.tasks >= 1
    assert told[0] == f"waiting for a worker of {empty.scheduler_address}"


def test_workers_see_what_is_there(store: ParticleStore, two: DaskExecutor, tmp_path: Path) -> None:
    two.check_access(store.url, str(tmp_path / "scratch"))
    assert list((tmp_path / "scratch").iterdir()) == []
    with pytest.raises(InputError, match="does not see the particle store"):
        two.check_access(str(tmp_path / "nothing.zarr"), str(tmp_path / "scratch"))


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ({"workers": 2, "scheduler": "tcp://a:1"}, InputError, "--workers and --scheduler of .* choose one"),
        ({"workers": 0}, InputError, "--workers 0: give a number of processes"),
        ({"scheduler": "tcp://127.0.0.1:1"}, ClusterError, "no scheduler answers at tcp://127.0.0.1:1"),
        ({"scheduler": "gopher://x"}, InputError, "gopher://x names no scheduler"),
        ({"scheduler_file": "no.json"}, InputError, "no.json does not exist"),
    ],
)
def test_clusters_that_are_not_there_are_named(
    options: dict[str, Any], kind: type[Exception], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "LONGEST_WAIT", 1.0)
    with pytest.raises(kind, match=sentence), connected(**options):
        pass
    # dask computes as before
    assert dask.config.get("scheduler", None) is None


def test_a_scheduler_file_that_is_not_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "scheduler.json"
    path.write_text("{}")
    with (
        pytest.raises(InputError, match=r"scheduler.json holds no address of a scheduler"),
        connected(scheduler_file=str(path)),
    ):
        pass


@pytest.mark.distributed
def test_gpus_are_dealt_to_the_workers_in_turn() -> None:
    with local_workers(3, ("0", "GPU-5ebe")) as executor:
        seen = executor.client.run(os.getenv, "CUDA_VISIBLE_DEVICES")
        heaps = executor.client.run(os.getenv, "MALLOC_ARENA_MAX")
    assert sorted(seen.values()) == ["0", "0", "GPU-5ebe"]
    assert set(heaps.values()) == {"2"}
