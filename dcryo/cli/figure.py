"""Repeat an experiment of the thesis: numbers, a picture, and lines that pass or fail.

    dcryo figure --list
    dcryo figure figure-4.1 figures/
    dcryo figure table-4.1 figures/ --full
    dcryo figure figure-4.1 figures/ --atoms 5a1a.cif.gz --overwrite

ID is one of the list; 4.1, F4.1 and T4.1 are understood as well.  OUT/ID.json holds the numbers, the
parameters and the checks, OUT/ID.png the picture, which is drawn from that file alone.  The small sizes take
about a minute on one core, --full takes those of the thesis.  docs/figures.md says what each one shows, and
where the thesis is not to be taken literally.  The exit code is 2 where a check failed.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from dcryo.cli import console
from dcryo.errors import InputError

CHECK_FAILED = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dcryo figure``."""
    parser.add_argument("id", nargs="?", metavar="ID", help="the experiment, as figure-4.1")
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT", help="folder for ID.json and ID.png")
    parser.add_argument("--list", action="store_true", help="name the experiments and leave")
    parser.add_argument("--full", action="store_true", help="the sizes of the thesis")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of everything random (default: %(default)s)"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="threads of what is not timed (default: all processors)",
    )
    parser.add_argument(
        "--atoms",
        metavar="MODEL",
        help="atomic model (.pdb or .cif) instead of the phantom, where there is a specimen",
    )
    parser.add_argument(
        "--map", metavar="MAP", help="density map (.mrc) instead of the phantom, where one can be taken"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the files of an earlier run")


def run(args: argparse.Namespace) -> int:
    """Run the experiment, print its checks, and say where the files are."""
    from dcryo.figures import EXPERIMENTS
    from dcryo.figures.experiment import load, reproduce

    if args.list:
        modules = {name: load(name) for name in EXPERIMENTS}
        if args.json:
            console.print_json(
                {"experiments": [{"id": i, "title": m.TITLE, "source": m.SOURCE} for i, m in modules.items()]}
            )
        else:
            console.print_table([(name, module.TITLE) for name, module in modules.items()])
        return 0
    if args.id is None or args.out is None:
        raise InputError("give an experiment and a folder, as figure-4.1 figures/, or --list")
    with console.progress_on_stderr() as progress:
        made = reproduce(
            args.id,
            args.out,
            full=args.full,
            seed=args.seed,
            threads=args.threads,
            atoms=args.atoms,
            map=args.map,
            progress=progress,
            overwrite=args.overwrite,
        )
    outcome = made.outcome
    if args.json:
        console.print_json(
            {
                "experiment": made.name,
                "title": made.title,
                "source": made.source,
                "passed": outcome.passed,
                "checks": [asdict(check) for check in outcome.checks],
                "numbers": outcome.numbers,
                "json": made.json,
                "png": made.png,
            }
        )
    else:
        print(f"{made.title}\n{made.source}\n")
        console.print_table(outcome.shown)
        for check in outcome.checks:
            word = "pass" if check.passed else "FAIL"
            print(f"{word}  {check.name}: {check.measured} ({check.wanted})")
        print(f"\n{made.json}\n{made.png}")
    return 0 if outcome.passed else CHECK_FAILED
