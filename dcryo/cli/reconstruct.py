"""Reconstruct: a regularised map, its half maps and an honest FSC from a particle store.

    dcryo reconstruct particles.zarr run.zarr
    dcryo reconstruct particles.zarr run.zarr --symmetry D2 --mask-diameter 180
    dcryo reconstruct particles.zarr run.zarr --scale 2 --weight 0.5
    dcryo reconstruct particles.zarr run.zarr --poses refined.zarr
    dcryo reconstruct particles.zarr run.zarr --dry-run
    dcryo reconstruct particles.zarr run.zarr --workers 4
    dcryo reconstruct particles.zarr run.zarr --scheduler tcp://node17:8786

The defaults are meant to be used: total variation whose weight is found by cross-validation between the half
sets, nonnegativity where it helps, noise spectra from the store.  The headline resolution is the FSC of
linear (unregularised) half maps, corrected for the mask.  Interrupted, or after a worker, a scheduler or the
command itself has died, the same command goes on where it stopped.  Results do not depend on the number of
workers, to the last bit.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, fields

from dcryo.cli import console
from dcryo.cli.map_arguments import add_map_arguments, add_work_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dcryo reconstruct``; their defaults are those of the configuration."""
    from dcryo.methods.reconstruct_config import ReconstructConfig

    default = ReconstructConfig()
    parser.add_argument("particles", metavar="PARTICLES", help="particle store")
    parser.add_argument("run_store", metavar="RUN", help="run to write, or to resume")

    add_map_arguments(parser, default)
    work = add_work_arguments(parser, default)
    work.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu",
        help="cuda: on an NVIDIA GPU, one for each worker (default: %(default)s)",
    )  # fmt: skip
    work.add_argument("--dry-run", action="store_true", help="print the plan and do nothing")
    work.add_argument("--overwrite", action="store_true", help="replace RUN")


def run(args: argparse.Namespace) -> int:
    """Reconstruct, or print the plan; print the result."""
    from dcryo.methods.reconstruct import ReconstructConfig, plan, reconstruct

    config = ReconstructConfig(
        **{field.name: getattr(args, field.name) for field in fields(ReconstructConfig)}
    )
    if args.dry_run:
        planned = plan(args.particles, config, args.workers or 1)
        if args.json:
            console.print_json({"plan": asdict(planned)})
        else:
            print(planned.describe())
        return 0
    with (
        console.progress_on_stderr() as progress,
        console.executor(args, progress) as executor,
    ):
        store = reconstruct(
            args.particles,
            args.run_store,
            config,
            executor=executor,
            progress=progress,
            overwrite=args.overwrite,
            threads=args.threads,
            max_memory=args.max_memory,
            device=args.device,
        )
    result = store.attributes["result"]
    if args.json:
        console.print_json({"run": store.url, **result})
    else:
        console.print_table(console.result_rows(result))
        print(f"dcryo report {args.run_store} writes its page, dcryo export {args.run_store} map.mrc its map")
    return 0
