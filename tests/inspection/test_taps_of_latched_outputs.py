"""A tap that comes too late for a message of a latched output takes it from the latch."""

from __future__ import annotations

from pathlib import Path

from dora.observe.tap_session import AdaptiveTap
from dora.observe.topics import Topic
from dora.transport.board import SENT, WORDS
from dora.transport.latch import LatchFile, latch_path
from dora.wire.daemon_protocol import OutputView
from dora.wire.message import Encoding, Message, pack_head
from dora.wire.output_rules import LatchRule


class LateTap:
    """Takes what arrives."""

    def __init__(self) -> None:
        self.arrived: list[int] = []

    def tap(self, output: OutputView, queue_size: int) -> LateTap:  # noqa: ARG002
        return self

    def receive(self) -> Message | None:
        return Message(packed(self.arrived.pop(0))) if self.arrived else None


def packed(sequence: int) -> bytes:
    return pack_head(Encoding.PLAIN, b"C", b"", 0, sequence, 1)


def test_a_message_that_was_sent_before_the_sender_knew_of_the_tap_comes_once(tmp_path: Path) -> None:
    board = str(tmp_path / "board")
    latch = LatchFile(latch_path(board, 0), LatchRule(3), "map")
    words = memoryview(bytearray(WORDS * 8)).cast("q")
    engine = LateTap()
    tap = AdaptiveTap(Topic("a/map", "a", OutputView("map", 0, latched=LatchRule(3)), ()), engine, words)  # type: ignore[arg-type]

    def send(*numbers: int) -> None:
        for number in numbers:
            latch.write(number, packed(number))
            words[SENT] = number

    def taken() -> list[int]:
        return [message.sequence for message in iter(tap.take, None)]

    send(1, 2)
    assert [message.sequence for message in tap.take_latched(board)] == [1, 2]
    assert taken() == []
    send(3, 4)  # the tap gets neither of them
    assert taken() == [3, 4]
    send(5)
    engine.arrived = [4, 5]  # late, but it does
    assert taken() == [5]
    send(6)
    assert taken() == [], "the tap will get it"
    engine.arrived = [6]
    assert taken() == [6]
    assert (tap.received, tap.missed) == (4, 0)
