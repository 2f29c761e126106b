"""Who records, and what the nodes have to write down for it: the order of their events, small messages."""

from __future__ import annotations

from collections.abc import Mapping

from dora.daemon.connections import Connection
from dora.transport.tape import remove_tapes
from dora.wire.control import WriteEventLog
from dora.wire.requests import StartEventLogs


class EventLogHooks:
    """Tells nodes to write down what recorders need, and to end it with the recorder."""

    def __init__(self, members: Mapping[str, Connection]) -> None:
        self._members = members
        self._wanted: dict[int, StartEventLogs] = {}  # by the number of the connection that asked

    def begin(self, guest: int, wanted: StartEventLogs) -> None:
        """Let all nodes write, for as long as a connection lasts."""
        self.end(guest)
        self._wanted[guest] = wanted
        self._tell(wanted, end=False)

    def end(self, guest: int) -> None:
        """Note that a connection has ended, or wants no more."""
        wanted = self._wanted.pop(guest, None)
        if wanted is not None and wanted not in self._wanted.values():
            self._tell(wanted, end=True)
            remove_tapes(wanted.tapes)  # a recorder that was killed leaves them in shared memory

    def of(self, node_id: str) -> list[WriteEventLog]:
        """Return what a node has to write that starts now."""
        distinct: list[StartEventLogs] = []
        for wanted in self._wanted.values():
            if wanted not in distinct:
                distinct.append(wanted)
        return [_frame(wanted, node_id) for wanted in distinct]

    def _tell(self, wanted: StartEventLogs, *, end: bool) -> None:
        for node_id, member in self._members.items():
            member.send(_frame(wanted, node_id, end=end))


def _frame(wanted: StartEventLogs, node_id: str, *, end: bool = False) -> WriteEventLog:
    path = f"{wanted.directory}/{node_id}" if wanted.directory else ""
    return WriteEventLog(path, end, wanted.tapes)
