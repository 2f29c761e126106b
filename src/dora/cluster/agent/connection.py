"""The connection of a daemon to its coordinator, which may have several addresses.

They are tried in turn, the one that worked last first. A machine may change its network: then the
connection is lost, and another address may be the right one. All at once would be quicker, but each costs
the coordinator a proof, and a daemon may try for days.

Heartbeats go over it whenever nothing else does. Their round trips compare the clock of this machine with
the coordinator's.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from http.client import HTTPException
from typing import Any, Final, NoReturn, Protocol

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidMessage, InvalidStatus, WebSocketException

from dora._paths import NO_TLS, host_and_port
from dora.cluster.client import without_tls
from dora.cluster.protocol import (
    HEARTBEAT_INTERVAL,
    MAX_MESSAGE,
    SAME_VERSION,
    Heartbeat,
    HeartbeatAnswer,
    RunSpec,
    ToCoordinator,
    ToDaemon,
)
from dora.errors import DoraError
from dora.transport.proof import UnprovenServerError, proven_connection
from dora.transport.tls import client_context, exact_client_context, is_tls_fault, tls_fault
from dora.transport.tokens import Token
from dora.wire.clock import ClockFilter, round_trip

# Seconds between attempts to reach the coordinator. They grow, because each one costs it a proof.
FIRST_RETRY, LAST_RETRY = 0.05, 1.0
# Seconds in which the coordinator must answer a ping. More than its `CUT_SILENCE`: so the close that
# follows a cut comes after a silence by which the coordinator knows that this daemon was not killed.
PING_TIMEOUT: Final = 4.0
ADDRESS_INTERVAL: Final = 0.5  # seconds between looks whether the machine has changed its address

log = logging.getLogger("dora.daemon")


class DaemonRefused(Exception):
    """The coordinator rejects this daemon."""


_CONNECTION_ERRORS = (
    *(UnprovenServerError, DaemonRefused, OSError, WebSocketException, TimeoutError, HTTPException),
    msgspec.DecodeError,
)


class CoordinatorConnection:
    """The coordinator of a daemon, as the daemon reaches it.

    ``name`` stands for it in files of this machine, and stays the same with any of its addresses.
    """

    def __init__(self, addresses: Sequence[str], port: int, token: Token, authority: str) -> None:
        """``authority``: see `dora.transport.proof.proven_connection`. Raises `DoraError`."""
        self.name = f"{addresses[0]}:{port}"
        self._addresses, self._port = addresses, port
        self._address = self._last_good = addresses[0]  # the one that is tried, and the last that worked
        self._token = token
        self._authority = authority
        self._verified = client_context(authority) if authority not in ("", NO_TLS) else None
        self.gives_certificates = self._verified is not None
        """Whether the coordinator signs certificates for links to other machines."""
        self._welcomes = 0
        self._pause = FIRST_RETRY
        self._last_fault = ""  # that was logged

    @property
    def where(self) -> str:
        """The address and port that is tried, or that it is connected at."""
        return host_and_port(self._address, self._port)

    @property
    def url(self) -> str:
        """The address for a WebSocket on a connection that is there already, encrypted or not."""
        return f"ws://{self.where}"

    @property
    def no_connection(self) -> str:
        """The words which say that there is no connection."""
        return f"no connection to the coordinator at {self.where}"

    def on_welcome(self) -> None:
        """To be called when it accepts this daemon."""
        self._welcomes += 1
        self._last_good = self._address
        self._pause, self._last_fault = FIRST_RETRY, ""
        log.info("connected to the coordinator at %s", self.where)

    async def keep_connected(
        self, serve: Callable[[ClientConnection], Awaitable[None]], is_ending: Callable[[], bool]
    ) -> NoReturn:
        """Connect again and again, and serve each connection until it ends.

        Raises `DoraError` if the coordinator rejects this daemon. A rejection after a first welcome stops
        nothing: the coordinator may have come back with another token or version.
        """
        while True:
            faults: list[str] = []
            finals, welcomes = 0, self._welcomes
            for address in sorted(self._addresses, key=lambda address: address != self._last_good):
                self._address = address
                try:
                    await self._connect(serve)
                    faults.append(self.no_connection)
                except _CONNECTION_ERRORS as error:
                    fault, is_final = self._fault_of(error)
                    faults.append(fault)
                    finals += is_final
                if self._welcomes > welcomes:  # it is the first one to try again
                    break
            fault = "; ".join(faults)
            # One final fault is not enough: in another network, a stranger may have one of the addresses.
            if finals == len(faults) and not self._welcomes:
                raise DoraError(fault) from None
            if fault != self._last_fault and not is_ending():
                self._last_fault = fault
                log.warning("%s; trying again and again", fault)
            log.debug("%s; next attempt in %.2f s", fault, self._pause)
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * 1.5, LAST_RETRY)

    async def _connect(self, serve: Callable[[ClientConnection], Awaitable[None]]) -> None:
        """Serve one connection until it ends; raises `_CONNECTION_ERRORS`."""
        proven, encryption = None, self._verified
        if encryption is None:
            # In a thread, because it waits: reports of the dataflows are still read meanwhile.
            proven, encryption = await asyncio.to_thread(self._prove)
        async with connect(
            f"{'ws' if encryption is None else 'wss'}://{self.where}/api/daemon",
            sock=proven,
            ssl=encryption,
            additional_headers={"Authorization": f"Bearer {self._token.value}"},
            max_size=MAX_MESSAGE * 2,
            compression=None,
            proxy=None,
            open_timeout=5.0,
            ping_interval=PING_TIMEOUT / 2,
            ping_timeout=PING_TIMEOUT,
            close_timeout=1.0,
        ) as connection:
            watching = asyncio.create_task(_watch_local_address(connection))
            try:
                await serve(connection)
            finally:
                watching.cancel()

    def _prove(self) -> tuple[socket.socket | None, ssl.SSLContext | None]:
        """Have the coordinator prove its identity by the token; return what leads to it.

        That is a socket or, with TLS, a context that trusts only the certificate of which the proof spoke:
        asyncio takes no socket that is encrypted already.
        """
        connection = proven_connection(self._address, self._port, self._token, self._authority)
        found: socket.socket = connection.sock
        self.gives_certificates = connection.is_encrypted or connection.gives_certificates
        if connection.is_encrypted:
            assert isinstance(found, ssl.SSLSocket)
            certificate = found.getpeercert(binary_form=True)
            connection.close()
            return None, exact_client_context(certificate or b"")
        connection.sock = None
        found.settimeout(None)
        return found, None

    def _fault_of(self, error: Exception) -> tuple[str, bool]:
        """Return why there is no connection, and whether a further attempt would fail too."""
        where = self.where
        not_a_coordinator = f"the server at {where} is not a dora coordinator"
        match error:
            case UnprovenServerError():
                return str(error), True
            case DaemonRefused():
                return f"the coordinator at {where} does not accept this daemon: {error}", True
            case msgspec.DecodeError():
                return f"the coordinator at {where} sent an unknown message: {error}; {SAME_VERSION}", True
            case InvalidStatus() if error.response.status_code in (401, 403):
                return (
                    f"the coordinator at {where} does not accept the token of this daemon; set "
                    "DORA_AUTH_TOKEN, or copy its .dora-token to ~/.config/dora/.dora-token"
                ), True
            case InvalidStatus() if error.response.status_code == 404:
                return not_a_coordinator, False
            case OSError() if is_tls_fault(error):
                return tls_fault(error, where), True
            case HTTPException():
                return not_a_coordinator, False
            case InvalidMessage() if not isinstance(error.__cause__, EOFError):
                return not_a_coordinator, False
            case InvalidMessage() if self._verified is None:
                return f"{self.no_connection}: it hangs up; {without_tls(self._authority)}", False
            case InvalidStatus():
                return self.no_connection, False
            case _:
                return self.no_connection + _reason(error), False


async def _watch_local_address(connection: ClientConnection) -> None:
    """Abort a connection once this machine has not its local address any more.

    The system would keep it, and it would be noticed seconds later, by a ping without an answer.
    """
    address = connection.local_address
    while has_address(address):
        await asyncio.sleep(ADDRESS_INTERVAL)
    log.warning("this machine has lost its address %s", address[0])
    connection.transport.abort()


def has_address(address: Sequence[Any]) -> bool:
    """Return whether a socket address of the internet is one of this machine.

    >>> has_address(("127.0.0.1", 80)), has_address(("192.0.2.1", 80))
    (True, False)
    """
    host, _, *rest = address
    try:
        with socket.socket(socket.AF_INET6 if rest else socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0, *rest))
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL  # no free descriptor says nothing about the address
    return True


def _reason(error: Exception) -> str:
    """Return ": " and why there is no connection; "" if the error does not say."""
    if isinstance(error, TimeoutError):
        return ": it does not answer"
    if isinstance(error, OSError) and error.errno is not None:  # negative: a name that is not known
        return f": {os.strerror(error.errno) if error.errno > 0 else error.strerror}"
    return ""


class Run(Protocol):
    """A dataflow of this machine."""

    spec: RunSpec

    def command(self, message: ToDaemon) -> None: ...


class ClockSync:
    """Sends heartbeats, and tells the workers of distributed dataflows how the clocks differ."""

    def __init__(self) -> None:
        self._filter = ClockFilter()
        self._last: HeartbeatAnswer | None = None

    async def send_heartbeats(self, outgoing: asyncio.Queue[ToCoordinator]) -> None:
        """Send a heartbeat whenever nothing else is sent, without end."""
        while True:
            if outgoing.empty():
                outgoing.put_nowait(Heartbeat(time.time_ns(), self._filter.best))
            await asyncio.sleep(HEARTBEAT_INTERVAL)

    def take(self, answer: HeartbeatAnswer, runs: Iterable[Run]) -> None:
        """Learn from an answer, and pass it on to all dataflows."""
        self._filter.add(round_trip(answer.sent_ns, answer.received_ns, answer.answered_ns, time.time_ns()))
        self._last = answer
        for run in runs:
            self.tell(run)

    def tell(self, run: Run) -> None:
        """Pass the differences of the clocks on to a dataflow that runs on several machines."""
        if self._last is not None and len(set(run.spec.machines.values())) > 1:
            run.command(self._last)
