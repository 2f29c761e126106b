"""The ROS 2 engines: their interface, and what Zenoh, DDS and rclpy have in common.

An engine carries bytes: a message is CDR with its encapsulation header of 4 bytes, a type is three names.
It knows nothing of fields or Arrow. ``open_context(...)`` of its package opens a `RosContext`. A context
makes nodes, and a `RosNode` makes publishers, subscriptions, clients and servers. To close one closes
everything that it has made. `tests/ros2/engines/test_ros_engines.py` says what each engine does.

No message is polled for. A subscription, client or server is filled by a thread of its engine. ``take``
sleeps until something comes; ``set_on_message`` names a function that rings, for a program that waits for
more. Where no engine tells of a change, it is looked for: ``wait_for_service`` asks every 20 ms, and the
process of rclpy looks at the graph every 250 ms.
"""

from __future__ import annotations

import atexit
import threading
import time
from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, NamedTuple, NoReturn, Protocol, Self

from dora.errors import CallFailed, CallTimedOut, TransportError
from dora.ros2.graph import Kind, NodeName, RosGraph
from dora.ros2.message_queue import MessageCounters, MessageQueue
from dora.ros2.names import check_namespace, check_node_name, resolve
from dora.ros2.qos import DEFAULT, SERVICES, Qos
from dora.transport.forking import disown_after_fork, leak, refuse

HEADER_SIZE: Final = 4  # bytes, the encapsulation header of CDR
# A server is in the graph a moment before requests get to it, and no engine tells of that moment.
_RECHECK_PERIOD: Final = 0.02  # seconds; a call may begin so much later, and each look asks the engine

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


class RequestId(NamedTuple):
    """Identifies a request: the client, and the number that the client gave it."""

    client_gid: bytes
    sequence_number: int


@dataclass(frozen=True, slots=True)
class ServiceRequest:
    """One request to a server. It is answered with `ServiceServer.send_response` and its ``id``."""

    id: RequestId
    data: bytes


# The bases below are plain or abstract classes without slots: `RosContext.disown` gives their objects
# another class, and objects of a generic class cannot have one.


class EndpointSpec(NamedTuple):
    """Values that an endpoint is made of, with every engine."""

    kind: Kind
    node: NodeName
    name: str  # the full one of its topic or service
    type: RosType
    qos: Qos
    graph: RosGraph
    forget: Callable[[Any], None]  # told of the endpoint when it is closed


class RosEndpoint(metaclass=ABCMeta):
    """A publisher, subscription, client or server of a node."""

    def __init__(self, spec: EndpointSpec) -> None:
        self._spec = spec
        self._gid = b""
        # Two threads may close at once: only one may end the endpoint. Zenoh and DDS send under it, too, so
        # `close` waits for a message that is being sent.
        self._lock = threading.Lock()
        self.name = spec.name
        """The full name of the topic or service."""
        self.type = spec.type
        """The type of the topic or service."""
        self.qos = spec.qos
        """The quality of service that was asked for."""
        self.closed = False

    @property
    def gid(self) -> bytes:
        """The id in the graph: 16 bytes; empty where the engine cannot tell."""
        return self._gid

    @abstractmethod
    def _end(self) -> None:
        """Leave the graph, and wake what waits."""

    def _refusal(self) -> TransportError:
        """Return the error of what is asked after `close`."""
        return TransportError(f"the {self._spec.kind.value} of {self.name} is closed")

    def close(self) -> None:
        """Leave the graph, and wake what waits; a second time it does nothing."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
        self._end()  # after `closed` is set: a call that it wakes looks at that
        self._spec.forget(self)


class RosPublisher(RosEndpoint):
    """Sends the messages of one topic."""

    @property
    def topic(self) -> str:
        """The full name of the topic."""
        return self.name

    @abstractmethod
    def has_subscription(self) -> bool:
        """Return whether a subscription gets what is published now.

        It may be in the graph a moment before: the graph and the messages take ways of their own.
        """

    @abstractmethod
    def publish(self, data: Buffer) -> None:
        """Send a message; the bytes may change afterwards. Raises `TransportError`, also after `close`."""


class RosSubscription(RosEndpoint):
    """Receives the messages of one topic: a queue of ``qos.depth``, which drops its oldest."""

    def __init__(self, spec: EndpointSpec) -> None:
        super().__init__(spec)
        self._counters = MessageCounters()
        self._queue: MessageQueue[bytes] = MessageQueue(spec.qos.queue_size, self._counters)

    @property
    def topic(self) -> str:
        """The full name of the topic."""
        return self.name

    @property
    def counters(self) -> MessageCounters:
        """The counters of the messages until now."""
        return self._counters

    def take(self, timeout: float | None = 0) -> bytes | None:
        """Return the oldest message, after at most ``timeout`` seconds (None: without limit).

        None if there is none, and at once after `close`.
        """
        return self._queue.take(timeout)

    @property
    def pending(self) -> int:
        """The number of messages that wait to be taken."""
        return len(self._queue)

    def set_on_message(self, callback: Callable[[], None] | None) -> None:
        """Set what a thread of the engine calls after each arrival, and at `close`.

        It is called at once if a message is here. It may take messages. It must not block, or close its
        context (over Zenoh that waits for this thread). An exception is logged.
        """
        self._queue.set_on_arrival(callback)

    def set_consumer(self, consume: Callable[[bytes], bool] | None) -> None:
        """Set what gets each message that comes while none waits, in a thread of the engine.

        It returns whether it has taken the message, which else waits to be taken. It must not raise.
        """
        self._queue.set_consumer(consume)


class ServiceClient(RosEndpoint):
    """Calls one service."""

    def __init__(self, spec: EndpointSpec) -> None:
        super().__init__(spec)
        self._open: dict[int, Future[bytes]] = {}  # number of a request → its response

    @property
    def service(self) -> str:
        """The full name of the service."""
        return self.name

    @abstractmethod
    def is_ready(self) -> bool:
        """Return whether requests get to a server now. Raises `TransportError` after `close`."""

    @abstractmethod
    def send_request(self, data: Buffer) -> Future[bytes]:
        """Send a request without waiting; the future gets the response, or a `CallFailed`.

        A server that is gone may never answer, so wait with a timeout. A future that is cancelled is
        forgotten.
        """

    def wait_for_service(self, timeout: float | None) -> bool:
        """Wait until requests get to a server, at most ``timeout`` seconds; return whether they do.

        Raises `TransportError` if this client is closed meanwhile.
        """
        deadline = None if timeout is None else time.monotonic() + timeout

        def left() -> float | None:
            return None if deadline is None else max(deadline - time.monotonic(), 0)

        graph = self._spec.graph

        def has_server() -> bool:
            if self.closed:
                raise self._refusal()
            return graph.has_server(self.name, self.type.name, self.type.hash)

        if not graph.wait_for(has_server, left()):
            if graph.closed:
                raise TransportError(f"the ROS context of the client of {self.name} is closed")
            return False
        while not self.is_ready():  # raises once the client is closed
            if left() == 0:
                return False
            time.sleep(_RECHECK_PERIOD)
        return True

    def call(self, data: Buffer, timeout: float) -> bytes:
        """Wait for a server, send a request, and wait for its response, ``timeout`` seconds in all.

        Raises `CallTimedOut`, `CallFailed` if the server ends or this client is closed before it answers,
        and `TransportError` if this client is closed before there is a server.
        """
        deadline = time.monotonic() + timeout
        if not self.wait_for_service(timeout):
            raise CallTimedOut(f"no server of {self.name} ({self.type.name}) has come within {timeout:g} s")
        future = self.send_request(data)
        try:
            return future.result(max(deadline - time.monotonic(), 0))
        except TimeoutError as error:
            future.cancel()
            raise CallTimedOut(f"{self.name} has not answered within {timeout:g} s") from error

    def _fail_all(self, reason: str) -> None:
        """Wake all that wait, for a response or a server."""
        for future in list(self._open.values()):
            end_future(future, error=CallFailed(reason))
        self._spec.graph.wake()


class ServiceServer(RosEndpoint):
    """Answers the requests of one service.

    At most 10,000 of them are open, which means neither answered nor forgotten. The next one is dropped,
    counted, and treated as one of `forget`.
    """

    def __init__(self, spec: EndpointSpec) -> None:
        super().__init__(spec)
        self.counters = MessageCounters()
        """The counters of the requests until now."""
        # Never drops by itself: its items are open requests, whose number the engine bounds.
        self._queue: MessageQueue[ServiceRequest] = MessageQueue(None, self.counters)

    @property
    def service(self) -> str:
        """The full name of the service."""
        return self.name

    def take_request(self, timeout: float | None = 0) -> ServiceRequest | None:
        """Return the oldest request, as `RosSubscription.take` returns messages."""
        return self._queue.take(timeout)

    def set_on_request(self, callback: Callable[[], None] | None) -> None:
        """Set what is called after each arrival, see `RosSubscription.set_on_message`."""
        self._queue.set_on_arrival(callback)

    @abstractmethod
    def send_response(self, request: RequestId, data: Buffer) -> None:
        """Answer a request. Raises `TransportError` if it is not known, or was answered."""

    @abstractmethod
    def forget(self, request: RequestId) -> None:
        """Give up a request: it gets no response. Does nothing if it is not known, or was answered.

        Over Zenoh its call fails at once; rclpy cannot tell its client.
        """


class RosNode(metaclass=ABCMeta):
    """A node of the ROS graph. Names that it is given may be relative, see `dora.ros2.names.resolve`."""

    def __init__(self, context: RosContext, node: NodeName) -> None:
        self.name, self.namespace = node.name, node.namespace
        self.graph = context.graph
        """The graph of the domain."""
        self._node = node
        self._siblings = context.nodes
        self._endpoints: set[RosEndpoint] = set()  # those that are open
        # An endpoint that is made while another thread closes the node would else stay in the graph. A
        # signal handler that closes it meanwhile must not wait for itself.
        self._lock = threading.RLock()
        self._closed = False

    @abstractmethod
    def _make(self, spec: EndpointSpec) -> RosEndpoint:
        """Make an endpoint, and announce it; raises `TransportError`."""

    @abstractmethod
    def _end(self) -> None:
        """Leave the graph; the endpoints are closed."""

    def create_publisher(self, topic: str, type: RosType, qos: Qos = DEFAULT) -> RosPublisher:
        """Raises `ValueError` for a name that breaks the rules, `TransportError`."""
        created: RosPublisher = self._create(Kind.PUBLISHER, topic, type, qos)
        return created

    def create_subscription(self, topic: str, type: RosType, qos: Qos = DEFAULT) -> RosSubscription:
        """Raises as `create_publisher` does."""
        created: RosSubscription = self._create(Kind.SUBSCRIPTION, topic, type, qos)
        return created

    def create_client(self, service: str, type: RosType, qos: Qos = SERVICES) -> ServiceClient:
        """Raises as `create_publisher` does, and `TransportError` if the engine has no services."""
        created: ServiceClient = self._create(Kind.CLIENT, service, type, qos)
        return created

    def create_server(self, service: str, type: RosType, qos: Qos = SERVICES) -> ServiceServer:
        """Raises as `create_client` does."""
        created: ServiceServer = self._create(Kind.SERVER, service, type, qos)
        return created

    def _create(self, kind: Kind, name: str, type: RosType, qos: Qos) -> Any:
        full = resolve(name, self.name, self.namespace)
        with self._lock:
            if self._closed:
                raise TransportError(f"node {self._node.full} is closed")
            endpoint = self._make(EndpointSpec(kind, self._node, full, type, qos, self.graph, self._forget))
            self._endpoints.add(endpoint)
        return endpoint

    def _forget(self, endpoint: RosEndpoint) -> None:
        """Keep an endpoint no more, which is closed."""
        self._endpoints.discard(endpoint)

    def close(self) -> None:
        """Leave the graph, and close the endpoints; a second time it does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for endpoint in list(self._endpoints):
            endpoint.close()
        self._end()
        self._siblings.discard(self)


class RosContext(metaclass=ABCMeta):
    """One participant in a domain, which sees its whole graph. A context manager: its end closes it.

    It is closed at the latest at the end of the process.
    """

    engine: str
    """``zenoh``, ``dds`` or ``rclpy``."""
    has_services: bool
    """Whether it has services, and so actions and parameters."""
    checks_qos: bool
    """Whether a publisher and a subscription only meet if their qualities match."""

    def __init__(self, domain_id: int) -> None:
        self.domain_id = domain_id
        """The domain; nodes of other domains are neither seen nor heard."""
        self.graph = RosGraph()
        """The graph of the domain."""
        self.nodes: set[RosNode] = set()  # those that are open
        # A node that is made while another thread closes the context would else stay in the graph. And a
        # failure is told once, whichever of `set_on_failure` and `_fail` comes first.
        self._lock = threading.RLock()
        self._closed = False
        self._failure: TransportError | None = None
        self._on_failure: Callable[[TransportError], None] | None = None

    def set_on_failure(self, callback: Callable[[TransportError], None] | None) -> None:
        """Set what any thread calls with the reason when the engine ends without `close`.

        It is called at once if that has happened. Only the process of rclpy may end so.
        """
        with self._lock:
            self._on_failure, failure = callback, self._failure
        if callback is not None and failure is not None:
            callback(failure)

    def _fail(self, reason: str) -> None:
        """Keep the reason why the engine has ended without `close`, and hand it to the callback."""
        with self._lock:
            self._failure = failure = TransportError(reason)
            callback = self._on_failure
        if callback is not None:
            callback(failure)

    @property
    def malformed(self) -> int:
        """How much came over the network for the graph and could not be read."""
        return self.graph.malformed

    @abstractmethod
    def _make_node(self, node: NodeName) -> RosNode:
        """Make a node, and announce it; raises `TransportError`."""

    @abstractmethod
    def _end(self) -> None:
        """Close what the engine has; `_close_nodes` is a part of it."""

    def _begin(self) -> None:
        """Close the context when the process ends, and never in a child that was forked from it.

        Threads of engines call Python. In an interpreter that has ended, that aborts the process.
        """
        atexit.register(self.close)
        disown_after_fork(self)

    def create_node(self, name: str, namespace: str = "/") -> RosNode:
        """Raises `ValueError` for a name that breaks the rules, `TransportError`."""
        node = NodeName(check_node_name(name), check_namespace(namespace))
        with self._lock:
            if self._closed:
                raise TransportError("the ROS context is closed")
            created = self._make_node(node)
            self.nodes.add(created)
        return created

    def close(self) -> None:
        """Close the nodes, and leave the network; a second time it does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.close)
        self._end()  # outside the lock, which a thread that it waits for may want in `_fail`

    def _close_nodes(self) -> None:
        for node in list(self.nodes):
            node.close()
        self.graph.close()

    def disown(self) -> None:
        """Leave everything to the parent, in a forked child process: what it has made refuses there."""
        atexit.unregister(self.close)
        things: list[Any] = [self, self.graph]
        for node in self.nodes:
            things += [node, *node._endpoints]
        leak(*things)
        for thing in things:
            thing.__class__ = _OfTheParent  # its methods take locks that a thread of the parent may hold

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _OfTheParent:
    """An object of the parent process, in a child that was forked from it: only `close` has no error.

    The child has no thread of the engine. So a call into the engine may wait for ever there, and the parent
    would lose what the child closes. See `dora.transport.forking`.
    """

    def __getattr__(self, name: str) -> NoReturn:
        refuse()

    def __enter__(self) -> NoReturn:
        refuse()

    def __exit__(self, *error: object) -> None:
        """Do nothing: the context goes on in the parent."""

    def close(self) -> None:
        """Do nothing: the parent closes it."""


def end_future(future: Future[Any], result: Any = None, error: Exception | None = None) -> None:
    """Give a future its result or error, unless it has one, or nobody waits any more."""
    try:
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
    except InvalidStateError:
        pass  # a response, a cancel and the end of the engine may come at once; the first one counts
