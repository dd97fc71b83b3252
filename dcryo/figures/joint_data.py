"""Data for joint refinement: views with poses that are wrong, or with none, and a map that is too coarse.

What is to be refined goes the way of a user's data: exported as a STAR file, which dcryo and RELION read, so
that nothing of the truth is in what they are given but the starting map.

Views are made as ``dcryo simulate`` makes them: projections of Gaussians are analytic, those of a map are
interpolated by splines from a finer lattice; neither is what reconstructs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dcryo.figures.class_averages import perturbed
from dcryo.figures.experiment import Setting
from dcryo.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix
from dcryo.imaging.radial import filtered, low_pass
from dcryo.io.mrc import write_volume
from dcryo.io.particle_store import ParticleStore
from dcryo.io.star import read_particles_star, write_particles_star
from dcryo.methods.export import ExportConfig, export
from dcryo.methods.ingest import IngestConfig, ingest
from dcryo.methods.simulate import SimulateConfig, simulate, specimen_of

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

ANGLES = 2
"""What the random numbers of this module are for; the second entry of their seed."""

ROOM = 1.1
"""Diameter of RELION's mask in that of the specimen."""

WIDEST = 0.93
"""The same in boxes, at most."""


@dataclass(frozen=True)
class Case:
    """A specimen, how it is seen, and what a refinement is given to begin with.

    Attributes
    ----------
    name : str
        Of the specimen.
    phantom : str
        Of ``dcryo simulate``; not used where a map is given.
    box, views : int
        Pixels, and number of images.
    pixel_size : float
        Å.
    snr_db : float
        10 log10 of the signal to noise ratio per pixel.
    snr_definition : {"variance", "power"}
        What the signal is: the variance of the clean images, or their mean square (the thesis).
    max_shift : float
        Pixels; shifts are uniform between minus and plus this, and unknown.
    euler_error : float or None
        rad; every Euler angle begins with an error uniform between minus and plus this.  None: without poses.
    start_cutoff : float
        1/Å; the starting map is the true one up to here, and nothing from 1.25 times this on, with a cosine
        in between.
    ctf : bool
    """

    name: str
    phantom: str
    box: int
    views: int
    pixel_size: float
    snr_db: float
    max_shift: float
    euler_error: float | None
    start_cutoff: float
    snr_definition: Literal["variance", "power"] = "power"
    ctf: bool = False


HJC = Case("HJC", "protein:1", 90, 500, 2.867, -0.57, 3.0, 0.7, 0.02)
PTCH1 = Case("PTCH1", "protein:2", 84, 500, 1.8, 3.578, 0.0, 0.7, 0.03)
"""The specimens of the thesis' proof of concept, with phantoms in place of their maps."""


def smaller(case: Case, box: int, views: int) -> Case:
    """A case on fewer pixels over the same field of view, at the same dose.

    Larger pixels average more noise: the signal to noise ratio of one grows as their area, and that of a view
    up to the new Nyquist frequency is what it was.
    """
    factor = case.box / box
    snr_db = case.snr_db + 20 * math.log10(factor)
    return replace(case, box=box, views=views, pixel_size=case.pixel_size * factor, snr_db=snr_db)


@dataclass(frozen=True)
class Data:
    """A case as files: what is known of it, and what a refinement is given.

    Attributes
    ----------
    true : ParticleStore
        Images with the true poses.
    start : ParticleStore
        The same images in the same order, ingested from ``star``, with the poses to begin with.
    star, initial : Path
        For other programs: particles with those poses, and the starting map.
    truth : (n, n, n) float32
    diameter : float
        Å, of a ball that holds the specimen with room to spare.
    """

    case: Case
    folder: Path
    true: ParticleStore
    start: ParticleStore
    star: Path
    initial: Path
    truth: Float32
    diameter: float

    @property
    def frequency(self) -> Float64:
        """Of the shells, 1/Å."""
        return np.arange(self.true.box // 2 + 1) / (self.true.box * self.true.pixel_size)


def make_data(case: Case, setting: Setting, seed: int, map_path: str | None = None) -> Data:
    """Simulate a case into a folder of its own within the scratch folder.

    ``map_path`` names a density map to take instead of the phantom, in the box and with the pixel size of the
    case.
    """
    folder = setting.scratch / f"{case.name}-{seed}".replace(" ", "-")
    folder.mkdir()
    config = SimulateConfig(
        phantom=None if map_path else case.phantom,
        map=map_path,
        box=case.box,
        pixel_size=case.pixel_size,
        particles=case.views,
        snr=10 ** (case.snr_db / 10),
        snr_definition=case.snr_definition,
        max_shift=case.max_shift,
        seed=seed,
    )
    if not case.ctf:
        config = replace(config, defocus=None)
    true = simulate(str(folder / "true.zarr"), config, progress=setting.progress)
    truth = true.truth()
    assert truth is not None  # a simulated store has one
    star = _write_start(true, case, folder, seed)
    field = case.box * case.pixel_size
    coarse = low_passed(truth, case.start_cutoff * field)
    initial = write_volume(folder / "initial.mrc", coarse, case.pixel_size)
    start = ingest(star, str(folder / "start.zarr"), IngestConfig(no_ctf=not case.ctf, contrast="keep"))
    diameter = min(2 * ROOM * specimen_of(config).radius, WIDEST * field)
    return Data(case, folder, true, start, star, initial, truth, diameter)


def low_passed(volume: Float32, shell: float) -> Float32:
    """A map up to ``shell`` Fourier voxels, falling as a cosine to zero at 1.25 times that."""
    return filtered(volume, low_pass(1.125 * shell, 0.25 * shell))


def _write_start(true: ParticleStore, case: Case, folder: Path, seed: int) -> Path:
    """The particles as a STAR file with the poses to begin with, and their images beside it."""
    exact = export(true.url, folder / "true.star", ExportConfig(beside=True))
    particles = read_particles_star(exact, images=False, no_ctf=not case.ctf).particles
    if case.euler_error is None:
        rotation = np.full((len(particles), 4), np.nan)
    else:
        rng = np.random.default_rng([seed, ANGLES])
        error = rng.uniform(-case.euler_error, case.euler_error, (len(particles), 3))
        rotation = matrix_to_quaternion(perturbed(quaternion_to_matrix(particles.rotation), error))
    begun = replace(particles, rotation=rotation, shift=np.zeros_like(particles.shift))
    names = [f"{image + 1:06d}@{particles.sources[stack]}" for stack, image in particles.source]
    return write_particles_star(folder / "start.star", begun, names, case.box)
