"""What an ended source sent and a network did not bring: an input waits for it, and counts it as lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from test_late_inputs import LINK, SENDER, Queue

from dora.node.events import Input, InputClosed
from dora.node.receive import link_input as module
from dora.node.receive.link_input import FLIGHT_LIMIT_NS, LinkInput
from dora.transport.board import CONNECTED, DROPPED, FINAL, RECEIVED, SENT, STATE, Board
from dora.wire.node_config import InputConfig


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    board = Board.create(str(tmp_path / "board"), 2)
    yield board
    board.close()


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000
        monkeypatch.setattr(module, "_monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def make_port(board: Board, queue: Queue, *, crosses: bool = True) -> LinkInput:
    board.set(LINK, STATE, CONNECTED)
    config = InputConfig("in", "link", "source/out", queue_size=10, slot=LINK, output_slot=SENDER)
    return LinkInput(config, queue, board, joins_late=False, crosses=crosses)


def counts(board: Board) -> list[int]:
    return [board.get(LINK, word) for word in (RECEIVED, DROPPED)]


def test_missing_messages_count_as_lost(board: Board, clock: Clock) -> None:
    queue = Queue()
    port = make_port(board, queue)
    queue.numbers += [1, 2]
    assert [port.poll() is not None for _ in range(3)] == [True, True, False]
    board.set(SENDER, FINAL, 5)  # as its machine tells with the status of the end
    port.source_closed()
    clock.now += FLIGHT_LIMIT_NS
    assert port.poll() is None
    assert counts(board) == [2, 0]
    clock.now += 1
    assert isinstance(port.poll(), InputClosed)
    assert counts(board) == [2, 3]


def test_late_messages_do_not_count_as_lost(board: Board, clock: Clock) -> None:
    queue = Queue()
    port = make_port(board, queue)
    board.set(SENDER, FINAL, 2)
    port.source_closed()
    clock.now += FLIGHT_LIMIT_NS
    queue.numbers += [1, 2]
    assert [port.poll() is not None for _ in range(2)] == [True, True]
    assert isinstance(port.poll(), InputClosed)
    assert counts(board) == [2, 0]


@pytest.mark.usefixtures("clock")
def test_what_an_ended_source_sent_is_awaited_while_the_gateway_passes_it_on(board: Board) -> None:
    queue = Queue()
    port = make_port(board, queue)
    board.set(SENDER, FINAL, 3)
    port.source_closed()
    for number in (1, 2, 3):
        board.set(SENDER, SENT, number)  # as the gateway does before each message
        assert port.poll() is None, "earlier ones are all there is by now"
        queue.numbers.append(number)
        assert port.poll() is not None
    assert isinstance(port.poll(), InputClosed)
    assert counts(board) == [3, 0]


def test_a_sender_that_waits_for_a_processor_loses_nothing_by_a_handover(
    board: Board, clock: Clock
) -> None:
    queue = Queue()
    port = make_port(board, queue, crosses=False)
    board.set(SENDER, SENT, 1)  # and it has looked up its receivers, but not sent
    port.release()
    port.stop()
    clock.now += FLIGHT_LIMIT_NS - 1
    assert port.poll() is None and port.awaits_rest()
    queue.numbers.append(1)
    assert port.poll() is not None and not port.awaits_rest()
    assert counts(board) == [1, 0]


def test_a_sender_that_waits_for_a_processor_loses_nothing_by_a_disconnection(
    board: Board, clock: Clock
) -> None:
    queue = Queue()
    port = make_port(board, queue, crosses=False)
    board.set(SENDER, SENT, 1)
    port.detach()
    clock.now += FLIGHT_LIMIT_NS - 1
    assert port.poll() is None
    queue.numbers.append(1)
    assert isinstance(port.poll(), Input)
    assert isinstance(port.poll(), InputClosed)
