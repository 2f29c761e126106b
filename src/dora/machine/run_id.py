"""Where the process of a dataflow keeps its files and its socket on this machine."""

from __future__ import annotations

from dora.coordinator.protocol import DEFAULT_MACHINE, StartRun
from dora.transport.places import SOCKET_NAME, run_path


def run_id(start: StartRun) -> str:
    """Return an id for this machine's part, as other daemons may be on the same machine; "": the usual."""
    if start.share is None or start.share.machine == DEFAULT_MACHINE:
        return ""
    from hashlib import sha256

    digest = sha256(f"{start.dataflow_id} {start.share.machine}".encode()).hexdigest()
    return f"{start.dataflow_id[:-12]}{digest[:12]}"


def socket_of(start: StartRun) -> str:
    """Return the socket at which the dataflow answers."""
    return f"{run_path(run_id(start) or start.dataflow_id)}/{SOCKET_NAME}"
