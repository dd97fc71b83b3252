"""Simulate a particle set: project a specimen, apply the CTF, add noise, stream it into a store.

Image p is ``scale * h_p * project(A_p) + noise``, with the CTF and the shift in h_p.  The projector is never
the one that reconstructs (:mod:`dcryo.methods.specimen`); the CTF acts with the periodicity of the frame.
The object is scaled such that the noise has variance 1 (without noise, such that the clean images have): the
mean signal variance, over the whole frame and with the CTF, is measured on :data:`CALIBRATION` particles of
their own, drawn from the same distributions.

Every random number comes from a generator seeded by (seed, what it is for, batch), and the size of a batch
depends on the box alone: the same configuration draws the same particles and the same noise everywhere.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from dcryo import __version__
from dcryo.errors import InputError
from dcryo.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix, random_rotations
from dcryo.imaging.ctf import DEFOCUS_RANGE, check_optics, ctf_image, random_defocus
from dcryo.imaging.noise import CornerSpectrum, coloured_noise, signal_power, white
from dcryo.imaging.particles import Optics, Particles
from dcryo.imaging.phantom import images
from dcryo.imaging.solvent import Solvent
from dcryo.io.location import Location
from dcryo.io.particle_store import ParticleStore, create_particles, open_particles
from dcryo.io.store_root import plain, read_mark
from dcryo.methods.progress import Progress, Silent
from dcryo.methods.specimen import CloudSpecimen, Specimen, atomic_model, density_map, phantom

Float32 = NDArray[np.float32]
T = TypeVar("T")

CALIBRATION = 128
"""Particles whose clean images set the scale."""

MICROGRAPH = 200
"""Particles per micrograph: only names, for programs that group particles by them."""

ORIENTATIONS = ("uniform", "preferred")
NOISES = ("white", "coloured")
SNR_DEFINITIONS = ("variance", "power")

# What a random number is for: the second entry of its seed.
_TABLE, _CALIBRATION, _NOISE, _SOLVENT = range(4)


@dataclass(frozen=True)
class SimulateConfig:
    """What to simulate; at most one of ``phantom``, ``atoms`` and ``map``.

    Parameters
    ----------
    phantom : str or None
        Name of a phantom, or ``cloud:SEED`` for another one of its kind; the default if all three are None.
    atoms, map : str or None
        Path of an atomic model (.pdb, .cif, either gzipped) or of a density map (.mrc).
    box : int or None
        Pixels; None is the map's own, or 64.
    pixel_size : float or None
        Å; None is the map's own, or 1.5 for a phantom; a model needs one.
    particles : int
        How many.
    snr : float
        Signal to noise ratio (not dB); infinity for no noise.
    snr_definition : str
        ``variance`` of the clean image over the whole frame, or ``power``: its mean square.  Solvent is not
        signal.
    defocus : (float, float) or None
        Å, underfocus positive; uniform between the two.  None: images without CTF.
    voltage, cs, amplitude_contrast : float
        kV, Å, ratio.
    max_shift : float
        Pixels; x and y uniform between minus and plus this.
    symmetry : str
        Point group.  A phantom or a map is made symmetric; a model must be, and is turned into the frame of
        the group.
    orientations : str
        ``uniform`` on SO(3), or ``preferred``: the beam near the z axis of the specimen (Watson, kappa 4).
    solvent : bool
        Different random density around every particle, and a constant baseline.
    noise : str
        ``white``, or ``coloured``: four times stronger at the lowest frequencies than at the highest.
    resolution : float or None
        Å, of the density of a model; None is two pixels.
    seed : int
        Of everything random.
    dtype : str
        Of the stored images: ``float32`` or ``float16``.
    """

    phantom: str | None = None
    atoms: str | None = None
    map: str | None = None
    box: int | None = None
    pixel_size: float | None = None
    particles: int = 1000
    snr: float = 0.1
    snr_definition: Literal["variance", "power"] = "variance"
    defocus: tuple[float, float] | None = (8000.0, 20000.0)
    voltage: float = 300.0
    cs: float = 2.7e7
    amplitude_contrast: float = 0.1
    max_shift: float = 3.0
    symmetry: str = "C1"
    orientations: str = "uniform"
    solvent: bool = False
    noise: str = "white"
    resolution: float | None = None
    seed: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if sum(source is not None for source in (self.phantom, self.atoms, self.map)) > 1:
            raise InputError("--phantom, --atoms and --map exclude each other; give one of them")
        if self.resolution is not None and self.atoms is None:
            raise InputError("--resolution is that of the density of an atomic model; give it with --atoms")
        _one_of("--orientations", self.orientations, ORIENTATIONS)
        _one_of("--noise", self.noise, NOISES)
        _one_of("--snr-def", self.snr_definition, SNR_DEFINITIONS)
        _one_of("--dtype", self.dtype, ("float32", "float16"))
        if self.box is not None and self.box < 8:
            raise InputError(f"--box {self.box}: the smallest box is 8")
        if self.particles < 1:
            raise InputError(f"--particles {self.particles}: give at least 1")
        if self.pixel_size is not None and not 0 < self.pixel_size < math.inf:
            raise InputError(f"--pixel-size {self.pixel_size:g}: give a positive number of Å")
        if not self.snr > 0:
            raise InputError(f"--snr {self.snr:g}: give a positive ratio, or inf for no noise")
        if self.defocus is not None:
            low, high = self.defocus
            largest = DEFOCUS_RANGE[1]
            if not (0 <= low <= high <= largest and (high == 0 or high >= DEFOCUS_RANGE[0])):
                raise InputError(
                    f"--defocus {low:g} {high:g}: give two values in Å, the smaller one first, up to "
                    f"{largest:g} and not both below {DEFOCUS_RANGE[0]:g}"
                )
        if not 0 <= self.max_shift < math.inf:
            raise InputError(f"--max-shift {self.max_shift:g}: give a number of pixels, 0 or more")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: give an integer, 0 or more")


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{option} {value}: give {' or '.join(allowed)}")


def simulate(
    out: Location,
    config: SimulateConfig = SimulateConfig(),
    *,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> ParticleStore:
    """Write a simulated particle store, a shard at a time, and return it opened.

    The rows are in the order of the half sets, which alternate in the order of ``row``.  The store keeps the
    object as its truth, and the noise spectrum that ingest would estimate.

    Raises
    ------
    InputError
        For a configuration that cannot be simulated, or an ``out`` that holds something else.
    """
    progress = progress or Silent()
    if not overwrite and (finished := _finished(out, config)) is not None:
        progress.message(f"{out} holds this very simulation already")
        return finished
    progress.start("preparing the specimen", None)
    specimen = specimen_of(config)
    solvent = _solvent(config, specimen)
    n = specimen.n
    particles = draw_particles(config, specimen.pixel_size, np.random.default_rng([config.seed, _TABLE]))
    check_optics(particles)
    scale = _scale(config, specimen)
    provenance = _provenance(config) | {"specimen_scale": scale}
    with create_particles(
        out,
        particles,
        n,
        specimen.pixel_size,
        dtype=config.dtype,
        provenance=provenance,
        overwrite=overwrite,
    ) as writer:
        corners = CornerSpectrum(n, 1)
        progress.start("simulating", len(particles))
        batches = math.ceil(len(particles) / batch_size(n))
        make = partial(_batch, config, specimen, solvent, particles, scale)
        with contextlib.closing(_in_order(make, batches)) as stream:
            for batch in stream:
                writer.append(batch)
                corners.add(batch, np.zeros(len(batch), np.intp))
                progress.advance(len(batch))
        if math.isfinite(config.snr):
            writer.set_noise(corners.result())
        writer.write_truth(_truth(specimen, solvent) * np.float32(scale), particles.rotation, particles.shift)
    return open_particles(out)


def _truth(specimen: Specimen, solvent: Solvent | None) -> Float32:
    """The object above its surroundings: the mean density of the solvent is taken out where there is one."""
    volume = specimen.volume()
    return volume if solvent is None else volume + (solvent.mean - np.float32(solvent.baseline))


def _provenance(config: SimulateConfig) -> dict[str, Any]:
    """What decides the result: the configuration, and the file that the specimen is read from."""
    files = [Path(path) for path in (config.atoms, config.map) if path is not None and Path(path).is_file()]
    return {
        "command": "simulate",
        "version": __version__,
        "config": plain(asdict(config)),
        "sources": [{"path": str(path), "bytes": path.stat().st_size} for path in files],
    }


def _finished(out: Location, config: SimulateConfig) -> ParticleStore | None:
    """The store at ``out`` if it is the complete result of the same configuration."""
    mark = read_mark(out)
    if mark is None or mark["kind"] != "particles" or not mark.get("complete"):
        return None
    store = open_particles(out)
    known = store.attributes["provenance"]
    return store if all(known.get(key) == value for key, value in _provenance(config).items()) else None


def specimen_of(config: SimulateConfig) -> Specimen:
    """The specimen that a configuration names, in its box."""
    if config.map is not None:
        return density_map(config.map, config.box, config.pixel_size, config.symmetry)
    n = config.box or 64
    if config.atoms is not None:
        return atomic_model(config.atoms, n, config.pixel_size, config.resolution, config.symmetry)
    return phantom(config.phantom or "cloud", n, config.pixel_size or 1.5, config.symmetry)


def draw_particles(config: SimulateConfig, pixel_size: float, rng: np.random.Generator) -> Particles:
    """Poses, defocus and half sets of ``config.particles`` particles; shifts in Å."""
    count = config.particles
    rotation = matrix_to_quaternion(_draw_rotations(count, config.orientations, rng))
    given: dict[str, Any] = {
        "rotation": rotation,
        "shift": rng.uniform(-1, 1, (count, 2)) * config.max_shift * pixel_size,
        "half": np.repeat(np.array([1, 2], np.int8), [(count + 1) // 2, count // 2]),
        # in the user's order the half sets alternate: any part of the set has both
        "row": np.r_[0:count:2, 1:count:2],
        "micrograph": (np.arange(count) // MICROGRAPH).astype(np.int32),
    }
    if config.defocus is not None:
        given["defocus"] = random_defocus(count, *config.defocus, rng)
    optics = Optics(
        voltage=config.voltage,
        cs=config.cs,
        amplitude_contrast=config.amplitude_contrast,
        pixel_size=pixel_size,
        ctf=config.defocus is not None,
    )
    names = tuple(f"simulated{index:06d}.mrc" for index in range(math.ceil(count / MICROGRAPH)))
    return Particles.empty_columns(count, **given, optics=(optics,), micrographs=names)


def _draw_rotations(count: int, orientations: str, rng: np.random.Generator) -> NDArray[np.float64]:
    if orientations == "uniform":
        return np.asarray(random_rotations(count, rng))
    kept: list[NDArray[np.float64]] = []
    missing = count
    while missing > 0:  # rejection: the beam is the third row of A
        candidates = np.asarray(random_rotations(4 * missing + 16, rng))
        accept = rng.random(len(candidates)) < np.exp(4 * (candidates[:, 2, 2] ** 2 - 1))
        kept.append(candidates[accept][:missing])
        missing -= len(kept[-1])
    return np.concatenate(kept)


def batch_size(n: int) -> int:
    """Images made at once, by the box alone: 2^20 pixels."""
    return max(1, 2**20 // n**2)


def clean_images(
    specimen: Specimen,
    particles: Particles,
    solvent: Solvent | None = None,
    rng: np.random.Generator | None = None,
) -> Float32:
    """Projections as the microscope shows them without noise, (P, n, n): with CTF and shift.

    With ``solvent`` and a generator, every particle has fresh solvent around it.
    """
    n = specimen.n
    rotation = quaternion_to_matrix(particles.rotation)
    spectrum = specimen.fourier(rotation)
    if solvent is not None and rng is not None:
        spectrum += fft.rfft2(fft.ifftshift(solvent.project(rotation, rng), axes=(1, 2)))
    spectrum *= ctf_image(particles, specimen.pixel_size, n)
    return images(spectrum, n)


def _solvent(config: SimulateConfig, specimen: Specimen) -> Solvent | None:
    if not config.solvent:
        return None
    if not isinstance(specimen, CloudSpecimen):
        raise InputError("--solvent needs to know where the atoms are; give it with --phantom or --atoms")
    return Solvent.around(specimen.cloud, specimen.n)


def _scale(config: SimulateConfig, specimen: Specimen) -> float:
    """Factor of the object that gives noise of variance 1 the wanted SNR."""
    rng = np.random.default_rng([config.seed, _CALIBRATION])
    table = draw_particles(replace(config, particles=CALIBRATION), specimen.pixel_size, rng)
    step = batch_size(specimen.n)

    def power(batch: int) -> float:
        rows = table.take(slice(batch * step, (batch + 1) * step))
        return signal_power(clean_images(specimen, rows), config.snr_definition) * len(rows)

    signal = sum(_in_order(power, math.ceil(CALIBRATION / step))) / CALIBRATION
    if not signal > 0:
        raise InputError("the specimen is empty: its projections are zero everywhere; give another one")
    return math.sqrt((config.snr if math.isfinite(config.snr) else 1.0) / signal)


def noise_spectrum(kind: str, n: int) -> NDArray[np.float64]:
    """Noise spectrum (n // 2 + 1,) of pixel variance 1; ``coloured`` falls by a factor of four."""
    if kind == "white":
        return white(1.0, n)
    spectrum = 1 + 3 * np.exp(-((np.arange(n // 2 + 1) / (0.125 * n)) ** 2))
    # The pixel variance is the mean over the whole lattice; its corners take the value of the last shell.
    y, x = np.meshgrid(np.fft.fftfreq(n, 1 / n), np.fft.fftfreq(n, 1 / n), indexing="ij")
    shell = np.minimum(np.rint(np.hypot(y, x)).astype(int), n // 2)
    return np.asarray(spectrum / spectrum[shell].mean())


def _batch(
    config: SimulateConfig,
    specimen: Specimen,
    solvent: Solvent | None,
    particles: Particles,
    scale: float,
    batch: int,
) -> Float32:
    """Images (k, n, n) of one batch, with noise."""
    step = batch_size(specimen.n)
    rows = particles.take(slice(batch * step, (batch + 1) * step))
    result = clean_images(specimen, rows, solvent, np.random.default_rng([config.seed, _SOLVENT, batch]))
    result *= np.float32(scale)
    if math.isfinite(config.snr):
        rng = np.random.default_rng([config.seed, _NOISE, batch])
        result += coloured_noise(rng, noise_spectrum(config.noise, specimen.n), specimen.n, len(rows))
    return result


def _in_order(make: Callable[[int], T], count: int) -> Generator[T]:
    """``make(0)``, ``make(1)``, ... made by threads, a few ahead of the one that is asked for."""
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = ThreadPoolExecutor(workers)
    try:
        ahead: deque[Future[T]] = deque()
        for index in range(count):
            ahead.append(pool.submit(make, index))
            if len(ahead) > workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
