"""What the dashboard of one run answers: it looks to a browser like a coordinator with one dataflow."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from dora.coordinator.address import LOOPBACK
from dora.coordinator.guard import Guard, failure, keys_for
from dora.coordinator.protocol import DataflowView, encode
from dora.coordinator.rules import Refusal
from dora.dashboard import local
from dora.dashboard.pages import OPEN_TO_ALL, Dashboard, Subject

SENTENCE = "this page is for the user who started it: open the address that `dora run --ui` has printed"


def make_app(run: local.LocalRun, stop: Callable[[], None]) -> tuple[ASGIApp, Dashboard]:
    """Return the application and the dashboard in it; ``stop`` lets the run end as Ctrl-C does."""
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

    def json(value: object, status: int = 200) -> Response:
        return Response(encode(value), status, media_type="application/json")

    async def status(request: Request) -> Response:  # noqa: ARG001
        return json({"kind": "run"})

    async def listing(request: Request) -> Response:  # noqa: ARG001
        return json([view])

    async def end(request: Request) -> Response:
        if request.path_params["dataflow"] != run.dataflow_id:
            return failure(404, "no such dataflow")
        stop()
        return json(msgspec.structs.replace(view), 202)

    keys = keys_for(run.ticket, run.ticket)
    dashboard = Dashboard(find, keys)
    routes = [
        Route("/api/status", status),
        Route("/api/dataflows", listing),
        Route("/api/dataflows/{dataflow}/stop", end, methods=["POST"]),
        *dashboard.routes(),
    ]
    return Guard(Starlette(routes=routes), keys, LOOPBACK, OPEN_TO_ALL, SENTENCE), dashboard
