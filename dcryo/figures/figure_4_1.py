"""Figure 4.1 of the thesis: the scale of the basis function sets the coarseness of a map, and its cost.

Views without noise are reconstructed on voxels s times as large.  What a coarse map holds, it should hold as
well as a fine one: its FSC against the truth stays high up to the Nyquist frequency of its own voxels and
ends there, and every octave costs eight times less.

The views are analytic projections of a sum of Gaussians: neither the basis nor the projector that
reconstructs has anything to do with them.  The basis is the thesis' window, cut at the Nyquist frequency of
the scale so that Theorem 1 holds exactly: 13 % of the energy of the window itself lies beyond it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo.bench.timing import ONE_THREAD, cpu_seconds
from dcryo.figures.experiment import Check, Outcome, Setting
from dcryo.figures.figure_4_1_picture import BASIS_REACH, draw
from dcryo.figures.simulation import model_in_box
from dcryo.figures.tetramer import tetramer
from dcryo.geometry.rotations import matrix_to_quaternion, random_rotations
from dcryo.imaging.basis import Basis, parse_basis
from dcryo.imaging.mapping import sample_map
from dcryo.imaging.particles import Optics, Particles
from dcryo.methods.regularise import MapProblem, solve_map
from dcryo.methods.simulate import batch_size, clean_images
from dcryo.methods.specimen import CloudSpecimen
from dcryo.metrics.fsc import fsc_curve, mean_fsc, resolution
from dcryo.operators.compiled import blocks, for_each
from dcryo.operators.normal import Accumulator, NormalEquations
from dcryo.operators.views import make_radial, make_views
from dcryo.report.figures import grey_limits
from dcryo.report.plot import encode_section
from dcryo.solvers.stopping import iterations

Float32 = NDArray[np.float32]

TITLE = "Scale of the basis function: coarseness, FSC against the truth and CPU seconds"
SOURCE = "Figure 4.1: 2,000 views of 256³ without noise, s = 8, 4, 2, 1; pictures and FSC curves, no numbers"

TAKES_ATOMS = True


@dataclass(frozen=True)
class Parameters:
    """What is simulated and how it is solved.

    Attributes
    ----------
    box, views : int
        Pixels, and number of projections.
    scales : tuple of int
        Pixels per voxel, coarse to fine, each half of the one before.
    basis : str
        As ``--basis`` of ``dcryo reconstruct``.
    weight : float
        Dimensionless weight of total variation; next to nothing, there is no noise.
    iterations : int
        Of every solve, so that their times compare.
    points : int
        Gaussians of a protomer; not used with atoms.
    cutoff_tolerance, least_fsc, least_fall
        What the checks want.
    """

    box: int
    views: int
    scales: tuple[int, ...] = (8, 4, 2, 1)
    basis: str = "kbwf:2,10.8,2"
    weight: float = 0.01
    iterations: int = 50
    points: int = 3000
    cutoff_tolerance: float = 0.2
    least_fsc: float = 0.95
    least_fall: float = 4.0


SMALL = Parameters(box=128, views=300)
FULL = Parameters(box=256, views=2000)


def run(setting: Setting) -> Outcome:
    """Simulate once, reconstruct at every scale, compare with the truth."""
    p = FULL if setting.full else SMALL
    specimen, basis = _specimen(p, setting.atoms), parse_basis(p.basis)
    truth, pixel_size = specimen.volume(), specimen.pixel_size
    sums, fold_seconds = _folded(p, specimen, setting)
    row, middle = _profile_row(truth), p.box // 2
    scales = []
    setting.progress.start("maps", len(p.scales))
    for s, equations, fold in zip(p.scales, sums, fold_seconds, strict=True):
        coefficients, solve = _solved(equations, p)
        volume = sample_map(coefficients, basis, p.box)
        scales.append(
            {
                "scale": s,
                "voxels": equations.n,
                "fold_seconds": fold,
                "solve_seconds": solve,
                "section": encode_section(volume[middle], grey_limits(volume)),
                "profile": volume[middle, row],
                **_compared(volume, truth, equations.n, pixel_size),
            }
        )
        setting.progress.advance()
    numbers: dict[str, Any] = {
        "parameters": asdict(p),
        "specimen": setting.atoms or "tetramer of Gaussians, D2",
        "pixel_size_A": pixel_size,
        "frequency": np.arange(p.box // 2 + 1) / (p.box * pixel_size),
        "basis_function": basis_function(basis, BASIS_REACH * p.scales[0] / p.scales[-1]),
        "scales": scales,
        "truth": {
            "section": encode_section(truth[middle], grey_limits(truth)),
            "profile": truth[middle, row],
        },
    }
    return Outcome(numbers, checks(p, scales), _shown(p, scales))


def _specimen(p: Parameters, atoms: str | None) -> CloudSpecimen:
    return tetramer(p.box, p.points) if atoms is None else model_in_box(atoms, p.box, "C1")


def _folded(
    p: Parameters, specimen: CloudSpecimen, setting: Setting
) -> tuple[list[NormalEquations], list[float]]:
    """Normal equations of the views at every scale, and the CPU seconds of each, without the simulation."""
    basis = parse_basis(p.basis)
    rng = np.random.default_rng(setting.seed)
    optics = (Optics(pixel_size=specimen.pixel_size, ctf=False),)
    rotation = matrix_to_quaternion(random_rotations(p.views, rng))
    particles = Particles.empty_columns(p.views, rotation=rotation, optics=optics)

    def empty(s: int) -> Accumulator:
        n = p.box // s
        return Accumulator(n, make_radial(basis.fourier, [np.ones(n // 2 + 1)], n, [1.0]), threads=ONE_THREAD)

    def add(sums: Accumulator, s: int, images: Float32, part: Particles) -> float:
        began = time.process_time()
        sums.add(images, make_views(part, specimen.pixel_size, s))
        return time.process_time() - began

    accumulators = [empty(s) for s in p.scales]
    seconds = [0.0] * len(p.scales)
    setting.progress.start("images", p.views)
    for first in range(0, p.views, batch_size(p.box)):
        part = particles.take(slice(first, first + batch_size(p.box)))
        images = _images(specimen, part, setting.threads)
        if first == 0:  # compiled code and FFT plans are no scale's cost
            for s in p.scales:
                warm = empty(s)
                add(warm, s, images[:2], part.take(slice(2)))
                warm.finish()
        for index, (s, sums) in enumerate(zip(p.scales, accumulators, strict=True)):
            seconds[index] += add(sums, s, images, part)
        setting.progress.advance(len(part))
    finished = []
    for index, sums in enumerate(accumulators):
        began = time.process_time()
        finished.append(sums.finish())
        seconds[index] += time.process_time() - began
    return finished, seconds


def _images(specimen: CloudSpecimen, particles: Particles, threads: int) -> Float32:
    """Clean images of a batch, (P, n, n), on several threads."""
    images = np.empty((len(particles), specimen.n, specimen.n), np.float32)

    def simulate(rows: slice) -> None:
        images[rows] = clean_images(specimen, particles.take(rows))

    for_each(simulate, blocks(len(particles), 4), threads)
    return images


def _solved(equations: NormalEquations, p: Parameters) -> tuple[Float32, float]:
    """Coefficients by total variation, and the CPU seconds of the solve."""
    found: list[Any] = []

    def solve() -> None:
        problem = MapProblem(equations, ONE_THREAD)
        found.append(solve_map(problem, p.weight, False, iterations(p.iterations)).coefficients)

    # small solves are over before the clock is sure of them
    rounds = max(1, min(5, (64 // equations.n) ** 3))
    seconds = cpu_seconds({"solve": solve}, rounds, warm=rounds > 1)["solve"]
    return found[-1], seconds


def _compared(volume: Float32, truth: Float32, n: int, pixel_size: float) -> dict[str, Any]:
    """FSC of a map of n voxels against the truth, where it ends, and how high it is before."""
    box = len(truth)
    band = (n - 1) // 2  # beyond it there is nothing but rounding
    curve = fsc_curve(volume, truth)
    curve[band + 1 :] = 0
    return {
        "fsc": curve,
        "cutoff": 1 / resolution(curve, 0.5, box, pixel_size),
        "nyquist": n / (2 * box * pixel_size),
        "mean_fsc_in_band": mean_fsc(curve[: band + 1]),
    }


def basis_function(basis: Basis, reach: float) -> dict[str, Any]:
    """The basis function as it is used, cut at w = pi, over the distance in voxels; 1 in the middle.

    phi(r) = 1/(2 pi^2) int_0^pi phi^(w) sin(w r)/(w r) w^2 dw.
    """
    r = np.linspace(-reach, reach, 2 * round(20 * reach) + 1)
    w = (np.arange(400) + 0.5) * np.pi / 400
    values = np.sinc(np.outer(r, w) / np.pi) @ (basis.fourier(w) * w**2)
    return {"r": r, "value": values / values.max()}


def _profile_row(truth: Float32) -> int:
    """The row of the central section of the truth that varies most."""
    return int(np.argmax(truth[len(truth) // 2].var(axis=1)))


def _falls(scales: list[dict[str, Any]], key: str) -> list[float]:
    """How many times less each octave takes, finest scale first."""
    seconds = [entry[key] for entry in scales]
    return [fine / coarse for coarse, fine in itertools.pairwise(seconds)][::-1]


def _total(scale: Mapping[str, Any]) -> float:
    return float(scale["fold_seconds"] + scale["solve_seconds"])


def checks(p: Parameters, scales: list[dict[str, Any]]) -> tuple[Check, ...]:
    """What is wanted of the entries of ``scales`` in the numbers, coarse to fine."""
    ratios = [entry["cutoff"] / entry["nyquist"] for entry in scales]
    means = [entry["mean_fsc_in_band"] for entry in scales]
    falls = _falls(scales, "solve_seconds")
    octaves = len(scales) - 1
    overall = (_total(scales[-1]) / _total(scales[0])) ** (1 / octaves)
    named = ", ".join(f"s={entry['scale']}" for entry in scales)
    return (
        Check(
            f"FSC 0.5 against the truth over Nyquist/s, {named}",
            all(abs(ratio - 1) <= p.cutoff_tolerance for ratio in ratios),
            ", ".join(f"{ratio:.2f}" for ratio in ratios),
            f"within {p.cutoff_tolerance:.0%} of 1",
        ),
        Check(
            f"mean FSC up to there, {named}",
            min(means) >= p.least_fsc,
            ", ".join(f"{mean:.3f}" for mean in means),
            f"at least {p.least_fsc}",
        ),
        Check(
            f"CPU seconds of {p.iterations} iterations fall per octave, finest first",
            min(falls) >= p.least_fall,
            ", ".join(f"{fall:.1f}×" for fall in falls),
            f"at least {p.least_fall:g}× each",
        ),
        Check(
            f"CPU seconds of fold and solve fall per octave, mean of {octaves}",
            overall >= p.least_fall,
            f"{overall:.1f}×",
            f"at least {p.least_fall:g}×",
        ),
    )


def _shown(p: Parameters, scales: list[dict[str, Any]]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (
            f"s = {entry['scale']}, {entry['voxels']}³",
            f"FSC 0.5 at {1 / entry['cutoff']:.2f} Å (2 s pixels: {1 / entry['nyquist']:.2f} Å), fold "
            f"{entry['fold_seconds']:.3f}, {p.iterations} iterations {entry['solve_seconds']:.3f} CPU s",
        )
        for entry in scales
    )


__all__ = ["FULL", "SMALL", "SOURCE", "TAKES_ATOMS", "TITLE", "Parameters", "draw", "run"]
