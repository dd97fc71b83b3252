"""Export: files of other programs from a store.  The ending of the file decides what is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.errors import InputError
from dcryo.io.fsc_xml import write_fsc_xml
from dcryo.io.mrc import write_stack, write_volume
from dcryo.io.particle_store import ParticleStore, open_particles
from dcryo.io.run_store import open_run, read_map
from dcryo.io.star import write_particles_star
from dcryo.io.store_root import read_mark
from dcryo.methods.progress import Progress, Silent

ENDINGS = (".mrc", ".map", ".mrcs", ".star", ".xml")
MAP, CURVE = "map", "corrected"
BATCH_BYTES = 1 << 24


@dataclass(frozen=True)
class ExportConfig:
    """Options of :func:`export`.

    Parameters
    ----------
    what : str, optional
        For ``.mrc``: ``map`` (a run's full map), ``half1``, ``half2``, ``linear1`` ... or ``truth`` (of a
        particle store); by default the only or the main one.  For ``.xml``: a column of the run's FSC
        table, by default ``corrected``.
    images : bool
        For ``.star``: write the store's images as an ``.mrcs`` beside it.  False refers to the files the
        particles came from, which is right only where ingest changed nothing in them.
    beside : bool
        For ``.star``: name the images relative to the folder of the STAR file, for RELION run in that
        folder.  By default the name is relative to where this is run, which is then RELION's project.
    """

    what: str | None = None
    images: bool = True
    beside: bool = False


def export(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: ExportConfig = ExportConfig(),
    *,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Path:
    """Write ``out`` from a store.

    ======================  =====================================================================
    ``.mrc``, ``.map``      a map: of a run, ``RUN:name``, or the truth of a particle store
    ``.mrcs``               the images of a particle store, matter positive, in the store's order
    ``.star``               its particles as a RELION 3.1 table, in the order they were ingested in
    ``.xml``                an FSC curve of a run, for the EMDB
    ======================  =====================================================================

    Parameters
    ----------
    source : path or URL
        A run, a particle store, or ``STORE:name`` for a map.
    out : path
        Local file.
    config : ExportConfig
    progress : Progress, optional
    overwrite : bool
        Replace a file that is there.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    InputError
        An ending that is not known, a store that does not have what is asked for, or a file in the way.
    """
    text, target = os.fspath(source), Path(out)
    if "://" in os.fspath(out):
        raise InputError(f"{os.fspath(out)}: files are exported to a local folder; give a path")
    ending = target.suffix.lower()
    if ending not in ENDINGS:
        raise InputError(f"{target}: the ending says what to write; give one of {', '.join(ENDINGS)}")
    _free(target, overwrite)
    progress = progress or Silent()
    if ending in (".mrc", ".map"):
        volume, pixel_size = read_map(_map_name(text, config.what))
        return write_volume(target, volume, pixel_size)
    if ending == ".xml":
        return _write_curve(text, target, config.what or CURVE)
    mark = read_mark(text)
    if mark is not None and mark["kind"] == "run":
        raise InputError(f"{text}: is a run, and {ending} files hold particles; give the particle store")
    store = open_particles(text)
    if ending == ".mrcs":
        write_stack(target, _images(store, progress), store.pixel_size)
        return target
    return _write_table(store, target, config, progress, overwrite)


def _free(target: Path, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise InputError(f"{target}: exists already; give another name or --overwrite")


def _map_name(source: str, what: str | None) -> str:
    """The name by which :func:`read_map` knows the map ``what`` of ``source``."""
    mark = read_mark(source)
    if what is None:
        return f"{source}:truth" if mark is not None and mark["kind"] == "particles" else source
    return f"{source}:full" if what == MAP else f"{source}:{what}"


def _write_curve(source: str, target: Path, column: str) -> Path:
    """One column of the FSC table of a run as XML."""
    table = open_run(source).table("fsc")
    columns = [name for name in table if name not in ("shell", "frequency")]
    if column not in columns:
        raise InputError(f"{source}: its FSC table has no curve {column}; give one of {', '.join(columns)}")
    return write_fsc_xml(target, table["frequency"], table[column], f"dcryo FSC ({column})")


def _images(store: ParticleStore, progress: Progress) -> Iterator[NDArray[np.float32]]:
    """Images of a store, batch by batch, whole chunks at a time."""
    progress.start("writing images", store.count)
    chunks = max(1, BATCH_BYTES // (4 * store.box**2 * store.chunk))
    step = chunks * store.chunk
    for start in range(0, store.count, step):
        images = store.images(start, min(start + step, store.count))
        yield images
        progress.advance(len(images))


def _write_table(
    store: ParticleStore, target: Path, config: ExportConfig, progress: Progress, overwrite: bool
) -> Path:
    """The particles as STAR, rows in the order of the table they came from."""
    particles = store.particles()
    order = np.argsort(particles.row, kind="stable")
    if config.images:
        stack = target.with_suffix(".mrcs")
        _free(stack, overwrite)
        # RELION resolves a name from where it is run.
        name = stack.name if config.beside else stack.as_posix()
        names = [f"{index + 1:06d}@{name}" for index in order.tolist()]
        write_stack(stack, _images(store, progress), store.pixel_size)
        try:
            return write_particles_star(target, particles.take(order), names, store.box)
        except BaseException:
            stack.unlink(missing_ok=True)
            raise
    provenance: dict[str, Any] = store.attributes.get("provenance", {})
    changed = [name for name in ("inverted", "resampled") if provenance.get(name)]
    if changed or np.any(particles.source < 0):
        why = f"ingest changed them ({', '.join(changed)})" if changed else "some have no file of their own"
        raise InputError(f"{store.url}: cannot refer to the original images, {why}; export the images too")
    source = particles.source[order].tolist()
    names = [f"{index + 1:06d}@{particles.sources[file]}" for file, index in source]
    return write_particles_star(target, particles.take(order), names, store.box)
