"""What a reconstruction writes: its maps on the images' grid, FSC curves, and the record of its solves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.dataflow.plan import Plan
from dcryo.dataflow.pose_source import PoseSource, find_poses, posed_particles
from dcryo.geometry.rotations import matrix_to_euler, quaternion_to_matrix
from dcryo.imaging.basis import parse_basis
from dcryo.imaging.mapping import sample_map
from dcryo.io.particle_store import ParticleStore
from dcryo.io.run_store import RunStore
from dcryo.methods.maps import Maps
from dcryo.methods.progress import Progress
from dcryo.methods.reconstruct_config import ReconstructConfig
from dcryo.metrics.fsc import corrected_fsc, fsc_curve, mean_fsc, resolution, soft_ball
from dcryo.metrics.registration import register
from dcryo.operators.compiled import thread_count

Float32 = NDArray[np.float32]
Table = dict[str, NDArray[Any]]

FSC_EDGE = 5.0
"""Soft edge of FSC masks, pixels."""

TRUTH_RADIUS = 0.3
"""Maps are compared with a known truth inside a ball of this radius, in boxes."""


def write_maps(
    out: RunStore,
    store: ParticleStore,
    chosen: Plan,
    config: ReconstructConfig,
    maps: Maps,
    progress: Progress,
    free_frame: bool = False,
) -> dict[str, Any]:
    """Volumes, curves and tables into the run; returns the result so far.

    ``free_frame``: the poses are those of a refinement, which knows the specimen up to a rotation and a
    translation; before maps are compared with a known truth, they are registered with it.
    """
    progress.start("FSC", None)
    basis = parse_basis(config.basis)
    box = chosen.n if config.native_scale else store.box
    pixel = store.pixel_size * store.box / box
    volumes: dict[str, Float32] = {}
    for name in list(maps.coefficients):
        volumes[name] = sample_map(maps.coefficients.pop(name), basis, box, thread_count())
        out.write_volume(name, volumes[name], pixel)
    table, result = _curves(volumes, store, chosen, config, pixel, progress, free_frame)
    out.write_table("fsc", table)
    _write_solves(out, maps)
    out.write_table("poses", _directions(store, None if config.poses is None else find_poses(config.poses)))
    final = next(values for code, values in maps.history if code == 0)
    return result | {
        "weight": maps.weight,
        "nonnegative": maps.nonnegative,
        "iterations": len(final),
        "objective": final[-1],
        "stopped": maps.reason,
    }


def _curves(
    volumes: dict[str, Float32],
    store: ParticleStore,
    chosen: Plan,
    config: ReconstructConfig,
    pixel: float,
    progress: Progress,
    free_frame: bool,
) -> tuple[Table, dict[str, Any]]:
    """FSC curves, and the numbers read off them."""
    box = volumes["full"].shape[0]
    table: Table = {
        "shell": np.arange(box // 2 + 1),
        "frequency": np.arange(box // 2 + 1) / (box * pixel),
    }
    # Shells beyond the band of a coarse map hold rounding and what a mask spills there: nothing to claim.
    band = box // 2 if box == chosen.n else (chosen.n - 1) // 2

    def known(curve: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        return np.where(table["shell"] <= band, curve, 0.0)

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
            "unmasked": known(linear.unmasked), "masked": known(linear.masked),
            "randomised": known(linear.randomised), "corrected": known(linear.corrected),
        }  # fmt: skip
        table["regularised"] = known(fsc_curve(volumes["half1"] * mask, volumes["half2"] * mask))
        result = {
            "resolution_0143_A": resolution(table["corrected"], 0.143, box, pixel),
            "resolution_05_A": resolution(table["corrected"], 0.5, box, pixel),
            "mean_fsc": mean_fsc(table["corrected"]),
        }
    truth = store.truth()
    if truth is not None and box == store.box:
        ball = soft_ball(box, TRUTH_RADIUS * box, FSC_EDGE)
        compared = [volumes["full"], volumes["linear"]]
        if free_frame:
            found = register(volumes["full"], truth)
            compared = [found.apply_to_map(volume) for volume in compared]
        for name, volume in zip(("truth", "truth_linear"), compared, strict=True):
            table[name] = known(fsc_curve(volume * ball, truth * ball))
        result["truth_resolution_05_A"] = resolution(table["truth"], 0.5, box, pixel)
        result["truth_mean_fsc"] = mean_fsc(table["truth"])
    return table, result


def _write_solves(out: RunStore, maps: Maps) -> None:
    """Objective of every iteration, and what the search for the weight tried."""
    solve = np.concatenate([np.full(len(values), code) for code, values in maps.history])
    steps = np.concatenate([np.arange(len(values)) for _, values in maps.history])
    out.write_table(
        "history",
        {"solve": solve, "iteration": steps, "objective": np.concatenate([v for _, v in maps.history])},
        {"solves": ["full", "half1", "half2"]},
    )
    if maps.trials:
        out.write_table(
            "weights",
            {
                "weight": np.array([t.weight for t in maps.trials]),
                "cross_validation": np.array([t.misfit for t in maps.trials]),
                "nonnegative": np.array([int(t.nonnegative) for t in maps.trials]),
            },
        )


def _directions(store: ParticleStore, poses: PoseSource | None) -> dict[str, NDArray[Any]]:
    """Histogram of viewing directions: counts (tilt, rot) and the edges of both, rad."""
    counts = np.zeros((18, 36), np.int64)
    rot_edges = np.linspace(-np.pi, np.pi, 37)
    tilt_edges = np.linspace(0, np.pi, 19)
    for first in range(0, store.count, 100_000):
        particles = posed_particles(store, poses, first, min(first + 100_000, store.count))
        euler = matrix_to_euler(quaternion_to_matrix(particles.rotation))
        rot = np.arctan2(np.sin(euler[:, 0]), np.cos(euler[:, 0]))
        counts += np.histogram2d(euler[:, 1], rot, bins=(tilt_edges, rot_edges))[0].astype(np.int64)
    return {"counts": counts, "tilt": tilt_edges, "rot": rot_edges}
