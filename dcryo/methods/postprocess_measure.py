"""What post-processing computes from two half maps; nothing is read or written here but a mask and an MTF."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.errors import InputError
from dcryo.imaging.mask import automatic_mask, check_mask
from dcryo.imaging.radial import Gain, low_pass, nearest_shell
from dcryo.io.postprocess_star import read_mtf
from dcryo.io.run_store import read_map
from dcryo.methods.half_maps import HalfMaps
from dcryo.methods.postprocess_config import PostprocessConfig
from dcryo.methods.progress import Progress
from dcryo.metrics.correction import CORRECTION_DELAY, corrected_for_mask
from dcryo.metrics.directional import (
    DIRECTIONS,
    SPHERICITY_AT,
    directional_fsc,
    fibonacci_hemisphere,
    sphericity,
)
from dcryo.metrics.fsc import CorrectedFSC, corrected_fsc, phase_randomise, resolution
from dcryo.metrics.local_resolution import LocalResolution, Window, local_resolution
from dcryo.metrics.orientation import compensation_factor, histogram_views, sampling
from dcryo.metrics.sharpening import Sharpened, fsc_weight, sharpen

Float32 = NDArray[np.float32]
FloatArray = NDArray[np.float64]

THRESHOLD = 0.143

TIGHT = 0.1
"""A phase-randomised FSC above this at the resolution is the mask speaking (where RELION warns, too)."""


@dataclass(frozen=True)
class Directional:
    """FSC by direction, corrected for the mask: ``curves`` (D, n//2+1) along ``directions`` (D, 3) x, y, z.

    ``resolution`` and ``resolution_05`` (D,) in Å are where each curve first falls below 0.143 and 0.5.
    """

    directions: FloatArray
    curves: FloatArray
    resolution: FloatArray
    resolution_05: FloatArray


@dataclass(frozen=True)
class Measured:
    """Everything that was found.

    ``last`` is the last shell before the corrected FSC first falls below 0.143, ``threshold`` the density at
    which the mask was cut (None for one that was given), ``sampled`` (D,) how often Fourier directions are
    sampled by the poses of the run, relative to an even spread.
    """

    halves: HalfMaps
    mask: Float32
    threshold: float | None
    fsc: CorrectedFSC
    last: int
    lowpass: float
    sharpened: Sharpened
    local: LocalResolution | None
    directional: Directional | None
    sampled: FloatArray | None

    @property
    def frequency(self) -> FloatArray:
        """1/Å of the shells 0 to n//2."""
        n = len(self.mask)
        return np.arange(n // 2 + 1) / (n * self.halves.pixel_size)

    @property
    def final_resolution(self) -> float:
        """Å of the last resolved shell: RELION's final resolution."""
        return len(self.mask) * self.halves.pixel_size / self.last

    def resolution(self, curve: FloatArray, threshold: float = THRESHOLD) -> float:
        """Å at which a curve first falls below a threshold, interpolated."""
        return resolution(curve, threshold, len(self.mask), self.halves.pixel_size)


def measure(halves: HalfMaps, config: PostprocessConfig, progress: Progress, threads: int) -> Measured:
    """Mask, FSC, sharpening, local and directional resolution, in this order."""
    n, pixel = len(halves.first), halves.pixel_size
    average = halves.average
    mtf = _mtf_gain(config, n, pixel)
    progress.start("mask", None)
    mask, threshold = _mask(average, pixel, config)
    progress.start("FSC", None)
    # Each measurement draws phases of its own, so that none depends on whether another is made.
    rng, rng_local, rng_directional = (np.random.default_rng([config.seed, use]) for use in range(3))
    fsc = corrected_fsc(halves.first, halves.second, mask, rng)
    last = _last_shell(fsc.corrected)
    final = n * pixel / last
    _remarks(fsc, last, config, progress)

    progress.start("sharpening", None)
    lowpass = config.lowpass or final
    sharpened = sharpen(
        average,
        pixel,
        weights=fsc_weight(fsc.corrected) if config.fsc_weighting else None,
        fit_range=(config.bfactor_low, config.bfactor_high or final),
        bfactor=None if config.bfactor == "auto" else config.bfactor,
        mtf=mtf,
        lowpass=low_pass(nearest_shell(lowpass, n, pixel)),
    )
    if config.bfactor == "auto" and sharpened.fit is None:
        progress.message(
            f"the map is not sharpened: fewer than three shells lie between {config.bfactor_low:g} and "
            f"{config.bfactor_high or final:.3g} Å, too few to fit a B factor; give one with --bfactor"
        )
    elif sharpened.bfactor > 0:
        progress.message(f"a B factor of {sharpened.bfactor:.0f} Å² is positive: it blurs the map")
    local = None
    if config.local_resolution:
        local = _local(halves, average, sharpened.bfactor, mtf, config, rng_local, progress, threads)
    directional = None
    if config.directional:
        progress.start("directional FSC", None)
        directional = _directional(halves, mask, fsc.shell, rng_directional)
    return Measured(
        halves=halves, mask=mask, threshold=threshold, fsc=fsc, last=last, lowpass=lowpass,
        sharpened=sharpened, local=local, directional=directional, sampled=_sampled(halves),
    )  # fmt: skip


def summary(found: Measured) -> dict[str, Any]:
    """The numbers of ``dcryo postprocess --json``; null for what was not measured."""
    fsc, fit, local, directional = found.fsc, found.sharpened.fit, found.local, found.directional
    n, pixel = len(found.mask), found.halves.pixel_size
    result: dict[str, Any] = {
        "half1": found.halves.names[0],
        "half2": found.halves.names[1],
        "box": n,
        "pixel_size": pixel,
        "resolution_0143_A": found.resolution(fsc.corrected),
        "resolution_05_A": found.resolution(fsc.corrected, 0.5),
        "masked_resolution_0143_A": found.resolution(fsc.masked),
        "unmasked_resolution_0143_A": found.resolution(fsc.unmasked),
        "final_resolution_A": found.final_resolution,
        "randomised_from_A": None if fsc.shell is None else n * pixel / fsc.shell,
        "randomised_fsc": None if fsc.shell is None else fsc.randomised[found.last],
        "mask_threshold": found.threshold,
        "mask_fraction": float(found.mask.mean(dtype=np.float64)),
        "bfactor": found.sharpened.bfactor,
        "guinier_slope": None if fit is None else fit.slope,
        "guinier_intercept": None if fit is None else fit.intercept,
        "guinier_correlation": None if fit is None else fit.correlation,
        "lowpass_A": found.lowpass,
    }
    shares = (None,) * 3
    if local is not None:
        inside = local.resolution[(found.mask > 0.5) & (local.resolution > 0)]
        shares = tuple(np.percentile(inside, (5, 50, 95)).tolist()) if inside.size else shares
    for name, share in zip(("best", "median", "worst"), shares, strict=True):
        result[f"local_resolution_{name}_A"] = share
    result |= {
        "directional_best_A": None if directional is None else directional.resolution.min(),
        "directional_worst_A": None if directional is None else directional.resolution.max(),
        "directional_std_A": None if directional is None else directional.resolution.std(),
        "sphericity": None
        if directional is None
        else sphericity(directional.directions, 1 / directional.resolution_05),
        "sampling_compensation": None if found.sampled is None else compensation_factor(found.sampled),
        "unsampled_fraction": None if found.sampled is None else np.mean(found.sampled == 0),
    }
    return result


def _mask(average: Float32, pixel: float, config: PostprocessConfig) -> tuple[Float32, float | None]:
    if config.mask is None:
        return automatic_mask(
            average,
            pixel,
            lowpass=config.mask_lowpass,
            threshold=config.mask_threshold,
            extend=config.mask_extend,
            edge=config.mask_edge,
        )
    mask, _ = read_map(config.mask)
    if mask.shape != average.shape:
        raise InputError(
            f"{config.mask} has the shape {mask.shape} and the half maps {average.shape}; "
            "give a mask of their box"
        )
    return check_mask(mask, config.mask), None


def _last_shell(curve: FloatArray) -> int:
    """The last shell before the curve first falls below 0.143, at least 1."""
    below = np.flatnonzero(curve[1:] < THRESHOLD)
    return max(1, int(below[0]) if below.size else len(curve) - 1)


def _remarks(fsc: CorrectedFSC, last: int, config: PostprocessConfig, progress: Progress) -> None:
    """What deserves attention in the curves."""
    if config.maps == "regularised":
        progress.message("one prior acts on both regularised half maps: their FSC is not a resolution")
    if fsc.corrected[1] < THRESHOLD:
        progress.message("the half maps agree in no shell; check that they are of one particle and aligned")
    elif _last_shell(fsc.unmasked) > last:
        progress.message(
            "the FSC without a mask reaches further than the one corrected for it; look at the mask, and "
            "make it wider with --mask-extend or a lower --mask-threshold"
        )
    elif fsc.shell is not None and last >= fsc.shell + CORRECTION_DELAY and fsc.randomised[last] > TIGHT:
        progress.message(
            f"phase-randomised maps still correlate by {fsc.randomised[last]:.2f} at the resolution: the "
            "mask is tight; a softer one (--mask-edge, --mask-extend) gives a figure others will trust more"
        )


def _mtf_gain(config: PostprocessConfig, n: int, pixel: float) -> Gain | None:
    """Modulation transfer by |q|, linear between the rows of the file, and constant beyond them."""
    if config.mtf is None:
        return None
    frequency, value = read_mtf(config.mtf)
    scale = (config.mtf_pixel_size or pixel) / (n * pixel)
    return lambda radius: np.interp(radius * scale, frequency, value)


def _local(
    halves: HalfMaps,
    average: Float32,
    bfactor: float,
    mtf: Gain | None,
    config: PostprocessConfig,
    rng: np.random.Generator,
    progress: Progress,
    threads: int,
) -> LocalResolution | None:
    n, pixel = len(average), halves.pixel_size
    radius, edge, step = (
        max(1, round(length / pixel))
        for length in (config.locres_radius, config.locres_edge, config.locres_sampling)
    )
    if 2 * (radius + edge) > n:
        progress.message(
            f"the local resolution is not measured: its window is {2 * (radius + edge) * pixel:.0f} Å wide, "
            f"the box {n * pixel:.0f} Å; give a smaller --locres-radius and --locres-edge"
        )
        return None
    window = Window(radius, edge, step)
    progress.start("local resolution", len(window.centres(n)))
    shell = nearest_shell(config.locres_randomise, n, pixel)
    randomised = tuple(phase_randomise(half, shell, rng) for half in (halves.first, halves.second))
    unfiltered = sharpen(average, pixel, weights=None, fit_range=(0, 0), bfactor=bfactor, mtf=mtf)
    return local_resolution(
        (halves.first, halves.second),
        (randomised[0], randomised[1]),
        shell / (n * pixel),
        unfiltered.volume,
        pixel,
        window,
        coarsest=config.locres_coarsest,
        threads=threads,
        done=progress.advance,
    )


def _directional(halves: HalfMaps, mask: Float32, shell: int | None, rng: np.random.Generator) -> Directional:
    n, pixel = len(mask), halves.pixel_size
    directions = fibonacci_hemisphere(DIRECTIONS)
    curves = directional_fsc(halves.first * mask, halves.second * mask, directions)
    if shell is not None:
        noise = [phase_randomise(half, shell, rng) * mask for half in (halves.first, halves.second)]
        curves = corrected_for_mask(curves, directional_fsc(noise[0], noise[1], directions), shell)
    crossings = [
        np.array([resolution(curve, threshold, n, pixel) for curve in curves])
        for threshold in (THRESHOLD, SPHERICITY_AT)
    ]
    return Directional(directions, curves, *crossings)


def _sampled(halves: HalfMaps) -> FloatArray | None:
    """How often Fourier directions are sampled by the poses of the run; None where there are none."""
    run = halves.run
    if run is None or "poses" not in run.tables():
        return None
    poses = run.table("poses")
    if not poses["counts"].sum():
        return None
    symmetry = str(run.attributes.get("config", {}).get("symmetry", "C1"))
    views, weights = histogram_views(poses["counts"], poses["tilt"], poses["rot"], symmetry)
    return sampling(views, weights, fibonacci_hemisphere(DIRECTIONS))
