"""The journal of a run: what happens to its nodes, and their parameters, for recordings."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from dora.daemon.supervisor.state import RunState
from dora.wire.daemon_protocol import JournalEntries
from dora.wire.journal import JournalEntry, Mark, MarkKind, Values

KEPT: Final = 1000  # entries; a recorder takes new ones several times a second


class Journal:
    """The last entries, each with a number, from 2 on."""

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._kept: deque[JournalEntry] = deque(maxlen=KEPT)
        self.on_entry: Callable[[JournalEntry, bool], None] = lambda _entry, _save: None
        self._number = 1  # of the last entry; 1 is the begin

    def mark(self, kind: MarkKind, node_id: str | None, text: str, *, save: bool = False) -> None:
        """Note that something has happened now, to a node or to the run.

        ``save``: it is worth a file of the black box.
        """
        self._add(Mark(kind, node_id, text), save)

    def parameters(self, node_id: str, values: Mapping[str, Any]) -> None:
        """Note the parameters that a node has from now on."""
        self._add(Values(node_id, dict(values)))

    def entries(self, after: int) -> JournalEntries:
        """Return the entries after a number; for 0, the present parameters of all nodes."""
        if after == 0:
            now = time.time_ns()
            nodes = [node for node in self._state.nodes.values() if not node.machine]
            return JournalEntries(
                self._number, [JournalEntry(now, Values(node.id, dict(node.parameters))) for node in nodes]
            )
        count = min(self._number - after, len(self._kept))
        return JournalEntries(self._number, list(self._kept)[len(self._kept) - count :])

    def _add(self, content: Mark | Values, save: bool = False) -> None:
        self._number += 1
        entry = JournalEntry(time.time_ns(), content)
        self._kept.append(entry)
        self.on_entry(entry, save)
