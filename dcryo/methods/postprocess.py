"""Post-processing: from two half maps to a sharpened map and all that says how good it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from dcryo.io.location import Location
from dcryo.io.store_root import plain
from dcryo.methods.half_maps import read_half_maps
from dcryo.methods.postprocess_config import PostprocessConfig
from dcryo.methods.postprocess_files import free_folder, publish, write_results
from dcryo.methods.postprocess_measure import measure, summary
from dcryo.methods.progress import Progress, Silent
from dcryo.operators.compiled import thread_count


@dataclass(frozen=True)
class Postprocessed:
    """What :func:`postprocess` leaves: a folder, the numbers of ``--json``, and the FSC curves.

    ``fsc`` has the columns ``frequency`` (1/Å), ``unmasked``, ``masked``, ``randomised`` and ``corrected``,
    each (n//2+1,).
    """

    folder: Path
    result: dict[str, Any]
    fsc: dict[str, NDArray[np.float64]]


def postprocess(
    maps: Location,
    out: Location,
    config: PostprocessConfig | None = None,
    *,
    half2: Location | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    threads: int = 0,
) -> Postprocessed:
    """Mask, FSC, sharpened map, local and directional resolution of two half maps.

    Parameters
    ----------
    maps : path or URL
        A finished run, or the first half map: a file, ``RUN:linear1`` ...
    out : path
        Local folder for the results, with RELION's names (``postprocess.mrc``, ``postprocess.star`` ...).
        Nothing in a run is changed.
    config : PostprocessConfig, optional
    half2 : path or URL, optional
        The second half map, where ``maps`` is the first; by default the file with ``half2`` in its name in
        place of ``half1``.
    progress : Progress, optional
    overwrite : bool
        Replace the results in a folder that is there.
    threads : int
        0: one per core.  No result depends on it.

    Returns
    -------
    Postprocessed

    Raises
    ------
    InputError
        Half maps that are missing or do not belong together, a mask that is empty or covers the box, an MTF
        that cannot be read, or a folder in the way.  Nothing is written then.

    Notes
    -----
    The steps and their defaults are RELION's (Scheres 2012, J. Struct. Biol. 180:519; Rosenthal and Henderson
    2003; Chen et al. 2013), the differences are listed in ``docs/postprocess.md``.
    """
    config = config or PostprocessConfig()
    progress = progress or Silent()
    target = free_folder(out, overwrite)
    halves = read_half_maps(maps, half2, config.maps, config.pixel_size, progress)
    workers = thread_count(threads)
    with scipy.fft.set_workers(workers):
        found = measure(halves, config, progress, workers)
    progress.start("writing", None)
    result: dict[str, Any] = plain(summary(found))
    with publish(target) as folder:
        files = write_results(folder, target, found, config, result)
    curves = {name: getattr(found.fsc, name) for name in ("unmasked", "masked", "randomised", "corrected")}
    return Postprocessed(
        target, {"folder": str(target), **result, "files": files}, {"frequency": found.frequency} | curves
    )
