"""Snapshots of running dataflows, for commands and pages: nodes with their load, links with their rates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Final, Protocol, TypeVar

import msgspec

from dora.daemon.client import DaemonClient, name_of
from dora.errors import ConnectError, DoraError
from dora.observe.latency import LatencyMeter, PathReader
from dora.observe.load import Load, LoadMeter
from dora.observe.networks import NetworkRate, network_rates
from dora.observe.rates import Counters, LinkRate, OutputRate, Reading, rates
from dora.observe.tap_session import TapSession, inspect
from dora.observe.topics import Topic, is_sent_here, topics_of
from dora.transport.board import Board
from dora.wire.daemon_protocol import Inspection, LinkView, NodeView, OpenTaps
from dora.wire.message import Message
from dora.wire.path_statistics import PathLatency

_Subject = TypeVar("_Subject")
EXACT: Final = 0.001  # seconds between two polls of taps; how exact latencies are


class NodeSnapshot(msgspec.Struct, frozen=True):
    """One node between two refreshes."""

    dataflow_id: str
    dataflow: str  # its name
    node: NodeView
    load: Load | None  # None: no process
    sent_hz: float  # over all outputs
    bytes_per_second: float  # likewise
    waiting: int  # messages in the queues of all its inputs
    dropped: int  # likewise, since the start
    quiet_s: float | None  # since a message went in or out; None: not since the first snapshot
    paths: list[PathLatency] = []  # to its inputs


class Snapshot(msgspec.Struct, frozen=True, tag=True):
    """All nodes and links since the snapshot before; ``machine`` is the one that counted."""

    machine: str  # "": the dataflow is on one machine
    nodes: list[NodeSnapshot]
    links: list[LinkRate]
    networks: list[NetworkRate] = []  # from this machine, or of a merged snapshot: from all
    trouble: str = ""  # why there are no latencies or previews that were asked for


def merge(own: Snapshot, remote: Mapping[str, Snapshot], machine_of: Callable[[str], str]) -> Snapshot:
    """Replace nodes, and the links to them, by the snapshots of their own machines, if there are any.

    ``remote`` is by machine. ``machine_of`` returns the machine of a node.
    """
    nodes, links = own.nodes, own.links
    nodes_of = {machine: {item.node.id: item for item in part.nodes} for machine, part in remote.items()}
    links_of = {machine: {_ends(item): item for item in part.links} for machine, part in remote.items()}
    machines = {item.node.id: machine_of(item.node.id) for item in nodes}

    def on_its_machine(item: NodeSnapshot) -> NodeSnapshot:
        machine = machines[item.node.id]
        own = nodes_of.get(machine, {}).get(item.node.id, item)
        return msgspec.structs.replace(own, node=msgspec.structs.replace(own.node, machine=machine))

    networks = {
        (item.source, item.target): item for part in (own, *remote.values()) for item in part.networks
    }
    return Snapshot(
        own.machine,
        [on_its_machine(item) for item in nodes],
        [
            links_of.get(machines.get(item.link.consumer.partition("/")[0], ""), {}).get(_ends(item), item)
            for item in links
        ],
        [networks[ends] for ends in sorted(networks)],
    )


def _ends(rate: LinkRate) -> tuple[str, str]:
    return rate.link.producer, rate.link.consumer


class RunSource:
    """One dataflow of this machine. `refresh` returns nodes and links since the last time.

    Nodes and links that are added meanwhile are there from then on.
    """

    def __init__(
        self, run: DaemonClient, *, latency: bool = False, release: Callable[[], None] = lambda: None
    ) -> None:
        """Map the board; raises `ConnectError` if the dataflow has just ended, `DoraError`. Owns ``run``.

        ``latency`` measures on all links, for which it taps all outputs. ``release`` is called before taps
        are closed: messages that are held must not outlive them.
        """
        self.run = run
        self._release = release
        with ExitStack() as failed:
            failed.callback(run.close)
            self._begin(failed, latency)
            failed.pop_all()

    def _begin(self, failed: ExitStack, latency: bool) -> None:
        """Map the board and tap; what ``failed`` gets is closed if that fails."""
        run = self.run
        self.name = name_of(run.description)
        self.shape_changes = 0  # how often nodes, outputs or links have come or gone
        self.inspection = inspect(run)
        try:
            self._board = Board.open(self.inspection.board)
        except OSError:
            raise ConnectError("the dataflow has just ended") from None
        failed.callback(self._board.close)
        self._counters = Counters(self.inspection, self._board.words)
        self._last = self._seen = self._counters.read()
        self._paths = PathReader(self.inspection.board, self._board.words)
        self._active_ns: dict[str, int] = {}  # node → when something went in or out
        self._taps: TapSession | None = None
        self._latencies: dict[str, list[LatencyMeter]] = {}  # by topic
        self._touched = _nodes_of_slots(self.inspection.nodes, self.inspection.links)
        self._wants_tap: Callable[[Topic], bool] = lambda _: latency
        self._wants_latency = latency
        self._tap()

    def tap(self, wanted: Callable[[Topic], bool], *, latency: bool) -> None:
        """Tap the wanted topics of this machine and no others; raises `DoraError`.

        ``latency`` measures on their links. Topics that come later are tapped as well.
        """
        self._wants_tap, self._wants_latency = wanted, latency
        self._untap()
        self._tap()

    def tap_possible(self, wanted: Callable[[Topic], bool], *, latency: bool) -> str:
        """Tap as `tap` does, without the topics that have no room for one more tap.

        Return why the first of these has none, "" if all are tapped; raises `DoraError`.
        """
        self._untap()
        reason, names, slots = "", set(), list[int]()
        for topic in filter(wanted, self.topics_here()):
            try:
                self.run.ask(OpenTaps([*slots, topic.output.slot]))
            except ConnectError:
                raise
            except DoraError as error:
                reason = reason or str(error)
            else:
                names.add(topic.name)
                slots.append(topic.output.slot)
        self.tap(lambda topic: topic.name in names, latency=latency)
        return reason

    def topics_here(self) -> list[Topic]:
        """Return the topics of this machine that can be tapped."""
        return [
            topic
            for topic in topics_of(self.inspection)
            if not topic.output.text and is_sent_here(self.inspection, topic.node_id)
        ]

    def _tap(self) -> None:
        topics = [topic for topic in self.topics_here() if self._wants_tap(topic)]
        if not topics:
            return
        self._taps = TapSession(self.run, self.inspection, topics)
        if self._wants_latency:
            self._latencies = {
                topic.name: [
                    LatencyMeter(link, self._board.words) for link in topic.links if link.kind == "link"
                ]
                for topic in topics
            }

    def _untap(self) -> None:
        if self._taps is not None:
            self._release()
            self._taps.close()
        self._taps = None
        self._latencies = {}

    @property
    def tapped_topics(self) -> list[Topic]:
        """The topics that are tapped."""
        return [] if self._taps is None else [tap.topic for tap in self._taps.taps]

    @property
    def measures_latency(self) -> bool:
        """Whether the latency of any link is measured."""
        return any(self._latencies.values())

    def poll(
        self,
        until: Callable[[], bool],
        period: float = EXACT,
        take: Callable[[str, Message], None] = lambda _topic, _message: None,
    ) -> None:
        """Take messages from the taps until ``until`` returns True; raises `ConnectError` at the end."""
        assert self._taps is not None
        latencies = [latency for some in self._latencies.values() for latency in some]
        for tap, message in self._taps.messages(until, period):
            if message is not None:
                topic = tap.topic.name
                for latency in self._latencies.get(topic, ()):
                    latency.add_sent(message.sequence, message.time_ns)
                take(topic, message)
            del message
            for latency in latencies:
                latency.poll()
        if self._taps.ended:
            raise ConnectError("the dataflow has ended")

    def watch(self, seconds: float) -> None:
        """Wait, and measure latencies meanwhile if they are wanted."""
        if self._taps is None:
            time.sleep(seconds)
            return
        deadline = time.monotonic() + seconds
        try:
            self.poll(lambda: time.monotonic() >= deadline)
        except ConnectError:
            pass  # `ask` raises it

    def detect_activity(self) -> None:
        """Check which nodes are active; cheap, for moments between refreshes."""
        self._detect_activity(self._counters.read())

    def _detect_activity(self, now: Reading) -> None:
        for slot, sent in now.outputs.items():
            if sent != self._seen.outputs[slot]:
                self._active_ns[self._touched[slot]] = now.time_ns
        for slot, link in now.links.items():
            before = self._seen.links[slot]
            if (link.received, link.dropped, link.counts) != (
                before.received,
                before.dropped,
                before.counts,
            ):
                self._active_ns[self._touched[slot]] = now.time_ns
        self._seen = now

    def pids(self) -> list[int]:
        """Return the processes of the nodes at the last refresh."""
        return [node.pid for node in self.inspection.nodes if node.pid is not None]

    def ask(self) -> None:
        """Ask the daemon how the nodes are; raises `ConnectError` once the dataflow has ended."""
        before, self.inspection = self.inspection, inspect(self.run)
        if _shape(before) != _shape(self.inspection):
            self._follow_shape()

    def _follow_shape(self) -> None:
        """Observe the dataflow in its new shape."""
        self.shape_changes += 1
        self._untap()
        self._counters = Counters(self.inspection, self._board.words)
        now = self._counters.read()
        self._last, self._seen = self._last.with_slots_of(now), self._seen.with_slots_of(now)
        self._touched = _nodes_of_slots(self.inspection.nodes, self.inspection.links)
        self._tap()

    def refresh(self, loads: dict[int, Load]) -> Snapshot:
        """Return nodes, links and networks since the last time. ``loads`` are by process."""
        now = self._counters.read()
        self._detect_activity(now)
        outputs, links = rates(self.inspection, self._last, now)
        seconds = max(now.time_ns - self._last.time_ns, 1) / 1e9
        machine = self.inspection.machine
        networks = network_rates(machine, self._last.networks, now.networks, seconds)
        self._last = now
        latencies = {
            latency.link.slot: latency.take()
            for some in self._latencies.values()
            for latency in some
            if latency.times_ns
        }
        links = [msgspec.structs.replace(item, latency_ms=latencies.get(item.link.slot)) for item in links]
        paths: dict[str, list[PathLatency]] = {}
        for path in self._paths.refresh(self.inspection):
            paths.setdefault(path.sink.partition("/")[0], []).append(path)
        quiet = {node.id: self._quiet(node.id) for node in self.inspection.nodes}
        nodes = node_snapshots(self.inspection, self.name, outputs, links, loads, paths, quiet)
        return Snapshot(machine, nodes, links, networks)

    def _quiet(self, node_id: str) -> float | None:
        active = self._active_ns.get(node_id)
        return None if active is None else (time.monotonic_ns() - active) / 1e9

    def close(self) -> None:
        """Close the taps, the board and the connection to the daemon."""
        self._untap()
        self._board.close()
        self.run.close()


def node_snapshots(
    inspection: Inspection,
    name: str,
    outputs: Mapping[int, OutputRate],
    links: Iterable[LinkRate],
    loads: Mapping[int, Load],
    paths: Mapping[str, list[PathLatency]] = {},
    quiet: Mapping[str, float | None] = {},
) -> list[NodeSnapshot]:
    """Return the snapshots of all nodes of a dataflow of this name.

    ``outputs`` are by slot, ``loads`` by process, ``paths`` and ``quiet`` by node.
    """
    waiting: dict[str, int] = {}
    dropped: dict[str, int] = {}
    for item in links:
        consumer = item.link.consumer.partition("/")[0]
        waiting[consumer] = waiting.get(consumer, 0) + (item.waiting or 0)
        dropped[consumer] = dropped.get(consumer, 0) + item.dropped
    return [
        NodeSnapshot(
            inspection.dataflow_id,
            name,
            node,
            loads.get(node.pid) if node.pid is not None else None,
            sum(outputs[output.slot].hz for output in node.outputs),
            sum(outputs[output.slot].bytes_per_second for output in node.outputs),
            waiting.get(node.id, 0),
            dropped.get(node.id, 0),
            quiet.get(node.id),
            paths.get(node.id, []),
        )
        for node in inspection.nodes
    ]


def _shape(inspection: Inspection) -> tuple[object, ...]:
    """Return a value that changes when nodes, outputs, links or networks are added or removed."""
    outputs = [(node.id, [output.slot for output in node.outputs]) for node in inspection.nodes]
    return outputs, inspection.links, inspection.networks


def _nodes_of_slots(nodes: list[NodeView], links: list[LinkView]) -> dict[int, str]:
    touched = {output.slot: node.id for node in nodes for output in node.outputs}
    touched.update({link.slot: link.consumer.partition("/")[0] for link in links})
    return touched


class SnapshotSource(Protocol):
    """A dataflow of which `SnapshotSources` takes snapshots; see `RunSource`."""

    name: str
    inspection: Inspection

    def watch(self, seconds: float) -> None:
        """Wait so many seconds, and measure latencies meanwhile if they are wanted."""

    def detect_activity(self) -> None:
        """Check which nodes are active; cheap, for moments between refreshes."""

    def pids(self) -> list[int]:
        """Return the processes of the nodes on this machine, as of the last `ask`."""

    def ask(self) -> None:
        """Ask how the nodes are; raises `ConnectError` once the dataflow has ended."""

    def refresh(self, loads: dict[int, Load]) -> Snapshot:
        """Return nodes, links and networks since the last refresh; ``loads``: of processes, by id."""

    def close(self) -> None: ...


class SnapshotSources:
    """Several dataflows; those that end are left out from then on."""

    def __init__(self, subjects: Iterable[_Subject], make: Callable[[_Subject], SnapshotSource]) -> None:
        """``make`` raises `ConnectError` if the dataflow has ended."""
        self._meter = LoadMeter()
        self.dataflows: list[SnapshotSource] = []
        for subject in subjects:
            try:
                self.dataflows.append(make(subject))
            except ConnectError:
                continue
        self._meter.measure(self._pids())  # the first measurement has no rates

    def watch(self, seconds: float) -> None:
        """Wait, and check which nodes are active."""
        if len(self.dataflows) == 1:
            self.dataflows[0].watch(seconds)
        else:
            time.sleep(seconds)
        for dataflow in self.dataflows:
            dataflow.detect_activity()

    def refresh(self) -> list[tuple[SnapshotSource, Snapshot]]:
        """Return a snapshot of each dataflow that still runs."""
        for dataflow in list(self.dataflows):
            try:
                dataflow.ask()
            except ConnectError:
                dataflow.close()
                self.dataflows.remove(dataflow)
        loads = self._meter.measure(self._pids())
        return [(dataflow, dataflow.refresh(loads)) for dataflow in self.dataflows]

    def _pids(self) -> list[int]:
        return [pid for dataflow in self.dataflows for pid in dataflow.pids()]

    def close(self) -> None:
        """Close all dataflows; further refreshes return nothing."""
        for dataflow in self.dataflows:
            dataflow.close()
        self.dataflows.clear()

    def __enter__(self) -> SnapshotSources:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
