"""Inputs that begin while their source is sending: what is theirs, and what came before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from dora.node.events import InputClosed
from dora.node.receive.link_input import FLIGHT_LIMIT_NS, LinkInput
from dora.transport.board import (
    BEGUN,
    CLOSED,
    CONNECTED,
    CREDIT_WAITING,
    DROPPED,
    FINAL,
    FIRST,
    RECEIVED,
    SENT,
    STATE,
    WORDS,
    Board,
)
from dora.transport.doorbell import Bell
from dora.wire.counters import RESTART_LOSS
from dora.wire.message import Encoding, Message, pack_head
from dora.wire.node_config import InputConfig

SENDER, LINK = 0, 1  # lines of the board


class Queue:
    """A receiver whose messages the test gives."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.is_closed = False

    def receive(self) -> Message | None:
        if not self.numbers:
            return None
        return Message(pack_head(Encoding.PLAIN, b"C", b"", 0, self.numbers.pop(0), 1))

    def has_messages(self) -> bool:
        return bool(self.numbers)

    def close(self) -> None:
        self.is_closed = True


class CountingBell:
    """A doorbell that counts its rings."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.rings = 0

    def ring(self) -> None:
        self.rings += 1


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    board = Board.create(str(tmp_path / "board"), 2)
    yield board
    board.close()


def counted(board: Board, numbers: list[int]) -> tuple[int, int, int]:
    """Join when five messages have been sent, take these; return where the link begins, and its counts."""
    board.set(SENDER, SENT, 5)
    queue = Queue()
    config = InputConfig("in", "link", "source/out", queue_size=10, slot=LINK, output_slot=SENDER)
    port = LinkInput(config, queue, board, joins_late=True)
    queue.numbers += numbers
    while port.poll() is not None:
        pass
    first, received, dropped = (board.get(LINK, word) for word in (FIRST, RECEIVED, DROPPED))
    assert first + received + dropped == numbers[-1], "what the receiver knows of"
    return first, received, dropped


@pytest.mark.parametrize(
    ("numbers", "wanted"),
    [
        ([6, 7, 8], (5, 3, 0)),
        ([5, 6, 7], (4, 3, 0)),  # numbered before this node joined, and sent after
        ([7, 8], (6, 2, 0)),  # numbered after, and sent without the channel that was opened meanwhile
        ([8, 9], (5, 2, 2)),  # the queue was too short
        ([6, 7, 9], (5, 3, 1)),
        ([6, 7, 20], (5, 3, 12)),
    ],
)
def test_the_message_that_was_being_sent_is_no_loss(
    board: Board, numbers: list[int], wanted: tuple[int, int, int]
) -> None:
    assert counted(board, numbers) == wanted


def test_the_queue_of_a_new_link_holds_no_earlier_messages_for_a_sender_under_backpressure(
    board: Board,
) -> None:
    """They are in no credit, so the sender fills the queue, which drops the oldest of them."""
    assert counted(board, [3, 5, 6, 7]) == (4, 3, 0)


def test_a_sender_waits_for_credit_before_the_first_message_of_a_link_is_chosen(board: Board) -> None:
    states: list[int] = []
    board.set(SENDER, SENT, 5)

    class Words:
        """Notes the state of the link when the number of the last message is read."""

        def __getitem__(self, word: int) -> int:
            if word == SENDER * WORDS + SENT:
                states.append(board.get(LINK, STATE))
            return board.words[word]

        def __setitem__(self, word: int, value: int) -> None:
            board.words[word] = value

    class Watched:
        words = Words()

    config = InputConfig("in", "link", "source/out", queue_size=1, slot=LINK, output_slot=SENDER)
    LinkInput(config, Queue(), cast("Board", Watched()), joins_late=True)
    assert states == [CONNECTED]


def test_what_an_ended_source_of_another_machine_sent_before_is_no_loss(board: Board) -> None:
    board.set(SENDER, FINAL, 5)  # as its machine has reported; nothing came here, nobody wanted it
    config = InputConfig("in", "link", "source/out", queue_size=10, slot=LINK, output_slot=SENDER)
    port = LinkInput(config, Queue(), board, joins_late=True, crosses=True)
    assert board.get(LINK, FIRST) == 5
    port.source_closed()
    assert isinstance(port.poll(), InputClosed)
    assert [board.get(LINK, word) for word in (RECEIVED, DROPPED)] == [0, 0]


def test_a_message_that_was_being_sent_while_another_process_took_over_is_received(board: Board) -> None:
    board.set(SENDER, SENT, 5)  # numbered, but not in the queue yet
    board.set(LINK, RECEIVED, 4)  # by the former process
    board.set(LINK, STATE, CONNECTED)
    queue = Queue()
    queue.numbers += [3, 4]
    config = InputConfig("in", "link", "source/out", queue_size=10, slot=LINK, output_slot=SENDER)
    port = LinkInput(config, queue, board, joins_late=False, takes_over=True)
    assert port.poll() is None and not board.get(LINK, DROPPED), "it is not lost yet"
    board.set(SENDER, SENT, 6)
    queue.numbers += [5, 6]
    assert [port.poll() is not None for _ in range(3)] == [True, True, False]
    assert [board.get(LINK, word) for word in (RECEIVED, DROPPED)] == [6, 0]


def config_of(**options: Any) -> InputConfig:
    return InputConfig("in", "link", "source/out", slot=LINK, output_slot=SENDER, **options)


def test_of_what_a_restarted_receiver_misses_only_the_earlier_part_counts_as_lost_by_the_restart(
    board: Board,
) -> None:
    board.set(SENDER, SENT, 6)
    board.set(LINK, RECEIVED, 4)
    board.set(LINK, STATE, CONNECTED)
    queue = Queue()
    port = LinkInput(config_of(queue_size=1), queue, board, joins_late=False)
    board.set(SENDER, SENT, 10)
    queue.numbers.append(10)  # 7 to 9 were pushed out of the new queue
    assert port.poll() is not None
    assert [board.get(LINK, word) for word in (RECEIVED, DROPPED, RESTART_LOSS.word)] == [5, 5, 2]


def test_a_restarted_receiver_wakes_a_sender_that_waits_for_what_the_former_process_had_queued(
    board: Board,
) -> None:
    board.set(SENDER, SENT, 2)
    board.set(SENDER, CREDIT_WAITING, 1)
    board.set(LINK, STATE, CONNECTED)
    bell = CountingBell("credit")
    port = LinkInput(
        config_of(queue_size=2, queue_policy="backpressure", credit_bell="credit"),
        Queue(),
        board,
        joins_late=False,
        make_bell=lambda _: cast(Bell, bell),
    )
    assert bell.rings == 0
    assert port.poll() is None
    assert board.get(LINK, DROPPED) == 2
    assert bell.rings == 1


def test_a_new_link_wakes_a_sender_that_waits_for_messages_from_before_it(board: Board) -> None:
    """The sender may see the link connected before it sees where the link begins."""
    board.set(SENDER, SENT, 5)
    board.set(SENDER, CREDIT_WAITING, 1)
    bell = CountingBell("credit")
    LinkInput(
        config_of(queue_size=2, queue_policy="backpressure", credit_bell="credit"),
        Queue(),
        board,
        joins_late=True,
        make_bell=lambda _: cast(Bell, bell),
    )
    assert bell.rings == 1


def test_a_closed_input_gives_up_its_queue_and_frees_a_sender_that_waits(board: Board) -> None:
    bell, queue = CountingBell("credit"), Queue()
    port = LinkInput(
        config_of(queue_size=2, queue_policy="backpressure", credit_bell="credit"),
        queue,
        board,
        joins_late=False,
        make_bell=lambda _: cast(Bell, bell),
    )
    port.close()
    assert queue.is_closed and bell.rings == 1
    assert board.get(LINK, STATE) == CLOSED


def test_a_process_that_hands_over_leaves_the_link_connected(board: Board) -> None:
    port = LinkInput(config_of(queue_size=2), Queue(), board, joins_late=False)
    port.release()
    port.close()
    assert board.get(LINK, STATE) == CONNECTED


def test_what_the_network_will_not_bring_is_no_loss_before_the_first_message_and_one_after_it(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1
    monkeypatch.setattr("dora.node.receive.link_input._monotonic", lambda: now)
    queue = Queue()
    port = LinkInput(config_of(queue_size=9), queue, board, joins_late=True, crosses=True)
    for count in (SENT, BEGUN):
        board.set(SENDER, count, 5)
    port.check_flush()
    assert (board.get(LINK, FIRST), port.poll()) == (5, None)
    board.set(SENDER, SENT, 8)
    queue.numbers.append(6)
    assert port.poll() is not None
    board.set(SENDER, BEGUN, 8)
    port.check_flush()
    assert port.poll() is None
    assert board.get(LINK, DROPPED) == 0, "it may still arrive"
    now = 1 + FLIGHT_LIMIT_NS
    assert port.wake_at() == now
    assert port.poll() is None
    assert [board.get(LINK, word) for word in (FIRST, RECEIVED, DROPPED)] == [5, 1, 2]
    assert port.wake_at() is None
