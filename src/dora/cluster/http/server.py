"""The HTTP server of coordinator and page. It closes idle connections, so that they shut nobody out.

uvicorn waits for ever for a request that does not come, or that comes byte by byte, and refuses all clients
once it has a certain number of connections. A few hundred idle sockets would shut out commands and daemons.
So each request must arrive within `REQUEST_TIMEOUT`, and when the limit is reached, the connection that has
been idle for longest is closed.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import uvicorn
from h11 import LocalProtocolError
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from dora.cluster.protocol import MAX_MESSAGE
from dora.daemon.logs.process_log import BAD_REQUESTS
from dora.transport.proof import is_own_machine
from dora.transport.tls import ServerContext

log = logging.getLogger(BAD_REQUESTS)

REQUEST_TIMEOUT: Final = 10.0  # seconds until the head of a request is complete
RESERVED_FILES: Final = 64  # file descriptors for other purposes than connections
MAX_CONNECTIONS: Final = 16_384  # connections
# Seconds without a look at new connections when no descriptor is free: the listener stays readable, so the
# loop would try without a rest.
_ACCEPT_AGAIN_AFTER: Final = 1.0


def connection_limit() -> int:
    """Raise the limit of open files as far as possible, and return how many connections it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = (
        MAX_CONNECTIONS + RESERVED_FILES
        if hard == resource.RLIM_INFINITY
        else min(hard, MAX_CONNECTIONS + RESERVED_FILES)
    )
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return (
        MAX_CONNECTIONS
        if soft == resource.RLIM_INFINITY
        else max(min(soft - RESERVED_FILES, MAX_CONNECTIONS), 1)
    )


class LimitedConnection(H11Protocol):
    """An HTTP connection with a timeout. Beyond ``max_connections``, WebSockets included, one is closed."""

    def __init__(self, *arguments: Any, max_connections: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._max_connections = max_connections
        self._requests = 0  # answered ones
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered; the next one may have arrived in part."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since = self.loop.time()
        if len(self.connections) > self._max_connections:
            idle = [
                other
                for other in self.connections
                if isinstance(other, LimitedConnection) and other.is_idle
            ]
            min(idle, key=lambda other: other._since, default=self).transport.abort()
        self._schedule_check()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_check()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._cancel_check()
        super().handle_websocket_upgrade(event)

    def send_400_response(self, msg: str) -> None:
        """Answer 400 to bytes that are not HTTP.

        If a request's body is being read, its endpoint is told that the client has left.
        """
        log.warning("%s sent what is no HTTP", self.client[0] if self.client else "a client")
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        try:
            super().send_400_response(msg)
        except LocalProtocolError:  # the answer to the request has begun
            self.transport.close()

    def on_response_complete(self) -> None:
        self._requests += 1
        self._since = self.loop.time()
        super().on_response_complete()

    def _schedule_check(self) -> None:
        self._timer = self.loop.call_later(REQUEST_TIMEOUT, self._check, self._requests)

    def _cancel_check(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self, requests_before: int) -> None:
        if self.is_idle and self._requests == requests_before:
            self.transport.abort()
        else:
            self._schedule_check()


def make_server(
    app: ASGIApp,
    max_connections: int,
    encryption: ssl.SSLContext | None = None,
    *,
    plain_loopback: bool = False,
) -> uvicorn.Server:
    """Return what serves the API, with at most so many connections at once.

    ``plain_loopback``: without TLS for programs of this machine. A browser of this machine would otherwise
    warn of the certificate, and nothing of it is on the network.
    """
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # anybody can send those
        forwarded_allow_ips=[],
        http=partial(LimitedConnection, max_connections=max_connections),  # type: ignore[arg-type]
        ws="websockets-sansio",
        ws_max_size=MAX_MESSAGE,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=1,  # seconds; commands that wait for a dataflow may do so for a minute
    )
    if encryption is None:
        return uvicorn.Server(config)
    return _EncryptedServer(config, encryption, plain_loopback)


class _EncryptedServer(uvicorn.Server):
    """Serves in TLS. uvicorn itself gives a handshake a minute, in which a crowd can shut others out."""

    def __init__(self, config: uvicorn.Config, encryption: ssl.SSLContext, plain_loopback: bool) -> None:
        super().__init__(config)
        self._encryption = encryption
        self._plain_loopback = plain_loopback
        self._handshakes: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.servers = []
        for listener in sockets or ():
            listener.setblocking(False)
            listener.listen(self.config.backlog)
            self._listen(listener)
        self.started = True

    def _listen(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0 and not self.should_exit:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(self.config.backlog):
            try:
                connection, peer = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:  # no file descriptors are left
                loop.remove_reader(listener)
                loop.call_later(_ACCEPT_AGAIN_AFTER, self._listen, listener)
                return
            task = loop.create_task(self._begin(connection, str(peer[0])))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _begin(self, connection: socket.socket, peer: str) -> None:
        def make_connection() -> asyncio.Protocol:
            make: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
            return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

        connection.setblocking(False)
        is_plain = self._plain_loopback and is_own_machine(peer)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                make_connection,
                connection,
                ssl=None if is_plain else self._encryption,
                ssl_handshake_timeout=None if is_plain else REQUEST_TIMEOUT,
            )
        except OSError:  # it speaks no TLS, or is gone
            connection.close()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in sockets or ():
            asyncio.get_running_loop().remove_reader(listener)
        for task in self._handshakes:
            task.cancel()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Use a renewed certificate, within a second."""
        if counter % 10 == 0 and isinstance(self._encryption, ServerContext) and self._encryption.reload():
            logging.getLogger("dora.coordinator").info("the certificate has been renewed")
        return await super().on_tick(counter)
