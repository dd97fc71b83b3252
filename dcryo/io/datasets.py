"""Stores as xarray objects, lazily."""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import Any

import numpy as np
import xarray as xr

from dcryo.io.chunks import checked_store
from dcryo.io.location import Location, normalise, reporting
from dcryo.io.particle_schema import TABLES
from dcryo.io.particle_store import open_particles
from dcryo.io.run_poses import POSES
from dcryo.io.run_store import TABLES as RUN_TABLES
from dcryo.io.run_store import open_run
from dcryo.io.store_root import read_mark

# Our stores have no consolidated metadata (Zarr v3 has none), and their numbers are what they are.
OPTIONS: dict[str, Any] = {
    "engine": "zarr",
    "consolidated": False,
    "chunks": None,
    "mask_and_scale": False,
    "decode_times": False,
}


def open(url: Location) -> xr.Dataset | xr.DataTree:
    """Open a particle store as a Dataset, a run as a DataTree; values are read when they are used.

    Parameters
    ----------
    url
        Path or URL.

    Returns
    -------
    xarray.Dataset or xarray.DataTree
        Particles come as one Dask chunk per shard where dask is installed.  A missing or damaged chunk is an
        error when it is read.  The true volume and poses of a simulated set are the variables
        ``truth_volume``, ``truth_rotation`` and ``truth_shift``; names of micrographs and sources are the
        coordinates ``micrographs`` and ``sources``.

    Raises
    ------
    InputError
        If there is no finished particle store and no run at ``url``.
    """
    url = normalise(url)
    mark = read_mark(url)
    store: Any = checked_store(url) if mark is not None else None
    if mark is not None and mark["kind"] == "run":
        run = open_run(url)
        # By name: a run also holds what is not Zarr, its scratch and its report.
        groups = [*run.volumes(), *(f"{RUN_TABLES}/{name}" for name in run.tables())]
        groups += [f"{POSES}/{iteration:04d}" for iteration in run.pose_iterations()]
        with reporting(url):
            parts = {name: xr.open_dataset(store, group=name, **OPTIONS) for name in groups}
        return xr.DataTree.from_dict({"/": xr.Dataset(attrs=run.attributes), **parts})
    particles = open_particles(url)
    with reporting(url):
        dataset = xr.open_dataset(store, **OPTIONS)
        names = {name: np.array(json.loads(dataset[name].values.tobytes()), dtype=str) for name in TABLES}
        dataset = dataset.drop_vars(TABLES).assign_coords(names)
        extra = particles.attributes["dcryo"]["extra"]
        if known := sorted(name.removeprefix("truth/") for name in extra if name.startswith("truth/")):
            truth = xr.open_dataset(store, group="truth", **OPTIONS)
            dataset = dataset.assign({f"truth_{name}": truth[name] for name in known})
    # From a lazy array, so that one task reads one shard; xarray's own choice would be the chunks inside it.
    return dataset.chunk(particle=particles.shard) if find_spec("dask") else dataset
