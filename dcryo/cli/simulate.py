"""Make a particle store whose truth is known.

    dcryo simulate particles.zarr
    dcryo simulate particles.zarr --particles 200000 --snr 0.05
    dcryo simulate particles.zarr --atoms 5a1a.cif.gz --box 96 --pixel-size 2.5 --resolution 6 --symmetry D2
    dcryo simulate particles.zarr --map emd_3400.mrc --no-ctf --snr inf
    dcryo simulate particles.zarr --star relion/

The specimen is a phantom, an atomic model (electron scattering factors) or a map.  Phantoms and models are
sums of Gaussians and are projected analytically; a map is projected by cubic splines in its Fourier
transform.  Neither is the projector that reconstructs.  The object, its poses and shifts stay in the store:
`OUT:truth` names the volume wherever a map is taken.

The SNR is the variance of the clean, CTF-affected images over the whole frame, divided by the variance of the
noise; the images are scaled so that the noise has variance 1.  Every random number follows from --seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcryo.cli import console
from dcryo.errors import InputError

if TYPE_CHECKING:
    from dcryo.methods.progress import Progress

PARTICLES, STACK, TRUTH = "particles.star", "particles.mrcs", "truth.mrc"
"""The files that --star writes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dcryo simulate``; their defaults are those of the configuration."""
    from dcryo.methods.simulate import NOISES, ORIENTATIONS, SNR_DEFINITIONS, SimulateConfig
    from dcryo.methods.specimen import PHANTOMS

    default = SimulateConfig()
    parser.add_argument("out", metavar="OUT", help="particle store to write")
    what = parser.add_argument_group("specimen").add_mutually_exclusive_group()
    what.add_argument(
        "--phantom",
        metavar="NAME",
        help=f"{' or '.join(PHANTOMS)}, or cloud:7 for another one (default: cloud)",
    )
    what.add_argument("--atoms", metavar="MODEL", help="atomic model: .pdb or .cif, either may be gzipped")
    what.add_argument("--map", metavar="MRC", help="density map; its mean outside the particle should be 0")
    parser.add_argument(
        "--resolution", type=float, metavar="Å", help="of the density of a model (default: two pixels)"
    )
    parser.add_argument(
        "--symmetry", default=default.symmetry, metavar="GROUP",
        help="point group; a phantom or map is made symmetric, a model's axes are found and turned "
        "into place (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--solvent", action="store_true", help="random density around every particle, and a constant baseline"
    )

    images = parser.add_argument_group("images")
    images.add_argument(
        "--particles",
        type=int,
        default=default.particles,
        metavar="P",
        help="how many (default: %(default)s)",
    )
    images.add_argument("--box", type=int, metavar="N", help="pixels (default: the map's, or 64)")
    images.add_argument(
        "--pixel-size", type=float, metavar="Å", help="(default: the map's, or 1.5; a model needs one)"
    )
    images.add_argument(
        "--orientations", choices=ORIENTATIONS, default=default.orientations, help="(default: %(default)s)"
    )
    images.add_argument(
        "--max-shift", type=float, default=default.max_shift, metavar="PIXELS",
        help="shifts are uniform up to this, in x and in y (default: %(default)g)",
    )  # fmt: skip
    images.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default=default.dtype,
        help="of the stored images (default: %(default)s)",
    )

    optics = parser.add_argument_group("microscope")
    assert default.defocus is not None
    ctf = optics.add_mutually_exclusive_group()
    ctf.add_argument(
        "--defocus", type=float, nargs=2, default=default.defocus, metavar=("LO", "HI"),
        help="underfocus in Å, uniform between the two (default: {:g} {:g})".format(*default.defocus),
    )  # fmt: skip
    ctf.add_argument("--no-ctf", action="store_true", help="ideal projections")
    optics.add_argument(
        "--voltage", type=float, default=default.voltage, metavar="KV", help="(default: %(default)g)"
    )
    optics.add_argument(
        "--cs", type=float, default=default.cs * 1e-7, metavar="MM", help="(default: %(default)g)"
    )
    optics.add_argument(
        "--amplitude-contrast",
        type=float,
        default=default.amplitude_contrast,
        metavar="RATIO",
        help="(default: %(default)g)",
    )

    noise = parser.add_argument_group("noise")
    noise.add_argument(
        "--snr",
        type=float,
        default=default.snr,
        metavar="RATIO",
        help="not in dB; inf for no noise (default: %(default)g)",
    )
    noise.add_argument(
        "--snr-def", choices=SNR_DEFINITIONS, default=default.snr_definition,
        help="what of the clean image is the signal; power is its mean square (default: %(default)s)",
    )  # fmt: skip
    noise.add_argument("--noise", choices=NOISES, default=default.noise, help="(default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=default.seed, help="of everything random (default: %(default)s)"
    )
    parser.add_argument(
        "--star",
        type=Path,
        metavar="DIR",
        help="also write particles.star, particles.mrcs and truth.mrc for RELION",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT")


def run(args: argparse.Namespace) -> int:
    """Simulate, and write RELION's files if they are asked for."""
    from dcryo.methods.simulate import SimulateConfig, simulate

    given: dict[str, Any] = {
        name: getattr(args, name)
        for name in (
            "phantom", "atoms", "map", "resolution", "symmetry", "solvent", "particles", "box", "pixel_size",
            "orientations", "max_shift", "dtype", "voltage", "amplitude_contrast", "snr", "noise", "seed",
        )
    }  # fmt: skip
    config = SimulateConfig(
        **given,
        snr_definition=args.snr_def,
        defocus=None if args.no_ctf else tuple(args.defocus),
        cs=round(args.cs * 1e7, 3),
    )
    if args.star is not None and not args.overwrite:
        _check_free(args.star)
    with console.progress_on_stderr() as progress:
        store = simulate(args.out, config, progress=progress, overwrite=args.overwrite)
        if args.star is not None:
            _write_relion(store.url, args.star, progress)
    result = {"store": store.url, "particles": store.count, "box": store.box, "pixel_size": store.pixel_size}
    if args.json:
        console.print_json(result)
    else:
        print(
            f"{store.url}: {store.count} particles of {store.box}² pixels, {store.pixel_size:g} Å per pixel"
        )
    return 0


def _check_free(folder: Path) -> None:
    """Say before the work, not after it, that a file is in the way."""
    for name in (PARTICLES, STACK, TRUTH):
        if (folder / name).exists():
            raise InputError(f"{folder / name} exists already; give another --star folder, or --overwrite")


def _write_relion(url: str, folder: Path, progress: Progress) -> None:
    from dcryo.methods.export import ExportConfig, export

    folder.mkdir(parents=True, exist_ok=True)
    export(url, folder / PARTICLES, ExportConfig(beside=True), progress=progress, overwrite=True)
    export(url, folder / TRUTH, ExportConfig(what="truth"), overwrite=True)
