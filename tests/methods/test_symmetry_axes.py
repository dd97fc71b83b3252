"""The axes of a symmetric model are found from any orientation, and a model without them is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from dcryo.errors import InputError
from dcryo.geometry.rotations import random_rotations
from dcryo.geometry.symmetry import point_group
from dcryo.imaging.phantom import gaussian_cloud
from dcryo.io.atoms import read_atoms
from dcryo.methods.symmetry_axes import align_to_symmetry


def asymmetry(points: np.ndarray, symmetry: str) -> float:
    """Largest distance of an image of a point from the nearest point, over the group."""
    tree = cKDTree(points)
    return max(float(tree.query(points @ g.T)[0].max()) for g in point_group(symmetry))


@pytest.mark.parametrize("symmetry", ["C2", "C5", "D2", "D3", "T", "O"])
def test_turned_model_is_turned_back(symmetry: str) -> None:
    rng = np.random.default_rng(7)
    unit = gaussian_cloud(3, 25, 20.0).centers + np.array([25.0, 8.0, 14.0])
    model = np.einsum("gij,pj->gpi", point_group(symmetry), unit).reshape(-1, 3)
    # Models of cyclic groups come with their centre of mass in the origin.
    model -= model.mean(axis=0)
    turned = model @ random_rotations(1, rng)[0].T
    rotation = align_to_symmetry(turned, symmetry, "model")
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-10)
    assert np.linalg.det(rotation) > 0
    # The construction is exact: what is left is rounding.
    assert asymmetry(turned @ rotation.T, symmetry) < 1e-8


def test_asymmetric_model_is_refused() -> None:
    with pytest.raises(InputError, match="does not have the symmetry D2"):
        align_to_symmetry(gaussian_cloud(3, 100, 30.0).centers, "D2", "model.pdb")


def test_wrong_order_is_refused() -> None:
    unit = gaussian_cloud(3, 30, 20.0).centers + np.array([30.0, 5.0, 0.0])
    model = np.einsum("gij,pj->gpi", point_group("C5"), unit).reshape(-1, 3)
    with pytest.raises(InputError, match="does not have the symmetry C3"):
        align_to_symmetry(model - model.mean(axis=0), "C3", "model.pdb")


def test_no_symmetry_needs_no_turn() -> None:
    assert np.array_equal(align_to_symmetry(np.ones((4, 3)), "C1", "model"), np.eye(3))


def test_beta_galactosidase_has_d2(shared_data: Path) -> None:
    # Four chains by exact rotations of 180 degrees (RMSD 2e-13), in PDB's own frame.
    atoms = read_atoms(shared_data / "models" / "5a1a.cif.gz").centred()
    rotation = align_to_symmetry(atoms.positions, "D2", "5a1a")
    assert asymmetry(atoms.positions @ rotation.T, "D2") < 1e-6
