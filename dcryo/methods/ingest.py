"""Ingest: particles of RELION or cryoSPARC, or bare images, become a particle store.

Foreign conventions end here: images are stored with matter positive, in one box, sorted by half set, with
the noise spectrum of every optics group.  Images stream: a batch and the writer's shard are all that is
held, however many there are.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcryo import __version__
from dcryo.errors import InputError
from dcryo.imaging.noise import CornerSpectrum
from dcryo.imaging.particles import Particles
from dcryo.imaging.resample import fourier_crop, window
from dcryo.io.cryosparc import read_particles_cs
from dcryo.io.particle_schema import DTYPES
from dcryo.io.particle_store import ParticleStore, open_particles
from dcryo.io.particle_writer import create_particles
from dcryo.io.star import read_particles_star
from dcryo.io.store_root import check_free
from dcryo.io.table import ParticleTable, bare_table, concatenate
from dcryo.methods.contrast import SIGNIFICANT, Contrast, measure_contrast
from dcryo.methods.progress import Progress, Silent

CONTRASTS = ("auto", "keep", "invert")
IMAGE_SUFFIXES = (".mrc", ".mrcs", ".st", ".stk")
BATCH_BYTES = 1 << 24
BATCH_IMAGES = 1024
PROBED = 200
"""Images that the sign of matter is judged by."""
CONFIRMED = 2.0
"""Standard errors by which the images should at least speak for the sign they are given."""
UNNORMALISED = 0.5
"""A background whose mean is this many of its standard deviations from zero was not normalised."""

Path_ = str | os.PathLike[str]


@dataclass(frozen=True)
class IngestConfig:
    """Options of :func:`ingest`.

    Parameters
    ----------
    datadir : path, optional
        Folder that the image paths start from, when it is not around the table.
    passthrough : sequence of path
        cryoSPARC passthrough files.
    pixel_size : float, optional
        Å.  Without ``box``: what the pixel size of the images *is*, whatever the files say.  With ``box``:
        the pixel size to resample them to.
    box : int, optional
        Resample every image to this box by cropping its Fourier transform: the field of view is kept, or,
        with ``pixel_size``, cut to ``box`` pixels of that size.
    contrast : str
        ``auto`` goes by the header and stops where the images contradict it; ``keep`` and ``invert`` are
        done unasked.
    ignore : sequence of str
        Columns to read as if they were not there.
    no_ctf : bool
        The images carry no CTF.
    allow_outside : bool
        Accept image paths that leave the project (``..``, absolute).
    seed : int
        Of the half sets, where the table has none.
    dtype : str
        ``float32`` or ``float16``.
    """

    datadir: Path_ | None = None
    passthrough: tuple[Path_, ...] = ()
    pixel_size: float | None = None
    box: int | None = None
    contrast: str = "auto"
    ignore: tuple[str, ...] = ()
    no_ctf: bool = False
    allow_outside: bool = False
    seed: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.contrast not in CONTRASTS:
            raise InputError(f"--contrast {self.contrast}: give one of {', '.join(CONTRASTS)}")
        if self.pixel_size is not None and not 0 < self.pixel_size < np.inf:
            raise InputError(f"--pixel-size {self.pixel_size:g}: give a positive number of Å")
        if self.box is not None and self.box < 8:
            raise InputError(f"--box {self.box}: give at least 8 pixels")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: give an integer, 0 or more")
        if self.dtype not in DTYPES:
            raise InputError(f"--dtype {self.dtype}: give {' or '.join(DTYPES)}")


def ingest(
    sources: Path_ | Sequence[Path_],
    out: Path_,
    config: IngestConfig = IngestConfig(),
    *,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> ParticleStore:
    """Write the particles of ``sources`` to the particle store ``out``.

    Parameters
    ----------
    sources : path or sequence of path
        STAR files and ``.cs`` files, or stacks and single images without a table.
    out : path or URL
    config : IngestConfig
    progress : Progress, optional
        Hears of every batch, and of what deserves the user's attention.
    overwrite : bool
        Replace a particle store that is there.

    Returns
    -------
    ParticleStore
        Opened for reading.

    Raises
    ------
    InputError
        Whatever is wrong with the input, in one sentence; nothing is left behind.
    """
    progress = progress or Silent()
    check_free(out, "particles", overwrite=overwrite)
    sources = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    table = _read(sources, config)
    notes = list(table.notes)
    particles = _with_halves(table.particles, config.seed, notes, os.fspath(sources[0]))
    particles = particles.take(np.argsort(particles.half, kind="stable"))
    images = _Images(table, particles, config)
    probe = _judge_sign(images, table, config, sources, notes)

    provenance = {
        "command": "ingest",
        "version": __version__,
        "sources": [{"path": os.fspath(path), "bytes": Path(path).stat().st_size} for path in sources],
        "stacks": {"count": len(table.stacks), "images": sum(map(len, table.stacks))},
        "config": asdict(config),
        "config_sha256": hashlib.sha256(json.dumps(asdict(config), default=os.fspath).encode()).hexdigest(),
        "ignored": list(table.ignored),
        "inverted": images.sign < 0,
        "contrast": asdict(probe),
        "resampled": images.resampled,
        "notes": notes,
    }
    for note in notes:
        progress.message(note)
    particles = images.particles
    with create_particles(
        out,
        particles,
        images.box,
        images.pixel_size,
        dtype=config.dtype,
        provenance=provenance,
        overwrite=overwrite,
    ) as writer:
        noise = CornerSpectrum(images.box, len(particles.optics))
        progress.start("ingesting", len(particles))
        step = max(1, min(BATCH_IMAGES, BATCH_BYTES // (4 * max(table.boxes) ** 2)))
        for start in range(0, len(particles), step):
            rows = np.arange(start, min(start + step, len(particles)))
            batch = images.read(rows)
            writer.append(batch)
            noise.add(batch, particles.optics_group[rows])
            progress.advance(len(rows))
        spectra = noise.result()
        # Clean images (a simulation's) have empty corners: no spectrum is known, rather than one of zero.
        spectra[~(spectra > 0).all(axis=1)] = np.nan
        writer.set_noise(spectra)
    return open_particles(out)


def _read(sources: Sequence[Path_], config: IngestConfig) -> ParticleTable:
    """One table from all sources."""
    if not sources:
        raise InputError("there is nothing to ingest; give a .star file, a .cs file or stacks")
    suffixes = {Path(path).suffix.lower() for path in sources}
    if unknown := suffixes - {".star", ".cs", *IMAGE_SUFFIXES}:
        name = next(os.fspath(path) for path in sources if Path(path).suffix.lower() in unknown)
        raise InputError(f"{name}: cannot be ingested; give .star, .cs, .mrcs or .mrc files")
    # With a box, the pixel size is the one to resample to, and the files must know their own.
    pixel_size = config.pixel_size if config.box is None else None
    if suffixes <= set(IMAGE_SUFFIXES):
        return bare_table(sources, pixel_size=pixel_size)
    if suffixes & set(IMAGE_SUFFIXES):
        raise InputError("tables and bare images cannot be ingested together; give the tables only")
    common: dict[str, Any] = {
        "datadir": config.datadir,
        "pixel_size": pixel_size,
        "ignore": config.ignore,
        "no_ctf": config.no_ctf,
        "allow_outside": config.allow_outside,
    }
    tables = [
        read_particles_star(path, **common)
        if Path(path).suffix.lower() == ".star"
        else read_particles_cs(path, passthrough=config.passthrough, **common)
        for path in sources
    ]
    return concatenate(tables)


def _with_halves(particles: Particles, seed: int, notes: list[str], name: str) -> Particles:
    """Every row in half set 1 or 2: as the table says, or drawn at random where it says nothing."""
    half = np.array(particles.half, np.int8)
    lost = np.flatnonzero(half == 0)
    if len(lost):
        half[lost] = 1 + np.random.default_rng(seed).permutation(len(lost)) % 2
        notes.append(f"{len(lost):,} particles had no half set: drawn at random with seed {seed}")
    for number in (1, 2):
        if not np.any(half == number) and len(half) > 1:
            raise InputError(
                f"{name}: half set {number} is empty, so there would be no FSC; "
                "give --ignore rlnRandomSubset to have the halves drawn at random"
            )
    return replace(particles, half=half)


class _Images:
    """The images of the rows of a table, as they are stored: one box, one contrast.

    ``particles`` has the optics groups of the resampled images, ``sign`` multiplies what is read.
    """

    def __init__(self, table: ParticleTable, particles: Particles, config: IngestConfig) -> None:
        self._stacks = table.stacks
        self.sign = -1 if config.contrast == "invert" else 1
        self.box = table.image_shape if config.box is None else config.box
        boxes = np.array(table.boxes)[particles.source[:, 0]]
        # Images of one optics group but of different boxes end on different pixel sizes.
        pairs = np.stack([particles.optics_group, boxes], axis=1)
        keys, group = np.unique(pairs, axis=0, return_inverse=True)
        optics, self._sizes = [], []
        for number, box in keys.tolist():
            old = particles.optics[number]
            size = box if config.box is None else _resampled_size(box, old.pixel_size, config)
            self._sizes.append(size)
            optics.append(replace(old, pixel_size=old.pixel_size * box / size))
        self.particles = replace(particles, optics_group=group.ravel().astype(np.int32), optics=tuple(optics))
        counts = np.bincount(self.particles.optics_group)
        self.pixel_size = optics[int(counts.argmax())].pixel_size
        self.resampled = [
            {"from_box": box, "to_box": size, "window": self.box, "pixel_size_A": group_.pixel_size}
            for (_, box), size, group_ in zip(keys.tolist(), self._sizes, optics, strict=True)
            if (box, size) != (self.box, self.box)
        ]

    def read(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Images (k, box, box) of the rows ``rows`` of ``particles``.

        Raises
        ------
        InputError
            An image with a value that is not finite, by stack and number.
        """
        out = np.empty((len(rows), self.box, self.box), np.float32)
        source, group = self.particles.source[rows], self.particles.optics_group[rows]
        for index in np.unique(source[:, 0]).tolist():
            held = np.flatnonzero(source[:, 0] == index)
            stack = self._stacks[index]
            raw = stack.read(source[held, 1])
            finite = np.isfinite(raw).all(axis=(1, 2))
            if not finite.all():
                number = int(source[held[int(np.argmin(finite))], 1]) + 1
                raise InputError(
                    f"{stack.path}: image {number} has pixels that are NaN or infinite; "
                    "leave that particle out of the table, or extract it again"
                )
            for number in np.unique(group[held]).tolist():
                of_group = group[held] == number
                out[held[of_group]] = window(fourier_crop(raw[of_group], self._sizes[number]), self.box)
        if self.sign < 0:
            np.negative(out, out=out)
        return out


def _resampled_size(box: int, pixel_size: float, config: IngestConfig) -> int:
    """Pixels that an image of ``box`` pixels is resampled to before the window is cut."""
    if config.box is None:
        return box
    size = config.box if config.pixel_size is None else round(box * pixel_size / config.pixel_size)
    if size > box and config.pixel_size is None:
        raise InputError(
            f"--box {config.box} is larger than the {box} pixels of some images; choose a smaller box"
        )
    if size > box:
        raise InputError(
            f"--box {config.box} and --pixel-size {config.pixel_size:g} ask for pixels finer than the "
            f"{pixel_size:g} Å of some images; choose a coarser pixel size or a smaller box"
        )
    if size < config.box:
        raise InputError(
            f"--box {config.box} at {config.pixel_size:g} Å is wider than the {box * pixel_size:.0f} Å "
            "of some images; choose a smaller box"
        )
    return size


def _shade(sign: int) -> str:
    return "bright" if sign > 0 else "dark"


def _judge_sign(
    images: _Images, table: ParticleTable, config: IngestConfig, sources: Sequence[Path_], notes: list[str]
) -> Contrast:
    """Set the sign of the images from option and header, and compare it with the images themselves.

    Raises
    ------
    InputError
        ``auto``, and the images contradict the header significantly.
    """
    if config.contrast == "auto":
        # RELION's images, and those of unknown origin, are taken to have bright matter.
        images.sign = table.contrast_sign or 1
    count = len(images.particles)
    rows = np.unique(np.linspace(0, count - 1, min(count, PROBED)).round().astype(np.int64))
    probe = measure_contrast(images.read(rows), images.particles.take(rows), images.pixel_size)
    if config.contrast == "auto" and probe.z < -SIGNIFICANT:
        said, seen, right, stubborn = ("bright", "darker", "invert", "keep")
        if images.sign < 0:
            said, seen, right, stubborn = ("dark", "brighter", "keep", "invert")
        raise InputError(
            f"{os.fspath(sources[0])}: matter should be {said} by its header or convention, but over "
            f"{probe.images} phase-flipped images the inside of the ball is {seen} than the background by "
            f"{abs(probe.difference):.3f} standard deviations (z = {abs(probe.z):.1f}); "
            f"give --contrast {right} if the images are right, --contrast {stubborn} to follow the header"
        )
    if images.sign < 0:
        notes.append("images inverted, so that matter is positive")
    if probe.z < CONFIRMED:
        notes.append(f"the images do not confirm that matter is {_shade(images.sign)} (z = {probe.z:.1f})")
    if abs(probe.background) > UNNORMALISED:
        notes.append(
            f"the mean of the background is {probe.background:.2f} of its standard deviation: "
            "the images seem not to be normalised"
        )
    return probe
