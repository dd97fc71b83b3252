"""Poses of every iteration of a refinement, inside its run.

::

    poses/0000/<column>   what the refinement began with; NaN where a particle had no pose
    poses/0001/<column>   after the first iteration, and so on

Rows are those of the particle store.  An iteration is an array of its own and is never written twice; what
names its columns comes last, so one that was cut short is not listed, and may be written again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dcryo.errors import DamagedStoreError, InputError
from dcryo.io.chunks import checked_store, create_array, open_array, read_rows
from dcryo.io.location import children, join, reporting, zarr_store
from dcryo.io.particle_schema import AXIS_LENGTH
from dcryo.io.store_root import read_group, remove_node, write_group

POSES = "poses"
PART = re.compile(r"\d{4,}")
ROWS = 65536
"""Rows of a chunk: a slice reads a few MB, and ten million particles are 153 objects a column."""

# name: (dtype, names of the axes after `particle`, unit)
POSE_LAYOUT: dict[str, tuple[str, tuple[str, ...], str]] = {
    "rotation": ("<f8", ("quaternion",), "1"),
    "shift": ("<f8", ("xy",), "angstrom"),
    "cost": ("<f4", (), "1"),
    "turn": ("<f4", (), "rad"),
    "sigma_rotation": ("<f4", (), "rad"),
    "sigma_shift": ("<f4", (), "angstrom"),
    "lost": ("|u1", (), "1: without a pose that could be found"),
}
NEEDED = ("rotation", "shift")

Columns = dict[str, NDArray[Any]]


class RunPoses:
    """The poses in the run at ``url``: the part of :class:`dcryo.io.run_store.RunStore` that keeps them."""

    def __init__(self, url: str) -> None:
        self.url = url

    def create_poses(self, iteration: int, count: int, attrs: Mapping[str, Any] | None = None) -> PoseWriter:
        """Begin the poses of a new iteration, written window by window.

        Parameters
        ----------
        iteration
            0: what a refinement began with; from 1 on: after that iteration.
        count
            Number of particles P.
        attrs
            Attributes of the iteration.

        Returns
        -------
        PoseWriter
            A context; its ``append(columns)`` takes the next rows.  The iteration is listed when the context
            ends normally.

        Raises
        ------
        InputError
            If the poses of that iteration are there already: they are never replaced.
        """
        group = self._pose_group(iteration)
        if "columns" in (read_group(group) or {}):
            raise InputError(
                f"{self.url}: the poses of iteration {iteration} are there already and are never replaced; "
                "write the next iteration"
            )
        if count < 1:
            raise InputError(f"{group}: there are no particles to write poses of; check the particle store")
        folder = join(self.url, POSES)
        if read_group(folder) is None:
            write_group(folder, {})
        return PoseWriter(group, count, dict(attrs or {}))

    def write_poses(
        self, iteration: int, columns: Mapping[str, ArrayLike], attrs: Mapping[str, Any] | None = None
    ) -> None:
        """Write the poses of an iteration; the same ones again change nothing.

        Parameters
        ----------
        iteration
            0: what a refinement began with; from 1 on: after that iteration.
        columns
            One row per particle, in the order of the particle store: ``rotation`` (P, 4) quaternion x, y, z,
            w of A and ``shift`` (P, 2) in Å, NaN where a particle has no pose; ``cost``, ``turn`` (rad),
            ``sigma_rotation`` (rad), ``sigma_shift`` (Å), ``lost`` (P,) may be left out.
        attrs
            Attributes of the iteration.

        Raises
        ------
        InputError
            If a column is not known or misshapen, or other poses of that iteration are there already.
        """
        group = self._pose_group(iteration)
        arrays = _checked(group, columns)
        if "columns" in (known := read_group(group) or {}):
            if known["digest"] == _digest(_hashed(arrays)):
                return
            raise InputError(
                f"{self.url}: other poses of iteration {iteration} are there already and are never replaced; "
                "write the next iteration"
            )
        count = len(arrays["rotation"])
        with self.create_poses(iteration, count, attrs) as writer:
            for start in range(0, count, ROWS):
                writer.append({name: values[start : start + ROWS] for name, values in arrays.items()})

    def poses(
        self,
        iteration: int | None = None,
        names: Sequence[str] | None = None,
        start: int = 0,
        stop: int | None = None,
    ) -> Columns:
        """Poses of an iteration: columns as in :meth:`write_poses`.

        Parameters
        ----------
        iteration
            None: the last.
        names
            Columns to read; None: all there are.
        start, stop
            First row, and the one after the last; all by default.  Only the chunks that cover them are read.

        Raises
        ------
        InputError
            If there is no such iteration, column or row.
        DamagedStoreError
            If a chunk is missing or fails its checksum.
        """
        group, record = self._pose_record(iteration)
        count, known = int(record["count"]), list(record["columns"])
        stop = count if stop is None else stop
        if not 0 <= start <= stop <= count:
            raise InputError(f"{group}: rows {start} to {stop} are not within its {count} particles")
        wanted = known if names is None else list(names)
        if missing := [name for name in wanted if name not in known]:
            raise InputError(f"{group} has no column {missing[0]}; it has: {', '.join(known)}")
        store = checked_store(group)
        return {name: read_rows(store, open_array(store, name), start, stop) for name in wanted}

    def pose_iterations(self) -> list[int]:
        """The iterations whose poses are there, ascending; empty where the run refined none."""
        folder = join(self.url, POSES)
        names = [name for name in children(folder) if PART.fullmatch(name)]
        return sorted(int(name) for name in names if "columns" in (read_group(join(folder, name)) or {}))

    def pose_record(self, iteration: int | None = None) -> dict[str, Any]:
        """What is known of the poses of an iteration, by default of the last.

        Returns
        -------
        dict
            ``iteration``, ``count``, ``columns``, ``digest`` (of the columns and what they hold) and
            ``attributes``.
        """
        return self._pose_record(iteration)[1]

    def keep_poses(self, count: int) -> list[int]:
        """Remove the poses of all iterations but the last ``count``, and what was cut short.

        Returns
        -------
        list of int
            The iterations that were removed.
        """
        held = self.pose_iterations()
        kept = held[-count:] if count > 0 else []
        folder = join(self.url, POSES)
        for name in children(folder):
            if PART.fullmatch(name) and int(name) not in kept:
                # first not listed any more: a removal that is cut short leaves no damaged iteration
                write_group(join(folder, name), {})
                remove_node(join(folder, name))
        return [iteration for iteration in held if iteration not in kept]

    def _check_poses(self) -> list[str]:
        """What is wrong with the poses, a sentence each; reads them all."""
        problems = []
        for iteration in self.pose_iterations():
            try:
                count = int(self.pose_record(iteration)["count"])
                for start in range(0, count, ROWS):
                    self.poses(iteration, start=start, stop=min(start + ROWS, count))
            except DamagedStoreError as error:
                problems.append(str(error))
        return problems

    def _pose_group(self, iteration: int) -> str:
        if iteration < 0:
            raise InputError(f"{self.url}: there is no iteration {iteration}; they count from 0")
        return join(self.url, POSES, f"{iteration:04d}")

    def _pose_record(self, iteration: int | None) -> tuple[str, dict[str, Any]]:
        """Where the poses of an iteration are, and the attributes there."""
        if iteration is not None:
            group = self._pose_group(iteration)
            if "columns" in (record := read_group(group) or {}):
                return group, record
        held = self.pose_iterations()
        if not held:
            raise InputError(f"{self.url} holds no poses; give a run that dcryo refine made")
        if iteration is None:
            group = self._pose_group(held[-1])
            return group, read_group(group) or {}
        raise InputError(
            f"{self.url} has no poses of iteration {iteration}; it has: {', '.join(map(str, held))}"
        )


class PoseWriter:
    """Writes the poses of an iteration, rows in order; made by :meth:`RunPoses.create_poses`.

    Leaving the context normally verifies that every row came and lists the iteration; leaving it by an
    exception removes what was written of it.
    """

    def __init__(self, group: str, count: int, attrs: dict[str, Any]) -> None:
        self._group = group
        self._count = count
        self._attrs = attrs
        self._written = 0
        self._filled = 0
        self._arrays: dict[str, Any] = {}
        self._buffers: Columns = {}
        self._hashes: dict[str, Any] = {}

    def __enter__(self) -> PoseWriter:
        remove_node(self._group)
        write_group(self._group, {})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        try:
            if kind is None:
                self._finish()
        except BaseException:
            remove_node(self._group)
            raise
        if kind is not None:
            remove_node(self._group)
        return False

    def append(self, columns: Mapping[str, ArrayLike]) -> None:
        """Add the next rows; every call has the same columns.

        Parameters
        ----------
        columns
            By name, of ``POSE_LAYOUT``: ``rotation`` (k, 4) and ``shift`` (k, 2) at least.

        Raises
        ------
        InputError
            If a column is not known, missing or misshapen, a rotation is not a unit quaternion, or there are
            more rows than particles.
        """
        arrays = _checked(self._group, columns, self._written + self._filled)
        if not self._arrays:
            self._create(arrays)
        if arrays.keys() != self._arrays.keys():
            raise InputError(
                f"{self._group}: a window has the columns {', '.join(arrays)} and the first had "
                f"{', '.join(self._arrays)}; give the same ones"
            )
        rows = len(arrays["rotation"])
        if self._written + self._filled + rows > self._count:
            raise InputError(
                f"{self._group}: more poses than its {self._count} particles; give one per particle"
            )
        _hash(self._hashes, arrays)
        done = 0
        while done < rows:
            # whole chunks: none is read back to be written again
            take = min(rows - done, ROWS - self._filled)
            for name, values in arrays.items():
                self._buffers[name][self._filled : self._filled + take] = values[done : done + take]
            done += take
            self._filled += take
            if self._filled == min(ROWS, self._count - self._written):
                self._flush()

    def _create(self, arrays: Columns) -> None:
        rows = min(ROWS, self._count)
        with reporting(self._group):
            store = zarr_store(self._group)
            for name, values in arrays.items():
                _, axes, unit = POSE_LAYOUT[name]
                inner = values.shape[1:]
                self._arrays[name] = create_array(
                    store, name, (self._count, *inner), values.dtype, ("particle", *axes),
                    chunks=(rows, *inner), attributes={"units": unit},
                )  # fmt: skip
                self._buffers[name] = np.empty((rows, *inner), values.dtype)

    def _flush(self) -> None:
        rows = slice(self._written, self._written + self._filled)
        with reporting(self._group):
            for name, array in self._arrays.items():
                array[rows] = self._buffers[name][: self._filled]
        self._written += self._filled
        self._filled = 0

    def _finish(self) -> None:
        if self._written != self._count:
            came = self._written + self._filled
            raise InputError(
                f"{self._group}: poses of {came} particles came for {self._count}; give one per particle"
            )
        # What names the columns comes last: poses that were cut short are not listed.
        write_group(
            self._group,
            {
                "iteration": int(self._group.rpartition("/")[2]),
                "count": self._count,
                "columns": list(self._arrays),
                "digest": _digest(self._hashes),
                "attributes": self._attrs,
            },
        )


def _checked(group: str, columns: Mapping[str, ArrayLike], first: int = 0) -> Columns:
    """Columns in the types of the layout; ``first`` is the number of their first row."""
    if unknown := [name for name in columns if name not in POSE_LAYOUT]:
        raise InputError(f"{group}: {unknown[0]} is not a column of poses; they are {', '.join(POSE_LAYOUT)}")
    if missing := [name for name in NEEDED if name not in columns]:
        raise InputError(f"{group}: the column {missing[0]} is missing; give rotation and shift")
    arrays = {
        name: np.ascontiguousarray(columns[name], dtype)
        for name, (dtype, _, _) in POSE_LAYOUT.items()
        if name in columns
    }
    rows = arrays["rotation"].shape[:1]
    for name, values in arrays.items():
        wanted = (*rows, *(AXIS_LENGTH[axis] for axis in POSE_LAYOUT[name][1]))
        if values.shape != wanted:
            raise InputError(
                f"{group}: the column {name} has the shape {values.shape}, not {wanted}; "
                "give one row per particle"
            )
    rotation = arrays["rotation"]
    norm = np.sqrt((rotation**2).sum(axis=1))
    good = np.isnan(rotation).all(axis=1) | (
        (np.abs(norm - 1) < 1e-3) & np.isfinite(arrays["shift"]).all(axis=1)
    )
    if not good.all():
        raise InputError(
            f"{group}: row {first + int(np.argmin(good)) + 1} is neither a unit quaternion with a shift nor "
            "NaN; give a pose or none"
        )
    return arrays


def _hash(hashes: dict[str, Any], arrays: Columns) -> None:
    """Feed the bytes of columns to their hashes, which do not depend on where windows end."""
    for name, values in arrays.items():
        hashes.setdefault(name, hashlib.sha256()).update(values)


def _hashed(arrays: Columns) -> dict[str, Any]:
    hashes: dict[str, Any] = {}
    _hash(hashes, arrays)
    return hashes


def _digest(hashes: Mapping[str, Any]) -> str:
    """One digest of the columns and what they hold."""
    parts = [f"{name} {hashes[name].hexdigest()}" for name in sorted(hashes)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
