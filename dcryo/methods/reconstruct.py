"""Particles in, map out: stream the images once, solve, and say honestly how good the map is.

The images of each half set are folded into normal equations (dataflow).  From those alone come the weight of
the prior (cross-validation between the halves), both regularised half maps, the regularised map of all
particles, and linear half maps, whose FSC is the headline: a prior that two halves share inflates theirs.
"""

from __future__ import annotations

import functools
import hashlib
import json
import operator
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dcryo.dataflow.accumulate import Fold, Handle, assign_halves, get_equations, run_plan
from dcryo.dataflow.commits import Commits
from dcryo.dataflow.executor import Executor, SerialExecutor
from dcryo.dataflow.plan import Plan, batch_size, check_resources, make_merges, make_slices, slice_particles
from dcryo.dataflow.versions import versions
from dcryo.errors import InputError
from dcryo.geometry.rotations import matrix_to_euler, quaternion_to_matrix
from dcryo.geometry.symmetry import point_group
from dcryo.imaging.basis import parse_basis
from dcryo.imaging.mapping import sample_map
from dcryo.io.location import is_remote, join, normalise
from dcryo.io.particle_store import ParticleStore, open_particles
from dcryo.io.run_store import RunStore, create_run
from dcryo.io.store_root import clear
from dcryo.methods.progress import Progress, Silent
from dcryo.methods.regularise import MapProblem, Solution, solve_linear, solve_tv
from dcryo.methods.weight import Choice, choose_weight
from dcryo.metrics.fsc import corrected_fsc, fsc_curve, mean_fsc, resolution, soft_ball
from dcryo.operators.compiled import thread_count
from dcryo.operators.kernel import padded_length
from dcryo.operators.normal import accumulation_bytes
from dcryo.operators.window import window
from dcryo.solvers.stopping import iterations, objective_change

Float32 = NDArray[np.float32]

FSC_EDGE = 5.0
"""Soft edge of FSC masks, pixels."""

TRUTH_RADIUS = 0.3
"""Maps are compared with a known truth inside a ball of this radius, in boxes."""

PRIORS = ("tv", "none")


@dataclass(frozen=True)
class ReconstructConfig:
    """Settings of :func:`reconstruct`; every one of them is a command-line option of the same name.

    Attributes
    ----------
    scale : float
        Voxel edge in image pixels, >= 1: a coarser map is faster and steadier.
    prior : {"tv", "none"}
        Isotropic total variation, or none (the linear map is the map).
    weight : float or "auto"
        Dimensionless weight of the prior, about 1; "auto": cross-validation between the half sets.
    nonnegative : bool or "auto"
        Map above a free constant baseline; "auto": unless cross-validation speaks against it.
    symmetry : str
        Point group, RELION's names and axes.
    noise : {"auto", "white"}
        Weight frequencies by the measured noise spectrum of each optics group, or all alike.
    basis : str
        "voxel" (band-limited) or "kbwf:RADIUS,ALPHA,ORDER".
    halves : {"auto", "even-odd", "none"}
        Half sets of the store, by the parity of the original row, or no half maps.
    accuracy : {"fast", "default", "accurate", "reference"}
        Interpolation of slices; "reference" sums directly in float64, for boxes up to about 16.
    iterations : int
        At most so many iterations of a solve.
    tolerance : float
        A solve stops when the objective falls by less than this fraction of its fall so far, per iteration.
    ridge : float
        Tikhonov weight of the linear maps, in units of the kernel's mean spectrum in each shell.
    mask_diameter : float, optional
        Diameter in Å of the ball that holds the particle: support of the regularised maps (default: the box
        less 4 pixels) and of the mask in which FSCs are measured (default: 0.8 boxes).  Linear maps, whose
        FSC is the headline, are never confined by it.
    native_scale : bool
        Write maps on the coarse grid instead of the images' grid.
    slice_size : int
        Particles per slice; 0: planned from the cost of a commit.
    seed : int
        Of the phase randomisation.
    """

    scale: float = 1.0
    prior: str = "tv"
    weight: float | Literal["auto"] = "auto"
    nonnegative: bool | Literal["auto"] = "auto"
    symmetry: str = "C1"
    noise: str = "auto"
    basis: str = "voxel"
    halves: str = "auto"
    accuracy: str = "default"
    iterations: int = 100
    tolerance: float = 1e-4
    ridge: float = 0.5
    mask_diameter: float | None = None
    native_scale: bool = False
    slice_size: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.scale <= 64:
            raise InputError(f"--scale {self.scale} is not between 1 and 64")
        if self.prior not in PRIORS:
            raise InputError(f"--prior {self.prior!r} is not known; choose one of {', '.join(PRIORS)}")
        if self.weight != "auto" and not (isinstance(self.weight, (int, float)) and self.weight >= 0):
            raise InputError(f"--weight {self.weight!r} is neither auto nor a number >= 0")
        if self.nonnegative not in (True, False, "auto"):
            raise InputError(f"--nonnegative {self.nonnegative!r} is not one of auto, on, off")
        if self.noise not in ("auto", "white"):
            raise InputError(f"--noise {self.noise!r} is not known; choose auto or white")
        if self.halves == "none" and self.prior == "tv" and self.weight == "auto":
            raise InputError("--weight auto needs half sets; give a --weight, or leave out --halves none")
        if self.iterations < 1 or self.tolerance < 0 or self.ridge <= 0 or self.slice_size < 0:
            raise InputError("--iterations must be >= 1, --tolerance and --slice-size >= 0, --ridge > 0")
        if self.accuracy != "reference":
            window(self.accuracy)
        parse_basis(self.basis)
        point_group(self.symmetry)


@dataclass(frozen=True)
class _Scale:
    """The grid of a reconstruction: n voxels of ``factor`` pixels."""

    n: int
    factor: float


def _scale(box: int, scale: float) -> _Scale:
    n = max(4, round(box / scale))
    return _Scale(n, box / n)


def _solve_bytes(n: int, halves: int) -> int:
    length = padded_length(n)
    spectrum = 4 * length * length * (length // 2 + 1)
    columns = 3 * 8 * length * length * 16 * thread_count()
    return int((halves + 1) * spectrum + (20 * (halves + 1)) * 4 * n**3 + columns)


def make_plan(store: ParticleStore, config: ReconstructConfig) -> Plan:
    """The plan of a reconstruction: what is read, in which slices, and what it takes.

    Raises
    ------
    InputError
        If a half set is empty.
    """
    grid = _scale(store.box, config.scale)
    order = len(point_group(config.symmetry))
    halves = assign_halves(store, config.halves)
    size = config.slice_size or slice_particles(grid.n, store.box, order)
    slices = make_slices(halves, size, store.chunk, store.shard)
    merges, roots = make_merges(slices)
    batch = batch_size(store.box)
    length = padded_length(grid.n)
    partial = 4 * grid.n**3 + 4 * length * length * (length // 2 + 1)
    accuracy = "default" if config.accuracy == "reference" else config.accuracy
    images = 4 * 4 * min(batch, max(s.count for s in slices)) * store.box**2
    return Plan(
        box=store.box,
        n=grid.n,
        batch=batch,
        slices=slices,
        merges=merges,
        roots=roots,
        task_memory=accumulation_bytes(grid.n, accuracy)
        + images
        + 4 * store.chunk * store.box**2
        + 3 * partial,
        solve_memory=_solve_bytes(grid.n, len(roots)) + 14 * 4 * store.box**3,
        disk=partial * (len(slices) + 1),
        read_bytes=sum(store.image_bytes(s.start, s.stop) for s in slices),
    )


def plan(particles: str, config: ReconstructConfig) -> Plan:
    """The plan of ``reconstruct(particles, ...)``, nothing run."""
    return make_plan(open_particles(particles), config)


class _Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


@dataclass(frozen=True)
class _Maps:
    """Coefficients by volume name, and how they were found."""

    coefficients: dict[str, Float32]
    history: list[tuple[int, list[float]]]
    choice: Choice | None
    weight: float
    nonnegative: bool
    reason: str


def reconstruct(
    particles: str,
    run: str,
    config: ReconstructConfig | None = None,
    *,
    executor: Executor | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    threads: int = 0,
    max_memory: int | None = None,
) -> RunStore:
    """Reconstruct a map from a particle store with poses.

    Parameters
    ----------
    particles : str
        Path or URL of the particle store.
    run : str
        Path or URL of the run: new, or an unfinished one of the same settings, which is resumed.
    config : ReconstructConfig, optional
    executor : Executor, optional
        Runs the tasks; default one after the other in this process.
    progress : Progress, optional
    overwrite : bool
        Replace an existing run.
    threads : int
        Threads per task; 0: all processors.  Results do not depend on it.
    max_memory : int, optional
        Bytes that a task may plan to use; default what is available.

    Returns
    -------
    RunStore
        Volumes ``full, half1, half2, linear, linear1, linear2``; tables ``fsc, history, weights, poses``; the
        attribute ``result``.

    Raises
    ------
    InputError
        If the store cannot be used with these settings.
    PlanError
        If the job does not fit memory or disk.
    DamagedStoreError
        If a chunk of the store is missing or damaged.
    """
    config = config or ReconstructConfig()
    progress = progress or Silent()
    clock = _Clock()
    began = time.perf_counter()
    store = open_particles(particles)
    chosen = make_plan(store, config)
    check_resources(chosen, None if is_remote(run) else normalise(run), max_memory)
    _check_first_poses(store)
    out = create_run(run, "reconstruct", _recorded(store, config), overwrite=overwrite)
    if out.complete:
        out.clean()
        progress.message(f"{out.url} is complete already; nothing to do (--overwrite starts again)")
        return out
    fresh = "plan" not in out.attributes
    _record_plan(out, chosen, progress)
    fold = _fold(store, out, chosen, config, threads)
    Commits(fold.commits).sweep()
    try:
        with clock.stage("accumulate"):
            handles = _accumulate(chosen, fold, executor or SerialExecutor(), progress)
    except InputError:
        # bad input leaves nothing behind, unless slices were committed: those are kept for the next try
        if fresh and not Commits(fold.commits).keys():
            clear(out.url)
        raise
    with clock.stage("solve"):
        maps = _solve(chosen, fold, store.pixel_size * fold.scale, config, progress)
    with clock.stage("measure"):
        result = _write(out, store, chosen, config, maps, progress)
    clock.seconds["total"] = time.perf_counter() - began
    bytes_read = sum(h.bytes_read for h in handles)
    out.update(timings=clock.seconds, bytes_read=bytes_read, resumed=sum(h.resumed for h in handles))
    result |= {"seconds": clock.seconds["total"], "bytes_read": bytes_read, "peak_rss": _peak_rss()}
    out.finish(result)
    out.clean()
    return out


def _check_first_poses(store: ParticleStore) -> None:
    """Refuse a store without poses before a run is made for it."""
    rotation = store.particles(0, min(store.count, 1000)).rotation
    if np.isnan(rotation).all():
        raise InputError(
            f"{store.url} holds no poses; reconstruct needs one per particle: ingest the STAR or .cs file of "
            "a finished refinement"
        )


def _recorded(store: ParticleStore, config: ReconstructConfig) -> dict[str, Any]:
    """What makes a run this run and no other."""
    return {"particles": store.url, "particles_digest": _store_digest(store), **asdict(config)}


def _store_digest(store: ParticleStore) -> str:
    """Hash of the store's attributes, which hold how and when it was written."""
    return hashlib.sha256(json.dumps(store.attributes, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _record_plan(out: RunStore, chosen: Plan, progress: Progress) -> None:
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


def _fold(store: ParticleStore, out: RunStore, chosen: Plan, config: ReconstructConfig, threads: int) -> Fold:
    return Fold(
        particles=store.url,
        commits=join(out.scratch, f"sums-{chosen.digest}"),
        n=chosen.n,
        scale=chosen.box / chosen.n,
        batch=chosen.batch,
        halves=config.halves,
        symmetry=config.symmetry,
        noise=config.noise,
        basis=config.basis,
        accuracy=config.accuracy,
        threads=threads,
    )


def _accumulate(chosen: Plan, fold: Fold, executor: Executor, progress: Progress) -> list[Handle]:
    progress.start("images", sum(s.count for s in chosen.slices))
    merges = {m.key for m in chosen.merges}

    def done(handle: Handle) -> None:
        if handle.key not in merges:
            progress.advance(handle.count)

    handles = run_plan(chosen, fold, executor, done)
    if resumed := sum(h.resumed and h.key not in merges for h in handles):
        progress.message(f"{resumed} of {len(chosen.slices)} slices were committed before and kept")
    return handles


def _solve(chosen: Plan, fold: Fold, voxel: float, config: ReconstructConfig, progress: Progress) -> _Maps:
    """All maps from the committed sums; ``voxel`` in Å."""
    commits = Commits(fold.commits)
    sums = {half: get_equations(commits, root) for half, root in chosen.roots.items()}
    total = functools.reduce(operator.add, sums.values())
    maps: dict[str, Float32] = {}
    progress.start("linear maps", len(sums))
    for half, equations in sums.items():
        if half:
            maps[f"linear{half}"] = solve_linear(MapProblem(equations, fold.threads), config.ridge)[0]
        progress.advance()
    radius = None if config.mask_diameter is None else config.mask_diameter / voxel / 2
    problems = {half: MapProblem(eq, fold.threads, radius) for half, eq in sums.items()}
    stop = iterations(config.iterations) | objective_change(config.tolerance)
    history: list[tuple[int, list[float]]] = []
    choice = None
    starts: dict[int, Solution | None] = {1: None, 2: None}
    weight = 0.0 if config.prior == "none" or config.weight == "auto" else float(config.weight)
    nonnegative = config.nonnegative is True or (config.nonnegative == "auto" and len(problems) == 1)
    if config.prior == "tv" and len(problems) == 2 and "auto" in (config.weight, config.nonnegative):
        progress.start("weight", None)
        choice = choose_weight(
            problems[1], problems[2], config.iterations, config.tolerance,
            weight=None if config.weight == "auto" else float(config.weight),
            nonnegative=None if config.nonnegative == "auto" else bool(config.nonnegative),
            tried=lambda: progress.advance(),
        )  # fmt: skip
        weight, nonnegative = choice.weight, choice.nonnegative
        starts = {1: choice.first, 2: choice.second}
    progress.start("maps", len(problems) + (len(problems) == 2))
    reason = ""
    if len(problems) == 2 and config.prior == "tv":
        for half in (1, 2):
            solution = solve_tv(problems[half], weight, nonnegative, stop, starts[half])
            maps[f"half{half}"] = solution.coefficients
            history.append((half, solution.history))
            starts[half] = None
            progress.advance()
    problems.clear()
    sums.clear()
    full = MapProblem(total, fold.threads, radius)
    maps["linear"] = solve_linear(MapProblem(total, fold.threads), config.ridge)[0]
    if config.prior == "tv":
        solution = solve_tv(full, weight, nonnegative, stop)
        maps["full"] = solution.coefficients
        history.append((0, solution.history))
        reason = solution.reason
    else:
        maps["full"] = maps["linear"]
        maps |= {f"half{h}": maps[f"linear{h}"] for h in (1, 2) if f"linear{h}" in maps}
        history.append((0, [full.misfit(maps["full"])]))
    progress.advance()
    return _Maps(maps, history, choice, weight, nonnegative and config.prior == "tv", reason)


def _write(
    out: RunStore,
    store: ParticleStore,
    chosen: Plan,
    config: ReconstructConfig,
    maps: _Maps,
    progress: Progress,
) -> dict[str, Any]:
    """Volumes, curves and tables into the run; returns the result so far."""
    progress.start("FSC", None)
    basis = parse_basis(config.basis)
    workers = thread_count()
    box = chosen.n if config.native_scale else store.box
    pixel = store.pixel_size * store.box / box
    volumes: dict[str, Float32] = {}
    for name in list(maps.coefficients):
        volumes[name] = sample_map(maps.coefficients.pop(name), basis, box, workers)
        out.write_volume(name, volumes[name], pixel)
    table: dict[str, NDArray[Any]] = {
        "shell": np.arange(box // 2 + 1),
        "frequency": np.arange(box // 2 + 1) / (box * pixel),
    }
    result: dict[str, Any] = {"resolution_0143_A": None, "resolution_05_A": None, "mean_fsc": None}
    if "linear1" in volumes:
        diameter = config.mask_diameter or 0.8 * box * pixel
        if diameter > 0.8 * box * pixel + 1e-6:
            progress.message(
                f"a mask of {diameter:.0f} Å is wider than 0.8 boxes ({0.8 * box * pixel:.0f} Å): images cut "
                "the particle's CTF-delocalised signal, and the FSC will include the edges"
            )
        mask = soft_ball(box, diameter / pixel / 2, FSC_EDGE)
        rng = np.random.default_rng(config.seed)
        linear = corrected_fsc(volumes["linear1"], volumes["linear2"], mask, rng)
        table |= {
            "unmasked": linear.unmasked, "masked": linear.masked, "randomised": linear.randomised,
            "corrected": linear.corrected,
        }  # fmt: skip
        table["regularised"] = fsc_curve(volumes["half1"] * mask, volumes["half2"] * mask)
        result = {
            "resolution_0143_A": resolution(linear.corrected, 0.143, box, pixel),
            "resolution_05_A": resolution(linear.corrected, 0.5, box, pixel),
            "mean_fsc": mean_fsc(linear.corrected),
        }
    truth = store.truth()
    if truth is not None and box == store.box:
        ball = soft_ball(box, TRUTH_RADIUS * box, FSC_EDGE)
        table["truth"] = fsc_curve(volumes["full"] * ball, truth * ball)
        table["truth_linear"] = fsc_curve(volumes["linear"] * ball, truth * ball)
        result["truth_resolution_05_A"] = resolution(table["truth"], 0.5, box, pixel)
        result["truth_mean_fsc"] = mean_fsc(table["truth"])
    out.write_table("fsc", table)
    solve = np.concatenate([np.full(len(values), code) for code, values in maps.history])
    steps = np.concatenate([np.arange(len(values)) for _, values in maps.history])
    out.write_table(
        "history",
        {"solve": solve, "iteration": steps, "objective": np.concatenate([v for _, v in maps.history])},
        {"solves": ["full", "half1", "half2"]},
    )
    if maps.choice is not None:
        out.write_table(
            "weights",
            {
                "weight": np.array([t.weight for t in maps.choice.trials]),
                "cross_validation": np.array([t.misfit for t in maps.choice.trials]),
                "nonnegative": np.array([int(t.nonnegative) for t in maps.choice.trials]),
            },
        )
    out.write_table("poses", _directions(store))
    final = next(values for code, values in maps.history if code == 0)
    return result | {
        "weight": maps.weight,
        "nonnegative": maps.nonnegative,
        "iterations": len(final),
        "objective": final[-1],
        "stopped": maps.reason,
    }


def _directions(store: ParticleStore) -> dict[str, NDArray[Any]]:
    """Histogram of viewing directions: counts (tilt, rot) and the edges of both, rad."""
    counts = np.zeros((18, 36), np.int64)
    rot_edges = np.linspace(-np.pi, np.pi, 37)
    tilt_edges = np.linspace(0, np.pi, 19)
    for first in range(0, store.count, 100_000):
        rotation = store.particles(first, min(first + 100_000, store.count)).rotation
        euler = matrix_to_euler(quaternion_to_matrix(rotation))
        rot = np.arctan2(np.sin(euler[:, 0]), np.cos(euler[:, 0]))
        counts += np.histogram2d(euler[:, 1], rot, bins=(tilt_edges, rot_edges))[0].astype(np.int64)
    return {"counts": counts, "tilt": tilt_edges, "rot": rot_edges}


def _peak_rss() -> int:
    """Peak resident memory of this process, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


__all__ = ["ReconstructConfig", "make_plan", "plan", "reconstruct"]
