"""Write files of other programs from a store; the ending decides which.

    dcryo export run.zarr map.mrc
    dcryo export run.zarr half1.mrc --what half1
    dcryo export run.zarr fsc.xml
    dcryo export particles.zarr truth.mrc --what truth
    dcryo export particles.zarr particles.star
    dcryo export refined.zarr refined.star

.mrc and .map hold a map, .mrcs the images of a particle store, .star its particles as a RELION 3.1 table
(with the images as an .mrcs beside it), .xml the FSC curve of a run as the EMDB takes it.  The .star of a
refinement holds the poses that it found, and names the files that the images came from; where ingest changed
the images, they come as an .mrcs too.
"""

from __future__ import annotations

import argparse
from dataclasses import fields

from dcryo.cli import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dcryo export``."""
    parser.add_argument("store", metavar="STORE", help="a particle store or a run, or RUN:half1")
    parser.add_argument("out", metavar="OUT", help=".mrc, .map, .mrcs, .star or .xml")
    parser.add_argument(
        "--what", metavar="NAME",
        help="of a map: map, half1, half2, linear1, ..., truth; of an FSC: corrected, unmasked, ... "
        "(default: the main one)",
    )  # fmt: skip
    parser.add_argument(
        "--images", action=argparse.BooleanOptionalAction, default=None,
        help="a .star brings the images as an .mrcs, or refers to the files that were ingested (default: "
        "brings those of a particle store; of a run only where those files will not do)",
    )  # fmt: skip
    parser.add_argument(
        "--iteration",
        type=int,
        metavar="N",
        help="of a refinement, whose poses go into a .star (default: the last)",
    )
    parser.add_argument(
        "--lost", action=argparse.BooleanOptionalAction, default=True,
        help="a .star of a refinement holds the particles that it has lost as well (default: it does)",
    )  # fmt: skip
    parser.add_argument(
        "--beside",
        action="store_true",
        help="a .star names its images relative to its own folder, not to this one",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT")


def run(args: argparse.Namespace) -> int:
    """Export, and say where."""
    from dcryo.methods.export import ExportConfig, export

    config = ExportConfig(**{field.name: getattr(args, field.name) for field in fields(ExportConfig)})
    with console.progress_on_stderr() as progress:
        path = export(args.store, args.out, config, progress=progress, overwrite=args.overwrite)
    if args.json:
        console.print_json({"file": path})
    else:
        print(path)
    return 0
