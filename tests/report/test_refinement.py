"""The page of a refinement: finished, under way and just begun; what it says of poses and half sets."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcryo.geometry.rotations import matrix_to_quaternion, random_rotations
from dcryo.io.run_store import RunStore, create_run
from dcryo.methods.refine import RefineConfig, refine
from dcryo.methods.simulate import SimulateConfig, simulate
from dcryo.report.course import Course
from dcryo.report.page import write_report
from dcryo.report.refinement import shared_section

BOX, PIXEL, COUNT, ROUNDS = 24, 4.0, 60, 3
CONFIG = {"prior": "tv", "symmetry": "C1", "initial": "rough <1>.mrc", "low_pass": 32.0, "rounds": 25}
RESULT = {"resolution_0143_A": 11.37, "resolution_05_A": 15.2, "weight": 0.03, "nonnegative": True}


def fill(
    run: RunStore, *, rounds: int = ROUNDS, finish: bool = True, lost: int = 0, start: bool = True,
    top_views: bool = False,
) -> str:  # fmt: skip
    """A refinement with plausible numbers after ``rounds`` iterations; its page."""
    rng = np.random.default_rng(3)
    volume = rng.normal(size=(BOX,) * 3).astype(np.float32)
    names = (["start"] if start else []) + (["full", "half1", "half2", "linear"] if finish else [])
    for name in names:
        run.write_volume(name, volume, PIXEL)
    turns = random_rotations(COUNT, rng)
    if top_views:
        turns = np.broadcast_to(np.eye(3), turns.shape)
    rotation, shift = matrix_to_quaternion(turns), rng.normal(size=(COUNT, 2))
    run.write_poses(0, {"rotation": rotation, "shift": shift})
    for iteration in range(1, rounds + 1):
        run.write_poses(
            iteration,
            {
                "rotation": rotation, "shift": shift, "cost": np.ones(COUNT), "turn": np.full(COUNT, 0.1),
                "sigma_rotation": np.linspace(0.01, 0.03, COUNT), "sigma_shift": np.full(COUNT, 0.3),
                "lost": np.arange(COUNT) < lost,
            },
        )  # fmt: skip
    if rounds:
        fall = 0.5 ** np.arange(rounds)
        run.write_table(
            "iterations",
            {
                "iteration": np.arange(1, rounds + 1), "cutoff": 3.0 + np.arange(rounds),
                "box": 16 + 4 * np.arange(rounds), "support": 4 + np.arange(rounds),
                "resolution_0143_A": 14.0 + fall, "resolution_05_A": 18.0 + fall,
                "mean_fsc": fall, "weight": fall, "turn_median": 0.1 * fall, "turn_p90": 0.2 * fall,
                "move_rms": fall, "sigma_median": np.full(rounds, 0.02), "lost": np.full(rounds, lost),
                "searched": np.where(np.arange(rounds) == 0, COUNT, 0), "cost": 1 + fall,
                "seconds": np.full(rounds, 12.0),
            },
        )  # fmt: skip
        frequency = np.arange(13) / (BOX * PIXEL)
        fsc = np.tile(1 / (1 + np.exp(90 * (frequency - 0.07))), (rounds, 1))
        run.write_table("iteration_fsc", {"frequency": frequency, "fsc": fsc})
    if finish:
        shell = np.arange(13)
        curve = 1 / (1 + np.exp(90 * (shell / (BOX * PIXEL) - 0.075)))
        columns = dict.fromkeys(("unmasked", "masked", "randomised", "corrected", "regularised"), curve)
        run.write_table("fsc", {"shell": shell, "frequency": shell / (BOX * PIXEL)} | columns)
        run.finish(RESULT | {"rounds": rounds, "lost": lost})
    return Path(write_report(run.url)).read_text("utf-8")


def page_of(folder: Path, config: dict[str, Any] | None = None, **how: Any) -> str:
    return fill(create_run(folder / "run.zarr", "refine", CONFIG | (config or {})), **how)


def sections(page: str) -> list[str]:
    return re.findall(r"<h2>([^<]*)</h2>", page)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page_of(tmp_path_factory.mktemp("refined"), lost=2)


def test_a_refinement_has_its_own_sections(page: str) -> None:
    assert sections(page) == [
        "Maps", "Iterations", "Resolution", "Orientations", "How sure the poses are",
        "What the half sets share", "Record",
    ]  # fmt: skip


def test_the_page_is_well_formed_and_complete_in_itself(
    page: str, markup_faults: Callable[[str], list[str]]
) -> None:
    assert markup_faults(page) == []
    assert "<script" not in page
    assert set(re.findall(r"https?://[^\"'\s<]*", page)) <= {"http://www.w3.org/2000/svg"}
    names = re.findall(r'<[^>]*\bid="([^"]*)"', page)
    assert len(names) == len(set(names))
    assert len(page.encode()) < 2e6


@pytest.mark.parametrize(
    "text",
    [
        "cryo-EM refinement",
        "11.37 <small>Å</small>",
        "What the half sets share, and what not, is said below.",
        "<dd>60</dd>",
        "<dt>Iterations</dt><dd>3</dd>",
        # the box of 96 Å over 5 Fourier pixels; the median of 0.01 to 0.03 rad
        "<dt>Poses looked to</dt><dd>19.20 Å</dd>",
        "<dt>Rotations known to</dt><dd>1.15°</dd>",
        "<dt>Lost particles</dt><dd>2</dd>",
        "2 of 60 particles (3.3 %) are lost",
        "<code>poses/0003/lost</code>",
        "of iteration 1, 2 particles were lost",
        # 0.1 and 0.2 rad in the first iteration
        "<td>1</td><td>32.0</td><td>16³</td><td>15.00</td><td>19.00</td><td>5.73</td><td>11.46</td><td>1.15</td>"
        "<td>2</td><td>60</td><td>2.000</td><td>12 s</td>",
        "<code>rough &lt;1&gt;.mrc</code>: as it was down to 32 Å, and nothing of it beyond 25.6 Å.",
        "The poses that 60 particles came with",
        "three angles and three shifts, 6 numbers",
        "the weight of the prior, with whether density may be negative",
        "beyond 25.6 Å comes from the images of each, and from the poses they came with.",
        "the starting map and the linear map have ranges of their own",
        "chance alone makes the density scatter by 92 %",
    ],
)
def test_the_page_says(page: str, text: str) -> None:
    assert text in page


def test_maps_go_from_the_start_to_the_end(page: str) -> None:
    names = re.findall(r"<img [^>]*alt='Central xy section of (\w+)'", page)
    assert names == ["start", "full", "half1", "half2", "linear"]
    assert page.count("<img ") == 15


def test_one_under_way_shows_what_is_there(tmp_path: Path, markup_faults: Callable[[str], list[str]]) -> None:
    url = tmp_path / "run.zarr"
    page = page_of(tmp_path, rounds=2, finish=False)
    assert markup_faults(page) == []
    assert sections(page) == [
        "Maps", "Iterations", "Orientations", "How sure the poses are", "What the half sets share", "Record",
    ]  # fmt: skip
    assert "not finished: the page shows it after 2 iterations." in page
    assert "14.50 <small>Å</small>" in page
    assert "linear half maps of iteration 2" in page
    assert "<dd>24³ voxels</dd>" in page
    assert "nothing of it beyond 25.6 Å" in page
    assert "mask-corrected" not in page
    assert page.count("<img ") == 3
    # the page in it is no obstacle to going on
    run = create_run(url, "refine", CONFIG)
    assert run.pose_iterations() == [0, 1, 2]
    assert run.volumes() == ["start"]


def test_one_that_has_just_begun(tmp_path: Path) -> None:
    page = page_of(tmp_path, rounds=0, finish=False)
    assert sections(page) == ["Maps", "Orientations", "What the half sets share", "Record"]
    assert "The run has not finished an iteration." in page
    assert "after 0 iterations" in page


def test_one_without_anything(tmp_path: Path, markup_faults: Callable[[str], list[str]]) -> None:
    run = create_run(tmp_path / "run", "refine", CONFIG)
    page = Path(write_report(run.url)).read_text("utf-8")
    assert markup_faults(page) == []
    assert sections(page) == ["What the half sets share", "Record"]
    assert "Voxel" not in page


def test_without_a_start_there_is_none_to_share(tmp_path: Path) -> None:
    page = page_of(tmp_path, {"initial": None}, start=False)
    assert "tarting map," not in page
    assert "section of start" not in page
    assert "comes from the images" not in page
    assert "the linear map has its own." in page


def shared(given: int = 60, side: float = 96.0, **config: Any) -> str:
    return shared_section(Course(None, None, None, given, ()), CONFIG | config, side)


def test_without_poses_to_begin_with_none_are_shared() -> None:
    told = shared(given=0)
    assert "particles came with" not in told
    assert "beyond 25.6 Å comes from the images of each.<" in told


def test_by_default_a_start_is_cut_off_at_an_eighth_of_the_box() -> None:
    # the cosine ends at 1.25 times the frequency
    assert "down to 12 Å, and nothing of it beyond 9.6 Å." in shared(low_pass=None)
    assert "starting map" not in shared(low_pass=None, side=np.nan)


@pytest.mark.parametrize(
    ("symmetry", "frame"),
    [
        ("C1", "three angles and three shifts, 6 numbers"),
        ("C4", "a turn about z and a shift along it, 2 numbers, for C4"),
        ("D2", "No frame: the axes of D2"),
        ("O", "No frame: the axes of O"),
    ],
)
def test_symmetry_leaves_less_of_a_frame(symmetry: str, frame: str) -> None:
    told = shared(symmetry=symmetry)
    assert frame in told


def test_no_prior_no_weight_to_share() -> None:
    assert "the weight of the prior" in shared()
    assert "weight" not in shared(prior="none")
    assert "how far poses look" in shared(prior="none")


def test_a_preferred_orientation_is_said_twice(tmp_path: Path) -> None:
    page = page_of(tmp_path, top_views=True)
    assert "<li>Preferred orientation: the map is smeared along the z axis" in page
    assert "<p>Preferred orientation: 100 % of the views are within 30° of the z axis" in page


def test_the_page_of_a_real_refinement(tmp_path: Path) -> None:
    store = simulate(
        str(tmp_path / "p.zarr"), SimulateConfig(box=16, pixel_size=4.0, particles=24, snr=5.0, defocus=None)
    )
    run = refine(store.url, str(tmp_path / "run.zarr"), RefineConfig(rounds=2, weight=0.5, nonnegative=True))
    page = Path(write_report(run.url)).read_text("utf-8")
    assert "Iterations" in sections(page)
    assert "How sure the poses are" in sections(page)
    # the first iteration only looks at the given poses, and has no misfit
    assert re.search(r"<tr><td>1</td><td>–</td><td>16³</td>.*?<td>0.00</td><td>0.00</td><td>–</td>", page)
