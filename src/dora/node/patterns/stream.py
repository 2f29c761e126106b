"""Streams: sessions of segments of chunks, for data that is played while it is made (speech, video).

A *session* is one conversation; a *segment* one utterance in it; a *chunk* one message. The keys
stand in `dora.wire.correlation`, so the other side may set or read them by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dora.node.send.output import OutputPort
from dora.wire.correlation import uuid7


class Stream:
    """The sending side of one session on one output; made by `Node.stream`. For one thread.

    ``session_id``, ``segment_id`` and ``seq`` describe the next chunk.
    """

    def __init__(
        self, port: OutputPort, session_id: str | None, metadata: Mapping[str, Any] | None
    ) -> None:
        self.session_id = session_id or uuid7()
        self.segment_id = 0
        self.seq = 0
        self._port = port
        self._metadata = dict(metadata or {})

    def send(self, data: Any, *, fin: bool = False, metadata: Mapping[str, Any] | None = None) -> None:
        """Send the next chunk of this segment; ``fin``: it is the last one, the next begins a segment."""
        self._send(data, metadata, fin=fin)
        if fin:
            self._begin_segment()

    def interrupt(self, data: Any = b"", *, metadata: Mapping[str, Any] | None = None) -> None:
        """Give up the segment: begin a new one whose first chunk, sent at once, carries ``flush``.

        Receivers drop, and count, the older chunks that they have not taken yet; they keep messages of
        services and actions.
        """
        if self.seq:
            self._begin_segment()
        self._send(data, metadata, flush=True)

    def _begin_segment(self) -> None:
        self.segment_id += 1
        self.seq = 0

    def _send(
        self, data: Any, metadata: Mapping[str, Any] | None, *, fin: bool = False, flush: bool = False
    ) -> None:
        self._port.send(
            data,
            {
                **self._metadata,
                **(metadata or {}),
                "session_id": self.session_id,
                "segment_id": self.segment_id,
                "seq": self.seq,
                "fin": fin,
                "flush": flush,
            },
        )
        self.seq += 1

    def __repr__(self) -> str:
        return f"<dora.Stream {self.session_id} on {self._port.id!r}, segment {self.segment_id}>"
