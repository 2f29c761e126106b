"""The sending end of a link from a latched output to another machine.

When a receiver is there, a new one or the next process of its node, the messages of the latch come first on
the link. They carry `LATCHED_FLAG`, by which the receiver knows those that a former process had already
(`RemoteReceiver`). The receiving end of the same process, which a restarted sender sends them to as well,
skips them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dora.transport.board import Board
from dora.transport.latch import latch_path, read_entries
from dora.transport.network.fragments import FragmentedMessage
from dora.transport.network.peer import Peer
from dora.transport.network.protocol import KEEP_FLAG, LATCHED_FLAG
from dora.transport.network.sender import RemoteSender
from dora.transport.network.window import Entry, SendWindow
from dora.wire.node_config import LinkConfig, OutputConfig


class LatchedWindow(SendWindow):
    """A send window into which the messages of a latch are put, each once."""

    def __init__(
        self, capacity: int | None, sequence: int, is_old: Callable[[Any], bool] = lambda _: False
    ) -> None:
        super().__init__(
            capacity, sequence, lambda payload: payload[1] & (KEEP_FLAG | LATCHED_FLAG), is_old
        )
        self._latched_to = 0  # messages up to here were put with those of the latch

    def put(self, sequence: int, payload: Any, size: int) -> None:
        if sequence > self._latched_to:
            super().put(sequence, payload, size)

    def put_latched(self, latched: list[tuple[int, bytes]]) -> None:
        """Put the messages of the latch to those that wait, in order.

        Messages that wait since a former process of the receiver may have left the latch meanwhile. They
        stay, but only for a receiver whose former processes did not get them.
        """
        entries: dict[int, Entry] = {
            sequence: (number, sequence, (message, flags & ~LATCHED_FLAG), size)
            for number, sequence, (message, flags), size in self._waiting
        }
        for sequence, data in latched:
            _, _, (message, flags), size = entries.get(sequence) or (0, 0, (_message(data), 0), len(data))
            entries[sequence] = 0, sequence, (message, flags | LATCHED_FLAG), size
            self._latched_to = max(self._latched_to, sequence)
        self._waiting.clear()
        self._waiting.extend(entry for _, entry in sorted(entries.items()))


def _message(data: bytes) -> FragmentedMessage:
    message = FragmentedMessage(data)
    message.zbytes()
    return message


class LatchedRemoteSender(RemoteSender):
    """The sending end of one link of a latched output."""

    _window: LatchedWindow

    def __init__(self, peer: Peer, output: OutputConfig, link: LinkConfig, board: Board) -> None:
        self._latch_path = latch_path(board.path, output.slot)
        super().__init__(peer, output, link, board)

    def _make_window(self, capacity: int | None, sequence: int) -> LatchedWindow:
        return LatchedWindow(capacity, sequence, self._is_old)

    def _on_open(self) -> None:
        # A message that another thread sends now is in the latch: it is written before it is put.
        self._window.put_latched(read_entries(self._latch_path))
