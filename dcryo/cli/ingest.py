"""Read particles of RELION or cryoSPARC into a particle store.

    dcryo ingest Refine3D/job012/run_data.star particles.zarr
    dcryo ingest run_data.star particles.zarr --datadir /data/project --box 128
    dcryo ingest J24_particles.cs particles.zarr --passthrough J24_passthrough_particles.cs
    dcryo ingest stack.mrcs particles.zarr --pixel-size 1.35 --no-ctf

STAR files of RELION 3.0 to 5, cryoSPARC's .cs, stacks and single images are read; several of them become one
store.  Images are stored with matter positive: --contrast auto goes by the file and stops where the images
contradict it.  Half sets are kept; where there are none they are drawn at random, by --seed.  A column that
would change the reconstruction and is not handled stops the command by its name.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dcryo.cli import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dcryo ingest``; their defaults are those of the configuration."""
    from dcryo.methods.ingest import CONTRASTS, IngestConfig

    default = IngestConfig()
    parser.add_argument("sources", nargs="+", metavar="SRC", help=".star, .cs, .mrcs or .mrc files")
    parser.add_argument("out", metavar="OUT", help="particle store to write")
    parser.add_argument("--datadir", type=Path, metavar="DIR", help="folder that the image paths start from")
    parser.add_argument(
        "--passthrough", type=Path, action="append", default=[], metavar="CS",
        help="cryoSPARC passthrough file; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--pixel-size", type=float, metavar="Å",
        help="what the pixel size is, whatever the files say; with --box, what to resample to",
    )  # fmt: skip
    parser.add_argument(
        "--box", type=int, metavar="N", help="resample the images to this box (in Fourier space)"
    )
    parser.add_argument(
        "--contrast", choices=CONTRASTS, default=default.contrast, help="(default: %(default)s)"
    )
    parser.add_argument(
        "--ignore", action="append", default=[], metavar="COLUMN",
        help="read as if this column were not there; may be given several times",
    )  # fmt: skip
    parser.add_argument("--no-ctf", action="store_true", help="the images carry no CTF")
    parser.add_argument(
        "--allow-outside", action="store_true", help="accept image paths that leave the project folder"
    )
    parser.add_argument(
        "--seed", type=int, default=default.seed, help="of half sets that are drawn (default: %(default)s)"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "float16"), default=default.dtype, help="(default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT")


def run(args: argparse.Namespace) -> int:
    """Ingest, and say what came in."""
    from dcryo.methods.ingest import IngestConfig, ingest

    config = IngestConfig(
        datadir=args.datadir,
        passthrough=tuple(args.passthrough),
        pixel_size=args.pixel_size,
        box=args.box,
        contrast=args.contrast,
        ignore=tuple(args.ignore),
        no_ctf=args.no_ctf,
        allow_outside=args.allow_outside,
        seed=args.seed,
        dtype=args.dtype,
    )
    with console.progress_on_stderr() as progress:
        store = ingest(args.sources, args.out, config, progress=progress, overwrite=args.overwrite)
    if args.json:
        console.print_json(
            {
                "store": store.url,
                "particles": store.count,
                "box": store.box,
                "pixel_size": store.pixel_size,
                "notes": store.attributes["provenance"]["notes"],
            }
        )
    else:
        print(
            f"{store.url}: {store.count} particles of {store.box}² pixels, {store.pixel_size:g} Å per pixel"
        )
    return 0
