"""Options that the commands which make maps share; their defaults are those of the configuration."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from dcryo.cli import console

if TYPE_CHECKING:
    from dcryo.methods.reconstruct_config import ReconstructConfig


def add_map_arguments(parser: argparse.ArgumentParser, default: ReconstructConfig) -> None:
    """What the map is: groups "model" and "solver"."""
    from dcryo.methods.reconstruct_config import PRIORS, SOLVERS

    model = parser.add_argument_group("model")
    model.add_argument(
        "--prior",
        choices=PRIORS,
        default=default.prior,
        help="total variation, isotropic or not; cycle-spun Haar wavelets; none: the linear map "
        "(default: %(default)s)",
    )
    model.add_argument(
        "--weight", type=_weight, default=default.weight, metavar="W",
        help="of the prior, about 1, or auto: by cross-validation between the halves (default: %(default)s)",
    )  # fmt: skip
    model.add_argument(
        "--nonnegative", type=switch, default=default.nonnegative, metavar="{auto,on,off}",
        help="density above the level of its surroundings; auto: unless cross-validation speaks against it "
        "(default: %(default)s)",
    )  # fmt: skip
    model.add_argument("--symmetry", default=default.symmetry, metavar="GROUP", help="(default: %(default)s)")
    model.add_argument(
        "--noise", choices=("auto", "white"), default=default.noise,
        help="the spectra in the store, or all frequencies alike (default: %(default)s)",
    )  # fmt: skip
    model.add_argument(
        "--scale", type=float, default=default.scale, metavar="S",
        help="voxels S times as large as pixels: coarser, faster, steadier (default: %(default)g)",
    )  # fmt: skip
    model.add_argument(
        "--native-scale",
        action="store_true",
        help="write the maps in those voxels, not in pixels",
    )
    model.add_argument(
        "--basis", default=default.basis, metavar="BASIS",
        help="voxel, or kbwf:RADIUS,ALPHA,ORDER as kbwf:4,19,2 (default: %(default)s)",
    )  # fmt: skip
    model.add_argument(
        "--halves", choices=("auto", "even-odd", "none"), default=default.halves,
        help="those of the store, rows of even and odd index, or no halves (default: %(default)s)",
    )  # fmt: skip
    model.add_argument(
        "--poses", default=default.poses, metavar="RUN[@ITERATION]",
        help="those that dcryo refine found for these particles (default: the store's)",
    )  # fmt: skip
    model.add_argument(
        "--mask-diameter", type=float, default=default.mask_diameter, metavar="Å",
        help="of the ball in which the FSC is measured (default: 0.8 of the box)",
    )  # fmt: skip

    solver = parser.add_argument_group("solver")
    solver.add_argument(
        "--accuracy", choices=("fast", "default", "accurate", "reference"), default=default.accuracy,
        help="of the slices; reference is a direct sum, for tiny boxes (default: %(default)s)",
    )  # fmt: skip
    solver.add_argument(
        "--solver", choices=SOLVERS, default=default.solver,
        help="accelerated proximal gradients, ADMM with inner (preconditioned) conjugate gradients, or "
        "inner-loop-free ADMM; all minimise the same (default: %(default)s, the fastest)",
    )  # fmt: skip
    solver.add_argument(
        "--rho", type=_weight, default=default.rho, metavar="RHO",
        help="penalty of the ADMM solvers, in the data term's largest eigenvalue (default: %(default)s)",
    )  # fmt: skip
    solver.add_argument(
        "--iterations", type=int, default=default.iterations, metavar="N",
        help="at most so many of one solve (default: %(default)s)",
    )  # fmt: skip
    solver.add_argument(
        "--tolerance", type=float, default=default.tolerance, metavar="T",
        help="a solve stops this near to the least objective, relative to its fall (default: %(default)g)",
    )  # fmt: skip
    solver.add_argument(
        "--ridge", type=float, default=default.ridge, metavar="R",
        help="Tikhonov weight of the linear maps (default: %(default)g)",
    )  # fmt: skip
    solver.add_argument(
        "--seed", type=int, default=default.seed, help="of the phase randomisation (default: %(default)s)"
    )


def add_work_arguments(
    parser: argparse.ArgumentParser, default: ReconstructConfig
) -> argparse._ArgumentGroup:
    """How the work is done; returns the group "work" for what a command adds."""
    work = parser.add_argument_group("work")
    console.add_executor_arguments(work)
    work.add_argument(
        "--threads", type=_threads, default=0, metavar="N",
        help="of a task; 0: its share of the cores (default: %(default)s)",
    )  # fmt: skip
    work.add_argument(
        "--max-memory", type=byte_count, metavar="SIZE",
        help="as 8GB; a plan that needs more is refused (default: what the machine has)",
    )  # fmt: skip
    work.add_argument(
        "--slice-size", type=int, default=default.slice_size, metavar="P",
        help="particles in a slice, which is what a restart repeats; 0: planned (default: %(default)s)",
    )  # fmt: skip
    return work


def _weight(text: str) -> float | str:
    if text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor auto") from None


def _threads(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of threads; give 0 for one per core")
    return int(text)


def switch(text: str) -> bool | str:
    """An option that is auto, on or off."""
    switches: dict[str, bool | str] = {"auto": "auto", "on": True, "off": False}
    if text not in switches:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of auto, on, off")
    return switches[text]


def byte_count(text: str) -> int:
    """Bytes of ``8GB``, ``500MB``, ``2.5e9``; units are powers of 1000."""
    number, scale = text.strip(), 1.0
    for unit, factor in {"TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3, "B": 1.0}.items():
        if number.lower().endswith(unit.lower()):
            number, scale = number[: -len(unit)].strip(), factor
            break
    try:
        size = int(float(number) * scale)
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; give one as 8GB")
    return size
