"""What a particle store is made of: columns, chunks, optics records, and the range of every value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.imaging.particles import Optics, Particles
from dcryo.io.chunks import CHUNK_BYTES, SHARD_BYTES

# name: (dtype, names of the axes after `particle`, unit)
COLUMN_LAYOUT: dict[str, tuple[str, tuple[str, ...], str]] = {
    "rotation": ("<f8", ("quaternion",), "1"),
    "shift": ("<f8", ("xy",), "angstrom"),
    "defocus": ("<f8", ("u_v_angle",), "angstrom, angstrom, rad"),
    "phase_shift": ("<f8", (), "rad"),
    "bfactor": ("<f8", (), "angstrom^2"),
    "scale": ("<f8", (), "1"),
    "optics_group": ("<i4", (), "index into the attribute optics"),
    "half": ("|i1", (), "0 none, 1, 2"),
    "micrograph": ("<i4", (), "index into micrographs, -1 unknown"),
    "source": ("<i8", ("file_row",), "index into sources, row in that file"),
    "row": ("<i8", (), "row of the table it was read from"),
}
AXIS_LENGTH = {"quaternion": 4, "xy": 2, "u_v_angle": 3, "file_row": 2}
TABLES = ("micrographs", "sources")
# A reader of a few thousand rows fetches a few hundred kB of each column, and 10^7 rows are 153 objects.
COLUMN_ROWS = 16384

DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}


def layout(count: int, box: int, itemsize: int) -> tuple[int, int]:
    """Rows in a chunk and in a shard.

    A chunk is about 2 MB, a shard about 64 MB; a small set still has some eight shards, so that its parts
    can be read, and planned, apart.
    """
    image = box * box * itemsize
    chunk = max(1, min(CHUNK_BYTES // image, -(-count // 8)))
    shard = chunk * max(1, min(SHARD_BYTES // (chunk * image), -(-count // (8 * chunk))))
    return chunk, shard


def optics_record(optics: Optics) -> dict[str, Any]:
    """An optics group as an attribute; its noise spectrum is in the array ``noise``."""
    record = asdict(optics)
    del record["noise"]
    return record


def optics_from_record(record: Mapping[str, Any], noise: NDArray[np.floating[Any]] | None) -> Optics:
    """The inverse of :func:`optics_record`; unknown entries of the record are left out."""

    def tuples(value: Any) -> Any:
        return tuple(tuples(entry) for entry in value) if isinstance(value, list) else value

    known = {f.name: tuples(record[f.name]) for f in fields(Optics) if f.name in record}
    spectrum = None if noise is None or np.isnan(noise).all() else tuple(float(value) for value in noise)
    return Optics(**(known | {"noise": spectrum}))


def table_problems(particles: Particles, first: int = 0) -> list[str]:
    """What is out of range in a table; ``first`` is the number of its first row in the store."""
    rotation = np.asarray(particles.rotation)
    norm = np.sqrt((rotation**2).sum(axis=1))
    half = np.asarray(particles.half)
    group = np.asarray(particles.optics_group)
    finite = {name: np.isfinite(getattr(particles, name)) for name in ("shift", "defocus")}
    scalar = {name: np.isfinite(getattr(particles, name)) for name in ("phase_shift", "bfactor", "scale")}
    posed = np.isfinite(norm)
    checks = [
        (np.isnan(rotation).all(axis=1) | (np.abs(norm - 1) < 1e-3), "the rotation is not a unit quaternion"),
        (~posed | finite["shift"].all(axis=1), "the shift is not a number"),
        (finite["defocus"].all(axis=1), "the defocus is not a number"),
        *((good, f"{name} is not a number") for name, good in scalar.items()),
        ((group >= 0) & (group < len(particles.optics)), "the optics group is not in the optics table"),
        ((half >= 0) & (half <= 2), "the half set is not 0, 1 or 2"),
        (np.concatenate([[True], half[1:] >= half[:-1]]), "the rows are not sorted by half set"),
        (np.asarray(particles.micrograph) < len(particles.micrographs), "the micrograph is not in the table"),
        (np.asarray(particles.source)[:, 0] < len(particles.sources), "the source is not in the table"),
    ]
    return [
        f"row {first + int(np.argmin(good)) + 1}: {sentence}; {int((~good).sum())} such rows"
        for good, sentence in checks
        if not good.all()
    ]
