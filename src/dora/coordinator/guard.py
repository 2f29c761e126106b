"""Who may speak with a server of dora: the token if there is one, this host's names, no foreign web page.

Where there is no token, the server is one for this machine only, and of its users for the own one only.

A browser cannot send the token with every request. It shows it once, and has a cookie from then on, whose
value follows from the token but does not tell it.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from http.cookies import CookieError, SimpleCookie

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from dora.coordinator.peers import name_of, stranger
from dora.coordinator.protocol import Failure, encode

log = logging.getLogger("dora.coordinator.api")

COOKIE = "dora-session"


def failure(status: int, error: str) -> Response:
    """Return a refusal as the API tells it."""
    return Response(encode(Failure(error)), status, media_type="application/json")


def session_of(token: str) -> str:
    """Return what the cookie of a browser says that has shown the token."""
    return hmac.new(token.encode(), b"dora browser session", hashlib.sha256).hexdigest()


def same(shown: str, wanted: str) -> bool:
    """Tell whether two secrets are the same, in a time that does not tell where they differ."""
    return hmac.compare_digest(shown.encode(), wanted.encode())


class Guard:
    """Lets in who may. The paths ``open_to_all`` (``*`` at the end: all that begin so) need no token.

    ``hosts`` are the names of this host for a server on loopback, and empty for others.
    """

    def __init__(
        self, app: ASGIApp, token: str, hosts: frozenset[str], open_to_all: tuple[str, ...] = ()
    ) -> None:
        self._app = app
        self._token = token
        self._hosts = hosts
        self._open = open_to_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        fault = self._fault(headers, scope["path"])
        if fault is None and self._hosts and not self._token:
            fault = _fault_of_peer(scope)
        if fault is not None:
            log.debug("a %s request from %s is refused: %s", scope["type"], scope.get("client"), fault[1])
        if fault is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await failure(*fault)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": fault[1]})

    def _fault(self, headers: dict[str, str], path: str) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if self._hosts and host.rsplit(":", 1)[0].strip("[]") not in self._hosts:
            return 403, f"`{host}` is not a name of this coordinator"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return 403, f"requests of pages from {origin} are not allowed"
        if self._token and not self._is_open(path) and not self._has_token(headers):
            shown = "and was shown another one" if "authorization" in headers else "and was shown none"
            return 401, (
                f"this coordinator wants its token, {shown}: set DORA_AUTH_TOKEN, or copy its .dora-token "
                "to ~/.config/dora/.dora-token"
            )
        return None

    def _is_open(self, path: str) -> bool:
        return any(
            path.startswith(place[:-1]) if place.endswith("*") else path == place for place in self._open
        )

    def _has_token(self, headers: dict[str, str]) -> bool:
        if same(headers.get("authorization", "").removeprefix("Bearer "), self._token):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and same(cookie.value, session_of(self._token))


def _fault_of_peer(scope: Scope) -> tuple[int, str] | None:
    client, server = scope.get("client"), scope.get("server")
    other = stranger(client, server) if client and server else ""
    if not other:
        return None
    return 403, (
        f"what runs here is {name_of(os.geteuid())}'s, and this request comes from {other}; choose a "
        "port for a coordinator of your own with DORA_COORDINATOR_PORT; one with --auth lets in who has "
        "its token"
    )
