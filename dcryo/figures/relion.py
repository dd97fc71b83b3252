"""RELION's auto-refinement as a peer, where it is installed: its maps, its poses, and what it cost.

``relion_refine_mpi`` refines the half sets of a STAR file by three processes: a leader, which hands out work,
and a worker for each half set.  Waiting processes of MPI poll, so the CPU time of the leader is mostly
waiting; it is counted apart.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.geometry.rotations import quaternion_to_matrix
from dcryo.io.mrc import read_volume
from dcryo.io.star import read_particles_star

PROGRAM, LAUNCHER = "relion_refine_mpi", "mpirun"

OPTIONS = (
    "--auto_refine --split_random_halves --healpix_order 2 --auto_local_healpix_order 3 --offset_range 4 "
    "--offset_step 2 --ini_high 30 --pool 10 --flatten_solvent --zero_mask --pad 2 --j 1 --random_seed 1 "
    "--dont_check_norm"
)
"""As RELION's interface starts it, but for what corrects the norms and scales of images: ours are right."""

CTF_OPTIONS = ("--ctf", "--ctf_corrected_ref")
"""The starting map is a density: without the second one the first iteration compares images with projections
that have no CTF, and finds random poses, from which RELION does not recover."""

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    # Open MPI: wherever it runs, also in a container of few cores, and politely
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "OMPI_MCA_mpi_yield_when_idle": "1",
}

# Runs a program as a child of each rank and writes the child's CPU seconds into a file named after the rank.
_TIMED = """
import os, resource, subprocess, sys
names = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")
rank = next((os.environ[name] for name in names if name in os.environ), "0")
code = subprocess.call(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1] + rank, "w") as file:
    file.write(str(used.ru_utime + used.ru_stime))
sys.exit(code)
"""


@dataclass(frozen=True)
class Refined:
    """What RELION made of a STAR file.

    Attributes
    ----------
    volume, half1, half2 : (n, n, n) float32
        Its map, filtered by its own FSC, and its unfiltered half maps.
    rotation, shift : (P, 3, 3) and (P, 2) float64
        Poses A and shifts [Å] in the order of the images in their stack.
    cpu_seconds, leader_seconds : float
        Of all processes, and of the leader alone.
    iterations : int
    """

    volume: NDArray[np.float32]
    half1: NDArray[np.float32]
    half2: NDArray[np.float32]
    rotation: NDArray[np.float64]
    shift: NDArray[np.float64]
    cpu_seconds: float
    leader_seconds: float
    iterations: int


class RelionFailedError(Exception):
    """RELION stopped with an error: what it said last."""


def missing() -> str | None:
    """Why RELION cannot be run beside, or None where it can."""
    absent = [name for name in (PROGRAM, LAUNCHER) if shutil.which(name) is None]
    return f"{' and '.join(absent)} not found on PATH" if absent else None


def auto_refine(star: Path, reference: Path, diameter: float, *, ctf: bool) -> Refined:
    """Refine the particles of ``star`` from the map ``reference``.

    Parameters
    ----------
    star : Path
        Particles with half sets; images are named relative to the folder of the file.  The orientations in
        it are not used: an auto-refinement begins with a search of all of them, about the shifts of the file.
    reference : Path
        Map in the box of the images.
    diameter : float
        Å, of RELION's circular mask.
    ctf : bool
        Whether the images have one.

    Returns
    -------
    Refined

    Raises
    ------
    RelionFailedError
        If it ends with an error, or without a result.
    """
    folder = star.parent
    out = folder / f"{star.stem}-relion"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    command = [
        LAUNCHER, "-n", "3", sys.executable, "-c", _TIMED, str(out.resolve() / "cpu-"), PROGRAM,
        "--i", star.name, "--ref", os.path.relpath(reference, folder), "--o", f"{out.name}/run",
        *OPTIONS.split(), "--sym", "C1", "--particle_diameter", f"{diameter:.1f}",
        *(CTF_OPTIONS if ctf else ()),
    ]  # fmt: skip
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode or not (out / "run_data.star").is_file():
        said = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        raise RelionFailedError(f"{PROGRAM} ended with {done.returncode}: {' '.join(said[-3:])}")
    return _read(out)


def _read(out: Path) -> Refined:
    """What a finished refinement left in its folder."""
    particles = read_particles_star(out / "run_data.star", images=False, no_ctf=True).particles
    order = np.argsort(particles.source[:, 1], kind="stable")
    seconds = {path.name: float(path.read_text("utf-8")) for path in out.glob("cpu-*")}
    maps: Mapping[str, Any] = {
        key: read_volume(out / f"run_{name}.mrc")[0]
        for key, name in (
            ("volume", "class001"),
            ("half1", "half1_class001_unfil"),
            ("half2", "half2_class001_unfil"),
        )
    }
    return Refined(
        **maps,
        rotation=quaternion_to_matrix(particles.rotation)[order],
        shift=np.asarray(particles.shift[order], np.float64),
        cpu_seconds=sum(seconds.values()),
        leader_seconds=seconds.get("cpu-0", 0.0),
        iterations=len(list(out.glob("run_it*_optimiser.star"))) - 1,
    )
