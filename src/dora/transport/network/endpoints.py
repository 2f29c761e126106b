"""The endpoints of a run's links, which change when a machine gets another address.

The daemon writes them to a file in the folder of the run. Each node looks at it periodically, in the thread
that checks its links: the others may be busy, or wait for credit, and read no frame of the daemon then.
"""

from __future__ import annotations

import os

import msgspec

from dora._ownership import UnsafeFile, open_own
from dora.wire.decoders import DecodeError, from_json


class LinkEndpoints(msgspec.Struct, frozen=True):
    """``address`` belongs to this machine; the others are as in `dora.wire.node_config.RemoteConfig`."""

    address: str
    listen: dict[str, str]
    reach: dict[str, str]


def write_endpoints(path: str, endpoints: LinkEndpoints) -> None:
    """Write the file, so that a reader finds the former or the new one; raises ``OSError``."""
    fresh = f"{path}.new"
    with open(open_own(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
        file.write(msgspec.json.encode(endpoints))
    os.replace(fresh, path)


class EndpointsFile:
    """The file as a node sees it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen = (0, 0)

    def poll(self) -> LinkEndpoints | None:
        """Return the endpoints if the file has changed since the last call, None otherwise."""
        try:
            status = os.stat(self._path)
            if (seen := (status.st_ino, status.st_mtime_ns)) == self._seen:
                return None
            with open(open_own(self._path, os.O_RDONLY), "rb") as file:
                found = from_json(file.read(), LinkEndpoints)
        except (OSError, UnsafeFile, DecodeError):
            return None  # the run is ending
        self._seen = seen
        return found
