"""Durable partial results: a commit exists whole or not at all.

::

    data/<key>-<attempt>/<name>.npy    written first, under a key that no other attempt uses
    commits/<key>.json                 the marker: attempt, SHA-256 and size of each array, and the meta data

The marker is created exclusively, so of several attempts at one key exactly one counts, on a disk as on S3,
and a process that dies at any moment leaves a commit, or data that no marker names; :meth:`Commits.sweep`
removes such data.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import obstore
from numpy.typing import NDArray

from dcryo.errors import DamagedStoreError, InputError
from dcryo.io.location import (
    Location,
    children,
    join,
    normalise,
    object_store,
    put_exclusive,
    read_bytes,
    remove_file,
    remove_tree,
    reporting,
    sizes,
    sync,
)
from dcryo.io.store_root import plain

PART_BYTES = 16 << 20
"""Arrays travel in parts of this size: what a put or a get holds beside the arrays is a few of them."""

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def _npy_header(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
    return stream.getvalue()


class _Npy:
    """The bytes of an array as a .npy file, in parts, hashed and counted on their way."""

    def __init__(self, array: NDArray[Any]) -> None:
        if array.dtype.hasobject:
            raise InputError("an array of Python objects cannot be committed; convert it to numbers")
        self._array = np.asarray(array, order="C")
        self._hash = hashlib.sha256()
        self.bytes = 0

    def __iter__(self) -> Iterator[bytes | memoryview]:
        body = self._array.reshape(-1).view(np.uint8).data
        yield self._counted(_npy_header(self._array))
        for first in range(0, len(body), PART_BYTES):
            yield self._counted(body[first : first + PART_BYTES])

    def _counted(self, part: Any) -> Any:
        self._hash.update(part)
        self.bytes += len(part)
        return part

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


class Commits:
    """Committed sets of arrays under a folder or prefix; several processes may use it at once.

    Parameters
    ----------
    url
        Path or URL; a folder is made when the first commit is put.
    """

    def __init__(self, url: Location) -> None:
        self.url = normalise(url)

    def __repr__(self) -> str:
        return f"Commits({self.url!r})"

    def _marker(self, key: str) -> str:
        if not all(NAME.fullmatch(part) for part in key.split("/")):
            raise InputError(f"the key {key!r} is not made of letters, digits, '_', '-', '.' and '/'")
        return join(self.url, "commits", f"{key}.json")

    def _read_marker(self, key: str) -> dict[str, Any]:
        try:
            data = read_bytes(self._marker(key))
        except FileNotFoundError:
            raise KeyError(key) from None
        try:
            record = json.loads(data)
            return {name: record[name] for name in ("attempt", "arrays", "meta")}
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedStoreError(
                f"{self.url}: the marker of commit {key} is damaged; delete {self._marker(key)} and run again"
            ) from error

    def has(self, key: str) -> bool:
        """Whether ``key`` is committed."""
        try:
            self._read_marker(key)
        except KeyError:
            return False
        return True

    def keys(self) -> list[str]:
        """All committed keys, sorted."""
        if "commits" not in children(self.url):
            return []
        names = sizes(join(self.url, "commits"))
        return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))

    def meta(self, key: str) -> dict[str, Any]:
        """The meta data of a commit, without its arrays; KeyError if there is none."""
        return dict(self._read_marker(key)["meta"])

    def put(
        self, key: str, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any] | None = None
    ) -> bool:
        """Commit arrays under ``key``; a commit that exists is kept.

        Parameters
        ----------
        key
            Letters, digits, ``_ - .``, and ``/`` between parts.
        arrays
            By name.  C-contiguous ones are not copied.
        meta
            What JSON can say.

        Returns
        -------
        bool
            True if these arrays are the commit, False if an earlier one was there and was kept.
        """
        if self.has(key):
            return False
        for name in arrays:
            if not NAME.fullmatch(name):
                raise InputError(f"the array name {name!r} is not made of letters, digits, '_', '-' and '.'")
        attempt = f"{key.replace('/', '.')}-{uuid.uuid4().hex}"
        folder = join(self.url, "data", attempt)
        try:
            records = {name: self._write(folder, name, array) for name, array in arrays.items()}
            record = {"key": key, "attempt": attempt, "arrays": records, "meta": plain(dict(meta or {}))}
            marker = self._marker(key)
            won = put_exclusive(marker, json.dumps(record, allow_nan=False).encode())
        except BaseException:
            remove_tree(folder)
            raise
        if won:
            sync(marker)
        else:
            remove_tree(folder)
        return won

    def _write(self, folder: str, name: str, array: NDArray[Any]) -> dict[str, Any]:
        content = _Npy(np.asarray(array))
        file = f"{name}.npy"
        with reporting(folder):
            store = object_store(folder, create=True)
            # Few parts in flight: the default of twelve would hold twelve parts of every task.
            obstore.put(store, file, iter(content), chunk_size=PART_BYTES, max_concurrency=2)
        # Power loss must not leave a marker whose data never reached the disk.
        sync(join(folder, file))
        return {"sha256": content.sha256, "bytes": content.bytes}

    def get(self, key: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and meta data of a commit, verified against its marker.

        Raises
        ------
        KeyError
            If ``key`` is not committed.
        DamagedStoreError
            If an array is missing or is not what was written.
        """
        record = self._read_marker(key)
        folder = join(self.url, "data", record["attempt"])
        return {name: self._read(folder, key, name, entry) for name, entry in record["arrays"].items()}, dict(
            record["meta"]
        )

    def _read(self, folder: str, key: str, name: str, entry: Mapping[str, Any]) -> NDArray[Any]:
        def damaged(what: str) -> DamagedStoreError:
            where = f"{self.url}: the array {name} of commit {key}"
            return DamagedStoreError(f"{where} {what}; delete {self._marker(key)} and run again")

        total = int(entry["bytes"])
        digest = hashlib.sha256()
        try:
            stored = sizes(folder).get(f"{name}.npy")
        except InputError as error:
            raise damaged("is missing") from error
        if stored is None:
            raise damaged("is missing")
        if stored != total:
            raise damaged(f"has {stored} bytes, not {total}")
        store = object_store(folder)
        array, body, filled = None, memoryview(b""), 0
        for first in range(0, total, PART_BYTES):
            with reporting(folder):
                length = min(PART_BYTES, total - first)
                part = memoryview(obstore.get_range(store, f"{name}.npy", start=first, length=length))
            digest.update(part)
            if array is None:
                try:
                    array, offset = _empty_like_npy(part)
                except ValueError as error:
                    raise damaged("has no readable header") from error
                if array.nbytes != total - offset:
                    raise damaged("has a header that does not fit its size")
                body = array.reshape(-1).view(np.uint8).data
                part = part[offset:]
            body[filled : filled + len(part)] = part
            filled += len(part)
        if array is None or digest.hexdigest() != entry["sha256"]:
            raise damaged("is damaged (its SHA-256 differs)")
        return array

    def delete(self, key: str) -> None:
        """Remove a commit, the marker first; nothing happens if there is none."""
        try:
            attempt = self._read_marker(key)["attempt"]
        except KeyError:
            return
        remove_file(self._marker(key))
        remove_tree(join(self.url, "data", attempt))

    def sweep(self) -> int:
        """Remove the data of attempts that were never committed; returns how many there were.

        Only while nobody else puts commits here: an attempt under way has no marker yet.
        """
        kept = {self._read_marker(key)["attempt"] for key in self.keys()}
        stray = [name for name in children(join(self.url, "data")) if name not in kept]
        for name in stray:
            remove_tree(join(self.url, "data", name))
        return len(stray)


def _empty_like_npy(part: memoryview) -> tuple[NDArray[Any], int]:
    """An array with the dtype and shape that a .npy file promises, and where its values begin."""
    stream = io.BytesIO(part)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("not version 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if fortran or dtype.hasobject:
        raise ValueError("not a plain C-ordered array")
    return np.empty(shape, dtype), stream.tell()
