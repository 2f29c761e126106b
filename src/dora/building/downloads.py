"""Nodes whose ``path`` is a URL: the file is downloaded below the dataflow's folder."""

from __future__ import annotations

import hashlib
import os

from dora.building.process import Log
from dora.dataflow.model import Dataflow, NodeSpec
from dora.errors import BuildError

TIMEOUT = 60.0  # seconds without any byte
_CHUNK = 1 << 20
MAX_SIZE = 1 << 30  # bytes


def ensure_download(dataflow: Dataflow, node: NodeSpec, log: Log, *, update: bool, offline: bool) -> None:
    """Download the file of a node unless it is there; raises `BuildError`.

    With a checksum, a file that does not have it is never left in place. Without one, ``update``
    downloads again what is there already, unless ``offline``.
    """
    source = node.download
    assert source is not None and node.path is not None
    path = os.path.join(dataflow.working_dir, node.path)
    what = f"{node.place or '<dataflow>'}: {source.url}, which node `{node.id}` runs,"
    if os.path.exists(path):
        if source.sha256 is not None and _digest(path) == source.sha256:
            return
        if source.sha256 is None and (offline or not update):
            return
    if offline:
        raise BuildError(f"{what} is not downloaded yet, and --offline forbids to fetch it")
    log.say(f"downloading {source.url}")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    unfinished = f"{path}.{os.getpid()}"
    try:
        _fetch(source.url, unfinished, what)
        found = _digest(unfinished)
        if source.sha256 is not None and found != source.sha256:
            raise BuildError(f"{what} is not what it should be: its SHA-256 is {found}")
        os.chmod(unfinished, 0o755)
        os.replace(unfinished, path)
    finally:
        if os.path.exists(unfinished):
            os.unlink(unfinished)


def _fetch(url: str, path: str, what: str) -> None:
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=TIMEOUT) as response, open(path, "wb") as file:
            size = 0
            while chunk := response.read(_CHUNK):
                size += len(chunk)
                if size > MAX_SIZE:
                    raise BuildError(f"{what} is larger than {MAX_SIZE >> 20} MiB")
                file.write(chunk)
    except HTTPError as error:
        raise BuildError(
            f"{what} cannot be downloaded: the server says {error.code} {error.reason}"
        ) from None
    except URLError as error:
        reason = getattr(error.reason, "strerror", None) or error.reason
        raise BuildError(f"{what} cannot be downloaded: {reason}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise BuildError(f"{what} cannot be downloaded: {error}") from None


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
