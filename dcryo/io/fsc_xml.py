"""FSC curves in the XML form that the EMDB takes at deposition (the one RELION writes)."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import ArrayLike

from dcryo.errors import InputError
from dcryo.io.atomic import atomic_file


def write_fsc_xml(path: str | os.PathLike[str], frequency: ArrayLike, fsc: ArrayLike, title: str) -> Path:
    """Write one FSC curve.

    Parameters
    ----------
    path : path
        The file appears whole or not at all.
    frequency : (k,) array
        1/Å.
    fsc : (k,) array
    title : str

    Raises
    ------
    InputError
        Curves of different lengths, or values that are not finite.
    """
    x, y = np.asarray(frequency, np.float64), np.asarray(fsc, np.float64)
    if x.ndim != 1 or x.shape != y.shape or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError(f"{path}: an FSC needs as many finite values as frequencies; compute it again")
    root = ElementTree.Element("fsc", title=title, xaxis="Resolution (A-1)", yaxis="Correlation Coefficient")
    for frequency_, value in zip(x.tolist(), y.tolist(), strict=True):
        point = ElementTree.SubElement(root, "coordinate")
        ElementTree.SubElement(point, "x").text = f"{frequency_:.6f}"
        ElementTree.SubElement(point, "y").text = f"{value:.6f}"
    ElementTree.indent(root)
    with atomic_file(path) as temporary:
        ElementTree.ElementTree(root).write(temporary, encoding="unicode")
    return Path(path)
