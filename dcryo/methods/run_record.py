"""What the commands that make runs share: counting images, timing stages, and what is recorded of a run."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from dcryo.dataflow.accumulate import Handle
from dcryo.dataflow.plan import Plan
from dcryo.dataflow.pose_source import PoseSource
from dcryo.dataflow.versions import versions
from dcryo.io.location import exists, is_remote, join, sizes
from dcryo.io.particle_store import ParticleStore
from dcryo.io.run_store import RunStore
from dcryo.io.store_root import SCRATCH, read_mark
from dcryo.methods.progress import Progress
from dcryo.methods.reconstruct_config import ReconstructConfig


class ImageCount:
    """How many images are folded: heard from tasks that may run side by side, and again after a death."""

    def __init__(self, chosen: Plan, progress: Progress) -> None:
        self._counts = {s.key: s.count for s in chosen.slices}
        self._heard = dict.fromkeys(self._counts, 0)
        self._progress = progress
        self._lock = threading.Lock()
        progress.start("images", sum(self._counts.values()))

    def listen(self, key: str) -> _OneSlice:
        """What the task of a slice, or of a merge, reports to."""
        return _OneSlice(self, key)

    def done(self, handle: Handle) -> None:
        """A task is done; one that was committed before has reported nothing."""
        self.reached(handle.key, self._counts.get(handle.key, 0))

    def reached(self, key: str, count: int) -> None:
        """``count`` images of a slice are folded; a slice that begins again is not counted again."""
        with self._lock:
            more = min(count, self._counts.get(key, 0)) - self._heard.get(key, 0)
            if more > 0:
                self._heard[key] += more
                self._progress.advance(more)


class _OneSlice:
    """The progress of one slice."""

    def __init__(self, images: ImageCount, key: str) -> None:
        self._images, self._key, self._count = images, key, 0

    def start(self, stage: str, total: int | None) -> None:
        self._count = 0

    def advance(self, count: int = 1) -> None:
        self._count += count
        self._images.reached(self._key, self._count)

    def message(self, text: str) -> None:
        """Tasks have nothing to say."""


class Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A context whose seconds count as those of a stage."""
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def finished(run: str) -> bool:
    """Whether there is a complete run."""
    mark = read_mark(run)
    return mark is not None and mark["kind"] == "run" and bool(mark.get("complete"))


def scratch_bytes(run: str) -> int:
    """Bytes in the scratch of an unfinished run on disk."""
    scratch = join(run, SCRATCH)
    return 0 if is_remote(run) or not exists(scratch) else sum(sizes(scratch).values())


def recorded(
    store: ParticleStore, config: ReconstructConfig, poses: PoseSource | None = None
) -> dict[str, Any]:
    """What makes a run this run and no other."""
    settings = {"particles": store.url, "particles_digest": store.digest, **asdict(config)}
    if poses is None:
        del settings["poses"]  # runs of the store's own poses are known without it
        return settings
    return settings | {"poses_digest": poses.digest}


def record_plan(out: RunStore, chosen: Plan, progress: Progress) -> None:
    """The plan, the versions and the command as attributes of a run; other versions are worth a remark."""
    now = versions()
    before = out.attributes.get("versions")
    if before is not None and before != now:
        progress.message(
            f"{out.url} was begun with other versions or another processor: the result may differ in its "
            "last bits"
        )
    out.update(
        plan={
            "digest": chosen.digest, "slices": len(chosen.slices), "merges": len(chosen.merges),
            "batch": chosen.batch, "n": chosen.n, "task_memory": chosen.task_memory,
            "solve_memory": chosen.solve_memory, "disk": chosen.disk, "read_bytes": chosen.read_bytes,
        },
        versions=before or now,
        provenance={"command": sys.argv, "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())},
    )  # fmt: skip
