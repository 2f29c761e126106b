"""``dora node info`` and ``dora topic info`` show each rule of the inputs and outputs of a running node."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rule_values import value_of
from watching import Running, dora

from dora.builder import DataflowBuilder
from dora.wire.input_rules import INPUT_RULES
from dora.wire.output_rules import OUTPUT_RULES

pytestmark = pytest.mark.processes

INPUTS = {
    rule.name: ("dora/timer/millis/500" if rule.source == "timer" else "camera/image", rule)
    for rule in INPUT_RULES
}


@pytest.mark.slow
def test_the_rules_of_a_running_node_are_shown(running: Running) -> None:
    builder = DataflowBuilder()
    camera = builder.add_node("camera", path="camera.py").add_input("tick", "dora/timer/millis/500")
    camera.add_output("image")
    sink = builder.add_node("sink", path="sink.py")
    for name, (source, rule) in INPUTS.items():
        sink.add_input(name, source, **{name: value_of(rule)})
    for output in OUTPUT_RULES:
        camera.add_output(output.name, **{output.name: value_of(output)})
        sink.add_input(f"from_{output.name}", f"camera/{output.name}")
    running(builder.to_yaml() or "")

    info = json.loads(dora("node", "info", "sink", "-f", "json").stdout)
    found = {item["id"]: item for item in info["inputs"]}
    lines = dora("node", "info", "sink").stdout
    for name, (source, rule) in INPUTS.items():
        assert found[name] == {"id": name, "source": source, name: value_of(rule)}
        assert f"{name}: {source} ({name}: {_in_line(value_of(rule))})" in lines

    info = json.loads(dora("node", "info", "camera", "-f", "json").stdout)
    outputs = {item["id"]: item for item in info["outputs"]}
    lines = dora("node", "info", "camera").stdout
    for output in OUTPUT_RULES:
        subscribers = [f"sink/from_{output.name}"]
        assert outputs[output.name] == {
            "id": output.name,
            "subscribers": subscribers,
            output.name: value_of(output),
        }
        shown = f"{output.name} -> {subscribers[0]} ({output.name}: {_in_line(value_of(output))})"
        assert shown in lines
        described = dora("topic", "info", f"camera/{output.name}", "--duration", "0.1").stdout
        assert f"\n{output.title} " in described


def _in_line(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
