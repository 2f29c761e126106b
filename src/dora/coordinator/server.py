"""Run the coordinator: bind the port, open the store, serve the API until told to end."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket

from dora.coordinator.api import make_api
from dora.coordinator.places import LOOPBACK, make_token, store_path, token_path
from dora.coordinator.protocol import MAX_MESSAGE
from dora.coordinator.service import Coordinator
from dora.coordinator.store import Store
from dora.errors import DoraError

MAX_CONNECTIONS = 256

log = logging.getLogger("dora.coordinator")


def serve(interface: str, port: int, *, auth: bool = False) -> None:
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
        asyncio.run(_serve(listener, store, token, interface))
    finally:
        listener.close()


async def _serve(listener: socket.socket, store: Store, token: str, interface: str) -> None:
    import uvicorn

    server: uvicorn.Server | None = None

    def end() -> None:
        assert server is not None
        server.should_exit = True

    coordinator = Coordinator(store, end)
    hosts = LOOPBACK if interface in LOOPBACK else frozenset()
    server = uvicorn.Server(
        uvicorn.Config(
            make_api(coordinator, token=token, hosts=hosts),
            lifespan="off",
            log_config=None,
            access_log=False,
            http="h11",
            ws="websockets-sansio",
            ws_max_size=MAX_MESSAGE,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=1,
        )
    )
    try:
        await server.serve([listener])
    finally:
        coordinator.close()


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
