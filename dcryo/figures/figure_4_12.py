"""Figures 4.12 to 4.15 of the thesis: joint refinement of noisy images, from a coarse map and no poses.

The thesis begins with the map and the orientations of RELION's ab-initio programme.  Here the start is a
low-passed map and no orientations at all, which is the harder one for poses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dcryo.figures.experiment import Check, Outcome, Setting
from dcryo.figures.joint_data import Case, low_passed, smaller
from dcryo.figures.joint_picture import draw_errors, draw_fsc, draw_sections
from dcryo.figures.joint_ways import ORACLE, OURS, PEER, averages, section, trial
from dcryo.report.plot import STYLE, encode_section, mpl, new_figure, save

TITLE = "Joint refinement of noisy images without poses beside the true poses and RELION"
SOURCE = "Figures 4.12 to 4.15: HJC, 20,000 views of 124³ at -14.2 dB; curves and histograms, no numbers"

TAKES_MAP = True


@dataclass(frozen=True)
class Parameters:
    """What is refined, and what the checks want.

    Attributes
    ----------
    case : Case
    trials : int
    least_of_oracle : float
        Frequency at which the FSC with the truth falls to 0.5, as a fraction of that with the true poses.
    largest_angle_deg, largest_shift_px : float
        Medians of the errors, drawn in the histograms.
    """

    case: Case
    trials: int = 1
    least_of_oracle: float = 0.9
    largest_angle_deg: float = 3.0
    largest_shift_px: float = 0.5


HARD = Case("HJC", "protein:1", 124, 20_000, 2.0, -14.2, 3.0, None, 1 / 30, "variance", ctf=True)

SMALL = Parameters(smaller(HARD, 40, 1500))
FULL = Parameters(HARD)


def run(setting: Setting) -> Outcome:
    """Simulate, refine, and compare maps and poses with the truth, and half maps with each other."""
    p = FULL if setting.full else SMALL
    trials = [trial(p.case, setting, setting.seed + k, setting.map) for k in range(p.trials)]
    each = [one.numbers() for one in trials]
    first, ways = trials[0], averages(each)
    data = first.data
    field = p.case.box * p.case.pixel_size
    maps = {"truth": data.truth, "start": low_passed(data.truth, p.case.start_cutoff * field)}
    maps |= {name: way.volume for name, way in first.ways.items()}
    image = data.start.images(0, 1)[0]
    spread = 3 * float(image.std())
    numbers: dict[str, Any] = {
        "parameters": asdict(p),
        "specimen": setting.map or f"phantom {p.case.phantom}",
        "field_A": field,
        "frequency": data.frequency,
        "ways": ways,
        "trials": each,
        "relion_missing": first.peer_missing,
        "sections": {"a view": encode_section(image, (-spread, spread))}
        | {name: section(data, volume) for name, volume in maps.items()},
    }
    return Outcome(numbers, checks(p, ways), _shown(numbers))


def checks(p: Parameters, ways: Mapping[str, Any]) -> tuple[Check, ...]:
    """What the figures must show; RELION's part where there is one."""
    ours = ways[OURS]
    found = [
        Check(
            "FSC 0.5 with the truth, dcryo over true poses",
            bool(ours["r_c_of_oracle"] >= p.least_of_oracle),
            f"{ours['r_c_of_oracle']:.1%}",
            f"at least {p.least_of_oracle:.0%}",
        )
    ]
    if PEER in ways:
        peer = ways[PEER]
        found += [
            Check(
                "half maps, FSC 0.143, dcryo and RELION",
                bool(ours["halves_0143_A"] <= peer["halves_0143_A"]),
                f"{ours['halves_0143_A']:.2f} and {peer['halves_0143_A']:.2f} Å",
                "not above RELION's",
            ),
            Check(
                "mean FSC with the truth, dcryo and RELION",
                bool(ours["mean_fsc"] >= peer["mean_fsc"]),
                f"{ours['mean_fsc']:.3f} and {peer['mean_fsc']:.3f}",
                "not below RELION's",
            ),
        ]
    return tuple(found)


def _shown(numbers: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    lines = []
    for name, way in numbers["ways"].items():
        text = f"FSC 0.5 {way['resolution_05_A']:.2f} Å, mean FSC {way['mean_fsc']:.3f}"
        text += f", half maps {way['halves_0143_A']:.2f} Å, {way['cpu_seconds']:.0f} CPU s"
        if "angle_deg" in way:
            text += f", angles {way['angle_deg']['median']:.2f}°, shifts {way['shift_px']['median']:.2f} px"
        lines.append((name, text))
    if numbers["relion_missing"]:
        lines.append((PEER, numbers["relion_missing"]))
    return tuple(lines)


@mpl.rc_context(STYLE)
def draw(numbers: Mapping[str, Any], path: Path) -> None:
    """Sections, FSC curves with the truth, and histograms of errors."""
    figure = new_figure(10.5, 5.0)
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 1.8))
    top, bottom = parts
    draw_sections(top.subplots(1, len(numbers["sections"])), numbers["sections"], numbers["field_A"])
    curves, angles, shifts = bottom.subplots(1, 3)
    p, ways = numbers["parameters"], numbers["ways"]
    draw_fsc(curves, numbers["frequency"], {ORACLE: ways[ORACLE]} | ways, "FSC with the truth")
    draw_errors(angles, ways, "angle_deg", "error of the angles (°)", p["largest_angle_deg"])
    draw_errors(shifts, ways, "shift_px", "error of the shifts (px)", p["largest_shift_px"])
    for axes, number in ((curves, "4.13"), (angles, "4.14"), (shifts, "4.15")):
        axes.set_title(number, loc="left")
    save(figure, path)
