"""Executor and selector together: whatever a human does at random, a stop holds and nothing jumps."""

from __future__ import annotations

import itertools
import random
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import yaml

from dora.nodes.action_executor import run as run_executor
from dora.nodes.selector import run as run_selector
from dora.testing import VirtualDataflow

TAKEOVERS = 500  # of each seed
TICK = 0.02  # seconds
RAMP = 0.2  # seconds
SAFE = {"safe_state": {"value": [0.0], "type": "float32"}}

DATAFLOW = {
    "nodes": [
        {
            "id": "executor",
            "path": "dora-action-executor",
            "inputs": {
                "tick": "dora/timer/50hz",
                "actions": {"source": "policy/actions", "deadline": "500ms"},
                "stop": "human/stop",
                "start": "human/start",
            },
            "outputs": [{"command": SAFE}],
            "parameters": {"blend": "fade", "fade": RAMP},
        },
        {
            "id": "selector",
            "path": "dora-selector",
            "inputs": {
                "tick": {"source": "dora/timer/50hz", "phase": "5ms"},
                "human": "human/command",
                "policy": "executor/command",
                "stop": "human/stop",
                "start": "human/start",
            },
            "outputs": [{"command": SAFE}],
            "parameters": {"ramp": RAMP, "timeout": 0.1},
        },
        {"id": "policy", "path": "dynamic", "outputs": ["actions"]},
        {"id": "human", "path": "dynamic", "outputs": ["command", "stop", "start"]},
    ]
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_no_stop_is_swallowed_and_nothing_jumps_in_random_takeovers(seed: int) -> None:
    chance = random.Random(seed)
    with VirtualDataflow(
        yaml.safe_dump(DATAFLOW, sort_keys=False),
        nodes={"executor": run_executor, "selector": run_selector},
        play=["policy", "human"],
        limit=100_000,
        echo=False,
    ) as flow:
        policy, human = flow.node("policy"), flow.node("human")
        events: list[tuple[float, str]] = []  # stops and starts
        takes = stopped = False
        changes = 0
        chunk_due = 0.0
        flow.advance(0.001)
        while changes < TAKEOVERS:
            if flow.time >= chunk_due:
                observed = datetime.fromtimestamp(time.time() - chance.uniform(0.005, 0.3), UTC)
                metadata: dict[str, Any] = {"timestamp": observed, "step_period": 0.1}
                level = np.full((10, 1), chance.uniform(-1, 1), np.float32)
                policy.send_output("actions", level, metadata)
                chunk_due = flow.time + chance.uniform(0.005, 0.3)
            if takes:
                human.send_output("command", np.array([2.0], np.float32))
            for _ in range(chance.choice((0, 0, 0, 0, 1, 2))):
                match chance.choice(("take", "stop", "start")):
                    case "take":
                        takes = not takes
                        changes += 1
                        if not takes and chance.random() < 0.5:
                            human.send_output("command", np.empty(0, np.float32))
                    case "stop":
                        stopped = True
                        human.send_output("stop", b"")
                        events.append((flow.time, "stop"))
                    case "start":
                        stopped = False
                        human.send_output("start", b"")
                        events.append((flow.time, "start"))
            flow.advance(chance.choice((0.001, 0.01, 0.03)))
            reason = flow.outputs["selector/command"][-1].metadata.get("safe_state") if events else None
            if stopped:
                assert reason == "stopped", f"a stop is swallowed at {flow.time}"
        assert sum(name == "stop" for _, name in events) > TAKEOVERS // 2
        commands = [
            (float(command.numpy()[0]), "safe_state" in command.metadata)
            for command in flow.outputs["selector/command"]
        ]
    # A command lies between -1 and 2. Three ramps may run at the same time: after the safe state of either
    # node, and between human and policy, beside the fade of chunks.
    most = 4 * 3 * TICK / RAMP
    steps = [abs(b - a) for (a, _), (b, is_safe) in itertools.pairwise(commands) if not is_safe]
    assert max(steps) <= most
    assert sum(step > 0 for step in steps) > TAKEOVERS // 2, "the arm moves"
