"""Views of an experiment's specimen: a model fills its box, and the views are its projections."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from dcryo.errors import InputError
from dcryo.figures.experiment import Setting
from dcryo.figures.simulation import model_in_box, simulated
from dcryo.geometry.rotations import quaternion_to_matrix
from dcryo.imaging.phantom import project_gaussians
from dcryo.methods.progress import Silent
from dcryo.methods.simulate import SimulateConfig
from dcryo.methods.specimen import FILL, phantom

ATOM = "ATOM  {0:5d}  CA  ALA A{0:4d}    {1:8.3f}{2:8.3f}{3:8.3f}  1.00 20.00           C\n"


def setting(folder: Path, seed: int = 0) -> Setting:
    return Setting(False, seed, 1, Silent(), folder)


def write_model(path: Path, positions: np.ndarray) -> str:
    path.write_text("".join(ATOM.format(i + 1, *p) for i, p in enumerate(positions)) + "END\n")
    return str(path)


def test_a_model_fills_the_box(tmp_path: Path) -> None:
    corners = 20.0 * np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    specimen = model_in_box(write_model(tmp_path / "cube.pdb", corners + 100), 32, "C1")
    assert specimen.radius == pytest.approx(20 * math.sqrt(3), rel=1e-3)
    assert specimen.pixel_size * 32 * FILL == pytest.approx(specimen.radius, rel=1e-6)


def test_a_model_without_the_symmetry_is_refused(tmp_path: Path) -> None:
    positions = np.random.default_rng(0).uniform(-20, 20, (60, 3)) * np.array([1.0, 0.6, 0.3])
    with pytest.raises(InputError, match=r"model\.pdb: the model does not have the symmetry D7"):
        model_in_box(write_model(tmp_path / "model.pdb", positions), 32, "D7")


def test_views_of_a_specimen_are_its_projections(tmp_path: Path) -> None:
    specimen = phantom("cloud:3", 24, 2.5)
    config = SimulateConfig(box=24, particles=6, snr=math.inf, defocus=None, max_shift=0.0)
    store = simulated(setting(tmp_path), config, specimen)
    assert (store.box, store.count, store.pixel_size) == (24, 6, pytest.approx(2.5))
    rotation = quaternion_to_matrix(store.particles().rotation)
    wanted = project_gaussians(specimen.cloud, rotation, np.zeros((6, 2)), 24)
    truth = store.truth()
    assert truth is not None
    scale = truth.max() / specimen.volume().max()
    # 2e-3 of a map's norm by the splines, more where the soft ball ends, which holds 0.45 boxes
    error = store.images(0, 6) - scale * wanted
    assert np.linalg.norm(error) < 5e-3 * scale * np.linalg.norm(wanted)


def test_the_seed_of_the_setting_decides(tmp_path: Path) -> None:
    config = SimulateConfig(box=16, particles=3, seed=5)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = simulated(setting(tmp_path / "a", seed=1), config)
    two = simulated(setting(tmp_path / "b", seed=2), config)
    assert one.attributes["provenance"]["config"]["seed"] == 1
    assert np.abs(one.images(0, 3) - two.images(0, 3)).max() > 0.1
