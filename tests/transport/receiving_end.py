"""The receiving end of a link between machines, without a network."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from dora.transport.board import Board
from dora.transport.network.protocol import DATA_HEADER, PROBE
from dora.transport.network.receiver import RemoteReceiver
from dora.wire.node_config import InputConfig

INPUT, OUTPUT = 1, 2  # the lines of link and source on the board


class Payload(bytes):
    def to_bytes(self) -> bytes:
        return bytes(self)


class ReceivingEnd:
    """``acks`` are the acknowledgements that it has sent."""

    def __init__(self, board: Board) -> None:
        self.acks: list[bytes] = []
        session: Any = SimpleNamespace(
            dataflow_id="flow",
            node_id="plot",
            poll=lambda: None,
            put=lambda _, data: self.acks.append(data),
            on_piggyback_ack=None,
        )
        item = InputConfig("image", "link", "camera/image", slot=INPUT, output_slot=OUTPUT)
        self.receiver = RemoteReceiver(session, item, lambda: None, board, 3)

    def probe(self, window: int, last_sequence: int = 0) -> None:
        """Announce a send window."""
        self.receiver.on_probe(PROBE.pack(window, 0, last_sequence, last_sequence, 0))

    def takes(self, window: int, number: int, sequence: int, payload: bytes = b"x") -> bool:
        """Deliver a message; return whether it is taken."""
        header = DATA_HEADER.pack(window, number, sequence, 0, 0, 1, 0, 0, 0)
        return self.receiver.on_message(Payload(payload), header)  # type: ignore[arg-type]
