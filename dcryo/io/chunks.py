"""Arrays in stores: every chunk carries a crc32c, and a chunk that is not there is an error.

Zarr reads a missing chunk as the fill value without a word (zarr-python 3.1; issue 486 there), and checks
data only where the checksum codec is on.  So every array is written in whole, checksummed chunks; readers go
through :class:`CheckedStore`, which raises on a missing object; and :func:`missing_chunks` compares a listing
with the grid.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec
from zarr.core.metadata import ArrayV3Metadata
from zarr.storage import ObjectStore, WrapperStore

from dcryo.errors import DamagedStoreError, InputError
from dcryo.io.location import Location, normalise, reporting, zarr_store

if TYPE_CHECKING:
    from obstore.store import ObjectStore as ByteStore
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

CHUNK_BYTES = 2 << 20
SHARD_BYTES = 64 << 20
WHOLE_BYTES = 16 << 20
"""Chunks of arrays that are read whole (columns, volumes, tables)."""

# Codecs that only ever turn bytes into numbers; numcodecs also registers one that unpickles.
SAFE_CODECS = frozenset(
    {"bytes", "crc32c", "sharding_indexed", "transpose", "blosc", "gzip", "zstd", "numcodecs.zstd"}
)


class CheckedStore(WrapperStore[ObjectStore["ByteStore"]]):
    """A store for reading: a chunk that is not there raises; ``bytes_read`` counts the bytes of chunks."""

    def __init__(self, store: ObjectStore[ByteStore], url: str = "") -> None:
        super().__init__(store)
        self.url = url
        self.bytes_read = 0

    def _with_store(self, store: ObjectStore[ByteStore]) -> CheckedStore:
        return type(self)(store, self.url)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Bytes of ``key``; DamagedStoreError where a chunk is missing."""
        buffer = await self._store.get(key, prototype, byte_range)
        return self._checked(key, buffer)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Bytes of several ranges; DamagedStoreError where a chunk is missing."""
        wanted = list(key_ranges)
        buffers = await self._store.get_partial_values(prototype, wanted)
        return [self._checked(key, buffer) for (key, _), buffer in zip(wanted, buffers, strict=True)]

    def _checked(self, key: str, buffer: Buffer | None) -> Buffer | None:
        if "/c/" in f"/{key}":
            if buffer is None:
                raise DamagedStoreError(missing_sentence(self.url, key))
            # Zarr awaits every read on its one event loop, so no two threads count at once.
            self.bytes_read += len(buffer)
        return buffer


def missing_sentence(url: str, key: str) -> str:
    """What the user reads about a chunk that is not there."""
    return f"{url}: the chunk {key} is missing; write the store again, or copy that object from a backup"


def damaged_sentence(url: str, what: str, reason: object) -> str:
    """What the user reads about a chunk whose bytes are not those that were written."""
    if "checksum" in str(reason):  # zarr prints both in binary
        reason = "its checksum differs"
    return f"{url}: {what} is damaged ({reason}); write the store again, or copy that object from a backup"


def checked_store(url: Location) -> CheckedStore:
    """A reading store at ``url`` in which a missing chunk is an error."""
    url = normalise(url)
    return CheckedStore(zarr_store(url, read_only=True), url)


def create_array(
    store: ObjectStore[ByteStore],
    path: str,
    shape: tuple[int, ...],
    dtype: Any,
    dimensions: tuple[str, ...],
    *,
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> zarr.Array[Any]:
    """A new checksummed array; floats are filled with NaN.

    Every chunk is written, whatever it holds, so that one that is absent is known to be lost.
    """
    kind = np.dtype(dtype).kind
    return zarr.create_array(
        store,
        name=path,
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        shards=shards,
        fill_value=np.nan if kind in "fc" else 0,
        compressors=[Crc32cCodec()],
        dimension_names=dimensions,
        attributes=dict(attributes or {}),
        config={"write_empty_chunks": True},
    )


def whole_chunks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Chunks of at most ``WHOLE_BYTES``, cut along the first axis only."""
    row = max(1, int(np.prod(shape[1:], dtype=np.int64))) * itemsize
    first = max(1, min(shape[0], WHOLE_BYTES // row)) if shape else 1
    return (first, *(max(1, length) for length in shape[1:])) if shape else ()


def write_array(
    store: ObjectStore[ByteStore],
    path: str,
    values: NDArray[Any],
    dimensions: tuple[str, ...],
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write an array that is read whole."""
    chunks = whole_chunks(values.shape, values.dtype.itemsize)
    array = create_array(
        store, path, values.shape, values.dtype, dimensions, chunks=chunks, attributes=attributes
    )
    if values.size:
        array[...] = values


def codec_names(codecs: Iterable[Any]) -> set[str]:
    """Names of codecs, given as their JSON, with those that run inside shards."""
    names = set()
    for codec in codecs:
        names.add(str(codec["name"]))
        configuration = codec.get("configuration") or {}
        for inner in ("codecs", "index_codecs"):
            names |= codec_names(configuration.get(inner, ()))
    return names


def open_array(store: CheckedStore, path: str) -> zarr.Array[Any]:
    """An existing array whose metadata are harmless.

    Raises
    ------
    DamagedStoreError
        If there is no such array, or its metadata cannot be read.
    InputError
        If it uses a codec that dcryo does not run.
    """
    with reporting(store.url):
        try:
            array = zarr.open_array(store, path=path, mode="r")
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise DamagedStoreError(
                f"{store.url}: the array {path} is missing or unreadable; write the store again"
            ) from error
    metadata = array.metadata
    if not isinstance(metadata, ArrayV3Metadata):
        raise InputError(f"{store.url}: the array {path} is not of Zarr version 3; write it with dcryo")
    if foreign := sorted(codec_names([codec.to_dict() for codec in metadata.codecs]) - SAFE_CODECS):
        raise InputError(f"{store.url}: the array {path} uses the codec {foreign[0]}; write it with dcryo")
    return array


def read_rows(store: CheckedStore, array: zarr.Array[Any], start: int, stop: int) -> NDArray[Any]:
    """Rows ``start`` to ``stop``; DamagedStoreError if a chunk is missing or fails its checksum."""
    with reporting(store.url):
        try:
            return np.asarray(array[start:stop])
        except (ValueError, RuntimeError) as error:
            what = f"the array {array.path}, rows {start} to {stop - 1},"
            raise DamagedStoreError(damaged_sentence(store.url, what, error)) from error


def read_array(store: CheckedStore, path: str) -> NDArray[Any]:
    """A whole array; DamagedStoreError if a chunk is missing or fails its checksum."""
    array = open_array(store, path)
    with reporting(store.url):
        try:
            return np.asarray(array[...])
        except (ValueError, RuntimeError) as error:
            what = f"the array {path}"
            raise DamagedStoreError(damaged_sentence(store.url, what, error)) from error


def object_key(array: zarr.Array[Any], coordinates: tuple[int, ...]) -> str:
    """Key, within the store, of the shard (or of the chunk, where there are no shards) at ``coordinates``."""
    return f"{array.path}/{array.metadata.encode_chunk_key(coordinates)}"


def missing_chunks(array: zarr.Array[Any], keys: Container[str]) -> list[str]:
    """Keys of the objects that ``array`` should have and ``keys`` lacks."""
    step = array.shards or array.chunks
    grid = (range(-(-length // size)) for length, size in zip(array.shape, step, strict=True))
    return [key for where in itertools.product(*grid) if (key := object_key(array, where)) not in keys]
