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
# It is silent until the motor has had a safe value, however slow the machine is.
PLANNER = """
import os
import time
from dora import Node

node = Node()
for number in range(4):
    node.send_output("command", bytes([number]))
    while number == 1 and not os.path.exists("silent"):
        time.sleep(0.01)
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
        if event["metadata"].get("safe_state") == "silent":
            open("silent", "w").close()
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
    # A planner that gets no processor for 100 ms is silent once more.
    silent = recorded.count("safe [0.0, 0.5] {'mode': 'hold', 'safe_state': 'silent'")
    failed = recorded.count("safe [0.0, 0.5] {'mode': 'hold', 'safe_state': 'failed'")
    assert silent >= 1 and failed == 1, recorded
    replayed = dora("replay", "first.mcap", "--speed", "0", "-o", "second.mcap")
    assert replayed.count("safe [0.0, 0.5]") == silent + failed
    assert "The recordings are equal" in dora("diff", "first.mcap", "second.mcap")
