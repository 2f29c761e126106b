"""Who takes messages of other machines from the channel: whoever looks, else the porter."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import zenoh

from dora.transport.network.poller import BackgroundPoller

PATIENCE = 60.0  # seconds that anything may take on a busy machine
NUDGE = "a nudge"


class Channel:
    """As one of Zenoh, with text instead of samples; "" closes it."""

    def __init__(self) -> None:
        self.content: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.porter_waits = threading.Semaphore(0)

    def try_recv(self) -> str | None:
        try:
            return self.content.get_nowait()
        except queue.Empty:
            return None

    def recv(self) -> str:
        self.porter_waits.release()
        if text := self.content.get():
            return text
        raise zenoh.ZError("closed")


class Node:
    """Notes what it gets, and by which thread."""

    def __init__(self) -> None:
        self.channel = Channel()
        self.got: queue.SimpleQueue[tuple[Any, str]] = queue.SimpleQueue()
        self.asleep = 0
        self.intake = BackgroundPoller(self.take, lambda: self.asleep, lambda: None)
        self.intake.begin(self.channel, "porter")

    def take(self, sample: Any) -> bool:
        if sample == NUDGE:
            return False
        self.got.put((sample, threading.current_thread().name))
        return True

    def next(self) -> tuple[Any, str]:
        return self.got.get(timeout=PATIENCE)


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    assert node.channel.porter_waits.acquire(timeout=PATIENCE)
    yield node
    node.asleep = 1
    node.intake.look()  # a porter that stands back takes over
    node.channel.content.put("")
    node.intake.join()
    assert "porter" not in [thread.name for thread in threading.enumerate()]


def stand_back(node: Node) -> None:
    """Let the porter stand back: it notices that somebody looks when it has carried a message."""
    node.intake.look()
    node.channel.content.put("first")
    assert node.next() == ("first", "porter")


def test_the_porter_carries_while_nobody_looks(node: Node) -> None:
    node.channel.content.put("a")
    node.channel.content.put("b")
    assert [node.next(), node.next()] == [("a", "porter"), ("b", "porter")]


def test_whoever_looks_gets_all_that_is_there_in_its_own_thread(node: Node) -> None:
    stand_back(node)
    here = threading.current_thread().name
    for _ in range(1000):
        node.intake.look()
        node.channel.content.put("second")
        node.intake.look()
        text, carrier = node.next()
        assert text == "second"
        if carrier == here:  # else the porter had not been told yet
            return
    pytest.fail("the porter never stood back")


def test_the_porter_takes_over_when_somebody_stops_looking(node: Node) -> None:
    stand_back(node)
    node.channel.content.put("second")
    assert node.next() == ("second", "porter")


def test_before_a_node_sleeps_the_porter_is_called(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dora.transport.network.poller._STANDS_BACK", 10 * PATIENCE)
    stand_back(node)
    node.asleep = 1
    node.intake.look()
    assert node.channel.porter_waits.acquire(timeout=PATIENCE)
    node.channel.content.put("second")
    assert node.next() == ("second", "porter")


def test_the_porter_stands_back_with_the_message_for_which_it_wakes_a_node(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora.transport.network.poller._STANDS_BACK", 10 * PATIENCE)
    node.asleep = 1
    node.intake.look()
    node.channel.content.put("first")
    assert node.next() == ("first", "porter")
    node.asleep = 0
    node.channel.content.put("second")
    node.intake.look()
    assert node.next() == ("second", threading.current_thread().name)


def test_who_looks_in_vain_gets_the_porter_out_of_the_channel(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora.transport.network.poller._STANDS_BACK", 10 * PATIENCE)
    nudged = threading.Event()
    monkeypatch.setattr(node.intake, "_nudge", nudged.set)
    deadline = time.monotonic() + PATIENCE
    while not nudged.is_set():
        node.intake.look()
        assert time.monotonic() < deadline
    node.channel.content.put(NUDGE)
    while not node.channel.content.empty():
        assert time.monotonic() < deadline
    node.asleep = 1
    node.intake.look()
    assert node.channel.porter_waits.acquire(timeout=PATIENCE)  # it had left


def test_nothing_is_there_before_it_begins() -> None:
    BackgroundPoller(lambda _: True, lambda: 0, lambda: None).look()
