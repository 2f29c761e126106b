"""Events from outside the dataflow, merged with the ones of the inputs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from fake_daemon import FakeDaemon, StartFlow
from flows import node
from waiting import TIMEOUT

from dora import External, Node
from dora.ros2.message_queue import MessageCounters, MessageQueue


class Source:
    """A subscription of numbers, which tests fill."""

    def __init__(self) -> None:
        self.queue: MessageQueue[int] = MessageQueue(None, MessageCounters())
        self.callback: Callable[[], None] | None = None

    def put(self, value: int) -> None:
        self.queue.put(value)

    def next(self, timeout: float | None = None) -> int | None:
        return self.queue.take(timeout)

    def set_on_message(self, callback: Callable[[], None] | None) -> None:
        self.callback = callback
        self.queue.set_on_arrival(callback)


@pytest.fixture
def daemon(start_flow: StartFlow) -> FakeDaemon:
    return start_flow(node("camera", outputs="image"), node("plot", inputs={"image": "camera/image"}))


@pytest.fixture
def camera(daemon: FakeDaemon) -> Node:
    return daemon.node("camera")


@pytest.fixture
def plot(daemon: FakeDaemon, camera: Node) -> Node:  # noqa: ARG001 - both exist before anything is sent
    return daemon.node("plot")


def test_an_external_event_is_a_dictionary_with_its_kind_and_value(plot: Node) -> None:
    source = Source()
    plot.merge_external_events(source)
    source.put(7)
    event = plot.next(TIMEOUT)
    assert isinstance(event, External)
    assert event == {"kind": "external", "type": "EXTERNAL", "value": 7}
    assert (event.kind, event.value) == ("external", 7)


def test_values_from_before_the_merge_come_too(plot: Node) -> None:
    source = Source()
    source.put(1)
    plot.merge_external_events(source)
    assert not plot.is_empty()
    event = plot.try_recv()
    assert event is not None
    assert event["value"] == 1
    assert plot.is_empty()


def test_a_value_wakes_a_node_that_waits(daemon: FakeDaemon, plot: Node) -> None:
    source = Source()
    plot.merge_external_events(source)
    found = []
    receiver = threading.Thread(target=lambda: found.append(plot.next()))
    receiver.start()
    daemon.wait_for_sleep("plot")
    source.put(3)
    receiver.join(TIMEOUT)
    assert [event["value"] for event in found if event is not None] == [3]


def test_a_merge_wakes_a_node_that_waits_for_the_values_from_before(daemon: FakeDaemon, plot: Node) -> None:
    source = Source()
    source.put(3)
    source.queue.set_on_arrival = lambda _: None  # type: ignore[method-assign]  # it reports only new values
    found = []
    receiver = threading.Thread(target=lambda: found.append(plot.next()))
    receiver.start()
    daemon.wait_for_sleep("plot")
    plot.merge_external_events(source)
    receiver.join(TIMEOUT)
    assert [event["value"] for event in found if event is not None] == [3]


def test_a_value_wakes_a_task_that_waits(plot: Node) -> None:
    source = Source()
    plot.merge_external_events(source)

    async def receive() -> object:
        waiting = asyncio.create_task(plot.recv_async(TIMEOUT))
        await asyncio.sleep(0)
        source.put(4)
        event = await waiting
        return None if event is None else event["value"]

    assert asyncio.run(receive()) == 4


def test_inputs_and_external_values_take_turns(camera: Node, plot: Node) -> None:
    source = Source()
    plot.merge_external_events(source)
    for number in range(3):
        source.put(number)
        camera.send_output("image", bytes([number]))
    kinds = [event["kind"] for _ in range(6) if (event := plot.next(TIMEOUT)) is not None]
    assert sorted(kinds) == ["dora"] * 3 + ["external"] * 3
    assert kinds not in (sorted(kinds), sorted(kinds, reverse=True))


def test_after_a_stop_a_source_that_goes_on_does_not_delay_the_end(daemon: FakeDaemon, plot: Node) -> None:
    source = Source()
    plot.merge_external_events(source)
    source.put(1)
    daemon.stop("plot")
    events = list(plot)
    source.put(2)
    assert [event["type"] for event in events] == ["STOP", "EXTERNAL"]
    assert plot.next() is None
    assert source.callback is None


def test_external_events_do_not_keep_a_node_with_closed_inputs(daemon: FakeDaemon, plot: Node) -> None:
    plot.merge_external_events(Source())
    daemon.close_inputs("plot", "image")
    assert [event["type"] for event in plot] == ["INPUT_CLOSED", "STOP"]


def test_several_sources_can_be_merged(plot: Node) -> None:
    first, second = Source(), Source()
    plot.merge_external_events(first)
    plot.merge_external_events(second)
    first.put(1)
    second.put(2)
    values = [event["value"] for _ in range(2) if (event := plot.next(TIMEOUT)) is not None]
    assert sorted(values) == [1, 2]


def test_a_closed_node_leaves_its_sources(plot: Node) -> None:
    source = Source()
    plot.merge_external_events(source)
    plot.close()
    assert source.callback is None
    source.put(1)
