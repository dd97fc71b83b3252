"""The report of a run: one HTML file with everything in it, made from the run store alone.

No script, no network, no font of its own; it prints, it fits a phone, and it follows the reader's dark mode.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np

from dcryo import __version__
from dcryo.errors import InputError
from dcryo.io.location import Location, join, write_bytes
from dcryo.io.run_store import RunStore, open_run
from dcryo.report import figures
from dcryo.report.advice import Table, next_steps, refinement_steps
from dcryo.report.course import Course, read_course
from dcryo.report.markup import figure, section, sentence_html, setting_rows, show_bytes, show_duration
from dcryo.report.orientation import Orientations, find_orientations, orientation_caption, remedy, warning
from dcryo.report.refinement import certainty_section, headline_facts, iteration_sections, shared_section

_SHOWN_VOLUMES = {
    "start": "Starting map",
    "full": "Full map",
    "half1": "Half map 1",
    "half2": "Half map 2",
    "linear": "Linear map<br> <span class='soft'>no prior</span>",
}
_OWN_RANGE = ("start", "linear")


def write_report(run_url: Location, out_path: Location | None = None) -> str:
    """Write the report of a run and return where it is.

    Parameters
    ----------
    run_url
        The run store: a path or an object-store address.  A reconstruction must be finished; of a refinement
        under way the page shows what is there.
    out_path
        Where to write; by default ``report.html`` inside the run.

    Raises
    ------
    InputError
        If there is no run, or a reconstruction is not finished.
    """
    run = open_run(run_url)
    if not run.complete and run.method != "refine":
        raise InputError(
            f"{run_url}: this run is not finished; give its `dcryo reconstruct` command again and it goes on "
            "where it stopped"
        )
    target = os.fspath(out_path) if out_path is not None else join(run_url, "report.html")
    write_bytes(target, render(run, os.fspath(run_url)).encode())
    return target


def render(run: RunStore, name: str) -> str:
    """The page of a run as HTML; ``name`` is what the page calls it.

    Read are the volumes full, half1, half2, linear and start; the tables fsc, poses (``counts``: tilt in
    (0, pi) by rot in (-pi, pi)), history (``solve`` indexes the table's attribute ``solves``, the names),
    weights, iterations and iteration_fsc; the poses of a refinement; and the attributes config, result,
    plan, timings, versions and provenance.  All but the full map of a reconstruction may be missing.
    """
    attributes = run.attributes
    config, result = attributes.get("config", {}), attributes.get("result", {})
    fsc, weights, poses, history = (_table(run, key) for key in ("fsc", "weights", "poses", "history"))
    course = read_course(run) if run.method == "refine" else None
    box, pixel_size = _size(run)
    views = None if poses is None else poses["counts"]
    if course is not None and course.poses is not None:
        views = course.poses.views
    seen = None if views is None else find_orientations(views, str(config.get("symmetry", "C1")))
    steps = [] if course is None else refinement_steps(course, config, run.complete)
    if run.complete:
        steps = next_steps(name, pixel_size, result, config, fsc, weights, remedy(seen), steps)
    elif preferred := remedy(seen):
        steps.append(preferred)
    kind = "reconstruction" if course is None else "refinement"
    title = f"{name}: dcryo report"
    body = [
        f"<header><p class='soft'>dcryo · cryo-EM {kind}</p><h1>{escape(name)}</h1></header>",
        _headline(attributes, box, pixel_size, fsc, seen, course),
        _next(steps),
        _maps(run),
        "" if course is None else iteration_sections(course),
        _resolution(fsc, result),
        _orientations(seen),
        "" if course is None else certainty_section(course, name),
        "" if course is None else shared_section(course, config, box * pixel_size),
        _optimisation(run, history, weights, result),
        _record(attributes),
        f"<footer class='soft'>Written by dcryo {escape(__version__)} from the run store alone.</footer>",
    ]
    style = files("dcryo.report").joinpath("page.css").read_text("utf-8")
    return (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body><main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main></body></html>\n"
    )


def _size(run: RunStore) -> tuple[int, float]:
    """Side and voxel size [Å] of the maps; 0 and NaN before there are any."""
    for name in ("full", "start"):
        if name in run.volumes():
            volume, pixel_size = run.volume(name)
            return volume.shape[0], pixel_size
    return 0, math.nan


def _headline(
    attributes: Mapping[str, Any],
    box: int,
    pixel_size: float,
    fsc: Table | None,
    seen: Orientations | None,
    course: Course | None,
) -> str:
    """The resolution with its caveat, and the facts one asks for first."""
    result, config = attributes.get("result", {}), attributes.get("config", {})
    resolution = result.get("resolution_0143_A")
    if resolution is not None and fsc is not None:
        limit = " (the sampling limit)" if resolution <= 2.001 * pixel_size else ""
        left = (
            f"<p class='resolution'>{resolution:.2f} <small>Å</small></p>"
            f"<p class='measure'>FSC = 0.143 of the linear half maps, mask-corrected{limit}</p>"
            f"<p class='soft'>Linear half maps are made without the regularising prior. {_shared(course)} "
            "The FSC of the regularised half maps is higher and is not a resolution.</p>"
        )
    elif course is not None and course.count:
        left = (
            f"<p class='resolution'>{course.column('resolution_0143_A')[-1]:.2f} <small>Å</small></p>"
            f"<p class='measure'>FSC = 0.143 of the linear half maps of iteration {course.count}</p>"
            "<p class='soft'>Not finished. The half maps were compared in a soft ball, and the curve is not "
            "corrected for it.</p>"
        )
    else:
        why = "no half sets to compare" if course is None else "not finished an iteration"
        left = (
            "<p class='resolution'>–</p><p class='measure'>Resolution not measured</p>"
            f"<p class='soft'>The run has {why}.</p>"
        )
    facts: list[tuple[str, str]] = []
    if seen is not None:
        facts.append(("Particles with a pose", f"{seen.particles:,}"))
    if box:
        facts += [("Box", f"{box}³ voxels"), ("Voxel", f"{pixel_size:.4g} Å")]
    facts.append(("Symmetry", str(config.get("symmetry", "C1"))))
    if result.get("resolution_05_A") is not None:
        facts.append(("FSC = 0.5", f"{result['resolution_05_A']:.2f} Å"))
    if fsc is not None and "truth" in fsc:
        facts.append(("Mean FSC with the truth", f"{np.nanmean(fsc['truth'][1:]):.3f}"))
    if course is not None:
        facts += headline_facts(course)
    if result.get("weight") is not None:
        facts.append(("Weight of the prior", f"{result['weight']:.3g}"))
    if result.get("nonnegative") is not None:
        facts.append(("Nonnegative", "yes" if result["nonnegative"] else "no"))
    for key, label, show in (
        ("seconds", "Time", show_duration),
        ("bytes_read", "Read", show_bytes),
        ("peak_rss", "Peak memory", show_bytes),
    ):
        value = result.get(key, attributes.get(key))
        if value is not None:
            facts.append((label, show(value)))
    right = "".join(f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>" for label, value in facts)
    return f"<section class='headline'><div>{left}</div><dl class='facts'>{right}</dl></section>"


def _shared(course: Course | None) -> str:
    """What the half sets have in common, in a sentence."""
    if course is not None:
        return "What the half sets share, and what not, is said below."
    return (
        "The half sets share the poses they came with and one number, the weight of the prior; nothing else "
        "passes between them."
    )


def _next(steps: Iterable[str]) -> str:
    items = "".join(f"<li>{sentence_html(step)}</li>" for step in steps)
    return f"<section class='next'><strong>What to do next</strong><ul>{items}</ul></section>"


def _maps(run: RunStore) -> str:
    """Central sections; the regularised maps share their grey scale so that they can be compared."""
    maps = {name: run.volume(name) for name in _SHOWN_VOLUMES if name in run.volumes()}
    if not maps:
        return ""
    limits = {name: figures.grey_limits(volume) for name, (volume, _) in maps.items()}
    cells = ["<div class='axis corner'></div>"]
    cells += [f"<div class='axis'>{a} → , {b} ↑</div>" for a, b in ("xy", "xz", "yz")]
    for name, (volume, pixel_size) in maps.items():
        width = volume.shape[0] * pixel_size
        length = figures.scale_bar(width)
        cells.append(f"<div class='name'>{_SHOWN_VOLUMES[name]}</div>")
        for plane, part in figures.central_sections(volume).items():
            shown = limits[name if name in _OWN_RANGE else "full"]
            png = base64.b64encode(figures.section_png(part, shown)).decode()
            bar = f"<span class='bar' style='width:{100 * length / width:.2f}%'>{length:g} Å</span>"
            image = f"<img src='data:image/png;base64,{png}' alt='Central {plane} section of {name}'>"
            cells.append(f"<div class='section'>{image}{bar if plane == 'xy' else ''}</div>")
    caption = "Sections through the centre of the box, dense matter white."
    if "full" in maps:
        caption += (
            f" Grey runs from {limits['full'][0]:.3g} to {limits['full'][1]:.3g} (percentiles 1 and 99.8 of "
            "the full map) for the full map and its halves alike; "
        )
        own = " and ".join(f"the {n}{'ing' * (n == 'start')} map" for n in _OWN_RANGE if n in maps)
        caption += f"{own} {'have ranges of their' if own.count('map') > 1 else 'has its'} own."
    return section("Maps", figure(f"<div class='sections'>{''.join(cells)}</div>", caption))


def _resolution(fsc: Table | None, result: Mapping[str, Any]) -> str:
    if fsc is None:
        return ""
    caption = (
        "The headline is the thick curve at 0.143: linear half maps, masked, less what the mask alone "
        "contributes, which the phase-randomised curve measures. The curve of the regularised halves is "
        "inflated because one prior acts on both; it shows how alike the maps you see are, not how far to "
        "trust them."
    )
    if "truth" in fsc:
        caption += " The truth is known for this simulated set: the violet curves compare with it directly."
    svg = figures.fsc_figure(fsc, result.get("resolution_0143_A"))
    return section("Resolution", figure(svg, caption, "wide"))


def _orientations(seen: Orientations | None) -> str:
    if seen is None:
        return ""
    svg = figures.pose_figure(seen.density)
    said = f"<p>{escape(preferred)}</p>" if (preferred := warning(seen)) else ""
    return section("Orientations", said + figure(svg, escape(orientation_caption(seen)), "medium"))


def _optimisation(
    run: RunStore, history: Table | None, weights: Table | None, result: Mapping[str, Any]
) -> str:
    parts = []
    if history is not None and len(history["objective"]):
        names = run.table_attributes("history").get("solves", [])
        solves = {
            str(names[code]) if code < len(names) else f"solve {code}": (
                history["iteration"][history["solve"] == code],
                history["objective"][history["solve"] == code],
            )
            for code in np.unique(history["solve"]).astype(int).tolist()
        }
        caption = (
            "Objective of each solve above the lowest value it reached, as a share of its whole drop. A "
            "straight fall is steady convergence; the dive at the end is each curve meeting its own lowest "
            "value."
        )
        parts.append(figure(figures.objective_figure(solves), caption))
    if weights is not None and len(weights["weight"]):
        svg = figures.cross_validation_figure(
            weights["weight"], weights["cross_validation"], weights["nonnegative"], result.get("weight")
        )
        caption = (
            "How badly the map of one half set explains the images of the other. The weight with the lowest "
            "misfit is used for all maps."
        )
        parts.append(figure(svg, caption))
    return section("Optimisation", f"<div class='pair'>{''.join(parts)}</div>") if parts else ""


def _record(attributes: Mapping[str, Any]) -> str:
    """Settings, times and provenance: what is needed to make the same maps again."""
    timings = {str(k): float(v) for k, v in attributes.get("timings", {}).items()}
    longest = max(timings.values(), default=0.0)
    times = "".join(
        f"<tr><th>{escape(stage)}</th><td>{show_duration(seconds)}"
        f"<span class='share' style='width:{45 * seconds / longest if longest else 0:.1f}%'></span></td></tr>"
        for stage, seconds in timings.items()
    )
    tables = [("Settings", setting_rows(attributes.get("config", {})))]
    tables += [("Time by stage", times), ("Versions", setting_rows(attributes.get("versions", {})))]
    tables += [
        ("Plan", setting_rows(attributes.get("plan", {}))),
        ("Provenance", setting_rows(attributes.get("provenance", {}))),
    ]
    shown = "".join(f"<div><h3>{title}</h3><table>{rows}</table></div>" for title, rows in tables if rows)
    return section("Record", f"<div class='pair'>{shown}</div>")


def _table(run: RunStore, name: str) -> Table | None:
    return run.table(name) if name in run.tables() else None
