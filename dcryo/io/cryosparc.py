"""cryoSPARC particle tables (``.cs``): numpy structured arrays, read without pickle.

What the fields mean in the conventions of this package; the reading of pose, shift and half set is that
of pyem's csparc2star, by which such files have been taken to RELION for years, and the matrices are tested
against those of another reader:

- ``alignments3D/pose`` is a rotation vector whose matrix is the *transpose* of A;
- ``alignments3D/shift``, in pixels of ``alignments3D/psize_A``, is RELION's origin, so t is minus that;
- ``alignments3D/split`` 0, 1 are the half sets 1, 2; one value throughout means that there are none;
- ``blob/idx`` counts from 0, ``blob/path`` may begin with ``>`` and starts from the project folder;
- ``blob/sign`` is -1 where matter is dark in the images.

Aberrations beyond Cs (``ctf/tilt_A`` and its like) are stored in a normalisation that no public document
gives; one that is not zero stops the reading by its name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.errors import InputError
from dcryo.geometry.rotations import matrix_to_quaternion, rotation_vector_to_matrix
from dcryo.imaging.ctf import check_optics
from dcryo.imaging.particles import Optics, Particles
from dcryo.io.mrc import Stack
from dcryo.io.table import ParticleTable, check_group_count, locate_stacks, open_stacks

Fields = dict[str, NDArray[Any]]

CTF_NEEDED = ("ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast", "ctf/df1_A", "ctf/df2_A", "ctf/df_angle_rad")
NOT_MODELLED = ("ctf/shift_A", "ctf/tilt_A", "ctf/trefoil_A", "ctf/tetra_A", "ctf/anisomag", "ctf/bfactor")
"""Fields that must be zero, or ignored by name."""
GROUPED_BY = ("ctf/exp_group_id", "ctf/accel_kv", "ctf/cs_mm", "ctf/amp_contrast", "blob/psize_A")


def read_particles_cs(
    path: str | os.PathLike[str],
    *,
    passthrough: Sequence[str | os.PathLike[str]] = (),
    datadir: str | os.PathLike[str] | None = None,
    pixel_size: float | None = None,
    ignore: Sequence[str] = (),
    no_ctf: bool = False,
    allow_outside: bool = False,
    images: bool = True,
) -> ParticleTable:
    """Read the particles of a cryoSPARC job.

    Parameters
    ----------
    path : path
        ``cryosparc_P1_J2_..._particles.cs``.
    passthrough : sequence of path
        ``..._passthrough_particles.cs``: fields that ``path`` does not have, joined by ``uid``.
    datadir : path, optional
        The project folder, which the image paths start from (see :mod:`dcryo.io.table`).
    pixel_size : float, optional
        Å; overrides the file.  Shifts keep their value in pixels.
    ignore : sequence of str
        Fields to read as if they were not there.
    no_ctf : bool
        The images carry no CTF.
    allow_outside : bool
        Accept image paths that leave the project.
    images : bool
        False: the table only, no stack is looked for.

    Returns
    -------
    ParticleTable

    Raises
    ------
    InputError
        Anything that cannot be read or would have to be guessed, by file and field.
    """
    path = Path(path)
    fields = _load(path)
    for other in passthrough:
        _join(fields, path, Path(other))
    ignored = tuple(name for name in ignore if fields.pop(name, None) is not None)
    _refuse(fields, path)
    count = len(fields["uid"])
    notes: list[str] = []

    needed = ("blob/path", "blob/idx", "blob/psize_A", *(() if no_ctf else CTF_NEEDED))
    missing = [name for name in needed if name not in fields]
    if missing:
        remedy = "give the file that has them as --passthrough"
        if all(name.startswith("ctf/") for name in missing):
            remedy += ", or --no-ctf if the images carry no CTF"
        raise InputError(f"{path}: fields {', '.join(missing)} are missing; {remedy}")
    names, codes = np.unique(fields["blob/path"], return_inverse=True)
    references = tuple(os.fsdecode(bytes(name)).lstrip(">") for name in names)
    source = np.stack([codes.ravel(), fields["blob/idx"].astype(np.int64)], axis=1).astype(np.int64)
    stacks: tuple[Stack, ...] = ()
    if images:
        stacks, remarks = open_stacks(locate_stacks(references, path, datadir, allow_outside), source, path)
        notes.extend(remarks)

    group, optics = _optics(fields, path, pixel_size, no_ctf)
    file_pixel = fields["blob/psize_A"].astype(np.float64)
    scale = 1.0 if pixel_size is None else pixel_size / file_pixel
    columns: dict[str, Any] = {"half": _halves(fields, path, notes), "optics_group": group, "optics": optics}
    if not no_ctf:
        columns["defocus"] = np.stack([_finite(fields, name, path) for name in CTF_NEEDED[3:]], axis=1)
        columns["phase_shift"] = _finite(fields, "ctf/phase_shift_rad", path, default=0.0)
    columns |= _pose(fields, path, file_pixel, scale, notes)
    if "location/micrograph_path" in fields:
        micrographs, index = np.unique(fields["location/micrograph_path"], return_inverse=True)
        columns["micrograph"] = index.ravel().astype(np.int32)
        columns["micrographs"] = tuple(os.fsdecode(bytes(name)).lstrip(">") for name in micrographs)
    particles = Particles.empty_columns(count, source=source, sources=references, **columns)
    try:
        check_optics(particles)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return ParticleTable(particles, stacks, _sign(fields, path), tuple(notes), ignored)


def _load(path: Path) -> Fields:
    """Fields of one file by name."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; correct the path")
    try:
        # Mapped, so that a header which promises more than the file holds allocates nothing.
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        raise InputError(f"{path}: not a cryoSPARC table ({error}); export the job again") from error
    if not isinstance(table, np.ndarray) or table.dtype.names is None or "uid" not in table.dtype.names:
        raise InputError(f"{path}: an array without the field uid, not a cryoSPARC table; give the .cs file")
    if table.size == 0:
        raise InputError(f"{path}: holds no particles; give the output of a job that kept some")
    return {name: np.array(np.atleast_1d(table)[name]) for name in table.dtype.names}


def _join(fields: Fields, path: Path, other: Path) -> None:
    """Add the fields of ``other`` that are not there yet, row by row of the same ``uid``."""
    more = _load(other)
    order = np.argsort(more["uid"], kind="stable")
    uid = more["uid"][order]
    place = np.minimum(np.searchsorted(uid, fields["uid"]), len(uid) - 1)
    lost = np.flatnonzero(uid[place] != fields["uid"])
    if len(lost):
        raise InputError(
            f"{other}: does not hold {len(lost):,} of the {len(fields['uid']):,} particles of {path} "
            f"(first uid {fields['uid'][lost[0]]}); give the passthrough file of the same job"
        )
    fields.update({name: values[order[place]] for name, values in more.items() if name not in fields})


def _refuse(fields: Fields, path: Path) -> None:
    """Stop at aberrations that are not modelled."""
    for name in NOT_MODELLED:
        if name in fields and np.any(fields[name]):
            raise InputError(
                f"{path}: field {name} is not zero and dcryo does not model it; "
                f"give --ignore {name}, or convert the table to STAR"
            )


def _finite(fields: Fields, name: str, path: Path, default: float | None = None) -> NDArray[np.float64]:
    """A field as float64, refused where it is not finite."""
    if name not in fields and default is not None:
        return np.full(len(fields["uid"]), default)
    values = fields[name].astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if len(bad):
        raise InputError(f"{path}: {name} of row {bad[0] + 1} is not finite; leave that particle out")
    return values


def _optics(
    fields: Fields, path: Path, override: float | None, no_ctf: bool
) -> tuple[NDArray[np.int32], tuple[Optics, ...]]:
    """Optics group of every row: rows that agree in all of ``GROUPED_BY``."""
    names = [name for name in GROUPED_BY if name in fields]
    columns = np.stack([_finite(fields, name, path) for name in names], axis=1)
    keys, inverse = np.unique(columns, axis=0, return_inverse=True)
    check_group_count(len(keys), path, names)
    groups = []
    for number, key in enumerate(keys.tolist(), 1):
        value = dict(zip(names, key, strict=True))
        name = f"exp_group_{int(value.get('ctf/exp_group_id', number))}"
        size = value["blob/psize_A"] if override is None else override
        if not size > 0:
            raise InputError(f"{path}: blob/psize_A is {size:g} Å; correct it or give --pixel-size")
        try:
            if no_ctf:
                groups.append(Optics(pixel_size=size, name=name, ctf=False))
                continue
            groups.append(
                Optics(
                    voltage=value["ctf/accel_kv"],
                    cs=value["ctf/cs_mm"] * 1e7,  # mm to Å
                    amplitude_contrast=value["ctf/amp_contrast"],
                    pixel_size=size,
                    name=name,
                )
            )
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    return inverse.ravel().astype(np.int32), tuple(groups)


def _pose(
    fields: Fields,
    path: Path,
    file_pixel: NDArray[np.float64],
    scale: float | NDArray[np.float64],
    notes: list[str],
) -> dict[str, NDArray[Any]]:
    """Columns ``rotation`` and ``shift`` [Å]; nothing when the job refined no 3D alignment."""
    if "alignments3D/pose" not in fields:
        notes.append("no orientations (alignments3D/pose missing)")
        return {}
    vectors = _finite(fields, "alignments3D/pose", path)
    rotation = matrix_to_quaternion(np.swapaxes(rotation_vector_to_matrix(vectors), -1, -2))
    if "alignments3D/shift" not in fields:
        return {"rotation": rotation}
    # The refinement may have run on downsampled images, so its pixel is not always that of the blob.
    if "alignments3D/psize_A" in fields:
        pixel = _finite(fields, "alignments3D/psize_A", path)
    else:
        pixel = file_pixel
        notes.append("alignments3D/psize_A is missing: shifts taken in pixels of blob/psize_A")
    shift = 0.0 - _finite(fields, "alignments3D/shift", path) * (pixel * scale)[:, None]
    return {"rotation": rotation, "shift": shift}


def _halves(fields: Fields, path: Path, notes: list[str]) -> NDArray[np.int8]:
    """Half sets 1 and 2, or 0 where the file has none."""
    none = np.zeros(len(fields["uid"]), np.int8)
    if "alignments3D/split" not in fields:
        return none
    split = fields["alignments3D/split"]
    if not np.isin(split, (0, 1)).all():
        raise InputError(
            f"{path}: alignments3D/split is neither 0 nor 1 in some rows; "
            "give --ignore alignments3D/split to have the halves drawn at random"
        )
    if len(np.unique(split)) == 1:
        notes.append("alignments3D/split has one value throughout: taken as no half sets")
        return none
    return (split + 1).astype(np.int8)


def _sign(fields: Fields, path: Path) -> int | None:
    """Sign of matter in the images, None when the file does not say."""
    signs = np.unique(np.sign(fields["blob/sign"])) if "blob/sign" in fields else np.zeros(1)
    if len(signs) > 1:
        raise InputError(f"{path}: blob/sign differs between particles; ingest them as two sets")
    return int(signs[0]) or None
