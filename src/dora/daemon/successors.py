"""Second processes of nodes: those with new code, before they take over (hot reload)."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass

from dora.daemon.connections import Connection
from dora.daemon.processes import Child


@dataclass
class WaitingReplacement:
    """The connection of a successor that makes ready, or has (``ready``)."""

    connection: Connection
    incarnation: int
    ready: bool = False


class Replacements:
    """At most one successor per node, and those that were dropped but have not ended yet."""

    def __init__(self) -> None:
        self._waiting: dict[str, Child] = {}
        self._dropped: list[Child] = []

    def __iter__(self) -> Iterator[Child]:
        return iter([*self._waiting.values(), *self._dropped])

    def add(self, node_id: str, child: Child) -> None:
        self._waiting[node_id] = child

    def take(self, node_id: str) -> Child:
        """Return the successor, which is the node's process from now on."""
        return self._waiting.pop(node_id)

    def drop(self, node_id: str) -> None:
        """Kill a successor; one that has ended already is fine."""
        if (child := self._waiting.pop(node_id, None)) is not None:
            self._dropped.append(child)
            child.signal(signal.SIGKILL)

    def ended(self, node_id: str, child: Child) -> bool:
        """Forget a process that ended; tells whether it was the successor, and not dropped."""
        if self._waiting.get(node_id) is child:
            del self._waiting[node_id]
            return True
        self._dropped.remove(child)
        return False
