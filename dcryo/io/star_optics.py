"""Optics groups of a RELION STAR file: which column means what, in which unit, and which are refused.

The optics table is a white list: a column that is not known to be harmless and is not zero stops the
reading by its name, because an aberration that is silently left out costs resolution unnoticed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dcryo.errors import InputError
from dcryo.imaging.particles import Optics
from dcryo.io.mrc import Stack
from dcryo.io.star_tables import Tables
from dcryo.io.table import check_group_count, header_pixel_size

MAGNIFICATION = ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")
CTF_NEEDED = ("rlnDefocusU", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
DEFAULTS: Mapping[str, Any] = {
    "rlnVoltage": 300.0,
    "rlnSphericalAberration": 2.7,
    "rlnAmplitudeContrast": 0.1,
    "rlnBeamTiltX": 0.0,
    "rlnBeamTiltY": 0.0,
    "rlnOddZernike": "[]",
    "rlnEvenZernike": "[]",
    "rlnMagMat00": 1.0,
    "rlnMagMat01": 0.0,
    "rlnMagMat10": 0.0,
    "rlnMagMat11": 1.0,
    "rlnCtfDataAreCtfPremultiplied": 0.0,
    "rlnCtfDataArePhaseFlipped": 0.0,
}
"""Values of the optics columns that a file may leave out (the first three only for images without CTF)."""
PIXEL_FALLBACKS = ("rlnDetectorPixelSize", "rlnMagnification", "rlnPixelSize")
"""What the pixel size is taken from when there is no ``rlnImagePixelSize``."""
OPTICS_COLUMNS = (*DEFAULTS, "rlnImagePixelSize", *PIXEL_FALLBACKS)
HARMLESS = (
    "rlnOpticsGroup",
    "rlnOpticsGroupName",
    "rlnImageSize",
    "rlnMicrographPixelSize",
    "rlnMicrographOriginalPixelSize",
    "rlnMtfFileName",
    "rlnBeamTiltClass",
    "rlnOpticsStarFile",
    "rlnMicrographGainName",
    "rlnMicrographDefectFile",
)
"""Other columns of an optics table, which change nothing in the model of the images."""
SINGULAR = 1e-3
"""A magnification matrix is within a few per cent of the identity; a determinant below this is no matrix."""
REFUSED_IN_ROWS = ("rlnTomo", "rlnCtfImage", "rlnOriginZ", "rlnIsFlip")
"""Beginnings of particle columns that mean another model: tilt series, 3D CTFs, subtomograms, mirrors."""


def refuse_unknown(tables: Tables) -> None:
    """Stop at columns that would change the model of the images and are not handled.

    Raises
    ------
    InputError
        Naming the column.
    """
    for name in tables.rows:
        if str(name).startswith(REFUSED_IN_ROWS) and _is_set(tables.rows[name]):
            _refuse(tables, str(name))
    if tables.groups is None:
        return
    for name in map(str, tables.groups):
        if name == "rlnImageDimensionality":
            if np.any(tables.numbers(name, frame=tables.groups) != 2):
                _refuse(tables, name)
        elif name.startswith("rln") and name not in (*OPTICS_COLUMNS, *HARMLESS):
            if _is_set(tables.groups[name]):
                _refuse(tables, name)
    if "rlnMtfFileName" in tables.groups:
        tables.notes.append("rlnMtfFileName is not applied (as without --mtf in RELION)")


def optics_groups(
    tables: Tables, pixel_size: float | None, no_ctf: bool, stacks: Sequence[Stack]
) -> tuple[NDArray[np.int32], tuple[Optics, ...], NDArray[np.float64]]:
    """Optics group of every row, the groups, and the pixel size that the file itself gives each row.

    Rows are grouped by their line of the optics table and by the values of every optics column that
    stands among the particles, so that those override the table row by row.

    Parameters
    ----------
    tables : Tables
    pixel_size : float or None
        Å; overrides the file.
    no_ctf : bool
        The images carry no CTF, so no column of it is needed.
    stacks : sequence of Stack
        Asked for the pixel size when the file gives none.

    Returns
    -------
    group : (P,) int32 array
    optics : tuple of Optics
    file_pixel : (P,) float64 array
        Å, NaN where the file gives none.

    Raises
    ------
    InputError
        Missing CTF columns, an unknown optics group, or a value out of range.
    """
    held = {*map(str, tables.rows), *(() if tables.groups is None else map(str, tables.groups))}
    missing = [name for name in CTF_NEEDED if name not in held]
    if missing and not no_ctf:
        raise InputError(
            f"{tables.path}: the CTF cannot be computed without {', '.join(missing)}; "
            "add them, or give --no-ctf if the images carry none"
        )
    line = _optics_line(tables)
    idle = PIXEL_FALLBACKS if "rlnImagePixelSize" in held else ()
    own = [name for name in OPTICS_COLUMNS if name in tables.rows and name not in idle]
    codes = [line, *(pd.factorize(tables.rows[name])[0] for name in own)]
    keys, first, inverse = np.unique(np.stack(codes, axis=1), axis=0, return_index=True, return_inverse=True)
    group: NDArray[np.int32] = inverse.ravel().astype(np.int32)
    check_group_count(len(keys), tables.path, own or ["rlnOpticsGroup"])
    if own and tables.groups is not None:
        tables.notes.append(f"{', '.join(own)} of the particles override the optics table")
    groups: list[Optics] = []
    sizes: list[float] = []
    for number, row in enumerate(first.tolist(), 1):
        values = dict(DEFAULTS)
        if tables.groups is not None:
            values |= {str(key): value for key, value in tables.groups.iloc[int(line[row])].items()}
        values |= {name: tables.rows[name].iloc[row] for name in own}
        reader = _Group(tables, values, number)
        size = reader.pixel_size(needed=pixel_size is None)
        sizes.append(size)
        if pixel_size is not None:
            size = pixel_size
        elif np.isnan(size):
            size = header_pixel_size(stacks, tables.path, tables.notes if not groups else [])
        groups.append(reader.optics(size, not no_ctf))
    file_pixel = np.array(sizes, np.float64)
    if pixel_size is not None and np.any(np.abs(file_pixel / pixel_size - 1) > 1e-3):
        said = ", ".join(f"{size:g}" for size in sorted(set(sizes)))
        tables.notes.append(f"pixel size {pixel_size:g} Å as given; the file says {said} Å")
    return group, tuple(groups), file_pixel[group]


def _refuse(tables: Tables, name: str) -> None:
    raise InputError(
        f"{tables.path}: column {name} is set and dcryo does not model it; "
        f"give --ignore {name} to reconstruct as if it were not there"
    )


def _is_set(column: pd.Series[Any]) -> bool:
    """Whether any value of a column is something other than zero or empty."""
    if pd.api.types.is_numeric_dtype(column):
        return bool((column.fillna(0) != 0).any())
    return bool((~column.astype(str).str.lower().isin(["", "none", "nan", "0", "<na>"])).any())


def _optics_line(tables: Tables) -> NDArray[np.int64]:
    """Line of the optics table that each particle belongs to; zeros without a table."""
    if tables.groups is None:
        return np.zeros(len(tables.rows), np.int64)
    known = tables.numbers("rlnOpticsGroup", frame=tables.groups)
    if len(np.unique(known)) < len(known):
        raise InputError(f"{tables.path}: the optics table has an rlnOpticsGroup twice; number them apart")
    wanted = tables.numbers("rlnOpticsGroup", float(known[0]) if len(known) == 1 else None)
    order = np.argsort(known)
    line = order[np.clip(np.searchsorted(known[order], wanted), 0, len(known) - 1)]
    bad = np.flatnonzero(known[line] != wanted)
    if len(bad):
        raise InputError(
            f"{tables.path}: rlnOpticsGroup of row {bad[0] + 1} is {wanted[bad[0]]:g}, which is not in "
            "the optics table; add the group to that table"
        )
    return line.astype(np.int64)


class _Group:
    """Values of one optics group by column, still in the units of the file."""

    def __init__(self, tables: Tables, values: Mapping[str, Any], number: int) -> None:
        self.path, self.values = tables.path, values
        self.name = str(values.get("rlnOpticsGroupName", f"opticsGroup{number}"))

    def pixel_size(self, *, needed: bool) -> float:
        """Pixel size [Å] that the file gives, NaN when it gives none; one of 0 is refused if it is needed."""
        if "rlnImagePixelSize" in self.values:
            column, size = "rlnImagePixelSize", self.number("rlnImagePixelSize")
        elif "rlnDetectorPixelSize" in self.values and "rlnMagnification" in self.values:
            column = "rlnDetectorPixelSize * 10^4 / rlnMagnification"  # um to Å
            magnification = self.number("rlnMagnification")
            size = self.number("rlnDetectorPixelSize") * 1e4 / magnification if magnification else 0.0
        elif "rlnPixelSize" in self.values:
            column, size = "rlnPixelSize", self.number("rlnPixelSize")
        else:
            return float("nan")
        if size <= 0 and needed:
            raise InputError(
                f"{self.path}: {column} of {self.name} is {size:g} Å; correct it or give --pixel-size"
            )
        return size if size > 0 else float("nan")

    def optics(self, pixel_size: float, ctf: bool) -> Optics:
        """The group with the given pixel size [Å]."""
        m = [self.number(key) for key in MAGNIFICATION]
        if abs(m[0] * m[3] - m[1] * m[2]) < SINGULAR:
            raise InputError(f"{self.path}: rlnMagMat00 ... 11 of {self.name} are singular; correct them")
        magnification = ((m[0], m[1]), (m[2], m[3]))
        try:
            if not ctf:  # what stands in the columns of the CTF is of no consequence, and may be nonsense
                return Optics(pixel_size=pixel_size, name=self.name, magnification=magnification, ctf=False)
            return Optics(
                voltage=self.number("rlnVoltage"),
                cs=self.number("rlnSphericalAberration") * 1e7,  # mm to Å
                amplitude_contrast=self.number("rlnAmplitudeContrast"),
                pixel_size=pixel_size,
                name=self.name,
                beam_tilt=(self.number("rlnBeamTiltX") * 1e-3, self.number("rlnBeamTiltY") * 1e-3),  # mrad
                odd_zernike=self.coefficients("rlnOddZernike"),
                even_zernike=self.coefficients("rlnEvenZernike"),
                magnification=magnification,
                phase_flipped=self.number("rlnCtfDataArePhaseFlipped") != 0,
                premultiplied=self.number("rlnCtfDataAreCtfPremultiplied") != 0,
            )
        except InputError as error:
            if str(error).startswith(str(self.path)):
                raise
            raise InputError(f"{self.path}: {error}") from error

    def number(self, key: str) -> float:
        """One value as a finite number."""
        try:
            value = float(self.values[key])
        except (TypeError, ValueError):
            value = float("nan")
        if not np.isfinite(value):
            raise InputError(
                f"{self.path}: {key} of {self.name} is {self.values[key]!r}, not a number; correct it"
            )
        return value

    def coefficients(self, key: str) -> tuple[float, ...]:
        """Zernike coefficients, written as ``[a,b,...]``."""
        try:
            return tuple(float(item) for item in json.loads(str(self.values[key])))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{self.path}: {key} of {self.name} is {self.values[key]!r}, not a list; correct it"
            ) from error
