"""The queue of the engines that queue in the memory of a process."""

from __future__ import annotations

import threading
from typing import Any

from dora.transport.queues import DropOldestQueue
from dora.wire.correlation import MAX_KEPT


def is_round(number: int) -> bool:
    return number % 10 == 0


def take_all(queue: DropOldestQueue[Any]) -> list[Any]:
    return [queue.popleft() for _ in range(len(queue))]


def test_items_pass_by_reference_and_in_order() -> None:
    queue: DropOldestQueue[object] = DropOldestQueue(10, lambda _: False)
    items = [object() for _ in range(3)]
    for item in items:
        queue.put(item)
    assert take_all(queue) == items
    assert queue.dropped == 0


def test_a_full_queue_drops_the_oldest_and_counts_it() -> None:
    queue: DropOldestQueue[int] = DropOldestQueue(3, is_round)
    for number in range(1, 6):
        queue.put(number)
    assert queue.dropped == 2
    assert take_all(queue) == [3, 4, 5]


def test_a_queue_without_a_size_drops_nothing() -> None:
    queue: DropOldestQueue[int] = DropOldestQueue(None, is_round)
    for number in range(5000):
        queue.put(number)
    assert take_all(queue) == list(range(5000))


def test_items_that_must_not_be_dropped_stay_in_order_before_the_newest() -> None:
    queue: DropOldestQueue[int] = DropOldestQueue(3, is_round)
    for number in range(1, 31):
        queue.put(number)
    assert queue.popleft() == 10
    queue.put(31)
    assert take_all(queue) == [20, 29, 30, 31]
    assert queue.dropped == 26


def test_a_queue_keeps_a_limited_number_of_items() -> None:
    queue: DropOldestQueue[int] = DropOldestQueue(1, lambda _: True)
    for number in range(2000):
        queue.put(number)
    assert take_all(queue) == list(range(2000 - MAX_KEPT - 1, 2000))
    assert queue.dropped == 2000 - MAX_KEPT - 1


def test_items_are_taken_in_order_while_others_push_them_out() -> None:
    queue: DropOldestQueue[int] = DropOldestQueue(2, is_round)
    number = 5 * MAX_KEPT
    taken: list[int] = []

    def put() -> None:
        for item in range(number):
            queue.put(item)

    producer = threading.Thread(target=put)
    producer.start()
    while producer.is_alive() or queue:
        if queue:
            taken.append(queue.popleft())
    assert taken == sorted(set(taken))
    assert {item for item in taken if is_round(item)} == set(range(0, number, 10))
    assert len(taken) + queue.dropped == number
