"""Clients and servers over Zenoh: a server is a queryable, a request is a query."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any, Final

import zenoh

from dora.errors import CallFailed, TransportError
from dora.ros2.calls import call, wait_for_service
from dora.ros2.engine import Buffer, RequestId, ServiceRequest
from dora.ros2.message_queue import MessageCounters, MessageQueue
from dora.ros2.zenoh.endpoint import EndpointValues, ZenohEndpoint
from dora.ros2.zenoh.keys import attachment_bytes, read_attachment

# A request waits for its response as long as the client does; a result of an action may take hours.
_REQUEST_TIMEOUT: Final = 1e9  # seconds
_MAX_OPEN: Final = 10_000  # requests of a server without a response


class ZenohClient(ZenohEndpoint):
    """See `dora.ros2.engine.ServiceClient`."""

    def __init__(self, values: EndpointValues) -> None:
        super().__init__(values)
        self.service = values.name
        self._querier: Any = values.session.declare_querier(
            values.key,
            target=zenoh.QueryTarget.ALL_COMPLETE,
            consolidation=zenoh.ConsolidationMode.NONE,
            timeout=_REQUEST_TIMEOUT,
        )
        self._lock = threading.Lock()
        self._sequence_number = 0
        self._open: dict[int, Future[bytes]] = {}
        self.closed = False
        self._announce()

    def is_ready(self) -> bool:
        if self.closed:
            raise TransportError(f"the client of {self.service} is closed")
        return bool(self._querier.matching_status.matching)

    def wait_for_service(self, timeout: float | None) -> bool:
        return wait_for_service(self, self._values.graph, timeout)

    def send_request(self, data: Buffer) -> Future[bytes]:
        future: Future[bytes] = Future()
        with self._lock:
            if self.closed:
                raise TransportError(f"the client of {self.service} is closed")
            self._sequence_number += 1
            number = self._sequence_number
            self._open[number] = future
        future.add_done_callback(lambda _: self._open.pop(number, None))

        def on_reply(reply: zenoh.Reply) -> None:
            sample = reply.ok
            if sample is None:
                _fail(future, f"the server of {self.service} could not answer")
            else:
                _answer(future, sample.payload.to_bytes())

        def on_end() -> None:  # after the last reply: there was none
            _fail(future, f"no server of {self.service} has answered; it has ended, or was never there")

        try:
            self._querier.get(
                zenoh.handlers.Callback(on_reply, drop=on_end, indirect=False),
                payload=bytes(data),
                attachment=attachment_bytes(number, time.time_ns(), self.gid),
            )
        except zenoh.ZError as error:
            self._open.pop(number, None)
            raise TransportError(f"{self.service} cannot be called over Zenoh: {error}") from error
        return future

    def call(self, data: Buffer, timeout: float) -> bytes:
        return call(self, data, timeout)

    def close(self) -> None:
        with self._lock:
            if self.closed:
                return
            self.closed = True
            waiting = list(self._open.values())
        for future in waiting:
            _fail(future, f"the client of {self.service} was closed")
        self._values.graph.wake()
        self._leave(self._querier)


class ZenohServer(ZenohEndpoint):
    """See `dora.ros2.engine.ServiceServer`."""

    def __init__(self, values: EndpointValues) -> None:
        super().__init__(values)
        self.service = values.name
        self.counters = MessageCounters()
        # Never drops by itself: its items are open requests, at most `_MAX_OPEN`. A new request is refused
        # and not the oldest one, because the program may be at work on that.
        self._queue: MessageQueue[ServiceRequest] = MessageQueue(None, self.counters)
        self._lock = threading.Lock()
        self._open: dict[RequestId, Any] = {}  # request → its query
        handler = zenoh.handlers.Callback(self._on_query, indirect=False)
        self._queryable = values.session.declare_queryable(values.key, handler, complete=True)
        self._announce()

    def _on_query(self, query: zenoh.Query) -> None:
        try:
            if query.payload is None or query.attachment is None:
                raise ValueError("a request of ROS has a payload and an attachment")
            number, timestamp, client = read_attachment(query.attachment.to_bytes())
        except ValueError:
            self.counters.malformed += 1
            return
        request = RequestId(client, number)
        with self._lock:
            if request in self._open:
                self.counters.malformed += 1
                return
            full = len(self._open) >= _MAX_OPEN
            if full:
                self.counters.dropped += 1
            else:
                self._open[request] = query
        if full:
            query.drop()  # type: ignore[no-untyped-call]  # tells the client that no response comes
            return
        self._queue.put(ServiceRequest(request, query.payload.to_bytes(), timestamp))

    def take_request(self, timeout: float | None = 0) -> ServiceRequest | None:
        return self._queue.take(timeout)

    def set_on_request(self, callback: Callable[[], None] | None) -> None:
        self._queue.set_on_arrival(callback)

    def send_response(self, request: RequestId, data: Buffer) -> None:
        with self._lock:
            query = self._open.pop(request, None)
        if query is None:
            raise TransportError(
                f"{self.service} has no open request {request.sequence_number} of this client"
            )
        attachment = attachment_bytes(request.sequence_number, time.time_ns(), request.client_gid)
        try:
            query.reply(self._values.key, bytes(data), attachment=attachment)
        except zenoh.ZError as error:
            raise TransportError(f"the response of {self.service} cannot be sent: {error}") from error
        finally:
            query.drop()  # tells the client that this was all

    def forget(self, request: RequestId) -> None:
        with self._lock:
            query = self._open.pop(request, None)
        if query is not None:
            query.drop()

    def close(self) -> None:
        if self._queue.closed:
            return
        self._queue.close()
        self._leave(self._queryable)
        with self._lock:
            waiting = list(self._open.values())
            self._open.clear()
        for query in waiting:
            query.drop()


def _answer(future: Future[bytes], data: bytes) -> None:
    try:
        future.set_result(data)
    except InvalidStateError:
        pass  # it was answered before, or nobody waits any more


def _fail(future: Future[bytes], reason: str) -> None:
    try:
        future.set_exception(CallFailed(reason))
    except InvalidStateError:
        pass
