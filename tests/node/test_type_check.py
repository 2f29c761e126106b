"""Messages that are not what the dataflow says they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fake_daemon import FakeDaemon, StartFlow, finish
from flows import node, operator, runtime
from waiting import wait_until

from dora import Node, UnsupportedData
from dora.dataflow.model import PortType, Types
from dora.dataflow.problems import ProblemReport
from dora.dataflow.types.library import TypeLibrary
from dora.dataflow.types.own_types import TypeName
from dora.node.events import Input, Reference
from dora.node.interceptors.type_check import FirstMessageCheck, _received_type, misfit
from dora.wire.node_protocol import Ready

LIBRARY = TypeLibrary(ProblemReport("", ""), dict)


def std(name: str) -> Any:
    return LIBRARY.shape(TypeName(f"std/{name}"))


VECTOR = pa.struct({"x": pa.float64(), "y": pa.float64(), "z": pa.float64()})


@pytest.mark.parametrize(
    ("type_", "name", "fitting"),
    [
        (pa.float32(), "core/v1/Float32", True),
        (pa.float64(), "core/v1/Float32", False),
        (pa.float32(), "core/v1/Float64", True),
        (pa.uint8(), "core/v1/UInt64", True),
        (pa.int64(), "core/v1/UInt64", False),
        (pa.null(), "core/v1/Float32", True),
        (pa.string(), "core/v1/String", True),
        (pa.large_string(), "core/v1/String", True),
        (pa.dictionary(pa.int8(), pa.string()), "core/v1/String", True),
        (pa.binary(), "core/v1/String", False),
        (pa.bool_(), "core/v1/Bool", True),
        (VECTOR, "core/v1/Bytes", True),
        (VECTOR, "math/v1/Vector3", True),
        (pa.struct([*VECTOR, pa.field("more", pa.int8())]), "math/v1/Vector3", True),
        (pa.struct({"x": pa.float64(), "y": pa.float64()}), "math/v1/Vector3", False),
        (pa.struct({name: pa.string() for name in "xyz"}), "math/v1/Vector3", False),
        (pa.list_(pa.float64()), "math/v1/Vector3", False),
        (pa.struct({"linear": VECTOR, "angular": VECTOR}), "control/v1/Twist", True),
        (pa.uint8(), "media/v1/Image", True),
        (pa.float32(), "media/v1/AudioFrame", True),
        (pa.large_binary(), "media/v1/PointCloud", True),
        (pa.string(), "media/v1/Image", False),
        (pa.uint8(), "media/v1/CompressedImage", True),
    ],
)
def test_arrow_types_and_types_of_the_library(type_: pa.DataType, name: str, fitting: bool) -> None:
    assert (misfit(type_, std(name)) == "") is fitting


def test_lists() -> None:
    names = {"names": pa.list_(pa.string())}
    joints = pa.struct({**names, **dict.fromkeys(("positions", "velocities"), pa.large_list(pa.float64()))})
    assert misfit(joints, std("control/v1/JointState")) == "there is no field `efforts`"
    joints = pa.struct([*joints, pa.field("efforts", pa.list_(pa.float32(), 7))])
    assert misfit(joints, std("control/v1/JointState")) == ""
    assert misfit(pa.list_(pa.int8()), {"list": "Float64"}) == "`[]` is int8, not Float64"
    assert "not a list" in misfit(pa.map_(pa.string(), pa.float64()), {"list": "Float64"})


def test_the_field_that_does_not_fit_is_named() -> None:
    vector = pa.struct({"x": pa.float64(), "y": pa.string(), "z": pa.float64()})
    twist = pa.struct({"linear": VECTOR, "angular": vector})
    assert misfit(twist, std("control/v1/Twist")) == "`angular.y` is string, not Float64"
    assert misfit(pa.float64(), std("control/v1/Twist")) == "it is double, not a struct"


# --------------------------------------------------------------------------- in a dataflow


FLOAT = PortType("std/core/v1/Float32", ("Float32",))


@pytest.fixture
def daemon(start_flow: StartFlow) -> FakeDaemon:
    return start_flow(
        node("a", outputs="out free"),
        node("b", inputs={"in": "a/out", "free": "a/free"}),
        types=Types(inputs={"b/in": FLOAT}, outputs={"a/out": FLOAT}),
    )


def warnings(text: str) -> list[str]:
    return [json.loads(line)["message"] for line in text.splitlines()]


WRONG = (
    "input `in`: what `a/out` sends is no `std/core/v1/Float32`, as the dataflow declares it: "
    "it is int64, not Float32"
)


def test_a_first_message_of_another_type_is_warned_about_once(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = daemon.node("a"), daemon.node("b")
    for _ in range(2):
        a.send_output("out", pa.array([1]))
        a.send_output("free", pa.array(["x"]))
    values = [event["value"].to_pylist() for event in b.drain()]
    assert sorted(values, key=str) == [["x"], ["x"], [1], [1]]
    assert warnings(capsys.readouterr().out) == [WRONG]


def test_the_check_of_an_input_removes_itself_after_the_first_message(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = daemon.node("a"), daemon.node("b")
    inbox = b._session.inbox
    assert [type(each) for each in inbox._interceptors] == [FirstMessageCheck]
    a.send_output("out", pa.array([1.5], pa.float32()))
    assert b.drain()[0]["value"].to_pylist() == [1.5]
    assert inbox._interceptors == ()
    a.send_output("out", pa.array(["later"]))
    assert b.drain()[0]["value"].to_pylist() == ["later"]
    assert warnings(capsys.readouterr().out) == []


def test_inputs_that_come_later_are_checked_too_and_each_once(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = daemon.node("a"), daemon.node("b")
    inbox = b._session.inbox
    (check,) = inbox._interceptors
    assert isinstance(check, FirstMessageCheck)
    inputs = list(check._unchecked.values())
    check.add(inputs)
    for _ in range(2):
        assert inbox._interceptors == (check,)
        a.send_output("out", pa.array([1]))
        assert len(b.drain()) == 1
        assert inbox._interceptors == ()
        check.add(inputs)
    assert warnings(capsys.readouterr().out) == [WRONG, WRONG]


def test_answers_within_a_process_are_left_out() -> None:
    inputs = [
        Input.make("in", Reference(pa.array([1]), metadata, 1)) for metadata in ({}, {"request_id": "1"})
    ]
    assert [_received_type(event) for event in inputs] == [pa.int64(), None]


def test_answers_are_left_out(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = daemon.node("a"), daemon.node("b")
    a.send_output("out", pa.array(["ok"]), {"request_id": "1"})
    assert len(b.drain()) == 1
    assert warnings(capsys.readouterr().out) == []
    a.send_output("out", pa.array([1]))
    assert len(b.drain()) == 1
    assert warnings(capsys.readouterr().out) == [WRONG]


@pytest.mark.parametrize("mode", ["1", "warn", "TRUE", "on"])
def test_the_type_check_warns_of_messages_that_are_sent(
    daemon: FakeDaemon, mode: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DORA_RUNTIME_TYPE_CHECK", mode)
    a = daemon.node("a")
    for _ in range(2):
        a.send_output("out", pa.array([1]))
    a.send_output("out", pa.array([1.5], pa.float32()))
    a.send_output("out", b"bytes are nobody's type")
    a.send_output("free", pa.array([1]))
    a.send_output("out", pa.array([1]), {"goal_id": "1"})
    a.send_output("out", np.array([1.5], np.float32))
    a.send_output("out", np.array([1.5]))
    assert warnings(capsys.readouterr().out) == [
        f"output `out`: this is no `std/core/v1/Float32`, as the dataflow declares it: it is {name}"
        for name in ("int64, not Float32", "double, not Float32")
    ]
    assert a.statistics()["outputs"]["out"]["sent"] == 7


def test_the_type_check_can_refuse_messages_that_are_sent(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DORA_RUNTIME_TYPE_CHECK", "error")
    a = daemon.node("a")
    for data in (pa.array([1]), pa.chunked_array([[1]]), pa.table({"a": [1]}), np.array([1.5])):
        with pytest.raises(UnsupportedData, match="is no `std/core/v1/Float32`"):
            a.send_output("out", data)
    with pytest.raises(UnsupportedData, match="it is double"), a.loan("out", 1, "float64") as memory:
        memory[:] = 1
    with a.loan("out", 1, "float32") as memory:
        memory[:] = 1
    with a.send_output_raw("out", 4) as buffer:
        buffer[:] = b"1234"
    with a.loan("out", 1, "float64", {"request_id": "1"}) as memory:  # an answer
        memory[:] = 1
    assert a.statistics()["outputs"]["out"]["sent"] == 3
    assert warnings(capsys.readouterr().out) == []


@pytest.mark.parametrize("mode", [None, "", "0", "off", "no"])
def test_messages_that_are_sent_are_not_checked_by_default(
    daemon: FakeDaemon, mode: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mode is not None:
        monkeypatch.setenv("DORA_RUNTIME_TYPE_CHECK", mode)
    a = daemon.node("a")
    a.send_output("out", pa.array(["x"]))
    assert "send" not in vars(a._outputs["out"])


def test_an_unknown_mode_of_the_type_check_causes_a_warning(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DORA_RUNTIME_TYPE_CHECK", "strict")
    daemon.node("a")
    assert "DORA_RUNTIME_TYPE_CHECK is `strict`, which asks for nothing" in capfd.readouterr().out


def test_only_nodes_with_types_load_the_check(start_flow: StartFlow) -> None:
    import sys

    sys.modules.pop("dora.node.interceptors.type_check", None)
    daemon = start_flow(node("a", outputs="out"), node("b", inputs={"in": "a/out"}))
    nodes: list[Node] = [daemon.node("a"), daemon.node("b")]
    assert "dora.node.interceptors.type_check" not in sys.modules
    assert len(nodes) == 2


OPERATOR = """
from dora import DoraStatus

class Operator:
    def on_event(self, dora_event, send_output):
        if dora_event["type"] == "INPUT":
            send_output("out", dora_event["value"])
            print("passed on", flush=True)
        return DoraStatus.CONTINUE
"""


@pytest.mark.processes
@pytest.mark.parametrize("mode", ["warn", "error"])
def test_operators_are_checked_too(start_flow: StartFlow, tmp_path: Path, mode: str) -> None:
    (tmp_path / "o.py").write_text(OPERATOR)
    first = operator("first", "o.py", inputs={"in": "a/out"}, outputs="out")
    second = operator("second", "o.py", inputs={"in": "host/first/out"}, outputs="out")
    daemon = start_flow(
        node("a", outputs="out"),
        runtime("host", first, second),
        working_dir=str(tmp_path),
        types=Types(inputs={"host/second/in": FLOAT}, outputs={"host/first/out": FLOAT}),
    )
    a = daemon.node("a")
    process = daemon.start_process("host", None, DORA_RUNTIME_TYPE_CHECK=mode)
    wait_until(lambda: len(daemon.heard("host", Ready)) == 1, "the runtime to be ready")
    a.send_output("out", pa.array([1]))
    if mode != "error":  # else the runtime ends by itself, and may have done so already
        daemon.close_inputs("host", "first/in")
    _, out, err = finish(process)
    reason = "is no `std/core/v1/Float32`, as the dataflow declares it: it is int64, not Float32"
    if mode == "error":
        assert f"output `first/out`: this {reason}" in err
        assert "passed on" not in out
    else:
        assert f"output `first/out`: this {reason}" in out
        assert f"input `second/in`: what `host/first/out` sends {reason}" in out
        assert out.count("passed on") == 2
