"""Atomic models: PDB and mmCIF files, and the electrostatic potential that an electron sees of them.

An atom scatters electrons with the factor f(s) = sum_i a_i exp(-b_i s^2 / 4) [Å] at s = 1/d, five Gaussians
from table 4.3.2.2 of the International Tables for Crystallography, volume C (Peng et al. (1996) Acta Cryst. A
52, 257).  Its potential has the Fourier transform 47.878 V Å^2 f(s) exp(-B s^2 / 4).  A map of "resolution" d
is blurred by the Gaussian whose transform is 1/e at s = 1/d.  All of this stays a sum of Gaussians, so that
map and projections are exact (:mod:`dcryo.imaging.phantom`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dcryo.errors import InputError
from dcryo.imaging.phantom import Cloud, project_gaussians, rasterise

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

POTENTIAL = 47.878009
"""h^2 / (2 pi m e) [V Å^2]: Fourier transform of the potential over the electron scattering factor."""

SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif", ".pdb.gz", ".ent.gz", ".cif.gz", ".mmcif.gz")


@dataclass(frozen=True)
class Atoms:
    """Atoms of a model, N rows.

    ``positions`` (N, 3) x, y, z [Å]; ``elements`` (N,) symbols; ``bfactors`` (N,) isotropic [Å^2];
    ``occupancies`` (N,) between 0 and 1.
    """

    positions: Float64
    elements: NDArray[np.str_]
    bfactors: Float64
    occupancies: Float64

    def __len__(self) -> int:
        return len(self.positions)

    def centred(self) -> Atoms:
        """The same atoms with their centre of mass in the origin."""
        symbols, kind = np.unique(self.elements, return_inverse=True)
        weight = np.array([gemmi.Element(str(symbol)).weight for symbol in symbols])[kind] * self.occupancies
        return replace(self, positions=self.positions - np.average(self.positions, axis=0, weights=weight))


def read_atoms(path: str | Path) -> Atoms:
    """Read the first model of a PDB or mmCIF file, plain or gzipped.

    All atoms are taken, waters and ligands too; alternative conformations carry their occupancies.

    Raises
    ------
    InputError
        If the file is missing, is not such a file, or holds no atoms, unknown elements or values that are not
        finite.
    """
    path = Path(path)
    if not path.name.lower().endswith(SUFFIXES):
        raise InputError(
            f"{path}: an atomic model must end in .pdb, .ent, .cif or .mmcif, with or without .gz"
        )
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the path of a PDB or mmCIF file")
    try:
        structure = gemmi.read_structure(str(path))
    except (OSError, RuntimeError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"{path}: cannot be read as PDB or mmCIF ({reason}); download it again") from error
    atoms = [site.atom for site in structure[0].all()] if len(structure) else []
    if not atoms:
        raise InputError(f"{path}: holds no atoms; give a PDB or mmCIF file with coordinates")
    # An element that gemmi does not know is named X; it has no scattering factor.
    elements = np.array([atom.element.name for atom in atoms])
    unknown = np.flatnonzero(elements == "X")
    if len(unknown):
        atom = atoms[unknown[0]]
        raise InputError(
            f"{path}: atom {atom.serial} ({atom.name}) has no known element; correct its element column"
        )
    positions = np.array([atom.pos.tolist() for atom in atoms])
    bfactors = np.array([atom.b_iso for atom in atoms])
    occupancies = np.array([atom.occ for atom in atoms])
    values = np.column_stack([positions, bfactors, occupancies])
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise InputError(
            f"{path}: atom {atoms[bad[0]].serial} has a coordinate, B factor or occupancy that is not a "
            "number; correct or remove it"
        )
    if not occupancies.sum() > 0:
        raise InputError(f"{path}: all occupancies are zero; set them to 1")
    return Atoms(positions, elements, bfactors, occupancies)


def atom_cloud(atoms: Atoms, n: int, pixel_size: float, resolution: float) -> Cloud:
    """Atoms as a cloud of Gaussians in the box, the centre of mass in its centre.

    Parameters
    ----------
    atoms : Atoms
        In any position.
    n : int
        Box [voxels]; the model must fit in it whatever its orientation.
    pixel_size : float
        Å per voxel.
    resolution : float
        Å; at least twice the pixel size.  Negative B factors count as zero.

    Returns
    -------
    Cloud
        In voxels; its volume is the potential in V, its projections are in V voxel.

    Raises
    ------
    InputError
        If the model does not fit in the box, or the resolution is beyond Nyquist.
    """
    if not pixel_size > 0:
        raise InputError(f"pixel size {pixel_size} Å must be positive")
    if not resolution >= 2 * pixel_size * (1 - 1e-6):
        raise InputError(
            f"resolution {resolution:g} Å is beyond what pixels of {pixel_size:g} Å hold; give at least "
            f"{2 * pixel_size:g} Å"
        )
    positions = atoms.centred().positions
    reach = float(np.linalg.norm(positions, axis=1).max())
    if reach > n / 2 * pixel_size:
        raise InputError(
            f"box of {n} pixels of {pixel_size:g} Å is too small for a model that reaches {reach:.0f} Å from "
            f"its centre; give a box of at least {2 * math.ceil(reach / pixel_size) + 4}"
        )
    symbols, kind = np.unique(atoms.elements, return_inverse=True)
    forms = np.array([_form(str(symbol)) for symbol in symbols])
    forms[..., 1] /= pixel_size
    # exp(-B s^2 / 4) and the blur are Gaussians of these variances in space; they add.
    variance = np.maximum(atoms.bfactors, 0) / (8 * math.pi**2) + resolution**2 / (2 * math.pi**2)
    mass = POTENTIAL / pixel_size**3 * atoms.occupancies
    return Cloud(positions / pixel_size, mass, np.sqrt(variance) / pixel_size, kind.astype(np.intp), forms)


def density(atoms: Atoms, n: int, pixel_size: float, resolution: float) -> Float32:
    """Potential [V] of the atoms on (n, n, n) voxels [z, y, x]; parameters as in :func:`atom_cloud`."""
    return rasterise(atom_cloud(atoms, n, pixel_size, resolution), n)


def project_atoms(
    atoms: Atoms, rotation: ArrayLike, shift: ArrayLike, n: int, pixel_size: float, resolution: float
) -> Float32:
    """Projections (P, n, n) [V voxel] of the atoms without any grid.

    ``rotation`` (P, 3, 3) are pose matrices A and ``shift`` (P, 2) the image shifts t [pixels]; the rest is
    as in :func:`atom_cloud`.
    """
    return project_gaussians(atom_cloud(atoms, n, pixel_size, resolution), rotation, shift, n)


def _form(symbol: str) -> list[list[float]]:
    """Weights [Å] and widths [Å] of the five Gaussians of an element."""
    coefficients: Any = gemmi.Element(symbol).c4322
    return [[a, math.sqrt(b / (8 * math.pi**2))] for a, b in zip(coefficients.a, coefficients.b, strict=True)]
