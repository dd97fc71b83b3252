"""Refine poses and map together, from a rough map, rough poses, or both.

    dcryo refine particles.zarr run.zarr --initial rough.mrc
    dcryo refine particles.zarr run.zarr
    dcryo refine particles.zarr run.zarr --initial other.zarr --low-pass 40 --symmetry D2
    dcryo refine particles.zarr run.zarr --initial rough.mrc --workers 4

With a starting map all rotations are searched in the first iterations, so that no poses are needed; without
one the poses that the particles have are refined from where they are.  Half sets stay apart from the first
iteration to the last; poses look no further than their half maps agree.  Poses of every iteration are kept in
the run, with their uncertainty; ``dcryo export RUN refined.star`` writes them for RELION.  Interrupted, or
after a worker, a scheduler or the command itself has died, the same command goes on where it stopped.
Results do not depend on the number of workers, to the last bit.
"""

from __future__ import annotations

import argparse
from dataclasses import fields

from dcryo.cli import console
from dcryo.cli.map_arguments import add_map_arguments, add_work_arguments, switch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dcryo refine``; their defaults are those of the configuration."""
    from dcryo.dataflow.pose_update import UPDATES
    from dcryo.methods.refine_config import SEARCHES, RefineConfig

    default = RefineConfig()
    parser.add_argument("particles", metavar="PARTICLES", help="particle store")
    parser.add_argument("run_store", metavar="RUN", help="run to write, or to resume")

    poses = parser.add_argument_group("poses")
    poses.add_argument(
        "--initial", metavar="MAP", help="starting map: a file, RUN or RUN:half1 (default: that of the poses)"
    )
    poses.add_argument(
        "--initial-pixel-size", type=float, metavar="Å", help="of the starting map, where its header is wrong"
    )
    poses.add_argument(
        "--low-pass", type=float, metavar="Å",
        help="resolution at which the starting map is cut off (default: an eighth of the box)",
    )  # fmt: skip
    poses.add_argument(
        "--search", choices=SEARCHES, default=default.search,
        help="all rotations in the first iterations, whatever the poses there are; only around those; auto: "
        "both where there is a starting map, else local (default: %(default)s)",
    )  # fmt: skip
    poses.add_argument(
        "--max-shift", type=float, metavar="Å",
        help="reach of a search in shifts (default: 6 %% of the box)",
    )  # fmt: skip
    poses.add_argument(
        "--update", choices=UPDATES, default=default.update,
        help="Levenberg-Marquardt; gradient descent with backtracking; projection matching "
        "(default: %(default)s)",
    )  # fmt: skip
    poses.add_argument(
        "--soft", type=switch, default=default.soft, metavar="{auto,on,off}",
        help="fold images over the posterior of their poses, not at the best one; auto: where poses are not "
        "known as well as they should be (default: %(default)s)",
    )  # fmt: skip
    poses.add_argument(
        "--rounds", type=int, default=default.rounds, metavar="N",
        help="at most so many iterations of poses and map (default: %(default)s)",
    )  # fmt: skip
    poses.add_argument(
        "--limit", type=float, metavar="Å",
        help="finest resolution that poses look at (default: what the half maps support)",
    )  # fmt: skip
    add_map_arguments(parser, default)
    work = add_work_arguments(parser, default)
    work.add_argument("--overwrite", action="store_true", help="replace RUN")


def run(args: argparse.Namespace) -> int:
    """Refine; print the result."""
    from dcryo.methods.refine import RefineConfig, refine

    config = RefineConfig(**{field.name: getattr(args, field.name) for field in fields(RefineConfig)})
    with (
        console.progress_on_stderr() as progress,
        console.executor(args, progress) as executor,
    ):
        store = refine(
            args.particles,
            args.run_store,
            config,
            executor=executor,
            progress=progress,
            overwrite=args.overwrite,
            threads=args.threads,
            max_memory=args.max_memory,
        )
    result = store.attributes["result"]
    if args.json:
        console.print_json({"run": store.url, **result})
    else:
        console.print_table(console.result_rows(result))
        name = args.run_store
        print(f"dcryo report {name} writes its page, dcryo export {name} poses.star its poses")
    return 0
