"""Contexts, nodes and their endpoints over rclpy."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Final

from dora.errors import CallFailed, TransportError
from dora.ros2.engine import (
    Buffer,
    EndpointSpec,
    RequestId,
    RosContext,
    RosEndpoint,
    RosNode,
    RosPublisher,
    RosSubscription,
    ServiceClient,
    ServiceRequest,
    ServiceServer,
    end_future,
)
from dora.ros2.graph import Endpoint, Kind, NodeName
from dora.ros2.qos import DEFAULT, INFINITE_NS, Durability, History, Liveliness, Qos, Reliability
from dora.ros2.rclpy.process import RclpyProcess

_log = logging.getLogger("dora.ros2")
_OF_ENDPOINTS: Final = ("message", "lost", "response", "request")  # frames with the number of an endpoint
_INFINITE_FROM: Final = INFINITE_NS // 2  # RMWs round differently


def open_context(domain_id: int = 0) -> RclpyContext:
    """Open a context: start the process that has rclpy. Raises `ConnectError`."""
    return RclpyContext(domain_id)


class RclpyContext(RosContext):
    """See `dora.ros2.engine.RosContext`."""

    engine = "rclpy"
    has_services = True

    def __init__(self, domain_id: int) -> None:
        super().__init__(domain_id)
        self.endpoints: dict[int, _RclpyEndpoint] = {}  # by number
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
        endpoint = self.endpoints.get(number)
        if endpoint is not None:
            endpoint.on_frame(header, data)

    def _on_graph(self, header: dict[str, Any]) -> None:
        nodes: dict[object, NodeName] = {
            index: NodeName(name, namespace) for index, (name, namespace) in enumerate(header["nodes"])
        }
        endpoints: dict[object, Endpoint] = {
            index: read_endpoint(item) for index, item in enumerate(header["graph"])
        }
        self.graph.replace(nodes, endpoints)

    def _on_end(self, pid: int) -> None:
        reason = "" if self._closed else f"the process {pid}, which has rclpy, has ended"
        if reason:
            _log.error(f"{reason}; this context gets no more messages")
        for endpoint in list(self.endpoints.values()):
            endpoint.wake()
        self.graph.close()
        if reason:
            self._fail(reason)

    def _make_node(self, node: NodeName) -> RclpyNode:
        return RclpyNode(self, node)

    def _end(self) -> None:
        # First: it ends a `publish` that waits for a process that is stuck. The process leaves the graph on
        # its own, so nothing of what follows has to reach it.
        self.process.finish()
        self._close_nodes()
        self.process.close()

    def disown(self) -> None:
        self.process.leave()
        super().disown()


class _RclpyEndpoint(RosEndpoint):
    """The common part of publishers, subscriptions, clients and servers: a number in the process."""

    def __init__(self, spec: EndpointSpec, context: RclpyContext) -> None:
        super().__init__(spec)
        self._endpoints = context.endpoints
        self._process = context.process
        self.number = self._process.number()

    @property
    def gid(self) -> bytes:
        """The id in the graph; empty until it is there, and for clients and servers."""
        found = self._spec.graph.endpoints(self._spec.kind, self.name, self._spec.node)
        return found[0].gid if len(found) == 1 else b""

    def on_frame(self, header: dict[str, Any], data: bytes) -> None:
        """Take a frame of the process with the number of this endpoint."""

    def wake(self) -> None:
        """Wake what waits."""

    def _end(self) -> None:
        self.wake()
        self._endpoints.pop(self.number, None)
        try:
            self._process.send({"do": "close", "number": self.number})
        except TransportError:
            pass  # it has gone with the process


class RclpyPublisher(_RclpyEndpoint, RosPublisher):
    """See `dora.ros2.engine.RosPublisher`."""

    def has_subscription(self) -> bool:
        return not self.closed and bool(self._process.ask("subscription_count", number=self.number))

    def publish(self, data: Buffer) -> None:
        if self.closed:
            raise self._refusal()
        self._process.send({"do": "publish", "number": self.number}, data)


class RclpySubscription(_RclpyEndpoint, RosSubscription):
    """See `dora.ros2.engine.RosSubscription`."""

    def on_frame(self, header: dict[str, Any], data: bytes) -> None:
        if "lost" in header:
            self._counters.lost += header["count"]
            return
        self._queue.put(data)

    def wake(self) -> None:
        self._queue.close()


class RclpyClient(_RclpyEndpoint, ServiceClient):
    """See `dora.ros2.engine.ServiceClient`."""

    def is_ready(self) -> bool:
        if self.closed:
            raise self._refusal()
        return bool(self._process.ask("is_ready", number=self.number))

    def send_request(self, data: Buffer) -> Future[bytes]:
        future: Future[bytes] = Future()
        number = self._process.number()
        with self._lock:  # else a `close` in between would leave the call open
            if self.closed:
                raise self._refusal()
            self._open[number] = future
        future.add_done_callback(lambda done: self._on_done(number, done))
        try:
            self._process.send({"do": "request", "number": self.number, "id": number}, data)
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

    def on_frame(self, header: dict[str, Any], data: bytes) -> None:
        future = self._open.get(header["id"])
        if future is None:
            return
        if "error" in header:
            end_future(future, error=CallFailed(f"{self.service} cannot be called: {header['error']}"))
        else:
            end_future(future, data)

    def wake(self) -> None:
        ended = "the process that has rclpy has ended"
        self._fail_all(ended if self._process.ended else f"the client of {self.service} was closed")


class RclpyServer(_RclpyEndpoint, ServiceServer):
    """See `dora.ros2.engine.ServiceServer`. rclpy does not name the clients: requests have own numbers."""

    def __init__(self, spec: EndpointSpec, context: RclpyContext) -> None:
        super().__init__(spec, context)
        # The process bounds it: it gives out so many requests without a response.
        self._open: set[RequestId] = set()

    def on_frame(self, header: dict[str, Any], data: bytes) -> None:
        if header["id"] is None:  # too many are open
            self.counters.dropped += 1
            return
        request = RequestId(b"", header["id"])
        self._open.add(request)
        self._queue.put(ServiceRequest(request, data))

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
        self._process.send({"do": do, "number": self.number, "id": request.sequence_number}, data)

    def wake(self) -> None:
        self._queue.close()
        self._open.clear()


# For each kind: the class, what the process is asked for, and what it calls the name.
_MAKERS: Final[dict[Kind, tuple[type[_RclpyEndpoint], str, str]]] = {
    Kind.PUBLISHER: (RclpyPublisher, "publisher", "topic"),
    Kind.SUBSCRIPTION: (RclpySubscription, "subscription", "topic"),
    Kind.CLIENT: (RclpyClient, "client", "service"),
    Kind.SERVER: (RclpyServer, "service", "service"),
}


class RclpyNode(RosNode):
    """See `dora.ros2.engine.RosNode`."""

    def __init__(self, context: RclpyContext, node: NodeName) -> None:
        super().__init__(context, node)
        self._context = context
        self._number = context.process.number()
        context.process.ask("node", number=self._number, name=node.name, namespace=node.namespace)

    def _make(self, spec: EndpointSpec) -> RosEndpoint:
        make, do, of = _MAKERS[spec.kind]
        context = self._context
        endpoint = make(spec, context)
        context.endpoints[endpoint.number] = endpoint
        # rclpy keeps all until its process has sent it: the queue here has the depth, and counts.
        asked = replace(spec.qos, history=History.KEEP_ALL) if do == "subscription" else spec.qos
        values = {of: spec.name, "type": spec.type.name, "qos": write_qos(asked)}
        try:
            context.process.ask(do, number=endpoint.number, node=self._number, **values)
        except TransportError as error:
            context.endpoints.pop(endpoint.number, None)
            raise TransportError(f"rclpy cannot create a {do} of {spec.name}: {error}") from error
        return endpoint

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
