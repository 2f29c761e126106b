"""The dashboard's pages and their requests, over HTTP and one WebSocket for each dataflow on a page.

`dora run --ui` and the coordinator share it; a `Find` looks up the dataflow.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Callable
from functools import partial
from socket import gethostname
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from dora._paths import PACKAGE, SOCKET_NAME, prefix_of, run_path
from dora.cluster.dashboard.histories import MOST, Histories, PastFiles, save_black_box
from dora.cluster.dashboard.remote import RemoteObservers
from dora.cluster.dashboard.watches import MAX_TOPICS, Viewer, Watch, Watches
from dora.cluster.dashboard.yaml_text import source_of
from dora.cluster.http.auth import SUBPROTOCOL, Keys, cookie_of, secrets_equal
from dora.cluster.http.endpoints import Endpoint, json_response, read_body, with_refusals
from dora.cluster.http.relay import RelayedSession
from dora.cluster.http_api import DataflowView
from dora.cluster.protocol import ACTIVE
from dora.cluster.refusal import Refusal
from dora.daemon.guardian import box_of
from dora.errors import DoraError
from dora.observe.preview.protocol import Search, Target, page_query
from dora.recording.recorder import control
from dora.recording.recorder.process import record_in_folder
from dora.wire.decoders import json_decoder

PUBLIC_PATHS: Final = ("/", "/assets/*", "/login", "/open")  # they show nothing about dataflows
RECORDER_TIMEOUT: Final = 60.0  # seconds for a recorder, which writes what it has in memory
MAX_BODY: Final = 1 << 20  # bytes; a page sends no dataflows
ASSETS: Final = os.path.join(PACKAGE, "assets")
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; form-action 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Subject(msgspec.Struct, frozen=True):
    """A dataflow on the page. ``graph`` is its graph as JSON, if it has ended or has not started.

    ``placed`` is node → machine, and ``here`` is the machine that is observed directly, without a relay.
    """

    view: DataflowView
    graph: Callable[[], bytes] | None = None
    placed: dict[str, str] = {}
    here: str = ""

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.view.status in ACTIVE

    @property
    def shown_machines(self) -> list[str]:
        """All its machines by their ids; this computer, which has none, by its own name."""
        return [
            gethostname() if machine == self.here else machine for machine in self.view.machines or [""]
        ]

    @property
    def remote_machines(self) -> tuple[str, ...]:
        """The machines that are observed over the relay."""
        return tuple(name for name in self.view.machines if name != self.here) if self.running else ()


Find = Callable[[str], Subject]
"""Returns the dataflow with this UUID or name; raises `Refusal`."""
Observe = Callable[[str, str], RelayedSession]
"""Opens a session with an observer of a dataflow on a machine; raises `Refusal`."""
_Result = TypeVar("_Result")


class _NewRecording(msgspec.Struct):
    topics: list[str] = []  # none: all


class _NewSave(msgspec.Struct):
    note: str = ""


class _Token(msgspec.Struct):
    token: str


class _WantTopics(msgspec.Struct, tag="look"):
    """The page wants previews of these topics, and perhaps latencies."""

    topics: list[str] = []
    latency: bool = False


class _Next(msgspec.Struct, tag="next"):
    """The page has drawn what it got, and is ready for more."""


_decode = json_decoder(_WantTopics | Search | _Next)


class Dashboard:
    """Serves the pages; `close` ends all observers."""

    def __init__(self, find: Find, keys: Keys, observe: Observe | None = None) -> None:
        """``keys`` log in a browser. ``observe`` None: there is one machine."""
        self._find = find
        self._keys = keys
        self._observe = observe
        self._watches = Watches()
        self.histories = Histories()
        self._past_files = PastFiles()

    def routes(self) -> list[BaseRoute]:
        """Return the routes of the server."""
        endpoints: list[tuple[str, str, Endpoint]] = [
            ("GET", "/", self._page),
            ("POST", "/login", self._log_in),
            ("GET", "/open", self._open),
            ("GET", "/dashboard/{dataflow}", self._describe),
            ("GET", "/dashboard/{dataflow}/recordings", self._list_recordings),
            ("POST", "/dashboard/{dataflow}/recordings", self._record),
            ("DELETE", "/dashboard/{dataflow}/recordings/{pid}", self._stop_recording),
            ("POST", "/dashboard/{dataflow}/past", self._look_back),
            ("POST", "/dashboard/{dataflow}/save", self._save),
        ]
        return [
            *(
                Route(path, with_refusals(endpoint), methods=[method])
                for method, path, endpoint in endpoints
            ),
            WebSocketRoute("/dashboard/{dataflow}/live", self._live),
            self.histories.route(),
            Mount("/assets", StaticFiles(directory=ASSETS)),
        ]

    async def close(self) -> None:
        await self._watches.close()
        await self.histories.close()
        self._past_files.close()

    async def finish(self, dataflow_id: str, view: DataflowView) -> None:
        """Send the pages of a dataflow how it ended, and wait a little until they have it."""
        await self._watches.finish(dataflow_id, msgspec.json.encode(view))

    # ----------------------------------------------------------------------- pages

    async def _page(self, request: Request) -> Response:  # noqa: ARG002
        return FileResponse(f"{ASSETS}/dashboard.html", media_type="text/html", headers=SECURITY_HEADERS)

    async def _log_in(self, request: Request) -> Response:
        shown = (await _body(request, _Token)).token.strip()
        if not (secrets_equal(shown, self._keys.token) or secrets_equal(shown, self._keys.ticket)):
            raise Refusal(
                401,
                "this is not the token; it is in ~/.config/dora/.dora-token of the user who started dora",
            )
        return self._grant_session(request, _json({"page": self._keys.page}))

    async def _open(self, request: Request) -> Response:
        if not secrets_equal(request.query_params.get("ticket", ""), self._keys.ticket):
            sentence = (
                "This address is not valid: each coordinator and each run has its own, and it ends with "
                "them. `dora status` prints the coordinator's address, `dora run --ui` the run's.\n"
            )
            return Response(sentence, 401, {**SECURITY_HEADERS, "Cache-Control": "no-store"}, "text/plain")
        # A browser never sends the part after #; the page removes it from the address.
        headers = {**SECURITY_HEADERS, "Cache-Control": "no-store", "Location": f"/#page={self._keys.page}"}
        return self._grant_session(request, Response(None, 303, headers))

    def _grant_session(self, request: Request, response: Response) -> Response:
        secure = request.url.scheme == "https"
        name = cookie_of(request.headers.get("host", ""))
        response.set_cookie(name, self._keys.session, httponly=True, samesite="strict", secure=secure)
        return response

    # ----------------------------------------------------------------------- one dataflow

    async def _describe(self, request: Request) -> Response:
        subject = self._find(request.path_params["dataflow"])
        about = {
            "uuid": subject.view.uuid,
            "name": subject.view.name,
            "machines": subject.shown_machines,
            "file": subject.view.file,
            "running": subject.running,
            "here": subject.running and os.path.exists(_socket(subject)),
            "looks_back": subject.running and _keeps_black_box(subject),
            "source": await asyncio.to_thread(source_of, subject.view.file),
            "graph": None if subject.graph is None else msgspec.Raw(subject.graph()),
        }
        return _json(about)

    async def _list_recordings(self, request: Request) -> Response:
        subject = self._find(request.path_params["dataflow"])
        directory = run_path(subject.view.uuid)
        return _json(await asyncio.to_thread(lambda: list(control.statuses(directory))))

    async def _record(self, request: Request) -> Response:
        body = await _body(request, _NewRecording)
        subject = self._running(request)
        socket = _socket(subject)
        directory = subject.view.log_directory
        return _json(await in_thread(record_in_folder, socket, directory, body.topics))

    async def _stop_recording(self, request: Request) -> Response:
        subject = self._running(request)
        pid = request.path_params["pid"]
        if not re.fullmatch("[0-9]{1,10}", pid):
            raise Refusal(404, "no such recording")
        return _json(
            await in_thread(control.ask, run_path(subject.view.uuid), int(pid), "stop", RECORDER_TIMEOUT)
        )

    async def _look_back(self, request: Request) -> Response:
        subject = self._running(request)
        path = await in_thread(self._past_files.write, _socket(subject))
        await self.histories.close_oldest(MOST - 1)
        return _json({"history": self.histories.open([path], on_close=partial(_remove, path))})

    async def _save(self, request: Request) -> Response:
        body = await _body(request, _NewSave)
        subject = self._running(request)
        return _json({"path": await in_thread(save_black_box, _socket(subject), "", body.note)})

    def _running(self, request: Request) -> Subject:
        """Return the running dataflow of a request; raises `Refusal` if it has ended."""
        subject = self._find(request.path_params["dataflow"])
        if not subject.running:
            raise Refusal(409, f"dataflow `{subject.view.name}` has ended")
        return subject

    # ----------------------------------------------------------------------- live

    def _remote_observers(self, subject: Subject) -> Callable[[Watch], RemoteObservers] | None:
        """Return a factory of the remote observers of a watch; None if all nodes are here."""
        observe = self._observe
        if observe is None or not subject.remote_machines:
            return None
        return lambda watch: RemoteObservers(
            subject.remote_machines,
            subject.placed,
            lambda machine: observe(subject.view.uuid, machine),
            watch.send_state,
            watch.receive_remote,
        )

    async def _live(self, websocket: WebSocket) -> None:
        try:
            subject = self._find(websocket.path_params["dataflow"])
        except Refusal as refusal:
            await websocket.close(1008, str(refusal))
            return
        await websocket.accept(
            SUBPROTOCOL if SUBPROTOCOL in websocket.scope.get("subprotocols", ()) else None
        )
        socket = _socket(subject) if subject.running else ""
        target = Target(subject.view.uuid, socket, subject.view.log_directory, subject.remote_machines)
        viewer = Viewer()
        watch = await self._watches.join(target, viewer, self._remote_observers(subject))
        delivery = asyncio.create_task(_deliver(websocket, viewer))
        try:
            while True:
                _handle(await websocket.receive_text(), watch, viewer)
        except (WebSocketDisconnect, msgspec.DecodeError, KeyError, RuntimeError):
            pass  # the page is gone, or is not ours
        finally:
            delivery.cancel()
            self._watches.leave(watch, viewer)


def _handle(text: str, watch: Watch, viewer: Viewer) -> None:
    """Process a message of the page; raises ``msgspec.DecodeError``."""
    match _decode(text):
        case _Next():
            viewer.ready.set()
        case _WantTopics(topics=topics, latency=latency):
            viewer.query = page_query(tuple(topics[:MAX_TOPICS]), latency=latency)
            watch.update_query()
        case wanted:
            watch.search(viewer, wanted)


async def _deliver(websocket: WebSocket, viewer: Viewer) -> None:
    try:
        while True:
            await viewer.ready.wait()
            messages = await viewer.outbox.take()
            viewer.ready.clear()
            for message in messages:
                await (
                    websocket.send_text(message)
                    if isinstance(message, str)
                    else websocket.send_bytes(message)
                )
            await websocket.send_text("{}")  # the delivery is complete: ask for the next one
            viewer.outbox.sent()
    except (WebSocketDisconnect, RuntimeError):
        pass  # the receiving side notices


async def in_thread(work: Callable[..., _Result], *arguments: Any) -> _Result:
    """Run a blocking function in a thread; raises `Refusal` if it fails."""
    try:
        return await asyncio.to_thread(work, *arguments)
    except TimeoutError:
        raise Refusal(504, f"no answer within {RECORDER_TIMEOUT:g} s") from None
    except DoraError as error:
        raise Refusal(409, str(error)) from None


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _keeps_black_box(subject: Subject) -> bool:
    """Return whether the dataflow has a black box, on this machine."""
    return os.path.isdir(box_of(prefix_of(run_path(subject.view.uuid))))


def _socket(subject: Subject) -> str:
    return f"{run_path(subject.view.uuid)}/{SOCKET_NAME}"


def _json(value: Any) -> Response:
    return json_response(value, headers={"Cache-Control": "no-store"})


async def _body(request: Request, kind: type[_Result]) -> _Result:
    return await read_body(request, kind, max_size=MAX_BODY)
