"""Taking events: the ways to ask for one, the order they come in, how the stream ends."""

from __future__ import annotations

import gc
import threading
from collections import Counter

import numpy as np
import pytest
from fake_daemon import FakeDaemon, StartFlow
from flows import node
from waiting import TIMEOUT, wait_until

from dora import Event, Input, Node, ReceiveClosed
from dora.transport.board import SENT
from dora.wire.node_protocol import (
    Closing,
    InputsClosed,
    NodeFailedFrame,
    NodeRestartedFrame,
    ReloadFrame,
    StopFrame,
    TextInput,
)


def names(events: list[Event]) -> list[str]:
    """Return events as short texts: ``INPUT image``."""
    return [f"{event['type']} {event.get('id', '')}".strip() for event in events]


def rest(receiver: Node) -> list[str]:
    """Take everything to the end of the stream."""
    return names(list(receiver))


@pytest.fixture
def daemon(start_flow: StartFlow) -> FakeDaemon:
    return start_flow(
        node("camera", outputs="image depth"),
        node("plot", inputs={"image": "camera/image", "depth": "camera/depth"}),
    )


@pytest.fixture
def camera(daemon: FakeDaemon) -> Node:
    return daemon.node("camera")


@pytest.fixture
def plot(daemon: FakeDaemon, camera: Node) -> Node:  # noqa: ARG001 - both exist before anything is sent
    return daemon.node("plot")


# ------------------------------------------------------------------ ways to ask


def test_next_returns_messages(camera: Node, plot: Node) -> None:
    camera.send_output("image", b"abc", {"width": 3})
    event = plot.next()
    assert event is not None
    assert (event["type"], event["id"], event["data"]) == ("INPUT", "image", b"abc")
    assert event["metadata"]["width"] == 3


def test_next_waits_for_a_message(daemon: FakeDaemon, camera: Node, plot: Node) -> None:
    def send_late() -> None:
        daemon.wait_for_sleep("plot")
        camera.send_output("image", b"late")

    thread = threading.Thread(target=send_late)
    thread.start()
    event = plot.next(timeout=TIMEOUT)
    thread.join()
    assert event is not None
    assert event["data"] == b"late"


@pytest.mark.parametrize("timeout", [0, 0.0, 0.01])
def test_a_timeout_is_an_error_event(plot: Node, timeout: float) -> None:
    event = plot.next(timeout)
    assert event is not None
    assert event["type"] == "ERROR"
    assert event["error"].startswith("Timeout event stream error: Receiver timed out")
    assert event.is_timeout


@pytest.mark.parametrize("timeout", [1e7, 1e10, 1e308])
def test_a_timeout_may_be_longer_than_the_system_counts(
    daemon: FakeDaemon, camera: Node, plot: Node, timeout: float
) -> None:
    def send() -> None:
        daemon.wait_for_sleep("plot")
        camera.send_output("image", b"x")

    thread = threading.Thread(target=send)
    thread.start()
    event = plot.next(timeout)
    thread.join()
    assert event is not None
    assert event["type"] == "INPUT"


def test_a_timeout_does_not_hide_a_message(camera: Node, plot: Node) -> None:
    camera.send_output("image", b"")
    event = plot.next(timeout=0)
    assert event is not None
    assert event["type"] == "INPUT"


def test_a_timeout_is_a_number(plot: Node) -> None:
    with pytest.raises(TypeError, match="timeout is a number of seconds or None, not str"):
        plot.next("soon")  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), float("inf"), float("-inf")])
def test_a_timeout_has_to_be_a_time(plot: Node, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout must be a finite number of seconds"):
        plot.next(timeout)


def test_try_recv_never_waits(camera: Node, plot: Node) -> None:
    assert plot.try_recv() is None
    camera.send_output("image", b"x")
    event = plot.try_recv()
    assert event is not None
    assert event["data"] == b"x"
    assert plot.try_recv() is None


def test_drain_returns_all_waiting_events(camera: Node, plot: Node) -> None:
    assert plot.drain() == []
    for number in range(5):
        camera.send_output("image", bytes([number]))
    assert [event["data"][0] for event in plot.drain()] == [0, 1, 2, 3, 4]
    assert plot.drain() == []


def test_drain_after_the_end_raises(daemon: FakeDaemon, plot: Node) -> None:
    daemon.close_inputs("plot", "image", "depth")
    assert names(plot.drain()) == ["INPUT_CLOSED image", "INPUT_CLOSED depth", "STOP ALL_INPUTS_CLOSED"]
    with pytest.raises(ReceiveClosed, match="Could not drain events"):
        plot.drain()
    with pytest.raises(RuntimeError):  # as existing programs know it
        plot.drain()


def test_is_empty(daemon: FakeDaemon, camera: Node, plot: Node) -> None:
    assert plot.is_empty()
    camera.send_output("image", b"x")
    assert not plot.is_empty()
    plot.next()
    assert plot.is_empty()
    daemon.close_inputs("plot", "image")
    wait_until(lambda: not plot.is_empty(), "the closing")
    assert names(plot.drain()) == ["INPUT_CLOSED image"]
    daemon.stop("plot")
    wait_until(lambda: not plot.is_empty(), "the stop")


def test_iteration_ends_with_the_stream(daemon: FakeDaemon, camera: Node, plot: Node) -> None:
    camera.send_output("image", b"x")
    daemon.close_inputs("plot", "image", "depth")
    assert names(list(plot)) == [
        "INPUT image",
        "INPUT_CLOSED depth",
        "INPUT_CLOSED image",
        "STOP ALL_INPUTS_CLOSED",
    ]
    with pytest.raises(StopIteration):
        next(plot)
    assert list(plot) == []


def test_the_end_stays_the_end(daemon: FakeDaemon, camera: Node, plot: Node) -> None:
    daemon.disconnect("plot")
    assert rest(plot) == ["ERROR"]
    camera.send_output("image", b"too late")
    assert plot.next() is None
    assert plot.next(timeout=1) is None
    assert plot.try_recv() is None
    assert plot.is_empty()


# ------------------------------------------------------------------ order


def test_an_input_closes_after_its_data(daemon: FakeDaemon, camera: Node, plot: Node) -> None:
    for number in range(3):
        camera.send_output("image", bytes([number]))
    daemon.close_inputs("plot", "image", "depth")
    events = [event for event in plot if event.get("id") == "image"]
    assert names(events) == ["INPUT image"] * 3 + ["INPUT_CLOSED image"]
    assert [event["data"][0] for event in events[:3]] == [0, 1, 2]


def test_a_failure_comes_before_the_closing_it_causes(daemon: FakeDaemon, camera: Node, plot: Node) -> None:
    camera.send_output("image", b"x")
    daemon.send(
        "plot", NodeFailedFrame("camera", "it broke", ["depth", "image"]), InputsClosed(["depth", "image"])
    )
    events = list(plot)
    assert names(events)[0] == "NODE_FAILED camera"
    assert events[0]["value"] == {
        "source_node_id": "camera",
        "error": "it broke",
        "affected_input_ids": ["depth", "image"],
    }
    assert names(events).index("INPUT image") < names(events).index("INPUT_CLOSED image")
    assert names(events)[-1] == "STOP ALL_INPUTS_CLOSED"


def test_a_manual_stop_comes_at_once_then_the_buffered_then_the_end(
    daemon: FakeDaemon, camera: Node, plot: Node
) -> None:
    for number in range(3):
        camera.send_output("image", bytes([number]))
    daemon.stop("plot")
    assert rest(plot) == ["STOP MANUAL"] + ["INPUT image"] * 3
    assert plot.next() is None


def test_messages_sent_after_a_stop_do_not_prolong_the_stream(
    daemon: FakeDaemon, camera: Node, plot: Node
) -> None:
    camera.send_output("image", b"before")
    daemon.stop("plot")
    event = plot.next()
    assert event is not None
    assert event["type"] == "STOP"
    camera.send_output("image", b"after")
    assert [event["data"] for event in plot] == [b"before"]


def test_a_message_that_was_being_sent_when_another_process_takes_over_is_still_received(
    daemon: FakeDaemon, camera: Node, plot: Node
) -> None:
    """Its sender may have looked up its receivers before that process was one of them."""
    camera.send_output("image", b"before")
    (output,) = [each for each in daemon.plan.configs["camera"].outputs if each.id == "image"]
    daemon.board.set(output.slot, SENT, 2)  # numbered, and not in the queue yet
    daemon.send("plot", ReloadFrame(), StopFrame())
    assert [event["type"] for event in (plot.next(), plot.next(), plot.next()) if event] == [
        "RELOAD",
        "STOP",
        "INPUT",
    ]
    assert plot.try_recv() is None
    daemon.board.set(output.slot, SENT, 1)
    camera.send_output("image", b"during")
    assert [event["data"] for event in plot] == [b"during"]


def test_a_message_whose_sender_has_ended_does_not_keep_another_process_from_taking_over(
    daemon: FakeDaemon, camera: Node, plot: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora.node.receive.link_input.FLIGHT_LIMIT_NS", 50_000_000)
    (output,) = [each for each in daemon.plan.configs["camera"].outputs if each.id == "image"]
    daemon.board.set(output.slot, SENT, 1)
    camera.close()
    daemon.send("plot", ReloadFrame(), StopFrame())
    assert rest(plot) == ["RELOAD", "STOP MANUAL"]


def test_inputs_that_close_after_a_stop_do_not_stop_again(daemon: FakeDaemon, plot: Node) -> None:
    daemon.send("plot", StopFrame(), InputsClosed(["image", "depth"]))
    assert rest(plot) == ["STOP MANUAL", "INPUT_CLOSED image", "INPUT_CLOSED depth"]


def test_a_second_stop_causes_no_event(daemon: FakeDaemon, plot: Node) -> None:
    daemon.send("plot", StopFrame(), StopFrame())
    assert rest(plot) == ["STOP MANUAL"]


def test_a_restarted_source(daemon: FakeDaemon, camera: Node, plot: Node) -> None:
    daemon.send("plot", NodeRestartedFrame("camera"))
    assert names([plot.next()]) == ["NODE_RESTARTED camera"]  # type: ignore[list-item]
    camera.send_output("image", b"again")
    assert names([plot.next()]) == ["INPUT image"]  # type: ignore[list-item]


def test_an_input_opens_again_when_its_dynamic_source_comes_back(start_flow: StartFlow) -> None:
    daemon = start_flow(
        node("viewer", outputs="click", path="dynamic"),
        node("camera", outputs="image"),
        node("plot", inputs={"click": "viewer/click", "image": "camera/image"}),
    )
    plot, viewer = daemon.node("plot"), daemon.node("viewer")
    for number in (1, 2):
        viewer.send_output("click", b"x")
        daemon.close_inputs("plot", "click")
        events = [plot.next(TIMEOUT) for _ in range(2)]
        assert names([event for event in events if event]) == ["INPUT click", "INPUT_CLOSED click"]
        assert plot.is_empty()
        daemon.send("plot", NodeRestartedFrame("viewer"))
        assert names([plot.next(TIMEOUT)]) == ["NODE_RESTARTED viewer"]  # type: ignore[list-item]
        assert events[0] is not None
        assert events[0].sequence == number
    daemon.close_inputs("plot", "click", "image")
    assert rest(plot)[-1] == "STOP ALL_INPUTS_CLOSED"


def test_an_input_that_was_closed_for_good_stays_closed(start_flow: StartFlow) -> None:
    daemon = start_flow(node("viewer", outputs="click"), node("plot", inputs={"click": "viewer/click"}))
    plot = daemon.node("plot")
    daemon.send("plot", InputsClosed(["click"]))
    assert rest(plot) == ["INPUT_CLOSED click", "STOP ALL_INPUTS_CLOSED"]
    daemon.send("plot", NodeRestartedFrame("viewer"))
    assert plot.next() is None


def test_closing_one_input_leaves_the_other_open(daemon: FakeDaemon, camera: Node, plot: Node) -> None:
    daemon.close_inputs("plot", "depth")
    assert names([plot.next(TIMEOUT)]) == ["INPUT_CLOSED depth"]  # type: ignore[list-item]
    camera.send_output("image", b"x")
    assert names([plot.next(TIMEOUT)]) == ["INPUT image"]  # type: ignore[list-item]


def test_inputs_take_turns(camera: Node, plot: Node) -> None:
    for _ in range(5):
        camera.send_output("image", b"i")
    for _ in range(5):
        camera.send_output("depth", b"d")
    assert [event["id"] for event in plot.drain()] == ["image", "depth"] * 5


def test_no_input_starves_next_to_a_busy_one(camera: Node, plot: Node) -> None:
    camera.send_output("depth", b"d")
    seen: Counter[str] = Counter()
    for _ in range(4):
        camera.send_output("image", b"i")
        event = plot.next(TIMEOUT)
        assert event is not None
        seen[event["id"]] += 1
    assert seen["depth"] == 1


def test_a_node_without_inputs_waits_for_a_stop(daemon: FakeDaemon, camera: Node) -> None:
    event = camera.next(timeout=0)
    assert event is not None
    assert event["type"] == "ERROR"
    daemon.stop("camera")
    assert rest(camera) == ["STOP MANUAL"]


def test_two_inputs_of_one_output_each_get_the_message(start_flow: StartFlow) -> None:
    daemon = start_flow(
        node("camera", outputs="image"), node("plot", inputs={"a": "camera/image", "b": "camera/image"})
    )
    camera, plot = daemon.node("camera"), daemon.node("plot")
    camera.send_output("image", b"x")
    assert [(event["id"], event["data"]) for event in plot.drain()] == [("a", b"x"), ("b", b"x")]


def test_a_node_may_send_to_itself(start_flow: StartFlow) -> None:
    daemon = start_flow(node("loop", inputs={"in": "loop/out"}, outputs="out"))
    loop = daemon.node("loop")
    loop.send_output("out", b"x")
    event = loop.next(timeout=TIMEOUT)
    assert event is not None
    assert event["data"] == b"x"


# ------------------------------------------------------------------ lines of text


def test_text_inputs(start_flow: StartFlow) -> None:
    daemon = start_flow(node("camera"), node("logger", inputs={"logs": "dora/logs"}))
    logger = daemon.node("logger")
    for number in range(3):
        daemon.send("logger", TextInput(["logs"], f"line {number}"))
    events = [logger.next(timeout=TIMEOUT) for _ in range(3)]
    assert [event["value"].to_pylist() for event in events if event] == [["line 0"], ["line 1"], ["line 2"]]
    assert all(event is not None and list(event["metadata"]) == ["timestamp"] for event in events)


def test_a_full_text_queue_keeps_the_newest_and_counts(start_flow: StartFlow) -> None:
    daemon = start_flow(node("logger", inputs={"logs": ("dora/logs", {"queue_size": 2})}))
    logger = daemon.node("logger")
    for number in range(5):
        daemon.send("logger", TextInput(["logs"], str(number)))
    daemon.close_inputs("logger", "logs")
    texts = [event["value"][0].as_py() for event in logger if event["type"] == "INPUT"]
    assert texts == ["3", "4"]
    assert logger.statistics()["inputs"]["logs"] == {"received": 2, "dropped": 3}


# ------------------------------------------------------------------ what was received stays valid


def test_kept_values_stay_valid_while_later_ones_arrive(camera: Node, plot: Node) -> None:
    kept = []
    for number in range(60):  # more than the shared memory that a receiver may hold
        camera.send_output("image", np.full(10_000, number, dtype=np.uint8))
        event = plot.next(timeout=TIMEOUT)
        assert event is not None
        kept.append(event["value"])
    for number, array in enumerate(kept):
        assert np.asarray(array).tolist() == [number] * 10_000


def test_kept_events_can_be_read_later(camera: Node, plot: Node) -> None:
    kept = []
    for number in range(60):
        camera.send_output("image", np.full(10_000, number, dtype=np.uint8), {"number": number})
        kept.append(plot.next(timeout=TIMEOUT))
    for number, event in enumerate(kept):
        assert event is not None
        assert event["metadata"]["number"] == number
        assert event.numpy()[0] == event["data"][-1] == number


def test_the_memory_of_a_large_message_is_free_once_the_program_has_dropped_it(
    daemon: FakeDaemon, camera: Node, plot: Node
) -> None:
    def send() -> None:
        daemon.wait_for_sleep("plot")
        camera.send_output("image", bytes(100_000))

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    event = plot.next(timeout=TIMEOUT)
    thread.join(TIMEOUT)
    assert isinstance(event, Input)
    content = event._content
    assert content.owner is not None, "it is in the memory of the node"
    del event
    gc.collect()
    assert [found for found in gc.get_referrers(content) if isinstance(found, Input)] == []


def test_values_outlive_both_nodes(daemon: FakeDaemon, camera: Node, plot: Node) -> None:
    camera.send_output("image", np.arange(100_000, dtype=np.int32))
    event = plot.next(timeout=TIMEOUT)
    assert event is not None
    value, array = event["value"], event.numpy()
    camera.close()
    plot.close()
    del event
    gc.collect()
    assert value[99_999].as_py() == array[99_999] == 99_999
    wait_until(lambda: len(daemon.heard("plot", Closing)) == 1, "the closing")


def test_del_node_leaves_the_daemon_and_values_stay(daemon: FakeDaemon, camera: Node) -> None:
    plot = daemon.node("plot")
    camera.send_output("image", np.arange(100_000, dtype=np.int32))
    event = plot.next(timeout=TIMEOUT)
    assert event is not None
    value = event["value"]
    del plot
    gc.collect()
    wait_until(lambda: len(daemon.heard("plot", Closing)) == 1, "the closing")
    assert value[-1].as_py() == 99_999
    assert event["data"][:4] == b"\0\0\0\0"


def test_a_program_that_asks_on_and_on_after_the_end_does_not_burn_the_processor(
    daemon: FakeDaemon, plot: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("dora.node.receive.wait._pause", pauses.append)
    daemon.stop("plot")
    rest(plot)
    for _ in range(5):
        assert plot.next() is None
    assert len(pauses) >= 4 and min(pauses) >= 0.01
