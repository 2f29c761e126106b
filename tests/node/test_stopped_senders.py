"""A stop releases a sender that waits for room in a queue."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from fake_daemon import FakeDaemon, StartFlow
from flows import node
from waiting import TIMEOUT, wait_until

from dora import Node
from dora.transport.board import CREDIT_WAITING
from dora.wire.counters import UNSENT
from dora.wire.encode import encode
from dora.wire.message import pack_head
from dora.wire.node_protocol import PublishRequest, PublishResult


def link(start_flow: StartFlow, **options: Any) -> tuple[FakeDaemon, Node, Node]:
    options = {"queue_size": 1, "queue_policy": "backpressure", **options}
    daemon = start_flow(
        node("a", outputs="out", inputs={"back": "b/back"}),
        node("b", inputs={"in": ("a/out", options)}, outputs="back"),
    )
    return daemon, daemon.node("a"), daemon.node("b")


def start(*calls: Callable[[], Any]) -> list[threading.Thread]:
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    return threads


def wait_until_blocked(daemon: FakeDaemon) -> None:
    slot = daemon.plan.configs["a"].outputs[0].slot
    wait_until(lambda: daemon.board.get(slot, CREDIT_WAITING) == 1, "the sender to wait")


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive(), "the sender hangs"


def unsent(daemon: FakeDaemon) -> int:
    return daemon.board.get(daemon.plan.configs["a"].outputs[0].links[0].slot, UNSENT.word)


def lend(sender: Node) -> None:
    with sender.loan("out", 100_000) as array:
        array[:] = 1


SENDS: dict[str, Callable[[Node], Any]] = {
    "a small message": lambda sender: sender.send_output("out", b"more"),
    "a large message": lambda sender: sender.send_output("out", bytes(100_000)),
    "a loan": lend,
    "a raw sample": lambda sender: sender.send_output_raw("out", 10).send(),
    "a request": lambda sender: sender.send_service_request("out", b"more"),
    "a call": lambda sender: sender.call("out", b"more"),
    "a goal": lambda sender: sender.send_goal("out", b"more"),
    "a chunk of a stream": lambda sender: sender.stream("out").send(b"more"),
}


@pytest.mark.parametrize("kind", SENDS)
def test_a_stop_releases_messages_that_wait_to_be_sent(start_flow: StartFlow, kind: str) -> None:
    daemon, sender, receiver = link(start_flow)
    sender.send_output("out", b"first")
    threads = start(lambda: SENDS[kind](sender))
    wait_until_blocked(daemon)
    daemon.stop("a")
    join(threads)
    event = sender.next(timeout=TIMEOUT)
    assert event is not None
    assert (event["type"], event["id"]) == ("STOP", "MANUAL")
    assert sender.statistics()["outputs"]["out"] == {"sent": 1, "unsent": 1}
    assert unsent(daemon) == 1
    assert [bytes(event["data"]) for event in receiver.drain()] == [b"first"]
    assert receiver.statistics()["inputs"]["in"] == {"received": 1, "dropped": 0}


def test_a_stop_releases_all_threads_that_wait(start_flow: StartFlow) -> None:
    daemon, sender, _receiver = link(start_flow)
    sender.send_output("out", b"first")
    threads = start(*[lambda: sender.send_output("out", b"more")] * 3)
    wait_until_blocked(daemon)
    daemon.stop("a")
    join(threads)
    assert sender.statistics()["outputs"]["out"] == {"sent": 1, "unsent": 3}


def test_after_a_stop_a_message_is_sent_if_there_is_room(start_flow: StartFlow) -> None:
    """What was not sent leaves no gap in the numbers, so nothing counts as dropped."""
    daemon, sender, receiver = link(start_flow, queue_size=2)
    daemon.stop("a")
    for number in range(4):
        sender.send_output("out", bytes([number]))
    received = [event["data"][0] for event in receiver.drain()]
    for number in range(4, 8):
        sender.send_output("out", bytes([number]))
    received += [event["data"][0] for event in receiver.drain()]
    assert received == [0, 1, 4, 5]
    assert receiver.statistics()["inputs"]["in"] == {"received": 4, "dropped": 0}
    assert sender.statistics()["outputs"]["out"] == {"sent": 4, "unsent": 4}


def test_a_node_that_is_stopped_alone_may_wait_for_some_time(start_flow: StartFlow) -> None:
    daemon, sender, receiver = link(start_flow)
    sender.send_output("out", b"first")
    threads = start(lambda: sender.send_output("out", b"second"))
    wait_until_blocked(daemon)
    daemon.stop("a", patience=TIMEOUT)
    received = [receiver.next(timeout=TIMEOUT) for _ in range(2)]
    join(threads)
    assert [bytes(event["data"]) for event in received if event] == [b"first", b"second"]
    assert sender.statistics()["outputs"]["out"] == {"sent": 2}


def test_topic_pub_reports_a_message_that_the_node_did_not_send(start_flow: StartFlow) -> None:
    daemon, sender, _receiver = link(start_flow)
    sender.send_output("out", b"first")
    payload = encode(b"more")
    body = payload.to_bytes()
    message = pack_head(payload.encoding, payload.schema, b"", payload.size, 1, 1, body)
    daemon.send("a", PublishRequest(7, "out", message))
    threads = start(lambda: sender.next(timeout=TIMEOUT))
    wait_until_blocked(daemon)
    daemon.stop("a")
    join(threads)
    wait_until(lambda: bool(daemon.heard("a", PublishResult)), "the answer")
    (answer,) = daemon.heard("a", PublishResult)
    assert isinstance(answer, PublishResult)
    assert answer.ticket == 7
    assert "asked to stop" in answer.reason
