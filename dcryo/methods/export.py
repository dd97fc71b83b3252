"""Export: files of other programs from a store.  The ending of the file decides what is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.dataflow.accumulate import half_sets
from dcryo.dataflow.pose_source import check_source, find_poses
from dcryo.errors import InputError
from dcryo.imaging.particles import Particles
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
    images : bool, optional
        For ``.star``: write the store's images as an ``.mrcs`` beside it.  False refers to the files the
        particles came from, which is right only where ingest changed nothing in them.  By default a particle
        store brings its images, and a run only where those files will not do.
    iteration : int, optional
        For the ``.star`` of a refinement: the iteration whose poses are written, by default the last.
    lost : bool
        For the ``.star`` of a refinement: with the particles that it has lost.
    beside : bool
        For ``.star``: name the images relative to the folder of the STAR file, for RELION run in that
        folder.  By default the name is relative to where this is run, which is then RELION's project.
    """

    what: str | None = None
    images: bool | None = None
    iteration: int | None = None
    lost: bool = True
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
    ``.star``               its particles as a RELION 3.1 table, in the order they were ingested in; of a
                            refinement, with the poses and half sets that it ended with
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
        if ending != ".star" or not open_run(text).pose_iterations():
            raise InputError(
                f"{text}: is a run, and {ending} files hold particles; give the particle store, or for a "
                ".star a run of dcryo refine"
            )
        return _write_run_table(text, target, config, progress, overwrite)
    if config.iteration is not None:
        raise InputError(f"{text}: --iteration is for the poses of a run; leave it out")
    if not config.lost:
        raise InputError(f"{text}: --no-lost is for the poses of a run; leave it out")
    store = open_particles(text)
    if ending == ".mrcs":
        write_stack(target, _images(store, progress), store.pixel_size)
        return target
    config = replace(config, images=config.images is not False)
    return _write_table(store, store.particles(), target, config, progress, overwrite)


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


def _write_run_table(
    url: str, target: Path, config: ExportConfig, progress: Progress, overwrite: bool
) -> Path:
    """The particles of a refinement with the poses it found, in the half sets that it kept apart."""
    poses = find_poses(url if config.iteration is None else f"{url}@{config.iteration}")
    store = open_particles(poses.config["particles"])
    check_source(poses, store)
    half = half_sets(store, poses.config["halves"])
    particles = replace(poses.into(store.particles(), 0), half=half)
    posed = np.flatnonzero(np.isfinite(particles.rotation).all(axis=1))
    if not len(posed):
        raise InputError(f"{poses.url}: no particle has a pose; choose a later --iteration")
    if missing := len(particles) - len(posed):
        progress.message(f"{missing:,} of {len(particles):,} particles have no pose and are left out")
    if not config.lost and "lost" in open_run(poses.run).pose_record(poses.iteration)["columns"]:
        lost = open_run(poses.run).poses(poses.iteration, ("lost",))["lost"]
        kept = posed[lost[posed] == 0]
        if not len(kept):
            raise InputError(f"{poses.url}: every particle is lost; leave --no-lost out")
        progress.message(f"{len(posed) - len(kept):,} lost particles are left out")
        posed = kept
    if config.images is None:
        config = replace(config, images=bool(_why_images(store, particles)))
    return _write_table(store, particles, target, config, progress, overwrite, posed)


def _why_images(store: ParticleStore, particles: Particles) -> str:
    """Why the files that particles came from do not do for their images; empty if they do."""
    provenance: dict[str, Any] = store.attributes.get("provenance", {})
    if changed := [name for name in ("inverted", "resampled") if provenance.get(name)]:
        return f"ingest changed them ({', '.join(changed)})"
    return "some have no file of their own" if np.any(particles.source < 0) else ""


def _write_table(
    store: ParticleStore,
    particles: Particles,
    target: Path,
    config: ExportConfig,
    progress: Progress,
    overwrite: bool,
    rows: NDArray[np.intp] | None = None,
) -> Path:
    """Particles of a store, or ``rows`` of them, as STAR in the order of the table they came from."""
    rows = np.arange(len(particles)) if rows is None else rows
    order = rows[np.argsort(particles.row[rows], kind="stable")]
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
    if why := _why_images(store, particles):
        raise InputError(f"{store.url}: cannot refer to the original images, {why}; export the images too")
    source = particles.source[order].tolist()
    names = [f"{index + 1:06d}@{particles.sources[file]}" for file, index in source]
    return write_particles_star(target, particles.take(order), names, store.box)
