"""What a receiver of a latched output gets, however its steps and those of the sender fall together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dora.node.events import Input
from dora.node.receive.latched_input import LatchedInput
from dora.transport.board import CONNECTED, DROPPED, FIRST, RECEIVED, REPEATED, SENT, STATE, Board
from dora.wire.message import SEQUENCE, Encoding, Message, pack_head
from dora.wire.node_config import InputConfig
from dora.wire.output_rules import LatchRule, OutputRules

SENDER, LINK = 0, 1  # lines of the board


def message(number: int) -> Message:
    return Message(pack_head(Encoding.PLAIN, b"C", b"", 0, number, number))


class Sender:
    """A sender whose steps are taken one by one: number, keep in the latch, send to the receivers."""

    def __init__(self, board: Board, depth: int) -> None:
        self.board = board
        self.depth = depth
        self.kept: list[int] = []
        self.queues: list[Queue] = []
        self._begun = 0  # steps of the message that is being sent

    def step(self) -> None:
        number = self.board.get(SENDER, SENT) + (self._begun == 0)
        if self._begun == 0:
            self.board.set(SENDER, SENT, number)
        elif self._begun == 1:
            self.kept = [*self.kept, number][-self.depth :]
        else:
            for queue in self.queues:
                queue.put(number)
        self._begun = (self._begun + 1) % 3

    def send(self, count: int) -> None:
        for _ in range(3 * count):
            self.step()

    def read(self) -> list[Message]:
        return [message(number) for number in self.kept]


class Queue:
    """A receiver."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def put(self, number: int) -> None:
        self.numbers.append(number)

    def receive(self) -> Message | None:
        return message(self.numbers.pop(0)) if self.numbers else None

    def has_messages(self) -> bool:
        return bool(self.numbers)

    def close(self) -> None: ...


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("boards")


def fresh_board(folder: Path) -> Board:
    (folder / "board").unlink(missing_ok=True)
    return Board.create(str(folder / "board"), 2)


def join(
    board: Board,
    sender: Sender,
    queue: Queue,
    *,
    first_time: bool = True,
    crosses: bool = False,
) -> LatchedInput:
    rules = OutputRules(latched=LatchRule(1))
    if not first_time:
        board.set(LINK, STATE, CONNECTED)
    config = InputConfig(
        "in", "link", "a/out", queue_size=99, slot=LINK, output_slot=SENDER, source_rules=rules
    )
    return LatchedInput(
        config,
        queue,
        board,
        read_latch=sender.read,
        joins_late=first_time,
        crosses=crosses,
    )


def take(port: LatchedInput, count: int = 1000) -> list[int]:
    found: list[int] = []
    while len(found) < count and (event := port.poll()) is not None:
        assert isinstance(event, Input)
        found.append(event._content.header[SEQUENCE])  # type: ignore[union-attr]  # a message
    return found


def check_counts(board: Board, taken: int) -> None:
    first, received, dropped, repeated = (
        board.get(LINK, word) for word in (FIRST, RECEIVED, DROPPED, REPEATED)
    )
    assert first + received + dropped == board.get(SENDER, SENT)
    assert received + repeated == taken


@pytest.mark.lengthy
@given(
    depth=st.integers(1, 4),
    before=st.integers(0, 20),
    subscribing=st.integers(0, 9),
    steps=st.lists(st.booleans(), max_size=40),
)
def test_a_new_receiver_gets_each_message_once_from_the_oldest_in_the_latch(
    folder: Path, depth: int, before: int, subscribing: int, steps: list[bool]
) -> None:
    board = fresh_board(folder)
    sender = Sender(board, depth)
    for _ in range(before):
        sender.step()
    kept = list(sender.kept)
    sender.queues.append(queue := Queue())
    for _ in range(subscribing):
        sender.step()
    port = join(board, sender, queue)
    taken: list[int] = []
    for is_sent in steps:
        if is_sent:
            sender.step()
        else:
            taken += take(port, 1)
    while board.get(SENDER, SENT) == 0 or sender._begun:
        sender.step()
    taken += take(port)
    last = board.get(SENDER, SENT)
    assert taken == list(range(taken[0], last + 1))
    assert not kept or taken[0] <= max(kept[0], last - depth + 1)
    check_counts(board, len(taken))
    board.close()


@pytest.mark.lengthy
@given(
    depth=st.integers(1, 6),
    sent=st.integers(1, 10),
    taken_before=st.integers(0, 10),
    while_away=st.integers(0, 4),
    after=st.integers(0, 3),
)
def test_a_restarted_receiver_gets_them_again(
    folder: Path, depth: int, sent: int, taken_before: int, while_away: int, after: int
) -> None:
    board = fresh_board(folder)
    sender = Sender(board, depth)
    sender.queues = [Queue()]
    former = join(board, sender, sender.queues[0], first_time=False)
    sender.send(sent)
    before = take(former, taken_before)
    sender.queues = []
    sender.send(while_away)
    sender.queues.append(queue := Queue())
    port = join(board, sender, queue, first_time=False)
    latched = list(sender.kept)
    taken = take(port)
    assert taken == latched
    sender.send(after)
    taken += take(port)
    total = sent + while_away + after
    assert taken == list(range(latched[0], total + 1))
    check_counts(board, len(before) + len(taken))
    assert board.get(LINK, DROPPED) == total - len({*before, *taken})
    board.close()


@pytest.mark.parametrize("is_there", [False, True], ids=["after the node", "before the node"])
def test_a_machine_that_was_started_again_may_get_them_before_or_after_its_node(
    folder: Path, is_there: bool
) -> None:
    """Its board knows that a process before the start has received them; its gateway gets them again."""
    board = fresh_board(folder)
    board.set(SENDER, SENT, 5)
    board.set(LINK, FIRST, 5)
    gateway, queue = Sender(board, 2), Queue()
    for number in (4, 5) if is_there else ():
        gateway.kept.append(number)
    port = join(board, gateway, queue, first_time=False, crosses=True)
    for number in () if is_there else (4, 5):
        queue.put(number)
    assert take(port) == [4, 5]
    board.set(SENDER, SENT, 6)
    queue.put(6)
    assert take(port) == [6]
    check_counts(board, 3)


def test_messages_of_the_latch_come_before_the_end_of_their_source(folder: Path) -> None:
    board = fresh_board(folder)
    sender = Sender(board, 2)
    sender.send(3)
    port = join(board, sender, Queue())
    assert port.ready()
    port.source_closed()
    events = [port.poll() for _ in range(3)]
    assert [event and event["type"] for event in events] == ["INPUT", "INPUT", "INPUT_CLOSED"]
    board.close()


def test_a_stop_leaves_the_messages_of_the_latch(folder: Path) -> None:
    board = fresh_board(folder)
    sender = Sender(board, 2)
    sender.send(3)
    port = join(board, sender, Queue())
    port.stop()
    assert take(port) == [2, 3]
    board.close()


def test_a_message_in_the_latch_that_was_on_its_way_to_the_queue_comes_once(
    folder: Path,
) -> None:
    board = fresh_board(folder)
    sender = Sender(board, 2)
    sender.queues.append(queue := Queue())
    sender.step()
    sender.step()  # numbered and in the latch, and not sent yet
    port = join(board, sender, queue)
    assert take(port) == [1]
    sender.step()
    sender.send(1)
    assert take(port) == [2]
    check_counts(board, 2)
    board.close()
