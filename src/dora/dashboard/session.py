"""One browser on its WebSocket: it gets what is newest, when it is ready for more.

The page asks for each delivery once it has drawn the one before. Until then, what is outdated by something
newer is let go of, so a slow browser costs bounded memory, and sees less instead of later.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from dora.dashboard.frames import Ended, Found, FromWatcher, Lines, Picture, Preview, State

MAX_LINES: Final = 1000  # log entries that wait for a browser
MAX_PARTS: Final = 20  # previews that go on where others ended, as curves do, and wait
HEAD_SIZE: Final = 4  # bytes of the length in front of a preview

Message = str | bytes


class Outbox:
    """What waits for one browser."""

    def __init__(self) -> None:
        self._newest: dict[str, bytes] = {}  # kind → JSON
        self._previews: dict[str, deque[Preview]] = {}
        self._lines: deque[bytes] = deque(maxlen=MAX_LINES)
        self._skipped = 0
        self._answers: deque[Found] = deque(maxlen=8)
        self._something = asyncio.Event()

    def put(self, message: FromWatcher) -> None:
        """Add a message; never waits."""
        match message:
            case Picture(graph=graph):
                self._newest["graph"] = graph
            case State(state=state):
                self._newest["state"] = state
            case Ended():
                self._newest["ended"] = b"true"
            case Lines(entries=entries, skipped=skipped):
                before = len(self._lines)
                self._lines.extend(entries)
                self._skipped += skipped + before + len(entries) - len(self._lines)
            case Found():
                self._answers.append(message)
            case Preview(topic=topic, adds=adds):
                waiting = self._previews.setdefault(topic, deque(maxlen=MAX_PARTS))
                if not adds:
                    waiting.clear()
                waiting.append(message)
        self._something.set()

    def note(self, kind: str, json: bytes) -> None:
        """Add something that is no message of the watcher."""
        self._newest[kind] = json
        self._something.set()

    async def take(self) -> list[Message]:
        """Wait for something, and return all there is: texts are JSON objects, bytes are previews."""
        await self._something.wait()
        self._something.clear()
        parts = [b'"%s":%s' % (kind.encode(), value) for kind, value in self._newest.items()]
        if self._lines or self._skipped:
            parts.append(b'"lines":[%s],"skipped":%d' % (b",".join(self._lines), self._skipped))
        if self._answers:
            found = (
                b'{"ticket":%d,"total":%d,"entries":[%s]}'
                % (item.ticket, item.total, b",".join(item.entries))
                for item in self._answers
            )
            parts.append(b'"found":[%s]' % b",".join(found))
        previews = [item for waiting in self._previews.values() for item in waiting]
        self._newest.clear()
        self._previews.clear()
        self._lines.clear()
        self._answers.clear()
        self._skipped = 0
        return [*([f"{{{b','.join(parts).decode()}}}"] if parts else []), *map(_packed, previews)]


def _packed(preview: Preview) -> bytes:
    """Return a preview as one binary message: the length of its head, the head, the body."""
    name = preview.topic.replace("\\", "\\\\").replace('"', '\\"').encode()
    head = b'{"topic":"%s",%s' % (name, preview.head[1:])
    return len(head).to_bytes(HEAD_SIZE, "little") + head + preview.body
