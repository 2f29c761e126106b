"""Links inside one process, and ordinary memory for messages."""

from __future__ import annotations

import threading

import pytest
from linking import LIMIT

from dora.transport.aligned_memory import AlignedMemory
from dora.transport.inprocess import LocalEngine, LocalLink
from dora.wire.correlation import MAX_KEPT
from dora.wire.message import pack_head
from dora.wire.node_config import InputConfig, OutputConfig


def test_objects_pass_by_reference_and_in_order() -> None:
    link: LocalLink[object] = LocalLink(10)
    objects = [object() for _ in range(3)]
    for item in objects:
        assert link.put(item) is True
    assert len(link) == 3
    assert [link.take() for _ in range(3)] == objects
    assert link.take() is None
    assert (link.received, link.dropped, len(link)) == (3, 0, 0)


def test_a_full_queue_drops_the_oldest_and_counts_it() -> None:
    link: LocalLink[int] = LocalLink(3)
    assert [link.put(number) for number in range(5)] == [True, True, True, False, False]
    assert link.dropped == 2
    assert [link.take(), link.take(), link.take(), link.take()] == [2, 3, 4, None]
    assert link.received == 3


def test_every_object_is_received_or_dropped_with_any_number_of_threads() -> None:
    link: LocalLink[int] = LocalLink(16)
    each = 5000
    taken: list[int] = []
    done = threading.Event()

    def put() -> None:
        for number in range(each):
            link.put(number)

    def take() -> None:
        while not (done.is_set() and not len(link)):
            item = link.take()
            if item is not None:
                taken.append(item)

    producers = [threading.Thread(target=put) for _ in range(3)]
    consumers = [threading.Thread(target=take) for _ in range(2)]
    for thread in producers + consumers:
        thread.start()
    for thread in producers:
        thread.join(LIMIT)
    done.set()
    for thread in consumers:
        thread.join(LIMIT)
    assert len(taken) == link.received
    assert link.received + link.dropped == 3 * each


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


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 127, 128, 4095, 4096, 100_001])
def test_aligned_memory_has_exactly_the_requested_size(size: int) -> None:
    import ctypes

    for _ in range(20):
        memory = AlignedMemory(size)
        assert memory.address % 64 == 0
        ctypes.memset(memory.address, 0xA5, size)
        assert memory.content() == b"\xa5" * size


def test_a_queue_drops_the_oldest_of_the_objects_that_it_need_not_keep() -> None:
    link: LocalLink[int] = LocalLink(3, lambda number: number % 10 == 0)
    dropped = [not link.put(number) for number in range(1, 31)]
    assert [link.take() for _ in range(len(link))] == [10, 20, 30]
    assert (link.received, link.dropped, sum(dropped)) == (3, 27, 27)
    for _ in range(5):
        assert link.put(10)
    assert link.put(1)
    assert not link.put(2)
    assert [link.take() for _ in range(len(link))] == [10, 10, 10, 10, 10, 2]


def test_a_queue_keeps_a_limited_number_of_objects() -> None:
    link: LocalLink[int] = LocalLink(1, lambda _: True)
    for number in range(2000):
        link.put(number)
    assert len(link) == 1 + MAX_KEPT
    assert link.take() == 2000 - len(link) - 1
