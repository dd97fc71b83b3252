"""The house style: sections that come out of the JSON the right way up, and PNG files whatever the name."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image

from dcryo.report.plot import DPI, STYLE, encode_section, new_figure, save, show_section


def test_sections_go_into_the_json_and_come_back() -> None:
    section = np.zeros((6, 8), np.float32)
    section[0] = 1.0  # the row that is drawn at the bottom
    section[3, 2] = 0.5
    axes = new_figure(1, 1).add_subplot()
    show_section(axes, encode_section(section, (0.0, 1.0)), 24.0)
    (image,) = axes.images
    drawn = np.asarray(image.get_array())
    np.testing.assert_array_equal(drawn[::-1], np.round(255 * section))
    assert list(image.get_extent()) == [-12, 12, -12, 12]
    assert image.origin == "upper", "the first row of the array is the top of the picture"


def test_a_picture_is_a_png_whatever_its_name(tmp_path: Path) -> None:
    with mpl.rc_context(STYLE):
        figure = new_figure(2.0, 1.0)
        figure.subplots().plot([0, 1])
    save(figure, tmp_path / "picture.partial")
    with Image.open(tmp_path / "picture.partial") as image:
        assert (image.format, image.size) == ("PNG", (2 * DPI, DPI))
