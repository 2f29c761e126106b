"""Contexts, nodes and their endpoints over rclpy."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import replace
from typing import Any, Final, NamedTuple

from dora.errors import CallFailed, TransportError
from dora.ros2.calls import call, wait_for_service
from dora.ros2.engine import Buffer, QueuedSubscription, RequestId, RosMessage, RosType, ServiceRequest
from dora.ros2.graph import Endpoint, Kind, NodeName
from dora.ros2.life import OpenContext, OpenNode
from dora.ros2.message_queue import MessageCounters, MessageQueue
from dora.ros2.qos import DEFAULT, INFINITE_NS, SERVICES, Durability, History, Liveliness, Qos, Reliability
from dora.ros2.rclpy.process import RclpyProcess

_log = logging.getLogger("dora.ros2")
_OF_ENDPOINTS: Final = ("message", "lost", "response", "request")  # frames with the number of an endpoint
_INFINITE_FROM: Final = INFINITE_NS // 2  # RMWs round differently


def open_context(domain_id: int = 0) -> RclpyContext:
    """Open a context: start the process that has rclpy. Raises `ConnectError`."""
    return RclpyContext(domain_id)


class RclpyContext(OpenContext):
    """See `dora.ros2.engine.RosContext`."""

    engine = "rclpy"
    has_services = True
    malformed = 0

    def __init__(self, domain_id: int) -> None:
        super().__init__(domain_id)
        self.handlers: dict[int, Callable[[dict[str, Any], bytes], None]] = {}  # number → of an endpoint
        self.process = RclpyProcess(domain_id, self._on_frame, self._on_end)
        self.rmw = self.process.rmw
        # Zenoh brings every publisher and subscription of a topic together.
        self.checks_qos = "zenoh" not in self.rmw
        self._begin()

    def _on_frame(self, header: dict[str, Any], data: bytes) -> None:
        if "graph" in header:
            self._on_graph(header)
            return
        number = next((header[kind] for kind in _OF_ENDPOINTS if kind in header), 0)
        handler = self.handlers.get(number)
        if handler is not None:
            handler(header, data)

    def _on_graph(self, header: dict[str, Any]) -> None:
        nodes: dict[object, NodeName] = {
            index: NodeName(name, namespace) for index, (name, namespace) in enumerate(header["nodes"])
        }
        endpoints: dict[object, Endpoint] = {
            index: read_endpoint(item) for index, item in enumerate(header["graph"])
        }
        self.graph.replace(nodes, endpoints)

    def _on_end(self) -> None:
        if not self._closed:
            pid = self.process.pid
            _log.error(f"the process {pid}, which has rclpy, has ended; this context gets no more messages")
        for node in list(self.nodes):
            node.end()
        self.graph.close()

    def create_node(self, name: str, namespace: str = "/") -> RclpyNode:
        return self._add_node(name, namespace, lambda node: RclpyNode(self, node))

    def _end(self) -> None:
        # First: it ends a `publish` that waits for a process that is stuck. The process leaves the graph on
        # its own, so nothing of what follows has to reach it.
        self.process.finish()
        self._close_nodes()
        self.process.close()

    def disown(self) -> None:
        self.process.leave()
        super().disown()


class _EndpointValues(NamedTuple):
    """The values that an endpoint is made of."""

    context: RclpyContext
    node: NodeName
    name: str  # the full one of its topic or service
    type: RosType
    qos: Qos
    on_close: Callable[[], None]


class _RclpyEndpoint:
    """The common part of publishers, subscriptions, clients and servers: a number in the process."""

    kind: Kind

    def __init__(self, values: _EndpointValues) -> None:
        self._context, self._node, self._name, self.type, self.qos, self._on_close = values
        self._process = self._context.process
        self._number = self._process.number()
        self.closed = False

    @property
    def gid(self) -> bytes:
        """The id in the graph; empty until it is there, and for clients and servers."""
        found = self._context.graph.endpoints(self.kind, self._name, self._node)
        return found[0].gid if len(found) == 1 else b""

    def end(self) -> None:
        """Wake what waits."""

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.end()
        self._on_close()
        self._context.handlers.pop(self._number, None)
        try:
            self._process.send({"do": "close", "number": self._number})
        except TransportError:
            pass  # it has gone with the process


class RclpyPublisher(_RclpyEndpoint):
    """See `dora.ros2.engine.RosPublisher`."""

    kind = Kind.PUBLISHER

    @property
    def topic(self) -> str:
        return self._name

    def has_subscription(self) -> bool:
        return not self.closed and bool(self._process.ask("subscription_count", number=self._number))

    def publish(self, data: Buffer) -> None:
        if self.closed:
            raise TransportError(f"the publisher of {self.topic} is closed")
        self._process.send({"do": "publish", "number": self._number}, data)


class RclpySubscription(_RclpyEndpoint, QueuedSubscription):
    """See `dora.ros2.engine.RosSubscription`."""

    kind = Kind.SUBSCRIPTION

    def __init__(self, values: _EndpointValues) -> None:
        super().__init__(values)
        self.counters = MessageCounters()
        self._queue = MessageQueue(self.qos.queue_size, self.counters)
        self._context.handlers[self._number] = self._on_message

    @property
    def topic(self) -> str:
        return self._name

    def _on_message(self, header: dict[str, Any], data: bytes) -> None:
        if "lost" in header:
            self.counters.lost += header["count"]
            return
        # rclpy does not tell the publisher, so gaps in the numbers of several would say nothing.
        self._queue.put(RosMessage(data, header["at"], header["n"], b""))

    def end(self) -> None:
        self._queue.close()


class RclpyClient(_RclpyEndpoint):
    """See `dora.ros2.engine.ServiceClient`."""

    kind = Kind.CLIENT

    def __init__(self, values: _EndpointValues) -> None:
        super().__init__(values)
        self._open: dict[int, Future[bytes]] = {}
        self._context.handlers[self._number] = self._on_response

    @property
    def service(self) -> str:
        return self._name

    def is_ready(self) -> bool:
        if self.closed:
            raise TransportError(f"the client of {self.service} is closed")
        return bool(self._process.ask("is_ready", number=self._number))

    def wait_for_service(self, timeout: float | None) -> bool:
        return wait_for_service(self, self._context.graph, timeout)

    def send_request(self, data: Buffer) -> Future[bytes]:
        if self.closed:
            raise TransportError(f"the client of {self.service} is closed")
        future: Future[bytes] = Future()
        number = self._process.number()
        self._open[number] = future
        future.add_done_callback(lambda done: self._on_done(number, done))
        try:
            self._process.send({"do": "request", "number": self._number, "id": number}, data)
        except TransportError:
            self._open.pop(number, None)
            raise
        return future

    def _on_done(self, number: int, future: Future[bytes]) -> None:
        self._open.pop(number, None)
        if future.cancelled() and not self.closed:
            try:
                self._process.send({"do": "forget_call", "id": number})
            except TransportError:
                pass  # it has gone with the process

    def _on_response(self, header: dict[str, Any], data: bytes) -> None:
        future = self._open.get(header["id"])
        if future is None:
            return
        try:
            if "error" in header:
                future.set_exception(CallFailed(f"{self.service} cannot be called: {header['error']}"))
            else:
                future.set_result(data)
        except InvalidStateError:
            pass  # nobody waits any more

    def call(self, data: Buffer, timeout: float) -> bytes:
        return call(self, data, timeout)

    def end(self) -> None:
        self._context.graph.wake()
        reason = f"the client of {self.service} was closed"
        if self._process.ended:
            reason = "the process that has rclpy has ended"
        for future in list(self._open.values()):
            try:
                future.set_exception(CallFailed(reason))
            except InvalidStateError:
                pass


class RclpyServer(_RclpyEndpoint):
    """See `dora.ros2.engine.ServiceServer`. rclpy does not name the clients: requests have own numbers."""

    kind = Kind.SERVER

    def __init__(self, values: _EndpointValues) -> None:
        super().__init__(values)
        self.counters = MessageCounters()
        # The process bounds it: it gives out so many requests without a response.
        self._queue: MessageQueue[ServiceRequest] = MessageQueue(None, self.counters)
        self._open: set[RequestId] = set()
        self._context.handlers[self._number] = self._on_request

    @property
    def service(self) -> str:
        return self._name

    def _on_request(self, header: dict[str, Any], data: bytes) -> None:
        if header["id"] is None:  # too many are open
            self.counters.dropped += 1
            return
        request = RequestId(b"", header["id"])
        self._open.add(request)
        self._queue.put(ServiceRequest(request, data, 0))

    def take_request(self, timeout: float | None = 0) -> ServiceRequest | None:
        return self._queue.take(timeout)

    def set_on_request(self, callback: Callable[[], None] | None) -> None:
        self._queue.set_on_arrival(callback)

    def send_response(self, request: RequestId, data: Buffer) -> None:
        if request not in self._open:
            number = request.sequence_number
            raise TransportError(f"{self.service} has no open request {number} of this client")
        self._open.discard(request)
        self._tell("respond", request, data)

    def forget(self, request: RequestId) -> None:
        if request in self._open:
            self._open.discard(request)
            self._tell("forget_request", request)

    def _tell(self, do: str, request: RequestId, data: Buffer = b"") -> None:
        self._process.send({"do": do, "number": self._number, "id": request.sequence_number}, data)

    def end(self) -> None:
        self._queue.close()
        self._open.clear()


class RclpyNode(OpenNode):
    """See `dora.ros2.engine.RosNode`."""

    def __init__(self, context: RclpyContext, node: NodeName) -> None:
        super().__init__(context, node)
        self._context = context
        self._number = context.process.number()
        context.process.ask("node", number=self._number, name=node.name, namespace=node.namespace)

    def create_publisher(self, topic: str, type: RosType, qos: Qos = DEFAULT) -> RclpyPublisher:
        created: RclpyPublisher = self._create(RclpyPublisher, "publisher", "topic", topic, type, qos)
        return created

    def create_subscription(self, topic: str, type: RosType, qos: Qos = DEFAULT) -> RclpySubscription:
        created: RclpySubscription = self._create(
            RclpySubscription, "subscription", "topic", topic, type, qos
        )
        return created

    def create_client(self, service: str, type: RosType, qos: Qos = SERVICES) -> RclpyClient:
        created: RclpyClient = self._create(RclpyClient, "client", "service", service, type, qos)
        return created

    def create_server(self, service: str, type: RosType, qos: Qos = SERVICES) -> RclpyServer:
        created: RclpyServer = self._create(RclpyServer, "service", "service", service, type, qos)
        return created

    def _create(self, make: Any, do: str, of: str, name: str, type: RosType, qos: Qos) -> Any:
        full = self._full_name(name)

        def on_close() -> None:
            self._endpoints.discard(endpoint)

        endpoint = make(_EndpointValues(self._context, self._node, full, type, qos, on_close))
        # rclpy keeps all until its process has sent it: the queue here has the depth, and counts.
        asked = replace(qos, history=History.KEEP_ALL) if make is RclpySubscription else qos
        values = {of: full, "type": type.name, "qos": write_qos(asked)}
        try:
            self._context.process.ask(do, number=endpoint._number, node=self._number, **values)
        except TransportError as error:
            self._context.handlers.pop(endpoint._number, None)
            raise TransportError(f"rclpy cannot create a {do} of {full}: {error}") from error
        self._endpoints.add(endpoint)
        return endpoint

    def end(self) -> None:
        """Wake what waits: the process is gone."""
        for endpoint in list(self._endpoints):
            endpoint.end()

    def _end(self) -> None:
        try:
            self._context.process.ask("close_node", number=self._number)
        except TransportError:
            pass  # it has gone with the process


def write_qos(qos: Qos) -> dict[str, int | None]:
    """Return a quality of service as the process takes it."""
    return {
        "history": int(qos.history),
        "depth": qos.depth,
        "reliability": int(qos.reliability),
        "durability": int(qos.durability),
        "liveliness": int(qos.liveliness),
        "deadline": qos.deadline,
        "lifespan": qos.lifespan,
        "liveliness_lease_duration": qos.lease_duration,
    }


def read_endpoint(item: dict[str, Any]) -> Endpoint:
    """Return an endpoint as the process describes it."""
    name, namespace = item["node"]
    values = item.get("qos")
    return Endpoint(
        Kind(item["kind"]),
        NodeName(name, namespace),
        item["name"],
        item["type"],
        "" if item.get("hash", "").startswith("INVALID") else item.get("hash", ""),
        bytes.fromhex(item.get("gid", ""))[:16],
        None if values is None else _read_qos(values),
    )


def _read_qos(values: dict[str, int]) -> Qos:
    def duration(name: str) -> int | None:
        value = values[name]
        return None if value <= 0 or value >= _INFINITE_FROM else value

    best_effort = values["reliability"] == Reliability.BEST_EFFORT
    latched = values["durability"] == Durability.TRANSIENT_LOCAL
    manual = values["liveliness"] == Liveliness.MANUAL_BY_TOPIC
    return Qos(
        Reliability.BEST_EFFORT if best_effort else Reliability.RELIABLE,
        Durability.TRANSIENT_LOCAL if latched else Durability.VOLATILE,
        History.KEEP_ALL if values["history"] == History.KEEP_ALL else History.KEEP_LAST,
        values["depth"] or DEFAULT.depth,
        duration("deadline"),
        duration("lifespan"),
        Liveliness.MANUAL_BY_TOPIC if manual else Liveliness.AUTOMATIC,
        duration("lease_duration"),
    )
