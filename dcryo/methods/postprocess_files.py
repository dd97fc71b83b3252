"""The folder that post-processing leaves: RELION's names, and all of it or nothing."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dcryo import __version__
from dcryo.errors import InputError
from dcryo.io.fsc_xml import write_fsc_xml
from dcryo.io.location import Location
from dcryo.io.mrc import write_volume
from dcryo.io.postprocess_star import GUINIER_COLUMNS, write_postprocess_star, write_star
from dcryo.io.store_root import plain, read_mark
from dcryo.methods.postprocess_config import PostprocessConfig
from dcryo.methods.postprocess_figure import write_figure
from dcryo.methods.postprocess_measure import Directional, Measured

MAP = "postprocess.mrc"
MASKED = "postprocess_masked.mrc"
MASK = "postprocess_mask.mrc"
STAR = "postprocess.star"
XML = "postprocess_fsc.xml"
PICTURE = "postprocess.png"
RECORD = "postprocess.json"
HALVES = ("postprocess_half1_unfil.mrc", "postprocess_half2_unfil.mrc")
LOCRES = ("postprocess_locres.mrc", "postprocess_locres_filtered.mrc")
DIRECTIONS = "postprocess_directions.star"
NAMES = (MAP, MASKED, MASK, STAR, XML, PICTURE, RECORD, *HALVES, *LOCRES, DIRECTIONS)


def free_folder(out: Location, overwrite: bool) -> Path:
    """The folder ``out``, if it may be written.

    Raises
    ------
    InputError
        A URL, a file, a store, a folder that is not empty (without ``overwrite``), or no folder to make it
        in.
    """
    if "://" in os.fspath(out):
        raise InputError(f"{os.fspath(out)}: the results are written to a local folder; give a path")
    target = Path(out)
    if target.exists() and not target.is_dir():
        raise InputError(f"{target}: is a file; give the name of a folder")
    if target.is_dir() and read_mark(target) is not None:
        raise InputError(f"{target}: is a store, which is left as it is; give another folder for the results")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise InputError(f"{target}: exists already; give another name or --overwrite")
    if not target.absolute().parent.is_dir():
        raise InputError(f"{target}: the folder {target.parent} does not exist; create it first")
    return target


@contextmanager
def publish(target: Path) -> Iterator[Path]:
    """Give a folder beside ``target`` to write into; on success it becomes ``target``, else it is removed.

    In a folder that is there already, our files replace those of the same names, our older ones go, and
    what is not ours stays.
    """
    place = target.absolute()
    temporary = place.with_name(f".{place.name}.{uuid.uuid4().hex}.partial")
    temporary.mkdir()
    try:
        yield temporary
        if not place.exists():
            temporary.rename(place)
            return
        written = {path.name for path in temporary.iterdir()}
        for name in sorted(written):
            (temporary / name).replace(place / name)
        for name in set(NAMES) - written:
            (place / name).unlink(missing_ok=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_results(
    folder: Path,
    target: Path,
    found: Measured,
    config: PostprocessConfig,
    result: Mapping[str, Any],
) -> list[str]:
    """Write everything into ``folder``, with paths as they will be in ``target``; returns the names."""
    halves, sharpened, fsc = found.halves, found.sharpened, found.fsc
    pixel, fit = halves.pixel_size, sharpened.fit
    write_volume(folder / MAP, sharpened.volume, pixel)
    write_volume(folder / MASKED, sharpened.volume * found.mask, pixel)
    write_volume(folder / MASK, found.mask, pixel)
    files = halves.files
    if files is None:  # other programs, and the EMDB, take half maps as files
        for name, volume in zip(HALVES, (halves.first, halves.second), strict=True):
            write_volume(folder / name, volume, pixel)
        files = (str(target / HALVES[0]), str(target / HALVES[1]))
    if found.local is not None:
        for name, volume in zip(LOCRES, (found.local.resolution, found.local.filtered), strict=True):
            write_volume(folder / name, volume, pixel)
    general = {
        "rlnFinalResolution": found.final_resolution,
        "rlnBfactorUsedForSharpening": sharpened.bfactor,
        "rlnUnfilteredMapHalf1": files[0],
        "rlnUnfilteredMapHalf2": files[1],
        "rlnMaskName": str(target / MASK),
        "rlnRandomiseFrom": result["randomised_from_A"],
        "rlnFittedSlopeGuinierPlot": None if fit is None else fit.slope,
        "rlnFittedInterceptGuinierPlot": None if fit is None else fit.intercept,
        "rlnCorrelationFitGuinierPlot": None if fit is None else fit.correlation,
    }
    curves = {name: getattr(fsc, name) for name in ("corrected", "unmasked", "masked", "randomised")}
    guinier = {name: getattr(sharpened, name) for name in GUINIER_COLUMNS}
    if config.mtf is None:
        del guinier["mtf_corrected"]
    write_postprocess_star(
        folder / STAR, general, found.frequency, curves, guinier, None if fit is None else fit.intercept
    )
    write_fsc_xml(folder / XML, found.frequency, fsc.corrected, "dcryo masked-corrected FSC")
    if found.directional is not None:
        _write_directions(folder / DIRECTIONS, found.frequency, found.directional)
    write_figure(folder / PICTURE, found)
    names = sorted({path.name for path in folder.iterdir()} | {RECORD})
    record = {"dcryo": __version__, "config": asdict(config), "result": dict(result) | {"files": names}}
    text = json.dumps(plain(record), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")
    return names


def _write_directions(path: Path, frequency: NDArray[np.float64], found: Directional) -> None:
    """Resolution of every direction, and the spread of the curves in every shell."""
    x, y, z = found.directions.T
    directions = {
        "dcryoDirectionX": x,
        "dcryoDirectionY": y,
        "dcryoDirectionZ": z,
        "dcryoResolution0143": found.resolution,
        "dcryoResolution05": found.resolution_05,
    }
    spread = {
        "rlnSpectralIndex": np.arange(len(frequency)),
        "rlnResolution": frequency,
        "dcryoFscMean": found.curves.mean(axis=0),
        "dcryoFscStandardDeviation": found.curves.std(axis=0),
        "dcryoFscMinimum": found.curves.min(axis=0),
        "dcryoFscMaximum": found.curves.max(axis=0),
    }
    write_star(path, {"directions": pd.DataFrame(directions), "directional_fsc": pd.DataFrame(spread)})
