"""This machine's partition of a distributed dataflow: ports, endpoints, and the status of the peers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Final

import msgspec

from dora._paths import ALL_INTERFACES, data_folder, link_endpoint
from dora.cluster.agent.worker_reports import Reports
from dora.cluster.heartbeat import HeartbeatAnswer
from dora.cluster.protocol import (
    AddressChanged,
    Endpoints,
    MachineLost,
    PeerReport,
    ReleasePartition,
    StartRun,
    ToDaemon,
)
from dora.daemon.daemon import Daemon
from dora.daemon.supervisor import events as on
from dora.daemon.supervisor.status import FormerPart, Peers
from dora.dataflow.model import Dataflow, NodeOutput, NodeSpec
from dora.dataflow.plan import Placement
from dora.errors import DoraError
from dora.transport.network.endpoints import LinkEndpoints, write_endpoints
from dora.wire.clock import ClockOffset, between
from dora.wire.node_config import RemoteConfig

_POLL_INTERVAL: Final = 0.02  # seconds


class LocalPartition:
    """The partition in its worker. ``stopped`` returns whether the dataflow is to stop."""

    def __init__(self, start: StartRun, reports: Reports, stopped: Callable[[], bool]) -> None:
        assert start.partition is not None
        self._start = start
        self._partition = start.partition
        self._reports = reports
        self._stopped = stopped
        self._lock = threading.RLock()
        self._endpoints: dict[str, str] | None = None  # of nodes of other machines
        self._run_dir = ""
        self._fault = ""  # why the start cannot go on
        self._ports: dict[str, int] = {}
        self._passwords = ""
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
                case AddressChanged(address=address):
                    self._change_address(address)
                case PeerReport(machine=machine, peer_status=peer_status):
                    self._feed(on.PeerStatusReceived(machine, peer_status))
                case HeartbeatAnswer(clocks=clocks):
                    self._clocks = clocks
                    self._set_clocks()
                case MachineLost(machine=machine, reason=reason, loss=loss):
                    self._fault = self._fault or f"machine `{machine}` is lost: {reason}"
                    self._feed(on.OtherMachineLost(machine, reason, may_return=bool(loss)))
                    if loss:
                        self._call(lambda daemon: self._report_lost(machine, loss, daemon.part_of(machine)))
                case ReleasePartition():
                    self._fault = self._fault or "it has no nodes any more"
                    self._feed(on.Released())

    def set_endpoints(self, endpoints: dict[str, str]) -> None:
        """Reach the nodes of other machines at these endpoints.

        A node that is missing keeps its former endpoint. The coordinator may not know its machine yet, and
        a sender that is started meanwhile needs some endpoint.
        """
        with self._lock:
            endpoints = {**(self._endpoints or {}), **endpoints}
            if endpoints != self._endpoints:
                self._endpoints = endpoints
                self._publish_endpoints()

    def _change_address(self, address: str) -> None:
        """Move the nodes of this machine to its present address, and to other ports."""
        self._partition = msgspec.structs.replace(self._partition, interface=address)
        try:
            self._check_certificate()
            if self._ports:
                self.choose_ports(self._ports, anew=self._ports)
        except DoraError as error:
            self._warn(f"this machine has got the address {address}: {error}")
        self._publish_endpoints()

    def _publish_endpoints(self) -> None:
        """Inform the nodes that run, and those that are started later, once there is a run."""
        if not self._run_dir or self._endpoints is None:
            return
        remote = self.remote(self._endpoints)
        found = LinkEndpoints(self._partition.interface, remote.listen, remote.reach)
        try:
            write_endpoints(remote.endpoints, found)
        except OSError as error:
            self._warn(f"the nodes cannot be told their endpoints: {error}")
        if (daemon := self._daemon) is not None:
            daemon.loop.call_threadsafe(lambda: daemon.set_remote(remote))

    def _warn(self, text: str) -> None:
        if (daemon := self._daemon) is not None:
            daemon.loop.call_threadsafe(lambda: daemon.write_log("warn", None, text))

    def _report_lost(self, machine: str, loss: str, part: FormerPart) -> None:
        self._lost[machine] = loss, part
        self._reports.update(lost=dict(self._lost.values()))

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
            daemon.peers = Peers(lambda peer_status: self._reports.update(peer_status=peer_status))
            self._daemon = daemon
            self._publish_endpoints()  # they may have changed since `join`
            self._set_clocks()
            for work in self._pending:
                self._call(work)

    def join(self, run_dir: str, dataflow: Dataflow) -> Placement:
        """Choose ports, and wait until the other machines have chosen theirs; raises `DoraError`."""
        partition, machines = self._partition, self._start.spec.machines
        self._check_certificate()
        self.write_run_files(run_dir)
        self.choose_ports(
            node.id for node in dataflow.nodes if receives_from_others(node, machines, self.machine)
        )
        pause = threading.Event()
        while self._endpoints is None:
            if self._fault or self._stopped():
                raise DoraError(self._fault or "it was stopped before its nodes were started")
            pause.wait(_POLL_INTERVAL)
        with self._lock:
            self._publish_endpoints()
            remote = self.remote(self._endpoints)
            return Placement(partition.machine, machines, self.generations, remote)

    def _check_certificate(self) -> None:
        """Raise `DoraError` if the certificate cannot be used (any more)."""
        if (files := self._partition.tls) is not None:
            from dora.transport.tls import check_machine_certificate

            interface = self._partition.interface
            check_machine_certificate(files, "" if interface in ALL_INTERFACES else interface)

    def write_run_files(self, run_dir: str) -> None:
        """Write the password that nodes of other machines show, and note the folder of the run."""
        from dora.transport.network.sessions import write_passwords

        self._run_dir = run_dir
        self._passwords = f"{run_dir}/passwords"
        write_passwords(self._passwords, self._partition.secret)

    def choose_ports(self, node_ids: Iterable[str], anew: Container[str] = ()) -> None:
        """Choose ports for nodes that have none, or need one ``anew``, and report them.

        Raises `DoraError`.
        """
        from dora.transport.network.sessions import find_free_ports

        with self._lock:
            nodes = [node_id for node_id in node_ids if node_id not in self._ports or node_id in anew]
            ports = find_free_ports(self._partition.interface, len(nodes))
            self._ports = {**self._ports, **dict(zip(nodes, ports, strict=True))}
            self._reports.update(ports=self._ports)

    def remote(self, endpoints: dict[str, str]) -> RemoteConfig:
        """Return the configuration of links to other machines, from the endpoints of their nodes.

        Raises `DoraError`.
        """
        from dora.transport.network.sessions import dscp_from_environment

        partition = self._partition
        tls = partition.tls is not None
        listen = {
            node_id: link_endpoint(partition.interface, port, tls=tls)
            for node_id, port in self._ports.items()
        }
        return RemoteConfig(
            listen,
            endpoints,
            partition.secret,
            self._passwords,
            partition.tls,
            dscp_from_environment(),
            f"{self._run_dir}/endpoints",
        )


def receives_from_others(node: NodeSpec, machines: Mapping[str, str], machine: str) -> bool:
    """Return whether a node is on a machine and receives from nodes on other machines."""
    return machines.get(node.id) == machine and any(
        isinstance(item.source, NodeOutput) and machines.get(item.source.node) != machine
        for item in node.inputs
    )


def with_local_folder(dataflow: Dataflow, start: StartRun) -> Dataflow:
    """Return the dataflow with a working folder that exists here; raises `DoraError`.

    If this machine does not have the folder of the dataflow file, its nodes must name other folders, and
    logs go to the data folder.
    """
    if start.partition is None or os.path.isdir(dataflow.working_dir):
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
