"""Compare two maps by Fourier shell correlation.

A and B are maps of one box: MRC files, a run (its full map), RUN:half1, or PARTICLES:truth.  Printed are the
resolutions where the curve first falls below 0.5 and 0.143, and its mean over the shells 1 to n/2.

    dcryo fsc run.zarr:linear1 run.zarr:linear2
    dcryo fsc map.mrc truth.mrc --mask-radius 0.3
    dcryo fsc run.zarr particles.zarr:truth --mask-radius 0.3 --json
    dcryo fsc ab_initio.zarr truth.mrc --mask-radius 0.3 --align --hand

0.143 is the threshold between two half maps, 0.5 the one against a known structure.  The mask is a ball about
the centre with a cosine edge of 5 pixels; the correlation that the mask itself makes is not removed here
(`dcryo reconstruct` does so for its half maps).

--align turns and moves A so that it agrees with B, where their frames may differ; half maps need it only if
their particles were aligned apart.  With --hand the mirror image of A is tried as well.
"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from dcryo.cli import console
from dcryo.errors import InputError

if TYPE_CHECKING:
    from dcryo.metrics.rigid import Float32

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
    parser.add_argument("--align", action="store_true", help="turn and move A to where it agrees with B")
    parser.add_argument("--hand", action="store_true", help="with --align: try the mirror image of A as well")
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
    if args.hand and not args.align:
        raise InputError("--hand is tried where maps are aligned; give --align as well")
    if args.mask_radius is not None and not 0 < args.mask_radius <= 0.5:
        raise InputError(f"--mask-radius {args.mask_radius:g}: give a fraction of the box between 0 and 0.5")
    alignment: dict[str, Any] = {}
    if args.align:
        a, alignment = _aligned(a, b, args, pixel_size)
    n = len(a)
    if args.mask_radius is not None:
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
    result |= {"alignment": alignment} if alignment else {}
    if args.json:
        frequency = [shell / (n * pixel_size) for shell in range(len(curve))]
        console.print_json(result | {"frequency": frequency, "fsc": curve})
        return 0
    rows = []
    if alignment:
        moved = ", ".join(f"{along:.2f}" for along in alignment["translation_A"])
        hand = "the other hand, " if alignment["mirrored"] else ""
        rows = [("A aligned", f"{hand}turned by {alignment['angle_deg']:.2f}°, moved by ({moved}) Å")]
    console.print_table(
        [
            *rows,
            ("FSC 0.143", f"{result['resolution_0143_A']:.2f} Å"),
            ("FSC 0.5", f"{result['resolution_05_A']:.2f} Å"),
            ("mean FSC", f"{result['mean_fsc']:.4f}  (shells 1 to {n // 2})"),
        ]
    )
    return 0


def _aligned(
    a: Float32, b: Float32, args: argparse.Namespace, pixel_size: float
) -> tuple[Float32, dict[str, Any]]:
    """The first map in the frame of the second, and what was done to it."""
    from dcryo.metrics.registration import register

    try:
        found = register(a, b, search=True, hand=args.hand)
    except InputError as error:
        raise InputError(f"{args.a} and {args.b} are not aligned: {error}") from None
    return found.apply_to_map(a), {
        "angle_deg": math.degrees(found.angle),
        "rotation": found.rotation,
        "translation_A": found.translation * pixel_size,
        "mirrored": found.mirrored,
        "correlation": found.correlation,
    }
