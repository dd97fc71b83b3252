"""Particle stores: one Zarr v3 group that holds the images of a data set and everything known about them.

::

    image (particle, y, x)       float32 or float16, matter positive; chunk ~2 MB, shard ~64 MB
    rotation (particle, 4)       quaternion x, y, z, w of A (dcryo.conventions); NaN where there is no pose
    shift, defocus, ...          the columns of dcryo.imaging.particles.Particles, one array each
    noise (optics, shell)        noise spectra, where they are known
    micrographs, sources         lists of names: the UTF-8 bytes of a JSON list
    truth/                       of simulated sets: volume (z, y, x), rotation, shift

Optics groups, units and provenance are attributes of the group.  Images are written shard by shard, in order,
by one writer, and the mark that the store is complete comes last: a writer that was killed leaves a store
that no reader opens.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from dcryo.errors import DamagedStoreError, InputError
from dcryo.imaging.particles import COLUMNS, Optics, Particles
from dcryo.io.chunks import (
    CheckedStore,
    checked_store,
    damaged_sentence,
    missing_chunks,
    missing_sentence,
    object_key,
    open_array,
    read_array,
    read_rows,
)
from dcryo.io.location import Location, Present, normalise, sizes
from dcryo.io.particle_schema import (
    COLUMN_ROWS,
    DTYPES,
    TABLES,
    optics_from_record,
    optics_record,
    table_problems,
)
from dcryo.io.particle_writer import ParticleWriter, create_particles
from dcryo.io.store_root import open_root

__all__ = ["ParticleStore", "ParticleWriter", "create_particles", "open_particles"]


def open_particles(url: Location, *, verify: bool = True) -> ParticleStore:
    """Open a complete particle store for reading.

    Parameters
    ----------
    url
        Path or URL.
    verify
        List the store and refuse it if an object is missing.  ``dcryo check`` and workers leave it off: a
        read of something that is missing is an error anyway.

    Raises
    ------
    InputError
        If it is not a particle store, or one that was never finished.
    DamagedStoreError
        If parts of it are missing or unreadable.
    """
    store = ParticleStore(normalise(url))
    if verify and (missing := store.missing()):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DamagedStoreError(missing_sentence(store.url, missing[0] + more))
    return store


class ParticleStore:
    """A complete particle store; reading is safe from several threads.  Made by :func:`open_particles`.

    Attributes
    ----------
    url : str
    box : int
        Side n of the images, pixels.
    pixel_size : float
        Å per pixel.
    count : int
        Number of particles P.
    chunk, shard : int
        Rows that are read, and that were written, at once.
    attributes : dict
        All attributes of the store.
    """

    def __init__(self, url: str) -> None:
        attributes = open_root(url, "particles")
        if not attributes["dcryo"].get("complete"):
            raise InputError(
                f"{url} was never finished (its writer was interrupted); run the command that makes it again"
            )
        self.url = url
        self.attributes = attributes
        self._store: CheckedStore = checked_store(url)
        self._image = open_array(self._store, "image")
        try:
            self.box, self.count = int(attributes["box"]), int(attributes["count"])
            self.pixel_size = float(attributes["pixel_size"])
            self._records = list(attributes["optics"])
            self._extra = list(attributes["dcryo"]["extra"])
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedStoreError(
                f"{url}: the attributes of the root are damaged ({error!r}); write the store again"
            ) from error
        image = self._image
        if image.shape != (self.count, self.box, self.box) or image.dtype not in DTYPES.values():
            raise DamagedStoreError(
                f"{url}: the array image is {image.dtype} {image.shape}, not the {self.count} images of "
                f"{self.box} pixels that the root promises; write the store again"
            )
        self.chunk = int(self._image.chunks[0])
        self.shard = int((self._image.shards or self._image.chunks)[0])

    def __repr__(self) -> str:
        return f"ParticleStore({self.url!r}, {self.count} x {self.box}², {self.pixel_size} Å)"

    def __len__(self) -> int:
        return self.count

    @property
    def digest(self) -> str:
        """Hash of the attributes, which hold how and when the store was written."""
        text = json.dumps(self.attributes, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def bytes_read(self) -> int:
        """Bytes of chunks (and shard indices) that this object has read so far."""
        return self._store.bytes_read

    @cached_property
    def _arrays(self) -> dict[str, zarr.Array[Any]]:
        return {name: open_array(self._store, name) for name in (*COLUMNS, *TABLES)}

    @cached_property
    def _optional(self) -> dict[str, zarr.Array[Any]]:
        """The arrays that not every store has: noise, truth/volume, truth/rotation, truth/shift."""
        return {name: open_array(self._store, name) for name in self._extra}

    @cached_property
    def optics(self) -> tuple[Optics, ...]:
        """The optics groups, with their noise spectra."""
        noise = read_array(self._store, "noise") if "noise" in self._optional else [None] * len(self._records)
        return tuple(optics_from_record(r, s) for r, s in zip(self._records, noise, strict=True))

    @cached_property
    def _names(self) -> dict[str, tuple[str, ...]]:
        return {name: tuple(json.loads(read_array(self._store, name).tobytes())) for name in TABLES}

    def _span(self, start: int, stop: int | None) -> tuple[int, int]:
        stop = self.count if stop is None else stop
        if not 0 <= start <= stop <= self.count:
            raise InputError(f"{self.url}: rows {start} to {stop} are not within its {self.count} particles")
        return start, stop

    def particles(self, start: int = 0, stop: int | None = None) -> Particles:
        """Rows ``start`` to ``stop`` of the table."""
        start, stop = self._span(start, stop)
        columns: dict[str, Any] = {
            name: read_rows(self._store, self._arrays[name], start, stop) for name in COLUMNS
        }
        return Particles(**columns, optics=self.optics, **cast(dict[str, Any], self._names))

    def column(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows ``start`` to ``stop`` of one column of the table: a hundredth of reading all of them."""
        start, stop = self._span(start, stop)
        return read_rows(self._store, self._arrays[name], start, stop)

    def halves(self) -> NDArray[np.int8]:
        """Half set of every particle, (P,): 0 none, 1, 2; sorted."""
        return self.column("half")

    def images(self, start: int, stop: int) -> NDArray[np.float32]:
        """Images ``start`` to ``stop``, (k, n, n) float32.  Only the chunks that cover them are read.

        Raises
        ------
        DamagedStoreError
            If a chunk is missing or fails its checksum.
        """
        start, stop = self._span(start, stop)
        try:
            return self._read_images(start, stop)
        except DamagedStoreError as error:
            raise next(iter(self._damaged_chunks(start, stop)), error) from error

    def _read_images(self, start: int, stop: int) -> NDArray[np.float32]:
        images = read_rows(self._store, self._image, start, stop)
        # Written images are finite: the fill value NaN in a first pixel is a chunk that its shard has lost.
        lost = np.isnan(images[:, 0, 0])
        if lost.any():
            row = start + int(np.argmax(lost))
            raise DamagedStoreError(missing_sentence(self.url, self._chunk_name(row // self.chunk)))
        return images.astype(np.float32, copy=False)

    def _chunk_name(self, chunk: int) -> str:
        first = chunk * self.chunk
        last = min(first + self.chunk, self.count) - 1
        shard = object_key(self._image, (first // self.shard, 0, 0))
        return f"{chunk} of image (rows {first} to {last}) in {shard}"

    def _damaged_chunks(self, start: int, stop: int) -> list[DamagedStoreError]:
        """One error for each chunk of these rows that cannot be read; it reads them one by one."""
        errors = []
        for chunk in range(start // self.chunk, -(-stop // self.chunk)):
            first = chunk * self.chunk
            try:
                self._read_images(first, min(first + self.chunk, self.count))
            except DamagedStoreError as error:
                if error.__cause__ is not None:  # a checksum, which zarr reports without a place
                    what = f"the chunk {self._chunk_name(chunk)}"
                    error = DamagedStoreError(damaged_sentence(self.url, what, error.__cause__))
                errors.append(error)
        return errors

    def image_bytes(self, start: int, stop: int) -> int:
        """Bytes that the chunks covering these rows take in the store."""
        start, stop = self._span(start, stop)
        chunks = -(-stop // self.chunk) - start // self.chunk if stop > start else 0
        checksum = 4
        return chunks * (self.chunk * self.box**2 * self._image.dtype.itemsize + checksum)

    def truth(self) -> NDArray[np.float32] | None:
        """The specimen of a simulated set, (n, n, n) axes z, y, x; None where there is none."""
        return read_array(self._store, "truth/volume") if "truth/volume" in self._optional else None

    def truth_poses(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """True quaternions (P, 4) and shifts (P, 2) in Å of a simulated set; None where they are not kept."""
        if not {"truth/rotation", "truth/shift"} <= self._optional.keys():
            return None
        return read_array(self._store, "truth/rotation"), read_array(self._store, "truth/shift")

    def missing(self) -> list[str]:
        """Keys of the objects that should be in the store and are not."""
        keys = Present(self.url)
        arrays = [self._image, *self._arrays.values(), *self._optional.values()]
        return [key for array in arrays for key in missing_chunks(array, keys)]

    def check(self, deep: bool = True) -> list[str]:
        """Everything that is wrong with the store, a sentence each.

        Parameters
        ----------
        deep
            Also read every image; otherwise the listing and the table only.
        """
        missing = self.missing()
        problems = [missing_sentence(self.url, key) for key in missing]
        absent = {key for key in missing if key.startswith("image/")}
        if len(absent) == len(missing):
            try:
                problems += [f"{self.url}: {problem}" for problem in table_problems(self.particles())]
                self.truth()
                self.truth_poses()
            except DamagedStoreError as error:
                problems.append(str(error))
        if deep:
            for start in range(0, self.count, self.shard):
                if object_key(self._image, (start // self.shard, 0, 0)) not in absent:
                    problems += self._check_images(start, min(start + self.shard, self.count))
        return problems

    def _check_images(self, start: int, stop: int) -> list[str]:
        try:
            images = self._read_images(start, stop)
        except DamagedStoreError:
            return [str(error) for error in self._damaged_chunks(start, stop)]
        bad = np.flatnonzero(~np.isfinite(images).all(axis=(1, 2)))
        return [
            f"{self.url}: the image in row {start + int(row) + 1} has a pixel that is not a number"
            for row in bad
        ]

    def info(self) -> dict[str, Any]:
        """What the store holds, as JSON would have it."""
        groups = np.zeros(len(self._records), np.int64)
        for start in range(0, self.count, COLUMN_ROWS):
            stop = min(start + COLUMN_ROWS, self.count)
            rows = read_rows(self._store, self._arrays["optics_group"], start, stop)
            groups += np.bincount(rows, minlength=len(groups))
        return {
            "kind": "particles",
            "url": self.url,
            "schema": self.attributes["dcryo"]["schema"],
            "count": self.count,
            "box": self.box,
            "pixel_size_A": self.pixel_size,
            "dtype": str(self._image.dtype),
            "halves": self.attributes["halves"],
            "poses": self.attributes["poses"],
            "optics": [
                optics_record(group) | {"count": int(groups[index]), "noise": group.noise is not None}
                for index, group in enumerate(self.optics)
            ],
            "micrographs": len(self._names["micrographs"]),
            "sources": len(self._names["sources"]),
            "truth": sorted(name.removeprefix("truth/") for name in self._optional if name != "noise"),
            "chunk": self.chunk,
            "shard": self.shard,
            "size_bytes": sum(sizes(self.url).values()),
            "provenance": self.attributes["provenance"],
        }
