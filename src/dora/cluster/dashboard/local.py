"""The dashboard of one `dora run --ui`: a process of its own that looks to a browser like a coordinator.

`LocalDashboard` is its side in the run, which opens the listening socket and starts the process:
``python -m dora.cluster.dashboard.local``. The process ends with its standard input: then the run has ended
or was killed.
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
from collections.abc import Callable
from typing import Final

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from dora._paths import LOOPBACK
from dora.cluster.coordinator.policy import Refusal
from dora.cluster.dashboard.pages import PUBLIC_PATHS, Dashboard, Subject
from dora.cluster.http.auth import AuthMiddleware, failure, keys_for
from dora.cluster.http.endpoints import json_response
from dora.cluster.protocol import DataflowView
from dora.dataflow.model import Dataflow
from dora.wire.decoders import from_json

HOST: Final = "127.0.0.1"
FIRST_PORT: Final = 6020
PORTS: Final = 20  # ports that are tried before any free one
END_TIMEOUT: Final = 2.0  # seconds


class LocalRun(msgspec.Struct, frozen=True):
    """The run that the page shows."""

    dataflow_id: str
    name: str
    file: str | None
    log_directory: str
    nodes: list[str]
    created: float  # seconds since the Unix epoch
    ticket: str  # logs in a browser


class LocalDashboard:
    """The dashboard in the process of the run: an address, and the process that serves it."""

    def __init__(self) -> None:
        self._listener = _listen()
        self._process: subprocess.Popen[bytes] | None = None
        self.ticket = secrets.token_hex(32)

    @property
    def address(self) -> str:
        """The address that logs in a browser."""
        return f"http://{HOST}:{self._listener.getsockname()[1]}/open?ticket={self.ticket}"

    def start(self, subject: LocalRun) -> None:
        """Start the process. Browsers that have connected before get their answers then."""
        descriptor = self._listener.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dora.cluster.dashboard.local", str(descriptor)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[descriptor],
            start_new_session=True,  # so that Ctrl-C goes to the run only
        )
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(subject) + b"\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End the process."""
        self._listener.close()
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _listen() -> socket.socket:
    for port in (*range(FIRST_PORT, FIRST_PORT + PORTS), 0):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen(64)
        except OSError:
            listener.close()
            continue
        return listener
    raise AssertionError("some port is always free")


def open_dashboard(dataflow: Dataflow, dataflow_id: str) -> LocalDashboard:
    """Serve the dashboard of a dataflow that is about to run."""
    dashboard = LocalDashboard()
    directory = os.path.join(dataflow.working_dir, "out", dataflow_id)
    nodes = [node.id for node in dataflow.nodes]
    run = LocalRun(
        dataflow_id, dataflow.file_stem, dataflow.file, directory, nodes, time.time(), dashboard.ticket
    )
    dashboard.start(run)
    return dashboard


UNAUTHORIZED_TEXT = (
    "this page is for the user who started it: open the address that `dora run --ui` has printed"
)


def make_app(run: LocalRun, stop: Callable[[], None]) -> tuple[ASGIApp, Dashboard]:
    """Return the application and the dashboard in it; ``stop`` ends the run like Ctrl-C."""
    subject = Subject(run.dataflow_id, run.name, run.file, run.log_directory, running=True)
    view = DataflowView(
        uuid=run.dataflow_id,
        name=run.name,
        status="running",
        nodes=run.nodes,
        file=run.file,
        log_directory=run.log_directory,
        created=run.created,
    )

    def find(wanted: str) -> Subject:
        if wanted not in (run.dataflow_id, run.name):
            raise Refusal(404, f"no dataflow with name or UUID `{wanted}`")
        return subject

    async def status(request: Request) -> Response:  # noqa: ARG001
        return json_response({"kind": "run"})

    async def listing(request: Request) -> Response:  # noqa: ARG001
        return json_response([view])

    async def end(request: Request) -> Response:
        if request.path_params["dataflow"] != run.dataflow_id:
            return failure(404, "no such dataflow")
        stop()
        return json_response(view, 202)

    keys = keys_for(run.ticket, run.ticket)
    dashboard = Dashboard(find, keys)
    routes = [
        Route("/api/status", status),
        Route("/api/dataflows", listing),
        Route("/api/dataflows/{dataflow}/stop", end, methods=["POST"]),
        *dashboard.routes(),
    ]
    return AuthMiddleware(
        Starlette(routes=routes), keys, LOOPBACK, PUBLIC_PATHS, UNAUTHORIZED_TEXT
    ), dashboard


async def _serve(descriptor: int, subject: LocalRun, stdin: int) -> None:
    from dora.cluster.coordinator.server import make_server
    from dora.cluster.http.idle_connections import connection_limit

    run = os.getppid()

    def stop() -> None:
        if os.getppid() == run:  # otherwise the run was killed, and this process has another parent
            os.kill(run, signal.SIGINT)

    app, dashboard = make_app(subject, stop)
    server = make_server(app, connection_limit())
    loop = asyncio.get_running_loop()

    def end() -> None:
        server.should_exit = True

    def wait_for_end_of_run() -> None:
        while os.read(stdin, 1 << 16):
            pass
        loop.call_soon_threadsafe(end)

    threading.Thread(target=wait_for_end_of_run, name="dora-run-ended", daemon=True).start()
    try:
        await server.serve([socket.socket(fileno=descriptor)])
    finally:
        await dashboard.close()


def main() -> None:
    """Serve the run that standard input describes."""
    line = sys.stdin.buffer.readline()
    if line:
        subject = from_json(line, LocalRun)
        asyncio.run(_serve(int(sys.argv[1]), subject, sys.stdin.fileno()))


if __name__ == "__main__":
    main()
