"""Where things are kept: paths and ``s3://``, ``gs://``, ``az://`` URLs, by the same code.

Everything goes through obstore, which writes an object whole or not at all, on a disk (a temporary name, then
a rename) as on S3.  Credentials and the endpoint come from the environment alone (``AWS_ACCESS_KEY_ID``,
``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION``, ``AWS_ENDPOINT_URL`` ..., as obstore reads them), never from a URL,
so that they end up in no store, no log and no task name.
"""

from __future__ import annotations

import atexit
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, from_url

from dcryo.errors import InputError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig
    from obstore.store import ObjectStore as ByteStore
    from zarr.storage import ObjectStore

Location = str | os.PathLike[str]
"""A path, or a URL of one of the schemes in ``SCHEMES``."""

SCHEMES = ("s3", "gs", "az")

# A thread of obstore's runtime that still has to hand a result back when the interpreter is torn down aborts
# the process; all results have been waited for, so a moment is enough for the threads to let go.
atexit.register(time.sleep, 0.05)

# A server that restarts (12 s for SeaweedFS) must not end a job of hours: keep asking for a minute, at a pace
# that does not hammer it.  obstore's default gives up after two seconds.
RETRY: RetryConfig = {
    "max_retries": 60,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {
        "init_backoff": timedelta(milliseconds=200),
        "max_backoff": timedelta(seconds=2),
        "base": 2,
    },
}
# One request carries a shard (64 MB) at most: five minutes are 0.2 MB/s.
REQUEST_TIMEOUT = timedelta(minutes=5)


def is_remote(url: Location) -> bool:
    """Whether ``url`` is a URL of an object store; InputError for a scheme that is not in ``SCHEMES``."""
    text = os.fspath(url)
    scheme, separator, _ = text.partition("://")
    if not separator:
        return False
    if scheme not in SCHEMES:
        raise InputError(f"{text}: the scheme {scheme}:// is not known; use a path, s3://, gs:// or az://")
    parts = urlsplit(text)
    if "@" in parts.netloc or parts.query:
        raise InputError(
            f"{scheme}://{parts.hostname or ''}{parts.path}: a URL must not carry keys or options; "
            "set them in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL)"
        )
    if not parts.netloc:
        raise InputError(f"{text}: the bucket is missing; write {scheme}://bucket/name")
    return True


def normalise(url: Location) -> str:
    """``url`` without a trailing slash; a path becomes absolute: it means the same to every worker."""
    text = os.fspath(url)
    if is_remote(text):
        return text.rstrip("/")
    if not text:
        raise InputError("an empty path names no file and no store")
    return str(Path(text).expanduser().absolute())


def join(url: Location, *parts: str) -> str:
    """``url/part/part...``, for paths and URLs."""
    return "/".join([os.fspath(url).rstrip("/"), *(part.strip("/") for part in parts)])


def split(url: Location) -> tuple[str, str]:
    """The folder of ``url`` and its last name."""
    folder, _, name = normalise(url).rpartition("/")
    return folder or "/", name


@contextmanager
def reporting(url: Location) -> Iterator[None]:
    """Turn what a disk or a server refuses into an InputError of one sentence that names ``url``."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (BaseError, OSError) as error:
        # obstore appends a dump of its internals after the first line.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        doubtful = "the credentials and the server" if "://" in os.fspath(url) else "permissions and space"
        sentence = f"{os.fspath(url)} cannot be read or written ({reason}); check the path, {doubtful}"
        raise InputError(sentence) from error


def object_store(url: Location, *, create: bool = False) -> ByteStore:
    """The obstore store whose root is ``url``.

    Parameters
    ----------
    url
        A folder or a prefix.
    create
        Make a local folder (and its parents) that does not exist.

    Raises
    ------
    InputError
        If a local folder does not exist and is not to be made, or if the URL or its settings cannot be used.
    """
    url = normalise(url)
    if is_remote(url):
        options: ClientConfig = {"timeout": REQUEST_TIMEOUT}
        # Naming an http:// endpoint is the consent that obstore asks for with AWS_ALLOW_HTTP.
        endpoints = (os.environ.get(name, "") for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT"))
        if any(endpoint.startswith("http://") for endpoint in endpoints):
            options["allow_http"] = True
        with reporting(url):
            return from_url(url, client_options=options, retry_config=RETRY)
    if not create and not os.path.isdir(url):
        raise InputError(f"{url} is not a folder; check the path")
    with reporting(url):
        return LocalStore(prefix=url, mkdir=create)


def zarr_store(url: Location, read_only: bool = False) -> ObjectStore[ByteStore]:
    """The Zarr store at ``url``; a local folder is made unless ``read_only``."""
    from zarr.storage import ObjectStore

    return ObjectStore(object_store(url, create=not read_only), read_only=read_only)


def children(url: Location) -> list[str]:
    """Names directly under ``url``, files and folders, sorted; empty if there is no such folder."""
    url = normalise(url)
    with reporting(url):
        if not is_remote(url):
            return sorted(os.listdir(url)) if os.path.isdir(url) else []
        listing = obstore.list_with_delimiter(object_store(url))
        return sorted(
            {prefix.rstrip("/").rpartition("/")[2] for prefix in listing["common_prefixes"]}
            | {entry["path"].rpartition("/")[2] for entry in listing["objects"]}
        )


def sizes(url: Location) -> dict[str, int]:
    """Bytes of every object under ``url``, by its key relative to ``url``."""
    with reporting(url):
        listing = obstore.list(object_store(url), chunk_size=1000)
        return {entry["path"]: entry["size"] for batch in listing for entry in batch}


class Present:
    """Which objects are under ``url``: a listing of a URL; a folder is asked for each, which takes a sixth.

    A store of ten million images is 46,000 files in as many folders.
    """

    def __init__(self, url: Location) -> None:
        self._url = normalise(url)
        self._listed = sizes(url) if is_remote(url) else None

    def __contains__(self, key: object) -> bool:
        if self._listed is not None:
            return key in self._listed
        return os.path.isfile(f"{self._url}/{key}")


def exists(url: Location) -> bool:
    """Whether ``url`` is a file, an object, a folder, or a prefix of objects."""
    url = normalise(url)
    if not is_remote(url):
        return os.path.lexists(url)
    with reporting(url):
        if next(iter(obstore.list(object_store(url), chunk_size=1)), []):
            return True
        folder, name = split(url)
        if folder.endswith(":/"):  # a bare bucket
            return False
        try:
            obstore.head(object_store(folder), name)
        except FileNotFoundError:
            return False
        return True


def read_bytes(url: Location) -> bytes:
    """All bytes of one object; FileNotFoundError if there is none."""
    folder, name = split(url)
    if not is_remote(folder) and not os.path.isdir(folder):
        raise FileNotFoundError(os.fspath(url))
    with reporting(url):
        return bytes(obstore.get(object_store(folder), name).bytes())


def write_bytes(url: Location, data: bytes) -> None:
    """Write one object, replacing what is there; a reader sees all of the old or all of the new bytes."""
    folder, name = split(url)
    with reporting(url):
        obstore.put(object_store(folder, create=True), name, data)


def put_exclusive(url: Location, data: bytes) -> bool:
    """Write one object unless it exists; of several writers exactly one gets True."""
    folder, name = split(url)
    with reporting(url):
        try:
            obstore.put(object_store(folder, create=True), name, data, mode="create")
        except AlreadyExistsError:
            return False
        return True


def sync(url: Location) -> None:
    """Make a file and its name outlive a power loss; an object store has done so when its write returns."""
    if is_remote(url):
        return
    with reporting(url):
        for path in (normalise(url), split(url)[0]):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def remove_file(url: Location) -> None:
    """Remove one object; nothing happens if there is none."""
    folder, name = split(url)
    if not is_remote(folder) and not os.path.isdir(folder):
        return
    with reporting(url):
        try:
            obstore.delete(object_store(folder), name)
        except FileNotFoundError:
            return


def remove_tree(url: Location, last: str | None = None) -> None:
    """Remove everything under ``url``; ``last`` (a name directly under it) goes when all else is gone.

    The caller makes sure that the tree is ours.  With ``last`` naming the file that says so, a removal that
    is cut short leaves a tree that is still known to be ours, and the next call finishes it.
    """
    url = normalise(url)
    if is_remote(url):
        with reporting(url):
            store = object_store(url)
            keys = [key for key in sizes(url) if key != last]
            for first in range(0, len(keys), 1000):
                obstore.delete(store, keys[first : first + 1000])
            if last is not None:
                remove_file(join(url, last))
        return
    if not os.path.isdir(url):
        return
    with reporting(url):
        for name in sorted(os.listdir(url), key=lambda name: name == last):
            path = Path(url, name)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        os.rmdir(url)
