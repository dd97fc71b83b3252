"""Ways from views to a map, beside each other: true poses, unrefined ones, ``dcryo refine``, and RELION.

All see the same images.  Every map is compared with the truth in the frame that its poses have, which are
aligned to the true ones; no map is fitted to the truth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.figures import relion
from dcryo.figures.experiment import Setting
from dcryo.figures.joint_data import Case, Data, make_data
from dcryo.geometry.rotations import quaternion_to_matrix
from dcryo.io.particle_store import ParticleStore
from dcryo.io.run_store import RunStore
from dcryo.methods.measure import FSC_EDGE, TRUTH_RADIUS
from dcryo.methods.reconstruct import reconstruct
from dcryo.methods.reconstruct_config import ReconstructConfig
from dcryo.methods.refine import refine
from dcryo.methods.refine_config import RefineConfig
from dcryo.metrics.fsc import fsc_curve, mean_fsc, resolution, soft_ball
from dcryo.metrics.pose import PoseErrors, pose_errors
from dcryo.metrics.rigid import Registration
from dcryo.report.plot import encode_section

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

ANGLE_BINS = np.linspace(0, 15, 31)
"""Edges of the histograms of angular errors, degrees; the last bin holds all that is beyond."""

SHIFT_BINS = np.linspace(0, 3, 31)
"""Edges of those of the errors of shifts, pixels."""

ORACLE, UNREFINED, OURS, PEER = "true poses", "unrefined", "dcryo", "RELION"
"""Names of the ways to a map."""


@dataclass(frozen=True)
class Measured:
    """A map against the truth, in the frame of the truth, and what it took.

    Attributes
    ----------
    volume : (n, n, n) float32
    fsc, fsc_ball : (n // 2 + 1,) float64
        With the truth: of the maps as they are, and inside the ball of ``dcryo reconstruct``.
    errors : PoseErrors or None
        Of the poses, after alignment; None for poses that were not refined.
    halves : float or None
        Å, where the FSC of (unregularised) half maps in that ball falls to 0.143.
    cpu_seconds : float
    more : dict
        What else there is to say.
    """

    volume: Float32
    fsc: Float64
    fsc_ball: Float64
    errors: PoseErrors | None
    halves: float | None
    cpu_seconds: float
    more: dict[str, Any]

    def numbers(self, data: Data) -> dict[str, Any]:
        """What the JSON has of it; lengths in Å, angles in degrees, errors of shifts in pixels."""
        box, pixel = data.case.box, data.case.pixel_size
        found = resolution(self.fsc_ball, 0.5, box, pixel)
        numbers: dict[str, Any] = {
            "fsc": self.fsc,
            "fsc_ball": self.fsc_ball,
            "resolution_05_A": found,
            "r_c": 1 / found,
            "resolution_05_unmasked_A": resolution(self.fsc, 0.5, box, pixel),
            "mean_fsc": mean_fsc(self.fsc_ball),
            "mean_fsc_unmasked": mean_fsc(self.fsc),
            "halves_0143_A": self.halves,
            "cpu_seconds": self.cpu_seconds,
        } | self.more
        return numbers if self.errors is None else numbers | pose_numbers(self.errors, pixel)


def pose_numbers(errors: PoseErrors, pixel_size: float) -> dict[str, Any]:
    """Errors of angles in degrees, and of shifts in pixels."""
    return {
        "angle_deg": summary(np.degrees(errors.rotation), ANGLE_BINS),
        "shift_px": summary(errors.shift / pixel_size, SHIFT_BINS),
    }


def summary(errors: NDArray[np.floating[Any]], edges: Float64) -> dict[str, Any]:
    """Median, 90th percentile, root mean square and histogram of errors; the last bin has what is beyond."""
    known = errors[np.isfinite(errors)]
    counts = np.histogram(np.minimum(known, edges[-1]), edges)[0]
    return {
        "median": float(np.median(known)),
        "p90": float(np.percentile(known, 90)),
        "rms": float(np.sqrt(np.mean(known**2))),
        "counts": counts,
        "edges": edges,
    }


def compared(
    data: Data, volume: Float32, cpu_seconds: float, halves: float | None = None, **more: Any
) -> Measured:
    """A map that is in the frame of the truth."""
    ball = ball_of(data)
    curve, masked = fsc_curve(volume, data.truth), fsc_curve(volume * ball, data.truth * ball)
    return Measured(volume, curve, masked, None, halves, cpu_seconds, more)


def aligned(
    data: Data, volume: Float32, rotation: Float64, shift: Float64, cpu_seconds: float, **more: Any
) -> Measured:
    """A map in the frame of refined poses (P, 3, 3) and shifts (P, 2) [Å], turned onto the truth by them.

    A refinement is free to turn and to move the specimen, and its hand is free without a starting map; how it
    did is what best takes its poses to the true ones.  The map itself is not fitted to the truth.
    """
    errors = errors_of(data, rotation, shift)
    frame = errors.alignment
    registration = Registration(frame.rotation, -errors.offset / data.case.pixel_size, 1.0, frame.mirrored)
    measured = compared(data, registration.apply_to_map(volume), cpu_seconds, **more)
    return replace(measured, errors=errors)


def errors_of(data: Data, rotation: NDArray[Any], shift: NDArray[Any]) -> PoseErrors:
    """Errors of poses (P, 3, 3) and shifts (P, 2) [Å] in the order of the store."""
    known = data.true.particles()
    return pose_errors(rotation, shift, quaternion_to_matrix(known.rotation), known.shift)


def ball_of(data: Data) -> Float32:
    """The ball in which maps are compared."""
    return soft_ball(data.case.box, TRUTH_RADIUS * data.case.box, FSC_EDGE)


def timed(call: Callable[[], RunStore]) -> tuple[RunStore, float]:
    """A run and its CPU seconds, those of all threads."""
    began = time.process_time()
    run = call()
    return run, time.process_time() - began


def from_store(data: Data, store: ParticleStore, name: str, setting: Setting) -> Measured:
    """The map of ``dcryo reconstruct`` with the poses in a store."""
    run, seconds = timed(
        lambda: reconstruct(
            store.url,
            str(data.folder / f"{name}.zarr"),
            ReconstructConfig(seed=setting.seed),
            progress=setting.progress,
            threads=setting.threads,
        )
    )
    result = run.attributes["result"]
    volume = np.asarray(run.volume("full")[0], np.float32)
    return compared(data, volume, seconds, half_resolution(data, run), weight=result["weight"])


def half_resolution(data: Data, run: RunStore) -> float:
    """Å, where the linear half maps of a run differ in the ball."""
    return _halves(data, run.volume("linear1")[0], run.volume("linear2")[0])


def _halves(data: Data, one: NDArray[Any], two: NDArray[Any]) -> float:
    ball = ball_of(data)
    return resolution(fsc_curve(one * ball, two * ball), 0.143, data.case.box, data.case.pixel_size)


def refined(data: Data, setting: Setting) -> tuple[Measured, RunStore]:
    """The map of ``dcryo refine`` from the starting map, with its default settings, and its run."""
    run, seconds = timed(
        lambda: refine(
            data.start.url,
            str(data.folder / "refined.zarr"),
            RefineConfig(initial=str(data.initial), seed=setting.seed),
            progress=setting.progress,
            threads=setting.threads,
        )
    )
    volume = np.asarray(run.volume("full")[0], np.float32)
    poses = run.poses()
    iterations = max(run.pose_iterations())
    more = {"iterations": iterations, "lost": int(np.sum(poses["lost"])) if "lost" in poses else 0}
    measured = aligned(
        data,
        volume,
        quaternion_to_matrix(poses["rotation"]),
        poses["shift"],
        seconds,
        halves=half_resolution(data, run),
        **more,
    )
    return measured, run


def by_relion(data: Data, setting: Setting) -> Measured | str:
    """The map of RELION's auto-refinement of the same files, or why there is none."""
    if (reason := relion.missing()) is not None:
        return reason
    setting.progress.start("RELION", None)
    try:
        made = relion.auto_refine(data.star, data.initial, data.diameter, ctf=data.case.ctf)
    except relion.RelionFailedError as error:
        return str(error)
    return aligned(
        data,
        made.volume,
        made.rotation,
        made.shift,
        made.cpu_seconds,
        halves=_halves(data, made.half1, made.half2),
        leader_seconds=made.leader_seconds,
        iterations=made.iterations,
    )


def by_iteration(data: Data, run: RunStore, setting: Setting) -> list[Measured]:
    """Maps of all particles with the poses of each iteration of a refinement, the first being the start.

    They are made at full size with the weight of the final map, so that only the poses differ.
    """
    result = run.attributes["result"]
    start = np.asarray(run.volume("start")[0], np.float32)
    maps = [compared(data, start, 0.0)]
    for iteration in run.pose_iterations()[1:]:
        poses = run.poses(iteration, ("rotation", "shift"))
        config = ReconstructConfig(
            poses=f"{run.url}@{iteration}",
            halves="none",
            weight=result["weight"],
            nonnegative=result["nonnegative"],
            seed=setting.seed,
        )
        url = str(data.folder / f"iteration-{iteration}.zarr")
        made = reconstruct(data.start.url, url, config, progress=setting.progress, threads=setting.threads)
        volume = np.asarray(made.volume("full")[0], np.float32)
        rotation = quaternion_to_matrix(poses["rotation"])
        maps.append(aligned(data, volume, rotation, poses["shift"], 0.0))
    return maps


@dataclass(frozen=True)
class Trial:
    """One simulation of a case and the maps made of it.

    Attributes
    ----------
    data : Data
    ways : dict
        By name, in the order of the legend: :data:`UNREFINED` (where there are poses to begin with),
        :data:`OURS`, :data:`ORACLE` and, where it is installed, :data:`PEER`.
    run : RunStore
        Of ``dcryo refine``.
    start : PoseErrors or None
        Of the poses to begin with.
    peer_missing : str or None
        Why RELION is not among the ways.
    """

    data: Data
    ways: dict[str, Measured]
    run: RunStore
    start: PoseErrors | None
    peer_missing: str | None

    def numbers(self) -> dict[str, Any]:
        """What the JSON has of it."""
        ways = {name: way.numbers(self.data) for name, way in self.ways.items()}
        for numbers in ways.values():
            numbers["r_c_of_oracle"] = numbers["r_c"] / ways[ORACLE]["r_c"]
        if self.start is not None:
            ways[UNREFINED] |= pose_numbers(self.start, self.data.case.pixel_size)
        return ways


def trial(case: Case, setting: Setting, seed: int, map_path: str | None = None) -> Trial:
    """Simulate a case and go all ways."""
    data = make_data(case, setting, seed, map_path)
    ways: dict[str, Measured] = {}
    start = None
    if case.euler_error is not None:
        ways[UNREFINED] = from_store(data, data.start, "unrefined", setting)
        begun = data.start.particles()
        start = errors_of(data, quaternion_to_matrix(begun.rotation), begun.shift)
    ways[OURS], run = refined(data, setting)
    ways[ORACLE] = from_store(data, data.true, "oracle", setting)
    peer = by_relion(data, setting)
    if isinstance(peer, Measured):
        ways[PEER] = peer
    return Trial(data, ways, run, start, None if isinstance(peer, Measured) else peer)


def averages(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the numbers of several trials, way by way; histograms are summed."""
    ways = [name for name in trials[0] if all(name in trial for trial in trials)]
    return {name: _mean([trial[name] for trial in trials]) for name in ways}


def _mean(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Mapping):
        return {
            key: np.sum([value[key] for value in values], axis=0)
            if key == "counts"
            else _mean([value[key] for value in values])
            for key in first
        }
    return None if first is None else np.mean(np.asarray(values, np.float64), axis=0)


def section(data: Data, volume: Float32) -> str:
    """The central section of a map for the JSON, in the grey values of the truth's."""
    middle = data.case.box // 2
    low, high = np.percentile(data.truth[middle], (1, 99.8))
    return encode_section(volume[middle], (float(low), float(high)))
