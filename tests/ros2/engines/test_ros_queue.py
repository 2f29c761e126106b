"""The queue of a subscription keeps the newest messages, and counts the others."""

from __future__ import annotations

import threading
from collections import deque

from waiting import TIMEOUT, wait_until

from dora.ros2.message_queue import MessageCounters, MessageQueue, SequenceGaps


def test_many_threads_lose_no_item() -> None:
    counters = MessageCounters()
    queue: MessageQueue[int] = MessageQueue(None, counters)
    found: list[int] = []
    lock = threading.Lock()

    def take() -> None:
        while (item := queue.take(None)) is not None:
            with lock:
                found.append(item)

    takers = [threading.Thread(target=take) for _ in range(3)]
    putters = [
        threading.Thread(target=lambda start=start: [queue.put(start + number) for number in range(2000)])
        for start in (0, 2000, 4000)
    ]
    for thread in takers + putters:
        thread.start()
    for thread in putters:
        thread.join(TIMEOUT)
    queue.close()
    for thread in takers:
        thread.join(TIMEOUT)
    assert sorted(found) == list(range(6000))
    assert (counters.received, counters.dropped) == (6000, 0)


def test_what_is_in_the_queue_is_taken_after_its_end() -> None:
    queue: MessageQueue[int] = MessageQueue(2, MessageCounters())
    queue.put(1)
    queue.close()
    queue.put(2)
    assert (queue.take(None), queue.take(None)) == (1, None)


def test_a_full_queue_drops_its_oldest_item_and_counts_it() -> None:
    counters = MessageCounters()
    queue: MessageQueue[int] = MessageQueue(2, counters)
    queue.put(1)
    queue.put(2)
    assert (counters.received, counters.dropped) == (2, 0)
    queue.put(3)
    assert (counters.received, counters.dropped) == (3, 1)
    assert [queue.take(), queue.take(), queue.take()] == [2, 3, None]


def test_a_consumer_gets_each_item_before_which_none_waits() -> None:
    counters = MessageCounters()
    queue: MessageQueue[int] = MessageQueue(2, counters)
    offered: list[int] = []

    def consume(item: int) -> bool:
        offered.append(item)
        return item != 2

    queue.set_consumer(consume)
    for number in (1, 2, 3):
        queue.put(number)
    assert (offered, counters.received, counters.dropped) == ([1, 2], 3, 0)
    assert (queue.take(), queue.take()) == (2, 3)
    queue.close()
    queue.put(4)
    assert (offered, counters.received, len(queue)) == ([1, 2], 3, 0)


def test_an_end_wakes_all_that_wait() -> None:
    queue: MessageQueue[int] = MessageQueue(2, MessageCounters())
    waiting = [threading.Thread(target=queue.take, args=(None,), daemon=True) for _ in range(2)]
    for thread in waiting:
        thread.start()
    wait_until(lambda: len(queue._arrived._waiters) == 2, "two threads that wait")  # type: ignore[attr-defined]
    queue.close()
    for thread in waiting:
        thread.join(TIMEOUT)
    assert not any(thread.is_alive() for thread in waiting)


def test_an_end_rings_once_and_at_once_where_a_callback_comes_after_it() -> None:
    queue: MessageQueue[int] = MessageQueue(2, MessageCounters())
    rings: list[str] = []
    queue.set_on_arrival(lambda: rings.append("the end"))
    queue.close()
    queue.close()
    assert rings == ["the end"]
    queue.set_on_arrival(lambda: rings.append("after the end"))
    assert rings == ["the end", "after the end"]


def test_a_callback_that_comes_late_rings_at_once() -> None:
    queue: MessageQueue[int] = MessageQueue(2, MessageCounters())
    rings: list[int] = []
    queue.set_on_arrival(lambda: rings.append(1))
    assert not rings
    queue.put(1)
    queue.set_on_arrival(lambda: rings.append(2))
    queue.set_on_arrival(None)
    queue.put(2)
    assert rings == [1, 2]


def test_a_callback_may_take_the_item_that_rings() -> None:
    queue: MessageQueue[int] = MessageQueue(2, MessageCounters())
    found: list[int | None] = []
    queue.set_on_arrival(lambda: found.append(queue.take()))
    putting = threading.Thread(target=queue.put, args=(1,), daemon=True)
    putting.start()
    putting.join(TIMEOUT)
    assert found == [1]


def test_an_item_that_comes_while_a_callback_is_set_rings() -> None:
    queue: MessageQueue[int] = MessageQueue(2, MessageCounters())
    rings: list[int] = []

    class Items(deque[int]):
        def __bool__(self) -> bool:  # the item comes just after the look
            was_there = len(self) > 0
            if not was_there:
                queue.put(1)
            return was_there

    queue._items = Items()
    queue.set_on_arrival(lambda: rings.append(1))
    assert rings == [1]


def test_gaps_are_counted_for_each_publisher() -> None:
    gaps = SequenceGaps()
    numbers = [(b"a", 5), (b"b", 1), (b"a", 6), (b"a", 9), (b"b", 2), (b"a", 7), (b"a", 10), (b"a", 10)]
    assert [gaps.missing(*item) for item in numbers] == [0, 0, 0, 2, 0, 0, 0, 0]


def test_a_publisher_whose_number_jumps_far_has_begun_to_count_anew() -> None:
    gaps = SequenceGaps()
    numbers = [0, 2**63 - 2, 2**63 - 1, 3, 5, 5 + 2**31, 4 + 2**32]
    assert [gaps.missing(b"a", number) for number in numbers] == [0, 0, 0, 0, 1, 0, 2**31 - 2]


def test_publishers_that_come_and_go_take_no_memory() -> None:
    gaps = SequenceGaps()
    gaps.missing(b"talks", 0)
    for number in range(5000):
        gaps.missing(number.to_bytes(4, "little"), 1)
        # Only the one that was silent for the longest time is forgotten, and never one that talks.
        assert gaps.missing(b"talks", 2 * number + 2) == 1
    assert len(gaps._last) == 1024
    assert gaps.missing((4999).to_bytes(4, "little"), 9) == 7
    assert gaps.missing((0).to_bytes(4, "little"), 9) == 0
