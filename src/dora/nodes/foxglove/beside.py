"""``python -m dora.nodes.foxglove.beside``: shows the run of the process that starts it.

Its arguments are the socket of the run and the directory of its logs. It ends with its standard input,
which the process of the run holds.
"""

from __future__ import annotations

import select
import sys

from dora.daemon.client import DaemonClient
from dora.errors import ConnectError, DoraError
from dora.nodes.foxglove.address import default_address
from dora.nodes.foxglove.live import LiveView

_RETRY = 0.2  # seconds between two looks for a dataflow that is still being built


def main() -> int:
    """Show the run until it ends; return the exit status."""
    socket, log_directory = sys.argv[1:]
    while not _alone(_RETRY):
        try:
            view = LiveView(DaemonClient(socket), default_address(), log_directory)
        except ConnectError:
            continue
        except DoraError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        announce(view.server.address)
        try:
            view.run(_alone)
        finally:
            view.close()
        break
    return 0


def announce(address: str) -> None:
    """Print how to connect."""
    print(f"Foxglove: open a connection to {address}", file=sys.stderr, flush=True)


def _alone(seconds: float = 0.0) -> bool:
    """Wait for so many seconds, and return whether the process of the run is gone."""
    return bool(select.select([sys.stdin], (), (), seconds)[0])


if __name__ == "__main__":
    sys.exit(main())
