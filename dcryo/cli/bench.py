"""Time dcryo beside every peer that is installed: table, JSON, picture.

    dcryo bench --list
    dcryo bench bench/
    dcryo bench bench/ --suite operators,convolution --threads 1,all --rounds 9
    dcryo bench bench/ --suite reconstruct --full --peers relion
    dcryo bench bench/ --device cuda --full --overwrite

Seeded views and particles of a cloud of Gaussians, with CTF, astigmatism, shifts and noise.  Everybody is in
a process of its own and takes turns with the others; a number is the median of the rounds, with the lowest
and the highest.  "ours" is our time over that of the line, so below 1 we are faster.  The small sizes take a
minute or two on two cores.  OUT/bench.json holds everything, OUT/bench.png the bars.  docs/bench.md says what
exactly is timed.  A peer that fails is reported and the others go on; the exit code is 2 where dcryo itself
failed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from dcryo.cli import console
from dcryo.errors import InputError

WE_FAILED = 2

CHECKS = {
    "relative": "error",
    "mean_fsc": "mean FSC",
    "correlation": "correlation",
    "gap": "gap",
    "iterations": "iterations",
}
"""What a table says of results, and its name there."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dcryo bench``."""
    parser.add_argument(
        "out", nargs="?", type=Path, metavar="OUT", help="folder for bench.json and bench.png"
    )
    parser.add_argument("--list", action="store_true", help="name the suites and the peers, and leave")
    what = parser.add_argument_group("what is measured")
    what.add_argument("--suite", type=_names, metavar="NAMES", help="of --list, by commas (default: all)")
    what.add_argument("--full", action="store_true", help="large sizes; hours with every peer")
    what.add_argument("--box", type=int, metavar="N", help="another box for every suite")
    what.add_argument("--count", type=int, metavar="P", help="another number of views or particles")
    what.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of everything random (default: %(default)s)"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--peers",
        type=_names,
        metavar="NAMES",
        help="of --list, by commas; or auto, all that are installed; or none (default: auto, with --device "
        "cuda none)",
    )
    how.add_argument(
        "--threads",
        type=_names,
        default=("1",),
        metavar="NUMBERS",
        help="by commas, as 1,all: every case with each of them (default: 1)",
    )
    how.add_argument(
        "--device", default="cpu", metavar="NAME", help="where dcryo computes: cpu (default) or cuda"
    )
    how.add_argument(
        "--rounds", type=int, default=5, metavar="R", help="timed calls of each (default: %(default)s)"
    )
    how.add_argument(
        "--limit",
        type=float,
        default=3600.0,
        metavar="S",
        help="give up on whoever takes longer for a call, seconds (default: %(default)g)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the files of an earlier run")


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, and say where the files are."""
    if args.list:
        return _list(args.json)
    if args.out is None:
        raise InputError("give a folder for the results, or --list")
    from dcryo.bench.run import BenchConfig, bench

    given = {f.name: getattr(args, f.name) for f in fields(BenchConfig) if getattr(args, f.name) is not None}
    if args.peers is None and args.device == "cuda":
        given["peers"] = ("none",)
    config = BenchConfig(**given)
    with console.progress_on_stderr() as progress:
        done = bench(args.out, config, progress=progress, overwrite=args.overwrite)
    if args.json:
        console.print_json(done.document | {"json": done.json, "png": done.png})
    else:
        _print_tables(done.document)
        print(f"{done.json}\n{done.png}")
    return 0 if done.passed else WE_FAILED


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of names with commas between them")
    return names


def _list(as_json: bool) -> int:
    from dcryo.bench.peers import PEERS, versions
    from dcryo.bench.suites import SUITES

    found = versions()
    if as_json:
        console.print_json(
            {
                "suites": [{"name": name, "title": suite.title} for name, suite in SUITES.items()],
                "peers": [
                    {"name": name, "title": peer.title, "version": found[name], "install": peer.install}
                    for name, peer in PEERS.items()
                ],
            }
        )
        return 0
    print("suites")
    console.print_table([(f"  {name}", suite.title) for name, suite in SUITES.items()])
    print("\npeers")
    console.print_table(
        [
            (f"  {name}", f"{peer.title}: {found[name] or f'not installed; {peer.install}'}")
            for name, peer in PEERS.items()
        ]
    )
    return 0


def _print_tables(document: Mapping[str, Any]) -> None:
    """A table per case."""
    from dcryo.bench.chart import title

    found = document["machine"]
    print(f"{found['processor']}, {found['usable']} of {found['processors']} processors", end="")
    print(f", {found['gpu']}\n" if found["gpu"] else "\n")
    for case in document["cases"]:
        head = (title(case), "CPU s", "wall s", "peak", "above", "ours", "")
        rows = [head, *(_row(line) for line in case["lines"])]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        print()


def _row(line: Mapping[str, Any]) -> tuple[str, ...]:
    if line["status"] != "measured":
        return (f"  {line['label']}", "failed", "", "", "", "", line["reason"])
    memory = line["memory"]
    shares = [f"{ratio['median']:.2f}" for ratio in line["ratios"] if ratio["median"] is not None]
    checks = [f"{name} {line['checks'][key]:.2g}" for key, name in CHECKS.items() if key in line["checks"]]
    return (
        f"  {line['label']}",
        _seconds(line["cpu"]),
        _seconds(line["wall"]),
        console.byte_size(memory["peak"]),
        console.byte_size(memory["above"]),
        ", ".join(shares),
        ", ".join(checks),
    )


def _seconds(spread: Mapping[str, float]) -> str:
    return f"{spread['median']:.3g} ({spread['lowest']:.3g} to {spread['highest']:.3g})"
