"""Recordings that pages look back into: a process for each, which `dora.recording.history.worker` runs.

A request of a page goes to the process as it is, and the answer comes back as it is. The black box of a
running dataflow is saved to a file first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import subprocess
from collections.abc import Callable, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dora.cluster.http.endpoints import with_refusals
from dora.cluster.refusal import Refusal
from dora.daemon.client import DaemonClient
from dora.daemon.processes.ending import end_by_stdin
from dora.errors import ConnectError, DoraError
from dora.recording.history.worker import ANSWER, MAX_REQUEST, start_worker
from dora.recording.mcap.process_folder import make_folder, remove_folder
from dora.wire.black_box import SavedBlackBox
from dora.wire.daemon_protocol import SAVE_TIMEOUT, SaveBlackBox

ANSWER_TIMEOUT: Final = 60.0  # seconds; a comparison has none
END_TIMEOUT: Final = 2.0  # seconds; a process that reads for longer is killed then
MAX_ANSWER: Final = 256 << 20  # bytes; previews are far smaller
MOST: Final = 8  # looks back that are open at a time; beyond it, the oldest is closed
_COMPARES: Final = b'"differences"'  # a comparison has a process of its own: it reads everything

log = logging.getLogger("dora.dashboard")


class HistoryProcess:
    """The process that reads some recordings, started with the first request if it does not run yet."""

    def __init__(self, paths: Sequence[str], process: subprocess.Popen[bytes] | None = None) -> None:
        self._paths = paths
        self._process = process
        # One request at a time: an answer does not say to which request it belongs.
        self._lock = asyncio.Lock()

    async def ask(self, request: bytes, timeout: float | None = ANSWER_TIMEOUT) -> bytes:
        """Return the answer to a request; raises `Refusal` with the sentence of the process."""
        async with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = start_worker(self._paths)
            process = self._process
            # A thread cannot be cancelled. So it is shielded, and the end of the process ends it.
            exchange = asyncio.ensure_future(asyncio.to_thread(_exchange, process, request))
            try:
                answer = await asyncio.wait_for(asyncio.shield(exchange), timeout)
            except BaseException as error:
                # Its next answer would be the one to this request, so the next request starts another.
                self._process = None
                process.kill()
                await asyncio.wait([exchange])
                await asyncio.to_thread(_discard, process)
                if isinstance(error, TimeoutError):
                    raise Refusal(504, f"the recording was not read within {timeout:g} s") from None
                if isinstance(error, (OSError, EOFError, ValueError)):
                    log.warning("the process that reads %s ended: %r", self._paths, error)
                    raise Refusal(
                        500, "reading the recording failed; the next request tries again"
                    ) from None
                raise
        if answer[:1] != ANSWER:
            raise Refusal(409, answer[1:].decode(errors="replace"))
        return answer[1:]

    async def close(self) -> None:
        """End the process."""
        process = self._process
        if process is not None:
            await asyncio.to_thread(end_by_stdin, process, END_TIMEOUT)


def _discard(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a process that was killed, and close its pipes."""
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(OSError):  # what was not written is for nobody
            pipe.close()


def _exchange(process: subprocess.Popen[bytes], request: bytes) -> bytes:
    """Send a request and wait for its answer; raises ``OSError``, ``EOFError`` and ``ValueError``."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(len(request).to_bytes(4, "little") + request)
    process.stdin.flush()
    head = process.stdout.read(4)
    size = int.from_bytes(head, "little")
    if len(head) == 4 and not 0 < size <= MAX_ANSWER:
        raise ValueError(f"an answer claims {size} bytes")
    answer = process.stdout.read(size)
    if not answer or len(answer) < size:
        raise EOFError("it ended before it answered")
    return answer


class Histories:
    """The recordings that pages look back into, each with an id that cannot be guessed."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[HistoryProcess, HistoryProcess, Callable[[], None]]] = {}

    def open(
        self,
        paths: Sequence[str],
        name: str = "",
        process: subprocess.Popen[bytes] | None = None,
        on_close: Callable[[], None] = lambda: None,
    ) -> str:
        """Return the id under which pages ask about some recordings.

        ``process`` reads them, if it was started before; ``on_close`` is called at the end.
        """
        id_ = name or secrets.token_hex(8)
        self._open[id_] = HistoryProcess(paths, process), HistoryProcess(paths), on_close
        return id_

    def route(self) -> Route:
        """Return the route of the requests of pages."""
        return Route("/history/{history}", with_refusals(self._answer), methods=["POST"])

    async def _answer(self, request: Request) -> Response:
        found = self._open.get(request.path_params["history"])
        if found is None:
            raise Refusal(404, "this recording is no longer open: go to the present, and look back again")
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_REQUEST:
                raise Refusal(413, "the request is too long")
        reading, comparing, _ = found
        if _COMPARES in body:
            answer = await comparing.ask(bytes(body), None)
        else:
            answer = await reading.ask(bytes(body))
        return Response(
            answer, headers={"Cache-Control": "no-store"}, media_type="application/octet-stream"
        )

    async def ask(self, name: str, request: bytes) -> bytes:
        """Return the answer to a request of the server itself; raises `Refusal`."""
        return await self._open[name][0].ask(request)

    async def close_oldest(self, keep: int = MOST) -> None:
        """Close recordings until there are at most so many."""
        while len(self._open) > keep:
            await self._close(next(iter(self._open)))

    async def close(self) -> None:
        """Close all recordings."""
        await self.close_oldest(0)

    async def _close(self, id_: str) -> None:
        reading, comparing, on_close = self._open.pop(id_)
        await asyncio.gather(reading.close(), comparing.close())
        on_close()


def save_black_box(socket: str, path: str = "", note: str = "") -> str:
    """Write the black box of a run to a file, and return its path.

    ``path`` "": a file of the run, which its report names. ``note`` is a mark in the file. Raises
    `DoraError`.
    """
    try:
        with DaemonClient(socket) as run:
            run.set_patience(SAVE_TIMEOUT)
            answer = run.ask(SaveBlackBox(path=path, note=note))
            assert isinstance(answer, SavedBlackBox)
    except ConnectError:
        raise Refusal(409, "the dataflow has just ended; its recordings are in its folder") from None
    if not answer.path:
        raise DoraError(f"the black box was not saved: {answer.problem}")
    return answer.path


class PastFiles:
    """Files with the content of black boxes, for as long as a page looks at them."""

    def __init__(self) -> None:
        self._folder = ""
        self._count = 0

    def write(self, socket: str) -> str:
        """Write the black box of a run to a file that is not one of its recordings; raises `DoraError`."""
        self._folder = self._folder or make_folder("past")
        self._count += 1
        return save_black_box(socket, os.path.join(self._folder, f"{self._count}.mcap"))

    def close(self) -> None:
        """Remove all files."""
        if self._folder:
            remove_folder(self._folder)
            self._folder = ""
