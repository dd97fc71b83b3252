"""Run stores: what a reconstruction leaves behind.

::

    <volume>/0 (z, y, x)      each volume is its own OME-Zarr 0.5 image; napari opens RUN/full
    tables/<table>/<column>   the FSC, the history, ...
    poses/<iteration>/        of a refinement: poses after every iteration (dcryo.io.run_poses)
    scratch/                  durable partial sums, removed by ``dcryo clean``

The attributes of the root hold the configuration, the plan, the versions and the result.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dcryo.errors import DamagedStoreError, InputError
from dcryo.io.chunks import checked_store, read_array, write_array
from dcryo.io.location import Location, children, exists, is_remote, join, normalise, reporting, zarr_store
from dcryo.io.mrc import read_volume
from dcryo.io.particle_store import open_particles
from dcryo.io.run_poses import POSES, RunPoses
from dcryo.io.store_root import (
    ROOT,
    SCRATCH,
    claim,
    open_root,
    plain,
    read_group,
    read_mark,
    remove_node,
    write_group,
)

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
MAP_SUFFIXES = (".mrc", ".map", ".ccp4", ".mrc.gz", ".map.gz", ".ccp4.gz")
TABLES = "tables"


class RunStore(RunPoses):
    """A run, finished or under way; made by :func:`create_run` and :func:`open_run`.

    One process writes it.  Each write is complete when it returns, and a volume or table that was only begun
    is not listed.
    """

    def __repr__(self) -> str:
        return f"RunStore({self.url!r})"

    @property
    def attributes(self) -> dict[str, Any]:
        """All attributes of the root, read afresh."""
        return open_root(self.url, "run")

    def update(self, **attributes: Any) -> None:
        """Set attributes of the root.  Numpy values become JSON's, NaN and infinity null."""
        known = self.attributes
        if "dcryo" in attributes:
            raise InputError(f"{self.url}: the attribute dcryo belongs to the store; choose another name")
        write_group(self.url, known | plain(attributes))

    def finish(self, result: Mapping[str, Any]) -> None:
        """Record the result and mark the run complete."""
        known = self.attributes
        known["dcryo"]["complete"] = True
        write_group(self.url, known | {"result": plain(result)})

    @property
    def complete(self) -> bool:
        """Whether the run was finished."""
        return bool(self.attributes["dcryo"].get("complete"))

    @property
    def method(self) -> str:
        """The command that made the run: reconstruct, refine, ..."""
        return str(self.attributes["method"])

    @property
    def scratch(self) -> str:
        """URL of the prefix for what is only needed until the run is complete."""
        return join(self.url, SCRATCH)

    def clean(self) -> None:
        """Remove the scratch prefix."""
        remove_node(self.scratch)

    def write_volume(self, name: str, array: ArrayLike, pixel_size: float) -> None:
        """Write a volume (nz, ny, nx), replacing one of that name; ``pixel_size`` in Å.

        float32 and float64 are kept, everything else becomes float32.
        """
        self._check_name(name)
        if name == POSES:
            raise InputError(f"{name!r} cannot name a volume of a run, which keeps its poses there")
        volume = np.asarray(array)
        if volume.ndim != 3 or not volume.size:
            raise InputError(
                f"{self.url}: the volume {name} has the shape {volume.shape}; it must have three axes"
            )
        if not (np.isfinite(pixel_size) and pixel_size > 0):
            raise InputError(
                f"{self.url}: the volume {name} has a pixel size of {pixel_size} Å; it must be positive"
            )
        if volume.dtype != np.float64:
            volume = volume.astype(np.float32, copy=False)
        group = join(self.url, name)
        remove_node(group)
        write_group(group, {})
        with reporting(group):
            write_array(zarr_store(group), "0", np.ascontiguousarray(volume), ("z", "y", "x"))
        # What names the image comes last: a volume that was cut short has no multiscales and is not listed.
        axes = [{"name": axis, "type": "space", "unit": "angstrom"} for axis in "zyx"]
        scale = [{"type": "scale", "scale": [float(pixel_size)] * 3}]
        image = {"name": name, "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
        write_group(group, {"ome": {"version": "0.5", "multiscales": [image]}})

    def volume(self, name: str) -> tuple[NDArray[Any], float]:
        """A volume (nz, ny, nx) and its pixel size in Å.

        Raises
        ------
        InputError
            If there is no volume of that name.
        DamagedStoreError
            If a chunk of it is missing or fails its checksum.
        """
        self._check_name(name)
        group = join(self.url, name)
        image = self._image(name)
        if image is None:
            known = ", ".join(self.volumes()) or "none"
            raise InputError(f"{self.url} has no volume {name}; it has: {known}")
        try:
            dataset = image["datasets"][0]
            scale = dataset["coordinateTransformations"][0]["scale"]
            pixel_size, path = float(scale[-1]), str(dataset["path"])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DamagedStoreError(
                f"{group}: the OME-Zarr attributes are damaged; write it again"
            ) from error
        return read_array(checked_store(group), path), pixel_size

    def _image(self, name: str) -> dict[str, Any] | None:
        ome = (read_group(join(self.url, name)) or {}).get("ome")
        images = ome.get("multiscales") if isinstance(ome, dict) else None
        return images[0] if isinstance(images, list) and images else None

    def volumes(self) -> list[str]:
        """Names of the volumes, sorted."""
        names = [name for name in children(self.url) if name not in (TABLES, POSES, SCRATCH, ROOT)]
        return [name for name in names if NAME.fullmatch(name) and self._image(name) is not None]

    def write_table(
        self, name: str, columns: Mapping[str, ArrayLike], attrs: Mapping[str, Any] | None = None
    ) -> None:
        """Write a table of numbers, replacing one of that name.

        Parameters
        ----------
        name
            Name of the table.
        columns
            Arrays of any shape.  Columns of one length share the axis ``row``; where their lengths differ, as
            for a histogram and its bins, each has axes of its own.
        attrs
            Attributes of the table.
        """
        self._check_name(name)
        arrays = {column: np.asarray(values) for column, values in columns.items()}
        for column, values in arrays.items():
            if not NAME.fullmatch(column) or values.dtype.kind not in "biufc":
                raise InputError(
                    f"{self.url}: the column {column!r} of the table {name} is not a plain name with numbers"
                )
        lengths = {values.shape[:1] for values in arrays.values()}
        shared = len(lengths) == 1 and () not in lengths
        group = join(self.url, TABLES, name)
        remove_node(group)
        write_group(group, {})
        with reporting(group):
            store = zarr_store(group)
            for column, values in arrays.items():
                axes = [f"{column}_{axis}" for axis in range(values.ndim)]
                if shared:
                    axes[0] = "row"
                write_array(store, column, values, tuple(axes))
        write_group(group, {"columns": list(arrays), "attributes": dict(attrs or {})})

    def table(self, name: str) -> dict[str, NDArray[Any]]:
        """The columns of a table.

        Raises
        ------
        InputError
            If there is no table of that name.
        DamagedStoreError
            If a chunk of it is missing or fails its checksum.
        """
        names = self._table_record(name)["columns"]
        store = checked_store(join(self.url, TABLES, name))
        return {column: read_array(store, column) for column in names}

    def table_attributes(self, name: str) -> dict[str, Any]:
        """The attributes of a table."""
        return dict(self._table_record(name)["attributes"])

    def _table_record(self, name: str) -> dict[str, Any]:
        self._check_name(name)
        record = read_group(join(self.url, TABLES, name)) or {}
        if "columns" not in record:
            known = ", ".join(self.tables()) or "none"
            raise InputError(f"{self.url} has no table {name}; it has: {known}")
        return record

    def tables(self) -> list[str]:
        """Names of the tables, sorted."""
        folder = join(self.url, TABLES)
        names = [name for name in children(folder) if NAME.fullmatch(name)]
        return [name for name in names if "columns" in (read_group(join(folder, name)) or {})]

    def _check_name(self, name: str) -> None:
        if not NAME.fullmatch(name) or name in (TABLES, SCRATCH):
            raise InputError(f"{name!r} cannot name a part of a run; use letters, digits, '_' and '-'")

    def check(self) -> list[str]:
        """Everything that is wrong with the run, a sentence each; reads all volumes, tables and poses."""
        problems = [] if self.complete else [f"{self.url} was not finished; run the same command again"]
        for read, names in ((self.volume, self.volumes()), (self.table, self.tables())):
            for name in names:
                try:
                    read(name)
                except DamagedStoreError as error:
                    problems.append(str(error))
        return problems + self._check_poses()


def create_run(url: Location, kind: str, config: Mapping[str, Any], *, overwrite: bool = False) -> RunStore:
    """Begin a run, or resume the one at ``url`` if it has the same configuration.

    Parameters
    ----------
    url
        Path or URL.
    kind
        The method: reconstruct, refine, ...
    config
        What JSON can say; it decides whether an existing run is this one.
    overwrite
        Replace a run, whatever its configuration.  Files in its folder that dcryo did not write stay.

    Returns
    -------
    RunStore
        Its ``complete`` is True if the same run is already finished.

    Raises
    ------
    InputError
        If ``url`` holds another run (without ``overwrite``), or anything that is not a run.
    """
    url = normalise(url)
    settings = json.loads(json.dumps(plain(config)))
    mark = read_mark(url)
    if mark is not None and mark["kind"] == "run" and not overwrite:
        known = open_root(url, "run")
        if difference := _difference(known, kind, settings):
            raise InputError(
                f"{url} is a run with {difference}; choose another name, or --overwrite to replace it"
            )
        return RunStore(url)
    claim(url, "run", {"method": kind, "config": settings}, overwrite=overwrite)
    write_group(join(url, TABLES), {})
    return RunStore(url)


def _difference(known: Mapping[str, Any], method: str, config: Mapping[str, Any]) -> str:
    """How an existing run differs from the one that is asked for; empty if it does not."""
    if known.get("method") != method:
        return f"the method {known.get('method')} instead of {method}"
    before = known.get("config") or {}
    for name in sorted(before.keys() | config.keys()):
        old, new = before.get(name), config.get(name)
        if name not in before or name not in config or old != new:
            return f"{name} = {json.dumps(old)} instead of {json.dumps(new)}"
    return ""


def open_run(url: Location) -> RunStore:
    """Open a run, finished or not; InputError if there is none."""
    run = RunStore(normalise(url))
    open_root(run.url, "run")
    return run


def read_map(spec: Location) -> tuple[NDArray[np.float32], float]:
    """A map wherever one is taken: a file, a run, ``RUN:half1``, ``PARTICLES:truth``.

    Parameters
    ----------
    spec
        An MRC file (.mrc, .map, .ccp4, gzipped or not); a run, which means its full map; a run, a colon and
        the name of one of its volumes; or a particle store, a colon and ``truth``.

    Returns
    -------
    volume : (nz, ny, nx) float32
    pixel_size : float
        Å.

    Raises
    ------
    InputError
        If it is none of these, or there is no such volume.
    """
    text = os.fspath(spec)
    if text.endswith(MAP_SUFFIXES):
        if is_remote(text):
            raise InputError(f"{text}: MRC files are read from disk; copy it to a local path first")
        return read_volume(text)
    url, name = text, ""
    head, colon, tail = text.rpartition(":")
    if colon and NAME.fullmatch(tail) and read_mark(text) is None:
        url, name = head, tail
    mark = read_mark(url)
    if mark is None:
        state = "is not a map, a run or a particle store" if exists(url) else "does not exist"
        raise InputError(f"{normalise(url)} {state}; give a .mrc file, RUN, RUN:half1 or PARTICLES:truth")
    if mark["kind"] == "run":
        volume, pixel_size = open_run(url).volume(name or "full")
        return volume.astype(np.float32, copy=False), pixel_size
    particles = open_particles(url)
    truth = particles.truth()
    if name != "truth":
        held = f"the only map in it is {url}:truth" if truth is not None else "it holds no map"
        raise InputError(f"{particles.url} is a particle store, and {held}; give a map, or a run")
    if truth is None:
        raise InputError(f"{particles.url} has no true volume; only simulated sets do")
    return truth, particles.pixel_size
