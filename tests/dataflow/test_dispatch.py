"""How tasks reach the workers: in few messages, in the plan's order, results fetched side by side."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from benchmarks.scaling_model import even_tasks
from distributed import Client, LocalCluster

from dcryo.dataflow.cluster import DaskExecutor
from dcryo.dataflow.executor import Task
from dcryo.methods.progress import Progress, Silent

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """One worker of one thread in this process."""
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, protocol="inproc", dashboard_address=None,
            memory_limit=0, silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as found,
    ):  # fmt: skip
        yield found


RAN: list[str] = []
"""Keys in the order in which the worker, which is of this process, ran them."""


def note(item: str, progress: Progress) -> str:
    RAN.append(item)
    return item


def noted(slices: int) -> list[Task]:
    """The tasks of a plan of so many slices in two half sets."""
    return [Task(task.key, note, task.key, task.needs, task.urgent) for task in even_tasks(slices)]


def test_all_that_may_begin_at_once_is_one_message(client: Client) -> None:
    tasks = noted(32)
    sent: list[list[str]] = []
    real = client.map

    def counted(*args: Any, **options: Any) -> Any:
        sent.append(list(args[4]))
        return real(*args, **options)

    with mock.patch.object(client, "map", counted):
        assert DaskExecutor(client).run(tasks, lambda key: Silent()) == [task.key for task in tasks]
    assert sent[0] == [task.key for task in tasks if not task.needs]
    # every merge once, and never in more messages than there are merges
    merges = [task.key for task in tasks if task.needs]
    assert sorted(key for keys in sent[1:] for key in keys) == sorted(merges)
    assert len(sent) - 1 <= len(merges)


def test_one_worker_keeps_the_order_of_the_plan(client: Client) -> None:
    RAN.clear()
    tasks = noted(32)
    DaskExecutor(client).run(tasks, lambda key: Silent())
    assert sorted(RAN) == sorted(task.key for task in tasks)
    slices = [task.key for task in tasks if not task.needs]
    assert [key for key in RAN if key in set(slices)] == slices
    needs = {task.key: task.needs for task in tasks}
    for place, key in enumerate(RAN):
        assert set(needs[key]) <= set(RAN[:place])
