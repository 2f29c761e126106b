"""Publishers and subscriptions over DDS."""

from __future__ import annotations

from typing import Any, Final

from cyclonedds.core import DDSException, Policy
from cyclonedds.core import Qos as DdsQos
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader

from dora.errors import TransportError
from dora.ros2.dds.calls import take, write
from dora.ros2.dds.entities import user_data
from dora.ros2.dds.receiver import DdsReceiver
from dora.ros2.engine import HEADER_SIZE, Buffer, EndpointSpec, RosPublisher, RosSubscription
from dora.ros2.message_queue import MessageCounters
from dora.ros2.qos import INFINITE_NS, Durability, History, Liveliness, Qos, Reliability

_NO_LIMIT: Final = -1


def to_dds(qos: Qos, type_hash: str) -> list[Any]:
    """Return the policies of DDS that the sides of a topic have in common."""
    reliable = qos.reliability is Reliability.RELIABLE
    lease = INFINITE_NS if qos.lease_duration is None else qos.lease_duration
    automatic = qos.liveliness is Liveliness.AUTOMATIC
    policies = [
        Policy.Reliability.Reliable(qos.max_blocking_time) if reliable else Policy.Reliability.BestEffort,
        Policy.Durability.TransientLocal
        if qos.durability is Durability.TRANSIENT_LOCAL
        else Policy.Durability.Volatile,
        Policy.Deadline(INFINITE_NS if qos.deadline is None else qos.deadline),
        Policy.Liveliness.Automatic(lease) if automatic else Policy.Liveliness.ManualByTopic(lease),
        Policy.DataRepresentation(use_cdrv0_representation=True, use_xcdrv2_representation=False),
    ]
    data = user_data(type_hash)
    return [*policies, Policy.Userdata(data)] if data else policies


def writer_qos(qos: Qos, type_hash: str) -> DdsQos:
    """Return the quality of a writer."""
    history = _history(qos)
    more = [
        history,
        Policy.Lifespan(INFINITE_NS if qos.lifespan is None else qos.lifespan),
        # Without it, Cyclone gives one message to who comes later, whatever the history says.
        Policy.DurabilityService(0, history, _NO_LIMIT, _NO_LIMIT, _NO_LIMIT),
    ]
    return DdsQos(*to_dds(qos, type_hash), *more)


def reader_qos(qos: Qos, type_hash: str) -> DdsQos:
    """Return the quality of a reader.

    Cyclone keeps everything until our thread takes it; the queue of the subscription has the depth. So
    every message that a slow program misses is counted.
    """
    return DdsQos(*to_dds(qos, type_hash), Policy.History.KeepAll)


def _history(qos: Qos) -> Any:
    return Policy.History.KeepAll if qos.history is History.KEEP_ALL else Policy.History.KeepLast(qos.depth)


def gid_of(entity: Any) -> bytes:
    """Return the 16 bytes that identify an entity of DDS everywhere."""
    return bytes(entity.get_guid().bytes)


class DdsPublisher(RosPublisher):
    """See `dora.ros2.engine.RosPublisher`."""

    def __init__(self, spec: EndpointSpec, participant: Any, dds_topic: Any) -> None:
        super().__init__(spec)
        self._writer: Any = DataWriter(participant, dds_topic, qos=writer_qos(spec.qos, spec.type.hash))
        self._gid = gid_of(self._writer)

    def has_subscription(self) -> bool:
        with self._lock:
            writer = self._writer
            return writer is not None and writer.get_publication_matched_status().current_count > 0

    def publish(self, data: Buffer) -> None:
        with self._lock:  # `close` waits for a message that is being sent
            if self.closed:
                raise self._refusal()
            try:
                write(self._writer, data if isinstance(data, bytes) else bytes(data))
            except DDSException as error:
                raise TransportError(f"{self.topic} cannot be published over DDS: {error}") from error

    def _end(self) -> None:
        self._writer = None  # which deletes it in DDS


class DdsSubscription(RosSubscription):
    """See `dora.ros2.engine.RosSubscription`."""

    def __init__(self, spec: EndpointSpec, participant: Any, receiver: DdsReceiver, dds_topic: Any) -> None:
        super().__init__(spec)
        self._reader: Any = DataReader(participant, dds_topic, qos=reader_qos(spec.qos, spec.type.hash))
        self._gid = gid_of(self._reader)
        self._receiver = receiver
        self._number = receiver.add(self._reader, self._on_data)

    @property
    def counters(self) -> MessageCounters:
        reader = self._reader
        if reader is not None:
            self._counters.lost = max(reader.get_sample_lost_status().total_count, self._counters.lost)
        return self._counters

    def _on_data(self) -> None:
        reader = self._reader
        if reader is None:  # closed
            return
        # Once: a reader that has more is ready again at once, after the others had their turn.
        for data, info in take(reader):
            if not info.valid_data:  # a writer has ended
                continue
            if len(data) < HEADER_SIZE:
                self._counters.malformed += 1
            else:
                self._queue.put(data)

    def _end(self) -> None:
        self._queue.close()
        self._counters = self.counters  # a last look: without the reader, Cyclone tells no losses
        self._receiver.remove(self._number)
        self._reader = None
