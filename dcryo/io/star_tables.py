"""The tables of a STAR file as data frames, with every row as long as its header.

starfile reads; gemmi, which is stricter, is asked first whether the file is well formed.  Neither says
which row of a loop is too long or too short, so on a complaint the rows are counted to name the line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pandas as pd
import starfile
from numpy.typing import NDArray

from dcryo.errors import InputError

TEXT_COLUMNS = (
    "rlnImageName",
    "rlnMicrographName",
    "rlnOpticsGroupName",
    "rlnOddZernike",
    "rlnEvenZernike",
    "rlnMtfFileName",
)
"""Columns that stay text even where they look like numbers."""


@dataclass
class Tables:
    """The particles (``rows``) and the optics table (``groups``, or None) of one file.

    ``ignored`` are the columns that were dropped on request, ``notes`` what is remarked while reading.
    """

    path: Path
    rows: pd.DataFrame
    groups: pd.DataFrame | None
    ignored: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    def numbers(
        self, name: str, default: float | None = None, frame: pd.DataFrame | None = None
    ) -> NDArray[np.float64]:
        """Column of ``frame`` (``rows`` unless given) as float64; ``default`` in every row when it is absent.

        Raises
        ------
        InputError
            A value that is no finite number, by row; or no such column and no default.
        """
        frame = self.rows if frame is None else frame
        if name not in frame:
            if default is None:
                raise InputError(f"{self.path}: there is no column {name}; write the file with it")
            return np.full(len(frame), default)
        values = np.asarray(pd.to_numeric(frame[name], errors="coerce"), np.float64)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise InputError(
                f"{self.path}: {name} of row {bad[0] + 1} is {frame[name].iloc[bad[0]]!r}, not a number; "
                f"correct the row, or leave the column out with --ignore {name}"
            )
        return values


def read_tables(path: Path, ignore: Sequence[str] = ()) -> Tables:
    """Tables of a RELION STAR file, without the columns ``ignore``.

    The particle table is the one called ``particles``, otherwise the one with ``rlnImageName``.

    Raises
    ------
    InputError
        No such file, a file that is no STAR file, a ragged loop (by line), a column given twice, no
        particle table or several, or one without rows.
    """
    blocks = read_blocks(path)
    optics = blocks.pop("optics", None)
    named = [name for name, frame in blocks.items() if "rlnImageName" in frame]
    if "particles" in named:
        named = ["particles"]
    if len(named) != 1:
        what = "several tables" if named else "no table"
        held = ", ".join(f"data_{name}" for name in named or blocks) or "no tables"
        raise InputError(
            f"{path}: {what} with a column rlnImageName (it holds {held}); "
            "give the STAR file of the particles, such as run_data.star"
        )
    particles = blocks[named[0]]
    if not len(particles):
        raise InputError(f"{path}: data_{named[0]} holds no particles; select some and write the file again")
    if optics is not None and not len(optics):
        raise InputError(f"{path}: data_optics has no rows; write the file again with its optics groups")
    frames = [particles] if optics is None else [particles, optics]
    ignored = tuple(name for name in ignore if any(name in frame for frame in frames))
    particles = particles.drop(columns=list(ignore), errors="ignore").reset_index(drop=True)
    if optics is not None:
        optics = optics.drop(columns=list(ignore), errors="ignore")
    return Tables(path, particles, optics, ignored)


def read_blocks(path: Path) -> dict[str, pd.DataFrame]:
    """Every table of the file by name; blocks of single values become tables of one row."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; correct the path")
    try:
        loops = _loops(gemmi.cif.read_file(str(path)))
        blocks: dict[str, Any] = starfile.read(path, always_dict=True, parse_as_string=list(TEXT_COLUMNS))
    except (ValueError, RuntimeError, IndexError, pd.errors.ParserError) as error:
        line = ragged_line(path)
        if line is not None:
            raise InputError(line) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a STAR file that can be read ({reason}); write it again") from error
    frames = {}
    for name, block in blocks.items():
        frame = block if isinstance(block, pd.DataFrame) else pd.DataFrame([block or {}])
        twice = frame.columns[frame.columns.duplicated()]
        if len(twice):
            raise InputError(f"{path}: data_{name} gives the column {twice[0]} twice; remove one")
        # STAR is a kind of CIF, where a row may run over several lines; programs of this field read lines.
        if loops.get(name, len(frame)) != len(frame) and (line := ragged_line(path)) is not None:
            raise InputError(line)
        frames[name] = frame
    return frames


def _loops(document: Any) -> dict[str, int]:
    """Rows of the loop of every block that has one, as gemmi counts them."""
    items = [(block.name.strip(), item.loop) for block in document for item in block]
    return {name: loop.length() for name, loop in items if loop is not None}


def ragged_line(path: Path) -> str | None:
    """Sentence on the first row of a loop whose number of values is not that of its columns, or None."""
    columns, body = 0, False
    for number, text in enumerate(path.read_text(errors="replace").splitlines(), 1):
        words = text.split("#", 1)[0].split()
        if not words:
            continue
        if words[0].startswith(("loop_", "data_")):
            columns, body = 0, words[0] == "loop_"
        elif words[0].startswith("_"):
            columns += 1
        elif body and len(words) != columns:
            return (
                f"{path}: line {number} has {len(words)} values for the {columns} columns of its loop; "
                "correct or remove the line"
            )
    return None
