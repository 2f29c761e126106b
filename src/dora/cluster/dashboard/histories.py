"""Recordings that pages look back into: a process for each, which `dora.recording.history.worker` runs.

A request of a page goes to the process as it is, and the answer comes back as it is.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dora.cluster.http.endpoints import with_refusals
from dora.cluster.refusal import Refusal
from dora.recording.history.worker import ANSWER, MAX_REQUEST

ANSWER_TIMEOUT: Final = 60.0  # seconds; a comparison has none
END_TIMEOUT: Final = 2.0  # seconds
MAX_ANSWER: Final = 256 << 20  # bytes; previews are far smaller
MOST: Final = 8  # recordings that are open at a time; the one that was used least recently is closed
_COMPARES: Final = b'"differences"'  # a comparison has a process of its own: it reads everything

log = logging.getLogger("dora.dashboard")


class HistoryProcess:
    """The process that reads some recordings, started with the first request."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()

    async def ask(self, request: bytes, timeout: float | None = ANSWER_TIMEOUT) -> bytes:
        """Return the answer to a request; raises `Refusal` with the sentence of the process."""
        async with self._lock:
            process = await self._running()
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(len(request).to_bytes(4, "little") + request)
                await process.stdin.drain()
                async with asyncio.timeout(timeout):
                    size = int.from_bytes(await process.stdout.readexactly(4), "little")
                    if not 0 < size <= MAX_ANSWER:
                        raise ValueError(f"an answer claims {size} bytes")
                    answer = await process.stdout.readexactly(size)
            except BaseException as error:
                # The next answer would be the one to this request.
                if process.returncode is None:
                    process.kill()
                if isinstance(error, TimeoutError):
                    raise Refusal(504, f"the recording was not read within {timeout:g} s") from None
                if isinstance(error, (OSError, EOFError, ValueError)):
                    log.warning("the process that reads %s ended: %r", self._paths, error)
                    raise Refusal(500, "reading the recording failed; the page tries again") from None
                raise
        if answer[:1] != ANSWER:
            raise Refusal(409, answer[1:].decode(errors="replace"))
        return answer[1:]

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "dora.recording.history.worker", *self._paths),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # so that Ctrl-C does not end it
            )
        return self._process

    async def close(self) -> None:
        """End the process."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), END_TIMEOUT)
        except TimeoutError:
            process.kill()


class Histories:
    """The recordings that pages look back into, each with an id that cannot be guessed."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[HistoryProcess, HistoryProcess, Callable[[], None]]] = {}

    def open(
        self, paths: Sequence[str], name: str = "", on_close: Callable[[], None] = lambda: None
    ) -> str:
        """Return the id under which pages ask about some recordings; ``on_close`` is called at the end."""
        id_ = name or secrets.token_hex(8)
        self._open[id_] = HistoryProcess(paths), HistoryProcess(paths), on_close
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
