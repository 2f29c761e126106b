"""Service clients and servers, as a program has them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from dora.errors import CallFailed, TransportError
from dora.ros2.api.topics import one_message
from dora.ros2.types.errors import MalformedMessage

if TYPE_CHECKING:
    import pyarrow as pa

    from dora.ros2.api.reports import DroppedMessages
    from dora.ros2.engine import RequestId, ServiceClient, ServiceServer
    from dora.ros2.types.message_type import ServiceType

__all__ = ["Ros2ServiceClient", "Ros2ServiceServer"]

CALL_TIMEOUT: Final = 30.0  # seconds, as in dora-rs
SERVER_TIMEOUT: Final = 20.0  # seconds that a new client waits for a server, as in dora-rs
_TAKE_TIMEOUT: Final = 1.0  # seconds, as in dora-rs


class Ros2ServiceClient:
    """Calls a service. Made by `Ros2Node.create_service_client`."""

    def __init__(self, client: ServiceClient, type: ServiceType) -> None:
        self._client = client
        self._type = type

    def call(
        self,
        request: pa.Array[Any] | Mapping[str, Any] | Sequence[Mapping[str, Any]],
        timeout_s: float | None = None,
    ) -> pa.StructArray:
        """Send a request, and return the response as a struct array of one row.

        ``timeout_s``: seconds, 30 by default. Raises `CallTimedOut` after that, `CallFailed` if the server
        ends or answers with bytes that are no response, `ValueMismatch` for a request that does not fit.
        """
        type = self._type
        data = type.request.encode(one_message(request, type.request.name))
        response = self._client.call(data, CALL_TIMEOUT if timeout_s is None else timeout_s)
        try:
            return type.response.decode(response)
        except MalformedMessage as error:
            raise CallFailed(f"the answer of {self._client.service} cannot be read: {error}") from error

    def close(self) -> None:
        """Leave the service; calls that wait raise `CallFailed`."""
        self._client.close()


class Ros2ServiceServer:
    """Answers the requests of a service. Made by `Ros2Node.create_service_server`."""

    def __init__(self, server: ServiceServer, type: ServiceType, dropped: DroppedMessages) -> None:
        self._server = server
        self.type = type
        self._dropped = dropped
        self._numbers = itertools.count(1)
        self._open: dict[int, RequestId] = {}

    def take_request(self, timeout_s: float | None = None) -> tuple[int, pa.StructArray] | None:
        """Wait for a request, at most ``timeout_s`` seconds, 1 by default.

        Returns the number for `send_response` and the request as a struct array of one row; None if none
        has come. Bytes that are no request are counted and left out.
        """
        left = _TAKE_TIMEOUT if timeout_s is None else timeout_s
        deadline = time.monotonic() + left
        while (request := self._server.take_request(left)) is not None:
            try:
                value = self.type.request.decode(request.data)
            except MalformedMessage as error:
                self._server.counters.malformed += 1
                self._server.forget(request.id)
                self._dropped.add(str(error))
                left = max(deadline - time.monotonic(), 0.0)
                continue
            number = next(self._numbers)
            self._open[number] = request.id
            return number, value
        return None

    def send_response(
        self, request_id: int, response: pa.Array[Any] | Mapping[str, Any] | Sequence[Mapping[str, Any]]
    ) -> None:
        """Answer a request.

        Raises `TransportError` for a number that is not known, or that was answered; `ValueMismatch` for
        a response that does not fit, after which another one may be sent.
        """
        type = self.type.response
        if request_id not in self._open:
            raise TransportError(f"{self._server.service} has no open request {request_id}")
        data = type.encode(one_message(response, type.name))
        self._server.send_response(self._open.pop(request_id), data)

    def forget(self, request_id: int) -> None:
        """Give a request up: it gets no response. Does nothing for one that is not open.

        Over Zenoh its call fails at once; elsewhere the client waits until its own timeout.
        """
        if (request := self._open.pop(request_id, None)) is not None:
            self._server.forget(request)

    def set_on_message(self, callback: Callable[[], None] | None) -> None:
        """Set a function that a thread of the engine calls after each request, and at `close`."""
        self._server.set_on_request(callback)

    def close(self) -> None:
        """Leave the service."""
        self._server.close()
