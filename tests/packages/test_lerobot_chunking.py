"""Real-time chunking with the real SmolVLA of LeRobot: a chunk goes on where the one before is.

The model has the architecture of SmolVLA, random weights and a size for a test; nothing is downloaded. Each
of its chunks begins with other noise, so without real-time chunking two of them have nothing in common.
``LEROBOT_PYTHON`` names a Python with dora, `lerobot`, `transformers` and `num2words`.
"""

from __future__ import annotations

import json
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

MAKE = """
import sys
from pathlib import Path
import torch
from lerobot.configs.types import FeatureType, PolicyFeature, RTCAttentionSchedule
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (PreTrainedTokenizerFast, SmolVLMConfig, SmolVLMImageProcessor,
                          SmolVLMProcessor, SmolVLMVideoProcessor)

names = {"image_token": "<image>", "fake_image_token": "<fake_token_around_image>",
         "global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>"}
words = ["<pad>", *names.values(), "<unk>", "push", "the", "cup"]
vocabulary = {word: number for number, word in enumerate(words)}
tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>",
                               additional_special_tokens=list(names.values()), extra_special_tokens=names)
text = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": len(words),
        "pad_token_id": 0}
vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
          "image_size": 64, "patch_size": 16}
backbone = SmolVLMConfig(text_config=text, vision_config=vision, image_token_id=1, scale_factor=2,
                         pad_token_id=0)
backbone.save_pretrained("backbone")
SmolVLMProcessor(SmolVLMImageProcessor(), fast, SmolVLMVideoProcessor()).save_pretrained("backbone")

torch.manual_seed(0)
config = SmolVLAConfig(
    input_features={
        "observation.state": PolicyFeature(FeatureType.STATE, (2,)),
        "observation.images.front": PolicyFeature(FeatureType.VISUAL, (3, 64, 64)),
    },
    output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
    device="cpu", push_to_hub=False, vlm_model_name=str(Path("backbone").resolve()), num_vlm_layers=2,
    resize_imgs_with_padding=(64, 64),
    rtc_config=RTCConfig(enabled=sys.argv[1] == "on", execution_horizon=50,
                         prefix_attention_schedule=RTCAttentionSchedule.LINEAR),
)
numbers = {"mean": torch.full((2,), 5.0), "std": torch.ones(2)}
stats = {"observation.state": numbers, "action": numbers}
for saved in (SmolVLAPolicy(config), *make_pre_post_processors(config, dataset_stats=stats)):
    saved.save_pretrained("checkpoint")
"""

# Prints, for each chunk after the first, the committed steps, and how far the chunk is from the one before
# there and in the whole rest. A step takes a second: a busy machine needs more steps of the first kind.
RUN = """
import json, time
from types import SimpleNamespace
import numpy as np
from dora.nodes.policy.checkpoint import Checkpoint, load_checkpoint
from dora.nodes.policy.inference import Inference
from dora.nodes.policy.observations import JoinedObservation

delays = []
call = Checkpoint.__call__
def spy(self, observation, metadata, left_over=None, delay=0):
    delays.append(delay)
    return call(self, observation, metadata, left_over, delay)
Checkpoint.__call__ = spy

inference = Inference(load_checkpoint("checkpoint", "cpu", "push the cup"), 10**9, 2)
values = {"observation.state": np.full(2, 5, np.float32),
          "observation.images.front": np.full((64, 64, 3), 100, np.uint8)}
events = tuple(SimpleNamespace(id=name, metadata={"encoding": "rgb8"}) for name in values)
last, found = None, []
for _ in range(6):
    now = time.time_ns()
    chunk = inference.run(JoinedObservation(values, now, events))
    if last is not None:
        left = last.left_over(now)
        distance = np.abs(chunk.actions[: len(left)] - left).max(axis=1)
        committed = max(delays[-1], 3)
        found.append([committed, float(distance[:committed].max()), float(distance[committed:].max())])
    last = chunk
print(json.dumps(found))
"""


def distances(folder: Path, chunking: str) -> list[tuple[int, float, float]]:
    """Return committed steps, distance there and distance afterwards, for each chunk after the first."""
    for name, text, *arguments in (("make.py", MAKE, chunking), ("run.py", RUN)):
        (folder / name).write_text(text)
        done = subprocess.run(
            [PYTHON, name, *arguments],
            cwd=folder,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    found: list[tuple[int, float, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_real_time_chunking_joins_the_chunks_of_smolvla_without_a_jump(tmp_path: Path) -> None:
    # Its actions have a standard deviation of 1 around 5.
    joined = distances(tmp_path, "on")
    assert all(committed < 0.1 for _, committed, _ in joined), joined
    assert all(afterwards > 0.3 for _, _, afterwards in joined), f"the noise is new: {joined}"


def test_without_it_the_chunks_of_smolvla_jump(tmp_path: Path) -> None:
    apart = distances(tmp_path, "off")
    assert all(committed > 0.3 for _, committed, _ in apart), apart
