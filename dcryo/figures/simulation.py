"""Views of a specimen for an experiment, made as ``dcryo simulate`` makes them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dcryo.figures.experiment import Setting
from dcryo.io.atoms import read_atoms
from dcryo.io.mrc import write_volume
from dcryo.io.particle_store import ParticleStore
from dcryo.methods.simulate import SimulateConfig, simulate
from dcryo.methods.specimen import FILL, CloudSpecimen, atomic_model


def model_in_box(path: str, box: int, symmetry: str) -> CloudSpecimen:
    """An atomic model that fills a box as phantoms do, turned into the frame of its point group.

    Raises
    ------
    InputError
        If the model cannot be read or lacks the symmetry.
    """
    radius = float(np.linalg.norm(read_atoms(path).centred().positions, axis=1).max())
    return atomic_model(path, box, radius / (FILL * box), None, symmetry)


def simulated(
    setting: Setting, config: SimulateConfig, specimen: CloudSpecimen | None = None
) -> ParticleStore:
    """A store of views as ``config`` describes them, with the seed of the setting.

    With ``specimen`` they are views of that instead.  It is taken as a map, whose Fourier transform is
    interpolated by splines on a lattice of twice the fineness: nothing that reconstructs knows of that, and
    it takes no longer for a model of many atoms.
    """
    name = f"{config.box}-{config.particles}"
    config = replace(config, seed=setting.seed)
    if specimen is not None:
        path = write_volume(setting.scratch / f"{name}.mrc", specimen.volume(), specimen.pixel_size)
        config = replace(config, phantom=None, map=str(path), pixel_size=specimen.pixel_size)
    return simulate(str(setting.scratch / f"{name}.zarr"), config, progress=setting.progress)
