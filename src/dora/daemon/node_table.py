"""The admitted nodes of one run and their connections."""

from __future__ import annotations

from collections.abc import Iterator

from dora.daemon.control_server import Connection
from dora.wire.node_protocol import ToNode


class NodeTable:
    """Node → its connection, from its admission until the connection is lost.

    `dora.daemon.node_connections` adds and removes; everything else sends, or looks a connection up.
    """

    def __init__(self) -> None:
        self._connections: dict[str, Connection] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._connections)

    def get(self, node_id: str) -> Connection | None:
        """Return the connection of a node, None if it is not connected."""
        return self._connections.get(node_id)

    def send(self, node_id: str, message: ToNode) -> bool:
        """Send a frame to a node; return False if it is not connected."""
        if (connection := self._connections.get(node_id)) is None:
            return False
        connection.send(message)
        return True

    def add(self, node_id: str, connection: Connection) -> None:
        """Give a node this connection, instead of any other."""
        self._connections[node_id] = connection

    def remove(self, node_id: str) -> bool:
        """Forget the connection of a node; return whether it had one."""
        return self._connections.pop(node_id, None) is not None
