"""Which poses particles have: those of their store, or those of an iteration of a refinement of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dcryo.errors import InputError
from dcryo.imaging.particles import Particles
from dcryo.io.particle_store import ParticleStore
from dcryo.io.run_store import RunStore, open_run
from dcryo.io.store_root import read_mark


@dataclass(frozen=True)
class PoseSource:
    """The poses of one iteration of a run; made by :func:`find_poses`.

    run: its URL; count: particles P; digest: of the poses; config: that of the run.
    """

    run: str
    iteration: int
    count: int
    digest: str
    config: dict[str, Any]

    @property
    def url(self) -> str:
        """``RUN@iteration``, which :func:`find_poses` takes."""
        return f"{self.run}@{self.iteration}"

    def into(self, particles: Particles, start: int) -> Particles:
        """Rows ``start`` and on of the particle store with the poses of this source."""
        names = ("rotation", "shift")
        poses = RunStore(self.run).poses(self.iteration, names, start, start + len(particles))
        return replace(particles, rotation=poses["rotation"], shift=poses["shift"])


def find_poses(spec: str) -> PoseSource:
    """The poses that ``RUN`` (its last iteration) or ``RUN@iteration`` names.

    Raises
    ------
    InputError
        If there is no such run, or it has no poses of that iteration.
    """
    url, iteration = spec, None
    head, at, tail = spec.rpartition("@")
    if at and tail.isdecimal() and read_mark(spec) is None:
        url, iteration = head, int(tail)
    run = open_run(url)
    record = run.pose_record(iteration)
    config = run.attributes.get("config") or {}
    return PoseSource(run.url, int(record["iteration"]), int(record["count"]), str(record["digest"]), config)


def given_poses(store: ParticleStore, spec: str | None, rule: str) -> PoseSource | None:
    """The poses that are asked for instead of the store's, if they are of its particles and half sets.

    Raises
    ------
    InputError
        From :func:`find_poses`, :func:`check_source` and :func:`check_halves`.
    """
    if spec is None:
        return None
    source = find_poses(spec)
    check_source(source, store)
    check_halves(source, rule)
    return source


def posed_particles(store: ParticleStore, source: PoseSource | None, start: int, stop: int) -> Particles:
    """Rows ``start`` to ``stop`` of a store with the poses of ``source``, by default its own."""
    particles = store.particles(start, stop)
    return particles if source is None else source.into(particles, start)


def check_source(source: PoseSource, store: ParticleStore) -> None:
    """Refuse poses that are not those of the particles of ``store``.

    Raises
    ------
    InputError
        If the run was made from another particle store, or holds poses of another number of particles.
    """
    if source.config.get("particles_digest") != store.digest:
        raise InputError(
            f"{source.run} holds poses of the particles in {source.config.get('particles')}, which are not "
            f"those in {store.url}; give the particle store that it refined"
        )
    if source.count != store.count:
        raise InputError(
            f"{source.url} holds poses of {source.count:,} particles, and {store.url} has {store.count:,}; "
            "give the particle store that it refined"
        )


def check_halves(source: PoseSource, rule: str) -> None:
    """Refuse half sets other than those that the poses were refined in.

    Particles of both of a refinement's half sets in one half map would make the two half maps alike where
    there is no signal.
    """
    refined = source.config.get("halves")
    if rule not in ("none", refined):
        raise InputError(
            f"{source.run} was refined with --halves {refined}, and half sets that mix those would look "
            f"better than they are; give --halves {refined}"
        )


def check_poses(source: ParticleStore | PoseSource, particles: Particles, remedy: str | None = None) -> None:
    """Refuse particles without a pose: InputError that names the first, and what to do about it."""
    missing = np.flatnonzero(~np.isfinite(particles.rotation).all(axis=1))
    if len(missing):
        other = "choose another iteration" if isinstance(source, PoseSource) else "use poses of a refinement"
        raise InputError(
            f"{source.url}: particle {int(particles.row[missing[0]]) + 1} (of the table it came from) has no "
            f"pose; {remedy or f'reconstruct needs one for every particle: {other}'}"
        )


def check_all_poses(store: ParticleStore, source: PoseSource | None, remedy: str | None = None) -> None:
    """Refuse a set with particles that have no pose before a run is made for it, and say what to do."""
    posed = int(store.attributes["poses"])
    if source is None and posed == 0:
        other = "reconstruct needs one per particle: ingest the STAR or .cs file of a finished refinement"
        raise InputError(f"{store.url} holds no poses; {remedy or other}")
    complete = source is None and posed == store.count
    for first in range(0, 0 if complete else store.count, 100_000):
        stop = min(first + 100_000, store.count)
        check_poses(source or store, posed_particles(store, source, first, stop), remedy)
