"""Relay between a client and an observer process on another machine.

The daemon of that machine starts the observer, which opens a connection of its own to the coordinator. So
previews do not delay the daemon's heartbeats, and if one end is slow, the other one waits. The coordinator
forwards frames without reading them, and a few frames are in flight at a time.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Final

from starlette.websockets import WebSocket, WebSocketDisconnect

from dora.cluster.protocol import CLOSE_WITH_REASON
from dora.cluster.refusal import Refusal

MAX_SESSIONS: Final = 64  # sessions with one machine at a time
START_TIMEOUT: Final = 60.0  # seconds until an observer must be connected, from a slow machine as well
CLOSE_TIMEOUT: Final = 2.0  # seconds for the last frames
QUEUE_SIZE: Final = 4  # frames; few, so that an observer soon waits for a slow client and replaces items
MAX_FRAME: Final = 8 << 20  # bytes; a larger frame ends its session, so observers stay below (`LARGEST`)
_MAX_REASON: Final = 123  # bytes; a close frame has 125, of which two are the code


class RelayedSession:
    """One session: frames for the observer and frames for the client, until one of them is gone."""

    def __init__(self, machine: str, forget: Callable[[RelayedSession], None]) -> None:
        self.machine = machine
        self._forget = forget
        self.ticket = secrets.token_hex(16)
        self.to_observer: asyncio.Queue[bytes] = asyncio.Queue(QUEUE_SIZE)
        self.to_client: asyncio.Queue[bytes] = asyncio.Queue(QUEUE_SIZE)
        self.ended = asyncio.Event()
        self.reason = ""  # why it ended, if the client did not end it
        self.start_timer: asyncio.TimerHandle | None = None

    def end(self, reason: str = "") -> None:
        """End the session; the first reason counts."""
        if not self.ended.is_set():
            self.reason = reason
            self.ended.set()
            self._forget(self)

    async def receive(self) -> bytes | None:
        """Return the next frame for the client; None at the end."""
        if self.to_client.empty() and not self.ended.is_set():
            coming, over = asyncio.create_task(self.to_client.get()), asyncio.create_task(self.ended.wait())
            try:
                await asyncio.wait({coming, over}, return_when=asyncio.FIRST_COMPLETED)
                if coming.done():
                    return coming.result()
            finally:
                coming.cancel()
                over.cancel()
        return None if self.to_client.empty() else self.to_client.get_nowait()


class Relay:
    """All sessions of one coordinator. For one event loop."""

    def __init__(self) -> None:
        self._sessions: dict[str, RelayedSession] = {}  # by ticket
        self._pending: dict[str, RelayedSession] = {}  # sessions whose observer is not connected yet

    def open(self, machine: str, send: Callable[[str], None]) -> RelayedSession:
        """Open a session; ``send`` gets the ticket for the machine. Raises `Refusal`."""
        if sum(session.machine == machine for session in self._sessions.values()) >= MAX_SESSIONS:
            raise Refusal(
                409, f"there are {MAX_SESSIONS} observers of machine `{machine}` already; end one of them"
            )
        session = RelayedSession(machine, self._close)
        self._sessions[session.ticket] = self._pending[session.ticket] = session
        loop = asyncio.get_running_loop()
        late = f"machine `{machine}` has not started an observer within {START_TIMEOUT:g} s"
        session.start_timer = loop.call_later(START_TIMEOUT, session.end, late)
        send(session.ticket)
        return session

    def _close(self, session: RelayedSession) -> None:
        if session.start_timer is not None:
            session.start_timer.cancel()
        self._sessions.pop(session.ticket, None)
        self._pending.pop(session.ticket, None)

    def refuse(self, ticket: str, reason: str) -> None:
        """End a session because its machine refuses it."""
        if (session := self._sessions.get(ticket)) is not None:
            session.end(reason)

    def lose(self, machine: str, reason: str) -> None:
        """End the sessions with a machine that is gone."""
        for session in list(self._sessions.values()):
            if session.machine == machine:
                session.end(reason)

    async def serve_client(self, websocket: WebSocket, session: RelayedSession) -> None:
        """Connect an accepted WebSocket of a client with its session, until that ends."""
        try:
            await _join(websocket, session, session.to_observer, session.to_client, "")
        finally:
            session.end()

    async def serve_observer(self, websocket: WebSocket, ticket: str) -> None:
        """Connect an accepted WebSocket of an observer with its session; a ticket is valid once."""
        session = self._pending.pop(ticket, None)
        if session is None:
            await websocket.close(CLOSE_WITH_REASON, "no client waits for this observer")
            return
        if session.start_timer is not None:
            session.start_timer.cancel()
        gone_reason = f"the observer on machine `{session.machine}` is gone"
        await _join(websocket, session, session.to_client, session.to_observer, gone_reason)


async def _join(
    websocket: WebSocket,
    session: RelayedSession,
    incoming: asyncio.Queue[bytes],
    outgoing: asyncio.Queue[bytes],
    gone_reason: str,
) -> None:
    async def read() -> None:
        while len(data := await websocket.receive_bytes()) <= MAX_FRAME:
            await incoming.put(data)

    async def write() -> None:
        while True:
            data = await outgoing.get()
            try:
                await websocket.send_bytes(data)
            finally:
                outgoing.task_done()

    reading, writing = asyncio.create_task(read()), asyncio.create_task(write())
    over = asyncio.create_task(session.ended.wait())
    try:
        await asyncio.wait({reading, writing, over}, return_when=asyncio.FIRST_COMPLETED)
        present = not reading.done() and not writing.done()
        session.end(gone_reason)  # if it has not ended: the first reason counts
        if present:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await outgoing.join()
    except TimeoutError:
        pass  # this side takes nothing, and is closed without the last frames
    finally:
        for task in (reading, writing, over):
            task.cancel()
        await asyncio.gather(reading, writing, over, return_exceptions=True)
    try:
        await websocket.close(CLOSE_WITH_REASON if session.reason else 1000, shortened(session.reason))
    except (RuntimeError, WebSocketDisconnect):
        pass  # gone


def shortened(reason: str) -> str:
    """Return a text, shortened to fit into a close frame."""
    data = reason.encode()
    return reason if len(data) <= _MAX_REASON else data[: _MAX_REASON - 3].decode(errors="ignore") + "…"
