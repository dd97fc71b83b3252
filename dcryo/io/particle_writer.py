"""Writing a particle store: whole shards, in order, by one writer; the mark of completeness comes last."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dcryo.errors import InputError
from dcryo.imaging.particles import Particles
from dcryo.io.chunks import create_array, write_array
from dcryo.io.location import Location, join, normalise, reporting, zarr_store
from dcryo.io.particle_schema import (
    AXIS_LENGTH,
    COLUMN_LAYOUT,
    COLUMN_ROWS,
    DTYPES,
    TABLES,
    layout,
    optics_record,
    table_problems,
)
from dcryo.io.store_root import claim, clear, read_mark, write_group


class ParticleWriter:
    """Writes a particle store, one shard at a time; made by :func:`create_particles`, used as a context.

    Leaving the context normally verifies that every image came and marks the store complete; leaving it by an
    exception removes the store.  ``notes`` are sentences for the user.
    """

    def __init__(
        self, url: str, particles: Particles, box: int, dtype: np.dtype[Any], attributes: dict[str, Any]
    ) -> None:
        self.url = url
        self.box = box
        self.count = len(particles)
        self.notes: list[str] = []
        self._particles = particles
        self._attributes = attributes
        self._chunk, self._shard = layout(self.count, box, dtype.itemsize)
        self._buffer = np.empty((min(self._shard, self.count), box, box), dtype)
        self._written = 0
        self._filled = 0
        self._extra: list[str] = []
        self._noise: NDArray[np.float64] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dcryo-write")
        if any(group.noise is not None for group in particles.optics):
            absent = np.full(box // 2 + 1, np.nan)
            self.set_noise(
                np.array([absent if group.noise is None else group.noise for group in particles.optics])
            )

    def _begin(self, overwrite: bool) -> None:
        self.notes += claim(self.url, "particles", self._attributes, overwrite=overwrite)
        mark = read_mark(self.url)
        self._mark = {} if mark is None else mark
        try:
            self._write(self._create)
        except BaseException:
            self._discard()
            raise

    def _write(self, work: Callable[[], None]) -> None:
        """Do ``work``, which writes, in the writer's own thread.

        Ctrl-C reaches the main thread alone: there it would leave zarr writing on behind our back, into a
        store that is being removed.
        """

        def reported() -> None:
            with reporting(self.url):
                work()

        self._thread.submit(reported).result()

    def _create(self) -> None:
        self._store = zarr_store(self.url)
        image = (self.box, self.box)
        self._image = create_array(
            self._store,
            "image",
            (self.count, *image),
            self._buffer.dtype,
            ("particle", "y", "x"),
            chunks=(self._chunk, *image),
            shards=(self._shard, *image),
            attributes={"units": "1", "sign": "matter positive"},
        )
        for name, (dtype, axes, unit) in COLUMN_LAYOUT.items():
            self._write_column(name, getattr(self._particles, name), dtype, axes, unit)
        for name in TABLES:
            text = json.dumps(list(getattr(self._particles, name)), ensure_ascii=False).encode()
            content = {"content": "UTF-8 bytes of a JSON list"}
            write_array(self._store, name, np.frombuffer(text, np.uint8), (f"{name}_byte",), content)

    def _write_column(self, path: str, values: Any, dtype: str, axes: tuple[str, ...], unit: str) -> None:
        rows = np.ascontiguousarray(values, dtype)
        column = create_array(
            self._store,
            path,
            rows.shape,
            dtype,
            ("particle", *axes),
            chunks=(min(self.count, COLUMN_ROWS), *rows.shape[1:]),
            attributes={"units": unit},
        )
        column[...] = rows

    def __enter__(self) -> ParticleWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        try:
            if kind is None:
                self._finish()
        except BaseException:
            self._discard()
            raise
        if kind is not None:
            self._discard()
        return False

    def append(self, images: ArrayLike) -> None:
        """Add the next images (k, n, n), in the order of the rows of the table.

        Raises
        ------
        InputError
            If the shape is wrong, there are more images than rows, or a pixel is not finite in the dtype of
            the store.
        """
        block = np.asarray(images)
        if block.ndim != 3 or block.shape[1:] != (self.box, self.box):
            raise InputError(
                f"{self.url}: images of shape {block.shape} do not fit a store of box {self.box}; "
                "resample them to one box"
            )
        if self._written + self._filled + len(block) > self.count:
            raise InputError(
                f"{self.url}: more images than the {self.count} rows of the table; check the stacks"
            )
        done = 0
        while done < len(block):
            take = min(len(block) - done, len(self._buffer) - self._filled)
            target = self._buffer[self._filled : self._filled + take]
            # A value that float16 cannot hold becomes infinite here and is reported just below.
            with np.errstate(over="ignore"):
                target[...] = block[done : done + take]
            # NaN is the fill value: refusing it here is what lets a reader tell a lost chunk from an image.
            finite = np.isfinite(target).all(axis=(1, 2))
            if not finite.all():
                row = self._written + self._filled + int(np.argmin(finite))
                raise InputError(self._not_finite(row, block[done + int(np.argmin(finite))]))
            done += take
            self._filled += take
            if self._filled == min(len(self._buffer), self.count - self._written):
                self._flush()

    def _not_finite(self, row: int, image: NDArray[Any]) -> str:
        table = self._particles
        source, index = (int(value) for value in table.source[row])
        known = 0 <= source < len(table.sources)
        place = f"image {index + 1} of {table.sources[source]}" if known else "the image"
        place = f"{place} (row {int(table.row[row]) + 1} of the table)"
        if np.isfinite(image).all():
            return f"{place} has a value too large for {self._buffer.dtype}; store as float32"
        return f"{place} has a pixel that is not a finite number; leave that particle out"

    def _flush(self) -> None:
        self._check_ours()
        rows = slice(self._written, self._written + self._filled)
        self._write(lambda: self._image.__setitem__(rows, self._buffer[: self._filled]))
        self._written += self._filled
        self._filled = 0

    def set_noise(self, spectra: ArrayLike) -> None:
        """Set the noise spectra (groups, n//2+1), pixel variance per shell; a row of NaN is not known."""
        noise = np.array(spectra, np.float64)
        wanted = (len(self._particles.optics), self.box // 2 + 1)
        if noise.shape != wanted:
            raise InputError(
                f"{self.url}: noise spectra of shape {noise.shape}, not {wanted}; give a row per optics group"
            )
        known = noise[~np.isnan(noise).all(axis=1)]
        if not (np.isfinite(known) & (known >= 0)).all():
            raise InputError(
                f"{self.url}: a noise spectrum is negative or not a number; estimate the noise again"
            )
        self._noise = noise

    def write_truth(
        self,
        volume: ArrayLike | None = None,
        rotation: ArrayLike | None = None,
        shift: ArrayLike | None = None,
    ) -> None:
        """Keep what a simulation knows.

        Parameters
        ----------
        volume : (n, n, n) array, optional
            The specimen, axes z, y, x, on the pixel size of the store.
        rotation : (P, 4) array, optional
            Quaternions x, y, z, w of the true A.
        shift : (P, 2) array, optional
            True shifts x, y in Å.
        """
        given = {"rotation": rotation, "shift": shift}
        columns = {name: np.asarray(values) for name, values in given.items() if values is not None}
        for name, values in columns.items():
            if values.shape != (self.count, 4 if name == "rotation" else 2):
                raise InputError(
                    f"{self.url}: true {name} of shape {values.shape}; give one row per particle"
                )
        cube = None if volume is None else np.ascontiguousarray(volume, np.float32)
        if cube is not None and cube.shape != (self.box,) * 3:
            raise InputError(
                f"{self.url}: a true volume of shape {cube.shape}; give a cube of the box, {self.box}"
            )

        def write() -> None:
            write_group(join(self.url, "truth"), {"content": "what the simulation knows"})
            if cube is not None:
                write_array(self._store, "truth/volume", cube, ("z", "y", "x"))
                self._extra.append("truth/volume")
            for name, values in columns.items():
                dtype, axes, unit = COLUMN_LAYOUT[name]
                self._write_column(f"truth/{name}", values, dtype, axes, unit)
                self._extra.append(f"truth/{name}")

        self._write(write)

    def _finish(self) -> None:
        if self._written != self.count:
            came = self._written + self._filled
            raise InputError(
                f"{self.url}: {came} images came for {self.count} rows; check that no stack is short"
            )
        if (noise := self._noise) is not None:
            self._write(lambda: write_array(self._store, "noise", noise, ("optics", "shell")))
            self._extra.append("noise")
        self._check_ours()
        mark = self._mark | {"complete": True, "extra": self._extra}
        write_group(self.url, {**self._attributes, "dcryo": mark})
        self._thread.shutdown()

    def _still_ours(self) -> bool:
        mark = read_mark(self.url)
        return mark is not None and mark.get("writer") == self._mark.get("writer")

    def _check_ours(self) -> None:
        # One small read per shard keeps two writers, one in the other's place, from mixing their images.
        if not self._still_ours():
            raise InputError(
                f"{self.url} was replaced by another process while it was written; write it again"
            )

    def _discard(self) -> None:
        self._thread.shutdown()  # waits for what is being written
        if self._still_ours():
            clear(self.url)


def create_particles(
    url: Location,
    particles: Particles,
    box: int,
    pixel_size: float,
    *,
    dtype: str = "float32",
    provenance: Mapping[str, Any],
    overwrite: bool = False,
    truth: ArrayLike | None = None,
) -> ParticleWriter:
    """Begin a particle store.

    Parameters
    ----------
    url
        Path or URL; it must be free, an unfinished particle store, or (with ``overwrite``) a finished one.
    particles
        The table, sorted by half set; images are appended in its order.
    box
        Side n of the images, in pixels.
    pixel_size
        Å per pixel.
    dtype
        ``float32``, or ``float16`` (half the size, relative rounding 5e-4).
    provenance
        Where the data come from: files, command, version (anything JSON can say).
    overwrite
        Replace a finished particle store.
    truth : (n, n, n) array, optional
        The specimen of a simulation; see :meth:`ParticleWriter.write_truth` for more.

    Raises
    ------
    InputError
        If the table and the numbers do not make a store, or ``url`` must not be replaced.
    """
    url = normalise(url)
    if dtype not in DTYPES:
        raise InputError(f"{url}: images cannot be stored as {dtype}; use float32 or float16")
    if box < 2:
        raise InputError(f"{url}: a box of {box} pixels is too small; it must be at least 2")
    if not (np.isfinite(pixel_size) and pixel_size > 0):
        raise InputError(f"{url}: pixel size {pixel_size} Å must be positive; give --pixel-size")
    if len(particles) == 0:
        raise InputError(f"{url}: there are no particles to store; check the source")
    for name, (_, axes, _) in COLUMN_LAYOUT.items():
        shape = np.shape(getattr(particles, name))
        wanted = (len(particles), *(AXIS_LENGTH[axis] for axis in axes))
        if shape != wanted:
            raise InputError(
                f"{url}: the column {name} has the shape {shape}, not {wanted}; give one row per particle"
            )
    if problems := table_problems(particles):
        raise InputError(f"{url}: {problems[0]}")
    posed = int(np.isfinite(particles.rotation).all(axis=1).sum())
    attributes = {
        "box": int(box),
        "pixel_size": float(pixel_size),
        "count": len(particles),
        "halves": {str(half): int((np.asarray(particles.half) == half).sum()) for half in (0, 1, 2)},
        "poses": posed,
        "units": {"length": "angstrom", "angle": "rad", "voltage": "kV", "shift": "angstrom, x then y"},
        "optics": [optics_record(group) for group in particles.optics],
        "provenance": dict(provenance),
    }
    writer = ParticleWriter(url, particles, int(box), DTYPES[dtype], attributes)
    writer._begin(overwrite)
    if truth is not None:
        try:
            writer.write_truth(truth)
        except BaseException:
            writer._discard()
            raise
    return writer
