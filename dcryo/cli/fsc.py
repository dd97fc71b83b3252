"""Compare two maps by Fourier shell correlation.

A and B are maps of one box: MRC files, a run (its full map), RUN:half1, or PARTICLES:truth.  Printed are the
resolutions where the curve first falls below 0.5 and 0.143, and its mean over the shells 1 to n/2.

    dcryo fsc run.zarr:linear1 run.zarr:linear2
    dcryo fsc map.mrc truth.mrc --mask-radius 0.3
    dcryo fsc run.zarr particles.zarr:truth --mask-radius 0.3 --json

0.143 is the threshold between two half maps, 0.5 the one against a known structure.  The mask is a ball about
the centre with a cosine edge of 5 pixels; the correlation that the mask itself makes is not removed here
(`dcryo reconstruct` does so for its half maps).
"""

from __future__ import annotations

import argparse

from dcryo.cli import console
from dcryo.errors import InputError

EDGE = 5.0
"""Width of the mask's cosine edge in pixels."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dcryo fsc``."""
    parser.add_argument("a", metavar="A", help="first map")
    parser.add_argument("b", metavar="B", help="second map")
    parser.add_argument(
        "--mask-radius",
        type=float,
        metavar="FRACTION",
        help="ball of this fraction of the box, as 0.3 (default: no mask)",
    )
    parser.add_argument(
        "--pixel-size", type=float, metavar="Å", help="instead of the one that the maps state"
    )


def run(args: argparse.Namespace) -> int:
    """Compute and print."""
    from dcryo.io.run_store import read_map
    from dcryo.metrics.fsc import fsc_curve, mean_fsc, resolution, soft_ball

    a, pixel_a = read_map(args.a)
    b, pixel_b = read_map(args.b)
    if a.shape != b.shape:
        raise InputError(f"{args.a} has the shape {a.shape} and {args.b} {b.shape}; give maps of one box")
    if args.pixel_size is None and abs(pixel_a - pixel_b) > 0.01 * pixel_a:
        raise InputError(
            f"{args.a} has {pixel_a:g} Å per pixel and {args.b} {pixel_b:g}; state it with --pixel-size"
        )
    pixel_size = pixel_a if args.pixel_size is None else args.pixel_size
    if not pixel_size > 0:
        raise InputError(f"the pixel size {pixel_size:g} Å must be positive; give one with --pixel-size")
    n = len(a)
    if args.mask_radius is not None:
        if not 0 < args.mask_radius <= 0.5:
            raise InputError(
                f"--mask-radius {args.mask_radius:g}: give a fraction of the box between 0 and 0.5"
            )
        mask = soft_ball(n, args.mask_radius * n, EDGE)
        a, b = a * mask, b * mask
    curve = fsc_curve(a, b)
    result = {
        "resolution_0143_A": resolution(curve, 0.143, n, pixel_size),
        "resolution_05_A": resolution(curve, 0.5, n, pixel_size),
        "mean_fsc": mean_fsc(curve),
        "box": n,
        "pixel_size": pixel_size,
        "mask_radius": args.mask_radius,
    }
    if args.json:
        frequency = [shell / (n * pixel_size) for shell in range(len(curve))]
        console.print_json(result | {"frequency": frequency, "fsc": curve})
        return 0
    console.print_table(
        [
            ("FSC 0.143", f"{result['resolution_0143_A']:.2f} Å"),
            ("FSC 0.5", f"{result['resolution_05_A']:.2f} Å"),
            ("mean FSC", f"{result['mean_fsc']:.4f}  (shells 1 to {n // 2})"),
        ]
    )
    return 0
