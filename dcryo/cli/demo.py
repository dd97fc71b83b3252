"""Simulate particles of a known object, reconstruct them, refine them without their poses, write the reports.

    dcryo demo
    dcryo demo somewhere/else

2,000 noisy particles of 64² pixels with CTF become a map by total variation and nonnegativity, each half set
by itself and both together, and the resolution is measured.  Then their poses are forgotten and found again
from that map, cut off at an eighth of its box.  It needs no data, no network and no GPU, and less than two
minutes on two cores.  An earlier demonstration in the folder is replaced.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from dcryo.cli import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dcryo demo``."""
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("dcryo-demo"),
        metavar="DIR",
        help="a new folder, or that of an earlier demonstration (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Make the demonstration and its reports; print the resolution, and how well poses were found again."""
    from dcryo.methods.demo import demo, pose_error
    from dcryo.report.page import write_report

    with console.progress_on_stderr() as progress:
        made = demo(args.folder, progress=progress)
        report = write_report(made.run.url, str(args.folder / "report.html"))
        refined_report = write_report(made.refined.url, str(args.folder / "refined.html"))
    result = made.run.attributes["result"]
    refined = {
        "refined": made.refined.url,
        "refined_report": refined_report,
        "refined_resolution_0143_A": made.refined.attributes["result"]["resolution_0143_A"],
        "pose_error_median_deg": math.degrees(pose_error(made)),
    }
    if args.json:
        runs = {"particles": made.particles, "run": made.run.url, "report": report}
        console.print_json({**runs, **refined, **result})
        return 0
    console.print_table(console.result_rows(result))
    print(
        "\nWithout their poses, from that map cut off at an eighth of its box: found again to "
        f"{refined['pose_error_median_deg']:.2g}° (median), {refined['refined_resolution_0143_A']:.3g} Å"
    )
    print(f"\nThe reports: {report}, {refined_report}\n\nSee also")
    print(f"  dcryo info {made.particles}")
    print(f"  dcryo fsc {args.folder / 'run.zarr'} {made.particles}:truth --mask-radius 0.3")
    print(f"  dcryo export {args.folder / 'run.zarr'} {args.folder / 'map.mrc'}")
    return 0
