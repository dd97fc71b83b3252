"""The report of a run: one HTML file with everything in it, made from the run store alone.

No script, no network, no font of its own; it prints, it fits a phone, and it follows the reader's dark mode.
"""

from __future__ import annotations

import base64
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np

from dcryo import __version__
from dcryo.errors import InputError
from dcryo.io.location import Location, join, write_bytes
from dcryo.io.run_store import RunStore, open_run
from dcryo.report import figures
from dcryo.report.advice import Table, next_steps
from dcryo.report.directions import fourier_coverage, viewing_density

_SHOWN_VOLUMES = {
    "full": "Full map",
    "half1": "Half map 1",
    "half2": "Half map 2",
    "linear": "Linear map<br> <span class='soft'>no prior</span>",
}
_SHOWN_ITEMS = 12


def write_report(run_url: Location, out_path: Location | None = None) -> str:
    """Write the report of a finished run and return where it is.

    Parameters
    ----------
    run_url
        The run store: a path or an object-store address.
    out_path
        Where to write; by default ``report.html`` inside the run.

    Raises
    ------
    InputError
        If there is no run, or it is not finished.
    """
    run = open_run(run_url)
    if not run.complete:
        raise InputError(
            f"{run_url}: this run is not finished; give its `dcryo reconstruct` command again and it goes on "
            "where it stopped"
        )
    target = os.fspath(out_path) if out_path is not None else join(run_url, "report.html")
    write_bytes(target, render(run, os.fspath(run_url)).encode())
    return target


def render(run: RunStore, name: str) -> str:
    """The page of a finished run as HTML; ``name`` is what the page calls it.

    Read are the volumes full, half1, half2 and linear; the tables fsc, poses (``counts``: tilt in (0, pi)
    by rot in (-pi, pi)), history (``solve`` indexes the table's attribute ``solves``, the names) and
    weights; and the attributes config, result, plan, timings, versions and provenance.  All but the full
    map may be missing.
    """
    attributes = run.attributes
    config, result = attributes.get("config", {}), attributes.get("result", {})
    fsc, weights, poses, history = (_table(run, key) for key in ("fsc", "weights", "poses", "history"))
    volume, pixel_size = run.volume("full")
    symmetry = str(config.get("symmetry", "C1"))
    coverage = None if poses is None else float(fourier_coverage(poses["counts"], symmetry).min())
    steps = next_steps(name, pixel_size, result, config, fsc, weights, coverage)
    title = f"{name}: dcryo report"
    body = [
        f"<header><p class='soft'>dcryo · cryo-EM reconstruction</p><h1>{escape(name)}</h1></header>",
        _headline(attributes, volume.shape[0], pixel_size, fsc, poses),
        _next(steps),
        _maps(run, volume, pixel_size),
        _resolution(fsc, result),
        _poses(poses, symmetry, coverage),
        _optimisation(run, history, weights, result),
        _record(attributes),
        f"<footer class='soft'>Written by dcryo {escape(__version__)} from the run store alone.</footer>",
    ]
    style = files("dcryo.report").joinpath("page.css").read_text("utf-8")
    return (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def _headline(
    attributes: Mapping[str, Any], box: int, pixel_size: float, fsc: Table | None, poses: Table | None
) -> str:
    """The resolution with its caveat, and the facts one asks for first."""
    result, config = attributes.get("result", {}), attributes.get("config", {})
    resolution = result.get("resolution_0143_A")
    if resolution is None or fsc is None:
        left = (
            "<p class='resolution'>–</p><p class='measure'>Resolution not measured</p>"
            "<p class='soft'>The run has no half sets to compare.</p>"
        )
    else:
        limit = " (the sampling limit)" if resolution <= 2.001 * pixel_size else ""
        left = (
            f"<p class='resolution'>{resolution:.2f} <small>Å</small></p>"
            f"<p class='measure'>FSC = 0.143 of the linear half maps, mask-corrected{limit}</p>"
            "<p class='soft'>Linear half maps are made without the regularising prior. The half sets share "
            "the poses they came with and one number, the weight of the prior; nothing else passes between "
            "them. The FSC of the regularised half maps is higher and is not a resolution.</p>"
        )
    facts: list[tuple[str, str]] = []
    if poses is not None:
        facts.append(("Particles with a pose", f"{int(np.sum(poses['counts'])):,}"))
    facts += [
        ("Box", f"{box}³ voxels"),
        ("Voxel", f"{pixel_size:.4g} Å"),
        ("Symmetry", str(config.get("symmetry", "C1"))),
    ]
    if result.get("resolution_05_A") is not None:
        facts.append(("FSC = 0.5", f"{result['resolution_05_A']:.2f} Å"))
    if fsc is not None and "truth" in fsc:
        facts.append(("Mean FSC with the truth", f"{np.nanmean(fsc['truth'][1:]):.3f}"))
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


def _next(steps: Iterable[str]) -> str:
    items = "".join(f"<li>{sentence_html(step)}</li>" for step in steps)
    return f"<section class='next'><strong>What to do next</strong><ul>{items}</ul></section>"


def _maps(run: RunStore, full: figures.FloatArray, pixel_size: float) -> str:
    """Central sections; the regularised maps share their grey scale so that they can be compared."""
    present = set(run.volumes())
    shared = figures.grey_limits(full)
    length = figures.scale_bar(full.shape[0] * pixel_size)
    bar_share = 100 * length / (full.shape[0] * pixel_size)
    cells = ["<div class='axis corner'></div>"]
    cells += [f"<div class='axis'>{a} → , {b} ↑</div>" for a, b in ("xy", "xz", "yz")]
    for name, label in _SHOWN_VOLUMES.items():
        if name not in present:
            continue
        volume = full if name == "full" else run.volume(name)[0]
        limits = figures.grey_limits(volume) if name == "linear" else shared
        cells.append(f"<div class='name'>{label}</div>")
        for plane, section in figures.central_sections(volume).items():
            png = base64.b64encode(figures.section_png(section, limits)).decode()
            bar = f"<span class='bar' style='width:{bar_share:.2f}%'>{length:g} Å</span>"
            image = f"<img src='data:image/png;base64,{png}' alt='Central {plane} section of {name}'>"
            cells.append(f"<div class='section'>{image}{bar if plane == 'xy' else ''}</div>")
    caption = (
        f"Sections through the centre of the box, dense matter white. Grey runs from {shared[0]:.3g} to "
        f"{shared[1]:.3g} (percentiles 1 and 99.8 of the full map) for the full map and its halves alike; "
        "the linear map has its own range."
    )
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


def _poses(poses: Table | None, symmetry: str, coverage: float | None) -> str:
    if poses is None or coverage is None:
        return ""
    svg = figures.pose_figure(viewing_density(poses["counts"], symmetry))
    copies = "" if symmetry == "C1" else f", with the copies that {escape(symmetry)} makes"
    caption = (
        f"Directions the particles were seen from{copies}: rot runs from −180° at the left to 180° at the "
        f"right; areas are true. The thinnest Fourier direction holds {100 * coverage:.0f} % of what evenly "
        "spread views would give."
    )
    svg = figures.pose_figure(viewing_density(poses["counts"], symmetry))
    return section("Orientations", figure(svg, caption, "medium"))


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
