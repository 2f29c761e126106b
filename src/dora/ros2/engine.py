"""The interface of the ROS 2 engines: Zenoh, DDS and rclpy.

An engine carries bytes: a message is CDR with its encapsulation header of 4 bytes, a type is three names.
It knows nothing of fields or Arrow. ``open_context(...)`` of its package opens a `RosContext`. A context
makes nodes, and a `RosNode` makes publishers, subscriptions, clients and servers. To close one closes
everything that it has made. `tests/ros2/engines/test_ros_engines.py` says what each engine does.

Nothing polls. A subscription, client or server is filled by a thread of its engine. ``take`` sleeps until
something comes; ``set_on_message`` names a function that rings, for a program that waits for more.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from dora.ros2.graph import RosGraph
from dora.ros2.message_queue import MessageCounters, MessageQueue
from dora.ros2.qos import DEFAULT, SERVICES, Qos

Buffer = bytes | bytearray | memoryview


class RosType(Protocol):
    """The type of a topic, or of a service, as an engine knows it."""

    @property
    def name(self) -> str:
        """The name in ROS: ``std_msgs/msg/String``, ``std_srvs/srv/SetBool``."""

    @property
    def dds_name(self) -> str:
        """The name on the wire: ``std_msgs::msg::dds_::String_``, ``std_srvs::srv::dds_::SetBool_``."""

    @property
    def hash(self) -> str:
        """The hash of its definition: ``RIHS01_`` and 64 hexadecimal digits; empty if it is not known."""


class RosTypeName(NamedTuple):
    """A `RosType` made of its three names."""

    name: str
    dds_name: str
    hash: str


class RosMessage(NamedTuple):
    """One message of a topic.

    ``source_timestamp`` is when it was published, in nanoseconds since 1970. ``sequence_number`` counts the
    messages of its publisher from 1; 0 where the engine cannot tell. ``publisher_gid`` has the 16 bytes
    that identify the publisher, as in `dora.ros2.graph.Endpoint.gid`; empty where the engine cannot tell.
    """

    data: bytes
    source_timestamp: int
    sequence_number: int
    publisher_gid: bytes


class RequestId(NamedTuple):
    """Identifies a request: the client, and the number that the client gave it."""

    client_gid: bytes
    sequence_number: int


@dataclass(frozen=True, slots=True)
class ServiceRequest:
    """One request to a server. It is answered with `ServiceServer.send_response` and its ``id``."""

    id: RequestId
    data: bytes
    source_timestamp: int


class _Endpoint(Protocol):
    @property
    def type(self) -> RosType:
        """The type of the topic or service."""

    @property
    def qos(self) -> Qos:
        """The quality of service that was asked for."""

    @property
    def gid(self) -> bytes:
        """The id in the graph: 16 bytes; empty where the engine cannot tell."""

    def close(self) -> None:
        """Leave the graph, and wake what waits; a second time it does nothing."""


class RosPublisher(_Endpoint, Protocol):
    """Sends the messages of one topic."""

    @property
    def topic(self) -> str:
        """The full name of the topic."""

    def has_subscription(self) -> bool:
        """Return whether a subscription gets what is published now.

        It may be in the graph a moment before: the graph and the messages take ways of their own.
        """

    def publish(self, data: Buffer) -> None:
        """Send a message; the bytes may change afterwards. Raises `TransportError`, also after `close`."""


class RosSubscription(_Endpoint, Protocol):
    """Receives the messages of one topic: a queue of ``qos.depth``, which drops its oldest."""

    @property
    def topic(self) -> str:
        """The full name of the topic."""

    @property
    def counters(self) -> MessageCounters:
        """The counters of the messages until now."""

    def take(self, timeout: float | None = 0) -> RosMessage | None:
        """Return the oldest message, after at most ``timeout`` seconds (None: without limit).

        None if there is none, and at once after `close`.
        """

    @property
    def pending(self) -> int:
        """The number of messages that wait to be taken."""

    def set_on_message(self, callback: Callable[[], None] | None) -> None:
        """Set what a thread of the engine calls after each arrival, and at `close`.

        It is called at once if a message is here. It may take messages. It must not block, or close its
        context (over Zenoh that waits for this thread). An exception is logged.
        """

    def set_consumer(self, consume: Callable[[RosMessage], bool] | None) -> None:
        """Set what gets each message that comes while none waits, in a thread of the engine.

        It returns whether it has taken the message, which else waits to be taken. It must not raise.
        """


class QueuedSubscription:
    """The queue of a `RosSubscription`, which an engine fills."""

    _queue: MessageQueue[RosMessage]

    def take(self, timeout: float | None = 0) -> RosMessage | None:
        return self._queue.take(timeout)

    @property
    def pending(self) -> int:
        return len(self._queue)

    def set_on_message(self, callback: Callable[[], None] | None) -> None:
        self._queue.set_on_arrival(callback)

    def set_consumer(self, consume: Callable[[RosMessage], bool] | None) -> None:
        self._queue.set_consumer(consume)


class ServiceClient(_Endpoint, Protocol):
    """Calls one service."""

    @property
    def service(self) -> str:
        """The full name of the service."""

    @property
    def closed(self) -> bool:
        """True after `close`."""

    def is_ready(self) -> bool:
        """Return whether requests get to a server now. Raises `TransportError` after `close`."""

    def wait_for_service(self, timeout: float | None) -> bool:
        """Wait until requests get to a server, at most ``timeout`` seconds; return whether they do.

        Raises `TransportError` if this client is closed meanwhile.
        """

    def send_request(self, data: Buffer) -> Future[bytes]:
        """Send a request without waiting; the future gets the response, or a `CallFailed`.

        A server that is gone may never answer, so wait with a timeout. A future that is cancelled is
        forgotten.
        """

    def call(self, data: Buffer, timeout: float) -> bytes:
        """Wait for a server, send a request, and wait for its response, ``timeout`` seconds in all.

        Raises `CallTimedOut`, `CallFailed` if the server ends or this client is closed before it answers,
        and `TransportError` if this client is closed before there is a server.
        """


class ServiceServer(_Endpoint, Protocol):
    """Answers the requests of one service.

    At most 10,000 of them are open, which means neither answered nor forgotten. The next one is dropped,
    counted, and treated as one of `forget`.
    """

    @property
    def service(self) -> str:
        """The full name of the service."""

    @property
    def counters(self) -> MessageCounters:
        """The counters of the requests until now."""

    def take_request(self, timeout: float | None = 0) -> ServiceRequest | None:
        """Return the oldest request, as `RosSubscription.take` returns messages."""

    def set_on_request(self, callback: Callable[[], None] | None) -> None:
        """Set what is called after each arrival, see `RosSubscription.set_on_message`."""

    def send_response(self, request: RequestId, data: Buffer) -> None:
        """Answer a request. Raises `TransportError` if it is not known, or was answered."""

    def forget(self, request: RequestId) -> None:
        """Give up a request: it gets no response. Does nothing if it is not known, or was answered.

        Over Zenoh its call fails at once; rclpy cannot tell its client.
        """


class RosNode(Protocol):
    """A node of the ROS graph. Names that it is given may be relative, see `dora.ros2.names.resolve`."""

    @property
    def name(self) -> str:
        """The name without the namespace."""

    @property
    def namespace(self) -> str:
        """The namespace: ``/``, ``/robot``."""

    def close(self) -> None:
        """Leave the graph, and close the endpoints; a second time it does nothing."""

    def create_publisher(self, topic: str, type: RosType, qos: Qos = DEFAULT) -> RosPublisher:
        """Raises `ValueError` for a name that breaks the rules, `TransportError`."""

    def create_subscription(self, topic: str, type: RosType, qos: Qos = DEFAULT) -> RosSubscription:
        """Raises as `create_publisher` does."""

    def create_client(self, service: str, type: RosType, qos: Qos = SERVICES) -> ServiceClient:
        """Raises as `create_publisher` does, and `TransportError` if the engine has no services."""

    def create_server(self, service: str, type: RosType, qos: Qos = SERVICES) -> ServiceServer:
        """Raises as `create_client` does."""


class RosContext(Protocol):
    """One participant in a domain, which sees its whole graph. A context manager: its end closes it."""

    @property
    def engine(self) -> str:
        """``zenoh``, ``dds`` or ``rclpy``."""

    @property
    def domain_id(self) -> int:
        """The domain; nodes of other domains are neither seen nor heard."""

    @property
    def graph(self) -> RosGraph:
        """The graph of the domain."""

    @property
    def has_services(self) -> bool:
        """Whether it has services, and so actions and parameters."""

    @property
    def checks_qos(self) -> bool:
        """Whether a publisher and a subscription only meet if their qualities match."""

    @property
    def malformed(self) -> int:
        """How much came over the network for the graph and could not be read."""

    def close(self) -> None:
        """Close the nodes, and leave the network; a second time it does nothing."""

    def create_node(self, name: str, namespace: str = "/") -> RosNode:
        """Raises `ValueError` for a name that breaks the rules, `TransportError`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
