"""Particles in a store and as RELION's files, and what dcryo makes of them: sums, and a regularised map."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from dcryo.arrays import to_device, to_host
from dcryo.bench import truth
from dcryo.bench.ours import device_memory, finished
from dcryo.bench.subject import Job, Numbers
from dcryo.dataflow.accumulate import get_equations, radial_tables, run_plan
from dcryo.dataflow.commits import Commits
from dcryo.dataflow.executor import SerialExecutor
from dcryo.io.particle_store import open_particles
from dcryo.io.run_store import create_run, read_map
from dcryo.methods.export import ExportConfig, export
from dcryo.methods.linear_map import solve_linear, surroundings
from dcryo.methods.progress import Progress, Silent
from dcryo.methods.reconstruct import make_fold, make_plan
from dcryo.methods.reconstruct_config import ReconstructConfig
from dcryo.methods.regularise import MapProblem, Solution, solve_map
from dcryo.methods.simulate import SimulateConfig, simulate
from dcryo.operators.normal import Accumulator, NormalEquations
from dcryo.operators.views import make_views
from dcryo.solvers.stopping import Rule, iterations

STORE, STAR, TARGET = "particles.zarr", "particles.star", "target.json"

WEIGHT = 0.7
"""Weight of total variation: about what cross-validation chooses for 5,000 such particles."""

GAP = 1e-3
"""Relative gap (F - F*) / (F(0) - F*) of the objective that a map is solved to."""

LONG = 300
"""Iterations that F* is found with."""

CONFIG = ReconstructConfig(halves="none", weight=WEIGHT, nonnegative=True)


def make_particles(folder: Path, box: int, count: int, seed: int, progress: Progress) -> None:
    """Simulate ``count`` particles of the cloud with CTF and noise into a store."""
    config = SimulateConfig(box=box, particles=count, snr=0.1, pixel_size=1.5, seed=seed)
    simulate(str(folder / STORE), config, progress=progress)


def write_star(folder: Path, progress: Progress) -> None:
    """The particles of the store in ``folder`` as RELION's files beside it."""
    export(str(folder / STORE), folder / STAR, ExportConfig(beside=True), progress=progress)


def find_target(folder: Path, box: int, count: int, seed: int, threads: int) -> None:
    """Solve the map of the particles in ``folder`` for long, and write the objective that is close enough."""
    job = Job(box, count, seed, threads, "cpu", str(folder))
    solution = solve(sums(job, folder / "target.zarr"), threads, iterations(LONG))
    best, zero = min(solution.history), solution.history[0]
    target = {"best": best, "zero": zero, "target": best + GAP * (zero - best)}
    (folder / TARGET).write_text(json.dumps(target), encoding="utf-8")


def sums(job: Job, run: Path) -> NormalEquations:
    """Right-hand side and kernel of all particles: streamed from the store, committed, read back."""
    shutil.rmtree(run, ignore_errors=True)
    store = open_particles(str(Path(job.folder) / STORE))
    plan = make_plan(store, CONFIG)
    fold = make_fold(store, create_run(str(run), "reconstruct", {}), plan, CONFIG, job.threads, job.device)
    run_plan(plan, fold, SerialExecutor(), lambda key: Silent())
    return get_equations(Commits(fold.commits), plan.roots[0]).to(job.device)


def solve(equations: NormalEquations, threads: int, stop: Rule) -> Solution:
    """The map with total variation and nonnegativity; the level of its surroundings is the linear map's."""
    linear = solve_linear(MapProblem(equations, threads))[0]
    problem = MapProblem(equations, threads, baseline=surroundings(linear))
    return solve_map(problem, WEIGHT, True, stop)


class Sums:
    """Right-hand side and kernel from the store, commits included."""

    def __init__(self, job: Job) -> None:
        """Nothing is read yet."""
        self.job = job
        self.run_folder = Path(job.folder) / f"{type(self).__name__}-{job.threads}-{job.device}.zarr"

    def run(self) -> NormalEquations:
        """Fold all particles."""
        equations = sums(self.job, self.run_folder)
        finished(equations.rhs)
        return equations

    def check(self, result: NormalEquations) -> Numbers:
        """The linear map that comes of the sums."""
        linear = solve_linear(MapProblem(result, self.job.threads))[0]
        return truth.map_errors(to_host(linear), particle_truth(self.job.folder)) | device_memory(self.job)


class Map(Sums):
    """The whole of it: sums, then one map with a prior of fixed weight, to a gap of 1e-3."""

    def __init__(self, job: Job) -> None:
        """Read what the objective is to come to."""
        super().__init__(job)
        self.objective = json.loads((Path(job.folder) / TARGET).read_text(encoding="utf-8"))

    def run(self) -> Solution:  # type: ignore[override]
        """Fold all particles, and solve."""
        target = self.objective["target"]
        close = Rule(lambda p: "close enough" if p.objectives[-1] <= target else None)
        equations = sums(self.job, self.run_folder)
        solution = solve(equations, self.job.threads, close | iterations(LONG))
        finished(solution.coefficients)
        return solution

    def check(self, result: Solution) -> Numbers:  # type: ignore[override]
        """Errors of the map, and how far its objective is from the least."""
        best, zero = self.objective["best"], self.objective["zero"]
        volume = to_host(result.coefficients)
        return truth.map_errors(volume, particle_truth(self.job.folder)) | {
            "gap": (result.history[-1] - best) / (zero - best),
            "iterations": len(result.history),
            **device_memory(self.job),
        }


class FromMemory:
    """The sums of as many particles without a store: one batch of images, again for every batch of views.

    What the same compute takes when nothing is read and nothing committed.
    """

    def __init__(self, job: Job) -> None:
        """Read the first batch, and the table of all particles."""
        self.job = job
        store = open_particles(str(Path(job.folder) / STORE))
        self.plan = make_plan(store, CONFIG)
        run = create_run(f"{job.folder}/memory.zarr", "reconstruct", {}, overwrite=True)
        fold = make_fold(store, run, self.plan, CONFIG, job.threads, job.device)
        self.radial = radial_tables(store, fold)
        self.views = make_views(store.particles(), store.pixel_size)
        self.images = to_device(store.images(0, min(self.plan.batch, store.count)), job.device)

    def run(self) -> NormalEquations:
        """Fold."""
        total = None
        for part in self.plan.slices:
            accumulator = Accumulator(
                self.plan.n, self.radial, threads=self.job.threads, device=self.job.device
            )
            for first in range(part.start, part.stop, self.plan.batch):
                views = self.views.take(slice(first, min(first + self.plan.batch, part.stop)))
                accumulator.add(self.images[: len(views)], views)
            partial = accumulator.finish()
            finished(partial.rhs)
            total = partial if total is None else total + partial
        assert total is not None  # a plan has a slice
        return total

    def check(self, result: NormalEquations) -> Numbers:
        """How many particles were folded: the sums themselves are of wrong images."""
        return {"particles": result.count} | device_memory(self.job)


def particle_truth(folder: str) -> truth.Float32:
    """The object that the particles in ``folder`` were made of."""
    return read_map(str(Path(folder) / f"{STORE}:truth"))[0]
