"""Post-process two half maps: mask, FSC, sharpened map, local and directional resolution.

    dcryo postprocess run.zarr post
    dcryo postprocess run_half1_class001_unfil.mrc post
    dcryo postprocess half_a.mrc post --half2 half_b.mrc --mask mask.mrc --bfactor -80
    dcryo postprocess run.zarr post --mask-threshold 0.02 --mtf k3-300kV.star --mtf-pixel-size 0.415

MAPS is a finished run, whose linear half maps are taken, or the first of two half maps.  OUT becomes a
folder with the names that RELION gives: postprocess.mrc, postprocess_masked.mrc, postprocess.star,
postprocess_fsc.xml, and beside them the mask, the local resolution, a picture and a record.  The run is
left as it is.

The mask is made as RELION makes it, at a density found by Otsu's method unless one is given; the FSC is
corrected for the mask by phase randomisation; the B factor comes from a Guinier fit.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from dcryo.cli import console

ROWS = {
    "resolution_0143_A": ("resolution, FSC 0.143", "Å, corrected for the mask"),
    "resolution_05_A": ("resolution, FSC 0.5", "Å, corrected for the mask"),
    "unmasked_resolution_0143_A": ("without a mask, FSC 0.143", "Å"),
    "mask_fraction": ("mask, share of the box", ""),
    "mask_threshold": ("mask, cut at", ""),
    "bfactor": ("B factor", "Å²"),
    "lowpass_A": ("low-pass filter", "Å"),
    "local_resolution_median_A": ("local resolution, median", "Å"),
    "local_resolution_best_A": ("local resolution, best 5 %", "Å"),
    "local_resolution_worst_A": ("local resolution, worst 5 %", "Å"),
    "directional_best_A": ("best direction, FSC 0.143", "Å"),
    "directional_worst_A": ("worst direction, FSC 0.143", "Å"),
    "sphericity": ("sphericity of FSC 0.5", ""),
    "sampling_compensation": ("sampling compensation factor", "of the poses; 1 is even"),
}
"""Keys of the result that a human is shown: label, and what the number is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dcryo postprocess``; their defaults are those of the configuration."""
    from dcryo.methods.postprocess_config import HALF_MAPS, PostprocessConfig

    default = PostprocessConfig()
    parser.add_argument("half_maps", metavar="MAPS", help="a run, or the first half map")
    parser.add_argument("out", metavar="OUT", help="folder to write")
    parser.add_argument(
        "--half2", metavar="MAP",
        help="the second half map (default: the file with half2 instead of half1 in its name)",
    )  # fmt: skip
    parser.add_argument(
        "--maps", choices=tuple(HALF_MAPS), default=default.maps,
        help="half maps of a run; the FSC of regularised ones is not a resolution (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--pixel-size", type=float, metavar="Å", help="instead of the one that the maps state"
    )

    mask = parser.add_argument_group("mask")
    mask.add_argument("--mask", metavar="MAP", help="a mask from 0 to 1 (default: one is made)")
    mask.add_argument(
        "--mask-lowpass", type=float, default=default.mask_lowpass, metavar="Å",
        help="filter the average to this before it is cut (default: %(default)g)",
    )  # fmt: skip
    mask.add_argument(
        "--mask-threshold", type=float, metavar="DENSITY",
        help="cut the filtered average here (default: by Otsu's method)",
    )  # fmt: skip
    mask.add_argument(
        "--mask-extend", type=float, default=default.mask_extend, metavar="VOXELS",
        help="grow what is inside (default: %(default)g)",
    )  # fmt: skip
    mask.add_argument(
        "--mask-edge", type=float, default=default.mask_edge, metavar="VOXELS",
        help="cosine edge outside of that (default: %(default)g)",
    )  # fmt: skip

    sharpening = parser.add_argument_group("sharpening")
    sharpening.add_argument(
        "--bfactor", type=_bfactor, default=default.bfactor, metavar="B",
        help="in Å², negative to sharpen, or auto: from a Guinier fit (default: %(default)s)",
    )  # fmt: skip
    sharpening.add_argument(
        "--bfactor-low", type=float, default=default.bfactor_low, metavar="Å",
        help="the fit begins here (default: %(default)g)",
    )  # fmt: skip
    sharpening.add_argument(
        "--bfactor-high", type=float, metavar="Å", help="and ends here (default: the resolution)"
    )
    sharpening.add_argument(
        "--no-fsc-weighting", action="store_true", help="do not weight by sqrt(2 FSC / (1 + FSC))"
    )
    sharpening.add_argument(
        "--lowpass", type=float, metavar="Å", help="filter the map (default: to the resolution)"
    )
    sharpening.add_argument("--mtf", metavar="STAR", help="divide by this MTF of the detector")
    sharpening.add_argument(
        "--mtf-pixel-size", type=float, metavar="Å", help="of the detector (default: that of the maps)"
    )

    local = parser.add_argument_group("local and directional resolution")
    local.add_argument("--no-local-resolution", action="store_true", help="leave it out")
    local.add_argument(
        "--locres-sampling", type=float, default=default.locres_sampling, metavar="Å",
        help="spacing of the points (default: %(default)g)",
    )  # fmt: skip
    local.add_argument(
        "--locres-radius", type=float, default=default.locres_radius, metavar="Å",
        help="of the soft ball about a point (default: %(default)g)",
    )  # fmt: skip
    local.add_argument(
        "--locres-edge", type=float, default=default.locres_edge, metavar="Å",
        help="cosine edge of the ball (default: %(default)g)",
    )  # fmt: skip
    local.add_argument(
        "--locres-randomise", type=float, default=default.locres_randomise, metavar="Å",
        help="phases are random beyond this (default: %(default)g)",
    )  # fmt: skip
    local.add_argument(
        "--locres-coarsest", type=float, default=default.locres_coarsest, metavar="Å",
        help="what is worse is set to this (default: %(default)g)",
    )  # fmt: skip
    local.add_argument("--no-directional", action="store_true", help="leave out the FSC by direction")

    work = parser.add_argument_group("work")
    work.add_argument(
        "--seed", type=int, default=default.seed, help="of the random phases (default: %(default)s)"
    )
    work.add_argument(
        "--threads", type=int, default=0, metavar="N", help="0: one per core (default: %(default)s)"
    )
    work.add_argument("--overwrite", action="store_true", help="replace the results in OUT")


def run(args: argparse.Namespace) -> int:
    """Post-process, and print the numbers."""
    from dcryo.methods.postprocess import postprocess
    from dcryo.methods.postprocess_config import PostprocessConfig

    switches: dict[str, Any] = {
        "fsc_weighting": not args.no_fsc_weighting,
        "local_resolution": not args.no_local_resolution,
        "directional": not args.no_directional,
    }
    options: dict[str, Any] = {
        field.name: getattr(args, field.name)
        for field in fields(PostprocessConfig)
        if field.name not in switches
    }
    config = PostprocessConfig(**options, **switches)
    with console.progress_on_stderr() as progress:
        done = postprocess(
            args.half_maps,
            args.out,
            config,
            half2=args.half2,
            progress=progress,
            overwrite=args.overwrite,
            threads=args.threads,
        )
    if args.json:
        console.print_json(done.result)
        return 0
    result = done.result
    console.print_table(
        [
            (label, f"{console.text(result[key])} {meaning}".rstrip())
            for key, (label, meaning) in ROWS.items()
            if result[key] is not None
        ]
    )
    print(f"{done.folder}: {', '.join(done.result['files'])}")
    return 0


def _bfactor(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor auto") from None
