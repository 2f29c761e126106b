"""All that may happen between the ends of a ring, on a processor that reorders, with a kill at each step.

What is explored is in `ring_model`: messages arrive whole, in order and once; a queue drops only what is
older than its newest messages; each block comes back exactly once, also from a receiver that was killed.
"""

from __future__ import annotations

import pytest
from ring_model import Explorer, Receiver, Sender, Violation
from rounds import ROUNDS

from dora.transport.shm.ring import BLOCK, FIRST, SLOT_BYTES, RingReader, RingWriter

HOLDING = ("receive", "let_go")


def explore(queue_size: int, cells: int, messages: int, receives: int, **more: object) -> Explorer:
    script = HOLDING * receives if cells else ("receive",) * receives
    explorer = Explorer(queue_size, cells, (("send",) * messages, script), **more)  # type: ignore[arg-type]
    explorer.run()
    return explorer


KILLED = pytest.mark.parametrize(
    "kill",
    [
        pytest.param(None, id=""),
        pytest.param(0, id="sender killed", marks=pytest.mark.slow),
        pytest.param(1, id="receiver killed", marks=pytest.mark.slow),
    ],
)


@pytest.mark.lengthy
@KILLED
@pytest.mark.parametrize(
    ("queue_size", "cells", "messages", "receives"), [(1, 0, 3, 2), (2, 0, 3, 2), (1, 1, 2, 2)]
)
def test_whatever_happens_messages_arrive_whole_and_in_order(
    queue_size: int, cells: int, messages: int, receives: int, kill: int | None
) -> None:
    explorer = explore(queue_size, cells, messages, receives, kill=kill)
    everything = tuple(range(1, messages + 1))
    newest = everything[-queue_size:]
    assert {everything, newest} <= explorer.outcomes, "the model reaches both ends"


@pytest.mark.lengthy
@KILLED
@pytest.mark.parametrize(("queue_size", "cells"), [(1, 0), (2, 0), (1, 1)])
def test_a_sender_may_take_everything_back_and_go_on(queue_size: int, cells: int, kill: int | None) -> None:
    receives = HOLDING if cells else ("receive", "receive")
    explorer = Explorer(queue_size, cells, (("send", "send", "end", "send"), receives), kill=kill)
    explorer.run()
    assert {(3,), (2, 3)} <= explorer.outcomes


@pytest.mark.lengthy
def test_held_memory_is_not_written_until_it_is_given_back() -> None:
    explorer = explore(1, 1, 4, 2, weak=False)
    assert (1, 2, 4) in explorer.outcomes


@pytest.mark.lengthy
@pytest.mark.parametrize(
    ("sends", "receives"),
    [
        (("send", "interrupted_send"), ("receive", "receive")),
        (("interrupted_send", "send"), ("receive", "receive")),
        (("send", "send"), ("interrupted_receive", "receive")),
        (("send", "send"), ("receive", "interrupted_receive")),
    ],
)
@pytest.mark.parametrize("cells", [0, 1])
def test_an_exception_at_any_moment_loses_no_slot_and_no_block(
    cells: int, sends: tuple[str, ...], receives: tuple[str, ...]
) -> None:
    """It may lose the message of the operation in which it is raised, and no other one."""
    explorer = Explorer(1, cells, (sends, receives))
    explorer.run()
    assert (1, 2) in explorer.outcomes


MORE = [(1, 1, 4, 2), (2, 1, 3, 3), (1, 2, 3, 3), (2, 0, 4, 2)] if ROUNDS >= 100 else [(2, 1, 3, 2)]


@pytest.mark.processes  # it starts none, but takes minutes
@pytest.mark.stress
@pytest.mark.timeout(1800)
@KILLED
@pytest.mark.parametrize(("queue_size", "cells", "messages", "receives"), MORE)
def test_whatever_happens_with_more_messages(
    queue_size: int, cells: int, messages: int, receives: int, kill: int | None
) -> None:
    explorer = explore(queue_size, cells, messages, receives, kill=kill)
    assert explorer.states > 1000


# --------------------------------------------------------------------------- the model finds faults


class FirstFound(RingReader):
    """Takes the message that it finds first, though there may be an older one."""

    def _take_oldest(self, slot: int) -> int:
        word = FIRST + slot * (SLOT_BYTES // 8)
        self._next = self.words[word] + 1
        return word


class OutOfOrder(RingWriter[int]):
    """Accounts for what came back in the order in which it finds it."""

    def _clear(self, last: int) -> None:
        for slot in list(self._out):
            if self._numbers[slot] <= last:
                if next(self._try_free[slot]):
                    self._out.remove(slot)
                    self._account_for(slot)
                elif next(self._try_full[slot]):
                    self._out.remove(slot)
                    block, self._blocks[slot] = self._blocks[slot], None
                    assert block is not None
                    self._release(block)


class PostsFirst(RingWriter[int]):
    """Passes a slot on before its words are written."""

    def push(self, block: int, code: int) -> bool:
        slot = self._position % self._slots
        self._post_full[slot]()
        return super().push(block, code)


class ReceiverThatTakesFirstFound(Receiver):
    ring_type = FirstFound


class ReceiverThatReadsTooLate(Receiver):
    """Reads the message when it has given the slot back."""

    def receive(self) -> None:
        word = self.ring.take()
        if word >= 0:
            block = self.ring.words[word + BLOCK]
            number = self._read(block)
            self.ring.give_back(word)
            self._check(block, number)
            self.received.append(number)


class ReceiverThatForgets(Receiver):
    """Does not put back what it has taken when it is interrupted."""

    def interrupted_receive(self) -> None:
        with self._replay.interrupted(lambda: None):
            self.receive()


class SenderThatForgets(Sender):
    """Does not look what was interrupted."""

    def _put_in_order(self) -> None:
        self.unsent.append(self.sent)


class SenderOutOfOrder(Sender):
    ring_type = OutOfOrder


class SenderThatPostsFirst(Sender):
    ring_type = PostsFirst


@pytest.mark.lengthy
@pytest.mark.parametrize(
    ("types", "queue_size", "cells", "messages", "receives"),
    [
        ((Sender, ReceiverThatTakesFirstFound), 2, 0, 3, 2),
        ((Sender, ReceiverThatReadsTooLate), 1, 0, 3, 2),
        ((SenderOutOfOrder, Receiver), 1, 1, 4, 2),
        ((SenderThatPostsFirst, Receiver), 1, 0, 2, 1),
    ],
)
def test_the_model_finds_a_ring_that_breaks_a_rule(
    types: tuple[type[Sender], type[Receiver]], queue_size: int, cells: int, messages: int, receives: int
) -> None:
    # One of them needs no memory that reorders, and would take the longest.
    with pytest.raises(Violation):
        explore(queue_size, cells, messages, receives, types=types, weak=types[0] is not SenderOutOfOrder)


@pytest.mark.parametrize(
    ("types", "sends", "receives"),
    [
        ((Sender, ReceiverThatForgets), ("send", "send"), ("interrupted_receive", "receive")),
        ((SenderThatForgets, Receiver), ("interrupted_send", "send"), ("receive", "receive")),
    ],
)
def test_the_model_finds_what_an_exception_loses(
    types: tuple[type[Sender], type[Receiver]], sends: tuple[str, ...], receives: tuple[str, ...]
) -> None:
    with pytest.raises(Violation):
        Explorer(1, 0, (sends, receives), types=types, weak=False).run()
