"""The sending side of an output of another machine, while its links change."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dora.gateway.ports import ForwardingPort
from dora.transport.board import BEGUN, BYTES, CONNECTED, CONTROL, FLUSH, SENT, STATE, Board
from dora.transport.spill import SpillWriter, spill_folder
from dora.wire.encode import encode
from dora.wire.message import SMALL_BODY, pack_head
from dora.wire.metadata import encode_metadata
from dora.wire.node_config import ChannelConfig, LinkConfig, OutputConfig
from dora.wire.untrusted import UntrustedMessage

OUTPUT, FIRST_LINK, SECOND_LINK, NODE, LINES = 0, 1, 2, 3, 4


class Channel:
    """A sender of the engine that notes what it gets."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.lent: list[bytes] = []  # that were sent in shared memory

    def send(self, message: bytes, control: bytes = b"") -> None:  # noqa: ARG002
        self.sent.append(message)

    def prepare(self) -> None:
        pass

    def loan(self, size: int) -> Any:
        memory = bytearray(size)
        return SimpleNamespace(
            memory=memoryview(memory),
            send=lambda control: self.lent.append(bytes(memory)),  # noqa: ARG005
        )


def message(sequence: int, metadata: dict[str, Any] | None = None, size: int = 1) -> UntrustedMessage:
    payload = encode(bytes(size))
    section = encode_metadata(metadata) if metadata else b""
    head = pack_head(payload.encoding, payload.schema, section, payload.size, sequence, 1)
    return UntrustedMessage(head + payload.to_bytes())


def port(board: Board, links: list[LinkConfig], channel: Channel, spill: SpillWriter | None = None) -> Any:
    return ForwardingPort(
        OutputConfig("x", "channel", OUTPUT, links),
        channel,  # type: ignore[arg-type]
        board,
        rings=True,
        node_slot=None,
        doorbell=lambda _: SimpleNamespace(),  # type: ignore[arg-type, return-value]
        spill=spill,
    )


def test_another_link_changes_nothing_for_those_that_are_there(tmp_path: Path) -> None:
    board = Board.create(str(tmp_path / "board"), LINES)
    bell = str(tmp_path / "bell")
    first = LinkConfig(slot=FIRST_LINK, node_slot=NODE, bell=bell, consumer="b/x", queue_size=2)
    second = LinkConfig(slot=SECOND_LINK, node_slot=NODE, bell=bell, consumer="c/x", queue_size=2)
    channel, overflow = Channel(), Channel()
    output = port(board, [first], channel, SpillWriter(str(tmp_path), board))
    board.set(FIRST_LINK, STATE, CONNECTED)
    kept = message(1, {"request_id": "a"})
    output.forward(kept, None)

    changed = OutputConfig(
        "x", "channel", OUTPUT, [first, second], overflow_channels=[ChannelConfig("more", 2, 1)]
    )
    output.change(changed, lambda channel: {"more": overflow}[channel.service])
    assert board.get(OUTPUT, BEGUN) == 0, "no earlier message is missing"
    for sequence in (2, 3, 4):
        output.forward(message(sequence), None)
    assert [len(channel.sent), len(overflow.sent)] == [4, 3]
    (file,) = Path(spill_folder(str(tmp_path), FIRST_LINK)).iterdir()
    assert file.read_bytes() == kept.head, "its full queue has dropped the request"
    board.close()


def test_the_bytes_of_an_output_are_counted_and_its_flushes_passed_on(tmp_path: Path) -> None:
    board = Board.create(str(tmp_path / "board"), LINES)
    link = LinkConfig(
        slot=FIRST_LINK, node_slot=NODE, bell=str(tmp_path / "bell"), consumer="b/x", queue_size=2
    )
    output = port(board, [link], Channel())
    output.forward(message(1), None)
    output.forward(message(2, {"request_id": "a"}), None)
    assert board.get(OUTPUT, BYTES) == 2
    assert (board.get(OUTPUT, FLUSH), board.get(NODE, CONTROL)) == (0, 0)
    output.forward(message(3, {"flush": True}), None)
    assert board.get(OUTPUT, FLUSH) == 3
    assert board.get(NODE, CONTROL), "receivers look at the other word only when this one changes"
    board.close()


def test_a_message_that_is_too_large_for_its_channel_goes_in_shared_memory(tmp_path: Path) -> None:
    board = Board.create(str(tmp_path / "board"), LINES)
    link = LinkConfig(
        slot=FIRST_LINK, node_slot=NODE, bell=str(tmp_path / "bell"), consumer="b/x", queue_size=2
    )
    channel = Channel()
    output = port(board, [link], channel)
    small, large = message(1), message(2, size=2 * SMALL_BODY)
    for each in (small, large):
        output.forward(each, None)
    assert (channel.sent, channel.lent) == ([small.head], [large.head])
    assert board.get(OUTPUT, SENT) == 2
    board.close()
