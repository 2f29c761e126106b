"""Parts of an HTTP endpoint: read a JSON body, write a JSON response, turn a `Refusal` into a response."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from dora.cluster.http.auth import failure
from dora.cluster.protocol import MAX_MESSAGE, encode
from dora.cluster.refusal import Refusal
from dora.wire.decoders import from_json

# Seconds until a body is complete. A client that sends byte by byte would hold its connection for ever.
BODY_TIMEOUT: Final = 30.0

_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # not of a backslash that stands for itself

Endpoint = Callable[[Request], Awaitable[Response]]
_Body = TypeVar("_Body")


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encode(value), status, headers, media_type="application/json")


async def read_body(
    request: Request, kind: type[_Body], *, max_size: int = MAX_MESSAGE, optional: bool = False
) -> _Body:
    """Read a JSON body; raises `Refusal`. If it is ``optional``, no body is an empty object."""
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for chunk in request.stream():
                data += chunk
                if len(data) > max_size:
                    raise Refusal(413, f"the request has more than {max_size >> 20} MiB")
    except TimeoutError:
        raise Refusal(408, f"the request was not complete after {BODY_TIMEOUT:g} s") from None
    is_empty = optional and not data
    if not is_empty and not request.headers.get("content-type", "").startswith("application/json"):
        raise Refusal(415, "the content type has to be application/json")
    try:
        body = from_json(b"{}" if is_empty else bytes(data), kind)
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise Refusal(400, f"the request is not understood: {error}") from None
    # As in a dataflow file: the system refuses it as a path, argument or variable. Unknown fields may hold
    # anything; they are not in the body any more.
    if _NUL.search(data) and _NUL.search(encode(body)):
        raise Refusal(400, "the request holds a NUL character, which no program can be given")
    return body


def with_refusals(endpoint: Endpoint, check: Callable[[Request], None] = lambda _: None) -> Endpoint:
    """Return an endpoint that answers a `Refusal` with its status. ``check`` runs first."""

    async def respond(request: Request) -> Response:
        try:
            check(request)
            return await endpoint(request)
        except Refusal as refusal:
            return failure(refusal.status, str(refusal))
        except ClientDisconnect:
            return failure(400, "the request ended in the middle")  # for the log; the client is gone

    return respond
