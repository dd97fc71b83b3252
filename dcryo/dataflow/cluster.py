"""Dask as the executor: worker processes of this machine, or the cluster behind a scheduler's address.

The scheduler is given one coarse task per slice and one per merge, and passes handles of a few hundred bytes;
what is large goes through the commits.  A task is submitted when what it needs is committed, not before, so a
worker that dies takes nothing along that is done: its unfinished task runs elsewhere, and one that was done
finds its commit.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import dask
from distributed import (
    CancelledError,
    Client,
    Future,
    KilledWorker,
    LocalCluster,
    Nanny,
    WorkerPlugin,
    as_completed,
    get_client,
    get_worker,
)

from dcryo.dataflow.executor import Capacity, Listen, Task, Waiting
from dcryo.dataflow.plan import available_memory
from dcryo.dataflow.versions import versions
from dcryo.errors import ClusterError, DcryoError, InputError
from dcryo.io.location import exists, join, put_exclusive, remove_file
from dcryo.io.store_root import ROOT

if TYPE_CHECKING:
    from dcryo.methods.progress import Progress

TOPIC = "dcryo"
"""Topic of the events that workers log: how far each task is."""

EVERY = 0.5
"""Seconds between two events of one task at least."""

RETRIES = 2
"""A task that fails other than by a refusal of ours (a disk that stumbles) is tried so often again."""

DEATHS = 10
"""Workers that may die over one task before it is given up; a death counts for all tasks of its worker."""

LONGEST_WAIT = 10.0
"""Seconds to wait for the answer of a scheduler."""

CLOSING = 60.0
"""Seconds to wait for the end of a worker."""

USED = 0.8
"""Dask pauses a worker at this part of its memory limit."""


PROFILE = "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED"
"""Dask looks into every thread a hundred times a second, which takes a tenth of the time of ours.  It does
not look into those of this machine's workers, unless this variable of the environment says so."""


ENVIRONMENT = {
    # every heap of glibc keeps what its threads have freed: two for all of them
    "MALLOC_ARENA_MAX": 2,
    # dask's own would have every array mapped and cleared afresh, a twentieth of the time of a slice
    "MALLOC_TRIM_THRESHOLD_": None,
    "OMP_NUM_THREADS": 1,
    "MKL_NUM_THREADS": 1,
    "OPENBLAS_NUM_THREADS": 1,
}
"""Of the workers of this machine, where the environment of the command does not say otherwise."""


@dataclass(frozen=True)
class _Refusal:
    """An error with a remedy, as a result: it would be the same on every retry."""

    error: DcryoError


@dataclass(frozen=True)
class _Site:
    """What a worker process says of itself."""

    host: str
    slots: int
    processors: int
    limit: int | None
    available: int
    versions: dict[str, str]


class _Events:
    """A progress that becomes events of the scheduler; several units travel together."""

    def __init__(self, run: str, key: str) -> None:
        self._about = {"run": run, "task": key}
        self._worker = get_worker()
        self._held = 0
        self._last = time.monotonic()

    def start(self, stage: str, total: int | None) -> None:
        self._flush()
        self._tell("start", stage, total)

    def advance(self, count: int = 1) -> None:
        self._held += count
        if time.monotonic() - self._last >= EVERY:
            self._flush()

    def message(self, text: str) -> None:
        self._tell("message", text)

    def _flush(self) -> None:
        if self._held:
            self._tell("advance", self._held)
        self._held = 0
        self._last = time.monotonic()

    def _tell(self, call: str, *values: Any) -> None:
        self._worker.log_event(TOPIC, {**self._about, "call": call, "values": values})


def _perform(function: Callable[[Any, Progress], Any], item: Any, run: str, key: str) -> Any:
    """Run one task on a worker."""
    try:
        return function(item, _Events(run, key))
    except DcryoError as error:
        return _Refusal(error)


def _describe(dask_worker: Any) -> _Site:
    return _Site(
        host=socket.gethostname(),
        slots=int(dask_worker.state.nthreads),
        processors=len(os.sched_getaffinity(0)),
        limit=dask_worker.memory_manager.memory_limit or None,
        available=available_memory(),
        versions=versions(),
    )


def _missing(urls: Sequence[str]) -> list[str]:
    return [url for url in urls if not exists(url)]


class DaskExecutor:
    """Runs tasks on the workers of a Dask cluster.

    Parameters
    ----------
    client : distributed.Client, optional
        Default: the client that is current, as in a notebook.
    alone : bool
        The workers end with this process, and run on this machine: those of :func:`local_workers`.
    message : callable, optional
        Told what a user should know.

    Notes
    -----
    One thread per worker process is best: a task has threads of its own, as many as its share of the
    processors.
    """

    def __init__(
        self,
        client: Client | None = None,
        *,
        alone: bool = False,
        message: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.client = get_client() if client is None else client
        self.alone = alone
        self.here = alone
        self.message = message

    def _sites(self) -> dict[str, _Site]:
        try:
            sites: dict[str, _Site] = self.client.run(_describe)
        except ModuleNotFoundError as error:
            raise ClusterError(
                f"a worker of {self.client.scheduler.address} has no module {error.name}; install the same "
                "dcryo where the workers run"
            ) from error
        return sites

    def capacity(self) -> Capacity:
        """Of the workers that are there now, or of the first that comes; later ones should be like them."""
        if not self.client.scheduler_info(n_workers=-1)["workers"]:
            self.message(f"waiting for a worker of {self.client.scheduler.address}")
            self.client.wait_for_workers(1)
        answers, mine = self._sites(), versions()
        if differing := [address for address, site in answers.items() if site.versions != mine]:
            self.message(
                f"{len(differing)} workers, {differing[0]} among them, have other versions or processors "
                "than this machine: the result may differ in its last bits"
            )
        sites = list(answers.values())
        slots = {host: sum(s.slots for s in sites if s.host == host) for host in {s.host for s in sites}}
        memory = [s.available // slots[s.host] for s in sites]
        memory += [int(USED * s.limit / s.slots) for s in sites if s.limit]
        threads = [max(1, s.processors // slots[s.host]) for s in sites]
        return Capacity(tasks=sum(slots.values()), memory=min(memory), threads=min(threads))

    def check_access(self, particles: str, scratch: str) -> None:
        """Refuse where a worker does not see the particle store, or the scratch that this process writes.

        Raises
        ------
        InputError
            Names the worker, what it does not see, and the remedy.
        """
        probe = join(scratch, f"probe-{uuid.uuid4().hex}")
        root = join(particles, ROOT)
        put_exclusive(probe, b"")
        try:
            answers = self.client.run(_missing, [root, probe])
        finally:
            remove_file(probe)
        for address, missing in answers.items():
            for url in missing:
                what, remedy = (
                    ("the particle store", "put it") if url == root else ("the scratch of the run", "put RUN")
                )
                place = particles if url == root else scratch
                raise InputError(
                    f"{place}: the worker {address} does not see {what}; {remedy} on a file system that all "
                    "workers share, or in an object store"
                )

    def run(
        self, tasks: Sequence[Task], listen: Listen, done: Callable[[Any], Any] | None = None
    ) -> list[Any]:
        """Run all tasks; a worker's death is not the end of them.

        Raises
        ------
        ClusterError
            If workers die over one task again and again, or the scheduler goes away.
        """
        run = uuid.uuid4().hex[:12]
        results: dict[str, Any] = {}
        names: dict[Future, str] = {}
        waiting = Waiting(tasks)
        listeners: dict[str, Progress] = {}

        def hear(event: tuple[float, Any]) -> None:
            told = event[1]
            if not isinstance(told, Mapping) or told.get("run") != run or told["task"] in results:
                return
            if told["task"] not in listeners:
                listeners[told["task"]] = listen(told["task"])
            getattr(listeners[told["task"]], told["call"])(*told["values"])

        def submit(ready: Sequence[Task]) -> list[Future]:
            futures = []
            for urgent in (True, False):
                # one message for all of them: one each would keep hundreds of workers waiting for seconds
                group = [task for task in ready if task.urgent == urgent]
                if group:
                    futures += self.client.map(
                        _perform,
                        [task.function for task in group],
                        [task.item for task in group],
                        [run] * len(group),
                        [task.key for task in group],
                        key=[f"{task.function.__name__}-{task.key}-{run}" for task in group],
                        priority=int(urgent), retries=RETRIES, pure=False,
                    )  # fmt: skip
                    names.update(zip(futures[-len(group) :], (task.key for task in group), strict=True))
            return futures

        self.client.subscribe_topic(TOPIC, hear)
        try:
            # results are fetched while others are dealt with: fetching one is a round trip to its worker
            queue = as_completed(
                submit(waiting.first()), loop=self.client.loop, with_results=True, raise_errors=False
            )
            for batch in queue.batches():
                ready: list[Task] = []
                for future, value in batch:
                    key = names.pop(future)
                    result = self._result(future, key, value)
                    results[key] = result
                    if done is not None:
                        done(result)
                    future.release()
                    ready += waiting.done(key)
                queue.update(submit(ready))
        finally:
            if names and self.client.status == "running":
                self.client.cancel(list(names), force=True)
            if self.client.status == "running":
                self.client.unsubscribe_topic(TOPIC)
        return [results[task.key] for task in tasks]

    def _result(self, future: Future, key: str, value: Any) -> Any:
        """``value``, which a future that is done came with; what it stands for is raised where it failed."""
        try:
            result = future.result() if future.status in ("error", "cancelled") else value
        except KilledWorker as error:
            raise ClusterError(
                f"{DEATHS} workers died over {key}, most likely of too little memory; what is committed is "
                "kept: give the workers more memory, and run the same command again"
            ) from error
        except CancelledError as error:
            raise ClusterError(
                f"the scheduler is gone, or has dropped {key}; what is committed is kept: run the same "
                "command again"
            ) from error
        if isinstance(result, _Refusal):
            raise result.error
        return result


class _Nanny(Nanny):  # type: ignore[misc]
    """Gives its worker time to end on a busy machine; dask's own gives up after five seconds and raises.

    The worker of number i sees one of the ``gpus``, if there are any: i modulo their count.
    """

    def __init__(
        self, *args: Any, gpus: Sequence[str] = (), env: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        variables = dict(env or {})
        if gpus:
            variables["CUDA_VISIBLE_DEVICES"] = gpus[int(options["name"]) % len(gpus)]
        super().__init__(*args, env=variables, **options)

    async def close(self, timeout: float = CLOSING, reason: str = "nanny-close") -> str:
        ended: str = await super().close(timeout, reason)
        return ended


class _Steady(WorkerPlugin):  # type: ignore[misc]
    """Ctrl-C in a terminal goes to all processes; what becomes of the workers is for this one to say."""

    def setup(self, worker: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _connect(scheduler: LocalCluster | str, **options: float) -> Client:
    """A client for this module's tasks alone.

    Were it the default of the process, whatever dask array is computed beside would go to our workers, and
    one that fails to connect would leave all of dask without a scheduler.
    """
    return Client(scheduler, set_as_default=False, **options)


def _end_at_once(cluster: LocalCluster) -> None:
    """Kill the workers with what they are doing, which is not committed and may take minutes to end."""
    for nanny in cluster.workers.values():
        nanny.auto_restart = False
        if nanny.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(nanny.pid, signal.SIGKILL)


@contextmanager
def local_workers(count: int, gpus: Sequence[str] = ()) -> Iterator[DaskExecutor]:
    """``count`` worker processes of this machine, on its loopback interface; they end with the context.

    ``gpus``, as CUDA_VISIBLE_DEVICES would name them (:func:`dcryo.arrays.visible_gpus`), are dealt to the
    workers in turn; each worker sees one.

    A worker that dies is replaced.  As everywhere with Python's multiprocessing, a script must do its work
    under ``if __name__ == "__main__":``.

    Raises
    ------
    InputError
        For a count below 1.
    """
    if count < 1:
        raise InputError(f"--workers {count}: give a number of processes, 1 or more")
    profiled = os.environ.get(PROFILE, "false").lower() in ("true", "1")
    with (
        # workers begin with the settings of the process that starts them
        dask.config.set(
            {
                "distributed.worker.profile.enabled": profiled,
                "distributed.nanny.pre-spawn-environ": ENVIRONMENT,
                # scheduler and workers share the processors with the tasks: they look at themselves seldom
                "distributed.admin.tick.interval": "500ms",
                "distributed.admin.system-monitor.interval": "5s",
            }
        ),
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            # the plan has counted what the tasks take, and nothing else is held that could be spilt
            memory_limit=0,
            scheduler_kwargs={"allowed_failures": DEATHS},
            worker_class=_Nanny,
            gpus=gpus,
            # an error of a task is raised here; what workers say while they are closed helps nobody
            silence_logs=logging.CRITICAL,
        ) as cluster,
        _connect(cluster) as client,
    ):
        client.register_plugin(_Steady())
        try:
            yield DaskExecutor(client, alone=True)
        except BaseException:
            _end_at_once(cluster)
            raise


@contextmanager
def connected(
    workers: int | None = None,
    scheduler: str | None = None,
    scheduler_file: str | None = None,
    message: Callable[[str], None] = lambda text: None,
    gpus: Sequence[str] = (),
) -> Iterator[DaskExecutor]:
    """The executor that the options of a command ask for; one of the three is given.

    Parameters
    ----------
    workers : int, optional
        Processes of this machine.
    scheduler : str, optional
        Address, as tcp://host:8786.
    scheduler_file : str, optional
        JSON file that ``dask scheduler --scheduler-file`` writes.
    message : callable
        Told the address of the dashboard, and what a user should know.
    gpus : sequence of str
        For the ``workers`` of this machine; those of a cluster were given theirs when they were started.

    Raises
    ------
    InputError
        If they contradict each other, or the file is not there.
    ClusterError
        If no scheduler answers.
    """
    given = {"--workers": workers, "--scheduler": scheduler, "--scheduler-file": scheduler_file}
    asked = [name for name, value in given.items() if value is not None]
    if len(asked) != 1:
        raise InputError(f"{' and '.join(asked) or 'nothing'} of {', '.join(given)} was given; choose one")
    if workers is not None:
        with local_workers(workers, gpus) as executor:
            message(f"dashboard of the {workers} workers: {executor.client.dashboard_link}")
            yield executor
        return
    with _client(scheduler, scheduler_file) as client:
        address = client.scheduler.address
        if urlsplit(address).scheme == "tcp" and urlsplit(address).hostname not in ("127.0.0.1", "::1"):
            message(f"{address} is not encrypted: whoever reaches it can run code on the workers")
        message(f"dashboard of {address}: {client.dashboard_link}")
        yield DaskExecutor(client, message=message)


def _client(scheduler: str | None, scheduler_file: str | None) -> Client:
    name = scheduler if scheduler_file is None else _address_in(Path(scheduler_file))
    try:
        return _connect(name, timeout=LONGEST_WAIT)
    except ValueError as error:
        raise InputError(
            f"{name} names no scheduler ({error}); give an address as tcp://host:8786"
        ) from error
    except OSError as error:
        raise ClusterError(
            f"no scheduler answers at {name}; check the address, or start one with dask scheduler"
        ) from error


def _address_in(path: Path) -> str:
    remedy = "give the file that dask scheduler --scheduler-file wrote"
    if not path.is_file():
        raise InputError(f"{path} does not exist; {remedy}")
    try:
        return str(json.loads(path.read_text())["address"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} holds no address of a scheduler; {remedy}") from error
