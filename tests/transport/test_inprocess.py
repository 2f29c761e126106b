"""Links inside one process."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
from linking import sequences

from dora.transport.inprocess import LocalEngine, LocalReceiver
from dora.wire.message import Message, pack_head
from dora.wire.metadata import encode_metadata
from dora.wire.node_config import InputConfig, OutputConfig


def packed(number: int, **metadata: object) -> bytes:
    return pack_head(0, b"C", encode_metadata(metadata) if metadata else b"", 0, number, 0)


def receiver_of(engine: LocalEngine, arrived: Callable[[], None], **more: object) -> LocalReceiver:
    return engine.receiver(InputConfig("input", "link", "a/output", service="service", **more), arrived)  # type: ignore[arg-type]


def test_receivers_of_an_output_get_the_same_message_object() -> None:
    engine = LocalEngine()
    sender = engine.sender(OutputConfig("output", "service"))
    receivers = [
        engine.receiver(InputConfig(f"input-{index}", "link", "a/output", service="service"), lambda: None)
        for index in range(2)
    ]
    sender.send(pack_head(0, b"C", b"", 0, 1, 0))
    loan = sender.loan(64)
    message = receivers[0].receive()
    assert message is not None
    assert message is receivers[1].receive()
    loan.discard()


@pytest.mark.parametrize("size", [1, 63, 64, 65, 127, 128, 4095, 4096, 100_001])
def test_a_loan_is_aligned_and_has_the_requested_size(size: int) -> None:
    sender = LocalEngine().sender(OutputConfig("output", "service"))
    for _ in range(20):
        loan = sender.loan(size)
        assert loan.address % 64 == 0
        assert len(loan.memory) == size
        ctypes.memset(loan.address, 0xA5, size)
        assert bytes(loan.memory) == b"\xa5" * size


def test_a_message_can_be_taken_as_soon_as_its_arrival_is_told() -> None:
    """Who is told looks once: a message that comes after that would wait for the next one."""
    engine = LocalEngine()
    sender = engine.sender(OutputConfig("output", "service"))
    taken: list[Message | None] = []
    receiver = receiver_of(engine, lambda: taken.append(receiver.receive()))
    sender.send(packed(1))
    assert [message and message.sequence for message in taken] == [1]


def test_a_receiver_that_is_closed_while_a_message_is_delivered_takes_none_from_the_others() -> None:
    engine = LocalEngine()
    sender = engine.sender(OutputConfig("output", "service"))
    leaver = receiver_of(engine, lambda: leaver.close())
    stayer = receiver_of(engine, lambda: None)
    sender.send(packed(1))
    assert sequences(list(iter(stayer.receive, None))) == [1]


def test_nothing_arrives_at_a_receiver_that_was_closed() -> None:
    engine = LocalEngine()
    sender = engine.sender(OutputConfig("output", "service"))
    arrivals: list[None] = []
    receiver = receiver_of(engine, lambda: arrivals.append(None))
    sender.send(packed(1))
    receiver.close()
    sender.send(packed(2))
    assert len(arrivals) == 1


def test_a_full_queue_keeps_the_messages_that_its_rule_names() -> None:
    engine = LocalEngine()
    sender = engine.sender(OutputConfig("output", "service"))
    receiver = receiver_of(engine, lambda: None, queue_size=1, keep=("stop",))
    sender.send(packed(1, stop=True))
    sender.send(packed(2))
    sender.send(packed(3))
    assert sequences(list(iter(receiver.receive, None))) == [1, 3]


def test_a_listener_gets_each_message_of_an_output_while_it_is_sent() -> None:
    engine = LocalEngine()
    heard: list[Message] = []
    engine.listen("service", heard.append)
    sender = engine.sender(OutputConfig("output", "service"))
    for number in (1, 2, 3):
        sender.send(packed(number))
        assert sequences(heard)[-1] == number
    assert len(heard) == 3
