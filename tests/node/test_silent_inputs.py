"""Inputs with an `input_timeout` whose source ends, comes back, or flushes meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from clock import VirtualClock
from fake_daemon import FakeDaemon, StartFlow
from flows import node, runtime
from flows import operator as operator_of
from waiting import TIMEOUT

from dora import Input, Node
from dora.node.events import Text
from dora.node.receive.local_input import LocalInput
from dora.wire.node_protocol import NodeRestartedFrame


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualClock]:
    import dora.node.receive.qos_input  # noqa: F401 - the clock stands in for it there, too

    with monkeypatch.context() as patch:
        yield VirtualClock(patch)


def link(start_flow: StartFlow) -> tuple[FakeDaemon, Node, Node]:
    daemon = start_flow(
        node("a", outputs="out"),
        node("b", inputs={"in": ("a/out", {"input_timeout": 0.5}), "other": "c/out"}),
        node("c", outputs="out"),
    )
    return daemon, daemon.node("a"), daemon.node("b")


def send(sender: Node, *values: int, **metadata: Any) -> None:
    for value in values:
        sender.send_output("out", pa.array([value]), metadata)


def taken(receiver: Node) -> list[Any]:
    """Return the events that are there: numbers of messages, types of others."""
    return [
        event["value"][0].as_py() if isinstance(event, Input) else event["type"]
        for event in receiver.drain()
    ]


def test_the_timeout_of_a_source_that_is_back_begins_with_its_first_message(
    start_flow: StartFlow, clock: VirtualClock
) -> None:
    daemon, sender, receiver = link(start_flow)
    send(sender, 1)
    assert taken(receiver) == [1]
    daemon.close_inputs("b", "in")
    assert taken(receiver) == ["INPUT_CLOSED"]
    clock.advance(10_000)
    daemon.send("b", NodeRestartedFrame("a"))
    assert taken(receiver) == ["NODE_RESTARTED"]
    clock.advance(10_000)
    assert taken(receiver) == []
    send(sender, 2)
    assert taken(receiver) == [2]
    clock.advance(500)
    assert taken(receiver) == ["INPUT_CLOSED"]


def test_the_timeout_of_an_operator_that_is_back_begins_with_its_first_message(
    start_flow: StartFlow, clock: VirtualClock
) -> None:
    daemon = start_flow(
        runtime(
            "host",
            operator_of("a", "a.py", outputs="out"),
            operator_of("b", "b.py", inputs={"in": ("host/a/out", {"input_timeout": 0.5})}),
        )
    )
    (config,) = daemon.plan.configs["host"].inputs
    port = LocalInput(config, daemon.board)

    def next_type() -> str | None:
        event = port.poll()
        return None if event is None else event["type"]

    port.put(Text("1", 0))
    assert next_type() == "INPUT"
    port.source_closed()
    assert next_type() == "INPUT_CLOSED"
    clock.advance(10_000)
    assert port.source_back("host")
    assert next_type() is None
    clock.advance(10_000)
    assert next_type() is None
    port.put(Text("2", 0))
    assert next_type() == "INPUT"
    clock.advance(500)
    assert next_type() == "INPUT_CLOSED"


def test_a_flush_counts_while_an_input_is_closed_by_its_timeout(
    start_flow: StartFlow, clock: VirtualClock
) -> None:
    _, sender, receiver = link(start_flow)
    send(sender, 1)
    assert taken(receiver) == [1]
    clock.advance(500)
    assert taken(receiver) == ["INPUT_CLOSED"]
    send(sender, 2, 3)
    send(sender, 4, flush=True)
    send(sender, 5)
    assert taken(receiver) == ["INPUT_RECOVERED", 4, 5]
    counts = receiver.statistics()["inputs"]["in"]
    assert (counts["received"], counts["dropped"]) == (3, 2)
    send(sender, 6)
    assert taken(receiver) == [6]


def test_a_flush_before_the_end_of_the_pause_leaves_later_messages_alone(
    start_flow: StartFlow, clock: VirtualClock
) -> None:
    _, sender, receiver = link(start_flow)
    send(sender, 1, flush=True)
    assert taken(receiver) == [1]
    clock.advance(500)
    assert taken(receiver) == ["INPUT_CLOSED"]
    send(sender, 2, 3)
    event = receiver.next(timeout=TIMEOUT)
    assert event is not None
    assert event["type"] == "INPUT_RECOVERED"
    assert taken(receiver) == [2, 3]
