"""Write the HTML page of a run: one file, pictures inside, no network needed to read it.

    dcryo report run.zarr
    dcryo report run.zarr --output page.html

It is made from the run alone; the particles are not needed any more.  A reconstruction must be finished; of a
refinement under way the page shows the iterations that are done.
"""

from __future__ import annotations

import argparse

from dcryo.cli import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dcryo report``."""
    parser.add_argument("run_store", metavar="RUN", help="a run")
    parser.add_argument(
        "--output", metavar="HTML", help="where to write it (default: report.html in the run)"
    )


def run(args: argparse.Namespace) -> int:
    """Write the page and say where it is."""
    from dcryo.report.page import write_report

    path = write_report(args.run_store, args.output)
    if args.json:
        console.print_json({"report": path})
    else:
        print(path)
    return 0
