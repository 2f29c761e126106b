"""A tap on a latched output begins with the messages of the latch."""

from __future__ import annotations

from pathlib import Path

from dora.observe.tap_session import AdaptiveTap
from dora.observe.topics import Topic
from dora.transport.board import SENT, WORDS
from dora.transport.latch import LatchFile, latch_path
from dora.wire.daemon_protocol import OutputView
from dora.wire.message import Encoding, Message, pack_head
from dora.wire.output_rules import LatchRule


class TapInMemory:
    """Takes what arrives."""

    def __init__(self) -> None:
        self.arrived: list[int] = []

    def tap(self, output: OutputView, queue_size: int) -> TapInMemory:  # noqa: ARG002
        return self

    def receive(self) -> Message | None:
        return Message(packed(self.arrived.pop(0))) if self.arrived else None


def packed(sequence: int) -> bytes:
    return pack_head(Encoding.PLAIN, b"C", b"", 0, sequence, 1)


def test_a_message_that_is_in_the_latch_and_at_the_tap_comes_once(tmp_path: Path) -> None:
    board = str(tmp_path / "board")
    latch = LatchFile(latch_path(board, 0), LatchRule(3), "map")
    words = memoryview(bytearray(WORDS * 8)).cast("q")
    engine = TapInMemory()
    tap = AdaptiveTap(Topic("a/map", "a", OutputView("map", 0, latched=LatchRule(3)), ()), engine, words)  # type: ignore[arg-type]

    def send(number: int, *, is_tapped: bool = True) -> None:
        latch.write(number, packed(number))
        words[SENT] = number
        if is_tapped:
            engine.arrived.append(number)

    def taken() -> list[int]:
        return [message.sequence for message in iter(tap.take, None)]

    send(1, is_tapped=False)
    send(2)
    assert [message.sequence for message in tap.take_latched(board)] == [1, 2]
    assert taken() == []
    send(3)
    assert taken() == [3]
    assert (tap.received, tap.missed) == (1, 0)
