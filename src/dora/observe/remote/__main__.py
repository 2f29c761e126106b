"""Look into a dataflow of this machine for somebody on another one: ``python -m dora.observe.remote``.

The daemon of the machine says on standard input for which dataflow, and where who asks is waiting; when it
ends, so does this. A process of its own, because what it does takes time and touches memory that others
write: neither the daemon nor the dataflow is held up by it, or falls with it.
"""

from __future__ import annotations

import os
import sys

from dora.daemon.client import DaemonClient
from dora.errors import ConnectError, DoraError
from dora.observe.remote.protocol import Ask, QueryEnded
from dora.observe.remote.server import ObserverServer, answer, look
from dora.observe.remote.start_message import StartMessage
from dora.wire.decoders import from_json


def serve(session: ObserverServer, run: DaemonClient) -> None:
    """Answer questions, then do the look that is wanted."""
    for message in session.wishes():
        if isinstance(message, Ask):
            answer(session, run, message)
        else:
            session.finish(look(session, run, message))
            return


def main() -> None:
    """Serve the one that standard input tells of."""
    line = sys.stdin.buffer.readline()
    if not line:
        return
    os.nice(5)  # what is looked at goes first
    order = from_json(line, StartMessage)
    with ObserverServer(order) as session:
        try:
            run = DaemonClient(order.socket)
        except ConnectError:
            session.finish(QueryEnded("the dataflow is not running yet, or has just ended"))
            return
        try:
            with run:
                run.set_patience(None)  # a node may take its time to end
                serve(session, run)
        except ConnectError:
            session.finish(QueryEnded(ended=True))
        except DoraError as error:
            session.finish(QueryEnded(str(error)))


if __name__ == "__main__":
    main()
