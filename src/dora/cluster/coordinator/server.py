"""Run the coordinator: bind the port, open the store, serve the API until a signal or `dora down`."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable

import msgspec

from dora._paths import LOOPBACK, store_path
from dora.cluster.coordinator.api import LinkAuthority, Pages, make_api
from dora.cluster.coordinator.coordinator import Coordinator
from dora.cluster.coordinator.policy import limits_from
from dora.cluster.coordinator.store import MEMORY, Store, lock_store
from dora.cluster.dashboard.pages import PUBLIC_PATHS, Dashboard, Subject
from dora.cluster.http.auth import Keys, keys_for
from dora.cluster.http.server import connection_limit, make_server
from dora.cluster.protocol import ACTIVE, DEFAULT_MACHINE
from dora.dataflow.graph import graph_of
from dora.dataflow.model import Dataflow
from dora.errors import DoraError
from dora.transport.tls import ServerContext
from dora.transport.tokens import make_token
from dora.wire.decoders import from_plain

log = logging.getLogger("dora.coordinator")


def serve(
    interface: str,
    port: int,
    *,
    on_ready: Callable[[str], None] = lambda _: None,
    encryption: ServerContext | None = None,
    plain_loopback: bool = False,
    link_authority: LinkAuthority | None = None,
    records: str = "",
) -> None:
    """Serve until SIGTERM, SIGINT or `dora down`. Raises `DoraError` if it cannot begin.

    ``records``: the file of the store, `MEMORY`, or "" for this port's file. ``on_ready`` gets the path
    that logs in a browser. With ``encryption`` the API is HTTPS, with ``plain_loopback`` for other machines
    only. ``link_authority``: see `make_api`.
    """
    limits = limits_from(os.environ)
    # The port before the store: a second coordinator of this port fails at once, and does not wait for the
    # lock.
    listener = _listen(interface, port)
    lock = None
    path = records or store_path(port)
    try:
        if path != MEMORY:
            lock = lock_store(path, "choose another port, or name another file with --store")
        token = make_token()
        store = Store(path)
        if encryption is None and interface not in LOOPBACK:
            log.info("nothing is encrypted, the token neither; without --no-tls, all would be")
        how = "listening in TLS" if encryption is not None else "listening"
        log.info("%s on %s:%d, records in %s", how, interface, port, store.path)
        log.info("the token is in %s", token.source)
        keys = keys_for(token.value)
        on_ready(keys.path)

        async def run() -> None:
            def end() -> None:
                server.should_exit = True

            coordinator = Coordinator(store, end, limits, interface)
            dashboard = _dashboard(coordinator, keys)
            app = make_api(
                coordinator,
                keys,
                hosts=LOOPBACK if interface in LOOPBACK else frozenset(),
                pages=Pages(dashboard.routes(), PUBLIC_PATHS),
                encryption=encryption,
                link_authority=link_authority,
            )
            server = make_server(app, connection_limit(), encryption, plain_loopback=plain_loopback)
            try:
                await server.serve([listener])
            finally:
                await dashboard.close()
                coordinator.close()

        asyncio.run(run())
    finally:
        listener.close()
        if lock is not None:
            os.close(lock)


def _dashboard(coordinator: Coordinator, keys: Keys) -> Dashboard:
    """Return the dashboard of all dataflows, running and ended; the keys open it."""

    def find(wanted: str) -> Subject:
        view = coordinator.dataflow(wanted)

        def graph() -> bytes:
            dataflow = from_plain(coordinator.spec(view.uuid).dataflow, Dataflow)
            return msgspec.json.encode(graph_of(dataflow))

        return Subject(
            view,
            graph,
            placed=coordinator.spec(view.uuid).machines if view.status in ACTIVE else {},
            here=DEFAULT_MACHINE if coordinator.fleet.is_local(DEFAULT_MACHINE) else "",
        )

    return Dashboard(find, keys, coordinator.observe)


def _listen(interface: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in interface else socket.AF_INET
    # asyncio sends without delay (TCP_NODELAY) only on sockets that name the protocol. Otherwise the body
    # of an answer could wait for the acknowledgement of its head, which the other side delays by 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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
