"""The pictures: what they draw, and that they leave colours, fonts and sizes to the page."""

from __future__ import annotations

import io
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dcryo.report import figures
from dcryo.report.svg import THEME

FREQUENCY = np.arange(33) / 192
CURVE = 1 / (1 + np.exp(70 * (FREQUENCY - 0.11)))


def drawings() -> dict[str, str]:
    steps = np.arange(20.0)
    weight = np.geomspace(1e-3, 1, 6)
    return {
        "fsc": figures.fsc_figure({"frequency": FREQUENCY, "corrected": CURVE, "regularised": CURVE}, 8.0),
        "poses": figures.pose_figure(np.ones((36, 72))),
        "objective": figures.objective_figure(
            {"full": (steps, np.exp(-steps)), "path0": (steps, 2.0**-steps)}
        ),
        "weights": figures.cross_validation_figure(weight, 1 + weight, np.ones(6), 0.1),
    }


def words(svg: str) -> str:
    """All text of a drawing."""
    return " ".join(
        element.text or "" for element in ElementTree.fromstring(svg).iter() if "text" in element.tag
    )


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    return drawings()


@pytest.mark.parametrize("name", ["fsc", "poses", "objective", "weights"])
def test_drawings_take_colour_font_and_size_from_the_page(drawn: dict[str, str], name: str) -> None:
    svg = drawn[name]
    ElementTree.fromstring(svg)
    assert re.match(r'<svg viewBox="0 0 [\d.]+ [\d.]+" xmlns="http://www.w3.org/2000/svg"[^>]*>', svg)
    assert " width=" not in svg[: svg.index(">")]
    assert "font-family" not in svg
    assert "<style" not in svg
    assert "var(--ink)" in svg
    for placeholder in THEME:
        assert placeholder not in svg
    if name != "poses":  # the colour bar of the poses keeps the colours of its map
        assert not re.search(r"#[0-9a-f]{6}\b", re.sub(r'"#[^"]*"|url\([^)]*\)', "", svg))


def test_drawings_can_share_a_page(drawn: dict[str, str]) -> None:
    found = [re.findall(r'\bid="([^"]*)"', svg) for svg in drawn.values()]
    names = [name for per_figure in found for name in set(per_figure)]
    assert len(names) == len(set(names))
    for svg, ids in zip(drawn.values(), found, strict=True):
        assert set(re.findall(r'href="#([^"]*)"', svg)) <= set(ids)
        assert set(re.findall(r"url\(#([^)]*)\)", svg)) <= set(ids)


def test_drawings_are_reproducible(drawn: dict[str, str]) -> None:
    assert drawings() == drawn


def test_fsc_names_what_it_draws(drawn: dict[str, str]) -> None:
    text = words(drawn["fsc"])
    assert "linear halves, mask-corrected" in text
    assert "regularised halves (inflated)" in text
    assert "truth" not in text
    assert "0.143" in text
    assert "resolution (Å)" in text
    nothing = figures.fsc_figure(
        {"frequency": FREQUENCY, "corrected": CURVE, "truth": np.full(33, np.nan)}, None
    )
    assert "truth" not in words(nothing)


def test_fsc_marks_the_resolution() -> None:
    curves = {"frequency": FREQUENCY, "corrected": CURVE}
    assert len(figures.fsc_figure(curves, 8.0)) > len(figures.fsc_figure(curves, None))
    assert figures.fsc_figure(curves, math.nan) == figures.fsc_figure(curves, None)


def test_search_solves_share_one_label() -> None:
    steps = np.arange(9.0)
    solves = dict.fromkeys(("path0", "path1", "path2", "half1"), (steps, 3.0 ** (-steps)))
    text = words(figures.objective_figure(solves))
    assert text.count("search for the weight") == 1
    assert "half1" in text
    assert "path" not in text


def test_flat_objective_draws_nothing() -> None:
    assert "half1" not in words(figures.objective_figure({"half1": (np.arange(3.0), np.ones(3))}))


def test_central_sections_pass_through_the_centre() -> None:
    volume = np.zeros((6, 6, 6), np.float32)
    volume[3, 3, 5], volume[3, 5, 3], volume[5, 3, 3] = 1, 2, 3  # on +x, +y, +z of the centre n // 2
    sections = figures.central_sections(volume)
    assert (sections["xy"][3, 5], sections["xy"][5, 3]) == (1, 2)
    assert (sections["xz"][3, 5], sections["xz"][5, 3]) == (1, 3)
    assert (sections["yz"][3, 5], sections["yz"][5, 3]) == (2, 3)


def test_png_puts_row_0_at_the_bottom_and_clips() -> None:
    section = np.array([[0.0, 1.0], [3.0, -1.0]])
    pixels = np.asarray(Image.open(io.BytesIO(figures.section_png(section, (0.0, 2.0)))))
    np.testing.assert_array_equal(pixels, [[255, 0], [0, 128]])


def test_png_of_a_large_map_is_reduced() -> None:
    noise = np.random.default_rng(0).normal(size=(600, 600))
    data = figures.section_png(noise, (-3, 3))
    assert Image.open(io.BytesIO(data)).size == (256, 256)
    # Twelve sections in base64 (4/3) leave half of the 2 MB of a light page.
    assert 12 * len(data) * 4 / 3 < 1.1e6


def test_grey_limits_are_never_empty() -> None:
    low, high = figures.grey_limits(np.zeros((4, 4, 4)))
    assert low < 0 < high
    volume = np.random.default_rng(1).normal(size=(40, 40, 40))
    # Normal quantiles at 1 % and 99.8 %; 4,800 samples put them within 0.25.
    assert figures.grey_limits(volume) == pytest.approx((-2.326, 2.878), abs=0.25)


@given(st.floats(1e-2, 1e6))
def test_scale_bar_is_round_and_fits(width: float) -> None:
    length = figures.scale_bar(width)
    assert width / 7.5 < length * (1 + 1e-9)
    assert length <= width / 3
    mantissa = length / 10 ** math.floor(math.log10(length) + 1e-9)
    assert min(abs(mantissa - step) for step in (1, 2, 5)) < 1e-9
