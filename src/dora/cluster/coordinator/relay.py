"""Looks from one machine into another: who asks here is joined with a process that looks there.

The daemon of the machine starts the process, which connects to the coordinator by itself. So what it sees
does not stand in the way of the daemon's signs of life, and if either end is slow, the other one waits. The
coordinator passes on what it does not read; a few frames are on the way at a time.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Final

from starlette.websockets import WebSocket, WebSocketDisconnect

from dora.cluster.coordinator.policy import Refusal
from dora.cluster.protocol import CLOSE_WITH_REASON

MOST: Final = 64  # looks at one machine at a time
BEGIN: Final = 15.0  # seconds that a process may take to be there
FAREWELL: Final = 2.0  # seconds for what was said last
ROOM: Final = 4  # frames
MAX_FRAME: Final = 8 << 20  # bytes
_MAX_REASON: Final = 123  # bytes


class RelayedSession:
    """One look: frames for the process and frames for who asks, until one of them is gone."""

    def __init__(self, machine: str, forget: Callable[[RelayedSession], None]) -> None:
        self.machine = machine
        self._forget = forget
        self.ticket = secrets.token_hex(16)
        self.to_process: asyncio.Queue[bytes] = asyncio.Queue(ROOM)
        self.to_asker: asyncio.Queue[bytes] = asyncio.Queue(ROOM)
        self.over = asyncio.Event()
        self.reason = ""  # why it ended, if it was nobody's wish
        self.begins: asyncio.TimerHandle | None = None

    def end(self, reason: str = "") -> None:
        """End it; the first reason counts."""
        if not self.over.is_set():
            self.reason = reason
            self.over.set()
            self._forget(self)

    async def receive(self) -> bytes | None:
        """Return what comes for who asks; None at the end."""
        if self.to_asker.empty() and not self.over.is_set():
            coming, over = asyncio.create_task(self.to_asker.get()), asyncio.create_task(self.over.wait())
            try:
                await asyncio.wait({coming, over}, return_when=asyncio.FIRST_COMPLETED)
                if coming.done():
                    return coming.result()
            finally:
                coming.cancel()
                over.cancel()
        return None if self.to_asker.empty() else self.to_asker.get_nowait()


class Relay:
    """All looks of one coordinator. For one event loop."""

    def __init__(self) -> None:
        self._looks: dict[str, RelayedSession] = {}  # by ticket
        self._expected: dict[str, RelayedSession] = {}  # those whose process has not come

    def open(self, machine: str, send: Callable[[str], None]) -> RelayedSession:
        """Let a look begin; ``send`` tells the machine its ticket. Raises `Refusal`."""
        if sum(look.machine == machine for look in self._looks.values()) >= MOST:
            raise Refusal(409, f"there are {MOST} looks at machine `{machine}` already; end one of them")
        look = RelayedSession(machine, self._close)
        self._looks[look.ticket] = self._expected[look.ticket] = look
        loop = asyncio.get_running_loop()
        late = f"machine `{machine}` has not begun to look within {BEGIN:g} s"
        look.begins = loop.call_later(BEGIN, look.end, late)
        send(look.ticket)
        return look

    def _close(self, look: RelayedSession) -> None:
        if look.begins is not None:
            look.begins.cancel()
        self._looks.pop(look.ticket, None)
        self._expected.pop(look.ticket, None)

    def refuse(self, ticket: str, reason: str) -> None:
        """Note that a machine cannot look."""
        if (look := self._looks.get(ticket)) is not None:
            look.end(reason)

    def lose(self, machine: str, reason: str) -> None:
        """End the looks at a machine that is gone."""
        for look in list(self._looks.values()):
            if look.machine == machine:
                look.end(reason)

    async def serve_asker(self, websocket: WebSocket, look: RelayedSession) -> None:
        """Join a WebSocket that is accepted with a look, until that is over."""
        try:
            await _join(websocket, look, look.to_process, look.to_asker, "")
        finally:
            look.end()

    async def serve_process(self, websocket: WebSocket, ticket: str) -> None:
        """The same for the process that looks; its ticket is good once."""
        look = self._expected.pop(ticket, None)
        if look is None:
            await websocket.close(CLOSE_WITH_REASON, "nobody waits for this look")
            return
        if look.begins is not None:
            look.begins.cancel()
        gone = f"what looked on machine `{look.machine}` is gone"
        await _join(websocket, look, look.to_asker, look.to_process, gone)


async def _join(
    websocket: WebSocket,
    look: RelayedSession,
    incoming: asyncio.Queue[bytes],
    outgoing: asyncio.Queue[bytes],
    gone: str,
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
    over = asyncio.create_task(look.over.wait())
    try:
        await asyncio.wait({reading, writing, over}, return_when=asyncio.FIRST_COMPLETED)
        present = not reading.done() and not writing.done()
        look.end("" if present else gone)
        if present:
            async with asyncio.timeout(FAREWELL):
                await outgoing.join()
    except TimeoutError:
        pass
    finally:
        for task in (reading, writing, over):
            task.cancel()
        await asyncio.gather(reading, writing, over, return_exceptions=True)
    try:
        await websocket.close(CLOSE_WITH_REASON if look.reason else 1000, shortened(look.reason))
    except (RuntimeError, WebSocketDisconnect):
        pass  # gone


def shortened(reason: str) -> str:
    """Return a text that fits into a close frame."""
    data = reason.encode()
    return reason if len(data) <= _MAX_REASON else data[: _MAX_REASON - 3].decode(errors="ignore") + "…"
