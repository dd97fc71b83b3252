"""A whole reconstruction on a GPU: the maps of the CPU, and nothing on the device at the end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import oracle
import pytest
from equations import relative
from gpu.backend import need_a_device

from dcryo.errors import InputError
from dcryo.io.particle_store import create_particles
from dcryo.methods.reconstruct import ReconstructConfig, reconstruct

need_a_device()

pytestmark = pytest.mark.gpu

BOX, COUNT = 8, 8


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Particles of a blob in noise, in two half sets."""
    particles = oracle.example(COUNT, 3)
    particles.half[:] = np.repeat([1, 2], COUNT // 2)
    clean = oracle.projected(particles, BOX, detector=1).apply(oracle.blob(BOX))
    images = (clean + 0.1 * oracle.noise(clean.shape, 4)).astype(np.float32)
    path = tmp_path_factory.mktemp("gpu") / "particles.zarr"
    with create_particles(path, particles, BOX, oracle.PIXEL, provenance={}) as writer:
        writer.append(images)
    return str(path)


@pytest.mark.parametrize("prior", ["tv", "none"])
def test_maps_are_those_of_the_cpu(prior: str, store: str, tmp_path: Path) -> None:
    config = ReconstructConfig(prior=prior, weight=0.7, nonnegative=True, iterations=1)
    runs = [
        reconstruct(store, str(tmp_path / device), config, threads=1, device=device)
        for device in ("cpu", "cuda")
    ]
    assert runs[0].volumes() == runs[1].volumes() != []
    for name in runs[0].volumes():
        expected, found = (np.asarray(run.volume(name)[0]) for run in runs)
        # sums agree to 1e-5; conjugate gradients carry it on, in as many steps
        assert relative(found, expected) < 1e-4, name


def test_a_box_too_large_for_the_gpu_is_refused(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cupy

    pool = SimpleNamespace(free_bytes=lambda: 500)
    monkeypatch.setattr(cupy, "get_default_memory_pool", lambda: pool)
    monkeypatch.setattr(cupy.cuda.runtime, "memGetInfo", lambda: (1000, 2000))
    with pytest.raises(InputError, match="GB of memory are needed on the GPU"):
        reconstruct(store, str(tmp_path / "run"), ReconstructConfig(weight=0.7), threads=1, device="cuda")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("settings", [{"prior": "haar"}, {"accuracy": "reference"}])
def test_what_the_gpu_cannot_do_is_refused_at_once(
    settings: dict[str, str], store: str, tmp_path: Path
) -> None:
    config = ReconstructConfig(weight=0.7, **settings)
    with pytest.raises(InputError, match="has no GPU"):
        reconstruct(store, str(tmp_path / "run"), config, device="cuda")
    assert not (tmp_path / "run").exists()
