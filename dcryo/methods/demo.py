"""The demonstration: particles of a known object, simulated and reconstructed in a folder of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from dcryo import __version__
from dcryo.errors import InputError
from dcryo.io.run_store import RunStore
from dcryo.methods.progress import Progress
from dcryo.methods.reconstruct import ReconstructConfig, reconstruct
from dcryo.methods.simulate import SimulateConfig, simulate

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


def demo(folder: Path, *, progress: Progress | None = None) -> Demo:
    """Simulate :data:`SIMULATION` and reconstruct it by :data:`RECONSTRUCTION` in ``folder``.

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
    particles, run = folder / "particles.zarr", folder / "run.zarr"
    simulate(str(particles), SIMULATION, progress=progress, overwrite=True)
    store = reconstruct(str(particles), str(run), RECONSTRUCTION, progress=progress, overwrite=True)
    return Demo(folder, particles, store)


def _is_demo(mark: Path) -> bool:
    try:
        content = json.loads(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("dcryo") == "demo"
