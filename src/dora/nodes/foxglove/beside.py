"""``python -m dora.nodes.foxglove.beside``: shows the run of the process that starts it.

Its arguments are the socket of the run and the directory of its logs. It ends with its standard input,
which the process of the run holds.
"""

from __future__ import annotations

import select
import sys
from typing import Any

from dora.cluster.remote_observer import ObserverConnection
from dora.daemon.client import DaemonClient, name_of
from dora.errors import ConnectError, DoraError
from dora.nodes.foxglove.address import default_address
from dora.nodes.foxglove.live import LiveView
from dora.observe.tap_session import inspect
from dora.wire.daemon_protocol import NodeRequest

_RETRY = 0.2  # seconds between two looks for a dataflow that is still being built


class LocalDataflow:
    """A `ShownDataflow`, all of whose nodes are on this machine: it has no coordinator."""

    def __init__(self, run: DaemonClient) -> None:
        self.run: DaemonClient | None = run
        self._daemon = run
        self.name = name_of(run.description)
        self.refresh()

    def refresh(self) -> None:
        self.inspection = inspect(self._daemon)

    def ask(self, request: NodeRequest) -> Any:
        return self._daemon.ask(request)

    def machine_of(self, node_id: str) -> str:  # noqa: ARG002 - there is one
        return ""

    def other_machines(self) -> list[str]:
        return []

    def connect(self, machine: str) -> ObserverConnection:
        raise DoraError(f"there is no coordinator that knows the machine `{machine}`")

    def close(self) -> None:
        self._daemon.close()


def main() -> int:
    """Show the run until it ends; return the exit status."""
    socket, log_directory = sys.argv[1:]
    while not _alone(_RETRY):
        try:
            view = LiveView(LocalDataflow(DaemonClient(socket)), default_address(), log_directory)
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
