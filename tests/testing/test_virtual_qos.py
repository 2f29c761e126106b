"""QoS of inputs in virtual time: exact times, on nodes and operators."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from dora import DoraStatus, Node
from dora.builder import DataflowBuilder, Operator
from dora.testing import VirtualDataflow, at, run_node, run_operator
from dora.testing.virtual_time import EPOCH_NS
from dora.wire.counters import EXPIRED, THINNED, UNMATCHED

START = 1000.0  # of the virtual clock


def number(event: Any) -> Any:
    return event["value"][0].as_py() if event["type"] == "INPUT" else event["type"]


def log_of(node: Node) -> list[tuple[float, Any]]:
    return [(round(time.monotonic() - START, 6), number(event)) for event in node]


def test_a_deadline_is_noticed_at_its_moment() -> None:
    seen: list[tuple[float, Any]] = []
    lateness: list[float] = []

    def arm(node: Node) -> None:
        for event in node:
            seen.append((round(time.monotonic() - START, 6), number(event)))
            if event["type"].startswith("DEADLINE"):
                lateness.append(round(event["late"], 6))

    run = run_node(
        arm,
        [at(when, "command", pa.array([index])) for index, when in enumerate((0.1, 0.13, 0.5, 0.52))],
        options={"command": {"deadline": "50ms"}},
    )
    assert seen == [
        (0.05, "DEADLINE_MISSED"),
        (0.1, "DEADLINE_MET"),
        (0.1, 0),
        (0.13, 1),
        (0.18, "DEADLINE_MISSED"),
        (0.5, "DEADLINE_MET"),
        (0.5, 2),
        (0.52, 3),
        (0.52, "INPUT_CLOSED"),
        (0.52, "STOP"),
    ]
    assert lateness == [0, 0.05, 0, 0.32]
    assert run.result.links[0].counts == {"missed": 2}


@pytest.mark.lengthy
@pytest.mark.parametrize(
    ("rule", "stop_after", "expected"),
    [
        ({"max_age": "500ms"}, 20, [(1.0, 6000), (20.0, "STOP")]),
        ({"max_age": "500ms", "rate": "100hz"}, 20, [(1.0, 6000), (20.0, "STOP")]),
        ({"every": 5000}, 20, [(1.0, 0), (1.0, 5000), (20.0, "STOP")]),
        ({"every": 5000}, 0.95, [(1.0, "STOP"), (1.0, 0), (1.0, 5000)]),
    ],
)
def test_a_message_behind_thousands_that_are_left_out_comes_at_once(
    rule: dict[str, Any], stop_after: float, expected: list[tuple[float, Any]]
) -> None:
    seen: list[tuple[float, Any]] = []

    def source() -> None:
        node = Node()
        for index in range(6000):
            node.send_output("out", pa.array([index]))
        time.sleep(0.9)
        node.send_output("out", pa.array([6000]))
        time.sleep(60)

    def sink() -> None:
        node = Node()
        time.sleep(1)
        seen.extend(log_of(node))

    flow = DataflowBuilder()
    flow.add_node("source", path="source.py", outputs=["out"])
    flow.add_node("sink", path="sink.py").add_input("in", "source/out", queue_size=8000, **rule)
    with VirtualDataflow(flow, nodes={"source": source, "sink": sink}) as dataflow:
        dataflow.run(stop_after=stop_after)
    assert seen == expected


@pytest.mark.lengthy
def test_at_a_stop_a_set_waits_for_a_message_behind_thousands_that_are_left_out() -> None:
    seen: list[Any] = []

    def source() -> None:
        node = Node()
        for index in range(6000):
            stamp = {"timestamp": datetime.fromtimestamp(index, UTC)}
            node.send_output("all", pa.array([index]), stamp)
            if index % 5000 == 0:
                node.send_output("some", pa.array([index]), stamp)
        time.sleep(60)

    def sink() -> None:
        node = Node()
        time.sleep(1)
        for event in node:
            messages = event["inputs"].values() if event["type"] == "SYNC" else ()
            seen.append([number(message) for message in messages] or event["type"])

    flow = DataflowBuilder()
    flow.add_node("source", path="source.py", outputs=["all", "some"])
    node = flow.add_node("sink", path="sink.py")
    node.add_input("all", "source/all", queue_size=8000, every=5000).add_input("some", "source/some")
    node.add_sync("some", "all")
    with VirtualDataflow(flow, nodes={"source": source, "sink": sink}) as dataflow:
        dataflow.run(stop_after=0.95)
    assert seen == ["STOP", [0, 0], [5000, 5000]]


def test_a_rate_gives_the_newest_when_its_time_has_come() -> None:
    seen: list[tuple[float, Any]] = []
    run = run_node(
        lambda node: seen.extend(log_of(node)),
        [at(index * 0.03, "image", pa.array([index])) for index in range(9)],
        options={"image": {"rate": "10hz"}},
    )
    assert seen[:-2] == [(0.0, 0), (0.1, 3), (0.2, 6), (0.24, 8)]
    link = run.result.links[0]
    assert (link.sent, link.received, link.count(THINNED), link.unread) == (9, 4, 5, 0)


def test_messages_that_a_busy_node_finds_too_old_are_not_delivered() -> None:
    got: list[Any] = []

    def busy(node: Node) -> None:
        for event in node:
            got.append(number(event))
            time.sleep(0.35 if event["type"] == "INPUT" else 0)

    run = run_node(
        busy,
        [
            at(index * 0.1, "image", pa.array([index]), {"stop": True} if index == 1 else None)
            for index in range(5)
        ],
        options={"image": {"max_age": "150ms", "keep": ["stop"]}},
    )
    assert got == [0, 1, "INPUT_CLOSED", "STOP"]
    link = run.result.links[0]
    assert (link.sent, link.received, link.dropped, link.count(EXPIRED), link.unread) == (5, 2, 0, 3, 0)


def test_an_operator_has_qos_on_its_inputs() -> None:
    seen: list[Any] = []

    class Arm:
        def on_event(self, event: Any, send_output: Any) -> DoraStatus:  # noqa: ARG002
            seen.append((event.get("id"), number(event)))
            return DoraStatus.CONTINUE

    run_operator(
        Arm,
        [at(0.0, "command", pa.array([1])), at(0.2, "command", pa.array([2]))],
        outputs=["none"],
        options={"command": {"deadline": "100ms", "rate": "100hz"}},
    )
    assert seen[:4] == [
        ("command", 1),
        ("command", "DEADLINE_MISSED"),
        ("command", "DEADLINE_MET"),
        ("command", 2),
    ]


def test_messages_between_operators_of_one_process_have_the_same_rules() -> None:
    got: list[Any] = []

    class Source:
        def on_event(self, event: Any, send_output: Any) -> DoraStatus:
            if event["type"] == "INPUT":
                for index in range(4):
                    send_output("out", pa.array([index]), {"stop": True} if index == 1 else {})
            return DoraStatus.CONTINUE

    class Sink:
        def on_event(self, event: Any, send_output: Any) -> DoraStatus:  # noqa: ARG002
            got.append(number(event))
            return DoraStatus.CONTINUE

    builder = DataflowBuilder("test")
    feeder = builder.add_node("feeder", path="dynamic")
    go = feeder.add_output("go")
    runtime = builder.add_node("runtime")
    source, sink = Operator("source", python="source.py"), Operator("sink", python="sink.py")
    runtime.add_operator(source).add_operator(sink)
    source.add_input("go", go)
    out = source.add_output("out")
    sink.add_input("in", out, queue_policy="latest", keep=["stop"], deadline="1s", rate="100hz")

    def feed() -> None:
        with Node() as node:
            node.send_output("go", pa.array([0]))
            time.sleep(0.5)

    nodes: dict[str, Any] = {"feeder": feed, "runtime": {"source": Source, "sink": Sink}}
    with VirtualDataflow(builder, nodes=nodes) as flow:
        flow.run()
    assert got[:2] == [1, 3]


def test_what_a_group_drops_of_an_operator_of_the_same_process_counts_as_dropped() -> None:
    class Source:
        def on_event(self, event: Any, send_output: Any) -> DoraStatus:
            if event["type"] == "INPUT":
                send_output("out", event["value"], event["metadata"])
            return DoraStatus.CONTINUE

    class Sink:
        def on_event(self, event: Any, send_output: Any) -> DoraStatus:  # noqa: ARG002
            return DoraStatus.CONTINUE

    builder = DataflowBuilder("test")
    feeder = builder.add_node("feeder", path="dynamic")
    go, never = feeder.add_output("go"), feeder.add_output("never")
    source, sink = Operator("source", python="source.py"), Operator("sink", python="sink.py")
    builder.add_node("runtime").add_operator(source).add_operator(sink)
    source.add_input("go", go)
    sink.add_input("in", source.add_output("out"), queue_size=2, deadline="10s")
    sink.add_input("never", never)
    sink.add_sync("in", "never", tolerance="5ms")

    def feed() -> None:
        with Node() as node:
            for index in range(5):
                node.send_output("go", pa.array([index]))
                time.sleep(0.1)

    nodes: dict[str, Any] = {"feeder": feed, "runtime": {"source": Source, "sink": Sink}}
    with VirtualDataflow(builder, nodes=nodes) as flow:
        flow.run()
        (link,) = [link for link in flow.result.links if link.link.endswith("sink/in")]
    assert (link.received, link.dropped, link.count(UNMATCHED)) == (2, 3, 2)


def test_messages_that_are_too_old_are_in_no_set_and_the_events_of_deadlines_come_beside_sets() -> None:
    seen: list[tuple[float, Any]] = []

    def fuse(node: Node) -> None:
        for event in node:
            found = event["inputs"]["a"]["value"][0].as_py() if event["type"] == "SYNC" else event["type"]
            seen.append((round(time.monotonic() - START, 6), found))

    def message(seconds: float, number: int, age: float = 0) -> list[Any]:
        stamp = datetime.fromtimestamp(EPOCH_NS / 1e9 + seconds - age, UTC)
        return [at(seconds, name, pa.array([number]), {"timestamp": stamp}) for name in ("a", "b")]

    run_node(
        fuse,
        [*message(0, 1), *message(0.3, 2), *message(0.6, 3, age=50), *message(0.7, 4)],
        options={"a": {"deadline": "200ms", "max_age": "5s"}, "b": {"max_age": "5s"}},
        sync=[{"inputs": ["a", "b"], "tolerance": "5ms"}],
    )
    assert seen[:7] == [
        (0.0, 1),
        (0.2, "DEADLINE_MISSED"),
        (0.3, "DEADLINE_MET"),
        (0.3, 2),
        (0.5, "DEADLINE_MISSED"),
        (0.7, "DEADLINE_MET"),
        (0.7, 4),
    ]
