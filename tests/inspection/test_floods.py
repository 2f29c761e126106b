"""A flood is tapped for a part of the time, every other output all the time."""

from __future__ import annotations

import pytest

from dora.errors import TransportError
from dora.observe.tap_session import AdaptiveTap
from dora.observe.topics import Topic
from dora.transport.board import BYTES, SENT, WORDS
from dora.wire.daemon_protocol import OutputView
from dora.wire.message import Encoding, Message, pack_head

MIB = 1 << 20


class Tap:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def receive(self) -> Message | None:
        return Message(pack_head(Encoding.PLAIN, b"C", b"", 0, self._stage.words[SENT], 1))

    def close(self) -> None: ...


class Stage:
    """An output that sends at some rate, on a clock of the test's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, sent: int = 0) -> None:
        """``sent``: messages without links or taps, whose bytes are not counted."""
        self.words = memoryview(bytearray(WORDS * 8)).cast("q")
        self.words[SENT] = sent
        self.now_ns = 10**9
        self.taps: list[Tap] = []
        self.opened = 0
        self.queue_size = 0  # of the last tap
        self.broken = False
        monkeypatch.setattr("dora.observe.tap_session.time.monotonic_ns", lambda: self.now_ns)
        self.adaptive = AdaptiveTap(Topic("a/o", "a", OutputView("o", 0), ()), self, self.words)  # type: ignore[arg-type]

    def tap(self, output: OutputView, queue_size: int) -> Tap:  # noqa: ARG002
        if self.broken:
            raise TransportError("gone")
        self.opened += 1
        self.queue_size = queue_size
        self.taps.append(Tap(self))
        return self.taps[-1]

    def close_tap(self, tap: Tap) -> None:
        self.taps.remove(tap)

    def tapped(self, hz: float, size: int, seconds: float) -> float:
        """Let it send; return the part of the time in which it was under a tap."""
        tapped = 0
        for _ in range(round(seconds * 1000)):
            self.now_ns += 1_000_000
            self.words[SENT] += round(hz / 1000)
            self.words[BYTES] += round(hz / 1000) * size
            self.adaptive.adapt()
            tapped += bool(self.taps)
        return tapped / (seconds * 1000)


def test_a_flood_is_tapped_for_a_tenth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    assert 0.08 < stage.tapped(5000, MIB, 3) < 0.15
    assert stage.opened > 8
    assert 0.08 < stage.tapped(50_000, 4096, 3) < 0.15, "a flood of small ones"
    assert stage.tapped(1000, 100, 3) > 0.85, "it has become a trickle"
    assert stage.tapped(1000, 100, 1) == 1


@pytest.mark.parametrize(("hz", "size"), [(5000, 4096), (1000, 100_000), (0, 0)])
def test_an_output_that_is_no_flood_is_tapped_all_the_time(
    monkeypatch: pytest.MonkeyPatch, hz: int, size: int
) -> None:
    stage = Stage(monkeypatch)
    assert stage.tapped(hz, size, 2) == 1
    assert stage.opened == 1
    assert stage.adaptive.tapped


def test_large_messages_get_few_places_also_after_a_long_time_without_links(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage(monkeypatch, sent=100_000)
    assert stage.tapped(1000, 400_000, 2) == 1
    assert stage.queue_size == 5, "2 MiB"
    assert stage.opened == 2
    stage = Stage(monkeypatch, sent=100_000)
    stage.tapped(5000, MIB, 3)
    assert stage.queue_size == 2, "of a flood as well"


def test_no_message_is_taken_while_the_tap_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    first = stage.adaptive.take()
    assert first is None, "nothing was sent yet"
    stage.tapped(5000, MIB, 0.04)
    assert not stage.taps and stage.adaptive.take() is None
    assert not stage.adaptive.tapped and 0.25 < stage.adaptive.due_s < 0.28, "no poll is due so soon"
    stage.broken = True
    assert stage.tapped(5000, MIB, 1) == 0, "the tap cannot be opened any more"
    stage.broken = False
    stage.tapped(5000, MIB, 0.031)
    assert stage.adaptive.tapped and stage.adaptive.due_s <= 0.03, "the tap is open for a short time"
    message = stage.adaptive.take()
    assert message is not None and message.sequence == stage.words[SENT]


def test_messages_are_missed_between_two_that_were_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    missed = []
    for number in (100, 101, 104, 7, 8):  # at last the numbers begin anew
        stage.words[SENT] = number
        assert stage.adaptive.take() is not None
        missed.append(stage.adaptive.missed)
    assert missed == [0, 0, 2, 2, 2]
    assert stage.adaptive.received == 5
