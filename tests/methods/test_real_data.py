"""A real data set with working poses: sub-tilts of ribosomes, reconstructed from even and from odd rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dcryo.io.particle_store import create_particles, open_particles
from dcryo.methods.ingest import IngestConfig, ingest
from dcryo.methods.reconstruct import ReconstructConfig, reconstruct

# FSC per shell of another program's CTF-weighted maps of the same halves, and with shuffled poses; two
# programs weight and interpolate differently, which moves a shell by up to 0.03.
SHELLS = slice(1, 10)
KNOWN = np.array([0.97, 0.93, 0.89, 0.82, 0.62, 0.59, 0.50, 0.51, 0.47])
ALLOWED = 0.03
LINEAR = ReconstructConfig(halves="even-odd", prior="none")


@pytest.fixture(scope="module")
def particles(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("ribosome") / "particles.zarr")
    star = shared_data / "particles" / "ribosome_tilts" / "sta_testing_bin8.star"
    ingest(star, out, IngestConfig(pixel_size=14.56))
    return out


def test_even_and_odd_rows_agree_as_another_program_found(particles: str, tmp_path: Path) -> None:
    run = reconstruct(particles, str(tmp_path / "run.zarr"), LINEAR)
    fsc = run.table("fsc")["unmasked"][SHELLS]
    assert np.all(fsc >= KNOWN - ALLOWED), fsc.round(3)


def test_shuffled_poses_do_not(particles: str, tmp_path: Path) -> None:
    store = open_particles(particles)
    table = store.particles()
    order = np.random.default_rng(0).permutation(len(table))
    shuffled = replace(table, rotation=table.rotation[order], shift=table.shift[order])
    out = str(tmp_path / "shuffled.zarr")
    with create_particles(out, shuffled, store.box, store.pixel_size, provenance={}) as writer:
        writer.append(store.images(0, store.count))
        writer.set_noise(np.array([optics.noise for optics in store.optics]))
    fsc = reconstruct(out, str(tmp_path / "run.zarr"), LINEAR).table("fsc")["unmasked"][SHELLS]
    # beyond the shells that only show that there is a particle in the middle
    assert np.all(fsc[3:] < KNOWN[3:] - 0.2), fsc.round(3)
