"""Safe states, as observers of a running dataflow see them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from watching import Running, dora, wait_until

pytestmark = pytest.mark.processes

FLOW = """
nodes:
  - id: planner
    path: planner.py
    outputs: [command: {safe_state: {value: [0], silence: 50ms}}]
  - id: motor
    path: motor.py
    inputs: {command: planner/command}
"""


def test_observers_see_that_an_input_is_in_its_safe_state(running: Running) -> None:
    running.program("planner.py", "from dora import Node\nfor event in Node():\n    pass\n")
    running.program("motor.py", "from dora import Node\nfor event in Node():\n    pass\n")
    running(FLOW)

    def safe() -> dict[str, Any] | None:
        nodes = json.loads(dora("top", "--once", "--refresh-interval", "0.5").stdout)
        (command,) = [item for node in nodes for item in node["inputs"]]
        return command if command["in_safe_state"] else None

    assert wait_until(safe, "the safe state")["safe_states"] == 1
    told = dora("topic", "info", "planner/command", "--duration", "0.2").stdout
    assert "in its safe state 1 time, safe state now" in told
