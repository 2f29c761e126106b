"""Topics of a `ros2` block: from a subscription to outputs, and from inputs to a publisher."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import pyarrow as pa

from dora.dataflow.ros2 import Ros2BlockTopic
from dora.errors import TransportError, UnsupportedData
from dora.node.events import Input
from dora.node.node import Node
from dora.ros2.api.clock import CLOCK_TYPE, stamp_of
from dora.ros2.api.context import Ros2Node
from dora.ros2.api.topics import Ros2Publisher, Ros2Subscription
from dora.ros2.message_queue import Delivery
from dora.ros2.names import ROS2_TOPIC, ROS2_TYPE
from dora.ros2.types.errors import MalformedMessage, ValueMismatch
from dora.ros2.types.images import COMPRESSED_IMAGE, IMAGE, image_message, image_of
from dora.wire.metadata import as_datetime, as_nanoseconds

_MAX_STAMP_NS: Final = (1 << 31) * 1_000_000_000 - 1  # of builtin_interfaces/msg/Time
_CHECK_PERIOD: Final = 1.0  # seconds between two looks at the counters; a loss is told so much later


class SubscribedTopic:
    """Gives the messages of a subscription to outputs. A source of external events of the node."""

    def __init__(
        self,
        node: Node,
        ros_node: Ros2Node,
        topic: Ros2BlockTopic,
        subscription: Ros2Subscription,
        type_name: str,
    ) -> None:
        self._node = node
        self._ros_node = ros_node
        self._topic = topic
        self._subscription = subscription
        self._metadata: dict[str, Any] = {ROS2_TYPE: type_name, ROS2_TOPIC: subscription.topic}
        self._malformed = ros_node.dropped(f"topic {topic.topic}")
        self._is_image = topic.format == "image"
        self._wake: Callable[[], None] | None = None
        # A thread of the engine and the thread of the node deliver. One at a time, so the order stays.
        self._delivering = threading.Lock()
        self._promised = 0  # deliveries that `next` has returned, and that are not done
        self._failure: Exception | None = None
        self._lost = self._reported = 0
        self._look_at = time.monotonic() + _CHECK_PERIOD

    def next(self, timeout: float | None = None) -> Delivery | None:  # noqa: ARG002
        """Return what delivers the oldest message that nothing delivers yet, or None. It does not wait."""
        if self._promised >= self._subscription.pending and self._failure is None:
            return None
        self._promised += 1
        return self._deliver_next

    def set_on_message(self, callback: Callable[[], None] | None) -> None:
        self._wake = callback
        self._subscription.set_on_message(callback)
        self._subscription.set_consumer(self._consume if callback else None)

    def _consume(self, message: bytes) -> bool:
        """Deliver a message, and return whether it was done: to wake another thread takes longer.

        The thread that receives the node's events does it instead while it delivers already, or where an
        output may wait for a receiver: an engine that waits receives nothing.
        """
        if not self._delivering.acquire(blocking=False):
            return False
        try:
            for output in self._topic.ports:
                if self._node.may_wait(output):
                    return False
            subscription = self._subscription
            self._deliver(
                subscription.read(message) if self._is_image else subscription.read_encoded(message)
            )
        except Exception as error:  # noqa: BLE001  # raised in the thread of the node, if that goes on
            self._failure = error
            if self._wake is not None:
                self._wake()
        finally:
            self._delivering.release()
        return True

    def _deliver_next(self) -> None:
        self._promised -= 1
        with self._delivering:
            if self._failure is not None:
                raise self._failure
            # The lock keeps the order: to take and to send are one step. Only an image is looked into.
            subscription = self._subscription
            self._deliver(subscription.next(0) if self._is_image else subscription.take_encoded(0))

    def _deliver(self, message: Any) -> None:
        """Send what was read of a message: an array for an image, else an encoded one; None: nothing."""
        if message is None:
            return
        value, metadata = message, self._metadata
        if self._is_image:
            try:
                value, found = image_of(message)
            except MalformedMessage as error:
                self._malformed.add(str(error))
                return
            header = message.field("header")[0].as_py()
            stamp = header["stamp"]["sec"] * 1_000_000_000 + header["stamp"]["nanosec"]
            metadata = {**self._metadata, **found, "stamp": stamp}
            if header["frame_id"]:
                metadata["frame_id"] = header["frame_id"]
        if self._ros_node.is_simulated:
            metadata = {**metadata, "timestamp": as_datetime(self._ros_node.time_ns())}
        for output in self._topic.ports:
            self._node.send_output(output, value, metadata, follows=())

    def due(self) -> float:
        """Return when `on_due` looks for losses (monotonic seconds).

        Nobody tells of them: a message that is lost or cannot be read wakes nothing.
        """
        return self._look_at

    def on_due(self) -> None:
        """Warn of messages that were lost since the last look. It is called at the end, too."""
        self._look_at = time.monotonic() + _CHECK_PERIOD
        counters = self._subscription.counters
        unread = counters.malformed  # of which the subscription has told `on_loss`
        lost = counters.dropped + counters.lost
        if lost > self._lost:
            self._ros_node.on_loss(lost - self._lost)
        if lost + unread > self._reported:
            self._ros_node.logger.warning(
                f"topic {self._topic.topic}, until now: {counters.dropped} messages did not fit into the "
                f"queue, {counters.lost} were lost on the way, {counters.malformed} could not be read"
            )
        self._lost, self._reported = lost, lost + unread


class PublishedTopic:
    """Publishes the messages of inputs.

    A message that does not fit the type is counted, reported once a second, and left out: the next one may
    be better, and a robot should not lose its connection for it.
    """

    def __init__(
        self, ros_node: Ros2Node, topic: Ros2BlockTopic, publisher: Ros2Publisher, type_name: str
    ) -> None:
        self._ros_node = ros_node
        self._publisher = publisher
        self._type = type_name
        self._is_image = type_name in (IMAGE, COMPRESSED_IMAGE)
        self._dropped = {port: ros_node.dropped(f"input `{port}`") for port in topic.ports}

    def handle(self, event: Input) -> None:
        try:
            self._publisher.publish(self._value(event))
        except (UnsupportedData, TransportError) as error:
            self._dropped[event["id"]].add(str(error))

    def _value(self, event: Input) -> Any:
        value = event["value"]
        if self._type == CLOCK_TYPE:
            is_clock = pa.types.is_struct(value.type) and value.type.get_field_index("clock") >= 0
            return value if is_clock else {"clock": stamp_of(self._time_of(event))}
        if not self._is_image or pa.types.is_struct(value.type):
            return value
        stamp = stamp_of(self._time_of(event))
        metadata = event["metadata"]
        header = {"stamp": stamp, "frame_id": str(metadata.get("frame_id", ""))}
        found, message = image_message(value, metadata, header)
        if found != self._type:
            raise ValueMismatch(self._type, "", f"an image for {self._type}", f"an image for {found}")
        return message

    def _time_of(self, event: Input) -> int:
        """Return the time of a message in nanoseconds: the one that its sender gave it, if it did.

        That is `stamp`, as an image from ROS has it, or `timestamp`. Else it is when the message was sent,
        or now in simulated time.
        """
        stamp = event["metadata"].get("stamp")
        if isinstance(stamp, int) and 0 <= stamp <= _MAX_STAMP_NS:
            return stamp
        timestamp: datetime = event["metadata"]["timestamp"]
        if self._ros_node.is_simulated and timestamp == event.send_time:
            return self._ros_node.time_ns()
        return as_nanoseconds(timestamp)
