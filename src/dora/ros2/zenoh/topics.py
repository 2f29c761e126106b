"""Publishers and subscriptions over Zenoh."""

from __future__ import annotations

import time
from typing import Any, Final

import zenoh
import zenoh.ext

from dora.errors import TransportError
from dora.ros2.engine import HEADER_SIZE, Buffer, EndpointSpec, RosPublisher, RosSubscription
from dora.ros2.message_queue import SequenceGaps
from dora.ros2.qos import Durability, History, Reliability
from dora.ros2.zenoh.endpoint import Declaration, ZenohEndpoint
from dora.ros2.zenoh.keys import attachment_bytes, read_attachment

# Where the last message of a publisher is lost, a subscription learns it from this. As in rmw_zenoh.
_HEARTBEAT_PERIOD: Final = 0.5  # seconds
_CDR: Final = zenoh.Encoding.APPLICATION_CDR


class ZenohPublisher(ZenohEndpoint, RosPublisher):
    """See `dora.ros2.engine.RosPublisher`."""

    def __init__(self, spec: EndpointSpec, declaration: Declaration) -> None:
        super().__init__(spec, declaration)
        (session, key, _), qos = declaration, spec.qos
        self._sequence_number = 0
        reliable = qos.reliability is Reliability.RELIABLE
        # As in rmw_zenoh, only "keep all" waits for a slow subscription. A full link drops otherwise, so a
        # subscription that stands in a debugger does not stop the robot.
        blocks = reliable and qos.history is History.KEEP_ALL
        congestion = zenoh.CongestionControl.BLOCK if blocks else zenoh.CongestionControl.DROP
        reliability = zenoh.Reliability.RELIABLE if reliable else zenoh.Reliability.BEST_EFFORT
        self._plain: Any = session.declare_publisher(
            key, encoding=_CDR, congestion_control=congestion, reliability=reliability
        )
        self._publisher: Any = self._plain
        if qos.durability is Durability.TRANSIENT_LOCAL:
            # This kind cannot say whether a subscription is there, so the plain one stays beside it.
            self._publisher = zenoh.ext.declare_advanced_publisher(
                session,
                key,
                encoding=_CDR,
                congestion_control=congestion,
                reliability=reliability,
                cache=zenoh.ext.CacheConfig(qos.depth),
                sample_miss_detection=zenoh.ext.MissDetectionConfig(
                    heartbeat=None, sporadic_heartbeat=_HEARTBEAT_PERIOD
                )
                if reliable
                else None,
                publisher_detection=True,
            )
        self._announce()

    def has_subscription(self) -> bool:
        return not self.closed and bool(self._plain.matching_status.matching)

    def publish(self, data: Buffer) -> None:
        with self._lock:  # numbers go out in order
            if self.closed:
                raise self._refusal()
            self._sequence_number += 1
            attachment = attachment_bytes(self._sequence_number, time.time_ns(), self._gid)
            try:
                self._publisher.put(data if isinstance(data, bytes) else bytes(data), attachment=attachment)
            except zenoh.ZError as error:
                raise TransportError(f"{self.topic} cannot be published over Zenoh: {error}") from error

    def _end(self) -> None:
        self._leave(*dict.fromkeys((self._publisher, self._plain)))


class ZenohSubscription(ZenohEndpoint, RosSubscription):
    """See `dora.ros2.engine.RosSubscription`."""

    def __init__(self, spec: EndpointSpec, declaration: Declaration) -> None:
        super().__init__(spec, declaration)
        (session, key, _), qos = declaration, spec.qos
        self._gaps = SequenceGaps()
        # In the thread that reads from the network: another hop would cost 50 µs, and a slow program only
        # fills the queue. `ZenohContext.close` runs before the interpreter ends, so nothing calls later.
        handler = zenoh.handlers.Callback(self._on_sample, indirect=False)
        self._subscriber: Any
        if qos.durability is Durability.TRANSIENT_LOCAL:
            reliable = qos.reliability is Reliability.RELIABLE
            self._subscriber = zenoh.ext.declare_advanced_subscriber(
                session,
                key,
                handler,
                history=zenoh.ext.HistoryConfig(detect_late_publishers=True, max_samples=qos.queue_size),
                recovery=zenoh.ext.RecoveryConfig(periodic_queries=None, heartbeat=True)
                if reliable
                else None,
                subscriber_detection=True,
            )
        else:
            self._subscriber = session.declare_subscriber(key, handler)
        self._announce()

    def _on_sample(self, sample: zenoh.Sample) -> None:
        data = sample.payload.to_bytes()
        attachment = sample.attachment
        try:
            if attachment is None or len(data) < HEADER_SIZE:
                raise ValueError("a message of ROS has an attachment and a header")
            number, _, publisher = read_attachment(attachment.to_bytes())
        except ValueError:
            self._counters.malformed += 1
            return
        with self._lock:  # one link is one thread, but history and several peers may call at once
            self._counters.lost += self._gaps.missing(publisher, number)
        self._queue.put(data)

    def _end(self) -> None:
        self._queue.close()
        self._leave(self._subscriber)
