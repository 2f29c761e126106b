"""Who records in which order the nodes take their events."""

from __future__ import annotations

from collections.abc import Mapping

from dora.daemon.connections import Connection
from dora.wire.control import WriteOrder


class Orders:
    """Tells nodes to write the order of their events down, and to end it with the last who asked."""

    def __init__(self, members: Mapping[str, Connection]) -> None:
        self._members = members
        self._directories: dict[int, str] = {}  # by the number of the connection that asked

    def begin(self, guest: int, directory: str) -> None:
        """Let all nodes write into a directory, for as long as a connection lasts."""
        self.end(guest)
        self._directories[guest] = directory
        self._tell(directory, end=False)

    def end(self, guest: int) -> None:
        """Note that a connection has ended, or wants no more."""
        directory = self._directories.pop(guest, None)
        if directory is not None and directory not in self._directories.values():
            self._tell(directory, end=True)

    def of(self, node_id: str) -> list[str]:
        """Return the files that a node which starts now writes to."""
        return [f"{directory}/{node_id}" for directory in dict.fromkeys(self._directories.values())]

    def _tell(self, directory: str, *, end: bool) -> None:
        for node_id, member in self._members.items():
            member.send(WriteOrder(f"{directory}/{node_id}", end))
