"""A program that type checkers in their strict modes accept; never run."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, assert_type

import numpy as np
import pyarrow as pa

import dora
from dora import (
    Call,
    CallTimedOut,
    DataflowFailed,
    DoraStatus,
    Error,
    Event,
    Goal,
    GoalRun,
    Input,
    InputClosed,
    InputRecovered,
    Node,
    NodeFailed,
    NodeRestarted,
    ParamDeleted,
    ParamUpdate,
    Reload,
    Stop,
    Synced,
    UndeclaredOutput,
    Unknown,
)
from dora.testing import MockNode


def classic() -> None:
    node = Node()
    for event in node:
        if event["type"] == "INPUT":
            value = event["value"]
            node.send_output("out", value, event["metadata"])
            node.send_output(output_id="out", data=b"bytes", metadata={"nested": {"a": [1, None]}})
        elif event["type"] == "STOP":
            break
    node.send_output("out", np.zeros(3))
    node.send_output("out", pa.array([1]))


def exchanges(node: Node) -> None:
    assert_type(node.call("request", b"1", timeout=1.5), Call)
    try:
        assert_type(node.call("request", b"1", {"a": 1}, reply="response").wait(), Input)
    except CallTimedOut as error:
        late: TimeoutError = error
        print(late)

    @node.serve("request", "response")
    def answer(request: Input) -> bytes:
        return request.data

    @node.serve("other", "response")
    async def answer_later(request: Input) -> bytes:
        return request.data

    @node.serve_goals("goal", result="result", feedback="feedback", cancel="cancel")
    def work(goal: GoalRun) -> bytes | None:
        if goal.cancel_requested:
            goal.cancel()
            return None
        goal.send_feedback(b"half", {"step": 1})
        return b"done"

    print(answer, answer_later, work)
    goal = node.send_goal("goal", np.zeros(3), timeout=None)
    assert_type(goal, Goal)
    for feedback in goal:
        assert_type(feedback, Input)
    assert_type(goal.status, Literal["succeeded", "aborted", "canceled"] | None)
    node.stream("audio", metadata={"rate": 1}).send(b"x", fin=True)
    gain: float = node.parameters["gain"]
    print(gain)


async def exchanges_in_asyncio(node: Node) -> None:
    assert_type(await node.call("request", b"1"), Input)
    goal = node.send_goal("goal", b"1")
    async for feedback in goal:
        assert_type(feedback, Input)
    assert_type(await goal, Input)


def modern() -> None:
    with Node("viewer") as node:
        assert_type(node.id, str)
        for event in node:
            assert_type(event, Event)
            match event:
                case Input(id="image"):
                    assert_type(event.id, str)
                    assert_type(event.data, bytes)
                    assert_type(event.send_time, datetime)
                    assert_type(event.sequence, int)
                    metadata: dict[str, Any] = event.metadata
                    frame: np.ndarray[Any, Any] = event.numpy()
                    node.send_output("out", frame, metadata)
                case Synced(lead):
                    assert_type(lead, str)
                    assert_type(event.message("arm"), Input)
                    assert_type(event.history("arm"), list[Input])
                    assert_type(event.complete, bool)
                    assert_type(event.missing, list[str])
                    print(event["inputs"]["left"].value, [item.data for item in event.messages()])
                case InputClosed(name) | InputRecovered(name):
                    assert_type(name, str)
                case ParamUpdate(key):
                    assert_type(key, str)
                case ParamDeleted(key):
                    assert_type(key, str)
                case Stop():
                    reason: Literal["MANUAL", "ALL_INPUTS_CLOSED"] = event.id
                    print(reason)
                case Error(error):
                    assert_type(error, str)
                    assert_type(event.is_timeout, bool)
                case NodeFailed(name, value):
                    print(name, value["error"])
                case NodeRestarted() | Unknown():
                    pass
                case Reload():
                    node.save_state(b"state")
                case _:
                    print(event)


def other_ways(node: Node) -> None:
    assert_type(node.next(), Event | None)
    assert_type(node.next(timeout=1), Event | None)
    assert_type(node.next(0.5), Event | None)
    assert_type(node.try_recv(), Event | None)
    assert_type(node.drain(), list[Event])
    assert_type(node.is_empty(), bool)
    request_id: str = node.send_service_request("request", b"", {"a": 1})
    node.send_service_response("response", b"", {"request_id": request_id})
    node.log("info", "text", target="part", fields={"k": "v"})
    node.log_error("text")
    descriptor: dict[str, Any] = node.dataflow_descriptor()
    config: dict[str, Any] = node.node_config()
    print(descriptor, config, node.dataflow_id(), node.restart_count() + 1, node.is_restart())


async def with_asyncio(node: Node) -> None:
    assert_type(await node.recv_async(1.5), Event | None)
    async for event in node:
        assert_type(event, Event)


def loans(node: Node) -> None:
    with node.send_output_raw("out", 12, {"a": 1}) as buffer:
        assert_type(buffer, memoryview)
        buffer[:] = bytes(12)
    sample = node.send_output_raw("out", 12)
    sample.as_buffer()[0] = 1
    sample.send()
    with node.loan("out", (4, 3), "float32") as array:
        array[:] = 0


def values(event: Event) -> None:
    assert_type(event["id"], str)
    assert_type(event["metadata"], dict[str, Any])
    if isinstance(event, Input):
        assert_type(event.value, "pa.Array[Any]")
        assert_type(event["value"], "pa.Array[Any]")
        assert_type(event["data"], bytes)
    match event:
        case Input(value=pa.Int64Array() as numbers):
            total: int | None = numbers[0].as_py()
            print(total)
        case _:
            pass


def tested() -> None:
    classic_loop(MockNode([("number", pa.array([1]))]))


def classic_loop(node: Node) -> None:
    for event in node:
        node.send_output("out", event["value"])


class Operator(dora.Operator):
    def on_event(self, any_name: Event, send_output: dora.SendOutput) -> DoraStatus:
        dora_event = any_name
        assert_type(self.dataflow_descriptor, dict[str, Any])
        gain: float = self.parameters["gain"]
        print(gain)
        match dora_event:
            case Input(id="image", value=value):
                send_output("out", value, dora_event["metadata"])
                send_output("out", b"bytes")
            case Stop():
                return DoraStatus.STOP
            case _:
                pass
        return DoraStatus.CONTINUE


def run() -> None:
    try:
        result = dora.run("dataflow.yml", stop_after=3.0)
    except DataflowFailed as error:
        print(error)
        raise
    except UndeclaredOutput as error:
        print(error)
        raise
    assert_type(result.ok, bool)
    dora.build("dataflow.yml", uv=True)
    assert_type(dora.__version__, str)
