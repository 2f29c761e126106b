"""Clients and servers over Zenoh: a server is a queryable, a request is a query."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import Any, Final

import zenoh

from dora.errors import CallFailed, TransportError
from dora.ros2.engine import (
    Buffer,
    EndpointSpec,
    RequestId,
    ServiceClient,
    ServiceRequest,
    ServiceServer,
    end_future,
)
from dora.ros2.zenoh.endpoint import Declaration, ZenohEndpoint
from dora.ros2.zenoh.keys import attachment_bytes, read_attachment

# A request waits for its response as long as the client does; a result of an action may take hours.
_REQUEST_TIMEOUT: Final = 1e9  # seconds
_MAX_OPEN: Final = 10_000  # requests of a server without a response


class ZenohClient(ZenohEndpoint, ServiceClient):
    """See `dora.ros2.engine.ServiceClient`."""

    def __init__(self, spec: EndpointSpec, declaration: Declaration) -> None:
        super().__init__(spec, declaration)
        self._querier: Any = declaration.session.declare_querier(
            declaration.key,
            target=zenoh.QueryTarget.ALL_COMPLETE,
            consolidation=zenoh.ConsolidationMode.NONE,
            timeout=_REQUEST_TIMEOUT,
        )
        self._sequence_number = 0
        self._announce()

    def is_ready(self) -> bool:
        if self.closed:
            raise self._refusal()
        return bool(self._querier.matching_status.matching)

    def send_request(self, data: Buffer) -> Future[bytes]:
        future: Future[bytes] = Future()
        with self._lock:  # no number twice, and no call that a `close` in between would leave open
            if self.closed:
                raise self._refusal()
            self._sequence_number += 1
            number = self._sequence_number
            self._open[number] = future
        future.add_done_callback(lambda _: self._open.pop(number, None))

        def on_reply(reply: zenoh.Reply) -> None:
            sample = reply.ok
            if sample is None:
                end_future(future, error=CallFailed(f"the server of {self.service} could not answer"))
            else:
                end_future(future, sample.payload.to_bytes())

        def on_end() -> None:  # after the last reply: there was none
            reason = f"no server of {self.service} has answered; it has ended, or was never there"
            end_future(future, error=CallFailed(reason))

        try:
            self._querier.get(
                zenoh.handlers.Callback(on_reply, drop=on_end, indirect=False),
                payload=bytes(data),
                attachment=attachment_bytes(number, time.time_ns(), self._gid),
            )
        except zenoh.ZError as error:
            self._open.pop(number, None)
            raise TransportError(f"{self.service} cannot be called over Zenoh: {error}") from error
        return future

    def _end(self) -> None:
        self._fail_all(f"the client of {self.service} was closed")
        self._leave(self._querier)


class ZenohServer(ZenohEndpoint, ServiceServer):
    """See `dora.ros2.engine.ServiceServer`."""

    def __init__(self, spec: EndpointSpec, declaration: Declaration) -> None:
        super().__init__(spec, declaration)
        # At most `_MAX_OPEN`. A new request is refused and not the oldest one, because the program may be
        # at work on that.
        self._open: dict[RequestId, Any] = {}  # request → its query
        handler = zenoh.handlers.Callback(self._on_query, indirect=False)
        session, key, _ = declaration
        self._queryable = session.declare_queryable(key, handler, complete=True)
        self._announce()

    def _on_query(self, query: zenoh.Query) -> None:
        try:
            if query.payload is None or query.attachment is None:
                raise ValueError("a request of ROS has a payload and an attachment")
            number, _, client = read_attachment(query.attachment.to_bytes())
        except ValueError:
            self.counters.malformed += 1
            return
        request = RequestId(client, number)
        with self._lock:  # the program answers, forgets and closes in other threads
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
        # After the request is among the open ones: the program may answer it at once.
        self._queue.put(ServiceRequest(request, query.payload.to_bytes()))

    def send_response(self, request: RequestId, data: Buffer) -> None:
        with self._lock:
            query = self._open.pop(request, None)
        if query is None:
            raise TransportError(
                f"{self.service} has no open request {request.sequence_number} of this client"
            )
        attachment = attachment_bytes(request.sequence_number, time.time_ns(), request.client_gid)
        try:
            query.reply(self._declaration.key, bytes(data), attachment=attachment)
        except zenoh.ZError as error:
            raise TransportError(f"the response of {self.service} cannot be sent: {error}") from error
        finally:
            query.drop()  # tells the client that this was all

    def forget(self, request: RequestId) -> None:
        with self._lock:
            query = self._open.pop(request, None)
        if query is not None:
            query.drop()

    def _end(self) -> None:
        self._queue.close()
        self._leave(self._queryable)  # before the open requests are dropped: no further one comes
        with self._lock:
            waiting = list(self._open.values())
            self._open.clear()
        for query in waiting:
            query.drop()
