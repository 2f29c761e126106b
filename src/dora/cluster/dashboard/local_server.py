"""The servers of pages for one user of this machine: of a `dora run --ui`, and of `dora view`.

The page of a run has a process of its own, which looks like a coordinator to a browser.
`dora.cluster.dashboard.local` starts it: ``python -m dora.cluster.dashboard.local_server``.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, Final

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from dora._paths import LOOPBACK, SOCKET_NAME, run_path
from dora.cluster.dashboard.local import HOST, LocalRun, listen
from dora.cluster.dashboard.page_file import remove_page_file
from dora.cluster.dashboard.pages import MAX_BODY, PUBLIC_PATHS, Dashboard, Subject, in_thread
from dora.cluster.http.auth import AuthMiddleware, Keys, failure, keys_for
from dora.cluster.http.endpoints import json_response, read_body, with_refusals
from dora.cluster.http.server import connection_limit, make_server
from dora.cluster.http_api import DataflowView
from dora.cluster.protocol import RunStatus
from dora.cluster.refusal import Refusal, check_request
from dora.daemon.client import DaemonClient
from dora.daemon.logs.diagnostics import configure
from dora.daemon.logs.process_log import limit_lines
from dora.daemon.report import first_cause
from dora.daemon.supervisor.result import DataflowResult
from dora.wire.daemon_protocol import Answer, NodeRequest
from dora.wire.decoders import from_json

VIEW: Final = "view"  # id of the recordings that `dora view` shows


def view_of(run: LocalRun) -> DataflowView:
    """Return the record of a run as a coordinator would have it."""
    return DataflowView(
        uuid=run.dataflow_id,
        name=run.name,
        status="Running",
        nodes=run.nodes,
        file=run.file,
        log_directory=run.log_directory,
        created=run.created,
    )


def ended_view(run: LocalRun, result: DataflowResult) -> DataflowView:
    """Return the record of a run that has just ended."""
    status: RunStatus = "Finished" if result.ok else "Failed"
    reason = first_cause(result, os.path.dirname(run.file or ""))
    return msgspec.structs.replace(
        view_of(run),
        status=status,
        ended=time.time(),
        reason=reason,
        result=result,
    )


def make_app(run: LocalRun, stop: Callable[[], None]) -> tuple[ASGIApp, Dashboard]:
    """Return the application and the dashboard in it; ``stop`` ends the run like Ctrl-C."""
    view = view_of(run)
    subject = Subject(view)

    def find(wanted: str) -> Subject:
        if wanted not in (run.dataflow_id, run.name):
            raise Refusal(404, f"no dataflow with name or UUID `{wanted}`")
        return subject

    async def listing(request: Request) -> Response:  # noqa: ARG001
        return json_response([view])

    async def end(request: Request) -> Response:
        if request.path_params["dataflow"] != run.dataflow_id:
            return failure(404, "no such dataflow")
        stop()
        return json_response(view, 202)

    async def ask(request: Request) -> Response:
        kind: Any = NodeRequest  # others would start programs with the rights of this run
        body: NodeRequest = await read_body(request, kind, max_size=MAX_BODY)
        check_request(body)
        find(request.path_params["dataflow"])
        return json_response(await in_thread(_ask, run.dataflow_id, body))

    keys = keys_for(run.ticket, run.ticket)
    dashboard = Dashboard(find, keys)
    routes = [
        Route("/api/dataflows", listing),
        Route("/api/dataflows/{dataflow}/stop", end, methods=["POST"]),
        Route("/api/dataflows/{dataflow}/requests", with_refusals(ask), methods=["POST"]),
    ]
    return _app("run", "dora run --ui", routes, dashboard, keys), dashboard


def _app(kind: str, command: str, routes: Sequence[BaseRoute], dashboard: Dashboard, keys: Keys) -> ASGIApp:
    """Return the application of a page, with ``routes`` and those of the dashboard.

    ``kind`` tells the page what it shows; ``command`` is what the user has started.
    """

    async def status(request: Request) -> Response:  # noqa: ARG001
        return json_response({"kind": kind})

    app = Starlette(routes=[Route("/api/status", status), *routes, *dashboard.routes()])
    text = f"this page is for the user who started it: open the address that `{command}` has printed"
    return AuthMiddleware(app, keys, LOOPBACK, PUBLIC_PATHS, text)


def _ask(dataflow_id: str, request: NodeRequest) -> Answer:
    """Return the answer of the run to a request; raises `DoraError`."""
    with DaemonClient(f"{run_path(dataflow_id)}/{SOCKET_NAME}") as run:
        return run.ask(request)


async def _serve(descriptor: int, subject: LocalRun, stdin: BinaryIO) -> None:
    run = os.getppid()

    def stop() -> None:
        if os.getppid() == run:  # otherwise the run was killed, and this process has another parent
            os.kill(run, signal.SIGINT)

    listener = socket.socket(fileno=descriptor)
    port = listener.getsockname()[1]
    app, dashboard = make_app(subject, stop)
    server = make_server(app, connection_limit())
    loop = asyncio.get_running_loop()

    async def end(result: bytes) -> None:
        try:
            if result:  # otherwise the run was killed
                view = ended_view(subject, from_json(result, DataflowResult))
                await dashboard.finish(subject.dataflow_id, view)
        finally:  # also after a fault: the run waits for the end of this process
            server.should_exit = True

    def wait_for_end_of_run() -> None:
        asyncio.run_coroutine_threadsafe(end(stdin.read()), loop)

    threading.Thread(target=wait_for_end_of_run, name="dora-run-ended", daemon=True).start()
    try:
        await server.serve([listener])
    finally:
        remove_page_file(port)
        await dashboard.close()


def serve_view(
    files: Sequence[str], process: subprocess.Popen[bytes], announce: Callable[[str], None]
) -> None:
    """Serve the page of some recordings, which ``process`` reads, until SIGINT or SIGTERM.

    ``announce`` gets its address once a browser can open it. Raises `DoraError` for a file that is no
    recording.
    """
    asyncio.run(_serve_view(files, process, announce))


async def _serve_view(
    files: Sequence[str], process: subprocess.Popen[bytes], announce: Callable[[str], None]
) -> None:
    listener = listen()
    port: int = listener.getsockname()[1]
    ticket = secrets.token_hex(16)  # 128 bits
    keys = keys_for(ticket, ticket)
    dashboard = Dashboard(_find_none, keys)
    dashboard.histories.open(files, VIEW, process)
    server = make_server(_app(VIEW, "dora view", (), dashboard, keys), connection_limit())
    try:
        # So that the command fails for what is no recording, not the page.
        await dashboard.histories.ask(VIEW, b'{"type":"about"}')
        announce(f"http://{HOST}:{port}{keys.path}")
        await server.serve([listener])
    finally:
        remove_page_file(port)
        await dashboard.close()
        listener.close()


def _find_none(name: str) -> Subject:
    raise Refusal(404, f"no dataflow runs here; this page shows recordings, and not `{name}`")


def main() -> None:
    """Serve the run that standard input describes."""
    configure("error")  # the run has the terminal
    limit_lines()
    line = sys.stdin.buffer.readline()
    if line:
        subject = from_json(line, LocalRun)
        asyncio.run(_serve(int(sys.argv[1]), subject, sys.stdin.buffer))


if __name__ == "__main__":
    main()
