"""The connections of daemons, and the endpoints at which machines reach each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dora._paths import host_and_port
from dora.cluster.coordinator.distributed_run import DistributedRun
from dora.cluster.coordinator.placement import address_of, is_loopback
from dora.cluster.http_api import MachineView
from dora.cluster.protocol import Hello, ToDaemon
from dora.wire.clock import ClockOffset


class DaemonConnection:
    """The connection of a daemon; ``send`` never waits.

    ``seen`` is the address of the machine as the coordinator sees it, ``server`` the address at which the
    machine reached the coordinator.
    """

    def __init__(self, hello: Hello, send: Callable[[ToDaemon], None], seen: str, server: str) -> None:
        self.machine = hello.machine
        self.daemon_id = hello.daemon_id
        self.labels = hello.labels
        self.address = hello.address or seen
        self.tls = hello.tls  # "" without
        self.clock: ClockOffset | None = None
        self.link_port: int | None = None  # as in `MachineView`
        self.send = send
        self.seen = seen
        self.server = server

    @property
    def is_local(self) -> bool:
        """Whether it runs on the machine of the coordinator."""
        return is_loopback(self.seen) or self.seen == self.server

    def view(self, away_since: float | None) -> MachineView:
        """Return the machine as commands see it; ``away_since`` as there."""
        return MachineView(
            id=self.machine,
            labels=self.labels,
            address=self.address,
            daemon_id=self.daemon_id,
            away_since=away_since,
            tls=bool(self.tls),
            clock=self.clock,
            link_port=self.link_port,
        )


def endpoints_for(
    run: DistributedRun, target: str, connections: Mapping[str, DaemonConnection]
) -> dict[str, str]:
    """Return the endpoints of the other machines, as the machine ``target`` reaches them.

    ``connections`` are the last ones of all machines.
    """
    endpoints = {}
    target_connection = connections.get(target)
    for other, report in run.reports.items():
        connection = connections.get(other)
        if other == target or report.port is None:
            continue
        if connection is not None and target_connection is not None:
            address = address_of(connection.address, target_connection.seen, target_connection.server)
            endpoints[other] = host_and_port(address, report.port) if report.port else ""
    return endpoints
