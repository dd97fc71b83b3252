"""Clean a run: remove its scratch and the poses of old iterations.

    dcryo clean run.zarr
    dcryo clean refined.zarr --keep-iterations 3

Maps, tables, the result and the last poses stay.  A run that was not finished is left alone: its scratch is
what the same command would go on from.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from dcryo.cli import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dcryo clean``."""
    from dcryo.methods.clean import CleanConfig

    default = CleanConfig()
    parser.add_argument("run_store", metavar="RUN", help="a run")
    parser.add_argument(
        "--keep-iterations", type=int, default=default.keep_iterations, metavar="N",
        help="of a refinement: poses of the last N stay (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="also a run that was not finished")


def run(args: argparse.Namespace) -> int:
    """Clean, and say what that freed."""
    from dcryo.methods.clean import CleanConfig, clean

    done = clean(args.run_store, CleanConfig(args.keep_iterations, args.force))
    if args.json:
        console.print_json({"run": args.run_store, **asdict(done)})
    else:
        print(f"{args.run_store}: {console.byte_size(done.freed_bytes)} freed")
    return 0
