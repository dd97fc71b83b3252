"""The demonstration: particles of a known object, simulated, reconstructed, refined without their poses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dcryo import __version__
from dcryo.errors import InputError
from dcryo.geometry.rotations import quaternion_to_matrix
from dcryo.io.particle_store import open_particles
from dcryo.io.run_store import RunStore
from dcryo.methods.progress import Progress
from dcryo.methods.reconstruct import ReconstructConfig, reconstruct
from dcryo.methods.refine import RefineConfig, refine
from dcryo.methods.simulate import SimulateConfig, simulate
from dcryo.metrics.pose import pose_errors

MARK = "demo.json"
"""The file that says that a folder is a demonstration, which another one may replace."""

SIMULATION = SimulateConfig(phantom="protein", box=64, particles=2000, snr=0.1, seed=1)
RECONSTRUCTION = ReconstructConfig(prior="tv", nonnegative=True)


@dataclass(frozen=True)
class Demo:
    """Where the parts of a demonstration are."""

    folder: Path
    particles: Path
    run: RunStore
    refined: RunStore


def demo(folder: Path, *, progress: Progress | None = None) -> Demo:
    """Simulate :data:`SIMULATION`, reconstruct it by :data:`RECONSTRUCTION`, and find its poses again.

    The refinement is given the map, cut off at an eighth of the box, and none of the poses.

    An earlier demonstration in the folder is replaced.

    Raises
    ------
    InputError
        If the folder holds anything else.
    """
    mark = folder / MARK
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give the name of a new folder")
    if folder.is_dir() and any(folder.iterdir()) and not _is_demo(mark):
        raise InputError(f"{folder} is not empty and not an earlier demonstration; give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps({"dcryo": "demo", "version": __version__}) + "\n", encoding="utf-8")
    particles, run, refined = (folder / name for name in ("particles.zarr", "run.zarr", "refined.zarr"))
    simulate(str(particles), SIMULATION, progress=progress, overwrite=True)
    store = reconstruct(str(particles), str(run), RECONSTRUCTION, progress=progress, overwrite=True)
    again = refine(
        str(particles), str(refined), RefineConfig(initial=str(run), search="global"), progress=progress,
        overwrite=True,
    )  # fmt: skip
    return Demo(folder, particles, store, again)


def pose_error(made: Demo) -> float:
    """Median error of the poses that were found again, rad, in the frame that fits best."""
    truth = open_particles(str(made.particles)).truth_poses()
    assert truth is not None
    found = made.refined.poses(names=("rotation", "shift"))
    errors = pose_errors(
        quaternion_to_matrix(found["rotation"]), found["shift"], quaternion_to_matrix(truth[0]), truth[1]
    )
    return float(np.median(errors.rotation))


def _is_demo(mark: Path) -> bool:
    try:
        content = json.loads(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("dcryo") == "demo"
