"""Joint refinement: poses and map together, from a rough map, rough poses, or both.

An iteration reads the images once (:mod:`dcryo.dataflow.pose_tasks`): every particle gets its best pose
against the reference of its own half set, and is folded into that half's normal equations at once.  From the
sums come linear half maps, whose FSC says to which frequency the next iteration may look, and regularised
half maps, which are its references (:mod:`dcryo.methods.refine_round`).  Maps are as coarse as that
frequency allows, so the first iterations cost next to nothing.  The half sets share the starting map, one
frame, and the scalars that weigh the prior; nothing else, to the end.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.dataflow.accumulate import Handle, peak_rss, run_plan
from dcryo.dataflow.commits import Commits
from dcryo.dataflow.executor import Executor, SerialExecutor, Task
from dcryo.dataflow.plan import Plan, check_resources
from dcryo.dataflow.pose_source import PoseSource, check_all_poses, given_poses, posed_particles
from dcryo.dataflow.pose_tasks import PosePass, PoseTask, gather_poses, pose_bytes, refine_slice
from dcryo.dataflow.pose_update import PoseRule
from dcryo.errors import InputError
from dcryo.io.location import is_remote, join, normalise, remove_tree
from dcryo.io.particle_store import ParticleStore, open_particles
from dcryo.io.run_poses import ROWS
from dcryo.io.run_store import RunStore, create_run
from dcryo.methods.progress import Progress, Silent
from dcryo.methods.reconstruct import MapsTask, make_fold, make_maps, make_plan
from dcryo.methods.refine_config import RefineConfig
from dcryo.methods.refine_round import Round, RoundTask, solve_round
from dcryo.methods.refine_schedule import Schedule, Step
from dcryo.methods.refine_table import PoseChange, measure_change, write_iterations
from dcryo.methods.run_record import Clock, ImageCount, finished, record_plan, recorded, scratch_bytes
from dcryo.methods.start_map import StartMap, prepare_start
from dcryo.metrics.rigid import Registration

Float32 = NDArray[np.float32]

APART = 3.0
"""Half maps are brought into one frame where they are apart by so many standard deviations."""

START_SHELLS = 8.0
"""Fourier pixels to which a starting map is used where its resolution is not given."""


def refine(
    particles: str,
    run: str,
    config: RefineConfig | None = None,
    *,
    executor: Executor | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    threads: int = 0,
    max_memory: int | None = None,
) -> RunStore:
    """Refine poses and map together.

    Parameters
    ----------
    particles : str
        Path or URL of the particle store.
    run : str
        Path or URL of the run: new, or an unfinished one of the same settings, which is resumed from its last
        iteration, and inside that from its last slice.
    config : RefineConfig, optional
    executor : Executor, optional
        Runs the tasks; default one after the other in this process.
    progress : Progress, optional
    overwrite : bool
        Replace an existing run.
    threads : int
        Threads per task; 0: its share of the processors.  Results do not depend on it.
    max_memory : int, optional
        Bytes that a task may plan to use; default what is available to it.

    Returns
    -------
    RunStore
        What :func:`dcryo.reconstruct` leaves, at the refined poses; ``poses(i)`` of every iteration; the
        volume ``start``; the tables ``iterations`` and ``iteration_fsc``.

    Raises
    ------
    InputError
        If the store, the starting map or the poses cannot be used with these settings.
    PlanError
        If the job does not fit memory or disk.
    ClusterError
        If workers die over one task again and again, or their scheduler goes away.
    DamagedStoreError
        If a chunk of the store is missing or damaged.
    """
    config = config or RefineConfig()
    progress = progress or Silent()
    executor = executor or SerialExecutor()
    store = open_particles(particles)
    capacity = executor.capacity()
    source = given_poses(store, config.poses, config.halves)
    config = replace(config, poses=None if source is None else source.url)
    final = make_plan(store, config, capacity.tasks)
    if set(final.roots) != {1, 2}:
        raise InputError(
            f"{store.url} has no half sets, which a refinement needs; give --halves even-odd, or ingest with "
            "half sets"
        )
    if config.initial is None or config.search == "local":
        check_all_poses(
            store, source,
            "give a starting map with --initial, and not --search local, or one for every particle",
        )  # fmt: skip
    start = _start_map(store, config, progress)
    if overwrite or not finished(run):
        batch = min(final.batch, max(part.count for part in final.slices))
        needed = final.task_memory + pose_bytes(final.n, batch, config.accuracy)
        check_resources(
            replace(final, task_memory=needed),
            None if is_remote(run) else normalise(run),
            task_memory=max_memory or capacity.memory,
            solve_memory=max_memory or (None if executor.here else capacity.memory),
            tasks=capacity.tasks,
            present=0 if overwrite else scratch_bytes(run),
            coarser=lambda scale: make_plan(store, replace(config, scale=scale), capacity.tasks),
        )
    settings = recorded(store, config, source)
    if start is not None:
        settings["initial_digest"] = hashlib.sha256(start.volume.tobytes()).hexdigest()[:16]
    out = create_run(run, "refine", settings, overwrite=overwrite)
    if out.complete:
        out.clean()
        progress.message(f"{out.url} is complete already; nothing to do (--overwrite starts again)")
        return out
    record_plan(out, final, progress)
    return _Refinement(
        store, out, config, source, start, final, executor, progress, threads, capacity.threads
    ).run()


def _start_map(store: ParticleStore, config: RefineConfig, progress: Progress) -> StartMap | None:
    if config.initial is None:
        return None
    side = store.box * store.pixel_size
    return prepare_start(
        config.initial, store.box, store.pixel_size, config.low_pass or side / START_SHELLS,
        config.mask_diameter, progress, initial_pixel_size=config.initial_pixel_size,
    )  # fmt: skip


class _Refinement:
    """One run of :func:`refine`."""

    def __init__(
        self, store: ParticleStore, out: RunStore, config: RefineConfig, source: PoseSource | None,
        start: StartMap | None, final: Plan, executor: Executor, progress: Progress, threads: int,
        task_threads: int,
    ) -> None:  # fmt: skip
        self.store, self.out, self.config, self.source = store, out, config, source
        self.start, self.final = start, final
        self.executor, self.progress = executor, progress
        self.threads, self.task_threads = threads, threads or task_threads
        self.states = Commits(join(out.scratch, "states"))
        self.schedule = Schedule(
            config, store.box, store.pixel_size, final.n, None if start is None else start.band
        )
        self.clock = Clock()
        self.rounds: list[Round] = []
        self.changes: list[PoseChange] = []
        self.seconds: list[float] = []
        self.handles: list[Handle] = []

    def run(self) -> RunStore:
        """All iterations, those that are committed only looked at, and the maps."""
        began = time.perf_counter()
        self.executor.check_access(self.store.url, self.out.scratch)
        self._begin()
        step = self.schedule.first()
        while True:
            of, plan = self._iterate(step)
            following = self.schedule.following(self.rounds[-1], self.changes[-1])
            if following is None:
                break
            remove_tree(of.fold.commits)
            step = following
        if not self._is_final(plan):
            # the maps that are written are those of the last poses, at the scale that was asked for
            of, plan = self._final_pass(), self.final
            self._pass(of, plan)
        result, seconds = self._maps(of, plan)
        self.clock.seconds |= seconds
        return self._finish(result, began)

    def _begin(self) -> None:
        """The poses that the refinement begins with, and the starting map."""
        if not self.states.keys():
            # what is left of a run whose scratch was cleaned
            self.out.keep_poses(0)
        if 0 not in self.out.pose_iterations():
            with self.out.create_poses(0, self.store.count) as writer:
                for first in range(0, self.store.count, ROWS):
                    some = posed_particles(
                        self.store, self.source, first, min(first + ROWS, self.store.count)
                    )
                    known = 1.0 if self.config.search != "global" else math.nan
                    writer.append({"rotation": some.rotation * known, "shift": some.shift * known})
        if self.start is not None and not self.states.has(_state(0)):
            self.out.write_volume("start", self.start.volume, self.store.pixel_size)
            self.states.put(_state(0), {"half1": self.start.volume, "half2": self.start.volume})

    def _plan(self, n: int) -> Plan:
        if n == self.final.n:
            return self.final
        coarse = replace(self.config, scale=self.store.box / n)
        return make_plan(self.store, coarse, self.executor.capacity().tasks)

    def _iterate(self, step: Step) -> tuple[PosePass, Plan]:
        """One iteration, or what is left of it."""
        number = len(self.rounds) + 1
        key, plan = _state(number), self._plan(step.n)
        began = time.perf_counter()
        fold = replace(
            make_fold(self.store, self.out, plan, self.config, self.task_threads),
            commits=join(self.out.scratch, f"round-{number:04d}"),
            poses=f"{self.out.url}@{number - 1}",
            basis="voxel",
        )
        frames: tuple[tuple[int, Registration], ...] = ()
        if self.rounds:
            # the mean pose of a half set is known this well
            known = APART * math.sqrt(2 / (self.store.count / 2))
            last = self.changes[-1]
            turn, shift = known * last.sigma_median, known * last.sigma_shift
            frames = self.rounds[-1].frames(plan.n, turn, shift)
        of = PosePass(fold, step.rule, self.states.url, _state(number - 1), frames)
        if self.states.has(key):
            found = Round(**self.states.meta(key))
        else:
            self.progress.message(self._announce(number, step))
            self._pass(of, plan)
            with self.clock.stage("poses"):
                gather_poses(self.out, number, plan, of, {"cutoff": step.cutoff})
            task = RoundTask(
                replace(of, fold=replace(fold, threads=self.threads)), plan, self.config,
                self.store.pixel_size, self.store.box, key,
                _state(number - 1) if self.rounds else None,
            )  # fmt: skip
            with self.clock.stage("maps"):
                found = self._here_or_there("round", task)
        self.rounds.append(found)
        self.seconds.append(time.perf_counter() - began)
        self.changes.append(measure_change(self.out, number, step.rule))
        self._record()
        return of, plan

    def _pass(self, of: PosePass, plan: Plan) -> None:
        """Every image once: new poses and sums."""
        images = ImageCount(plan, self.progress)
        if self.executor.alone:
            # elsewhere a task of an earlier attempt may still be writing
            Commits(of.fold.commits).sweep()
        with self.clock.stage("images"):
            self.handles += run_plan(
                plan, of.fold, self.executor, images.listen, images.done,
                lambda part: Task(part.key, refine_slice, PoseTask(of, part)),
            )  # fmt: skip

    def _here_or_there(self, name: str, task: RoundTask) -> Round:
        if self.executor.here:
            return solve_round(task, self.progress)
        found: Round
        (found,) = self.executor.run([Task(name, solve_round, task)], lambda key: self.progress)
        return found

    def _announce(self, number: int, step: Step) -> str:
        side = self.store.box * self.store.pixel_size
        if step.rule is None:
            return f"iteration {number}: the map of the given poses"
        what = "search and fit" if step.rule.search is not None else "fit"
        return f"iteration {number}: {what} to {side / step.rule.cutoff:.3g} Å, maps of {step.n}³"

    def _record(self) -> None:
        write_iterations(
            self.out, self.rounds, self.changes, [s.cutoff for s in self.schedule.steps], self.seconds,
            self.store.box * self.store.pixel_size,
        )  # fmt: skip

    def _is_final(self, plan: Plan) -> bool:
        return plan is self.final and self.config.basis == "voxel"

    def _final_pass(self) -> PosePass:
        """The last poses as they are, or their posterior."""
        fold = replace(
            make_fold(self.store, self.out, self.final, self.config, self.task_threads),
            poses=f"{self.out.url}@{len(self.rounds)}",
        )
        rule = self.schedule.steps[-1].rule
        kept = PoseRule(rule.cutoff, 0, soft=True) if rule is not None and rule.soft else None
        return PosePass(fold, kept, self.states.url, _state(len(self.rounds)))

    def _maps(self, of: PosePass, plan: Plan) -> tuple[dict[str, Any], dict[str, float]]:
        """The maps of the last poses, solved to the end and measured."""
        config = replace(self.config, poses=f"{self.out.url}@{len(self.rounds)}")
        fold = replace(of.fold, threads=self.threads)
        task = MapsTask(self.out.url, plan, fold, config, free_frame=True)
        if self.executor.here:
            return make_maps(task, self.progress)
        result: tuple[dict[str, Any], dict[str, float]]
        (result,) = self.executor.run([Task("maps", make_maps, task)], lambda key: self.progress)
        return result

    def _finish(self, result: dict[str, Any], began: float) -> RunStore:
        self.clock.seconds["total"] = time.perf_counter() - began
        last = self.changes[-1]
        bytes_read = sum(h.bytes_read for h in self.handles)
        self.out.update(timings=self.clock.seconds, bytes_read=bytes_read)
        result |= {
            "rounds": len(self.rounds),
            "cutoff_A": self.store.box * self.store.pixel_size / (self.schedule.steps[-1].cutoff or math.nan),
            "turn_median_deg": math.degrees(last.turn_median),
            "sigma_median_deg": math.degrees(last.sigma_median),
            "lost": last.lost,
            "seconds": self.clock.seconds["total"],
            "bytes_read": bytes_read,
            "peak_rss": peak_rss(),
            "task_peak_rss": max((h.peak_rss for h in self.handles), default=0),
            "computed": sum(h.computed for h in self.handles),
            "waited": sum(h.waited for h in self.handles),
        }
        self.out.finish(result)
        self.out.clean()
        return self.out


def _state(number: int) -> str:
    """Key of what iteration ``number`` leaves for the next; 0 is the starting map."""
    return f"round-{number:04d}"


__all__ = ["RefineConfig", "refine"]
