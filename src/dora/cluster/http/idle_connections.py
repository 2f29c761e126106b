"""Connections that ask for nothing: they are closed, so that those who ask are answered.

uvicorn waits for ever for a request that does not come, or comes byte by byte, and refuses everybody once
it has a certain number of connections. A few hundred idle sockets would shut out the commands and the
daemons. So a connection has `PATIENCE` seconds for each request, and when there is room for no more, the
one goes that has been waiting for longest.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE: Final = 10.0  # seconds for a request, until its head is complete
RESERVE: Final = 64  # file descriptors for everything that is no connection
MOST: Final = 16_384  # connections


def room() -> int:
    """Return how many connections there may be; first allows this process as many files as it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST + RESERVE if hard == resource.RLIM_INFINITY else min(hard, MOST + RESERVE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return MOST if soft == resource.RLIM_INFINITY else max(min(soft - RESERVE, MOST), 1)


class PatientConnection(H11Protocol):
    """An HTTP connection that makes room. ``most``: how many there may be, WebSockets included."""

    def __init__(self, *arguments: Any, most: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._most = most
        self._requests = 0  # answered ones
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waits(self) -> bool:
        """Whether nobody is answering a request on it, of which the last byte may not have come."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since = self.loop.time()
        if len(self.connections) > self._most:
            idle = [
                other for other in self.connections if isinstance(other, PatientConnection) and other.waits
            ]
            min(idle, key=lambda other: other._since, default=self).transport.abort()
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_looking()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._stop_looking()
        super().handle_websocket_upgrade(event)

    def on_response_complete(self) -> None:
        self._requests += 1
        self._since = self.loop.time()
        super().on_response_complete()

    def _look_later(self) -> None:
        self._timer = self.loop.call_later(PATIENCE, self._look, self._requests)

    def _stop_looking(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, requests_before: int) -> None:
        if self.waits and self._requests == requests_before:
            self.transport.abort()
        else:
            self._look_later()
