"""Two half maps, from wherever they are kept: a run, or two maps of any kind."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.errors import InputError
from dcryo.io.location import Location, is_remote
from dcryo.io.run_store import MAP_SUFFIXES, RunStore, open_run, read_map
from dcryo.io.store_root import read_mark
from dcryo.methods.postprocess_config import HALF_MAPS
from dcryo.methods.progress import Progress

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class HalfMaps:
    """Half maps (n, n, n) of one box, ``pixel_size`` in Å, where they came from, and their run if any."""

    first: Float32
    second: Float32
    pixel_size: float
    names: tuple[str, str]
    run: RunStore | None

    @property
    def average(self) -> Float32:
        """The mean of both."""
        return (self.first + self.second) * np.float32(0.5)

    @property
    def files(self) -> tuple[str, str] | None:
        """The names, where both are plain map files that other programs find."""
        plain = all(name.endswith(MAP_SUFFIXES) and not name.endswith(".gz") for name in self.names)
        return self.names if plain else None


def read_half_maps(
    source: Location,
    other: Location | None,
    kind: str,
    pixel_size: float | None,
    progress: Progress,
) -> HalfMaps:
    """The half maps of a run, or those in two places.

    Parameters
    ----------
    source : path or URL
        A finished run, or the first half map as :func:`read_map` takes it.
    other : path or URL, optional
        The second half map.  Where ``source`` is a file with ``half1`` in its name, by default the file with
        ``half2`` instead (as RELION has it).
    kind : {"linear", "regularised"}
        Which half maps of a run.
    pixel_size : float, optional
        Å per voxel, instead of the one that the maps state.

    Raises
    ------
    InputError
        No such maps, a run without half maps or that is not finished, maps of different boxes or pixel
        sizes, no pixel size at all, or the same map twice.
    """
    text = os.fspath(source)
    mark = None if text.endswith(MAP_SUFFIXES) else read_mark(text)
    if mark is not None and mark["kind"] == "run":
        if other is not None:
            raise InputError(f"{text}: a run brings both of its half maps; leave out {os.fspath(other)}")
        run = open_run(text)
        parts, names = _of_run(run, text, kind), tuple(f"{text}:{name}" for name in HALF_MAPS[kind])
    else:
        run = None
        names = (text, os.fspath(other) if other is not None else _other_half(text, progress))
        parts = [read_map(name) for name in names]
    (first, pixel), (second, pixel_2) = parts
    if first.shape != second.shape:
        raise InputError(
            f"{names[0]} has the shape {first.shape} and {names[1]} {second.shape}; give half maps of one box"
        )
    if len(set(first.shape)) != 1 or len(first) < 4:
        raise InputError(
            f"{names[0]} has the shape {first.shape}; half maps must be cubes of 4 voxels or more"
        )
    if pixel_size is None and not (pixel > 0 and abs(pixel - pixel_2) <= 0.01 * pixel):
        raise InputError(
            f"{names[0]} has {pixel:g} Å per pixel and {names[1]} {pixel_2:g}; state it with --pixel-size"
        )
    if np.array_equal(first, second):
        raise InputError(f"{names[0]} and {names[1]} are the same map; give the maps of two half sets")
    return HalfMaps(first, second, pixel if pixel_size is None else pixel_size, (names[0], names[1]), run)


def _of_run(run: RunStore, text: str, kind: str) -> list[tuple[NDArray[Any], float]]:
    if not run.complete:
        raise InputError(f"{text}: this run is not finished; give its command again and it goes on")
    held = run.volumes()
    if not set(HALF_MAPS[kind]) <= set(held):
        raise InputError(
            f"{text}: has no {kind} half maps ({', '.join(HALF_MAPS[kind])}), only {', '.join(held)}; "
            "run again with half sets (--halves)"
        )
    maps = [run.volume(name) for name in HALF_MAPS[kind]]
    return [(volume.astype(np.float32, copy=False), pixel_size) for volume, pixel_size in maps]


def _other_half(text: str, progress: Progress) -> str:
    """The name of the second half map that goes with a file called half1."""
    folder, name = os.path.split(text)
    other = os.path.join(folder, "half2".join(name.rsplit("half1", 1)))
    if other == text or is_remote(text) or not Path(other).exists():
        raise InputError(f"{text}: is one map; give a run, or the other half map with --half2")
    progress.message(f"the other half map is {other}")
    return other
