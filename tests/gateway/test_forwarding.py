"""The sending side of an output of another machine, while its links change."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dora.gateway.ports import ForwardingPort
from dora.transport.board import BEGUN, CONNECTED, STATE, Board
from dora.transport.spill import SpillWriter, spill_folder
from dora.wire.encode import encode
from dora.wire.message import pack_head
from dora.wire.metadata import encode_metadata
from dora.wire.node_config import ChannelConfig, LinkConfig, OutputConfig
from dora.wire.untrusted import UntrustedMessage

OUTPUT, FIRST_LINK, SECOND_LINK, NODE, LINES = 0, 1, 2, 3, 4


class Channel:
    """A sender of the engine that notes what it gets."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, message: bytes, control: bytes = b"") -> None:  # noqa: ARG002
        self.sent.append(message)

    def prepare(self) -> None:
        pass


def message(sequence: int, metadata: dict[str, Any] | None = None) -> UntrustedMessage:
    payload = encode(b"x")
    section = encode_metadata(metadata) if metadata else b""
    head = pack_head(payload.encoding, payload.schema, section, payload.size, sequence, 1)
    return UntrustedMessage(head + payload.to_bytes())


def test_another_link_changes_nothing_for_those_that_are_there(tmp_path: Path) -> None:
    board = Board.create(str(tmp_path / "board"), LINES)
    bell = str(tmp_path / "bell")
    first = LinkConfig(slot=FIRST_LINK, node_slot=NODE, bell=bell, consumer="b/x", queue_size=2)
    second = LinkConfig(slot=SECOND_LINK, node_slot=NODE, bell=bell, consumer="c/x", queue_size=2)
    config = OutputConfig("x", "channel", OUTPUT, [first])
    channel, overflow = Channel(), Channel()
    port = ForwardingPort(
        config,
        channel,  # type: ignore[arg-type]
        board,
        rings=True,
        node_slot=None,
        doorbell=lambda _: SimpleNamespace(),  # type: ignore[arg-type, return-value]
        spill=SpillWriter(str(tmp_path), board),
    )
    board.set(FIRST_LINK, STATE, CONNECTED)
    kept = message(1, {"request_id": "a"})
    port.forward(kept, None)

    changed = OutputConfig(
        "x", "channel", OUTPUT, [first, second], overflow_channels=[ChannelConfig("more", 2, 1)]
    )
    port.change(changed, lambda channel: {"more": overflow}[channel.service])  # type: ignore[return-value]
    assert board.get(OUTPUT, BEGUN) == 0, "no earlier message is missing"
    for sequence in (2, 3, 4):
        port.forward(message(sequence), None)
    assert [len(channel.sent), len(overflow.sent)] == [4, 3]
    (file,) = Path(spill_folder(str(tmp_path), FIRST_LINK)).iterdir()
    assert file.read_bytes() == kept.head, "its full queue has dropped the request"
    board.close()
