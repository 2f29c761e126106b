"""Log entries on their way to the coordinator, which confirms them: a cut takes none away. Pure.

What is written to a connection may never arrive, and nobody says so. So each batch has a number and is kept
until it is confirmed; with a new connection all that are not confirmed are sent again. What the coordinator
has had already, it knows by the number.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Final

import msgspec

from dora.coordinator.protocol import LogBatch
from dora.logs.entry import LogEntry

MOST_ENTRIES: Final = 50_000
MOST_CHARACTERS: Final = 16 << 20
ON_THE_WAY: Final = 64  # batches that are not confirmed


class LogOutbox:
    """Batches in the order of their numbers; when there are too many entries, the oldest go.

    >>> outbox = LogOutbox()
    >>> outbox.add(LogBatch("a", [])); outbox.add(LogBatch("b", []))
    >>> outbox.next().dataflow_id, outbox.next().dataflow_id, outbox.next()
    ('a', 'b', None)
    >>> outbox.confirm(1); outbox.send_again(); outbox.next().dataflow_id
    'b'
    """

    def __init__(self, most_entries: int = MOST_ENTRIES, most_characters: int = MOST_CHARACTERS) -> None:
        self._most_entries = most_entries
        self._most_characters = most_characters
        self._batches: deque[LogBatch] = deque()
        self._sent = 0  # of these, from the left, on the present connection
        self._number = 0
        self._entries = 0
        self._characters = 0
        self._left_out: dict[str, int] = {}  # dataflow → entries

    @property
    def is_empty(self) -> bool:
        return not self._batches

    def add(self, batch: LogBatch) -> None:
        """Take a batch; if there is no room, the oldest ones make it."""
        if left_out := self._left_out.pop(batch.dataflow_id, 0):
            text = f"{left_out} log entries are on their own machine only: they came while it was cut off"
            about = LogEntry(time.time_ns(), "warn", None, text, "daemon")
            batch = msgspec.structs.replace(batch, entries=[about, *batch.entries])
        self._number += 1
        self._batches.append(msgspec.structs.replace(batch, number=self._number))
        self._entries += len(batch.entries)
        self._characters += _characters(batch)
        while len(self._batches) > 1 and (
            self._entries > self._most_entries or self._characters > self._most_characters
        ):
            gone = self._take_oldest()
            self._left_out[gone.dataflow_id] = self._left_out.get(gone.dataflow_id, 0) + len(gone.entries)

    def next(self) -> LogBatch | None:
        """Return the next batch to send, None if there is none or enough are on the way."""
        if self._sent >= min(len(self._batches), ON_THE_WAY):
            return None
        self._sent += 1
        return self._batches[self._sent - 1]

    def confirm(self, number: int) -> None:
        """Forget the batches up to this number."""
        while self._batches and self._batches[0].number <= number:
            self._take_oldest()

    def send_again(self) -> None:
        """Begin again, on a new connection, with what is not confirmed."""
        self._sent = 0

    def _take_oldest(self) -> LogBatch:
        gone = self._batches.popleft()
        self._sent = max(self._sent - 1, 0)
        self._entries -= len(gone.entries)
        self._characters -= _characters(gone)
        return gone


def _characters(batch: LogBatch) -> int:
    return sum(len(entry.message) for entry in batch.entries)
