"""Topics, publishers and subscriptions, as a program has them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from dora.ros2.types.errors import MalformedMessage, ValueMismatch

if TYPE_CHECKING:
    import pyarrow as pa

    from dora.ros2.api.reports import DroppedMessages
    from dora.ros2.engine import RosPublisher, RosSubscription
    from dora.ros2.message_queue import MessageCounters
    from dora.ros2.qos import Qos
    from dora.ros2.types.message_type import MessageType
    from dora.wire.encode import EncodedArray

T = TypeVar("T")

__all__ = ["Ros2Publisher", "Ros2Subscription", "Ros2Topic", "one_message"]


@dataclass(frozen=True, slots=True)
class Ros2Topic:
    """A topic with its type and quality of service. Made by `Ros2Node.create_topic`."""

    name: str
    type: MessageType
    qos: Qos


def one_message(value: Any, type_name: str) -> Any:
    """Return the message in a value: a list of one message counts as the message.

    Raises `ValueMismatch` for a list of another length.
    """
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview):
        if len(value) != 1:
            raise ValueMismatch(type_name, "", "one message", f"a list of {len(value)}")
        return value[0]
    return value


class Ros2Publisher:
    """Sends messages of a topic. Made by `Ros2Node.create_publisher`."""

    def __init__(self, publisher: RosPublisher, type: MessageType) -> None:
        self._publisher = publisher
        self._type = type

    def publish(self, data: pa.Array[Any] | Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """Send a message.

        ``data``: an Arrow struct array of one row, a dictionary, or a list of one. Missing fields have
        their default. Raises `ValueMismatch` for a value or a field that the type does not have, and
        `TransportError`.
        """
        self._publisher.publish(self._type.encode(one_message(data, self._type.name)))

    def has_subscription(self) -> bool:
        """Return whether a subscription gets what is published now."""
        return self._publisher.has_subscription()

    def close(self) -> None:
        """Leave the topic."""
        self._publisher.close()


class Ros2Subscription:
    """Receives messages of a topic. Made by `Ros2Node.create_subscription`.

    ``for message in subscription`` gives messages until `close`.
    """

    def __init__(self, subscription: RosSubscription, type: MessageType, dropped: DroppedMessages) -> None:
        self._subscription = subscription
        self._type = type
        self._dropped = dropped

    def next(self, timeout: float | None = None) -> pa.StructArray | None:
        """Wait for the next message, at most ``timeout`` seconds (None: without limit).

        Returns it as a struct array of one row, and None if no message has come, or after `close`. Bytes
        that are no message of the type are counted and left out.
        """
        return self._take(timeout, self._type.decode)

    def take_encoded(self, timeout: float | None = None) -> EncodedArray | None:
        """Wait as `next` does; return the message as a node of a dataflow sends it."""
        return self._take(timeout, self._type.transcode)

    def _take(self, timeout: float | None, decode: Callable[[bytes], T]) -> T | None:
        """Wait as `next` does; return what a function makes of the bytes, or raises `MalformedMessage`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        left = timeout
        while True:
            message = self._subscription.take(left)
            if message is None:
                return None
            found = self._read(message, decode)
            if found is not None:
                return found
            if deadline is not None:
                left = max(deadline - time.monotonic(), 0.0)

    def read_encoded(self, message: bytes) -> EncodedArray | None:
        """Return a message as a node of a dataflow sends it; None, and counted, if it is malformed."""
        return self._read(message, self._type.transcode)

    def read(self, message: bytes) -> pa.StructArray | None:
        """Return a message as `next` does; None, and counted, if it is malformed."""
        return self._read(message, self._type.decode)

    def _read(self, message: bytes, decode: Callable[[bytes], T]) -> T | None:
        try:
            return decode(message)
        except MalformedMessage as error:
            self._subscription.counters.malformed += 1
            self._dropped.add(str(error))
            return None

    @property
    def pending(self) -> int:
        """The number of messages that wait to be taken."""
        return self._subscription.pending

    def set_on_message(self, callback: Callable[[], None] | None) -> None:
        """Set a function that a thread of the engine calls after each arrival, and at `close`.

        It is called at once if a message is here. It may take messages. It must not block, raise, or close
        the context.
        """
        self._subscription.set_on_message(callback)

    def set_consumer(self, consume: Callable[[bytes], bool] | None) -> None:
        """Set what gets each message that comes while none waits, in a thread of the engine.

        It returns whether it has taken the message, which else waits to be taken. It must not block or
        raise.
        """
        self._subscription.set_consumer(consume)

    @property
    def topic(self) -> str:
        """The full name of the topic."""
        return self._subscription.topic

    @property
    def counters(self) -> MessageCounters:
        """The numbers of messages: received, dropped by a full queue, lost, malformed."""
        return self._subscription.counters

    def __iter__(self) -> Ros2Subscription:
        return self

    def __next__(self) -> pa.StructArray:
        message = self.next()
        if message is None:
            raise StopIteration
        return message

    def close(self) -> None:
        """Leave the topic, and wake what waits in `next`."""
        self._subscription.close()
