"""Sets of synchronised inputs, on their way through type check, tracing and recording of inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dora import Input, Node, Synced
from dora.builder import DataflowBuilder
from dora.node.events import Reference
from dora.node.interceptors.input_recorder import InputRecorder
from dora.node.interceptors.tracing import TracedInputs, Tracer
from dora.testing import VirtualDataflow
from dora.wire.node_config import NodeConfig, TraceConfig
from dora.wire.trace_context import KEY, TraceContext, format_context, parse_context


def message(input_id: str, number: int, **metadata: Any) -> Input:
    return Input.make(input_id, Reference(pa.array([number]), metadata, 0))


def sets() -> list[Synced]:
    return [
        Synced({"left": message("left", 1, shot=7), "arm": [message("arm", 2), message("arm", 3)]}),
        Synced({"left": message("left", 4), "arm": []}, ["arm"]),
        Synced({"left": message("left", 5), "right": None}, ["right"]),
    ]


def shown(event: Any) -> tuple[Any, ...]:
    inputs = {
        name: [each["value"].to_pylist() for each in item]
        if isinstance(item, list)
        else item and item["value"].to_pylist()
        for name, item in event["inputs"].items()
    }
    return event["type"], event["id"], inputs, event["complete"], event["missing"]


def test_recorded_sets_are_played_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = InputRecorder("fusion", str(tmp_path))
    for event in sets():
        recorder.after_poll(event)
    recorder.close()
    monkeypatch.setenv("DORA_TEST_WITH_INPUTS", str(tmp_path / "inputs-fusion.json"))
    with Node() as node:
        played = list(node)
    assert [shown(event) for event in played] == [shown(event) for event in sets()]
    assert played[0].message("left")["metadata"]["shot"] == 7


def test_a_set_belongs_to_the_trace_of_its_leading_message(tmp_path: Path) -> None:
    config = NodeConfig("id", "fusion", "iceoryx2", "", "", "", 0, "")
    config.trace = TraceConfig(str(tmp_path), "flow")
    tracer = Tracer(config)
    inputs = TracedInputs(tracer)
    parent = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True)
    context = format_context(parent)
    event = Synced({"left": message("left", 1, **{KEY: context}), "right": message("right", 2)})
    inputs.after_poll(event)
    span, metadata = tracer.begin_send("send out", [], None)
    assert span is not None and metadata is not None
    sent = parse_context(metadata[KEY])
    assert sent is not None
    assert sent.trace_id == parent.trace_id
    inputs.before_poll()
    tracer.close()


def test_the_first_message_of_a_typed_input_is_checked_in_a_set_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flow_ = DataflowBuilder(exit_when_nodes_finish=True)
    out = flow_.add_node("source", path="dynamic").add_output("out")
    fusion = flow_.add_node("fusion", path="dynamic", input_types={"a": "std/core/v1/Float32"})
    fusion.add_input("a", out).add_input("b", out).add_sync("a", "b")
    with VirtualDataflow(flow_, play=["source", "fusion"], echo=False) as flow:
        flow.node("source").send_output("out", pa.array(["text"]))
        assert flow.node("fusion").next(timeout=0)["type"] == "SYNC"
    assert "what `source/out` sends is no `std/core/v1/Float32`" in capsys.readouterr().out
