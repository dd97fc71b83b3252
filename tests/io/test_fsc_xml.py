"""The FSC curve as the EMDB reads it."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from dcryo.errors import InputError
from dcryo.io.fsc_xml import write_fsc_xml


def test_elements_of_the_emdb(tmp_path: Path) -> None:
    x, y = np.linspace(0, 0.25, 9), np.cos(np.arange(9.0))
    root = ElementTree.parse(write_fsc_xml(tmp_path / "a.xml", x, y, "a <title>")).getroot()
    assert root.tag == "fsc"
    assert root.attrib == {
        "title": "a <title>",
        "xaxis": "Resolution (A-1)",
        "yaxis": "Correlation Coefficient",
    }
    points = [(float(c.find("x").text), float(c.find("y").text)) for c in root.findall("coordinate")]
    np.testing.assert_allclose(points, np.stack([x, y], axis=1), atol=5.1e-7)  # six decimals


def test_a_gap_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="finite values"):
        write_fsc_xml(tmp_path / "a.xml", [0, 1], [1, np.nan], "t")
    assert list(tmp_path.iterdir()) == []
