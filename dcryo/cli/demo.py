"""Simulate particles of a known object, reconstruct them, and write the report.

    dcryo demo
    dcryo demo somewhere/else

2,000 noisy particles of 64² pixels with CTF become a map by total variation and nonnegativity, each half set
by itself and both together, and the resolution is measured.  It needs no data, no network and no GPU, and
less than two minutes on two cores.  An earlier demonstration in the folder is replaced.
"""

from __future__ import annotations

import argparse
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
    """Make the demonstration and its report; print the resolution."""
    from dcryo.methods.demo import demo
    from dcryo.report.page import write_report

    with console.progress_on_stderr() as progress:
        made = demo(args.folder, progress=progress)
        report = write_report(made.run.url, str(args.folder / "report.html"))
    result = made.run.attributes["result"]
    if args.json:
        console.print_json({"particles": made.particles, "run": made.run.url, "report": report, **result})
        return 0
    console.print_table(console.result_rows(result))
    print(f"\nThe report: {report}\n\nSee also")
    print(f"  dcryo info {made.particles}")
    print(f"  dcryo fsc {args.folder / 'run.zarr'} {made.particles}:truth --mask-radius 0.3")
    print(f"  dcryo export {args.folder / 'run.zarr'} {args.folder / 'map.mrc'}")
    return 0
