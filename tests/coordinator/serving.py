"""A coordinator in a thread of the test's process, and a daemon that only says what it would do."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tokens import TOKEN, bearer
from waiting import TIMEOUT, wait_until
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from dora._version import __version__
from dora.cluster.coordinator.api import make_api
from dora.cluster.coordinator.coordinator import Coordinator
from dora.cluster.coordinator.store import Store
from dora.cluster.http.auth import keys_for
from dora.cluster.http.server import make_server
from dora.cluster.protocol import (
    DEFAULT_MACHINE,
    Answered,
    Ask,
    Collect,
    Collected,
    Hello,
    RunReport,
    StartRun,
    StopRun,
    ToCoordinator,
    ToDaemon,
    decode_to_daemon,
    encode,
)
from dora.transport.tls import ServerContext
from dora.wire.daemon_protocol import Rejected
from dora.wire.node_protocol import PROTOCOL_VERSION


class Serving:
    """A coordinator that answers at ``port``."""

    def __init__(
        self,
        make_store: Callable[[], Store],
        most: int,
        encryption: ServerContext | None = None,
    ) -> None:
        self._make_store = make_store
        self._encryption = encryption
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(most)))
        self._thread.start()
        assert self._ready.wait(TIMEOUT)

    async def _serve(self, most: int) -> None:
        self._loop = asyncio.get_running_loop()
        coordinator = self._coordinator = Coordinator(self._make_store(), self.end)
        app = make_api(coordinator, keys_for(TOKEN), encryption=self._encryption)
        self._server = make_server(app, most, self._encryption)
        serving = asyncio.ensure_future(self._server.serve([self._listener]))
        self._ready.set()
        await serving
        coordinator.close()

    def in_loop(self, function: Callable[[], Any]) -> Any:
        """Call a function in the thread of the coordinator, and return what it returns."""

        async def call() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(TIMEOUT)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the thread of the coordinator do nothing meanwhile."""
        over = threading.Event()
        self._loop.call_soon_threadsafe(over.wait, TIMEOUT)
        try:
            yield
        finally:
            over.set()

    def lose(self, machine: str) -> None:
        """Let a machine be out of reach."""
        self.in_loop(
            lambda: self._coordinator.disconnect(self._coordinator.fleet.connections[machine], True)
        )

    def daemons(self) -> list[str]:
        """Return who is connected; for the thread of the coordinator."""
        return [link.daemon_id for link in self._coordinator.fleet.connections.values()]

    def end(self) -> None:
        self._server.should_exit = True

    def join(self) -> None:
        self.end()
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()
        self._listener.close()

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, str]:
        """Send a request, with the token unless ``authorization`` is given; return status and answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        try:
            headers = {**bearer(TOKEN), **{name.title(): value for name, value in headers.items()}}
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def websocket(self, path: str = "/api/daemon", token: str = TOKEN) -> ClientConnection:
        headers = bearer(token) if token else {}
        url = f"ws://127.0.0.1:{self.port}{path}"
        return connect(url, additional_headers=headers, proxy=None, compression=None)


@contextmanager
def serving(make_store: Callable[[], Store], most: int = 1000) -> Iterator[Serving]:
    served = Serving(make_store, most)
    try:
        yield served
    finally:
        served.join()


class ObedientDaemon:
    """Says of every dataflow that it runs, and of every stop that it has ended; starts nothing."""

    def __init__(
        self, served: Serving, daemon_id: str = "obedient", machine: str = DEFAULT_MACHINE
    ) -> None:
        self.heard: list[ToDaemon] = []
        self._open = ExitStack()
        self._connection = self._open.enter_context(served.websocket())
        self.say(Hello(__version__, daemon_id, 1, machine=machine, protocol=PROTOCOL_VERSION))
        # It is not known before its greeting was read, and requests take another way.
        wait_until(lambda: daemon_id in served.in_loop(served.daemons), f"daemon {daemon_id}")
        self._thread = threading.Thread(target=self._obey)
        self._thread.start()

    def say(self, message: ToCoordinator) -> None:
        self._connection.send(encode(message).decode())

    def _obey(self) -> None:
        try:
            for text in self._connection:
                message = decode_to_daemon(text)
                self.heard.append(message)
                match message:
                    case StartRun(dataflow_id=dataflow_id):
                        self.say(RunReport(dataflow_id, "Running"))
                    case StopRun(dataflow_id=dataflow_id):
                        self.say(RunReport(dataflow_id, "Finished"))
                    case Ask(ticket=ticket):
                        self.say(Answered(ticket, Rejected("it does not want to")))
                    case Collect(number=number, what=what):
                        self.say(Collected(number, what))
        except ConnectionClosed:
            pass

    def close(self) -> None:
        self._open.close()
        self._thread.join(TIMEOUT)
