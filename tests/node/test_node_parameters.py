"""Parameters as programs and operators see them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_daemon import StartFlow
from flows import node, operator, runtime
from waiting import TIMEOUT, wait_until

from dora import ParamDeleted, ParamUpdate
from dora.wire import node_protocol


def test_a_program_reads_its_parameters_and_hears_of_changes(start_flow: StartFlow) -> None:
    daemon = start_flow(node("a", inputs={"t": "dora/timer/millis/60000"}, parameters={"gain": 0.5}))
    a = daemon.node("a")
    parameters = a.parameters
    assert parameters == {"gain": 0.5}
    assert (a.next(timeout=TIMEOUT) or {})["id"] == "t"
    daemon.send(
        "a", node_protocol.ParamUpdateFrame("mode", ["fast", 1]), node_protocol.ParamDeletedFrame("gain")
    )
    match a.next(timeout=TIMEOUT):
        case ParamUpdate(id="mode", value=["fast", 1]) as event:
            assert event["type"] == "PARAM_UPDATE"
        case other:
            raise AssertionError(other)
    match a.next(timeout=TIMEOUT):
        case ParamDeleted(id="gain") as event:
            assert dict(event) == {"kind": "dora", "type": "PARAM_DELETED", "id": "gain"}
        case other:
            raise AssertionError(other)
    assert parameters == {"mode": ["fast", 1]}
    with pytest.raises(TypeError):
        parameters["mode"] = 1  # type: ignore[index]


def test_a_program_sets_its_parameters_at_the_daemon(start_flow: StartFlow) -> None:
    daemon = start_flow(node("a", inputs={"t": "dora/timer/millis/60000"}))
    a = daemon.node("a")
    a.set_parameters({"gain": 0.5, "names": ("left", "right")})
    wait_until(lambda: daemon.heard("a", node_protocol.SetOwnParameters), "the values")
    assert daemon.heard("a", node_protocol.SetOwnParameters) == [
        node_protocol.SetOwnParameters({"gain": 0.5, "names": ["left", "right"]})
    ]
    assert a.parameters == {}  # until the daemon has sent them


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"": 1}, "the key of a parameter is empty"),
        ({"gain": float("inf")}, "the value of parameter `gain` has inf, which JSON does not know"),
        ({"good": 1, "key": b"raw"}, "the value of parameter `key` has a value of type bytes, which JSON"),
        ({"items": {1, 2}}, "the value of parameter `items` has a value of type set, which JSON"),
    ],
)
def test_values_that_no_parameter_can_have_are_refused_all_together(
    start_flow: StartFlow, values: dict[str, object], reason: str
) -> None:
    daemon = start_flow(node("a", inputs={"t": "dora/timer/millis/60000"}))
    a = daemon.node("a")
    with pytest.raises(ValueError, match=reason):
        a.set_parameters(values)
    assert daemon.heard("a", node_protocol.SetOwnParameters) == []


def test_changes_that_come_with_the_start_are_not_lost(start_flow: StartFlow) -> None:
    daemon = start_flow(
        node("a", inputs={"t": "dora/timer/millis/60000"}, parameters={"gain": 0.5}),
        answer_ready=(node_protocol.Started(0), node_protocol.ParamUpdateFrame("gain", 2)),
    )
    a = daemon.node("a")
    daemon.send("a", node_protocol.ParamUpdateFrame("mode", "fast"))
    events = [a.next(timeout=TIMEOUT) for _ in range(3)]
    assert [event["id"] for event in events if isinstance(event, ParamUpdate)] == ["gain", "mode"]
    assert a.parameters == {"gain": 2, "mode": "fast"}


@pytest.mark.processes
def test_operators_share_the_parameters_of_their_node(start_flow: StartFlow, tmp_path: Path) -> None:
    for name, own in (("plain", ""), ("own", "self.parameters = 'mine'")):
        (tmp_path / f"{name}.py").write_text(f"""
import json
import pyarrow as pa
from dora import DoraStatus

class Operator:
    def __init__(self):
        self.seen = []
        {own}

    def on_event(self, event, send_output):
        if event["type"].startswith("PARAM"):
            self.seen.append([event["type"], event["id"], event.get("value")])
        elif event["type"] == "INPUT":
            mine = self.parameters if isinstance(self.parameters, str) else dict(self.parameters)
            send_output("out", pa.array([json.dumps([mine, self.seen])]))
        return DoraStatus.CONTINUE
""")
    hosted = runtime(
        "host",
        operator("plain", "plain.py", inputs={"in": "a/out"}, outputs="out"),
        operator("own", "own.py", inputs={"in": "a/out"}, outputs="out"),
    )
    daemon = start_flow(
        node("a", outputs="out"),
        type(hosted)(
            **{**{f: getattr(hosted, f) for f in hosted.__struct_fields__}, "parameters": {"x": 1}}
        ),
        node("b", inputs={"plain": "host/plain/out", "own": "host/own/out"}),
        working_dir=str(tmp_path),
    )
    a, b = daemon.node("a"), daemon.node("b")
    daemon.start_process("host")
    daemon.wait_for_sleep("host")
    daemon.send("host", node_protocol.ParamUpdateFrame("x", 2), node_protocol.ParamDeletedFrame("y"))
    daemon.wait_for_sleep("host")
    a.send_output("out", b"")
    said = {}
    while len(said) < 2:
        event = b.next(timeout=TIMEOUT)
        assert event is not None
        said[event["id"]] = json.loads(event["value"][0].as_py())
    seen = [["PARAM_UPDATE", "x", 2], ["PARAM_DELETED", "y", None]]
    assert said == {"plain": [{"x": 2}, seen], "own": ["mine", seen]}
    daemon.stop("host")
