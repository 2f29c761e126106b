"""A client of the coordinator's HTTP API, for commands."""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from dora._paths import (
    ADDRESS_VARIABLE,
    ALL_INTERFACES,
    AUTHORITY_VARIABLE,
    LOOPBACK,
    NO_TLS,
    host_and_port,
    split_addresses,
)
from dora._version import __version__
from dora.cluster.http_api import (
    DashboardView,
    DataflowView,
    DownRequest,
    DownView,
    Failure,
    MachineView,
    RestartView,
    StartRequest,
    StopRequest,
    SystemStatus,
)
from dora.cluster.protocol import (
    ACTIVE,
    VERSION_HEADER,
    RunSpec,
    TemplateView,
    encode,
)
from dora.daemon.logs.diagnostics import debug_log
from dora.errors import DoraError
from dora.transport.proof import UnprovenServerError, no_token, proven_connection
from dora.transport.tls import authority_from_environment, is_tls_fault, tls_fault
from dora.transport.tokens import Token, find_token
from dora.wire.daemon_protocol import Answer, DataflowRequest, answer_timeout
from dora.wire.decoders import from_json

_Answer = TypeVar("_Answer")

TIMEOUT = 10.0  # seconds for an answer
# Seconds, the longest wait that one request asks for; below `MAX_WAIT` of the coordinator, which would cut
# it off. `wait` asks again and again, so a coordinator that is cut off is noticed after this and `TIMEOUT`.
WAIT_TIMEOUT = 30.0
_MEANWHILE_EVERY = 3.0  # seconds between two calls of the function that a wait gets


class Unreachable(DoraError):
    """There is no coordinator at the address; ``refused``: nothing listens there.

    ``hint`` is called when the error is shown, and not each time that a command asks again.
    """

    def __init__(self, text: str, hint: Callable[[], str], *, refused: bool = False) -> None:
        super().__init__(text)
        self.refused = refused
        self._hint = hint

    def __str__(self) -> str:
        return f"{super().__str__()}\n\n  hint: {self._hint()}"


class RequestRefused(DoraError):
    """The coordinator refused; ``status`` is HTTP's."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def without_tls(authority: str) -> str:
    """Return the hint for a server that hangs up when it hears no TLS."""
    if authority == NO_TLS:
        return (
            f"one with TLS is reached without {AUTHORITY_VARIABLE}={NO_TLS} and --coordinator-ca {NO_TLS}"
        )
    return f"one with TLS needs {AUTHORITY_VARIABLE}, or --coordinator-ca"


def _notice_cuts(connection: socket.socket) -> None:
    """Make the system end a connection whose other side shows no sign of life for 11 seconds.

    It sends no probes (``KEEP``) while something is on its way, which has a limit of its own on Linux.
    Rejected: a limit for the answer, for a node may get a day to end.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # macOS has another name for the first one, and no last one.
    for name, value in (
        ("TCP_KEEPIDLE", 5),
        ("TCP_KEEPALIVE", 5),
        ("TCP_KEEPINTVL", 2),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 11_000),  # milliseconds
    ):
        if (option := getattr(socket, name, None)) is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


class Client:
    """Requests to one coordinator. All raise `Unreachable`, or `RequestRefused` with its sentence.

    They raise `UnprovenServerError` before they send anything if the server does not prove that it knows
    the token.
    """

    def __init__(
        self,
        address: str,
        port: int,
        starter: str = "dora up",
        authority: str | None = None,
        token: Token | None = None,
    ) -> None:
        """``address`` may be several, with commas; ``starter`` is the command that starts the coordinator.

        ``authority`` is the CA file of the coordinator, "", or `NO_TLS`, see `proven_connection`; None: as
        the environment says. ``token`` None: the one that `find_token` finds.
        """
        self._token = token
        self.addresses = split_addresses(address)
        self.address = self.addresses[0]  # at which it answered last
        self.port = port
        self.authority = authority_from_environment() if authority is None else authority
        self.is_encrypted = False  # the last connection
        self._starter = starter

    @property
    def where(self) -> str:
        return host_and_port(self.address, self.port)

    def token(self) -> Token | None:
        """Return the token of its requests, None if there is none. Raises `DoraError`."""
        return self._token or find_token()

    def dashboard(self) -> str:
        """Return the address that logs in a browser."""
        path = self._request("GET", "/api/dashboard", DashboardView).path
        return f"{'https' if self.is_encrypted else 'http'}://{self.where}{path}"

    def status(self) -> SystemStatus:
        return self._request("GET", "/api/status", SystemStatus, timeout=3.0)

    def link_endpoint(self, machine: MachineView) -> str | None:
        """Return where links of others reach a machine of `status`, as address and port.

        "": nowhere, it connects to them; None: that is not known, because it has had no such links yet. The
        machine of the coordinator is where this client has reached the coordinator.
        """
        if not machine.link_port:
            return None if machine.link_port is None else ""
        from dora.cluster.coordinator.placement import address_of

        return host_and_port(address_of(machine.address, self.address, self.address), machine.link_port)

    def templates(self) -> list[TemplateView]:
        return self._request("GET", "/api/templates", list[TemplateView])

    def dataflows(self) -> list[DataflowView]:
        return self._request("GET", "/api/dataflows", list[DataflowView])

    def active(self) -> list[DataflowView]:
        return [view for view in self.dataflows() if view.status in ACTIVE]

    def dataflow(self, wanted: str) -> DataflowView:
        """Return a dataflow by its UUID, the beginning of it, its name, its file or one of its nodes."""
        from dora.cluster.coordinator.policy import find_by_file_or_node
        from dora.cluster.refusal import Refusal

        unknown = RequestRefused(404, f"no dataflow with name or UUID `{wanted}`; a name has no `/`")
        if "/" not in wanted:
            try:
                return self._request("GET", f"/api/dataflows/{quote(wanted)}", DataflowView)
            except RequestRefused as error:
                if error.status != 404:
                    raise
                unknown = error
        try:
            found = find_by_file_or_node(self.dataflows(), os.path.abspath(wanted), wanted)
        except Refusal as refusal:
            raise RequestRefused(refusal.status, str(refusal)) from None
        if found is None:
            raise unknown
        return found

    def start(self, spec: RunSpec) -> DataflowView:
        return self._request("POST", "/api/dataflows", DataflowView, StartRequest(spec))

    def stop(self, dataflow_id: str, grace: float | None, force: bool) -> DataflowView:
        return self._request(
            "POST", f"/api/dataflows/{dataflow_id}/stop", DataflowView, StopRequest(grace, force)
        )

    def wait(
        self,
        dataflow_id: str,
        *,
        started: bool = False,
        meanwhile: Callable[[DataflowView], None] | None = None,
    ) -> DataflowView:
        """Wait until a dataflow has ended, or with ``started`` until it has started or ended.

        ``meanwhile`` is called every few seconds.
        """
        done = ("Finished", "Failed") + (("Running",) if started else ())
        until = "started" if started else "ended"
        seconds = WAIT_TIMEOUT if meanwhile is None else _MEANWHILE_EVERY
        path = f"/api/dataflows/{dataflow_id}/wait?timeout={seconds}&until={until}"
        while True:
            view = self._request("GET", path, DataflowView, timeout=seconds + TIMEOUT)
            if view.status in done:
                return view
            if meanwhile is not None:
                meanwhile(view)

    def restart(self, dataflow_id: str, grace: float | None, force: bool) -> RestartView:
        """Start a dataflow again; waits for the end of the old one."""
        path = f"/api/dataflows/{dataflow_id}/restart"
        return self._request("POST", path, RestartView, StopRequest(grace, force), timeout=None)

    def ask(self, dataflow_id: str, request: DataflowRequest, machine: str = "") -> Any:
        """Return the answer of a running dataflow to a request; waits until it is carried out.

        ``machine`` is asked if the request names no node; "": the first machine of the dataflow.
        """
        path = f"/api/dataflows/{dataflow_id}/requests?machine={quote(machine)}"
        kind: Any = Answer
        seconds = answer_timeout(request)
        timeout = None if seconds is None else seconds + TIMEOUT  # the coordinator says that it is late
        return self._request("POST", path, kind, request, timeout=timeout)

    def clean(self) -> list[DataflowView]:
        return self._request("DELETE", "/api/dataflows", list[DataflowView])

    def down(self, force: bool) -> DownView:
        """End the coordinator and its daemons, of any version: dora may have been updated meanwhile."""
        body = DownRequest(force)
        # Longer than `SHUTDOWN_TIMEOUT`, in which the coordinator waits for its daemons before it answers.
        return self._request("POST", "/api/down", DownView, body, timeout=30.0, any_version=True)

    def is_reachable(self) -> bool:
        """Return whether a coordinator answers, of any version."""
        try:
            self._request("GET", "/api/status", dict[str, Any], timeout=3.0, any_version=True)
        except (Unreachable, UnprovenServerError):
            return False
        return True

    def other_address(self) -> str:
        """Return the address of this machine at which a coordinator of this port listens; "" if none does.

        Only if the client looked on loopback.
        """
        import psutil

        if self.address not in (*LOOPBACK, "localhost"):
            return ""
        try:
            sockets = psutil.net_connections("tcp")
        except psutil.Error:  # macOS tells root only
            return ""
        listening = {
            each.laddr.ip
            for each in sockets
            if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == self.port
        }
        for address in sorted(listening - {*LOOPBACK, *ALL_INTERFACES}):
            if Client(address, self.port, authority=self.authority, token=self._token).is_reachable():
                return address
        return ""

    def how_to_reach_one(self) -> str:
        """Return a sentence: how to start a coordinator, or how to reach the one of this machine."""
        if address := self.other_address():
            return (
                f"One of this machine listens at {host_and_port(address, self.port)}: set "
                f"{ADDRESS_VARIABLE}={address}, or give --coordinator-addr {address}"
            )
        return f"Start it with `{self._starter}`"

    def _request(
        self,
        method: str,
        path: str,
        kind: type[_Answer],
        body: msgspec.Struct | None = None,
        *,
        timeout: float | None = TIMEOUT,
        any_version: bool = False,
    ) -> _Answer:
        headers = {"Content-Type": "application/json"}
        if not any_version:
            headers[VERSION_HEADER] = __version__
        token = self.token()
        connection = None
        try:
            connection = self._connect(token, timeout)
            if token is None:
                raise DoraError(no_token(self.where))
            headers["Authorization"] = f"Bearer {token.value}"
            if timeout is None:
                _notice_cuts(connection.sock)
            connection.request(method, path, None if body is None else encode(body), headers)
            response = connection.getresponse()
            data = response.read()
            if (log := debug_log("dora.cli")) is not None:
                log.debug("%s %s at %s: %d, %d bytes", method, path, self.where, response.status, len(data))
        except OSError as error:
            if is_tls_fault(error):
                raise DoraError(tls_fault(error, self.where)) from None
            further = ""
            if isinstance(error, ConnectionResetError) and self.authority in ("", NO_TLS):
                further = f"\n  hint: {without_tls(self.authority)}"
            where = " or ".join(host_and_port(address, self.port) for address in self.addresses)
            raise Unreachable(
                f"cannot connect to coordinator at {where}: {error.strerror or error}",
                lambda: f"is the coordinator running? {self.how_to_reach_one()}{further}",
                refused=isinstance(error, ConnectionRefusedError),
            ) from None
        except http.client.HTTPException:
            raise self.not_a_coordinator() from None
        finally:
            if connection is not None:
                connection.close()
        try:
            if response.status >= 400:
                raise RequestRefused(response.status, from_json(data, Failure).error)
            return from_json(data, kind)
        except msgspec.DecodeError:
            raise self.not_a_coordinator() from None

    def _connect(self, token: Token | None, timeout: float | None) -> http.client.HTTPConnection:
        """Connect at the first address that works, beginning with the last one; raises the first fault."""
        faults: list[Exception] = []
        for address in sorted(self.addresses, key=lambda address: address != self.address):
            try:
                connection = proven_connection(address, self.port, token, self.authority)
            except (OSError, http.client.HTTPException, UnprovenServerError) as fault:
                faults.append(fault)
            else:
                self.address = address
                self.is_encrypted = connection.is_encrypted
                connection.sock.settimeout(timeout)
                return connection
        raise faults[0]

    def not_a_coordinator(self) -> DoraError:
        return DoraError(
            f"the server at {self.where} is not a dora coordinator; choose another port with "
            "--coordinator-port or DORA_COORDINATOR_PORT"
        )
