"""A sender that is stopped by SIGSTOP, and then killed: each time its receiver gets the safe value."""

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
    restart_policy: on-failure
    inputs: {tick: dora/timer/100hz}
    outputs:
      - command: {safe_state: {value: [0, 0], type: float32}}
  - id: motor
    path: motor.py
    inputs:
      command: {source: planner/command, deadline: 100ms}
"""
PLANNER = """
import os, signal, subprocess
import pyarrow as pa
from dora import Node

node = Node()
sent = 0
for event in node:
    if event["type"] != "INPUT":
        continue
    node.send_output("command", pa.array([1.0, 1.0], pa.float32()))
    sent += 1
    if node.restart_count() == 0 and sent == 10:
        goes_on = f"while ! grep -q 'State:.T' /proc/{os.getpid()}/status; do :; done; sleep 0.4"
        subprocess.Popen(["sh", "-c", f"{goes_on}; kill -CONT {os.getpid()}"], start_new_session=True)
        os.kill(os.getpid(), signal.SIGSTOP)
    elif node.restart_count() == 0 and sent == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    elif node.restart_count() == 1 and sent == 100:
        break
"""
MOTOR = """
from dora import Node

has_failed = False
for event in Node():
    if event["type"] == "INPUT":
        reason = event["metadata"].get("safe_state")
        if reason:
            print("safe", reason, event["value"].to_pylist(), event["value"].type)
            has_failed = has_failed or reason == "failed"
    elif event["type"] == "SAFE_STATE_LEFT":
        print("left")
        if has_failed:
            break
"""


@pytest.mark.processes
def test_a_stopped_and_a_killed_sender_lead_to_the_safe_value(tmp_path: Path) -> None:
    for name, text in (("dataflow.yml", DATAFLOW), ("planner.py", PLANNER), ("motor.py", MOTOR)):
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "dora", "run", "dataflow.yml", "--stop-after", "30"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    lines = [
        line.partition("motor:")[2].strip() for line in done.stdout.splitlines() if "stdout motor" in line
    ]
    # A busy machine may hold up the planner for longer than its deadline at other times, too.
    assert "safe deadline [0.0, 0.0] float" in lines, done.stdout
    assert "safe failed [0.0, 0.0] float" in lines
    assert lines.count("left") >= 2
    assert "input `command` gets its safe value: `planner/command` has missed the deadline" in done.stdout
    assert "input `command` gets its safe value: the sender of `planner/command` has ended" in done.stdout
