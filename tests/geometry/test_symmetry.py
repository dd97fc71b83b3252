"""Point groups: the group axioms, the axes RELION prints, and RELION itself where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dcryo.errors import InputError
from dcryo.geometry import geodesic_distance, point_group

ORDERS = {
    "C1": 1, "C2": 2, "C3": 3, "C7": 7, "C17": 17, "D1": 2, "D2": 4, "D3": 6, "D7": 14, "D12": 24,
    "T": 12, "O": 24, "I": 60, "I1": 60, "I2": 60, "I3": 60, "I4": 60,
}  # fmt: skip

# Axis and angle (degrees) of some of the operators that relion_refine 3.1.3 --print_symmetry_ops lists, the
# axes to three decimals.
RELION_AXES = {
    "C3": [((0, 0, 1), 120)],
    "D3": [((0, 0, 1), 120), ((1, 0, 0), 180), ((0.5, 0.866, 0), 180)],
    "D4": [((0, 0, 1), 90), ((1, 0, 0), 180), ((0.707, 0.707, 0), 180)],
    "T": [
        ((0, 0, 1), 120),
        ((0, 0.943, -0.333), 120),
        ((0.816, 0.471, 0.333), 120),
        ((0, 0.816, 0.577), 180),
    ],
    "O": [((0, 0, 1), 90), ((1, 0, 0), 90), ((0.577, 0.577, 0.577), 120), ((0.707, 0, 0.707), 180)],
    "I": [((0, 0, 1), 180), ((0.526, 0, 0.851), 72), ((0, 0.851, 0.526), 72), ((0, 0.357, 0.934), 120)],
    "I1": [((0, 0, 1), 180), ((0.851, 0, 0.526), 72), ((0, 0.526, 0.851), 72), ((0.357, 0, 0.934), 120)],
    "I2": [((0, 0, 1), 180), ((0.526, 0, 0.851), 72), ((0, 0.851, 0.526), 72), ((0, 0.357, 0.934), 120)],
    "I3": [((0, 0, 1), 72), ((0, 1, 0), 180), ((0.894, 0, -0.447), 72), ((0.607, 0, 0.795), 120)],
    "I4": [((0, 0, 1), 72), ((0, 1, 0), 180), ((0.894, 0, 0.447), 72), ((0.607, 0, -0.795), 120)],
}


def distance_of_sets(a: np.ndarray, b: np.ndarray) -> float:
    """Largest entry by which two sets of matrices of one size differ, each matched to its nearest."""
    apart = np.abs(a[:, None] - b[None]).max(axis=(-2, -1))
    assert len(set(apart.argmin(axis=1))) == len(a) == len(b)
    return float(apart.min(axis=1).max())


@pytest.mark.parametrize("name", ORDERS)
def test_group_axioms(name: str) -> None:
    group = point_group(name)
    assert group.shape == (ORDERS[name], 3, 3)
    np.testing.assert_array_equal(group[0], np.eye(3))
    # Products of at most a dozen rotations, each with entries good to 1e-15.
    np.testing.assert_allclose(
        group @ np.swapaxes(group, 1, 2), np.broadcast_to(np.eye(3), group.shape), atol=1e-13
    )
    np.testing.assert_allclose(np.linalg.det(group), 1, atol=1e-13)
    for element in group:  # closed, and every row of the multiplication table has each element once
        assert distance_of_sets(group @ element, group) < 1e-13


@pytest.mark.parametrize("name", RELION_AXES)
def test_axes_are_relions(name: str) -> None:
    group = point_group(name)
    for axis, angle in RELION_AXES[name]:
        expected = Rotation.from_rotvec(np.radians(angle) * np.array(axis) / np.linalg.norm(axis)).as_matrix()
        # Three decimals of the axis leave 1e-3 rad of direction, twice that in a half turn.
        assert geodesic_distance(group, expected).min() < 3e-3


def test_chiral_polyhedral_groups_are_scipys_up_to_the_frame() -> None:
    for name in ("T", "O", "I"):
        ours = np.sort(geodesic_distance(point_group(name), np.eye(3)))
        theirs = np.sort(Rotation.create_group(name).magnitude())
        np.testing.assert_allclose(ours, theirs, atol=1e-7)


def test_names_are_read_in_either_case_and_padded() -> None:
    np.testing.assert_array_equal(point_group(" d2 "), point_group("D2"))
    np.testing.assert_array_equal(point_group("c04"), point_group("C4"))
    np.testing.assert_array_equal(point_group("i"), point_group("I2"))


@pytest.mark.parametrize(
    "name", ["", "C", "C0", "C-2", "C100", "D", "X3", "I5", "IH", "Td", "C2v", "T2", "C²"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="is not a point group of rotations; use C1"):
        point_group(name)


@pytest.mark.parametrize("name", ORDERS)
def test_operators_are_those_relion_prints(name: str) -> None:
    program = shutil.which("relion_refine")
    if program is None:
        pytest.skip("RELION is not installed (relion_refine)")
    command = [program, "--sym", name, "--print_symmetry_ops", "--i", "none", "--o", "none"]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    blocks = re.findall(r"R\(\d+\)=[ ]*\n((?:[ ]*[-+.\de]+[ ]+[-+.\de]+[ ]+[-+.\de]+[ ]*\n){3})", printed)
    relion = np.array([block.split() for block in blocks], float).reshape(-1, 3, 3)
    # RELION's own axes have six decimals (T: 0.816496).
    assert distance_of_sets(point_group(name), relion) < 1e-5
