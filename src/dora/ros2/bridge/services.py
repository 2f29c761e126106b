"""A service of a `ros2` block: requests of inputs for a server of ROS, or of ROS for a node."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any, Final

from dora.dataflow.ros2 import Ros2BlockCalls
from dora.errors import CallFailed, TransportError, UnsupportedData
from dora.node.events import Input
from dora.node.node import Node
from dora.ros2.api.context import Ros2Node
from dora.ros2.api.services import CALL_TIMEOUT, Ros2ServiceServer
from dora.ros2.engine import ServiceClient
from dora.ros2.message_queue import Deliveries, Delivery
from dora.ros2.names import ROS2_TYPE
from dora.ros2.types.errors import MalformedMessage
from dora.ros2.types.message_type import ServiceType
from dora.wire.correlation import ERROR, REQUEST_ID, uuid7

MAX_OPEN: Final = 64  # requests that a node has not answered, as in dora-rs


class ServedService:
    """Gives requests of ROS to an output, and the responses of an input back.

    A response belongs to the request with the same `request_id` in its metadata, or to the oldest. One
    without a response is forgotten after `CALL_TIMEOUT`: a node that was restarted never answers it, and it
    would keep its place among the open ones, and take the responses without an id.
    """

    def __init__(
        self, node: Node, ros_node: Ros2Node, calls: Ros2BlockCalls, server: Ros2ServiceServer
    ) -> None:
        self._node = node
        self._output, self._input = calls.ports["request"], calls.ports["response"]
        self._server = server
        self._metadata = {ROS2_TYPE: f"{server.type.name}_Request"}
        # request_id → number of the request, and when it is forgotten; oldest first
        self._open: dict[str, tuple[int, float]] = {}
        self._dropped = ros_node.dropped(f"service {calls.name}")

    def next(self, timeout: float | None = None) -> Delivery | None:
        taken = self._server.take_request(timeout if timeout is not None else threading.TIMEOUT_MAX)
        return None if taken is None else partial(self._deliver, *taken)

    def set_on_message(self, callback: Callable[[], None] | None) -> None:
        self._server.set_on_message(callback)

    def _deliver(self, number: int, request: Any) -> None:
        if len(self._open) >= MAX_OPEN:
            self._server.forget(number)
            self._dropped.add(f"{MAX_OPEN} requests have no response yet")
            return
        request_id = uuid7()
        self._open[request_id] = number, time.monotonic() + CALL_TIMEOUT
        self._node.send_output(self._output, request, {**self._metadata, REQUEST_ID: request_id})

    def handle(self, event: Input) -> None:
        metadata = event["metadata"]
        request_id = metadata.get(REQUEST_ID) or next(iter(self._open), "")
        found = self._open.pop(request_id, None) if isinstance(request_id, str) else None
        if found is None:
            self._dropped.add(f"a response on input `{self._input}` belongs to no open request")
            return
        number, _ = found
        if error := metadata.get(ERROR):  # ROS has no form for it: the caller waits until its timeout
            self._server.forget(number)
            self._dropped.add(f"its server says: {error}")
            return
        try:
            self._server.send_response(number, event["value"])
        except (UnsupportedData, TransportError) as error:
            self._server.forget(number)
            self._dropped.add(str(error))

    def due(self) -> float | None:
        """Return when `on_due` has something to do (monotonic seconds); None: never."""
        return next((deadline for _, deadline in self._open.values()), None)

    def on_due(self) -> None:
        """Forget the requests that have waited for too long."""
        now = time.monotonic()
        for request_id, (number, deadline) in list(self._open.items()):
            if deadline > now:
                break
            del self._open[request_id]
            self._server.forget(number)
            self._dropped.add(f"no node has answered within {CALL_TIMEOUT:g} s")


class CalledService(Deliveries):
    """Sends requests of an input to a server of ROS, and its responses to an output, each when it comes.

    A request that fails is answered with `error` in the metadata, as a service of dora does it.
    """

    def __init__(
        self,
        node: Node,
        ros_node: Ros2Node,
        calls: Ros2BlockCalls,
        client: ServiceClient,
        type: ServiceType,
    ) -> None:
        super().__init__()
        self._node = node
        self._warn = ros_node.logger.warning
        self._output = calls.ports["response"]
        self._client = client
        self._type = type
        self._metadata = {ROS2_TYPE: f"{type.name}_Response"}
        self._waiting: deque[tuple[bytes, dict[str, Any], float]] = deque()  # until a server is there
        self._looks = False  # a thread waits for a server
        self._open: dict[Future[bytes], tuple[dict[str, Any], float]] = {}  # oldest first

    # ---------------------------------------------------------------- requests

    def handle(self, event: Input) -> None:
        request_id = event["metadata"].get(REQUEST_ID)
        metadata = {} if request_id is None else {REQUEST_ID: request_id}
        try:
            data = self._type.request.encode(event["value"])
        except UnsupportedData as error:
            self._fail(metadata, str(error))
            return
        item = data, metadata, time.monotonic() + CALL_TIMEOUT
        if not self._waiting and self._client.is_ready():
            self._send(*item)
            return
        self._waiting.append(item)
        if not self._looks:
            self._looks = True
            threading.Thread(target=self._await_server, daemon=True).start()

    def _await_server(self) -> None:
        try:
            self._client.wait_for_service(None)  # each request has a limit of its own, in `on_due`
        except TransportError:
            pass  # the client is closed, as `_send` will find
        self.put(self._send_waiting)

    def _send_waiting(self) -> None:
        self._looks = False
        while self._waiting:
            self._send(*self._waiting.popleft())

    def _send(self, data: bytes, metadata: dict[str, Any], deadline: float) -> None:
        try:
            future = self._client.send_request(data)
        except TransportError as error:
            self._fail(metadata, str(error))
            return
        self._open[future] = metadata, deadline
        future.add_done_callback(lambda done: self.put(partial(self._answer, done)))

    def _answer(self, future: Future[bytes]) -> None:
        metadata, _ = self._open.pop(future, ({}, 0.0))
        try:
            response = self._type.response.decode(future.result(0))
        except CancelledError:
            return
        except (CallFailed, MalformedMessage, TransportError) as error:
            self._fail(metadata, str(error))
            return
        self._node.send_output(self._output, response, {**self._metadata, **metadata})

    def _fail(self, metadata: dict[str, Any], reason: str) -> None:
        self._warn(f"a call of {self._client.service} has failed: {reason}")
        self._node.send_output(self._output, b"", {**metadata, ERROR: reason})

    # ---------------------------------------------------------------- time

    def due(self) -> float | None:
        """Return when `on_due` has something to do (monotonic seconds); None: never."""
        times = [item[2] for item in list(self._waiting)[:1]]
        times += [deadline for _, deadline in list(self._open.values())[:1]]
        return min(times, default=None)

    def on_due(self) -> None:
        """Fail the requests that have waited for too long."""
        now = time.monotonic()
        while self._waiting and self._waiting[0][2] <= now:
            _, metadata, _ = self._waiting.popleft()
            self._fail(metadata, f"no server has come within {CALL_TIMEOUT:g} s")
        for future, (metadata, deadline) in list(self._open.items()):
            if deadline > now:
                break
            if not future.cancel():
                continue  # its response waits to be sent
            del self._open[future]
            self._fail(metadata, f"there is no response after {CALL_TIMEOUT:g} s")
