"""The server of `dora view`: the page of the dashboard, for recordings and without a dataflow."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
from collections.abc import Callable, Sequence
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dora._paths import LOOPBACK
from dora.cluster.dashboard.local import HOST, listen
from dora.cluster.dashboard.page_file import remove_page_file
from dora.cluster.dashboard.pages import PUBLIC_PATHS, Dashboard, Subject
from dora.cluster.http.auth import AuthMiddleware, keys_for
from dora.cluster.http.endpoints import json_response
from dora.cluster.http.server import connection_limit, make_server
from dora.cluster.refusal import Refusal

VIEW: Final = "view"  # id of the recordings
UNAUTHORIZED_TEXT: Final = (
    "this page is for the user who started it: open the address that `dora view` has printed"
)


def serve(files: Sequence[str], process: subprocess.Popen[bytes], announce: Callable[[str], None]) -> None:
    """Serve the page of some recordings, which ``process`` reads, until SIGINT or SIGTERM.

    ``announce`` gets its address once a browser can open it. Raises `DoraError` for a file that is no
    recording.
    """
    asyncio.run(_serve(files, process, announce))


async def _serve(
    files: Sequence[str], process: subprocess.Popen[bytes], announce: Callable[[str], None]
) -> None:
    listener = listen()
    port: int = listener.getsockname()[1]
    ticket = secrets.token_hex(16)  # 128 bits
    keys = keys_for(ticket, ticket)
    dashboard = Dashboard(_find, keys)
    dashboard.histories.open(files, VIEW, process)

    async def status(request: Request) -> Response:  # noqa: ARG001
        return json_response({"kind": VIEW})

    routes = [Route("/api/status", status), *dashboard.routes()]
    app = AuthMiddleware(Starlette(routes=routes), keys, LOOPBACK, PUBLIC_PATHS, UNAUTHORIZED_TEXT)
    server = make_server(app, connection_limit())
    try:
        # So that the command fails for what is no recording, not the page.
        await dashboard.histories.ask(VIEW, b'{"type":"about"}')
        announce(f"http://{HOST}:{port}{keys.path}")
        await server.serve([listener])
    finally:
        remove_page_file(port)
        await dashboard.close()
        listener.close()


def _find(name: str) -> Subject:
    raise Refusal(404, f"no dataflow runs here; this page shows recordings, and not `{name}`")
