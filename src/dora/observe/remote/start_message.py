"""The start message from the daemon of a machine to an observer process."""

from __future__ import annotations

import msgspec


class StartMessage(msgspec.Struct, frozen=True):
    """The dataflow to observe, and where the client waits: one line of JSON on standard input."""

    url: str
    token: str
    socket: str  # of the dataflow
    machine: str
    authority: str = ""  # the file by which a coordinator with TLS is known
