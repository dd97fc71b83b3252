"""Atomic models: a real tetramer with known symmetry, and scattering factors as printed."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import gemmi
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dcryo.errors import InputError
from dcryo.io.atoms import Atoms, atom_cloud, density, project_atoms, read_atoms

CARBON = "ATOM      1  CA  ALA A   1    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00           C\n"
CARBON_LINE = CARBON.format(x=1.0, y=2.0, z=3.0)


def atoms_of(*rows: tuple[str, float, float, float], bfactor: float = 0.0) -> Atoms:
    positions = np.array([row[1:] for row in rows])
    count = len(rows)
    return Atoms(positions, np.array([row[0] for row in rows]), np.full(count, bfactor), np.ones(count))


@pytest.fixture(scope="module")
def betagal(shared_data: Path) -> Atoms:
    return read_atoms(shared_data / "models" / "5a1a.pdb.gz")


def test_both_formats_hold_the_same_atoms(shared_data: Path, betagal: Atoms) -> None:
    cif = read_atoms(shared_data / "models" / "5a1a.cif.gz")
    assert len(betagal) == len(cif) == 33696
    np.testing.assert_array_equal(cif.positions, betagal.positions)
    np.testing.assert_array_equal(cif.elements, betagal.elements)
    np.testing.assert_array_equal(cif.bfactors, betagal.bfactors)
    np.testing.assert_array_equal(cif.occupancies, betagal.occupancies)


def test_density_of_a_d2_tetramer_has_its_symmetry(shared_data: Path, betagal: Atoms) -> None:
    # Rotations between the chains by superposition of their atoms, independent of the density.
    model = gemmi.read_structure(str(shared_data / "models" / "5a1a.pdb.gz"))[0]
    chains = {c.name: np.array([a.pos.tolist() for r in c.get_polymer() for a in r]) for c in model}
    centre = np.concatenate(list(chains.values())).mean(axis=0)
    n, pixel_size, resolution = 48, 4.5, 12.0
    matrix = Rotation.from_euler("zyz", [0.3, 0.9, -0.5]).as_matrix()
    shift = np.zeros((2, 2))
    pairs = [("A", "B"), ("A", "C"), ("A", "D")]
    for first, second in pairs:
        rotation, misfit = Rotation.align_vectors(chains[second] - centre, chains[first] - centre)
        assert rotation.magnitude() == pytest.approx(math.pi, abs=1e-4)
        assert misfit < 1.0
        same, turned = project_atoms(
            betagal, np.stack([matrix, matrix @ rotation.as_matrix()]), shift, n, pixel_size, resolution
        )
        # The model is exactly symmetric, waters included: float32 is left.
        assert np.abs(same - turned).max() < 1e-5 * same.max()


def test_total_scattering(betagal: Atoms) -> None:
    n, pixel_size = 32, 7.0
    volume = density(betagal, n, pixel_size, 20.0)
    # f(0) [Å] of table 4.3.1.1, not the Gaussian fits that the code uses.
    forward = {"C": 2.509, "N": 2.211, "O": 1.983, "S": 5.161, "Mg": 5.207, "Na": 4.778}
    expected = 47.878 * sum(forward[e] * int((betagal.elements == e).sum()) for e in forward)
    # The fits differ from it by up to half a percent at s = 0.
    assert volume.sum(dtype=np.float64) * pixel_size**3 == pytest.approx(expected, rel=5e-3)
    image = project_atoms(betagal, np.eye(3)[None], np.zeros((1, 2)), n, pixel_size, 20.0)
    assert image.sum(dtype=np.float64) == pytest.approx(volume.sum(dtype=np.float64), rel=1e-5)


def test_one_carbon_is_its_scattering_factor() -> None:
    # Coefficients of carbon in table 4.3.2.2, and at s = 0.2 1/Å with B = 30 Å^2 and 4 Å resolution.
    a = np.array([0.0893, 0.2563, 0.7570, 1.0487, 0.3575])
    b = np.array([0.2465, 1.7100, 6.4094, 18.6113, 50.2523])
    n, pixel_size, resolution = 40, 1.25, 4.0
    volume = density(atoms_of(("C", 3.0, 4.0, 5.0), bfactor=30.0), n, pixel_size, resolution)
    transform = np.fft.fftn(np.fft.ifftshift(volume))
    for k in (0, 1, 4, 8, 12):
        s = k / (n * pixel_size)
        expected = (
            47.878 * (a * np.exp(-b * s**2 / 4)).sum() * math.exp(-30 * s**2 / 4 - (s * resolution) ** 2)
        )
        expected /= pixel_size**3  # V Å^3 to V voxels
        for value in (transform[k, 0, 0], transform[0, k, 0], transform[0, 0, k]):
            assert value == pytest.approx(expected, abs=2e-5 * 47.878)  # float32 sums


def test_centre_of_mass_sits_on_the_centre_of_the_box() -> None:
    # An iron and a carbon 5 Å apart, far from the origin: 55.845 : 12.011.
    atoms = atoms_of(("Fe", 100.0, 7.0, -3.0), ("C", 105.0, 7.0, -3.0)).centred()
    np.testing.assert_allclose(atoms.positions[0], [-5 * 12.011 / (55.845 + 12.011), 0, 0], atol=1e-3)
    volume = density(atoms_of(("C", 9.0, 8.0, 7.0)), 15, 1.0, 3.0)
    assert np.unravel_index(volume.argmax(), volume.shape) == (7, 7, 7)


def test_axes_are_x_y_z_of_the_file() -> None:
    ends = [(4.0, 0.0, 0.0), (-4.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, -2.0, 0.0)]
    volume = density(atoms_of(*[("Au", *end) for end in ends]), 21, 1.0, 2.0)
    assert volume[10, 10, 14] > 0.9 * volume.max()
    assert volume[10, 12, 10] > 0.9 * volume.max()
    assert volume[14, 10, 10] < 0.1 * volume.max()


@pytest.mark.parametrize("name", ["model.pdb", "model.PDB", "model.pdb.gz"])
def test_plain_and_gzipped(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    data = (CARBON_LINE + "END\n").encode()
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    atoms = read_atoms(path)
    np.testing.assert_array_equal(atoms.positions, [[1, 2, 3]])
    assert atoms.elements.tolist() == ["C"]
    assert atoms.bfactors.tolist() == [20]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", CARBON_LINE, "must end in .pdb"),
        ("a.pdb", "nothing of the kind\n", "no atoms"),
        ("a.cif", "nothing of the kind\n", "cannot be read"),
        ("a.pdb.gz", "not compressed", "no atoms|cannot be read"),
        (
            "a.pdb",
            CARBON_LINE.replace("           C", "           X").replace(" CA ", " X  "),
            "no known element",
        ),
        ("a.pdb", CARBON_LINE.replace("  1.00 20", "  0.00 20"), "occupancies are zero"),
        ("a.pdb", CARBON_LINE.replace("   1.000", "     nan"), "not a number|cannot be read"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=message) as info:
        read_atoms(path)
    assert name in str(info.value)
    assert "\n" not in str(info.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_atoms(tmp_path / "absent.cif.gz")


def test_impossible_boxes_are_refused() -> None:
    atoms = atoms_of(("C", -30.0, 0.0, 0.0), ("C", 30.0, 0.0, 0.0))
    with pytest.raises(InputError, match="at least 64"):
        atom_cloud(atoms, 40, 1.0, 3.0)
    with pytest.raises(InputError, match="beyond what pixels"):
        atom_cloud(atoms, 80, 2.0, 3.0)
    with pytest.raises(InputError, match="must be positive"):
        atom_cloud(atoms, 80, 0.0, 3.0)
