"""Run the coordinator: bind the port, open the store, serve the API until told to end."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from dora.coordinator.api import Pages, make_api
from dora.coordinator.connections import PatientConnection, room
from dora.coordinator.places import LOOPBACK, make_token, store_path, token_path
from dora.coordinator.protocol import MAX_MESSAGE
from dora.coordinator.service import Coordinator
from dora.coordinator.store import Store
from dora.errors import DoraError

log = logging.getLogger("dora.coordinator")


MakePages = Callable[[Coordinator, str], Pages]
"""Makes the pages of a coordinator, from it and its token ("": none)."""


def serve(interface: str, port: int, make_pages: MakePages, *, auth: bool = False) -> None:
    """Serve until SIGTERM, SIGINT or `dora down`. Raises `DoraError` if it cannot begin.

    The token is asked for with ``auth``, and always where other machines can reach the interface.
    """
    listener = _listen(interface, port)  # first: who has the port has the store
    try:
        token = make_token() if auth or interface not in LOOPBACK else ""
        store = Store(store_path(port))
        if token:
            log.info("the token is in %s", token_path())
        log.info("listening on %s:%d, records in %s", interface, port, store.path)
        asyncio.run(_serve(listener, store, token, interface, make_pages))
    finally:
        listener.close()


async def _serve(
    listener: socket.socket, store: Store, token: str, interface: str, make_pages: MakePages
) -> None:
    server: uvicorn.Server

    def end() -> None:
        server.should_exit = True

    coordinator = Coordinator(store, end)
    hosts = LOOPBACK if interface in LOOPBACK else frozenset()
    pages = make_pages(coordinator, token)
    server = make_server(make_api(coordinator, token=token, hosts=hosts, pages=pages), room())
    try:
        await server.serve([listener])
    finally:
        coordinator.close()


def make_server(app: ASGIApp, most: int) -> uvicorn.Server:
    """Return what serves the API, with at most so many connections at once."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            http=partial(PatientConnection, most=most),  # type: ignore[arg-type]
            ws="websockets-sansio",
            ws_max_size=MAX_MESSAGE,
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=1,
        )
    )


def _listen(interface: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in interface else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((interface, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise DoraError(
                f"port {port} of {interface} is in use; choose another one, for commands too, with "
                "DORA_COORDINATOR_PORT"
            ) from None
        raise DoraError(f"cannot listen on {interface}:{port}: {error.strerror}") from None
    return listener
