"""What waits for somebody on another machine: the newest, and little of it."""

from __future__ import annotations

import doctest
import threading

import hypothesis.strategies as st
import pytest
from hypothesis import given

from dora.observe import conflate
from dora.observe.conflate import MOST_BYTES, ConflatedQueue
from dora.observe.queries import Line
from dora.observe.remote import server
from dora.observe.remote.protocol import QueryEnded, StartMessage, decode_delivery


def test_the_examples_in_the_code() -> None:
    assert doctest.testmod(conflate).failed == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5000)), max_size=200), st.integers(1, 20))
def test_the_newest_come_in_order_and_the_others_are_counted(
    puts: list[tuple[str, int]], keep: int
) -> None:
    waiting: ConflatedQueue[int] = ConflatedQueue(MOST_BYTES)
    for number, (key, size) in enumerate(puts):
        waiting.put(key, number, keep=keep, size=size)
    numbers: list[int] = []
    while not waiting.is_empty:
        numbers += [number for _, number in waiting.take()]
    assert numbers == sorted(numbers)
    for key in "abc":
        of_key = [number for number, (name, _) in enumerate(puts) if name == key]
        seen = [number for number in numbers if puts[number][0] == key]
        assert seen == of_key[len(of_key) - len(seen) :], "not the newest ones"
        assert len(seen) <= keep and len(seen) + waiting.lost[key] == len(of_key)
        assert bool(seen) == bool(of_key)


def test_so_many_bytes_and_one_item_more_wait_or_travel_at_once() -> None:
    waiting: ConflatedQueue[str] = ConflatedQueue(MOST_BYTES)
    for _ in range(100):
        waiting.put("a", "", keep=1000, size=10_000)
    assert 100 - waiting.lost["a"] == 1 + MOST_BYTES // 10_000  # beside the newest one
    waiting.put("b", "large", size=2 * MOST_BYTES)  # one of each key always waits
    waiting.put("over", "end", size=10)
    deliveries = []
    while not waiting.is_empty:
        deliveries.append(waiting.take())
    assert [len(delivery) for delivery in deliveries] == [1 + MOST_BYTES // 10_000, 1, 1]
    assert deliveries[-1] == [("over", "end")]


def test_a_large_item_displaces_none_of_another_key() -> None:
    waiting: ConflatedQueue[int] = ConflatedQueue(MOST_BYTES)
    for number in range(100):
        waiting.put("image", number, size=3 * MOST_BYTES)
        waiting.put("speed", number, keep=1000, size=10)
    taken = []
    while not waiting.is_empty:
        taken += waiting.take()
    assert [item for key, item in taken if key == "speed"] == list(range(100))
    assert [item for key, item in taken if key == "image"] == [99]
    waiting.put("speed", 100, keep=1000, size=10)
    assert waiting.take() == [("speed", 100)]


def test_the_end_of_a_query_is_sent_during_the_pause_after_a_delivery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deliveries: list[bytes] = []
    resting = threading.Event()

    class Connection:
        def __enter__(self) -> Connection:
            return self

        def send(self, data: bytes) -> None:
            deliveries.append(data)

        def close(self) -> None: ...

    def rest(_: float) -> float:
        resting.set()
        return 600.0

    monkeypatch.setattr(server, "proven_socket", lambda *_: None)
    monkeypatch.setattr(server, "connect", lambda *_, **__: Connection())
    monkeypatch.setattr(server, "rest_after", rest)
    for thread in ("_read", "_watch_daemon"):
        monkeypatch.setattr(server.ObserverServer, thread, lambda _: None)
    with server.ObserverServer(StartMessage("ws://127.0.0.1:1", "token", "socket", "robot")) as session:
        session.put("a/x", Line("a/x", "1"))
        assert resting.wait(server.CLOSING_TIME)
        session.finish(QueryEnded(ended=True))
        assert [item for data in deliveries for item in decode_delivery(data)] == [
            Line("a/x", "1"),
            QueryEnded(ended=True),
        ]
