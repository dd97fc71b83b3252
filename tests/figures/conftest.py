"""A refinement that finds the true poses, for tests of what is made of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcryo.figures import joint_ways, relion
from dcryo.geometry.rotations import (
    matrix_to_quaternion,
    quaternion_to_matrix,
    rotation_vector_to_matrix,
)
from dcryo.io.particle_store import open_particles
from dcryo.io.run_store import RunStore, create_run, read_map
from dcryo.methods.reconstruct import reconstruct
from dcryo.methods.reconstruct_config import ReconstructConfig
from dcryo.methods.refine_config import RefineConfig

Install = Callable[..., None]

FRAME = rotation_vector_to_matrix(np.array([0.1, -0.2, 0.15]))
"""The found poses A are those of a specimen that is turned by this: A FRAME are near the true ones."""


@pytest.fixture(scope="session")
def install_refinement() -> Install:
    """Put a refinement in the place of dcryo's, and RELION out of the way.

    Its iterations find the true poses but for random turns, normal about each axis with the standard
    deviations ``errors`` [rad], in a frame that is turned.
    """

    def install(patch: pytest.MonkeyPatch, errors: tuple[float, ...] = (0.3, 0.02)) -> None:
        def refine(particles: str, run: str, config: RefineConfig, **how: Any) -> RunStore:
            store = open_particles(particles)
            true = open_particles(Path(particles).with_name("true.zarr")).particles()
            known = quaternion_to_matrix(true.rotation)
            rng = np.random.default_rng(0)
            made = create_run(
                run, "refine",
                {"particles": store.url, "particles_digest": store.digest, "halves": "auto"},
            )  # fmt: skip
            begun = store.particles()
            made.write_poses(0, {"rotation": begun.rotation, "shift": begun.shift})
            for iteration, error in enumerate(errors, start=1):
                turn = rotation_vector_to_matrix(rng.normal(0, error, (len(known), 3)))
                pose = matrix_to_quaternion(known @ turn @ FRAME.T)
                made.write_poses(iteration, {"rotation": pose, "shift": true.shift})
            maps = reconstruct(particles, f"{run}.maps", ReconstructConfig(poses=run, weight=1.0))
            for name in ("full", "linear1", "linear2"):
                made.write_volume(name, *maps.volume(name))
            assert config.initial is not None
            made.write_volume("start", *read_map(config.initial))
            made.finish(maps.attributes["result"])
            return made

        patch.setattr(joint_ways, "refine", refine)
        patch.setattr(relion, "missing", lambda: "RELION is out of the way")

    return install
