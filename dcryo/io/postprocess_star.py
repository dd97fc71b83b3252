"""Tables of post-processing in RELION's form: what ``relion_postprocess`` writes, and the MTF it reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import starfile
from numpy.typing import ArrayLike, NDArray

from dcryo.errors import InputError
from dcryo.io.atomic import atomic_file
from dcryo.io.star import FLOAT_FORMAT
from dcryo.io.star_tables import read_blocks

FloatArray = NDArray[np.float64]

NOTHING = -99.0
"""What RELION writes for the logarithm of 0."""

MEAN_RESOLUTION = 999.0
"""What RELION writes for the resolution of shell 0, in Å."""

FSC_COLUMNS = {
    "corrected": "rlnFourierShellCorrelationCorrected",
    "unmasked": "rlnFourierShellCorrelationUnmaskedMaps",
    "masked": "rlnFourierShellCorrelationMaskedMaps",
    "randomised": "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps",
}

GUINIER_COLUMNS = {
    "original": "rlnLogAmplitudesOriginal",
    "mtf_corrected": "rlnLogAmplitudesMTFCorrected",
    "weighted": "rlnLogAmplitudesWeighted",
    "sharpened": "rlnLogAmplitudesSharpened",
}

MTF_COLUMNS = ("rlnResolutionInversePixel", "rlnMtfValue")


def write_postprocess_star(
    path: str | os.PathLike[str],
    general: Mapping[str, Any],
    frequency: FloatArray,
    fsc: Mapping[str, FloatArray],
    guinier: Mapping[str, FloatArray],
    intercept: float | None,
) -> Path:
    """Write ``data_general``, ``data_fsc`` and ``data_guinier`` with RELION's columns.

    Parameters
    ----------
    path : path
        The file appears whole or not at all.
    general : mapping
        Columns of ``data_general`` by RELION's names; None is left out.
    frequency : ndarray, (k,)
        1/Å, of the shells 0 to k - 1.
    fsc : mapping of ndarray, (k,)
        Curves by the names in ``FSC_COLUMNS``.
    guinier : mapping of ndarray, (k,)
        Mean amplitudes by the names in ``GUINIER_COLUMNS``; their logarithms are written, -99 for 0.
    intercept : float, optional
        Of the line that was fitted.
    """
    angstrom = np.full(len(frequency), MEAN_RESOLUTION)
    np.divide(1, frequency, out=angstrom, where=frequency > 0)
    shells: dict[str, ArrayLike] = {
        "rlnSpectralIndex": np.arange(len(frequency)),
        "rlnResolution": 1 / angstrom,
        "rlnAngstromResolution": angstrom,
    }
    shells |= {FSC_COLUMNS[name]: fsc[name] for name in FSC_COLUMNS if name in fsc}
    plot: dict[str, ArrayLike] = {"rlnResolutionSquared": frequency**2}
    for name, column in GUINIER_COLUMNS.items():
        if name in guinier:
            logarithm = np.full(len(frequency), NOTHING)
            plot[column] = np.log(guinier[name], out=logarithm, where=guinier[name] > 0)
    if intercept is not None:
        plot["rlnLogAmplitudesIntercept"] = np.full(len(frequency), intercept)
    # A dictionary of single values becomes a block of them, as RELION's data_general is.
    return write_star(
        path,
        {
            "general": {name: value for name, value in general.items() if value is not None},
            "fsc": pd.DataFrame(shells),
            "guinier": pd.DataFrame(plot),
        },
    )


def write_star(path: str | os.PathLike[str], blocks: Mapping[str, Any]) -> Path:
    """Write blocks, data frames or mappings of single values, as a STAR file; whole or not at all."""
    with atomic_file(path) as temporary:
        starfile.write(dict(blocks), temporary, float_format=FLOAT_FORMAT)
    return Path(path)


def read_mtf(path: str | os.PathLike[str]) -> tuple[FloatArray, FloatArray]:
    """Modulation transfer function of a detector, from a STAR file as RELION takes it.

    Returns
    -------
    frequency : ndarray, (k,)
        Cycles per pixel of the detector, ascending.
    value : ndarray, (k,)
        Positive.

    Raises
    ------
    InputError
        No such file, no STAR file, no table with the two columns, or values that make no sense.
    """
    path = Path(path)
    tables = [frame for frame in read_blocks(path).values() if set(MTF_COLUMNS) <= set(frame)]
    if len(tables) != 1:
        raise InputError(
            f"{path}: {len(tables)} tables with the columns {' and '.join(MTF_COLUMNS)}; "
            "give the STAR file of one MTF"
        )
    frequency, value = (
        np.asarray(pd.to_numeric(tables[0][name], errors="coerce"), np.float64) for name in MTF_COLUMNS
    )
    bad = np.flatnonzero(~(np.isfinite(frequency) & (value > 0)))
    if len(bad):
        raise InputError(
            f"{path}: row {bad[0] + 1} of the MTF has no number or a value that is not positive; correct it"
        )
    if len(frequency) < 2 or np.any(np.diff(frequency) <= 0):
        raise InputError(f"{path}: {MTF_COLUMNS[0]} does not rise from row to row; sort the rows by it")
    return frequency, value
