"""This machine's partition of a dataflow, and of others: their endpoints, their status.

As long as all nodes are on this machine there is nothing of others: no gateway, no report on the
status of nodes. They come with the first change that brings a node of another machine.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from dora._paths import data_folder, host_and_port
from dora.cluster.agent.worker_reports import Reports
from dora.cluster.protocol import (
    Endpoints,
    HeartbeatAnswer,
    ListensAt,
    MachineLost,
    PeerReport,
    ReleasePartition,
    StartRun,
    ToDaemon,
)
from dora.daemon.daemon import Daemon
from dora.daemon.supervisor import events as on
from dora.daemon.supervisor.status import FormerPart, Peers
from dora.dataflow.layout import Placement
from dora.dataflow.model import Dataflow, NodeSpec
from dora.errors import DoraError
from dora.wire.clock import ClockOffset, between
from dora.wire.node_config import RemoteConfig

# Seconds. `join` waits for endpoints, a fault or a stop, and not for one event.
_POLL_INTERVAL: Final = 0.02


class LocalPartition:
    """The partition in its worker. ``stopped`` returns whether the dataflow is to stop."""

    def __init__(self, start: StartRun, reports: Reports, stopped: Callable[[], bool]) -> None:
        self._start = start
        self._partition = start.partition
        self._reports = reports
        self._stopped = stopped
        # The lock keeps the threads of commands, of changes and of the start apart: so no message falls
        # between the look at `_daemon` and `set_daemon`. Reentrant, because `handle` calls `set_endpoints`.
        self._lock = threading.RLock()
        self._endpoints: dict[str, str] | None = None  # of other machines, except lost ones
        self._fault = ""  # why the start cannot go on
        self._is_prepared = False  # to have links with other machines
        self._has_others = start.is_distributed  # there are, or were, other machines
        self.machine = start.partition.machine
        self.revision = start.spec.revision  # the last change that was applied
        self.generations = start.spec.generations
        self._pending: list[Callable[[Daemon], None]] = []
        self._lost: dict[str, tuple[str, FormerPart]] = {}  # machine → its last loss, and what is known
        self._daemon: Daemon | None = None
        self._clocks: Mapping[str, ClockOffset] = {}

    def handle(self, message: ToDaemon) -> None:
        """Process a message of the coordinator. Thread-safe."""
        with self._lock:
            match message:
                case Endpoints(endpoints=endpoints):
                    self.set_endpoints(endpoints)
                case ListensAt(address=address, port=port):
                    self._set_address(address, port)
                case PeerReport(machine=machine, peer_status=peer_status):
                    self._feed(on.PeerStatusReceived(machine, peer_status))
                case HeartbeatAnswer(clocks=clocks):
                    self._clocks = clocks
                    self._set_clocks()
                case MachineLost():
                    self._lose_machine(message)
                case ReleasePartition():
                    self._fault = self._fault or "it has no nodes any more"
                    self._feed(on.Released())

    def set_endpoints(self, endpoints: dict[str, str]) -> None:
        """Reach other machines at these endpoints.

        A machine that is missing keeps its former endpoint: a coordinator that was restarted may not know
        it yet.
        """
        with self._lock:
            endpoints = {**(self._endpoints or {}), **endpoints}
            if endpoints != self._endpoints:
                self._endpoints = endpoints
                self._publish_endpoints()

    def _set_address(self, address: str, port: int) -> None:
        """Have other machines reach this one at an address and a port."""
        self._partition = msgspec.structs.replace(self._partition, interface=address, port=port)
        if self._is_prepared:
            # Without the check of `_prepare`: the gateway has loaded the certificate.
            self._reports.update(port=port)
            self._publish_endpoints()

    def _publish_endpoints(self) -> None:
        """Inform the gateway, once there is a run."""
        if self._daemon is not None and self._endpoints is not None:
            remote = self.remote()
            if remote is not None:
                self._call(lambda daemon: daemon.set_remote(remote))

    def _lose_machine(self, message: MachineLost) -> None:
        """End the links with the part of a lost machine; then report what is known of it."""
        machine, loss = message.machine, message.loss
        self._fault = self._fault or f"machine `{machine}` is lost: {message.reason}"
        if self._endpoints is not None:
            self._endpoints = {name: at for name, at in self._endpoints.items() if name != machine}
            self._publish_endpoints()
        self._feed(on.OtherMachineLost(machine, message.reason, may_return=bool(loss)))

        def report(part: FormerPart) -> None:
            self._lost[machine] = loss, part  # no lock: only the daemon's thread uses it
            self._reports.update(lost=dict(self._lost.values()))

        if loss:  # last: with the endpoint gone, nothing of that part arrives any more
            self._call(lambda daemon: daemon.ask_part_of(machine, report))

    def _feed(self, event: on.Event) -> None:
        self._call(lambda daemon: daemon.feed(event))

    def _call(self, work: Callable[[Daemon], None]) -> None:
        """Do something in the daemon's thread, once there is one."""
        if (daemon := self._daemon) is None:
            self._pending.append(work)
        else:
            daemon.loop.call_threadsafe(lambda: work(daemon))

    def _set_clocks(self) -> None:
        """Note how far the clock of this machine is ahead of the others, for what comes from there."""
        daemon, here = self._daemon, self._clocks.get(self.machine)
        if daemon is not None and here is not None:
            offsets = {machine: between(clock, here) for machine, clock in self._clocks.items()}
            daemon.loop.call_threadsafe(lambda: daemon.set_clocks(offsets))

    def set_daemon(self, daemon: Daemon) -> None:
        """Set the daemon of this worker, and feed it the messages that came before."""
        with self._lock:
            self._daemon = daemon
            if self._has_others:
                self._report_status(daemon)
            self._publish_endpoints()  # they may have changed since `join`
            self._set_clocks()
            for work in self._pending:
                self._call(work)

    def _report_status(self, daemon: Daemon) -> None:
        """Report the status of the nodes here, from now on, to other machines."""
        daemon.peers = Peers(lambda peer_status: self._reports.update(peer_status=peer_status))

    def join(self) -> Placement:
        """Be prepared for links with other machines, and wait until they are, too; raises `DoraError`."""
        partition, machines = self._partition, self._start.spec.machines
        if self._has_others:
            with self._lock:
                self._prepare()
            pause = threading.Event()  # it waits without the lock, which `handle` needs
            while self._endpoints is None:
                if self._fault or self._stopped():
                    raise DoraError(self._fault or "it was stopped before its nodes were started")
                pause.wait(_POLL_INTERVAL)
        with self._lock:
            return Placement(partition.machine, machines, self.generations, self.remote())

    def meet(self, machines: Iterable[str]) -> None:
        """Be ready for a change after which these machines have nodes; raises `DoraError`.

        The first one with another machine brings reports of status: a machine that joins begins with the
        status of the others.
        """

        def begin(daemon: Daemon) -> None:
            self._report_status(daemon)
            daemon.feed(on.TimePassed())  # which reports it

        with self._lock:
            if not self._has_others and not {*machines} <= {self.machine}:
                self._prepare()
                self._has_others = True
                self._call(begin)

    def _prepare(self) -> None:
        """Report where other machines reach this one.

        Raises `DoraError` if the certificate of this machine cannot be used (any more).
        """
        if (files := self._partition.tls) is not None:
            from dora.transport.tls import check_machine_certificate

            check_machine_certificate(files, self.machine)
        self._is_prepared = True
        self._reports.update(port=self._partition.port)

    def remote(self) -> RemoteConfig | None:
        """Return the configuration of links to other machines, None without any; raises `DoraError`."""
        if not self._has_others:
            return None
        from dora.gateway.meeting import dscp_from_environment

        partition = self._partition
        return RemoteConfig(
            host_and_port(partition.interface, partition.port),
            self._endpoints or {},
            partition.secret,
            partition.tls,
            dscp_from_environment(),
        )


def with_local_folder(dataflow: Dataflow, start: StartRun) -> Dataflow:
    """Return the dataflow with a working folder that exists here; raises `DoraError`.

    If this machine does not have the folder of the dataflow file, its nodes must name other folders, and
    logs go to the data folder.
    """
    if os.path.isdir(dataflow.working_dir):
        return dataflow
    for node in dataflow.nodes:
        if start.spec.machines.get(node.id) == start.partition.machine:
            check_folder(dataflow, node, start.partition.machine)
    return msgspec.structs.replace(dataflow, working_dir=data_folder())


def check_folder(dataflow: Dataflow, node: NodeSpec, machine: str) -> None:
    """Raise `DoraError` if this machine does not have the working folder of a node."""
    if not os.path.isdir(dataflow.home_of(node)):
        raise DoraError(
            f"machine `{machine}` has no folder {dataflow.home_of(node)}, in which node `{node.id}` is "
            "to run; copy it there, or name another one as `working_dir` in its `deploy`"
        )
