"""A replay repeats the safe values of the recording, where they came, at any speed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from waiting import TIMEOUT

DATAFLOW = """
nodes:
  - id: planner
    path: planner.py
    outputs:
      - command: {safe_state: {value: [0, 0.5], type: float32, metadata: {mode: hold}, silence: 100ms}}
  - id: motor
    path: motor.py
    inputs: {command: planner/command}
    outputs: [done]
"""
PLANNER = """
import time
from dora import Node

node = Node()
for number in range(4):
    node.send_output("command", bytes([number]))
    time.sleep(0.5 if number == 1 else 0)
"""
MOTOR = """
import pyarrow as pa
from dora import Node

node = Node()
for event in node:
    if event["type"] == "INPUT":
        what = f"{event['value'].to_pylist()} {event['metadata']}"
        node.send_output("done", pa.array([what]))
        print("safe" if "safe_state" in event["metadata"] else "message", what)
    else:
        node.send_output("done", pa.array([str(dict(event))]))
"""


@pytest.mark.processes
def test_a_replay_repeats_safe_values(tmp_path: Path) -> None:
    for name, text in (("dataflow.yml", DATAFLOW), ("planner.py", PLANNER), ("motor.py", MOTOR)):
        (tmp_path / name).write_text(text)

    def dora(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dora", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    recorded = dora("record", "dataflow.yml", "-o", "first.mcap")
    assert recorded.count("safe [0.0, 0.5] {'mode': 'hold', 'safe_state': 'silent'") == 1
    assert recorded.count("safe [0.0, 0.5] {'mode': 'hold', 'safe_state': 'failed'") == 1
    replayed = dora("replay", "first.mcap", "--speed", "0", "-o", "second.mcap")
    assert replayed.count("safe [0.0, 0.5]") == 2
    assert "The recordings are equal" in dora("diff", "first.mcap", "second.mcap")
