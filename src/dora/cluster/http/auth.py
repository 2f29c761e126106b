"""Authentication of requests: a client shows the token; pages of other origins are always refused.

Loopback is no exception, because all users of a machine share its addresses. Headers that a proxy adds
about a client are ignored.

A browser cannot show the token with every request. It opens an address with a ticket once, or shows the
token once. After that it has a cookie, which scripts cannot read, and a key, which the page sends in a
header. The cookie alone is not enough: browsers send it to every port of a host, so a server of another
user would get it too. Ticket, cookie and key are random and end with the server, so they are worth nothing
to a program that listens on its port later.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from http.cookies import CookieError, SimpleCookie
from typing import NamedTuple

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from dora.cluster.http_api import Failure
from dora.cluster.protocol import encode

log = logging.getLogger("dora.coordinator.api")

PAGE_HEADER = "x-dora-page"
SUBPROTOCOL = "dora"
UNAUTHORIZED_TEXT = (
    "this coordinator wants its token, {shown}: set DORA_AUTH_TOKEN, or copy its .dora-token "
    "to ~/.config/dora/.dora-token; for a browser, `dora status` prints an address"
)


class Keys(NamedTuple):
    """The secrets of a server: ``token`` for programs, ``ticket`` to log in a browser, and its session."""

    token: str
    ticket: str
    session: str
    page: str

    @property
    def path(self) -> str:
        """The path that logs in a browser."""
        return f"/open?ticket={self.ticket}"


def keys_for(token: str, ticket: str = "") -> Keys:
    """Return keys for a server with this token, and with this ticket or a new one."""
    return Keys(token, ticket or secrets.token_hex(32), secrets.token_hex(32), secrets.token_hex(32))


def failure(status: int, error: str) -> Response:
    """Return the response for a refused request."""
    return Response(encode(Failure(error)), status, media_type="application/json")


def cookie_of(host: str) -> str:
    """Return the name of the cookie for a ``Host`` header; browsers share cookies between ports of a host.

    >>> [cookie_of(host) for host in ("127.0.0.1:6013", "[::1]:6014", "robot")]
    ['dora-session-6013', 'dora-session-6014', 'dora-session-80']
    """
    port = host.rpartition(":")[2]
    return f"dora-session-{port if port.isdecimal() else 80}"


def secrets_equal(shown: str, wanted: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(shown.encode(), wanted.encode())


class AuthMiddleware:
    """Passes on requests that show the token or a session, and refuses all others.

    Requests to ``public_paths`` need neither, but websockets do; a path that ends with ``*`` stands for all
    that begin so.
    ``hosts`` are the names of this host for a server on loopback, and empty for other servers.
    ``unauthorized_text`` is the message for a request without a token.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Keys,
        hosts: frozenset[str],
        public_paths: tuple[str, ...] = (),
        unauthorized_text: str = UNAUTHORIZED_TEXT,
    ) -> None:
        if not keys.token or not keys.ticket:
            raise ValueError("a server without a token would accept every request")
        self._app = app
        self._keys = keys
        self._hosts = hosts
        self._public_paths = public_paths
        self._unauthorized_text = unauthorized_text

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        is_public = scope["type"] == "http" and self._is_public(scope["path"])
        fault = self._fault(headers, is_public)
        if fault is not None:
            log.debug("a %s request from %s is refused: %s", scope["type"], scope.get("client"), fault[1])
        if fault is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await failure(*fault)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": fault[1]})

    def _fault(self, headers: dict[str, str], is_public: bool) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if self._hosts and host.rsplit(":", 1)[0].strip("[]") not in self._hosts:
            return 403, f"`{host}` is not a name of this coordinator"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return 403, f"requests of pages from {origin} are not allowed"
        if not (is_public or self._has_token(headers) or self._has_session(headers, host)):
            shown = "and was shown another one" if "authorization" in headers else "and was shown none"
            return 401, self._unauthorized_text.format(shown=shown)
        return None

    def _is_public(self, path: str) -> bool:
        return any(
            path.startswith(place[:-1]) if place.endswith("*") else path == place
            for place in self._public_paths
        )

    def _has_token(self, headers: dict[str, str]) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and secrets_equal(token.strip(), self._keys.token)

    def _has_session(self, headers: dict[str, str], host: str) -> bool:
        """Return whether the page sent its key and its browser the cookie."""
        key = headers.get(PAGE_HEADER, "")
        for offered in headers.get("sec-websocket-protocol", "").split(","):
            if offered.strip().startswith("page."):  # a page can give no other header to a WebSocket
                key = offered.strip().removeprefix("page.")
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(cookie_of(host))
        except CookieError:
            return False
        return (
            cookie is not None
            and secrets_equal(cookie.value, self._keys.session)
            and secrets_equal(key, self._keys.page)
        )
