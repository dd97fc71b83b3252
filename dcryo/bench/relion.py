"""RELION as a peer: ``relion_reconstruct`` on the STAR file, by its own time and its own peak memory.

Nothing heavy is imported before the program has ended: see :mod:`dcryo.bench.subject`.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from dcryo.bench.subject import Job, Numbers

STAR = "particles.star"


class Default:
    """One map, gridding correction included."""

    options: tuple[str, ...] = ("--ctf",)

    def __init__(self, job: Job) -> None:
        """Name the map."""
        self.folder = Path(job.folder)
        self.map = self.folder / f"relion{len(self.options)}.mrc"

    def run(self) -> Path:
        """Run the program, which reads the images and writes the map."""
        command = ["relion_reconstruct", "--i", STAR, "--o", self.map.name, *self.options]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            said = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
            raise RuntimeError(f"relion_reconstruct ended with {done.returncode}: {' '.join(said[-3:])}")
        return self.map

    def check(self, result: Path) -> Numbers:
        """Its map against the truth."""
        from dcryo.bench import particles, truth
        from dcryo.io.mrc import read_volume

        return truth.map_errors(read_volume(result)[0], particles.particle_truth(str(self.folder)))


class SkipGridding(Default):
    """The same estimate as our linear map."""

    options = ("--ctf", "--skip_gridding")
