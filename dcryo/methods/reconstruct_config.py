"""Settings of a reconstruction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dcryo.dataflow.plan import LARGEST_SCALE
from dcryo.errors import InputError
from dcryo.geometry.symmetry import point_group
from dcryo.imaging.basis import parse_basis
from dcryo.operators.window import window

PRIORS = ("tv", "tv-aniso", "haar", "none")
SOLVERS = ("auto", "fista", "admm-cg", "admm-pcg", "ilf", "ilf-circulant")
HALVES = ("auto", "even-odd", "none")


@dataclass(frozen=True)
class ReconstructConfig:
    """Settings of :func:`reconstruct`; every one of them is a command-line option of the same name.

    Attributes
    ----------
    scale : float
        Voxel edge in image pixels, >= 1: a coarser map is faster and steadier.
    prior : {"tv", "tv-aniso", "haar", "none"}
        Total variation, isotropic or not; cycle-spun Haar wavelets; or none: the linear map is the map.
    weight : float or "auto"
        Dimensionless weight of the prior, about 1; "auto": cross-validation between the half sets.
    nonnegative : bool or "auto"
        Map above the level of its surroundings; "auto": unless cross-validation speaks against it.
    symmetry : str
        Point group, RELION's names and axes.
    noise : {"auto", "white"}
        Weight frequencies by the measured noise spectrum of each optics group, or all alike.
    basis : str
        "voxel" (band-limited) or "kbwf:RADIUS,ALPHA,ORDER".
    halves : {"auto", "even-odd", "none"}
        Half sets of the store, by the parity of the original row, or no half maps.
    poses : str, optional
        ``RUN`` or ``RUN@iteration``: poses that a refinement of the same particles found, of its last or of
        that iteration, instead of the store's.  Half sets must be those it was refined in.
    accuracy : {"fast", "default", "accurate", "reference"}
        Interpolation of slices; "reference" sums directly in float64, for boxes up to about 16.
    solver : {"auto", "fista", "admm-cg", "admm-pcg", "ilf", "ilf-circulant"}
        Of the regularised maps: accelerated proximal gradients; ADMM with inner conjugate gradients, plain
        (the thesis') or preconditioned; inner-loop-free ADMM with the norm of the data term (the thesis') or
        a circulant in its place.  All minimise the same; "auto" is the fastest of them, "fista".
    rho : float or "auto"
        Penalty of the ADMM solvers in units of the data term's largest eigenvalue; "auto": from the weight.
    iterations : int
        At most so many iterations of a solve.
    tolerance : float
        A solve stops when its objective is this near to the least one, relative to the whole fall from zero:
        (F - F*) / (F(0) - F*), as far as what it still gains per iteration can tell.
    ridge : float
        Tikhonov weight of the linear maps, in units of the kernel's mean spectrum in each shell.
    mask_diameter : float, optional
        Diameter in Å of the ball that holds the particle: support of the regularised maps (default: the box
        less 4 pixels) and of the mask in which FSCs are measured (default: 0.8 boxes).  Linear maps, whose
        FSC is the headline, are never confined by it.
    native_scale : bool
        Write maps on the coarse grid instead of the images' grid.
    slice_size : int
        Particles per slice; 0: planned from the cost of a commit.
    seed : int
        Of the phase randomisation.
    """

    scale: float = 1.0
    prior: str = "tv"
    weight: float | Literal["auto"] = "auto"
    nonnegative: bool | Literal["auto"] = "auto"
    symmetry: str = "C1"
    noise: str = "auto"
    basis: str = "voxel"
    halves: str = "auto"
    poses: str | None = None
    accuracy: str = "default"
    solver: str = "auto"
    rho: float | Literal["auto"] = "auto"
    iterations: int = 100
    tolerance: float = 1e-3
    ridge: float = 0.5
    mask_diameter: float | None = None
    native_scale: bool = False
    slice_size: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.scale <= LARGEST_SCALE:
            raise InputError(f"--scale {self.scale} is not between 1 and {LARGEST_SCALE}")
        if self.prior not in PRIORS:
            raise InputError(f"--prior {self.prior!r} is not known; choose one of {', '.join(PRIORS)}")
        if self.weight != "auto" and not (
            isinstance(self.weight, (int, float)) and 0 <= self.weight < math.inf
        ):
            raise InputError(f"--weight {self.weight!r} is neither auto nor a number >= 0")
        if self.nonnegative not in (True, False, "auto"):
            raise InputError(f"--nonnegative {self.nonnegative!r} is not one of auto, on, off")
        if self.noise not in ("auto", "white"):
            raise InputError(f"--noise {self.noise!r} is not known; choose auto or white")
        if self.halves not in HALVES:
            raise InputError(f"--halves {self.halves!r} is not known; choose one of {', '.join(HALVES)}")
        if self.mask_diameter is not None and not 0 < self.mask_diameter < math.inf:
            raise InputError(f"--mask-diameter {self.mask_diameter:g} is not a positive number of Å")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed} is negative; give an integer, 0 or more")
        if self.solver not in SOLVERS:
            raise InputError(f"--solver {self.solver!r} is not known; choose one of {', '.join(SOLVERS)}")
        if self.rho != "auto" and not (isinstance(self.rho, (int, float)) and 0 < self.rho < math.inf):
            raise InputError(f"--rho {self.rho!r} is neither auto nor a number > 0")
        if self.prior == "none" and self.solver != "auto":
            raise InputError(
                f"--solver {self.solver} has nothing to do with --prior none, whose map is the linear one; "
                "leave it out, or choose a prior"
            )
        if self.rho != "auto" and self.solver in ("auto", "fista"):
            raise InputError(
                f"--rho {self.rho:g} is for the ADMM solvers; choose one with --solver, or leave --rho out"
            )
        if self.halves == "none" and self.prior != "none" and self.weight == "auto":
            raise InputError("--weight auto needs half sets; give a --weight, or leave out --halves none")
        if (
            self.iterations < 1
            or self.slice_size < 0
            or not (self.tolerance >= 0 and 0 < self.ridge < math.inf)
        ):
            raise InputError("--iterations must be >= 1, --tolerance and --slice-size >= 0, --ridge > 0")
        if self.accuracy != "reference":
            window(self.accuracy)
        parse_basis(self.basis)
        point_group(self.symmetry)
