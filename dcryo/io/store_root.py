"""The root of a store of ours: what says that a folder is one, of which kind, and whether it is complete.

The root is a Zarr v3 group; its attributes hold ``dcryo = {"kind", "schema", "complete", "writer"}``.  The
group is one small object, written in one piece, so a store is complete or it is not.  A folder without that
object is never touched.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dcryo.errors import InputError
from dcryo.io.location import (
    Location,
    children,
    exists,
    is_remote,
    join,
    normalise,
    put_exclusive,
    read_bytes,
    remove_file,
    remove_tree,
    write_bytes,
)

SCHEMA = 1
"""Version of the layout; a reader refuses what is newer than itself."""

ROOT = "zarr.json"
SCRATCH = "scratch"

KINDS = {"particles": "particle store", "run": "run"}
"""What the kinds are called in messages."""

MAKERS = {"particles": "dcryo ingest", "run": "dcryo reconstruct or dcryo refine"}
"""The commands that make them."""

log = logging.getLogger(__name__)


def plain(value: Any) -> Any:
    """``value`` as JSON knows it: numpy values, tuples and paths converted; NaN and infinity are null."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        entries = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [plain(entry) for entry in entries]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int | bool):
        return value
    raise InputError(f"attributes cannot hold a {type(value).__name__}; give numbers, text, lists, mappings")


def group_document(attributes: Mapping[str, Any]) -> bytes:
    """The ``zarr.json`` of a group with these attributes."""
    document = {"zarr_format": 3, "node_type": "group", "attributes": plain(attributes)}
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False).encode()


def write_group(url: Location, attributes: Mapping[str, Any]) -> None:
    """Write the group at ``url``, or replace its attributes, in one piece."""
    write_bytes(join(url, ROOT), group_document(attributes))


def read_group(url: Location) -> dict[str, Any] | None:
    """Attributes of the group at ``url``; None if there is no readable one."""
    try:
        document = json.loads(read_bytes(join(url, ROOT)))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(document, dict) or document.get("node_type") != "group":
        return None
    attributes = document.get("attributes", {})
    return attributes if isinstance(attributes, dict) else None


def read_mark(url: Location) -> dict[str, Any] | None:
    """The ``dcryo`` entry of the root's attributes; None where there is no store of ours."""
    mark = (read_group(url) or {}).get("dcryo")
    return mark if isinstance(mark, dict) and mark.get("kind") in KINDS else None


def open_root(url: Location, kind: str) -> dict[str, Any]:
    """Attributes of the store at ``url``.

    Raises
    ------
    InputError
        If there is nothing, something else, a store of another kind, or one of a newer schema.
    """
    url = normalise(url)
    wanted = KINDS[kind]
    mark = read_mark(url)
    if mark is None:
        if not exists(url):
            raise InputError(f"{url} does not exist; give the {wanted} that {MAKERS[kind]} made")
        raise InputError(f"{url} is not a {wanted}; give one that {MAKERS[kind]} made")
    if mark["kind"] != kind:
        raise InputError(f"{url} is a {KINDS[mark['kind']]}, not a {wanted}; give a {wanted}")
    schema = mark.get("schema")
    if not isinstance(schema, int) or schema > SCHEMA:
        raise InputError(
            f"{url} has schema {schema}, this dcryo reads up to {SCHEMA}; use the dcryo that wrote it"
        )
    return read_group(url) or {}


def kind_of(url: Location) -> str:
    """Kind of the store at ``url``, a key of ``KINDS``; InputError if there is none."""
    mark = read_mark(url)
    if mark is None:
        state = "is neither a particle store nor a run" if exists(url) else "does not exist"
        raise InputError(f"{normalise(url)} {state}; give a store that {' or '.join(MAKERS.values())} made")
    return str(mark["kind"])


def remove_node(url: Location) -> None:
    """Remove a group or an array of ours; nothing happens if there is none."""
    remove_tree(url, last=ROOT)


def clear(url: Location) -> None:
    """Remove the store of ours at ``url``, and nothing else in its folder; the root goes last."""
    url = normalise(url)
    attributes = read_group(url) or {}
    if read_mark(url) is None:
        raise InputError(f"{url} is not a dcryo store; it is left as it is")
    attributes["dcryo"]["complete"] = False
    write_group(url, attributes)
    for name in children(url):
        child = join(url, name)
        if name == SCRATCH or exists(join(child, ROOT)):
            remove_node(child)
    remove_file(join(url, ROOT))
    if not is_remote(url) and not children(url):
        Path(url).rmdir()


def check_free(url: Location, kind: str, *, overwrite: bool) -> dict[str, Any] | None:
    """Refuse a place that :func:`claim` would refuse, before any work is done for it; nothing is written.

    Returns
    -------
    dict or None
        The mark of the store that would be replaced.

    Raises
    ------
    InputError
        If ``url`` holds something that must not be replaced, or lies below a file.
    """
    url = normalise(url)
    mark = read_mark(url)
    if mark is not None:
        if mark["kind"] != kind:
            raise InputError(
                f"{url} holds a {KINDS[mark['kind']]}; choose another name for the {KINDS[kind]}"
            )
        if mark.get("complete") and not overwrite:
            raise InputError(f"{url} exists; choose another name, or --overwrite to replace it")
        return mark
    if is_remote(url):
        taken = bool(children(url))
    else:
        taken = os.path.lexists(url) and (not os.path.isdir(url) or bool(children(url)))
        if file := next((folder for folder in Path(url).parents if folder.is_file()), None):
            raise InputError(f"{url}: cannot be written because {file} is a file; choose another folder")
    if taken:
        raise InputError(f"{url} exists and is not a dcryo {KINDS[kind]}; choose another name")
    return None


def claim(url: Location, kind: str, attributes: Mapping[str, Any], *, overwrite: bool) -> list[str]:
    """Write the root of a new, incomplete store at ``url``; make room for it where that is allowed.

    An empty folder is taken.  An unfinished store of the same kind is replaced, a finished one with
    ``overwrite``.  Anything else is refused and left as it is.

    Returns
    -------
    list of str
        Sentences for the user about what was replaced.

    Raises
    ------
    InputError
        If ``url`` holds something that must not be replaced, or another process takes it at the same time.
    """
    url = normalise(url)
    notes: list[str] = []
    mark = check_free(url, kind, overwrite=overwrite)
    if mark is not None:
        state = "a finished" if mark.get("complete") else "an unfinished"
        notes.append(f"{url} held {state} {KINDS[kind]}, which was replaced")
        log.warning("%s", notes[-1])
        clear(url)
    mark = {"kind": kind, "schema": SCHEMA, "complete": False, "writer": uuid.uuid4().hex}
    new = not exists(url)
    try:
        ours = put_exclusive(join(url, ROOT), group_document({**attributes, "dcryo": mark}))
    except BaseException:
        if new and not is_remote(url):  # the folder that was made for a root which could not be written
            with contextlib.suppress(OSError):
                os.rmdir(url)
        raise
    if not ours:
        raise InputError(f"{url} is being written by another process; choose another name")
    return notes
