"""The coordinator's API: HTTP for commands, a WebSocket for daemons, and the OpenAPI document of it.

Requests from web pages of other origins are refused, and so are host names that are no address of this
machine: a page in the user's browser must not start programs here.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from dora._version import __version__
from dora.coordinator.openapi import document
from dora.coordinator.protocol import (
    MAX_MESSAGE,
    VERSION_HEADER,
    DownRequest,
    Failure,
    Hello,
    StartRequest,
    StopRequest,
    ToDaemon,
    decode_to_coordinator,
    encode,
    version_fault,
)
from dora.coordinator.rules import Refusal
from dora.coordinator.service import Coordinator

MAX_WAIT = 60.0  # seconds that one request may wait
HELLO_PATIENCE = 10.0

_Struct = TypeVar("_Struct", bound=msgspec.Struct)
_Endpoint = Callable[[Request], Awaitable[Response]]


def _json(value: Any, status: int = 200) -> Response:
    return Response(encode(value), status, media_type="application/json")


def _failure(status: int, error: str) -> Response:
    return _json(Failure(error), status)


async def _body(request: Request, kind: type[_Struct]) -> _Struct:
    """Read the body of a request; raises `Refusal`. No body is an empty object."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_MESSAGE:
            raise Refusal(413, f"the request has more than {MAX_MESSAGE >> 20} MiB")
    if data and not request.headers.get("content-type", "").startswith("application/json"):
        raise Refusal(415, "the content type has to be application/json")
    try:
        return msgspec.json.decode(bytes(data) or b"{}", type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Refusal(400, f"the request is not understood: {error}") from None


def _answers(endpoint: _Endpoint) -> _Endpoint:
    """Let refusals of an endpoint become responses."""

    async def answer(request: Request) -> Response:
        fault = ""
        if version := request.headers.get(VERSION_HEADER):
            fault = version_fault("command", version, __version__)
        if fault:
            return _failure(426, fault)
        try:
            return await endpoint(request)
        except Refusal as refusal:
            return _failure(refusal.status, str(refusal))

    return answer


class Guard:
    """Lets in who may: the token if there is one, this host's names, no foreign web page."""

    def __init__(self, app: ASGIApp, token: str, hosts: frozenset[str]) -> None:
        self._app = app
        self._token = token
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        fault = self._fault(headers)
        if fault is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await _failure(*fault)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": fault[1]})

    def _fault(self, headers: dict[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if self._hosts and host.rsplit(":", 1)[0].strip("[]") not in self._hosts:
            return 403, f"`{host}` is not a name of this coordinator"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return 403, f"requests of pages from {origin} are not allowed"
        if self._token:
            shown = headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(shown.encode(), self._token.encode()):
                return 401, (
                    "this coordinator wants its token: set DORA_AUTH_TOKEN, or copy its .dora-token to "
                    "~/.config/dora/.dora-token"
                )
        return None


def make_api(coordinator: Coordinator, *, token: str = "", hosts: frozenset[str] = frozenset()) -> ASGIApp:
    """Return the ASGI application. Empty ``hosts``: any host name is fine."""

    async def health(request: Request) -> Response:  # noqa: ARG001
        return _json(coordinator.status())

    async def openapi(request: Request) -> Response:  # noqa: ARG001
        return _json(document())

    async def listing(request: Request) -> Response:  # noqa: ARG001
        return _json(await coordinator.dataflows())

    async def start(request: Request) -> Response:
        wish = await _body(request, StartRequest)
        return _json(coordinator.start(wish.spec), 201)

    async def clean(request: Request) -> Response:  # noqa: ARG001
        return _json(coordinator.clean())

    async def show(request: Request) -> Response:
        return _json(coordinator.dataflow(request.path_params["dataflow"]))

    async def stop(request: Request) -> Response:
        wish = await _body(request, StopRequest)
        return _json(coordinator.stop(request.path_params["dataflow"], wish.grace, wish.force), 202)

    async def restart(request: Request) -> Response:
        wish = await _body(request, StopRequest)
        old, new = await coordinator.restart(request.path_params["dataflow"], wish.grace, wish.force)
        return _json({"old": old, "new": new}, 201)

    async def wait(request: Request) -> Response:
        try:
            timeout = min(max(float(request.query_params.get("timeout", MAX_WAIT)), 0.0), MAX_WAIT)
        except ValueError:
            raise Refusal(400, "`timeout` has to be a number of seconds") from None
        until = request.query_params.get("until", "ended")
        if until not in ("started", "ended"):
            raise Refusal(400, "`until` has to be started or ended")
        view = await coordinator.wait(
            request.path_params["dataflow"], started=until == "started", timeout=timeout
        )
        return _json(view)

    async def down(request: Request) -> Response:
        wish = await _body(request, DownRequest)
        await coordinator.down(wish.force)
        return _json({})

    async def daemon(websocket: WebSocket) -> None:
        await websocket.accept()
        await _serve_daemon(coordinator, websocket)

    endpoints: list[tuple[str, str, _Endpoint]] = [
        ("GET", "/api/status", health),
        ("GET", "/api/dataflows", listing),
        ("POST", "/api/dataflows", start),
        ("DELETE", "/api/dataflows", clean),
        ("GET", "/api/dataflows/{dataflow}", show),
        ("POST", "/api/dataflows/{dataflow}/stop", stop),
        ("POST", "/api/dataflows/{dataflow}/restart", restart),
        ("GET", "/api/dataflows/{dataflow}/wait", wait),
        ("POST", "/api/down", down),
        ("GET", "/openapi.json", openapi),
    ]
    routes = [Route(path, _answers(endpoint), methods=[method]) for method, path, endpoint in endpoints]
    app = Starlette(
        routes=[*routes, WebSocketRoute("/api/daemon", daemon)],
        exception_handlers={HTTPException: _nowhere, Exception: _trouble},
    )
    return Guard(app, token, hosts)


async def _nowhere(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _failure(error.status_code, f"{request.method} {request.url.path}: {error.detail}")


async def _trouble(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return _failure(500, f"the coordinator has a problem: {type(error).__name__}: {error}")


async def _serve_daemon(coordinator: Coordinator, websocket: WebSocket) -> None:
    """Speak with one daemon until its connection ends."""
    outgoing: asyncio.Queue[ToDaemon] = asyncio.Queue()
    link = None
    sender = None
    try:
        first = decode_to_coordinator(await asyncio.wait_for(websocket.receive_text(), HELLO_PATIENCE))
        if not isinstance(first, Hello):
            return
        link = coordinator.join(first, outgoing.put_nowait)
        sender = asyncio.create_task(_send_all(websocket, outgoing))
        while link is not None:
            coordinator.take(decode_to_coordinator(await websocket.receive_text()))
        await outgoing.join()
    except (WebSocketDisconnect, TimeoutError, msgspec.DecodeError, KeyError, RuntimeError):
        pass  # gone, or not a daemon
    finally:
        if link is not None:
            coordinator.leave(link)
        if sender is not None:
            sender.cancel()
        try:
            await websocket.close()
        except RuntimeError:
            pass  # closed already


async def _send_all(websocket: WebSocket, outgoing: asyncio.Queue[ToDaemon]) -> None:
    while True:
        message = await outgoing.get()
        try:
            await websocket.send_text(encode(message).decode())
        finally:
            outgoing.task_done()
