"""Checkpoints of the real LeRobot run as policies: ACT, and diffusion policy with its past.

``LEROBOT_PYTHON`` names a Python with dora and `lerobot`, if the one of the tests does not have it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

# The folder `tests/lerobot` looks like the package `lerobot` to Python, so the look is for what that needs.
PYTHON = os.environ.get("LEROBOT_PYTHON") or (sys.executable if find_spec("torch") else "")

pytestmark = [
    pytest.mark.packages,
    pytest.mark.processes,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not PYTHON, reason="LEROBOT_PYTHON names no Python with lerobot"),
]

# Weights are random. The action is normalised with a mean of 5, so commands must lie around it.
MAKE = """
import sys, torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors

kind = sys.argv[1]
torch.manual_seed(0)
options = {
    "act": dict(chunk_size=20, n_action_steps=20, dim_model=64, n_heads=4, dim_feedforward=128,
                n_encoder_layers=1, n_decoder_layers=1),
    "diffusion": dict(crop_shape=(84, 84), down_dims=(32, 64), num_inference_steps=2,
                      num_train_timesteps=10),
}[kind]
config = make_policy_config(
    kind,
    input_features={
        "observation.state": PolicyFeature(FeatureType.STATE, (2,)),
        "observation.images.front": PolicyFeature(FeatureType.VISUAL, (3, 96, 96)),
    },
    output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
    device="cpu", push_to_hub=False, pretrained_backbone_weights=None, **options,
)
model = get_policy_class(kind)(config)
numbers = {"mean": torch.full((2,), 5.0), "std": torch.ones(2) / 10, "min": torch.full((2,), 4.0),
           "max": torch.full((2,), 6.0)}
picture = {"mean": torch.zeros(3, 1, 1), "std": torch.ones(3, 1, 1), "min": torch.zeros(3, 1, 1),
           "max": torch.ones(3, 1, 1)}
stats = {"observation.state": numbers, "action": numbers, "observation.images.front": picture}
for saved in (model, *make_pre_post_processors(config, dataset_stats=stats)):
    saved.save_pretrained("checkpoint")
"""

ROBOT = """
import numpy as np
from dora import Node

state, commands = np.zeros(2, np.float32), 0
with Node() as node:
    for event in node:
        if event["type"] != "INPUT":
            continue
        if event["id"] == "tick":
            metadata = {"timestamp": event["metadata"]["timestamp"]}
            picture = np.full((96, 96, 3), 100, np.uint8)
            node.send_output("image", picture, {**metadata, "encoding": "bgr8"})
            node.send_output("state", state, metadata)
            continue
        state, commands = event.numpy().copy(), commands + 1
        if commands == 50 and event["metadata"]["chunk"] >= 1:
            assert state.shape == (2,) and np.all(np.abs(state - 5) < 3), state
            print("the commands are in the units of the data")
            break
"""

DATAFLOW = """
exit_when_nodes_finish: true
nodes:
  - id: robot
    path: robot.py
    inputs: {tick: dora/timer/20hz, command: executor/command}
    outputs: [image, state]
  - id: policy
    path: dora-policy
    args: --lerobot checkpoint
    inputs: {observation.state: robot/state, observation.images.front: robot/image}
    outputs: [actions]
    parameters: {steps_per_second: 2}
  - id: executor
    path: dora-action-executor
    inputs: {tick: dora/timer/100hz, actions: {source: policy/actions, deadline: 60s}}
    outputs: [command]
    parameters: {safe_action: hold}
"""


def run(folder: Path, *command: str, status: int = 0) -> str:
    done = subprocess.run(
        [PYTHON, *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


@pytest.mark.parametrize("kind", ["act", "diffusion"])
def test_a_checkpoint_moves_a_robot(tmp_path: Path, kind: str) -> None:
    (tmp_path / "make.py").write_text(MAKE)
    (tmp_path / "robot.py").write_text(ROBOT)
    (tmp_path / "dataflow.yml").write_text(DATAFLOW)
    run(tmp_path, "make.py", kind)
    printed = run(tmp_path, "-m", "dora", "run", "dataflow.yml", "--stop-after", "120s")
    assert "the commands are in the units of the data" in printed
    assert "0 failures" in printed


def test_an_input_that_the_checkpoint_needs_is_named(tmp_path: Path) -> None:
    (tmp_path / "make.py").write_text(MAKE)
    (tmp_path / "robot.py").write_text(ROBOT)
    missing = DATAFLOW.replace("observation.images.front: robot/image", "front: robot/image")
    (tmp_path / "dataflow.yml").write_text(missing)
    run(tmp_path, "make.py", "act")
    printed = run(tmp_path, "-m", "dora", "run", "dataflow.yml", "--stop-after", "120s", status=1)
    assert "error: the policy needs the input `observation.images.front`" in printed


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "robot.py").write_text(ROBOT)
    (tmp_path / "dataflow.yml").write_text(DATAFLOW)
    printed = run(tmp_path, "-m", "dora", "run", "dataflow.yml", "--stop-after", "120s", status=1)
    assert "error: checkpoint is no checkpoint that LeRobot can load" in printed
