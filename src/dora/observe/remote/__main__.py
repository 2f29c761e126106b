"""Observe a dataflow of this machine for a client on another one: ``python -m dora.observe.remote``.

The daemon of the machine writes the `StartMessage` to standard input; the process ends with that daemon. It
is a process of its own because queries take time and read memory that others write: neither the daemon nor
the dataflow waits for it, or fails with it.
"""

from __future__ import annotations

import os
import sys

from dora.daemon.client import DaemonClient
from dora.errors import ConnectError, DoraError
from dora.observe.remote.protocol import QueryEnded, StartMessage
from dora.observe.remote.server import ObserverServer, run_query
from dora.wire.decoders import from_json


def main() -> None:
    """Serve the client that standard input names."""
    line = sys.stdin.buffer.readline()
    if not line:
        return
    os.nice(5)  # the dataflow goes first
    start = from_json(line, StartMessage)
    with ObserverServer(start) as session:
        try:
            run = DaemonClient(start.socket)
        except ConnectError:
            session.finish(QueryEnded("the dataflow is not running yet, or has just ended"))
            return
        try:
            with run:
                run.set_patience(None)  # on a busy machine the dataflow may answer late
                if (query := session.query()) is not None:
                    session.finish(run_query(session, run, query))
        except ConnectError:
            session.finish(QueryEnded(ended=True))
        except DoraError as error:
            session.finish(QueryEnded(str(error)))


if __name__ == "__main__":
    main()
