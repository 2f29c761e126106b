"""Nodes that are used from several threads."""

from __future__ import annotations

import os
import threading
import time

import pytest
from clock import VirtualClock
from fake_daemon import FakeDaemon, StartFlow
from flows import node
from waiting import TIMEOUT, wait_until

from dora import Event, Node, SendError
from dora.wire.node_protocol import Closing


@pytest.fixture
def daemon(start_flow: StartFlow) -> FakeDaemon:
    return start_flow(
        node("camera", outputs="image", inputs={"image": "plot/echo"}),
        node("plot", inputs={"image": ("camera/image", {"queue_size": 1000})}, outputs="echo"),
    )


@pytest.fixture
def camera(daemon: FakeDaemon) -> Node:
    return daemon.node("camera")


@pytest.fixture
def plot(daemon: FakeDaemon, camera: Node) -> Node:  # noqa: ARG001 - both exist before anything is sent
    return daemon.node("plot")


def in_thread(action: object, *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=action, args=arguments, daemon=True)  # type: ignore[arg-type]
    thread.start()
    return thread


def join(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive(), "a thread hangs"


def test_sending_while_the_main_thread_waits(daemon: FakeDaemon, camera: Node, plot: Node) -> None:
    def serve() -> None:
        daemon.wait_for_sleep("camera")
        plot.send_output("echo", b"x")

    thread = in_thread(serve)
    event = camera.next(TIMEOUT)
    join(thread)
    assert event is not None
    assert event["data"] == b"x"


def test_a_timeout_counts_from_the_call_although_another_thread_receives(
    plot: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = VirtualClock(monkeypatch)
    inbox = plot._session.inbox
    left: list[float | None] = []

    def acquire(_: float) -> bool:
        clock.advance(200)  # as if another thread had received meanwhile
        inbox._lock.release()
        return inbox._lock.acquire(blocking=False)

    monkeypatch.setattr(inbox, "_acquire", acquire)
    monkeypatch.setattr(inbox, "_wait", left.append)
    for timeout in (0.5, 0.1, None):
        with inbox._lock:
            plot.next(timeout)
            inbox._lock.acquire()
    assert left == [pytest.approx(0.3), 0.0, None]


def test_several_threads_on_one_output(camera: Node, plot: Node) -> None:
    def send(name: int) -> None:
        for number in range(100):
            camera.send_output("image", bytes([name, number]), {"name": name})

    join(*[in_thread(send, name) for name in range(4)])
    events = plot.drain()
    assert [event.sequence for event in events if event["type"] == "INPUT"] == list(range(1, 401))
    for name in range(4):
        assert [e["data"][1] for e in events if e["data"][0] == name] == list(range(100))


def test_two_threads_in_next_share_the_events(daemon: FakeDaemon, camera: Node, plot: Node) -> None:
    received: list[int] = []

    def receive() -> None:
        received.extend(event["data"][0] for event in plot if event["type"] == "INPUT")

    threads = [in_thread(receive) for _ in range(2)]
    daemon.wait_for_sleep("plot")
    for number in range(50):
        camera.send_output("image", bytes([number]))
    wait_until(lambda: len(received) == 50, "all messages")
    daemon.stop("plot")
    join(*threads)
    assert sorted(received) == list(range(50))


def test_a_timeout_holds_while_another_thread_waits(daemon: FakeDaemon, plot: Node) -> None:
    thread = in_thread(plot.next)
    daemon.wait_for_sleep("plot")
    start = time.monotonic()
    event = plot.next(timeout=0.02)
    assert time.monotonic() - start < TIMEOUT / 2
    assert event is not None
    assert event.is_timeout
    assert plot.next(timeout=0).is_timeout  # type: ignore[union-attr]
    assert plot.try_recv() is None
    assert plot.is_empty()
    daemon.stop("plot")
    join(thread)


def test_closing_in_another_thread_ends_the_wait(daemon: FakeDaemon, plot: Node) -> None:
    ended: list[Event | None] = []
    thread = in_thread(lambda: ended.append(plot.next()))
    daemon.wait_for_sleep("plot")
    plot.close()
    join(thread)
    assert ended == [None]


def test_closing_while_another_thread_sends(daemon: FakeDaemon, camera: Node, plot: Node) -> None:
    raised: list[Exception] = []
    sent = threading.Event()

    def send() -> None:
        try:
            while True:
                camera.send_output("image", b"x" * 5000)
                sent.set()
        except SendError as error:
            raised.append(error)

    thread = in_thread(send)
    assert sent.wait(TIMEOUT)
    camera.close()
    join(thread)
    assert "closed" in str(raised[0])
    wait_until(lambda: len(daemon.heard("camera", Closing)) == 1, "the closing")
    assert any(event["type"] == "INPUT" for event in plot.drain())


def test_threads_that_save_at_once_leave_one_whole_state(
    camera: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = threading.Barrier(2, timeout=TIMEOUT)
    replace = os.replace

    def replace_together(*paths: str) -> None:
        written.wait()
        replace(*paths)

    monkeypatch.setattr(os, "replace", replace_together)
    states = [b"a" * 100, b"b" * 50]
    raised: list[Exception] = []

    def save(state: bytes) -> None:
        try:
            camera.save_state(state)
        except SendError as error:
            raised.append(error)

    join(*[in_thread(save, state) for state in states])
    assert raised == []
    assert camera.load_state() in states


def test_undeclared_outputs_from_threads_are_all_counted(
    camera: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    def send() -> None:
        for _ in range(100):
            camera.send_output("imgae", b"x")

    join(*[in_thread(send) for _ in range(4)])
    assert camera.statistics()["undeclared"] == 400
    assert capsys.readouterr().out.count("did you mean") == 1
