"""The page of a run: made from the store alone, complete in itself, and honest when something is missing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcryo.errors import InputError
from dcryo.io.run_store import RunStore, create_run
from dcryo.report.page import write_report

BOX = 24
PIXEL = 4.0
CONFIG = {"prior": "tv", "weight": "auto", "symmetry": "C1", "scale": 1.0, "mask_diameter": None, "seed": 7}
RESULT = {
    "resolution_0143_A": 11.37,
    "resolution_05_A": 15.2,
    "weight": 0.03,
    "nonnegative": True,
    "seconds": 9295.0,
    "bytes_read": 33_600_000,
    "peak_rss": 412_000_000,
}


def fill(run: RunStore, *, halves: bool = True, truth: bool = True, config: Any = None) -> None:
    """A finished run with plausible numbers in every place that a reconstruction fills."""
    rng = np.random.default_rng(3)
    x = (np.indices((BOX,) * 3) - BOX // 2) / BOX
    blob = np.exp(-30 * ((x - 0.05) ** 2).sum(axis=0))
    for name in ("full", "half1", "half2", "linear") if halves else ("full",):
        run.write_volume(name, (blob + 0.02 * rng.normal(size=blob.shape)).astype(np.float32), PIXEL)
    frequency = np.arange(BOX // 2 + 1) / (BOX * PIXEL)
    curve = 1 / (1 + np.exp(90 * (frequency - 0.075)))
    names = ["unmasked", "masked", "corrected", "regularised"] + ["truth"] * truth
    fsc = {
        "shell": np.arange(len(curve)),
        "frequency": frequency,
        "randomised": np.where(curve > 0.8, curve, 0.02),
    }
    if halves:
        run.write_table("fsc", fsc | dict.fromkeys(names, curve))
        weight = np.geomspace(1e-3, 1, 7)
        cross = {"weight": weight, "cross_validation": 5 + np.log10(weight / 0.03) ** 2}
        run.write_table("weights", cross | {"nonnegative": np.ones(7, bool)})
    steps = np.arange(30)
    history = {
        "solve": np.repeat([0, 1], 30),
        "iteration": np.tile(steps, 2),
        "objective": np.tile(0.8**steps, 2),
    }
    run.write_table("history", history, {"solves": ["full", "half1"]})
    counts = rng.poisson(3, (36, 72))
    run.write_table("poses", {"tilt": np.arange(36), "rot": np.arange(72), "counts": counts})
    run.update(
        timings={"read": 3.2, "solve": 1.1},
        versions={"numpy": "2.4.6"},
        plan={"slices": 4, "memory_bytes": 123_000_000},
        provenance={"command": "dcryo reconstruct a.zarr <b>.zarr", "source": {"files": ["a.star"]}},
    )
    run.finish(RESULT if halves else RESULT | {"resolution_0143_A": None, "resolution_05_A": None})


@pytest.fixture(scope="module")
def run_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("report") / "run.zarr")
    fill(create_run(url, "reconstruct", CONFIG))
    return url


@pytest.fixture(scope="module")
def page(run_url: str) -> str:
    return Path(write_report(run_url)).read_text("utf-8")


def test_the_page_lies_in_the_run_or_where_it_is_wanted(run_url: str, page: str, tmp_path: Path) -> None:
    assert Path(run_url, "report.html").read_text("utf-8") == page
    elsewhere = tmp_path / "page.html"
    assert write_report(run_url, elsewhere) == str(elsewhere)
    assert elsewhere.read_text("utf-8") == page


def test_the_page_needs_nothing_else(page: str) -> None:
    assert "<script" not in page
    assert "@import" not in page
    assert "<link" not in page
    assert set(re.findall(r"\bsrc='([^']{0,22})", page)) == {"data:image/png;base64,"}
    assert set(re.findall(r"https?://[^\"'\s<]*", page)) <= {"http://www.w3.org/2000/svg"}
    assert all(url.startswith("#") for url in re.findall(r"url\(([^)]*)\)", page))
    assert len(page.encode()) < 2e6


def test_the_page_is_well_formed(page: str, markup_faults: Callable[[str], list[str]]) -> None:
    assert markup_faults(page) == []


@pytest.mark.parametrize(
    "text",
    [
        "11.37 <small>Å</small>",
        "FSC = 0.143 of the linear half maps, mask-corrected",
        "the weight of the prior; nothing else passes between them",
        "<dd>15.20 Å</dd>",
        "<dd>24³ voxels</dd>",
        "<dd>2 h 35 min</dd>",
        "<dd>33.6 MB</dd>",
        "<dd>412 MB</dd>",
        "<th>seed</th><td>7</td>",
        "<th>mask diameter</th><td>–</td>",
        "<th>memory bytes</th><td>123 MB</td>",
        "<th>source · files</th><td>a.star</td>",
        "dcryo reconstruct a.zarr &lt;b&gt;.zarr",
        "regularised halves (inflated)",
        "Mean FSC with the truth",
    ],
)
def test_the_page_says(page: str, text: str) -> None:
    assert text in page


def test_the_page_shows_three_sections_of_each_map(page: str) -> None:
    assert (
        len(re.findall(r"<img [^>]*alt='Central (?:xy|xz|yz) section of (?:full|half1|half2|linear)'", page))
        == 12
    )
    # 96 Å across: a third is 32 Å, the longest round length below is 20 Å, 20.83 % of the picture.
    assert page.count("style='width:20.83%'>20 Å<") == 4


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    url = str(tmp_path / "<i>&run")
    fill(create_run(url, "reconstruct", CONFIG))
    page = Path(write_report(url)).read_text("utf-8")
    assert "<i>" not in page
    assert "&lt;i&gt;&amp;run" in page


def test_without_halves_no_resolution_is_claimed(tmp_path: Path) -> None:
    run = create_run(tmp_path / "run", "reconstruct", CONFIG)
    fill(run, halves=False)
    page = Path(write_report(run.url)).read_text("utf-8")
    assert "Resolution not measured" in page
    assert "--halves auto" in page
    assert "mask-corrected" not in page
    assert page.count("<img ") == 3


def test_without_truth_none_is_mentioned(tmp_path: Path) -> None:
    run = create_run(tmp_path / "run", "reconstruct", CONFIG)
    fill(run, truth=False)
    page = Path(write_report(run.url)).read_text("utf-8").replace(run.url, "")
    assert "truth" not in page


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    run = create_run(tmp_path / "run", "reconstruct", CONFIG)
    with pytest.raises(InputError, match=r"run: this run is not finished; give its `dcryo recon"):
        write_report(run.url)
    assert not (tmp_path / "run" / "report.html").exists()


def test_no_run_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        write_report(tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []
