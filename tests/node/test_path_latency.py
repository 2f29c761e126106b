"""Path latency: which data a message follows from, and how long that took to each input."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from chain import CAMERA_AND_DETECTOR, camera, working

from dora import DoraStatus, Event, Input, Node, SendOutput
from dora.testing import VirtualDataflow, run_dataflow

CHAIN = f"""{CAMERA_AND_DETECTOR}
  - id: motor
    path: motor.py
    inputs: {{boxes: detector/boxes}}
"""

Found = dict[tuple[str, str], dict[str, Any]]


def paths_of(node: Node) -> Found:
    return {(path["source"], path["sink"]): path for path in node.statistics()["paths"]}


def sink(found: Found) -> Callable[[Node], None]:
    def run(node: Node) -> None:
        for _ in node:
            pass
        found.update(paths_of(node))

    return run


def test_data_is_as_old_as_all_nodes_on_its_way_took() -> None:
    found: Found = {}
    slow = working("boxes", lambda _: 0.02)
    run_dataflow(CHAIN, nodes={"camera": camera(5), "detector": slow, "motor": sink(found)})
    assert list(found) == [("camera/image", "motor/boxes")]
    path = found["camera/image", "motor/boxes"]
    assert path["messages"] == 5
    assert path["median_ms"] == pytest.approx(20, rel=0.07)
    assert path["worst_ms"] == pytest.approx(20)


def test_every_way_of_sending_passes_the_origin_on() -> None:
    def detector(node: Node) -> None:
        for number, event in enumerate(node):
            if event["type"] == "INPUT":
                time.sleep(0.01)
                if number == 0:
                    with node.loan("boxes", 100_000) as array:
                        array[:] = 0
                elif number == 1:
                    with node.send_output_raw("boxes", 10) as buffer:
                        buffer[:] = bytes(10)
                elif number == 2:
                    node.send_output("boxes", bytes(100_000))
                else:
                    node.send_output("boxes", b"", event["metadata"])

    found: Found = {}
    run_dataflow(CHAIN, nodes={"camera": camera(4), "detector": detector, "motor": sink(found)})
    assert list(found) == [("camera/image", "motor/boxes")]
    assert found["camera/image", "motor/boxes"]["messages"] == 4


def test_what_is_sent_outside_of_any_event_is_an_origin() -> None:
    def detector(node: Node) -> None:
        node.send_output("boxes", b"before the first event")
        for event in node:
            if event["type"] == "INPUT_CLOSED":
                node.send_output("boxes", b"after the last one")

    found: Found = {}
    run_dataflow(CHAIN, nodes={"camera": camera(3), "detector": detector, "motor": sink(found)})
    assert {path: each["messages"] for path, each in found.items()} == {
        ("detector/boxes", "motor/boxes"): 2
    }


def test_a_thread_that_sends_while_the_node_waits_is_an_origin() -> None:
    def detector(node: Node) -> None:
        event = node.next()
        assert event is not None

        def send() -> None:
            time.sleep(0.05)  # the node waits for its second image by then
            node.send_output("boxes", b"from a thread")

        thread = threading.Thread(target=send)
        thread.start()
        for _ in node:
            pass
        thread.join()

    found: Found = {}
    run_dataflow(CHAIN, nodes={"camera": camera(2), "detector": detector, "motor": sink(found)})
    assert list(found) == [("detector/boxes", "motor/boxes")]


def test_a_program_may_name_the_events_that_a_message_follows_from() -> None:
    def detector(node: Node) -> None:
        events = [event for event in node if isinstance(event, Input)]
        time.sleep(1)
        node.send_output("boxes", b"", follows=events)
        node.send_output("boxes", b"", follows=events[-1])
        node.send_output("boxes", b"", follows=[])

    found: Found = {}
    flow = CHAIN.replace("image: camera/image", "image: {source: camera/image, queue_size: 9}")
    run_dataflow(flow, nodes={"camera": camera(4), "detector": detector, "motor": sink(found)})
    path = found["camera/image", "motor/boxes"]
    assert path["messages"] == 2
    assert path["worst_ms"] == pytest.approx(1400, abs=110)  # the first image; the last is 300 ms younger
    assert path["mean_ms"] == pytest.approx(path["worst_ms"] - 150)
    assert found["detector/boxes", "motor/boxes"]["messages"] == 1


def test_data_that_goes_in_a_circle_does_not_grow_old() -> None:
    circle = """
nodes:
  - id: starter
    path: starter.py
    outputs: [go]
  - id: a
    path: a.py
    inputs: {go: starter/go, back: b/out}
    outputs: [out]
  - id: b
    path: b.py
    inputs: {in: a/out}
    outputs: [out]
"""
    found: Found = {}

    def starter(node: Node) -> None:
        node.send_output("go", b"")

    def a(node: Node) -> None:
        for _, event in zip(range(102), node, strict=False):
            if event["type"] == "INPUT":
                time.sleep(0.01)
                node.send_output("out", b"")
        found.update(paths_of(node))

    def b(node: Node) -> None:
        for event in node:
            if event["type"] == "INPUT":
                node.send_output("out", b"")

    run_dataflow(circle, nodes={"starter": starter, "a": a, "b": b})
    assert found["a/out", "a/back"]["messages"] > 30
    assert max(path["worst_ms"] for path in found.values()) <= 40


def test_a_set_follows_from_the_messages_of_all_its_inputs() -> None:
    joined = """
nodes:
  - id: left
    path: camera.py
    inputs: {tick: dora/timer/millis/100}
    outputs: [image]
  - id: right
    path: camera.py
    inputs: {tick: dora/timer/millis/100}
    outputs: [image]
  - id: stereo
    path: stereo.py
    inputs: {left: left/image, right: right/image}
    sync: [{inputs: [left, right], tolerance: 20ms}]
    outputs: [depth]
  - id: motor
    path: motor.py
    inputs: {depth: stereo/depth}
"""
    found: Found = {}

    def stereo(node: Node) -> None:
        for event in node:
            if event["type"] == "SYNC":
                node.send_output("depth", b"")

    nodes = {"left": camera(5), "right": camera(5), "stereo": stereo, "motor": sink(found)}
    run_dataflow(joined, nodes=nodes)
    assert {path: each["messages"] for path, each in found.items()} == {
        ("left/image", "motor/depth"): 5,
        ("right/image", "motor/depth"): 5,
    }


class Slow:
    def on_event(self, dora_event: Event, send_output: SendOutput) -> DoraStatus:
        if dora_event["type"] == "INPUT":
            time.sleep(0.03)
            send_output("out", pa.array([1]))
        return DoraStatus.CONTINUE


def test_operators_follow_exactly_from_the_event_that_they_are_called_with() -> None:
    runtime = """
nodes:
  - id: left
    path: camera.py
    inputs: {tick: dora/timer/millis/100}
    outputs: [image]
  - id: right
    path: camera.py
    inputs: {tick: dora/timer/millis/100}
    outputs: [image]
  - id: run
    operators:
      - {id: one, python: one.py, inputs: {in: left/image}, outputs: [out]}
      - {id: two, python: two.py, inputs: {in: run/one/out}, outputs: [out]}
      - {id: other, python: other.py, inputs: {in: right/image}, outputs: [out]}
  - id: motor
    path: motor.py
    inputs: {two: run/two/out, other: run/other/out}
"""
    found: Found = {}
    with VirtualDataflow(
        runtime,
        nodes={
            "left": camera(5),
            "right": camera(5),
            "run": {"one": Slow, "two": Slow, "other": Slow},
            "motor": sink(found),
        },
    ) as flow:
        flow.run()
    assert {path: each["messages"] for path, each in found.items()} == {
        ("left/image", "motor/two"): 5,
        ("right/image", "motor/other"): 5,
    }
    assert found["left/image", "motor/two"]["worst_ms"] >= 60
