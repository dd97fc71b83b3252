"""What every reader of particle tables returns, and where a table's images are on this disk.

A table names its images relative to a project that has often been moved since.  They are looked for, in
this order: under ``datadir`` when it is given (first by the whole path, then by ever fewer of its leading
folders, as when only part of a project was copied), otherwise beside the table and under the folders above
it (RELION writes paths from the project root, two folders up).  A path that climbs out of these roots
(``..``, absolute) is refused unless it is allowed: a table from elsewhere must not open any file it likes.
The test is on the path as written; links inside a project may lead anywhere, both programs live by them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.errors import InputError
from dcryo.imaging.particles import COLUMNS, Optics, Particles
from dcryo.io.mrc import Stack

LEVELS_ABOVE = 4
"""How many folders above a table are tried as the root of its project."""
MOST_GROUPS = 1000
"""More optics groups than this are not groups: each has its own noise spectrum to be estimated."""


@dataclass(frozen=True)
class ParticleTable:
    """Particles as a table gave them, in its order, and the stacks that hold their images.

    ``particles.source`` is (index into ``stacks``, 0-based image in it) and ``particles.sources`` the names
    as the table wrote them.  ``stacks`` is empty when the images were not asked for.  ``contrast_sign``
    is +1 where matter is bright in the images, -1 where it is dark, None where the table does not say.
    ``notes`` are sentences for the user, ``ignored`` the columns that were left out on request.
    """

    particles: Particles
    stacks: tuple[Stack, ...]
    contrast_sign: int | None
    notes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def stack_paths(self) -> tuple[Path, ...]:
        """Path of each stack."""
        return tuple(stack.path for stack in self.stacks)

    @property
    def boxes(self) -> tuple[int, ...]:
        """Side of the images of each stack in pixels."""
        return tuple(stack.box for stack in self.stacks)

    @property
    def image_shape(self) -> int:
        """The one box of all images; InputError when there are several or no stacks were opened."""
        boxes = sorted(set(self.boxes))
        if len(boxes) != 1:
            sizes = ", ".join(map(str, boxes)) or "unknown"
            raise InputError(f"the images have boxes of {sizes} px; give --box to resample them to one")
        return boxes[0]

    @property
    def pixel_size(self) -> float:
        """Pixel size [Å] of the optics group with the most particles."""
        counts = np.bincount(self.particles.optics_group, minlength=len(self.particles.optics))
        return self.particles.optics[int(counts.argmax())].pixel_size


def locate_stacks(
    references: Sequence[str], table: Path, datadir: str | os.PathLike[str] | None, allow_outside: bool
) -> tuple[Path, ...]:
    """Path of every image file that a table names.

    Parameters
    ----------
    references : sequence of str
        File names as written in the table, each once.
    table : Path
        The table's own path.
    datadir : path or None
        Root given by the user; replaces the table's own surroundings.
    allow_outside : bool
        Accept paths that leave the roots.

    Raises
    ------
    InputError
        Missing stack, path out of the roots, ``datadir`` that is no folder, or two names that lead to one
        file after leading folders were dropped (the images would be mixed up).
    """
    if datadir is not None and not Path(datadir).is_dir():
        raise InputError(
            f"{datadir}: --datadir is not a folder; give the folder that the paths of {table} start from"
        )
    paths = []
    shortened: dict[Path, str] = {}
    for reference in references:
        path, dropped = _locate(reference, table, None if datadir is None else Path(datadir), allow_outside)
        if dropped and shortened.setdefault(path, reference) != reference:
            raise InputError(
                f"{table}: {shortened[path]} and {reference} both lead to {path}; "
                "give the --datadir that holds both under their own folders"
            )
        paths.append(path)
    return tuple(paths)


def _locate(reference: str, table: Path, datadir: Path | None, allow_outside: bool) -> tuple[Path, bool]:
    """Path of one file, and whether leading folders had to be dropped to find it."""
    written = PurePosixPath(os.path.normpath(reference))
    folder = Path(os.path.abspath(table)).parent
    # The root of the file system is no project: everything would be inside it.
    above = [root for root in folder.parents[:LEVELS_ABOVE] if root != root.parent]
    roots = [Path(os.path.abspath(datadir))] if datadir is not None else [folder, *above]
    outside = written.is_absolute() or written.parts[:1] == ("..",)
    if outside:
        # An absolute path may well lie inside a root; one with .. is taken from the table's own folder.
        target = Path(os.path.normpath(folder / written))
        inside = any(target.is_relative_to(root) for root in roots[:1])
        if target.is_file() and (inside or allow_outside):
            return target, False
        if target.is_file() and datadir is None:
            raise InputError(
                f"{table}: the path {reference} leads out of {folder}; "
                "give --datadir with the folder that holds the images, or --allow-outside"
            )
    elif datadir is None:
        for root in roots:
            if (root / written).is_file():
                return root / written, False
    if datadir is not None:
        parts = [part for part in written.parts if part not in ("/", "..")]
        for start in range(len(parts)):
            candidate = roots[0].joinpath(*parts[start:])
            if candidate.is_file():
                return candidate, start > 0 or outside
    places = f"under {datadir}" if datadir is not None else "beside the table or in the folders above it"
    raise InputError(
        f"{table}: the image file {reference} was not found {places}; "
        "give --datadir with the folder its path starts from"
    )


def open_stacks(
    paths: Sequence[Path], source: NDArray[np.integer[Any]], table: Path
) -> tuple[tuple[Stack, ...], list[str]]:
    """Open the stacks and check that each holds the images that the table asks of it.

    Parameters
    ----------
    paths : sequence of Path
    source : (P, 2) int array
        Index into ``paths`` and 0-based image of every row.
    table : Path
        Named in the error.

    Returns
    -------
    stacks : tuple of Stack
    notes : list of str
        Remarks on stacks without a MAP stamp.

    Raises
    ------
    InputError
        Anything wrong with a stack, or a stack shorter than the table says.
    """
    stacks = tuple(Stack(path) for path in paths)
    last = np.full(len(stacks), -1, dtype=np.int64)
    np.maximum.at(last, source[:, 0], source[:, 1])
    for stack, index in zip(stacks, last.tolist(), strict=True):
        if index >= len(stack):
            raise InputError(
                f"{table}: asks for image {index + 1} of {stack.path}, which holds only {len(stack):,}; "
                "copy the stack again or correct the table"
            )
    bare = [stack.path.name for stack in stacks if not stack.header.stamped]
    if not bare:
        return stacks, []
    return stacks, [f"{len(bare)} stacks have no MAP stamp (first {bare[0]}) but the right size: read"]


def check_group_count(count: int, table: Path, columns: Sequence[str]) -> None:
    """Refuse optics values that differ in so many rows that they do not form groups."""
    if count > MOST_GROUPS:
        raise InputError(
            f"{table}: {', '.join(columns)} make {count:,} optics groups (at most {MOST_GROUPS:,}); "
            "average them per group or give --ignore COLUMN"
        )


def bare_table(paths: Sequence[str | os.PathLike[str]], *, pixel_size: float | None = None) -> ParticleTable:
    """Image files without a table: every image in order, no CTF, no poses.

    Parameters
    ----------
    paths : sequence of path
        Stacks, or files of one image each.
    pixel_size : float, optional
        Å; the first header's otherwise.

    Raises
    ------
    InputError
        Anything wrong with a file, or a pixel size that nobody gives.
    """
    stacks = tuple(Stack(path) for path in paths)
    first = stacks[0]
    notes = ["bare images: no poses, and taken as images without CTF"]
    if pixel_size is None:
        pixel_size = header_pixel_size(stacks, first.path, notes)
    counts = [len(stack) for stack in stacks]
    source = np.empty((sum(counts), 2), dtype=np.int64)
    for index, (stop, count) in enumerate(zip(accumulate(counts), counts, strict=True)):
        source[stop - count : stop] = np.stack([np.full(count, index), np.arange(count)], axis=1)
    particles = Particles.empty_columns(
        len(source),
        source=source,
        sources=tuple(os.fspath(path) for path in paths),
        optics=(Optics(pixel_size=pixel_size, ctf=False),),
    )
    return ParticleTable(particles, stacks, None, tuple(notes))


def header_pixel_size(stacks: Sequence[Stack], table: Path, notes: list[str]) -> float:
    """Pixel size that the headers of all stacks agree on, with a note; InputError otherwise."""
    sizes = {round(stack.pixel_size, 4) for stack in stacks}
    if len(sizes) != 1 or 0.0 in sizes:
        said = ", ".join(f"{size:g} Å" if size else "none" for size in sorted(sizes)) or "none"
        raise InputError(
            f"{table}: no pixel size is given, and the headers of the stacks say {said}; give --pixel-size"
        )
    size = stacks[0].pixel_size
    doubt = " (1 Å is what many programs write when they do not know: check it)" if size == 1 else ""
    notes.append(f"pixel size {size:g} Å taken from the header of {stacks[0].path.name}{doubt}")
    return size


def concatenate(tables: Sequence[ParticleTable]) -> ParticleTable:
    """Several tables one after the other; optics groups, micrographs and stacks are renumbered.

    Raises
    ------
    InputError
        Tables whose images have opposite contrast.
    """
    if len(tables) == 1:
        return tables[0]
    signs = {table.contrast_sign for table in tables} - {None}
    if len(signs) > 1:
        raise InputError("matter is bright in some of the tables and dark in others; ingest them apart")
    parts, groups, micrographs, sources, rows = [], 0, 0, 0, 0
    for table in tables:
        part = table.particles
        shifted = part.source.copy()
        shifted[:, 0] += sources
        parts.append(
            replace(
                part,
                optics_group=part.optics_group + groups,
                micrograph=np.where(part.micrograph < 0, -1, part.micrograph + micrographs).astype(np.int32),
                source=shifted,
                row=part.row + rows,
            )
        )
        groups += len(part.optics)
        micrographs += len(part.micrographs)
        sources += len(part.sources)
        rows += len(part)
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS}
    particles = Particles(
        **columns,
        optics=tuple(optics for part in parts for optics in part.optics),
        micrographs=tuple(name for part in parts for name in part.micrographs),
        sources=tuple(name for part in parts for name in part.sources),
    )
    return ParticleTable(
        particles,
        tuple(stack for table in tables for stack in table.stacks),
        next(iter(signs), None),
        tuple(dict.fromkeys(note for table in tables for note in table.notes)),
        tuple(dict.fromkeys(name for table in tables for name in table.ignored)),
    )
