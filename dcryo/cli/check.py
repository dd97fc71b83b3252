"""Verify a store: every chunk present and intact, every value in range.

    dcryo check particles.zarr
    dcryo check particles.zarr --quick

Prints each problem and leaves with exit code 2 if there is one.  A store is read whole, once; with --quick
only the listing and the tables of a particle store are.
"""

from __future__ import annotations

import argparse
import sys

from dcryo.cli import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dcryo check``."""
    parser.add_argument("store", metavar="STORE", help="a particle store or a run")
    parser.add_argument("--quick", action="store_true", help="of a particle store, do not read the images")


def run(args: argparse.Namespace) -> int:
    """List the problems of the store."""
    from dcryo.io.store_root import kind_of

    if kind_of(args.store) == "run":
        from dcryo.io.run_store import open_run

        problems = open_run(args.store).check()
    else:
        from dcryo.io.particle_store import open_particles

        problems = open_particles(args.store, verify=False).check(deep=not args.quick)
    if args.json:
        console.print_json({"store": args.store, "ok": not problems, "problems": problems})
    elif not problems:
        print(f"{args.store}: no problem found")
    else:
        for problem in problems:
            print(problem, file=sys.stderr)
    return 2 if problems else 0
