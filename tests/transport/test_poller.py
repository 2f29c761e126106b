"""Messages of other machines are taken by the node while it polls, else by the background poller."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import zenoh
from waiting import TIMEOUT

from dora.transport.network.poller import BackgroundPoller

INTERRUPT = "an interrupt"


class Channel:
    """Like one of Zenoh, with text instead of samples; "" closes it."""

    def __init__(self) -> None:
        self.content: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.poller_blocks = threading.Semaphore(0)

    def try_recv(self) -> str | None:
        try:
            return self.content.get_nowait()
        except queue.Empty:
            return None

    def recv(self) -> str:
        self.poller_blocks.release()
        if text := self.content.get():
            return text
        raise zenoh.ZError("closed")


class Node:
    """Records what it gets, and in which thread."""

    def __init__(self) -> None:
        self.channel = Channel()
        self.got: queue.SimpleQueue[tuple[Any, str]] = queue.SimpleQueue()
        self.asleep = 0
        self.poller = BackgroundPoller(self.take, lambda: self.asleep, lambda: None)
        self.poller.start(self.channel, "poller")

    def take(self, sample: Any) -> bool:
        if sample == INTERRUPT:
            return False
        self.got.put((sample, threading.current_thread().name))
        return True

    def next(self) -> tuple[Any, str]:
        return self.got.get(timeout=TIMEOUT)


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    assert node.channel.poller_blocks.acquire(timeout=TIMEOUT)
    yield node
    node.asleep = 1
    node.poller.poll()  # a background poller that stands back takes over
    node.channel.content.put("")
    node.poller.join()
    assert "poller" not in [thread.name for thread in threading.enumerate()]


def stand_back(node: Node) -> None:
    """Let the background poller stand back, which it does when it has delivered a message."""
    node.poller.poll()
    node.channel.content.put("first")
    assert node.next() == ("first", "poller")


def test_the_background_poller_delivers_while_the_node_does_not_poll(node: Node) -> None:
    node.channel.content.put("a")
    node.channel.content.put("b")
    assert [node.next(), node.next()] == [("a", "poller"), ("b", "poller")]


def test_a_node_that_polls_gets_all_messages_in_its_own_thread(node: Node) -> None:
    stand_back(node)
    here = threading.current_thread().name
    for _ in range(1000):
        node.poller.poll()
        node.channel.content.put("second")
        node.poller.poll()
        text, thread = node.next()
        assert text == "second"
        if thread == here:  # else the background poller was still in the channel
            return
    pytest.fail("the background poller never stood back")


def test_the_background_poller_takes_over_when_the_node_stops_polling(node: Node) -> None:
    stand_back(node)
    node.channel.content.put("second")
    assert node.next() == ("second", "poller")


def test_a_node_calls_the_background_poller_before_it_sleeps(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora.transport.network.poller._TAKEOVER", 10 * TIMEOUT)
    stand_back(node)
    node.asleep = 1
    node.poller.poll()
    assert node.channel.poller_blocks.acquire(timeout=TIMEOUT)
    node.channel.content.put("second")
    assert node.next() == ("second", "poller")


def test_the_background_poller_stands_back_with_the_message_that_wakes_the_node(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora.transport.network.poller._TAKEOVER", 10 * TIMEOUT)
    node.asleep = 1
    node.poller.poll()
    node.channel.content.put("first")
    assert node.next() == ("first", "poller")
    node.asleep = 0
    node.channel.content.put("second")
    node.poller.poll()
    assert node.next() == ("second", threading.current_thread().name)


def test_a_node_that_polls_again_and_again_interrupts_the_background_poller(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora.transport.network.poller._TAKEOVER", 10 * TIMEOUT)
    interrupted = threading.Event()
    monkeypatch.setattr(node.poller, "_interrupt", interrupted.set)
    deadline = time.monotonic() + TIMEOUT
    while not interrupted.is_set():
        node.poller.poll()
        assert time.monotonic() < deadline
    node.channel.content.put(INTERRUPT)
    while not node.channel.content.empty():
        assert time.monotonic() < deadline
    node.asleep = 1
    node.poller.poll()
    assert node.channel.poller_blocks.acquire(timeout=TIMEOUT)  # it had left


def test_a_poll_before_the_start_finds_nothing() -> None:
    BackgroundPoller(lambda _: True, lambda: 0, lambda: None).poll()
