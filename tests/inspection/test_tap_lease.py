"""The lease of taps: as long as it lasts, senders send for them; it ends with them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dora.errors import TransportError
from dora.observe import tap_session
from dora.observe.tap_session import TapLease, TapSession
from dora.observe.topics import Topic
from dora.transport.board import TAPPED, Board
from dora.wire.daemon_protocol import CloseTaps, Inspection, OpenTaps, OutputView

SECOND = 10**9


class Taps:
    """A tap engine that is out of memory after some taps."""

    def __init__(self) -> None:
        self.room = 10
        self.is_closed = False

    def tap(self, _output: OutputView, _queue_size: int) -> Taps:
        if not self.room:
            raise TransportError("no memory")
        self.room -= 1
        return self

    def receive(self) -> None: ...

    def close(self) -> None:
        self.is_closed = True


class Stage:
    """A dataflow with three outputs and a daemon that never ends, on a clock of the test's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
        self.now_ns = 10 * SECOND
        self.asked: list[Any] = []
        self.taps = Taps()
        self.board = Board.create(path, 3)
        self.opened: list[Board] = []
        self.inspection = Inspection("id", None, "shm", f"{path}.run", "prefix_", path, [], [])
        self._mine, self._daemons = socket.socketpair()
        open_board = Board.open

        def remember(name: str) -> Board:
            self.opened.append(open_board(name))
            return self.opened[-1]

        monkeypatch.setattr(Board, "open", remember)
        monkeypatch.setattr(tap_session, "open_taps", lambda _inspection: self.taps)
        monkeypatch.setattr("dora.observe.tap_session.time.monotonic_ns", lambda: self.now_ns)

    def ask(self, question: Any) -> None:
        self.asked.append(question)

    def fileno(self) -> int:
        return self._mine.fileno()

    def lease(self, *slots: int) -> TapLease:
        return TapLease(self, self.inspection, slots)  # type: ignore[arg-type]

    def session(self, *slots: int) -> TapSession:
        topics = [Topic(f"a/{slot}", "a", OutputView(str(slot), slot), ()) for slot in slots]
        return TapSession(self, self.inspection, topics)  # type: ignore[arg-type]

    def lasts(self, slot: int) -> float:
        """Return for how many seconds more an output is tapped."""
        return (self.board.get(slot, TAPPED) - self.now_ns) / SECOND

    def let_go(self) -> bool:
        """Return whether nothing of the taps is left."""
        with pytest.raises(ValueError, match="released"):
            self.opened[-1].words[0]
        return self.asked[-1] == CloseTaps() and self.taps.is_closed

    def end(self) -> None:
        self.board.close()
        self._mine.close()
        self._daemons.close()


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(monkeypatch, str(tmp_path / "board"))
    yield stage
    stage.end()


def test_a_lease_that_is_renewed_several_times_a_second_does_not_end_in_between(stage: Stage) -> None:
    lease = stage.lease(1)
    for _ in range(30):
        lease.renew()
        assert 1 < stage.lasts(1) <= 2
        stage.now_ns += SECOND // 5
    assert stage.lasts(0) < 0, "nobody taps it"
    lease.close()


def test_an_output_that_is_added_to_a_lease_is_tapped_with_the_next_renewal(stage: Stage) -> None:
    lease = stage.lease(1)
    lease.renew()
    lease.add([2])
    assert stage.asked[-1] == OpenTaps([1, 2])
    stage.now_ns += 1
    lease.renew()
    assert stage.lasts(1) == stage.lasts(2) == 2
    lease.close()


def test_a_lease_that_is_closed_lets_everything_go(stage: Stage) -> None:
    stage.lease(1).close()
    assert stage.let_go()


def test_a_lease_without_taps_keeps_no_board(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_inspection: Inspection) -> None:
        raise TransportError("no memory")

    monkeypatch.setattr(tap_session, "open_taps", refuse)
    with pytest.raises(TransportError):
        stage.lease(1)
    with pytest.raises(ValueError, match="released"):
        stage.opened[-1].words[0]


def test_a_session_that_cannot_have_all_its_taps_lets_everything_go(stage: Stage) -> None:
    stage.taps.room = 1
    with pytest.raises(TransportError, match="no memory"):
        stage.session(0, 1)
    assert stage.let_go()


def test_the_outputs_of_a_session_are_tapped_from_its_beginning_to_its_end(stage: Stage) -> None:
    with stage.session(0, 1) as session:
        assert stage.lasts(0) == stage.lasts(1) == 2
        polls: list[Any] = []
        for tap, message in session.messages(lambda: len(polls) == 10, period=0):
            assert (tap, message) == (session.taps[0], None)
            assert stage.lasts(0) > 1
            polls.append(tap)
            stage.now_ns += SECOND // 2
    assert len(polls) == 10
    assert stage.let_go()
