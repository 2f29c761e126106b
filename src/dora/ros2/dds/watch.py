"""The ROS graph over DDS: endpoints that Cyclone discovers, joined with the nodes that own them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from cyclonedds.builtin import (
    BuiltinDataReader,
    BuiltinTopicDcpsParticipant,
    BuiltinTopicDcpsPublication,
    BuiltinTopicDcpsSubscription,
)
from cyclonedds.core import InstanceState, Policy
from cyclonedds.core import Qos as DdsQos
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader

from dora.ros2.dds.calls import raw_topic, reading_policies, take, write
from dora.ros2.dds.entities import (
    TOPIC,
    TYPE,
    NodeEntities,
    ParticipantEntities,
    read_entities,
    type_hash_of,
    write_entities,
)
from dora.ros2.dds.receiver import DdsReceiver
from dora.ros2.dds.topics import gid_of
from dora.ros2.graph import UNKNOWN_NODE, Endpoint, Kind, NodeName, RosGraph
from dora.ros2.names import ros_service, ros_topic, ros_type
from dora.ros2.qos import INFINITE_NS, Durability, History, Liveliness, Qos, Reliability

_AT_ONCE: Final = 64  # samples of one call; the loop takes the others
# Transient local as with the RMWs: a participant that comes later gets the nodes of the others.
_DISCOVERY: Final = (
    Policy.Reliability.Reliable(100_000_000),
    Policy.Durability.TransientLocal,
    Policy.DataRepresentation(use_cdrv0_representation=True, use_xcdrv2_representation=False),
)


class GraphWatch:
    """Keeps a `RosGraph` up to date, and publishes our nodes."""

    def __init__(self, participant: Any, receiver: DdsReceiver, graph: RosGraph) -> None:
        self._graph = graph
        self._receiver = receiver
        self._lock = threading.RLock()  # the thread of the receiver, and those that make nodes
        self._gid = gid_of(participant)
        self._own: dict[NodeName, tuple[set[bytes], set[bytes]]] = {}  # our nodes: their readers, writers
        self._participants: dict[bytes, ParticipantEntities] = {}
        self._endpoints: dict[bytes, Endpoint] = {}  # without their nodes
        topic = raw_topic(participant, TOPIC, TYPE)
        keep = Policy.History.KeepLast(1)
        service = Policy.DurabilityService(0, keep, -1, -1, -1)
        self._writer: Any = DataWriter(participant, topic, qos=DdsQos(*_DISCOVERY, keep, service))
        self._reader: Any = DataReader(participant, topic, qos=DdsQos(*_DISCOVERY, Policy.History.KeepAll))
        receiver.add(self._reader, self._on_entities)
        for builtin, on_sample in (
            (BuiltinTopicDcpsParticipant, self._on_participant),
            (BuiltinTopicDcpsPublication, partial(self._on_endpoint, Kind.PUBLISHER)),
            (BuiltinTopicDcpsSubscription, partial(self._on_endpoint, Kind.SUBSCRIPTION)),
        ):
            self._watch(BuiltinDataReader(participant, builtin), on_sample)

    def _watch(self, reader: Any, on_sample: Callable[[Any], None]) -> None:

        def taken() -> list[Any]:
            with reading_policies:
                samples: list[Any] = reader.take(_AT_ONCE)
            return samples

        def on_data() -> None:
            with self._lock:
                while samples := taken():
                    for sample in samples:
                        on_sample(sample)
                self._join()

        self._receiver.add(reader, on_data)

    # ------------------------------------------------------------------ our nodes

    def announce(
        self, node: NodeName, readers: tuple[bytes, ...] = (), writers: tuple[bytes, ...] = ()
    ) -> None:
        """Publish a node of ours, or more readers and writers of it."""
        with self._lock:
            known = self._own.setdefault(node, (set(), set()))
            known[0].update(readers)
            known[1].update(writers)
            self._publish()

    def withdraw(self, node: NodeName, gid: bytes = b"") -> None:
        """Publish that a node of ours is gone, or one reader or writer of it."""
        with self._lock:
            known = self._own.get(node)
            if known is None:
                return
            if gid:
                known[0].discard(gid)
                known[1].discard(gid)
            else:
                del self._own[node]
            self._publish()

    def _publish(self) -> None:
        nodes = tuple(
            NodeEntities(node, tuple(sorted(readers)), tuple(sorted(writers)))
            for node, (readers, writers) in self._own.items()
        )
        write(self._writer, write_entities(ParticipantEntities(self._gid, nodes)))

    # ------------------------------------------------------------------ what comes in

    def _on_entities(self) -> None:
        with self._lock:
            while samples := take(self._reader):
                for data, info in samples:
                    if not info.valid_data:
                        continue
                    try:
                        entities = read_entities(data)
                    except ValueError:  # of a peer; the others stay in the graph
                        self._graph.malformed += 1
                        continue
                    self._participants[entities.gid] = entities
            self._join()

    def _on_participant(self, sample: Any) -> None:
        if sample.sample_info.instance_state != InstanceState.Alive:
            self._participants.pop(sample.key.bytes, None)

    def _on_endpoint(self, kind: Kind, sample: Any) -> None:
        gid = sample.key.bytes
        if sample.sample_info.instance_state != InstanceState.Alive:
            self._endpoints.pop(gid, None)
            return
        name = ros_topic(sample.topic_name)
        if name is None:
            service = ros_service(sample.topic_name)
            if service is None or not service[1]:  # of a service, the side of the requests is enough
                return
            name = service[0]
            kind = Kind.CLIENT if kind is Kind.PUBLISHER else Kind.SERVER
        type_hash = ""
        if Policy.Userdata in sample.qos:
            type_hash = type_hash_of(sample.qos[Policy.Userdata].data)
        self._endpoints[gid] = Endpoint(
            kind, UNKNOWN_NODE, name, ros_type(sample.type_name), type_hash, gid, read_qos(sample.qos)
        )

    def _join(self) -> None:
        """Set the graph: each endpoint with the node that its participant says it belongs to."""
        nodes: dict[object, NodeName] = {}
        owners: dict[bytes, NodeName] = {}
        for participant in self._participants.values():
            for number, item in enumerate(participant.nodes):
                nodes[(participant.gid, number)] = item.node
                for gid in (*item.readers, *item.writers):
                    owners[gid] = item.node
        endpoints: dict[object, Endpoint] = {
            gid: replace(item, node=owners.get(gid, UNKNOWN_NODE)) for gid, item in self._endpoints.items()
        }
        self._graph.replace(nodes, endpoints)


def read_qos(policies: Any) -> Qos:
    """Return the quality of an endpoint that Cyclone has discovered."""

    def find(kind: Any) -> Any:
        return policies[kind] if kind in policies else None  # noqa: SIM401  # it has no `get`

    liveliness, deadline, lifespan = map(find, (Policy.Liveliness, Policy.Deadline, Policy.Lifespan))
    reliable = isinstance(find(Policy.Reliability), Policy.Reliability.Reliable)
    volatile = find(Policy.Durability) in (None, Policy.Durability.Volatile)
    automatic = not isinstance(liveliness, Policy.Liveliness.ManualByTopic)
    return Qos(
        Reliability.RELIABLE if reliable else Reliability.BEST_EFFORT,
        Durability.VOLATILE if volatile else Durability.TRANSIENT_LOCAL,
        # The other side does not tell its history over DDS; this one is a guess.
        History.KEEP_LAST,
        deadline=None if deadline is None else _limit(deadline.deadline),
        lifespan=None if lifespan is None else _limit(lifespan.lifespan),
        liveliness=Liveliness.AUTOMATIC if automatic else Liveliness.MANUAL_BY_TOPIC,
        lease_duration=None if liveliness is None else _limit(liveliness.lease_duration),
    )


def _limit(nanoseconds: int) -> int | None:
    return None if nanoseconds >= INFINITE_NS else nanoseconds
