"""Budgets of paths: late data is found where it is taken, with the hop that took most of the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from chain import CAMERA_AND_DETECTOR, camera, working

from dora import DoraStatus, Event, Node, SendOutput
from dora.testing import MockNode, run_dataflow

FLOW = (
    CAMERA_AND_DETECTOR
    + """
  - id: planner
    path: planner.py
    inputs: {boxes: detector/boxes}
    outputs: [command]
  - id: motor
    path: motor.py
    inputs: {command: {source: planner/command, queue_size: 100}}
paths:
  - {from: camera/image, to: motor/command, budget: 40ms, %s}
"""
)


def play(options: str, motor: Callable[[Node], None], **nodes: Any) -> Any:
    chain = {
        "camera": camera(6),
        "detector": working("boxes", lambda number: 0.05 if number in (2, 3) else 0.01),
        "planner": working("command", lambda _: 0.005),
        **nodes,
    }
    return run_dataflow(FLOW % options, nodes={**chain, "motor": motor})


def test_messages_stay_in_their_queue_while_the_node_waits_for_an_answer() -> None:
    taken: list[int] = []

    def motor(node: Node) -> None:
        node.call("request", b"", timeout=5).wait()
        while (event := node.next()) is not None and event["type"] != "INPUT_CLOSED":
            if event["type"] == "INPUT":
                taken.append(event["value"][0].as_py())

    def server(node: Node) -> None:
        for event in node:
            if event["type"] == "INPUT":
                time.sleep(2)
                node.send_service_response("answer", b"", event["metadata"])

    answers = "queue_size: 1}, answer: server/answer}\n    outputs: [request]"
    service = "  - {id: server, path: server.py, inputs: {in: motor/request}, outputs: [answer]}\n"
    flow = FLOW.replace("queue_size: 100}}", answers).replace("paths:", f"{service}paths:")
    nodes = {
        "camera": camera(6),
        "detector": working("boxes", lambda _: 0),
        "motor": motor,
        "server": server,
    }
    run_dataflow(flow % "on_miss: event", nodes={**nodes, "planner": working("command", lambda _: 0)})
    assert taken == [5]


def events_of(node: Node) -> list[Any]:
    return [event for event in node if event["type"] in ("INPUT", "BUDGET_MISSED")]


def test_the_event_comes_right_before_the_message_that_is_late() -> None:
    seen: list[Any] = []

    def motor(node: Node) -> None:
        seen.extend(events_of(node))
        (path,) = node.statistics()["paths"]
        assert (path["budget_ms"], path["missed"], path["messages"]) == (40, 2, 6)
        assert path["slowest_hop"] == "the work of `detector` until it sent `boxes`"

    flow = play("on_miss: event", motor)
    assert [event["type"] for event in seen] == ["INPUT"] * 2 + ["BUDGET_MISSED", "INPUT"] * 2 + [
        "INPUT"
    ] * 2
    miss = seen[2]
    assert (miss.id, miss.source, miss.misses) == ("command", "camera/image", 1)
    assert miss.budget == 0.04
    assert miss.latency == pytest.approx(0.055)
    assert miss.late == pytest.approx(0.015)
    assert miss.slowest_hop == "the work of `detector` until it sent `boxes`"
    assert miss.slowest_hop_seconds == pytest.approx(0.05)
    assert seen[4].misses == 2
    assert not any("budget" in entry.message for entry in flow.logs)


def test_a_warning_names_path_budget_and_slowest_hop() -> None:
    flow = play("on_miss: warn", lambda node: events_of(node) and None)
    warnings = [entry for entry in flow.logs if "budget" in entry.message]
    assert [entry.level for entry in warnings] == ["warn", "warn"]
    assert warnings[0].node_id == "motor"
    assert warnings[0].message == (
        "the data from `camera/image` to `motor/command` took 55.0 ms, and its budget is 40 ms; "
        "most of it, 50.0 ms, was the work of `detector` until it sent `boxes`"
    )


def test_only_so_many_misses_in_a_row_count() -> None:
    seen: list[Any] = []
    play("on_miss: event, after: 2", lambda node: seen.extend(events_of(node)))
    assert [event["misses"] for event in seen if event["type"] == "BUDGET_MISSED"] == [2]


def test_a_miss_can_stop_the_dataflow() -> None:
    seen: list[Any] = []

    def endless(node: Node) -> None:
        for number, event in enumerate(node):
            if event["type"] == "STOP":
                return
            node.send_output("image", pa.array([number]))

    flow = play("on_miss: stop", lambda node: seen.extend(events_of(node)), camera=endless)
    assert any(entry.message.endswith("; the dataflow is stopped") for entry in flow.logs)
    assert flow.time < 1


def test_a_budget_counts_from_an_output_in_the_middle_of_a_path() -> None:
    seen: list[Any] = []
    flow = FLOW.replace("from: camera/image", "from: detector/boxes").replace("40ms", "20ms")
    nodes = {
        "camera": camera(6),
        "detector": working("boxes", lambda _: 0.05),
        "planner": working("command", lambda number: 0.03 if number == 1 else 0.0),
        "motor": lambda node: seen.extend(events_of(node)),
    }
    run_dataflow(flow % "on_miss: event", nodes=nodes)
    (miss,) = [event for event in seen if event["type"] == "BUDGET_MISSED"]
    assert (miss.source, miss.slowest_hop) == (
        "detector/boxes",
        "the work of `planner` until it sent `command`",
    )
    assert miss.latency == pytest.approx(0.03)


def test_time_in_a_queue_is_the_way_of_the_data() -> None:
    seen: list[Any] = []

    def motor(node: Node) -> None:
        time.sleep(0.5)
        seen.extend(events_of(node))

    play("on_miss: event", motor)
    assert seen[0].slowest_hop == "the way from `planner/command` to its receiver"


class Relay:
    def on_event(self, dora_event: Event, send_output: SendOutput) -> DoraStatus:
        if dora_event["type"] == "INPUT":
            time.sleep(0.05)
            send_output("out", dora_event["value"])
        return DoraStatus.CONTINUE


class Last:
    seen: list[tuple[str, str]] = []

    def on_event(self, dora_event: Event, send_output: SendOutput) -> DoraStatus:  # noqa: ARG002
        self.seen.append((dora_event["type"], dora_event.get("id", "")))
        return DoraStatus.CONTINUE


def test_an_operator_gets_the_event_for_its_own_input() -> None:
    flow = """
nodes:
  - id: camera
    path: camera.py
    inputs: {tick: dora/timer/millis/100}
    outputs: [image]
  - id: run
    operators:
      - {id: relay, python: relay.py, inputs: {in: camera/image}, outputs: [out]}
      - {id: last, python: last.py, inputs: {in: run/relay/out}}
paths:
  - {from: camera/image, to: run/last/in, budget: 40ms, on_miss: event}
"""
    Last.seen.clear()
    run_dataflow(flow, nodes={"camera": camera(6), "run": {"relay": Relay, "last": Last}})
    assert Last.seen[:2] == [("BUDGET_MISSED", "in"), ("INPUT", "in")]


def test_a_mock_node_gives_the_event() -> None:
    from dora import BudgetMissed

    node = MockNode([{"type": "BUDGET_MISSED", "id": "command", "late": 0.5}])
    match node.next():
        case BudgetMissed(id="command", late=late):
            assert late == 0.5
        case other:
            raise AssertionError(other)


def test_the_graph_shows_a_budget_where_its_path_ends() -> None:
    from dora.dataflow import parse
    from dora.dataflow.graph import flowchart, graph_of

    text = FLOW % "on_miss: warn"
    dataflow = parse(text, file="/w/flow.yml", working_dir="/w", environ={}, shown_file="flow.yml")
    assert "command, queue 100, budget 40ms from camera/image" in flowchart(graph_of(dataflow))


SAFE_FLOW = (FLOW % "on_miss: safe_state").replace(
    "outputs: [command]", "outputs: [{command: {safe_state: {value: -1}}}]"
)


def test_the_safe_value_comes_instead_of_messages_that_are_late() -> None:
    seen: list[Any] = []

    def motor(node: Node) -> None:
        for event in node:
            if event["type"] == "INPUT":
                seen.append((event["value"][0].as_py(), event["metadata"].get("safe_state", "")))
            elif event["type"] != "STOP":
                seen.append(event["type"])
        counts.append(node.statistics()["inputs"]["command"])

    counts: list[Any] = []
    chain = {
        "camera": camera(6),
        "detector": working("boxes", lambda number: 0.05 if number in (2, 3) else 0.01),
        "planner": working("command", lambda _: 0.005),
    }
    run_dataflow(SAFE_FLOW, nodes={**chain, "motor": motor})
    assert seen == [
        (0, ""),
        (1, ""),
        "BUDGET_MISSED",
        "SAFE_STATE_ENTERED",
        (-1, "budget"),
        "SAFE_STATE_LEFT",
        (4, ""),
        (5, ""),
        "SAFE_STATE_ENTERED",
        (-1, "failed"),
        "INPUT_CLOSED",
    ]
    assert counts == [{"received": 4, "dropped": 2, "safe_states": 2}]
