"""Settings of the post-processing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dcryo.errors import InputError

HALF_MAPS = {"linear": ("linear1", "linear2"), "regularised": ("half1", "half2")}
"""Pairs of half maps in a run, by the name of ``maps``."""


@dataclass(frozen=True)
class PostprocessConfig:
    """Settings of :func:`postprocess`; every one of them is a command-line option of the same name.

    Attributes
    ----------
    maps : {"linear", "regularised"}
        Half maps of a run: the linear ones, whose FSC is a resolution, or those with the prior, whose is not.
    pixel_size : float, optional
        Å per voxel, instead of the one that the maps state.
    mask : str, optional
        A mask, 0 to 1, as a map; by default one is made from the average of the half maps.
    mask_lowpass : float
        Å; the average is filtered to this before it is cut.
    mask_threshold : float, optional
        Density of the filtered average from which on a voxel is inside; by default Otsu's threshold.
    mask_extend : float
        Voxels by which the inside grows.
    mask_edge : float
        Voxels of the cosine edge outside of that.
    bfactor : float or "auto"
        Å^2, negative to sharpen; "auto": from a Guinier fit.
    bfactor_low, bfactor_high : float
        Å; the range of the fit, by default from 10 Å to the resolution.
    fsc_weighting : bool
        Weight by sqrt(2 FSC / (1 + FSC)).
    lowpass : float, optional
        Å; by default the resolution.
    mtf : str, optional
        STAR file with the modulation transfer function of the detector, by which the map is divided.
    mtf_pixel_size : float, optional
        Å per pixel of the detector; by default that of the maps.
    local_resolution : bool
        Measure the local resolution, and filter a map by it.
    locres_sampling, locres_radius, locres_edge : float
        Å; spacing of the points, and the soft ball about each.
    locres_randomise : float
        Å; phases are random beyond this where the correlation of the ball itself is measured.
    locres_coarsest : float
        Å; what is worse is set to this.
    directional : bool
        Measure the FSC by direction.
    seed : int
        Of the random phases.
    """

    maps: Literal["linear", "regularised"] = "linear"
    pixel_size: float | None = None
    mask: str | None = None
    mask_lowpass: float = 15.0
    mask_threshold: float | None = None
    mask_extend: float = 3.0
    mask_edge: float = 6.0
    bfactor: float | Literal["auto"] = "auto"
    bfactor_low: float = 10.0
    bfactor_high: float | None = None
    fsc_weighting: bool = True
    lowpass: float | None = None
    mtf: str | None = None
    mtf_pixel_size: float | None = None
    local_resolution: bool = True
    locres_sampling: float = 25.0
    locres_radius: float = 12.5
    locres_edge: float = 25.0
    locres_randomise: float = 25.0
    locres_coarsest: float = 50.0
    directional: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.maps not in HALF_MAPS:
            raise InputError(f"--maps {self.maps!r} is not known; choose one of {', '.join(HALF_MAPS)}")
        for name in (
            "pixel_size", "mask_lowpass", "bfactor_low", "bfactor_high", "lowpass", "mtf_pixel_size",
            "locres_sampling", "locres_radius", "locres_edge", "locres_randomise", "locres_coarsest",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{_option(name)} {value:g} is not a positive number of Å")
        for name in ("mask_extend", "mask_edge"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{_option(name)} {getattr(self, name):g} is not a number of voxels >= 0")
        if self.mask_threshold is not None and not math.isfinite(self.mask_threshold):
            raise InputError(f"--mask-threshold {self.mask_threshold:g} is not a density")
        if self.mask is not None and self.mask_threshold is not None:
            raise InputError("--mask-threshold is for a mask that is made; leave it out, or --mask")
        if self.bfactor != "auto" and not (
            isinstance(self.bfactor, (int, float)) and math.isfinite(self.bfactor)
        ):
            raise InputError(f"--bfactor {self.bfactor!r} is neither auto nor a number of Å^2")
        if self.bfactor_high is not None and self.bfactor_high >= self.bfactor_low:
            raise InputError(
                f"--bfactor-high {self.bfactor_high:g} is not finer than --bfactor-low {self.bfactor_low:g} Å"
            )
        if self.mtf_pixel_size is not None and self.mtf is None:
            raise InputError("--mtf-pixel-size is that of an MTF; give one with --mtf")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed} is negative; give an integer, 0 or more")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
