"""Plots of a refinement: what they draw, what they leave out, and that the page decides how they look."""

from __future__ import annotations

import base64
import io
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from dcryo.report import refinement_figures as figures
from dcryo.report.directions import COLUMNS, ROWS, grid_directions
from dcryo.report.figures import pose_figure
from dcryo.report.svg import THEME, resolution_ticks

FREQUENCY = np.arange(33) / 192
STEPS = np.arange(1.0, 5.0)
FALL = 10.0 ** -np.arange(4)
BAND = np.array([12, 18, 24, 32])


def curves() -> np.ndarray:
    """FSC by iteration, known up to ``BAND``."""
    fsc = np.tile(1 / (1 + np.exp(70 * (FREQUENCY - 0.11))), (4, 1))
    fsc[np.arange(33) > BAND[:, None]] = np.nan
    return fsc


def drawings() -> dict[str, str]:
    looked = BAND / 2 / 192
    change = {"change, median": FALL, "uncertainty, median": np.sqrt(FALL)}
    resolutions = {"0.143": 10 + FALL, "0.5": 15 + FALL}
    return {
        "fsc": figures.iteration_fsc_figure(FREQUENCY, curves(), looked),
        "course": figures.resolution_course_figure(STEPS, resolutions, 1 / looked, 192 / BAND),
        "turns": figures.change_figure(STEPS, change, "rotation (°)", "turns"),
        "sigma": figures.uncertainty_figure(np.geomspace(0.5, 2, 90), "rotation (°)", "sigma", 20.0),
    }


def words(svg: str) -> str:
    """All text of a drawing."""
    found = ElementTree.fromstring(svg).iter()
    return " ".join(element.text or "" for element in found if "text" in element.tag)


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    return drawings()


@pytest.mark.parametrize("name", ["fsc", "course", "turns", "sigma"])
def test_the_page_decides_how_they_look(drawn: dict[str, str], name: str) -> None:
    svg = drawn[name]
    ElementTree.fromstring(svg)
    assert " width=" not in svg[: svg.index(">")]
    assert "font-family" not in svg
    assert "var(--ink)" in svg
    assert not any(placeholder in svg for placeholder in THEME)
    if name != "fsc":  # its iterations have the colours of their own map
        assert not re.search(r"#[0-9a-f]{6}\b", re.sub(r'"#[^"]*"|url\([^)]*\)', "", svg))


def test_they_are_reproducible_and_share_a_page(drawn: dict[str, str]) -> None:
    assert drawings() == drawn
    names = [name for svg in drawn.values() for name in set(re.findall(r'\bid="([^"]*)"', svg))]
    assert len(names) == len(set(names))


def test_an_fsc_ends_where_the_maps_of_its_iteration_do() -> None:
    looked = BAND / 2 / 192
    set_to_zero = curves()
    set_to_zero[np.arange(4), BAND] = 0
    unknown = curves()
    unknown[np.arange(4), BAND] = np.nan
    assert figures.iteration_fsc_figure(FREQUENCY, set_to_zero, looked) == figures.iteration_fsc_figure(
        FREQUENCY, unknown, looked
    )
    # a crossing of zero further in is drawn
    crossed = curves()
    crossed[0, 5] = 0
    assert figures.iteration_fsc_figure(FREQUENCY, crossed, looked) != figures.iteration_fsc_figure(
        FREQUENCY, curves(), looked
    )


def test_every_iteration_has_a_colour_and_a_dot(drawn: dict[str, str]) -> None:
    # one of the map of colours each; the bar beside the plot is a picture
    ends = {"#d9822b", "#2f86d0"}
    assert ends <= set(re.findall(r"#[0-9a-f]{6}\b", drawn["fsc"]))
    assert {"0.143", "0.5", "iteration"} <= set(words(drawn["fsc"]).split())
    # poses that were left as they are looked nowhere
    nowhere = figures.iteration_fsc_figure(FREQUENCY, curves(), np.full(4, np.nan))
    assert drawn["fsc"].count("<use ") == nowhere.count("<use ") + 4


def test_a_single_iteration_needs_no_bar() -> None:
    text = words(figures.iteration_fsc_figure(FREQUENCY, curves()[:1], np.array([0.05])))
    assert "iteration" not in text
    assert "0.143" in text


def test_the_course_is_named_in_angstrom(drawn: dict[str, str]) -> None:
    text = words(drawn["course"])
    for name in ("limit of the maps", "poses looked to", "FSC = 0.143", "FSC = 0.5", "resolution (Å)"):
        assert name in text
    unknown = figures.resolution_course_figure(
        STEPS[:1], {"0.143": np.array([12.0]), "0.5": np.array([15.0])}, np.array([np.nan]), np.array([8.0])
    )
    assert "FSC = 0.143" in words(unknown)


def test_what_never_changed_is_not_drawn() -> None:
    text = words(figures.change_figure(STEPS, {"change": np.zeros(4), "uncertainty": FALL}, "°", "x"))
    assert "change" not in text
    assert "uncertainty" in text
    ElementTree.fromstring(figures.change_figure(STEPS, {"change": np.full(4, np.nan)}, "°", "y"))


def test_uncertainties_that_spread_widely_show_who_is_lost(drawn: dict[str, str]) -> None:
    assert "lost" not in words(drawn["sigma"])
    assert "median 1" in words(drawn["sigma"])
    wide = np.concatenate([np.full(90, 1.0), np.full(10, 120.0)])
    text = words(figures.uncertainty_figure(wide, "rotation (°)", "sigma", 20.0))
    assert "lost from 20 on" in text
    # a logarithmic axis
    assert {"2", "5", "10", "50", "100"} <= set(text.split())


def test_resolution_ticks_are_round_and_apart() -> None:
    ticks = resolution_ticks(1 / 3)
    assert ticks[0] == 100
    assert ticks[-1] == 3
    assert min(np.diff(1 / np.array(ticks))) > 1 / 3 / 14
    assert all(d <= 10 for d in resolution_ticks(1 / 3, 0.1))


@pytest.mark.parametrize(
    ("direction", "disc", "right", "up"),
    # from outside: along +z x runs to the right; along -z to the left, the discs meeting at +x
    [
        ((1, 0, 1), 0, 1, 0), ((0, 1, 1), 0, 0, 1), ((-1, -1, 1), 0, -1, -1),
        ((1, 0, -1), 1, -1, 0), ((0, 1, -1), 1, 0, 1), ((-1, -1, -1), 1, 1, -1),
    ],
)  # fmt: skip
def test_a_view_is_where_it_is_seen_from(
    direction: tuple[int, int, int], disc: int, right: int, up: int
) -> None:
    along = np.array(direction) / np.linalg.norm(direction)
    density = np.exp((grid_directions(ROWS, COLUMNS) @ along - 1) / 0.01)
    pictures = re.findall(r"<image [^>]*>", pose_figure(density))[:2]
    shades = []
    for picture in pictures:
        data = base64.b64decode(picture.split("base64,")[1].split('"')[0])
        shade = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
        shades.append(shade[::-1] if "scale(1 -1)" in picture else shade)
    # cividis grows brighter with the density
    bright = [shade[..., :3].sum(axis=2) * (shade[..., 3] > 128.0) for shade in shades]
    assert bright[disc].max() > bright[1 - disc].max() + 100
    height, width = bright[disc].shape
    y, x = np.unravel_index(int(np.argmax(bright[disc])), (height, width))
    # Lambert: sqrt(2) sin(tilt / 2) of the radius
    tilt = math.acos(abs(along[2]))
    radius = math.sqrt(2) * math.sin(tilt / 2) * width / 2
    ways = np.array([right, up]) / math.hypot(right, up)
    np.testing.assert_allclose((x - width / 2, height / 2 - y), radius * ways, atol=0.06 * width)
