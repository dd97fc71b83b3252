"""Figures 4.8 and 4.9 of the thesis: histograms of the errors of angles and shifts.

The thesis shows differences of Euler angles, which grow without bound towards the poles though the poses
hardly differ.  Here it is the geodesic distance, after the frame of the specimen, and its hand, have been
aligned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dcryo.figures.experiment import Check, Outcome, Setting
from dcryo.figures.joint_data import HJC, Case, smaller
from dcryo.figures.joint_picture import draw_errors
from dcryo.figures.joint_ways import OURS, PEER, UNREFINED, averages, trial
from dcryo.report.plot import STYLE, mpl, new_figure, save

TITLE = "Errors of refined angles and shifts beside the unrefined ones and RELION's"
SOURCE = "Figures 4.8 and 4.9: HJC, 500 views; histograms narrower than RELION's, no numbers"

TAKES_MAP = True


@dataclass(frozen=True)
class Parameters:
    """What is refined, and the medians that the checks want at most: degrees, and pixels."""

    case: Case
    trials: int
    largest_angle_deg: float
    largest_shift_px: float


SMALL = Parameters(smaller(HJC, 46, 200), 1, 3.0, 0.5)
FULL = Parameters(HJC, 5, 2.0, 0.3)


def run(setting: Setting) -> Outcome:
    """Simulate, refine, and compare poses with the true ones."""
    p = FULL if setting.full else SMALL
    trials = [trial(p.case, setting, setting.seed + k, setting.map) for k in range(p.trials)]
    each = [one.numbers() for one in trials]
    ways = averages(each)
    numbers: dict[str, Any] = {
        "parameters": asdict(p),
        "specimen": setting.map or f"phantom {p.case.phantom}",
        "ways": ways,
        "trials": each,
        "relion_missing": trials[0].peer_missing,
    }
    return Outcome(numbers, checks(p, ways), _shown(numbers))


def checks(p: Parameters, ways: Mapping[str, Any]) -> tuple[Check, ...]:
    """What the figures must show."""
    found = []
    for key, name, unit, largest in (
        ("angle_deg", "angles, geodesic", "°", p.largest_angle_deg),
        ("shift_px", "shifts", " px", p.largest_shift_px),
    ):
        ours = ways[OURS][key]["median"]
        found.append(
            Check(
                f"median error of the {name}",
                bool(ours <= largest),
                f"{ours:.2f}{unit}",
                f"at most {largest:g}{unit}",
            )
        )
        if PEER in ways:
            theirs = ways[PEER][key]["median"]
            found.append(
                Check(
                    f"median error of the {name}, dcryo and RELION",
                    bool(ours <= theirs),
                    f"{ours:.2f} and {theirs:.2f}{unit}",
                    "not above RELION's",
                )
            )
    return tuple(found)


def _shown(numbers: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    lines = []
    for name in (UNREFINED, OURS, PEER):
        if name in numbers["ways"]:
            angle, shift = (numbers["ways"][name][key] for key in ("angle_deg", "shift_px"))
            angles = f"angles {angle['median']:.2f}°, 90 % below {angle['p90']:.2f}°"
            lines.append((name, f"{angles}; shifts {shift['median']:.2f} px, rms {shift['rms']:.2f} px"))
    if numbers["relion_missing"]:
        lines.append((PEER, numbers["relion_missing"]))
    return tuple(lines)


@mpl.rc_context(STYLE)
def draw(numbers: Mapping[str, Any], path: Path) -> None:
    """Two panels: angles and shifts."""
    figure = new_figure(9.0, 3.6)
    angles, shifts = figure.subplots(1, 2)
    p = numbers["parameters"]
    draw_errors(angles, numbers["ways"], "angle_deg", "error of the angles (°)", p["largest_angle_deg"])
    draw_errors(shifts, numbers["ways"], "shift_px", "error of the shifts (px)", p["largest_shift_px"])
    angles.set_title("4.8   angles", loc="left")
    shifts.set_title("4.9   shifts", loc="left")
    save(figure, path)
