"""What waits for somebody on another machine: the newest, and little of it."""

from __future__ import annotations

import doctest
import queue
import threading
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from waiting import TIMEOUT, wait_until

from dora.observe import conflate
from dora.observe.conflate import MOST_BYTES, ConflatedQueue
from dora.observe.queries import EchoQuery, Line, MessageQuery, Preview, Result, SnapshotQuery
from dora.observe.remote import server
from dora.observe.remote.protocol import (
    DeliveryTaken,
    EndQuery,
    Item,
    QueryEnded,
    StartMessage,
    decode_delivery,
    encode,
)


def test_the_examples_in_the_code() -> None:
    assert doctest.testmod(conflate).failed == 0


@pytest.mark.lengthy
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


def test_what_was_taken_makes_room_for_what_comes() -> None:
    waiting: ConflatedQueue[int] = ConflatedQueue(MOST_BYTES)
    for first in range(0, 30, 3):
        for number in range(first, first + 3):
            waiting.put("a", number, keep=1000, size=MOST_BYTES // 3)
        assert waiting.take() == [("a", number) for number in range(first, first + 3)]
    assert not waiting.lost


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


class Client:
    """The connection to a client that says what `say` puts in, and takes deliveries one by one."""

    def __init__(self) -> None:
        self._said: queue.Queue[bytes | None] = queue.Queue()
        self.deliveries: queue.Queue[bytes] = queue.Queue()
        self.takes = threading.Event()
        self.takes.set()

    def __enter__(self) -> Client:
        return self

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._said.get, None)

    def say(self, message: Any) -> None:
        self._said.put(encode(message))

    def leave(self) -> None:
        self._said.put(None)

    def send(self, data: bytes) -> None:
        self.deliveries.put(data)
        self.takes.wait()

    def next(self) -> list[Item]:
        return decode_delivery(self.deliveries.get(timeout=TIMEOUT))

    def close(self) -> None: ...


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    client = Client()
    monkeypatch.setattr(server, "proven_socket", lambda *_: None)
    monkeypatch.setattr(server, "connect", lambda *_, **__: client)
    monkeypatch.setattr(server, "rest_after", lambda _: 0.0)
    monkeypatch.setattr(server, "CLOSING_TIME", 2 * TIMEOUT)
    monkeypatch.setattr(server.ObserverServer, "_watch_daemon", lambda _: None)
    monkeypatch.setattr(server.ObserverServer, "_exit_late", lambda _: None)
    return client


@pytest.fixture
def session(client: Client) -> Iterator[server.ObserverServer]:  # noqa: ARG001 - its connection
    with server.ObserverServer(StartMessage("ws://127.0.0.1:1", "token", "socket", "robot")) as session:
        yield session


def test_a_delivery_waits_until_the_one_before_was_taken(
    client: Client, session: server.ObserverServer
) -> None:
    session.put("a/x", Line("a/x", "1"))
    assert client.next() == [Line("a/x", "1")]
    for text in ("2", "3"):
        session.put("a/x", Line("a/x", text))
    session.put("a/y", Line("a/y", "4"))
    client.say(DeliveryTaken())
    assert client.next() == [Line("a/x", "3"), Line("a/y", "4")]
    assert session.lost == {"a/x": 1}
    session.finish(QueryEnded(ended=True))
    assert client.next() == [QueryEnded(ended=True)]


def test_a_delivery_holds_so_much_and_the_rest_waits_for_the_next_one(
    client: Client, session: server.ObserverServer
) -> None:
    session.put("a/x", Line("a/x", "1"))
    assert client.next() == [Line("a/x", "1")]
    large = [Line(f"a/{name}", "x" * MOST_BYTES) for name in "yz"]
    for line in large:
        session.put(line.topic, line)
    newest = Line("a/z", "newest")
    client.say(DeliveryTaken())
    assert client.next() == large[:1]
    session.put("a/z", newest)
    client.say(DeliveryTaken())
    assert client.next() == [newest]


def test_a_query_is_replaced_by_one_of_its_kind_only(
    client: Client, session: server.ObserverServer
) -> None:
    first, second = SnapshotQuery(1.0), SnapshotQuery(2.0)
    client.say(first)
    assert session.query() == first
    client.say(EchoQuery(["a/x"]))
    client.say(second)
    wait_until(lambda: session.query() != first, "another query")
    assert session.query() == second
    client.say(MessageQuery(("a/x",)))
    client.say(EndQuery())
    wait_until(session.is_over, "the end of the query")
    assert session.query() == second


def test_nothing_waits_for_a_client_that_is_gone(client: Client, session: server.ObserverServer) -> None:
    client.takes.clear()  # the network is stuck
    session.put("a/x", Line("a/x", "1"))
    client.next()
    client.leave()
    assert session.query() is None and session.is_over()
    ending = threading.Thread(target=session.finish, args=(QueryEnded(),), daemon=True)
    ending.start()
    ending.join(TIMEOUT)
    assert not ending.is_alive()
    client.takes.set()


def observed(
    monkeypatch: pytest.MonkeyPatch, kind: str, results: Iterable[Result], **counts: tuple[int, int]
) -> None:
    """Let queries of a kind have these results; ``counts`` are missed and seen messages of ``a/…``."""
    observer = SimpleNamespace(
        results=lambda: iter(results),
        ended=True,
        counts={f"a/{output}": both for output, both in counts.items()},
    )
    monkeypatch.setattr(server, kind, lambda *_, **__: observer)


def test_lines_that_newer_ones_replaced_count_as_missed(
    client: Client, session: server.ObserverServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_LINES", 2)
    lines = [Line("a/x", str(number)) for number in range(5)]
    observed(monkeypatch, "Observer", [*lines, Line("a/y", "0")], x=(1, 5), y=(0, 1))
    session.put("a/z", Line("a/z", "0"))
    assert client.next() == [Line("a/z", "0")]  # and does not take it yet
    run: Any = None
    ending = server.run_query(session, run, EchoQuery(["a/x", "a/y"]))
    assert ending == QueryEnded(ended=True, missed={"a/x": (1 + 3, 5 - 3)})
    client.say(DeliveryTaken())
    assert client.next() == [*lines[-2:], Line("a/y", "0")]


def test_previews_wait_for_one_another_if_they_go_on_and_else_replace_one_another(
    client: Client, session: server.ObserverServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    curve = [Preview("a/x", b"%d" % number, adds=True) for number in range(server.MAX_PARTS + 1)]
    images = [Preview("a/y", b"%d" % number) for number in range(3)]
    observed(monkeypatch, "SnapshotObserver", [*curve, *images])
    session.put("a/z", Line("a/z", "0"))
    client.next()
    run: Any = None
    server.run_query(session, run, SnapshotQuery(1.0))
    client.say(DeliveryTaken())
    assert client.next() == [*curve[1:], images[-1]]


def test_the_first_end_of_a_query_counts_and_nothing_follows_it(
    client: Client, session: server.ObserverServer
) -> None:
    client.takes.clear()  # so that the end waits
    session.put("a/x", Line("a/x", "1"))
    client.next()
    ending = threading.Thread(target=session.finish, args=(QueryEnded("first"),), daemon=True)
    ending.start()
    wait_until(lambda: session._ending is not None, "the end")
    session.put("a/x", Line("a/x", "late"))
    client.takes.set()
    session.finish(QueryEnded("second"))
    ending.join(TIMEOUT)
    assert client.next() == [QueryEnded("first")]
