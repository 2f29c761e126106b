"""Safe states in virtual time: exact to the nanosecond, with restarts and operators."""

from __future__ import annotations

import time
from typing import Any

import pyarrow as pa

from dora import DoraStatus, Node, Operator
from dora.builder import DataflowBuilder
from dora.builder import Operator as OperatorBlock
from dora.testing import VirtualDataflow
from dora.wire.counters import SAFE_STATES

SAFE = {"value": [0, 0], "type": "float32", "silence": "20ms"}


def planner(node: Node) -> None:
    """Send ten times at 200 Hz, be silent for 100 ms, send once more, and end."""
    for number in range(11):
        node.send_output("command", b"x")
        time.sleep(0.1 if number == 9 else 0.005)


def motor(node: Node) -> None:
    for event in node:
        if event["type"] == "INPUT":
            print(f"{time.monotonic():.3f}", event["metadata"].get("safe_state", "message"))
        elif event["type"] != "STOP":
            print(f"{time.monotonic():.3f}", event["type"])


def dataflow(safe: dict[str, Any], **options: Any) -> DataflowBuilder:
    builder = DataflowBuilder("test")
    command = builder.add_node("planner", path="dynamic").add_output("command", safe_state=safe)
    builder.nodes[0].set(**options)
    builder.add_node("motor", path="dynamic").add_input("command", command)
    return builder


def relative(lines: list[str]) -> list[str]:
    """Return lines with their times from the first one on."""
    start = float(lines[0].split()[0])
    return [f"{(float(line.split()[0]) - start) * 1000:.0f} {line.split()[1]}" for line in lines]


def test_the_safe_value_comes_exactly_when_the_silence_has_lasted() -> None:
    with VirtualDataflow(dataflow(SAFE), nodes={"planner": planner, "motor": motor}) as flow:
        flow.run()
        lines = relative(
            [entry.message for entry in flow.logs if entry.node_id == "motor" and entry.level == "stdout"]
        )
    assert lines[9:] == [
        "45 message",
        "65 SAFE_STATE_ENTERED",
        "65 silent",
        "145 SAFE_STATE_LEFT",
        "145 message",
        "150 SAFE_STATE_ENTERED",
        "150 failed",
        "150 INPUT_CLOSED",
    ]


def test_a_message_behind_thousands_that_are_dropped_ends_the_safe_state() -> None:
    seen: list[str] = []

    def crashing_planner() -> None:
        node = Node()
        if node.is_restart():
            time.sleep(10)
            node.send_output("command", b"new")
            time.sleep(30)
            return
        for _ in range(6000):
            node.send_output("command", b"old")
        raise RuntimeError

    def slow_motor() -> None:
        node = Node()
        time.sleep(5)
        seen.extend(node.next()["type"] for _ in range(3))  # type: ignore[index]
        time.sleep(10)
        start = time.monotonic()
        seen.extend(node.next()["type"] for _ in range(2))  # type: ignore[index]
        assert time.monotonic() == start

    builder = DataflowBuilder("test")
    planner_node = builder.add_node("planner", path="planner.py", restart_policy="on-failure")
    command = planner_node.add_output("command", safe_state=SAFE)
    builder.add_node("motor", path="motor.py").add_input("command", command, queue_size=8000)
    with VirtualDataflow(builder, nodes={"planner": crashing_planner, "motor": slow_motor}) as flow:
        flow.run()
    assert seen == ["NODE_RESTARTED", "SAFE_STATE_ENTERED", "INPUT", "SAFE_STATE_LEFT", "INPUT"]


def test_the_sender_is_told() -> None:
    told: list[tuple[str, str, str]] = []

    def listening_planner(node: Node) -> None:
        node.send_output("command", b"x")
        event = node.next()
        assert event is not None
        told.append((event["type"], event["id"], event["receiver"]))

    with VirtualDataflow(dataflow(SAFE), nodes={"planner": listening_planner, "motor": motor}) as flow:
        flow.run()
        warnings = [entry.message for entry in flow.logs if entry.level == "warn"]
    assert told == [("SAFE_STATE_ENTERED", "command", "motor/command")]
    assert warnings[0] == "input `command` gets its safe value: `planner/command` is silent"


def test_an_operator_gets_the_events_of_its_inputs() -> None:
    seen: list[tuple[str, str]] = []

    class Motor(Operator):
        def on_event(self, event: Any, send_output: Any) -> DoraStatus:  # noqa: ARG002
            seen.append((event["type"], event.get("id", "")))
            return DoraStatus.CONTINUE

    builder = DataflowBuilder("test")
    command = builder.add_node("planner", path="dynamic").add_output("command", safe_state=SAFE)
    operator = OperatorBlock("op", python="motor.py")
    operator.add_input("command", command)
    builder.add_node("motor").add_operator(operator)
    with VirtualDataflow(builder, nodes={"planner": planner, "motor": {"op": Motor}}) as flow:
        flow.run()
    kinds = [kind for kind, _ in seen]
    assert kinds.count("SAFE_STATE_ENTERED") == 2
    assert ("SAFE_STATE_LEFT", "command") in seen


def test_operators_of_one_process_have_safe_states_too() -> None:
    seen: list[tuple[int, str]] = []

    class Planner(Operator):
        def on_event(self, event: Any, send_output: Any) -> DoraStatus:
            if event["type"] == "INPUT":
                send_output("command", event["value"])
            return DoraStatus.CONTINUE

    class Motor(Operator):
        def on_event(self, event: Any, send_output: Any) -> DoraStatus:  # noqa: ARG002
            number = event["value"][0].as_py() if event["type"] == "INPUT" else event["type"]
            seen.append((round(time.monotonic() * 1000), number))
            return DoraStatus.CONTINUE

    def camera(node: Node) -> None:
        for number in (1, 2):
            node.send_output("image", pa.array([number]))
            time.sleep(0.1)

    builder = DataflowBuilder("test")
    image = builder.add_node("camera", path="dynamic").add_output("image")
    plans, moves = OperatorBlock("planner", python="p.py"), OperatorBlock("motor", python="m.py")
    builder.add_node("arm").add_operator(plans).add_operator(moves)
    plans.add_input("image", image)
    moves.add_input("command", plans.add_output("command", safe_state={"value": 0, "silence": "20ms"}))
    operators = {"planner": Planner, "motor": Motor}
    with VirtualDataflow(builder, nodes={"camera": camera, "arm": operators}) as flow:
        flow.run()
        counts = [
            link.count(SAFE_STATES) for link in flow.result.links if link.link.endswith("motor/command")
        ]
    start = seen[0][0]
    assert [(at - start, what) for at, what in seen] == [
        (0, 1),
        (20, "SAFE_STATE_ENTERED"),
        (20, 0),
        (100, "SAFE_STATE_LEFT"),
        (100, 2),
        (120, "SAFE_STATE_ENTERED"),
        (120, 0),
        (200, "INPUT_CLOSED"),
        (200, "STOP"),
    ]
    assert counts == [2]
