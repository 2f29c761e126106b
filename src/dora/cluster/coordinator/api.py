"""The coordinator's API: HTTP for commands, a WebSocket for daemons, and the OpenAPI document of it.

Requests from web pages of other origins are refused, and so are host names that are no address of this
machine: a page in the user's browser must not start programs here.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketDisconnect

from dora._version import __version__
from dora.cluster.coordinator.coordinator import Coordinator
from dora.cluster.coordinator.metrics import RequestCounter
from dora.cluster.coordinator.openapi import document
from dora.cluster.coordinator.placement import is_loopback
from dora.cluster.http.auth import AuthMiddleware, Keys, failure
from dora.cluster.http.endpoints import Endpoint, json_response, read_body, with_refusals
from dora.cluster.http.relay import shortened
from dora.cluster.http_api import (
    DashboardView,
    DownRequest,
    Failure,
    RestartView,
    StartRequest,
    StopRequest,
)
from dora.cluster.message_log import log_message
from dora.cluster.protocol import (
    CLOSE_WITH_REASON,
    VERSION_HEADER,
    Hello,
    Introduction,
    SignedCertificate,
    ToDaemon,
    decode_introduction,
    decode_to_coordinator,
    encode,
    hello_fault,
    version_fault,
)
from dora.cluster.refusal import Refusal
from dora.dataflow.names import machine_id_fault
from dora.errors import DoraError
from dora.transport import proof
from dora.transport.tls import ServerContext, authority_digest
from dora.wire.daemon_protocol import DataflowRequest

if TYPE_CHECKING:
    from dora.cluster.authority import Signer

MAX_WAIT = 60.0  # seconds that one request may wait; clients ask again
HELLO_TIMEOUT = 10.0  # seconds; a connection that has not introduced itself is closed then
FLUSH_TIMEOUT = 5.0  # seconds for the last messages, such as the reason of a rejection
# Seconds without a message from a daemon of another machine, which sends a heartbeat each second.
SILENCE_TIMEOUT = 5.0
# After so much silence, a close comes from a cut or from a daemon that hangs. Shorter than its own timeout.
CUT_SILENCE = 3.0
PING_UNANSWERED = 1011  # close code of a daemon whose pings were not answered

log = logging.getLogger("dora.coordinator.api")


def _check_version(request: Request) -> None:
    """Raise `Refusal` if the command that sends a request is of another version."""
    version = request.headers.get(VERSION_HEADER)
    if version and (fault := version_fault("command", version, __version__)):
        raise Refusal(426, fault)


def _counted(endpoint: Endpoint, path: str, requests: RequestCounter) -> Endpoint:
    """Count the requests of an endpoint."""

    async def answer(request: Request) -> Response:
        begun = time.monotonic()
        response = await endpoint(request)
        seconds = time.monotonic() - begun
        requests.add(request.method, path, response.status_code, seconds)
        log.debug(
            "%s %s: %d after %.1f ms", request.method, request.url.path, response.status_code, seconds * 1e3
        )
        return response

    return answer


def _by_method(endpoints: Mapping[str, Endpoint]) -> Endpoint:
    """Return one endpoint for all methods of a path, so that a refusal can name them all."""

    async def answer(request: Request) -> Response:
        return await endpoints["GET" if request.method == "HEAD" else request.method](request)

    return answer


class LinkAuthority:
    """Signs the certificates of machines. Its authority is made or loaded for the first one."""

    def __init__(self, port: int, *, is_remote: bool, is_kept: bool = True) -> None:
        """``is_remote``: the coordinator serves other machines. ``is_kept``: so is its authority."""
        self._port = port
        self.is_remote = is_remote
        self._is_kept = is_kept
        self._signer: Signer | None = None

    def sign(self, request: str, machine: str) -> tuple[SignedCertificate, str]:
        """Return the certificate, and what tells its authority from others.

        Raises ``ValueError`` for a bad request, `DoraError` if there can be no authority.
        """
        from dora.cluster.authority import Signer, own_authority

        if self._signer is None:
            self._signer = own_authority(self._port) if self._is_kept else Signer.new("dora coordinator")
        text = self._signer.text
        return SignedCertificate(self._signer.sign(request, machine), text), authority_digest(text)


class Pages(NamedTuple):
    """The web pages; requests to ``public_paths`` need no token, see `AuthMiddleware`."""

    routes: Sequence[BaseRoute] = ()
    public_paths: tuple[str, ...] = ()


NO_PAGES = Pages()


def make_api(
    coordinator: Coordinator,
    keys: Keys,
    *,
    hosts: frozenset[str] = frozenset(),
    pages: Pages = NO_PAGES,
    encryption: ServerContext | None = None,
    link_authority: LinkAuthority | None = None,
) -> ASGIApp:
    """Return the ASGI application. Empty ``hosts``: every host name is accepted.

    ``encryption`` is of the server; connections without TLS may arrive all the same. ``link_authority``
    None: daemons get no certificates.
    """
    gives_certificates = link_authority is not None and link_authority.is_remote

    async def prove(request: Request) -> Response:
        nonce = request.query_params.get("nonce", "")
        if not proof.is_nonce(nonce):
            raise Refusal(400, "`nonce` has to be 64 hexadecimal digits")
        if encryption is not None and request.scope["scheme"] == "https":
            place = proof.certificate_place(encryption.encoded)
        else:
            place = proof.address_place(*request.scope["server"])
        return json_response(proof.Proof(proof.proof_of(keys.token, nonce, place), gives_certificates))

    async def dashboard(request: Request) -> Response:
        if "authorization" not in request.headers:
            raise Refusal(403, "a page cannot log in another browser")
        return json_response(DashboardView(keys.path))

    async def health(request: Request) -> Response:  # noqa: ARG001
        return json_response(coordinator.status())

    async def templates(request: Request) -> Response:  # noqa: ARG001
        return json_response(await coordinator.templates())

    async def openapi(request: Request) -> Response:  # noqa: ARG001
        return json_response(document())

    async def listing(request: Request) -> Response:  # noqa: ARG001
        return json_response(await coordinator.dataflows())

    async def start(request: Request) -> Response:
        body = await read_body(request, StartRequest, optional=True)
        return json_response(coordinator.start(body.spec), 201)

    async def clean(request: Request) -> Response:  # noqa: ARG001
        return json_response(coordinator.clean())

    async def show(request: Request) -> Response:
        return json_response(coordinator.dataflow(request.path_params["dataflow"]))

    async def stop(request: Request) -> Response:
        body = await read_body(request, StopRequest, optional=True)
        return json_response(coordinator.stop(request.path_params["dataflow"], body.grace, body.force), 202)

    async def restart(request: Request) -> Response:
        body = await read_body(request, StopRequest, optional=True)
        old, new = await coordinator.restart(request.path_params["dataflow"], body.grace, body.force)
        return json_response(RestartView(old, new), 201)

    async def wait(request: Request) -> Response:
        try:
            timeout = float(request.query_params.get("timeout", MAX_WAIT))
        except ValueError:
            timeout = math.nan
        if not timeout >= 0:
            raise Refusal(400, "`timeout` has to be a number of seconds")
        until = request.query_params.get("until", "ended")
        if until not in ("started", "ended"):
            raise Refusal(400, "`until` has to be started or ended")
        view = await coordinator.wait(
            request.path_params["dataflow"], started=until == "started", timeout=min(timeout, MAX_WAIT)
        )
        return json_response(view)

    async def ask(request: Request) -> Response:
        kind: Any = DataflowRequest  # a union, of which the request says which it is
        body: DataflowRequest = await read_body(request, kind, optional=True)
        machine = request.query_params.get("machine", "")
        return json_response(await coordinator.ask(request.path_params["dataflow"], body, machine))

    async def down(request: Request) -> Response:
        body = await read_body(request, DownRequest, optional=True)
        return json_response(await coordinator.down(body.force))

    async def metrics(request: Request) -> Response:  # noqa: ARG001
        return Response(await coordinator.metrics(), media_type="text/plain; version=0.0.4")

    async def daemon(websocket: WebSocket) -> None:
        await websocket.accept()
        await _serve_daemon(coordinator, websocket, link_authority)

    async def observe(websocket: WebSocket) -> None:
        await websocket.accept()
        version = websocket.headers.get(VERSION_HEADER, "")
        try:
            if version and (fault := version_fault("command", version, __version__)):
                raise Refusal(426, fault)
            machine = websocket.query_params.get("machine", "")
            opened = coordinator.observe(websocket.path_params["dataflow"], machine)
        except Refusal as refusal:
            await websocket.close(CLOSE_WITH_REASON, shortened(str(refusal)))
            return
        await coordinator.relay.serve_client(websocket, opened)

    async def observer(websocket: WebSocket) -> None:
        await websocket.accept()
        await coordinator.relay.serve_observer(websocket, websocket.path_params["ticket"])

    endpoints: list[tuple[str, str, Endpoint]] = [
        ("GET", proof.PATH, prove),
        ("GET", "/api/status", health),
        ("GET", "/api/templates", templates),
        ("GET", "/api/dashboard", dashboard),
        ("GET", "/api/dataflows", listing),
        ("POST", "/api/dataflows", start),
        ("DELETE", "/api/dataflows", clean),
        ("GET", "/api/dataflows/{dataflow}", show),
        ("POST", "/api/dataflows/{dataflow}/stop", stop),
        ("POST", "/api/dataflows/{dataflow}/restart", restart),
        ("GET", "/api/dataflows/{dataflow}/wait", wait),
        ("POST", "/api/dataflows/{dataflow}/requests", ask),
        ("POST", "/api/down", down),
        ("GET", "/openapi.json", openapi),
        ("GET", "/metrics", metrics),
    ]
    by_path: dict[str, dict[str, Endpoint]] = {}
    for method, path, endpoint in endpoints:
        by_path.setdefault(path, {})[method] = _counted(
            with_refusals(endpoint, _check_version), path, coordinator.counter
        )
    routes = [Route(path, _by_method(found), methods=list(found)) for path, found in by_path.items()]
    app = Starlette(
        routes=[
            *routes,
            WebSocketRoute("/api/daemon", daemon),
            WebSocketRoute("/api/dataflows/{dataflow}/observe", observe),
            WebSocketRoute("/api/observers/{ticket}", observer),
            *pages.routes,
        ],
        exception_handlers={HTTPException: _not_found, Exception: _internal_error},
    )
    app.router.redirect_slashes = False
    return AuthMiddleware(app, keys, hosts, (proof.PATH, *pages.public_paths))


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = f"{request.method} {request.url.path}: {error.detail}"
    return json_response(Failure(sentence), error.status_code, error.headers)


async def _internal_error(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return failure(500, f"the coordinator has a problem: {type(error).__name__}: {error}")


async def _serve_daemon(
    coordinator: Coordinator, websocket: WebSocket, link_authority: LinkAuthority | None
) -> None:
    """Serve one daemon until its connection ends.

    The connection ends at once when the daemon's process ends. A close that the daemon sent during a
    network cut arrives late: then there was silence before it, or its code says why. If a daemon hangs, on
    this machine too, the server closes the connection, and there was silence as well.
    """
    outgoing: asyncio.Queue[ToDaemon] = asyncio.Queue()
    connection = None
    sender = None
    silent = False
    loop = asyncio.get_running_loop()
    heard = loop.time()
    try:
        text = await asyncio.wait_for(websocket.receive_text(), HELLO_TIMEOUT)
        try:
            first = decode_to_coordinator(text)
        except msgspec.DecodeError:
            await _reject_other_version(coordinator, websocket, text)
            return
        if not isinstance(first, Hello):
            return
        seen = websocket.client.host if websocket.client is not None else ""
        server = websocket.scope.get("server") or ("", None)
        heard = loop.time()
        if first.request and link_authority is not None and not machine_id_fault(first.machine):
            try:
                signed, authority = link_authority.sign(first.request, first.machine)
            except (ValueError, OSError, DoraError) as error:
                await _reject(coordinator, websocket, first, f"it gets no certificate: {error}")
                return
            outgoing.put_nowait(signed)
            first = msgspec.structs.replace(first, tls=authority)
        connection = coordinator.fleet.connect(first, outgoing.put_nowait, seen, str(server[0]))
        patience = None if is_loopback(seen) else SILENCE_TIMEOUT  # no network, so no cut of one
        sender = asyncio.create_task(_send_all(websocket, outgoing, first.machine))
        while connection is not None:
            try:
                async with asyncio.timeout(patience):
                    text = await websocket.receive_text()
            except TimeoutError:
                silent = True
                break
            heard = loop.time()
            message = decode_to_coordinator(text)
            log_message(log, f"machine `{connection.machine}` says", message)
            coordinator.handle(connection, message)
        async with asyncio.timeout(FLUSH_TIMEOUT):
            await outgoing.join()
    except WebSocketDisconnect as end:
        silent = end.code == PING_UNANSWERED or loop.time() - heard >= CUT_SILENCE
    except (TimeoutError, msgspec.DecodeError, KeyError, RuntimeError):
        pass  # the peer is gone, or is not a daemon (``KeyError``: a frame of bytes)
    finally:
        if connection is not None:
            coordinator.disconnect(connection, silent)
        if sender is not None:
            sender.cancel()
        try:
            await websocket.close()
        except (RuntimeError, WebSocketDisconnect):
            pass  # closed already


async def _reject_other_version(coordinator: Coordinator, websocket: WebSocket, text: str) -> None:
    """Answer a daemon whose `Hello` cannot be read; raises ``DecodeError`` if it is none of a daemon's."""
    introduction = decode_introduction(text)
    if fault := hello_fault(introduction):
        await _reject(coordinator, websocket, introduction, fault)


async def _reject(
    coordinator: Coordinator, websocket: WebSocket, daemon: Hello | Introduction, fault: str
) -> None:
    answers: list[ToDaemon] = []
    coordinator.fleet.reject(daemon, fault, answers.append)
    await websocket.send_text(encode(answers[0]).decode())


async def _send_all(websocket: WebSocket, outgoing: asyncio.Queue[ToDaemon], machine: str) -> None:
    while True:
        message = await outgoing.get()
        log_message(log, f"machine `{machine}` is told", message)
        try:
            await websocket.send_text(encode(message).decode())
        except (RuntimeError, WebSocketDisconnect):
            return  # the receiving side notices
        finally:
            outgoing.task_done()
