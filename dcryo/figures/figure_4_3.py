"""Figures 4.3 to 4.5 of the thesis: a proteasome with D7 symmetry at four scales.

``dcryo reconstruct`` makes half maps and maps of noisy views with CTF and shifts, at the scales 1 to 4.  Half
maps agree up to a frequency that falls as the voxels grow, and a line across the barrel has the same profile
at every scale, as far as that scale can show it.

The thesis has real data and no truth.  Here the specimen is known: 28 subunits in four rings, or an atomic
model (``--atoms``, 6BDF for that of the thesis), which is turned into the frame of D7.  The FSC between half
maps is that of linear ones, corrected for the mask; that of the maps with total variation, which the thesis
shows, is drawn beside it, and so is the FSC against the truth.

Profiles are compared at the resolution of the coarser of two maps: what lies beyond the Nyquist frequency of
its voxels, no map of that scale can have, however good it is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
from matplotlib.axes import Axes
from numpy.typing import NDArray

from dcryo.figures.experiment import Check, Outcome, Setting
from dcryo.figures.simulation import model_in_box, simulated
from dcryo.geometry.symmetry import point_group
from dcryo.imaging.phantom import Cloud, gaussian_cloud
from dcryo.io.run_store import RunStore
from dcryo.methods.reconstruct import reconstruct
from dcryo.methods.reconstruct_config import ReconstructConfig
from dcryo.methods.simulate import SimulateConfig
from dcryo.methods.specimen import CloudSpecimen
from dcryo.metrics.fsc import resolution
from dcryo.metrics.image import correlation
from dcryo.report.figures import grey_limits, scale_bar
from dcryo.report.plot import CYCLE, INK, SOFT, STYLE, encode_section, mpl, new_figure, save, show_section

Float32 = NDArray[np.float32]
FloatArray = NDArray[np.floating[Any]]

TITLE = "A D7 proteasome at four scales: half maps and profiles across the barrel"
SOURCE = "Figures 4.3 to 4.5: T20S proteasome, 22,884 views, s = 1 to 4; maps, FSC and profiles, no numbers"

TAKES_ATOMS = True

FIELD = 256.0
"""Width of the box in Å; with --atoms the model decides."""

SYMMETRY = "D7"

SUBUNITS = ((33.0, 9.0, 55.0), (36.0, -6.0, 19.0))
"""An alpha and a beta subunit: distance from the axis [Å], angle about it [degrees], height [Å].

Four rings, 110 Å across and 150 Å high, as textbooks draw a 20S proteasome.
"""

SUBUNIT_RADIUS = 25.0
"""Å."""


@dataclass(frozen=True)
class Parameters:
    """What is simulated and reconstructed.

    Attributes
    ----------
    box, views : int
        Pixels, and number of images.
    points : int
        Gaussians of a subunit; not used with atoms.
    snr : float
        Variance of a view over that of its noise, low enough that noise limits the finest scale.
    scales : tuple of int
        Voxels per pixel, fine to coarse.
    least_correlation : float
        What the check of the profiles wants.
    """

    box: int
    views: int
    points: int
    snr: float = 0.01
    scales: tuple[int, ...] = (1, 2, 3, 4)
    least_correlation: float = 0.95


SMALL = Parameters(box=48, views=1500, points=100)
FULL = Parameters(box=192, views=22_884, points=1600)


def run(setting: Setting) -> Outcome:
    """Simulate once, reconstruct at every scale."""
    p = FULL if setting.full else SMALL
    specimen = proteasome(p) if setting.atoms is None else model_in_box(setting.atoms, p.box, SYMMETRY)
    store = simulated(setting, SimulateConfig(box=p.box, particles=p.views, snr=p.snr), specimen)
    truth = store.truth()
    assert truth is not None  # a simulated store has one
    maps: list[Float32] = []
    scales: list[dict[str, Any]] = []
    for s in p.scales:
        made = reconstruct(
            store.url,
            str(setting.scratch / f"scale{s}.zarr"),
            ReconstructConfig(scale=s, symmetry=SYMMETRY, seed=setting.seed),
            progress=setting.progress,
            threads=setting.threads,
        )
        maps.append(made.volume("full")[0])
        scales.append({"scale": s, "voxels": round(p.box / s), **_curves(made, p, store.pixel_size)})
    height, half_width = section_height(truth), barrel_radius(specimen)
    numbers: dict[str, Any] = {
        "parameters": asdict(p),
        "specimen": setting.atoms or "28 subunits of Gaussians",
        "pixel_size_A": store.pixel_size,
        "frequency": np.arange(p.box // 2 + 1) / (p.box * store.pixel_size),
        "common_band": band(p, max(p.scales)),
        "height_A": (height - p.box // 2) * store.pixel_size,
        "barrel_radius_A": half_width * store.pixel_size,
        "scales": scales,
        "profiles": compared_profiles(p, truth, maps, height, half_width),
        "truth": _sections(truth, height),
        "maps": [_sections(volume, height) for volume in maps],
    }
    return Outcome(numbers, checks(p, numbers), _shown(p, numbers))


def proteasome(p: Parameters) -> CloudSpecimen:
    """28 subunits, two different ones at each of the 14 places of D7."""
    pixel_size = FIELD / p.box
    group = np.asarray(point_group(SYMMETRY))
    centers, masses = [], []
    for seed, (distance, angle, height) in enumerate(SUBUNITS):
        subunit = gaussian_cloud(seed, p.points, SUBUNIT_RADIUS / pixel_size)
        turn = math.radians(angle)
        place = np.array([distance * math.cos(turn), distance * math.sin(turn), height]) / pixel_size
        centers.append(np.einsum("gij,pj->gpi", group, subunit.centers + place).reshape(-1, 3))
        masses.append(np.tile(subunit.mass, len(group)))
    width = np.full(len(SUBUNITS) * len(group) * p.points, 0.8)
    return CloudSpecimen(Cloud(np.concatenate(centers), np.concatenate(masses), width), p.box, pixel_size)


def band(p: Parameters, scale: int) -> int:
    """The last shell that a map of this scale holds."""
    return (round(p.box / scale) - 1) // 2


def _curves(made: RunStore, p: Parameters, pixel_size: float) -> dict[str, Any]:
    """FSC curves of a run, where they fall, and how high they are where all scales have something."""
    table, result = made.table("fsc"), made.attributes["result"]
    shared = slice(1, band(p, max(p.scales)) + 1)
    found: dict[str, Any] = {"weight": result["weight"], "nonnegative": result["nonnegative"]}
    for name, column, threshold in (
        ("halves", "corrected", 0.143),
        ("regularised_halves", "regularised", 0.143),
        ("truth", "truth", 0.5),
    ):
        curve = table[column]
        found[name] = {
            "fsc": curve,
            "resolution_A": resolution(curve, threshold, p.box, pixel_size),
            "common_band_fsc": float(np.mean(curve[shared])),
        }
    return found


def section_height(truth: Float32) -> int:
    """Index z of the section across the barrel that varies most, in its upper half."""
    middle = len(truth) // 2
    return middle + int(np.argmax(truth[middle:].var(axis=(1, 2))))


def barrel_radius(specimen: CloudSpecimen) -> int:
    """Voxels from the axis to the outermost point of the specimen."""
    return math.ceil(float(np.hypot(*specimen.cloud.centers[:, :2].T).max()))


def low_passed(volume: FloatArray, shell: int) -> Float32:
    """A volume (n, n, n) without the Fourier voxels beyond a shell."""
    n = len(volume)
    squares = (scipy.fft.fftfreq(n) * n) ** 2
    radius = np.sqrt(squares[:, None, None] + squares[:, None] + (scipy.fft.rfftfreq(n) * n) ** 2)
    spectrum = scipy.fft.rfftn(np.asarray(volume, np.float32)) * (np.rint(radius) <= shell)
    return np.asarray(scipy.fft.irfftn(spectrum, s=volume.shape), np.float32)


def compared_profiles(
    p: Parameters, truth: Float32, maps: Sequence[Float32], height: int, half_width: int
) -> dict[str, Any]:
    """Density along x through the axis, across the barrel, and how it correlates.

    ``with_truth`` and ``between`` (fine, coarse, correlation) are at the resolution of the coarser one;
    ``with_truth_as_it_is`` is not.
    """
    middle = p.box // 2
    row = slice(middle - half_width, middle + half_width + 1)

    def profile(volume: FloatArray, shell: int | None = None) -> FloatArray:
        return (volume if shell is None else low_passed(volume, shell))[height, middle, row]

    shells = [band(p, s) for s in p.scales]
    pairs = itertools.combinations(range(len(maps)), 2)
    return {
        "x": np.arange(-half_width, half_width + 1),
        "truth": profile(truth),
        "maps": [profile(volume) for volume in maps],
        "with_truth": [
            correlation(profile(volume, shell), profile(truth, shell))
            for volume, shell in zip(maps, shells, strict=True)
        ],
        "with_truth_as_it_is": [correlation(profile(volume), profile(truth)) for volume in maps],
        "between": [
            (p.scales[a], p.scales[b], correlation(profile(maps[a], shells[b]), profile(maps[b], shells[b])))
            for a, b in pairs
        ],
    }


def _sections(volume: Float32, height: int) -> dict[str, str]:
    """The section of the profile, and the one along the axis, in the grey levels of the volume."""
    limits = grey_limits(volume)
    return {
        "across": encode_section(volume[height], limits),
        "along": encode_section(volume[:, len(volume) // 2], limits),
    }


def checks(p: Parameters, numbers: Mapping[str, Any]) -> tuple[Check, ...]:
    """What the figures must show."""
    found = [entry["halves"]["resolution_A"] for entry in numbers["scales"]]
    profiles = numbers["profiles"]
    named = ", ".join(f"s={s}" for s in p.scales)
    between = [value for *_, value in profiles["between"]]
    wanted = f"above {p.least_correlation}"
    return (
        Check(
            f"resolution of half maps, linear, FSC 0.143, {named}",
            all(fine < coarse for fine, coarse in itertools.pairwise(found)),
            ", ".join(f"{value:.1f}" for value in found) + " Å",
            "ordered by scale",
        ),
        Check(
            f"profile across the barrel with the truth at the map's resolution, {named}",
            min(profiles["with_truth"]) > p.least_correlation,
            ", ".join(f"{value:.3f}" for value in profiles["with_truth"]),
            wanted,
        ),
        Check(
            "profiles of two scales at the resolution of the coarser one, all pairs",
            min(between) > p.least_correlation,
            f"{min(between):.4f} to {max(between):.4f}",
            wanted,
        ),
    )


def _shown(p: Parameters, numbers: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    lines = []
    for entry, raw in zip(numbers["scales"], numbers["profiles"]["with_truth_as_it_is"], strict=True):
        halves, regularised, truth = (entry[key] for key in ("halves", "regularised_halves", "truth"))
        lines += [
            (
                f"s = {entry['scale']}, {entry['voxels']}³",
                f"half maps {halves['resolution_A']:.1f} Å (with total variation, inflated: "
                f"{regularised['resolution_A']:.1f} Å), FSC 0.5 with the truth {truth['resolution_A']:.1f} Å",
            ),
            (
                f"    mean FSC up to shell {numbers['common_band']}",
                f"half maps {halves['common_band_fsc']:.4f}, with the truth {truth['common_band_fsc']:.4f}",
            ),
            (
                "    profile with the truth as it is",
                f"{raw:.3f}, no check: what lies beyond Nyquist/s counts",
            ),
        ]
    return tuple(lines)


@mpl.rc_context(STYLE)
def draw(numbers: Mapping[str, Any], path: Path) -> None:
    """Sections across and along the barrel at every scale, half-map FSC, FSC with the truth, profiles."""
    figure = new_figure(10.0, 7.4)
    parts: Any = figure.subfigures(2, 1, height_ratios=(4.2, 3.2))
    top, bottom = parts
    _draw_sections(top, numbers)
    halves, truth, profiles = bottom.subplots(1, 3, width_ratios=(1, 1, 1.15))
    _draw_curves(halves, numbers, "halves", "regularised_halves")
    halves.axhline(0.143, color=SOFT, linewidth=0.8, dashes=(2, 2))
    halves.set_ylabel("FSC between half maps")
    halves.set_title("c   half maps, linear; with TV (dashed)", loc="left")
    _draw_curves(truth, numbers, "truth")
    truth.axhline(0.5, color=SOFT, linewidth=0.8, dashes=(2, 2))
    truth.set_ylabel("FSC with the truth")
    truth.set_title("d   all views, with the truth", loc="left")
    _draw_profiles(profiles, numbers)
    profiles.set_title("e   profile across the barrel, truth grey", loc="left")
    save(figure, path)


def _draw_sections(figure: Any, numbers: Mapping[str, Any]) -> None:
    columns = [("truth", numbers["truth"])] + [
        (f"s = {entry['scale']},  {entry['voxels']}³", sections)
        for entry, sections in zip(numbers["scales"], numbers["maps"], strict=True)
    ]
    field = numbers["pixel_size_A"] * numbers["parameters"]["box"]
    rows = figure.subplots(2, len(columns))
    colours = (INK, *CYCLE)
    reach = numbers["barrel_radius_A"]
    for (title, sections), (across, along), colour in zip(columns, rows.T, colours, strict=False):
        show_section(across, sections["across"], field)
        show_section(along, sections["along"], field)
        across.plot((-reach, reach), (0, 0), color="#f2c230", linewidth=1.1)
        across.set_title(title, color=colour)
    rows[0, 0].set_ylabel("a   across")
    rows[1, 0].set_ylabel("b   along")
    bar = scale_bar(field)
    start, low = -0.46 * field, -0.45 * field
    rows[1, 0].plot((start, start + bar), (low, low), color="white", linewidth=2)
    rows[1, 0].text(start, low + 0.02 * field, f"{bar:g} Å", color="white", fontsize=7.5, va="bottom")


def _draw_curves(axes: Axes, numbers: Mapping[str, Any], solid: str, dashed: str | None = None) -> None:
    """FSC curves of all scales, each as far as its voxels go; the columns of sections name the colours."""
    frequency = numbers["frequency"]
    for entry, colour in zip(numbers["scales"], CYCLE, strict=False):
        for name, style in ((solid, {"linewidth": 1.6}), (dashed, {"linewidth": 0.9, "dashes": (3, 2)})):
            if name is not None:
                curve = entry[name]["fsc"]
                end = int(np.max(np.flatnonzero(curve))) + 2
                axes.plot(frequency[:end], curve[:end], color=colour, **style)
    axes.set(xlim=(0, frequency[-1]), ylim=(-0.05, 1.03), xlabel="spatial frequency (1/Å)")
    axes.grid(True)


def _draw_profiles(axes: Axes, numbers: Mapping[str, Any]) -> None:
    """Profiles as they are, in units of the highest value of the truth."""
    profiles = numbers["profiles"]
    x = np.array(profiles["x"]) * numbers["pixel_size_A"]
    unit = max(profiles["truth"])
    axes.plot(x, np.array(profiles["truth"]) / unit, color=INK, linewidth=3, alpha=0.25)
    for profile, colour in zip(profiles["maps"], CYCLE, strict=False):
        axes.plot(x, np.array(profile) / unit, color=colour, linewidth=1.3)
    axes.set(xlabel="Å from the axis", ylabel="density", xlim=(x[0], x[-1]))
    axes.grid(True)
