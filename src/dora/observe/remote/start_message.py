"""What the daemon of a machine tells a process that is to look for somebody on another one."""

from __future__ import annotations

import msgspec


class StartMessage(msgspec.Struct, frozen=True):
    """At which dataflow to look, and where who asks is waiting. One line of JSON on standard input."""

    url: str
    token: str
    socket: str  # of the dataflow
    machine: str
    authority: str = ""  # the file by which a coordinator with TLS is known
