"""RELION particle tables (STAR), versions 3.0 to 5, in and out.

What the versions differ in, and what becomes of it here:

==================  =================================  ==========================================
                    3.0                                3.1 and later
==================  =================================  ==========================================
tables              one, of any name                   ``optics`` and ``particles``, in any order
optics              in every row                       in the optics table, by ``rlnOpticsGroup``
pixel size          detector * 10^4 / magnification    ``rlnImagePixelSize``
shift               ``rlnOriginX`` in pixels           ``rlnOriginXAngst`` in Å
==================  =================================  ==========================================

Files that mix the two are read too: an optics column among the particles overrides the optics table.
Degrees, mm and mrad become rad, Å and rad; images are 1-based in the file; ``t = -(origin)``
(:mod:`dcryo.conventions`).  RELION's images have bright matter, so the contrast is +1.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import starfile
from numpy.typing import NDArray

from dcryo.errors import InputError
from dcryo.geometry.rotations import (
    euler_to_matrix,
    matrix_to_euler,
    matrix_to_quaternion,
    quaternion_to_matrix,
)
from dcryo.imaging.ctf import check_optics
from dcryo.imaging.particles import Optics, Particles
from dcryo.io.atomic import atomic_file
from dcryo.io.mrc import Stack
from dcryo.io.star_optics import optics_groups, refuse_unknown
from dcryo.io.star_tables import Tables, read_tables
from dcryo.io.table import ParticleTable, locate_stacks, open_stacks

Float64 = NDArray[np.float64]

FLOAT_FORMAT = "%.10g"
"""Ten digits: 1e-7 degrees, 1e-6 Å of defocus.  RELION reads exponents; its own files have six decimals."""


def read_particles_star(
    path: str | os.PathLike[str],
    *,
    datadir: str | os.PathLike[str] | None = None,
    pixel_size: float | None = None,
    ignore: Sequence[str] = (),
    no_ctf: bool = False,
    allow_outside: bool = False,
    images: bool = True,
) -> ParticleTable:
    """Read the particles of a RELION STAR file.

    Parameters
    ----------
    path : path
        ``run_data.star``, ``particles.star`` and the like, of RELION 3.0 to 5 or written for it.
    datadir : path, optional
        Folder that the image paths start from (see :mod:`dcryo.io.table`).
    pixel_size : float, optional
        Å; overrides the file.  Shifts keep their value in pixels, as the file's Å were made from them.
    ignore : sequence of str
        Columns to read as if they were not there.
    no_ctf : bool
        The images carry no CTF; CTF columns are neither needed nor used.
    allow_outside : bool
        Accept image paths that leave the project.
    images : bool
        False: tables only, no stack is looked for.

    Returns
    -------
    ParticleTable

    Raises
    ------
    InputError
        Anything that cannot be read or would have to be guessed, by file, column and row.
    """
    path = Path(path)
    tables = read_tables(path, ignore)
    refuse_unknown(tables)
    source, references = _image_names(tables)
    stacks: tuple[Stack, ...] = ()
    if images:
        paths = locate_stacks(references, path, datadir, allow_outside)
        stacks, remarks = open_stacks(paths, source, path)
        tables.notes.extend(remarks)
    group, optics, file_pixel = optics_groups(tables, pixel_size, no_ctf, stacks)
    used_pixel = np.array([o.pixel_size for o in optics])[group]
    micrograph, micrographs = _names(tables, "rlnMicrographName")
    particles = Particles.empty_columns(
        len(tables.rows),
        rotation=_rotation(tables),
        shift=_shift(tables, file_pixel, used_pixel),
        bfactor=tables.numbers("rlnCtfBfactor", 0.0),
        scale=tables.numbers("rlnCtfScalefactor", 1.0),
        half=_halves(tables),
        optics_group=group,
        optics=optics,
        micrograph=micrograph,
        micrographs=micrographs,
        source=source,
        sources=references,
        **({} if no_ctf else _defocus(tables)),
    )
    try:
        check_optics(particles)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return ParticleTable(particles, stacks, +1, tuple(tables.notes), tables.ignored)


def write_particles_star(
    path: str | os.PathLike[str], particles: Particles, image_names: Sequence[str], box: int
) -> Path:
    """Write particles as a STAR file of RELION 3.1, which every later version reads.

    Parameters
    ----------
    path : path
        The file appears whole or not at all.
    particles : Particles
        Written in the order given.  Orientations must be there for all particles or for none, in which
        case the three angles are left out.
    image_names : sequence of str
        ``NUMBER@STACK`` of every particle, numbers from 1.
    box : int
        Side of the images in pixels.

    Raises
    ------
    InputError
        Particles of which only some have an orientation.
    """
    lost = np.asarray(np.isnan(particles.rotation).any(axis=1))
    if lost.any() and not lost.all():
        raise InputError(
            f"{path}: {int(np.sum(lost)):,} of {len(particles):,} particles have no orientation; drop them"
        )
    columns: dict[str, Any] = {"rlnImageName": list(image_names)}
    if particles.micrographs and np.all(particles.micrograph >= 0):
        columns["rlnMicrographName"] = [particles.micrographs[i] for i in particles.micrograph]
    if not lost.any():
        angles = np.rad2deg(matrix_to_euler(quaternion_to_matrix(particles.rotation)))
        columns |= dict(zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), angles.T, strict=True))
    columns["rlnOriginXAngst"], columns["rlnOriginYAngst"] = -particles.shift.T
    if any(optics.ctf for optics in particles.optics):
        columns["rlnDefocusU"], columns["rlnDefocusV"] = particles.defocus[:, :2].T
        columns["rlnDefocusAngle"] = np.rad2deg(particles.defocus[:, 2])
        columns["rlnPhaseShift"] = np.rad2deg(particles.phase_shift)
        columns["rlnCtfBfactor"], columns["rlnCtfScalefactor"] = particles.bfactor, particles.scale
    columns["rlnOpticsGroup"] = particles.optics_group + 1
    if np.any(particles.half):
        columns["rlnRandomSubset"] = particles.half
    optics = pd.DataFrame([_optics_row(i, optics, box) for i, optics in enumerate(particles.optics, 1)])
    # RELION stops at an empty list, so a table without any aberration has no such column.
    empty = [name for name in ("rlnOddZernike", "rlnEvenZernike") if (optics[name] == "[]").all()]
    with atomic_file(path) as temporary:
        starfile.write(
            {"optics": optics.drop(columns=empty), "particles": pd.DataFrame(columns)},
            temporary,
            float_format=FLOAT_FORMAT,
        )
    return Path(path)


def _optics_row(number: int, optics: Optics, box: int) -> dict[str, Any]:
    """One line of an optics table, in RELION's units."""
    (m00, m01), (m10, m11) = optics.magnification
    return {
        "rlnOpticsGroup": number,
        "rlnOpticsGroupName": optics.name.replace(" ", "_"),
        "rlnVoltage": optics.voltage,
        "rlnSphericalAberration": optics.cs * 1e-7,
        "rlnAmplitudeContrast": optics.amplitude_contrast,
        "rlnImagePixelSize": optics.pixel_size,
        "rlnImageSize": box,
        "rlnImageDimensionality": 2,
        "rlnBeamTiltX": optics.beam_tilt[0] * 1e3,
        "rlnBeamTiltY": optics.beam_tilt[1] * 1e3,
        "rlnOddZernike": _bracketed(optics.odd_zernike),
        "rlnEvenZernike": _bracketed(optics.even_zernike),
        "rlnMagMat00": m00,
        "rlnMagMat01": m01,
        "rlnMagMat10": m10,
        "rlnMagMat11": m11,
        "rlnCtfDataAreCtfPremultiplied": int(optics.premultiplied),
        "rlnCtfDataArePhaseFlipped": int(optics.phase_flipped),
    }


def _bracketed(values: Sequence[float]) -> str:
    return f"[{','.join(f'{value:.12g}' for value in values)}]"


def _image_names(tables: Tables) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """(P, 2) index of the file and 0-based image in it, and the files as written."""
    parts = tables.rows["rlnImageName"].astype(str).str.partition("@")
    numbered = parts[1] == "@"
    # A name without a number is a file of one image.
    index = np.asarray(pd.to_numeric(parts[0].where(numbered, "1"), errors="coerce"), np.float64)
    bad = np.flatnonzero(~(index >= 1) | (index % 1 != 0))
    if len(bad):
        name = tables.rows["rlnImageName"].iloc[bad[0]]
        raise InputError(
            f"{tables.path}: rlnImageName of row {bad[0] + 1} is {name!r}; "
            "it must be NUMBER@STACK with numbers from 1"
        )
    codes, files = pd.factorize(parts[2].where(numbered, parts[0]))
    return np.stack([codes, index - 1], axis=1).astype(np.int64), tuple(map(str, files))


def _names(tables: Tables, column: str) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Index of each row's text in the list of distinct ones; -1 and an empty list without the column."""
    if column not in tables.rows:
        return np.full(len(tables.rows), -1, np.int32), ()
    codes, values = pd.factorize(tables.rows[column].astype(str))
    return codes.astype(np.int32), tuple(map(str, values))


def _rotation(tables: Tables) -> Float64:
    """(P, 4) quaternions; NaN when one of the three angles is missing."""
    names = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    missing = [name for name in names if name not in tables.rows]
    if missing:
        tables.notes.append(f"no orientations ({', '.join(missing)} missing)")
        return np.full((len(tables.rows), 4), np.nan)
    rot, tilt, psi = (np.deg2rad(tables.numbers(name)) for name in names)
    return np.asarray(matrix_to_quaternion(euler_to_matrix(rot, tilt, psi)), np.float64)


def _shift(tables: Tables, file_pixel: Float64, used_pixel: Float64) -> Float64:
    """(P, 2) shift t [Å] from origins in Å or in pixels; ``file_pixel`` is NaN where the file has none."""
    suffix, scale = "", used_pixel
    if "rlnOriginXAngst" in tables.rows or "rlnOriginYAngst" in tables.rows:
        # Written as pixels times the file's pixel size, so a corrected pixel size scales them.
        suffix, scale = "Angst", np.where(np.isnan(file_pixel), 1.0, used_pixel / file_pixel)
    x, y = (tables.numbers(f"rlnOrigin{axis}{suffix}", 0.0) for axis in "XY")
    return 0.0 - np.stack([x * scale, y * scale], axis=1)  # 0.0 - x and not -x: no -0


def _halves(tables: Tables) -> NDArray[np.int8]:
    """Half set of every row, 0 without the column."""
    if "rlnRandomSubset" not in tables.rows:
        return np.zeros(len(tables.rows), np.int8)
    values = tables.numbers("rlnRandomSubset")
    bad = np.flatnonzero(~np.isin(values, (1, 2)))
    if len(bad):
        raise InputError(
            f"{tables.path}: rlnRandomSubset of row {bad[0] + 1} is {values[bad[0]]:g}, not 1 or 2; "
            "give --ignore rlnRandomSubset to have the halves drawn at random"
        )
    return values.astype(np.int8)


def _defocus(tables: Tables) -> dict[str, Float64]:
    """Columns ``defocus`` (P, 3) in Å, Å, rad and ``phase_shift`` in rad."""
    u = tables.numbers("rlnDefocusU")
    v = tables.numbers("rlnDefocusV") if "rlnDefocusV" in tables.rows else u
    angle = np.deg2rad(tables.numbers("rlnDefocusAngle", 0.0))
    phase = np.deg2rad(tables.numbers("rlnPhaseShift", 0.0))
    return {"defocus": np.stack([u, v, angle], axis=1), "phase_shift": phase}
