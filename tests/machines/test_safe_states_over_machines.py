"""A sender on another machine that stops, goes on, and is killed: its receiver gets the safe value."""

from __future__ import annotations

import os
import re
import signal

import pytest
from changing_machines import said_by
from cluster_system import Spread
from waiting import wait_until

pytestmark = pytest.mark.processes

PLANNER = """
    import os
    import pyarrow as pa
    from dora import Node

    node = Node()
    print("plans", os.getpid(), flush=True)
    for event in node:
        if event["type"] == "INPUT":
            node.send_output("command", pa.array([1.0]))
"""
MOTOR = """
    from dora import Node

    for event in Node():
        if event["type"] == "SAFE_STATE_LEFT":
            print("left", flush=True)
        elif event["type"] == "INPUT" and "safe_state" in event["metadata"]:
            print("safe", event["metadata"]["safe_state"], event["value"].to_pylist(), flush=True)
"""
FLOW = """
    nodes:
      - id: planner
        path: planner.py
        deploy: {machine: left}
        inputs: {tick: dora/timer/100hz}
        outputs: [{command: {safe_state: {value: -1, type: float64}}}]
      - id: motor
        path: motor.py
        deploy: {machine: right}
        inputs: {command: {source: planner/command, deadline: 500ms}}
"""


def heard(system: Spread, dataflow: str) -> list[str]:
    """Return the safe values and returns that the motor has had so far."""
    return re.findall(r"safe \w+ \[-1\.0\]|left\b", system.dora("logs", dataflow, "-n", "motor"))


def wait_for(system: Spread, dataflow: str, wanted: list[str]) -> None:
    wait_until(
        lambda: heard(system, dataflow) == wanted,
        lambda: f"{wanted}, not {heard(system, dataflow)}: {system.logs(dataflow)}",
    )


@pytest.mark.slow
def test_the_receiver_on_another_machine_gets_the_safe_value(system: Spread) -> None:
    system.write({"planner.py": PLANNER, "motor.py": MOTOR, "flow.yml": FLOW})
    dataflow = system.start("flow.yml")
    planner = int(said_by(system, dataflow, "planner", "plans "))
    os.kill(planner, signal.SIGSTOP)
    stopped = ["safe deadline [-1.0]"]
    wait_for(system, dataflow, stopped)
    os.kill(planner, signal.SIGCONT)
    wait_for(system, dataflow, [*stopped, "left"])
    os.kill(planner, signal.SIGKILL)
    # Which comes first depends on how long the status of its machine takes.
    wait_until(lambda: len(heard(system, dataflow)) == 3, lambda: system.logs(dataflow))
    assert heard(system, dataflow)[-1] in ("safe failed [-1.0]", "safe deadline [-1.0]")
    system.wait_for(dataflow, "Failed")


@pytest.mark.slow
def test_the_receiver_gets_the_safe_value_while_the_sender_is_started_again(system: Spread) -> None:
    flow = FLOW.replace(", deadline: 500ms", "").replace(
        "path: planner.py",
        "path: planner.py\n        restart_policy: on-failure\n        restart_delay: 0.5",
    )
    system.write({"planner.py": PLANNER, "motor.py": MOTOR, "flow.yml": flow})
    dataflow = system.start("flow.yml")
    os.kill(int(said_by(system, dataflow, "planner", "plans ")), signal.SIGKILL)
    wait_for(system, dataflow, ["safe failed [-1.0]", "left"])
    system.dora("stop", dataflow)
