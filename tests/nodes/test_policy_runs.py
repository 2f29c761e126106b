"""Policy, executor and selector in real dataflows: what a user who writes ``path: dora-policy`` gets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.processes

TIMEOUT = 120  # seconds, for a run that hangs

ARM = """
import json
import numpy as np
from dora import Node

state = np.zeros(2, np.float32)
commands = []
with Node() as node:
    for event in node:
        if event["type"] != "INPUT":
            continue
        if event["id"] == "tick":
            node.send_output("state", state, {"timestamp": event["metadata"]["timestamp"]})
            continue
        state = event.numpy().copy()
        metadata = event["metadata"]
        metadata.pop("timestamp")
        observed = metadata.pop("observed", None)
        commands.append([state.tolist(), metadata, str(observed)])
        if len(commands) == COUNT or metadata.get("safe_state") == UNTIL:
            break
with open("commands.json", "w") as file:
    json.dump(commands, file)
"""

POLICY = """
import numpy as np

class Act:
    calls = 0

    def __call__(self, observation, left_over, delay):
        self.calls += 1
        if self.calls == AT:
            MISHAP
        return observation["state"] + np.linspace(0, 1, 50, dtype=np.float32)[:, None]
"""


def run(
    folder: Path,
    *,
    until: str = "",
    count: int = 100,
    at: int = 0,
    mishap: str = "pass",
    status: int = 0,
    args: str = "policy.py:Act",
    **parameters: Any,
) -> str:
    """Run an arm with a policy until so many commands, or the safe state; return what was printed."""
    (folder / "arm.py").write_text(ARM.replace("COUNT", str(count)).replace("UNTIL", repr(until)))
    (folder / "policy.py").write_text(POLICY.replace("AT", str(at)).replace("MISHAP", mishap))
    nodes: list[dict[str, Any]] = [
        {
            "id": "arm",
            "path": "arm.py",
            "inputs": {
                "tick": "dora/timer/50hz",
                "command": {"source": "executor/command", "queue_size": 1000},
            },
            "outputs": ["state"],
        },
        {
            "id": "policy",
            "path": "dora-policy",
            "args": args,
            "inputs": {"state": "arm/state"},
            "outputs": ["actions"],
            "parameters": {"steps_per_second": 50, **parameters},
        },
        {
            "id": "executor",
            "path": "dora-action-executor",
            "inputs": {
                "tick": "dora/timer/250hz",
                "actions": {"source": "policy/actions", "deadline": "10s"},
            },
            "outputs": [{"command": {"safe_state": {"value": [0.0, 0.0], "type": "float32"}}}],
        },
    ]
    (folder / "dataflow.yml").write_text(yaml.safe_dump({"exit_when_nodes_finish": True, "nodes": nodes}))
    done = subprocess.run(
        [sys.executable, "-m", "dora", "run", "dataflow.yml"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def commands(folder: Path) -> list[Any]:
    found: list[Any] = json.loads((folder / "commands.json").read_text())
    return found


def test_commands_come_from_chunks_that_come_from_observations(tmp_path: Path) -> None:
    printed = run(tmp_path)
    found = commands(tmp_path)
    assert len(found) == 100
    numbers = [metadata["chunk"] for _, metadata, _ in found]
    assert numbers == sorted(numbers)
    assert numbers[-1] > numbers[0], "new chunks come while the last one is executed"
    assert all(observed.startswith("20") for _, _, observed in found)
    assert all(metadata["step"] < 50 for _, metadata, _ in found)
    assert "chunks, median" in printed
    assert "ticks missed" in printed


def test_an_exception_of_the_policy_fails_the_node_and_the_arm_gets_its_safe_value(tmp_path: Path) -> None:
    printed = run(tmp_path, at=3, mishap="raise ValueError('odd')", until="closed", count=100_000, status=1)
    assert commands(tmp_path)[-1][0] == [0.0, 0.0]
    assert "error: policy `policy.py:Act`: ValueError: odd" in printed
    assert "raise ValueError('odd')" in printed, "the line of the policy"
    assert "inference.py" not in printed, "no lines of dora"


def test_a_policy_may_go_on_after_failures_which_are_counted(tmp_path: Path) -> None:
    printed = run(tmp_path, at=3, mishap="return np.full((2, 2), np.nan)", count=300, on_error="continue")
    assert "a chunk has a NaN or infinite number, first in step 0" in printed
    assert "; 1 failures" in printed
    assert commands(tmp_path)[-1][1]["chunk"] >= 3, "chunks came after the failure"


def test_a_policy_that_is_killed_leaves_the_safe_value(tmp_path: Path) -> None:
    mishap = "import os; os.kill(os.getpid(), 9)"
    run(tmp_path, at=3, mishap=mishap, until="closed", count=100_000, status=1)
    assert commands(tmp_path)[-1][0] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"args": "policy.py:walk"}, "error: policy.py has no `walk`"),
        ({"args": "policy.py:Act", "steps_per_second": 0}, "error: parameter `steps_per_second` is 0"),
        ({"history": {"image": 2}}, "error: parameter `history` names `image`"),
        ({"args": "--lerobot nowhere"}, "LeRobot"),
    ],
)
def test_a_policy_that_cannot_run_is_refused_with_a_sentence(
    tmp_path: Path, options: dict[str, Any], text: str
) -> None:
    printed = run(tmp_path, count=1, status=1, **options)
    assert text in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("module", ["policy", "action_executor", "selector"])
def test_each_node_has_a_help_page(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"dora.nodes.{module}", "--help"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0
    assert f"python -m dora.nodes.{module}" in done.stdout
    assert f"`path: dora-{module.replace('_', '-')}`" in " ".join(done.stdout.split())
