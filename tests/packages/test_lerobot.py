"""The real LeRobot opens a data set of the recorder: each frame decodes, and has its time of capture.

LeRobot and PyTorch take gigabytes, in an environment of their own. ``DORA_PACKAGES_FOLDER`` names a folder
in which it is kept. TorchCodec, with which LeRobot decodes, needs the libraries of FFmpeg
(`apt install ffmpeg`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import venv
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from waiting import wait_until

pytestmark = [pytest.mark.packages, pytest.mark.processes, pytest.mark.timeout(1800)]

TIMEOUT = 1500  # seconds, for installing

# LeRobot 0.4.4 asks for older releases of PyTorch; it runs with later ones. The rest are its own.
PYTORCH = ["torch>=2.7", "torchvision>=0.22", "torchcodec==0.11.1", "accelerate", "safetensors", "einops"]
DATA = ["numpy", "pyarrow", "pandas", "pillow", "imageio", "jsonlines", "opencv-python-headless<4.13"]
PINNED = ["av>=15,<16", "datasets>=4,<5", "huggingface-hub>=0.34.2,<0.36", "draccus==0.10.0"]
POLICIES = ["diffusers>=0.27.2,<0.36", "transformers>=4.57,<5"]
TOOLS = ["deepdiff", "packaging", "termcolor", "gymnasium", "pynput", "pyserial", "rerun-sdk>=0.24,<0.27"]

CAMERAS = {"front": 60, "side": 30, "wrist": 7}  # hertz; `wrist` is expected at 30
FPS, FRAMES, JOINTS = 60, 240, 200

ARM = """
import time
import numpy as np
from dora import Node

with Node() as node:
    begin, number = time.monotonic(), 0
    while True:
        due = begin + number / 200
        event = node.next(max(0.0, due - time.monotonic()))
        if event is None or event["type"] == "STOP":
            break
        if time.monotonic() >= due:
            node.send_output("state", np.array([number, 0], np.float32), {"timestamp": node.timestamp()})
            number += 1
"""

# Writes when each frame was captured, by the number in its image.
WITNESS = """
import json
from dora import Node
from dora.nodes.camera.pattern import number_of

with open("witness.jsonl", "w") as file, Node() as node:
    for event in node:
        if event["type"] == "INPUT":
            array, metadata = event.numpy(), event["metadata"]
            image = event["id"] != "state"
            number = number_of(array.reshape(metadata["height"], -1, 3)) if image else int(array[0])
            print(json.dumps([event["id"], number, metadata["timestamp"].timestamp()]), file=file)
"""

# Run by the Python that has LeRobot. Prints one object.
READER = """
import json, os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

def number_of(image):
    height, width = image.shape[1:]
    row = image[:, height // 16].mean(0)
    return sum(int(row[(2 * bit + 1) * width // 32] > 0.5) << bit for bit in range(16))

root = sys.argv[1]
dataset = LeRobotDataset("local/test", root=root)
features = dataset.features["capture_time"]["names"]
rows = []
for index in range(len(dataset)):
    item = dataset[index]
    row = {name: number_of(item[name]) for name in dataset.meta.video_keys}
    row["observation.state"] = int(item["observation.state"][0])
    rows.append([row, item["capture_time"].tolist(), item["gap"].tolist(), item["timestamp"].item()])
window = {"observation.state": [-1 / dataset.fps, 0], "observation.images.front": [-1 / dataset.fps, 0]}
loader = torch.utils.data.DataLoader(
    LeRobotDataset("local/test", root=root, delta_timestamps=window), batch_size=8, shuffle=True
)
batch = next(iter(loader))
episode = dataset.meta.episodes[0]
print(json.dumps({
    "rows": rows,
    "features": features,
    "episode": {key: value for key, value in episode.items() if isinstance(value, (int, float, str))},
    "shapes": {key: list(value.shape) for key, value in batch.items() if hasattr(value, "shape")},
    "tasks": list(dataset.meta.tasks.index),
    "stats": sorted(dataset.meta.stats),
    "policy": sorted(__import__("lerobot.datasets.utils", fromlist=["_"])
                     .dataset_to_policy_features(dataset.features)),
}))
"""


# The loop of `lerobot-record` with the same cameras. Prints rows, seconds, and the last nominal time.
LOOP = """
import json, os, sys, threading, time
os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.scripts.lerobot_record import record_loop
from lerobot.teleoperators import Teleoperator

class Camera:
    def __init__(self, rate):
        self.rate, self.new = rate, threading.Event()
        threading.Thread(target=self.run, daemon=True).start()
    def run(self):
        begin, number = time.monotonic(), 0
        while True:
            time.sleep(max(0.0, begin + number / self.rate - time.monotonic()))
            self.new.set()
            number += 1
    def async_read(self):
        assert self.new.wait(2)
        self.new.clear()
        return np.zeros((48, 64, 3), np.uint8)

class Robot:
    name = robot_type = "none"
    def get_observation(self):
        return {"a.pos": 0.0, **{name: camera.async_read() for name, camera in cameras.items()}}
    def send_action(self, action):
        return action

class Leader(Teleoperator):
    name = "none"
    def __init__(self): pass
    def __del__(self): pass
    def get_action(self): return {"a.pos": 0.0}

Leader.__abstractmethods__ = frozenset()
cameras = {name: Camera(rate) for name, rate in json.loads(sys.argv[1]).items()}
joint = {"dtype": "float32", "shape": (1,), "names": ["a.pos"]}
image = {"dtype": "image", "shape": (48, 64, 3), "names": ["height", "width", "channels"]}
features = {"action": joint, "observation.state": joint}
features |= {f"observation.images.{name}": image for name in cameras}
dataset = LeRobotDataset.create("local/loop", fps=60, features=features, root=sys.argv[2], use_videos=False)
begin = time.monotonic()
record_loop(
    Robot(), {"exit_early": False}, 60, lambda pair: pair[0], lambda pair: pair[0], lambda item: item,
    dataset=dataset, teleop=Leader(), control_time_s=4, single_task="push",
)
seconds, buffer = time.monotonic() - begin, dataset.episode_buffer
print(json.dumps([buffer["size"], seconds, float(buffer["timestamp"][-1])]))
"""


@pytest.fixture(scope="module")
def lerobot(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a Python that has LeRobot and can decode videos."""
    kept = os.environ.get("DORA_PACKAGES_FOLDER")
    folder = Path(kept) / "lerobot" if kept else tmp_path_factory.mktemp("lerobot")
    python = str(folder / "bin" / "python")
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True)
        for packages in ([*PYTORCH, *DATA, *PINNED, *POLICIES, *TOOLS], ["--no-deps", "lerobot==0.4.4"]):
            command = [python, "-m", "pip", "install", "--quiet", *packages]
            subprocess.run(command, check=True, timeout=TIMEOUT)
        (folder / "ready").touch()
    decoder = [python, "-c", "from torchcodec.decoders import VideoDecoder"]
    if subprocess.run(decoder, capture_output=True, check=False).returncode:
        pytest.skip("TorchCodec finds no FFmpeg; install it: apt install ffmpeg")
    return python


def camera(name: str, rate: int) -> dict[str, Any]:
    settings = {"source": "pattern", "rate": rate, "width": 320, "height": 240}
    limit = {"frames": FRAMES} if name == "front" else {}
    return {"id": name, "path": "dora-camera", "outputs": ["image"], "parameters": {**settings, **limit}}


@pytest.fixture(scope="module")
def read(lerobot: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Record cameras of three rates and joints; return what LeRobot reads, and what a witness saw."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "arm.py").write_text(ARM)
    (folder / "witness.py").write_text(WITNESS)
    sources = {**{name: f"{name}/image" for name in CAMERAS}, "state": "arm/state"}
    inputs = {name: {"source": source, "queue_size": 500} for name, source in sources.items()}
    wrist = {"name": "observation.images.wrist", "rate": 30}
    side = {"name": "observation.images.side", "rate": 30}
    settings = {"fps": FPS, "task": "push the cube", "features": {"wrist": wrist, "side": side}}
    nodes = [
        *(camera(name, rate) for name, rate in CAMERAS.items()),
        {"id": "arm", "path": "arm.py", "outputs": ["state"]},
        {"id": "witness", "path": "witness.py", "inputs": inputs},
        {"id": "recorder", "path": "dora-lerobot-recorder", "inputs": inputs, "parameters": settings},
    ]
    (folder / "dataflow.yml").write_text(yaml.safe_dump({"nodes": nodes}))
    log = folder / "log.txt"
    with log.open("w") as file:
        command = [sys.executable, "-m", "dora", "run", "dataflow.yml"]
        process = subprocess.Popen(command, cwd=folder, stdout=file, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: "episode 0 is saved" in log.read_text(), log.read_text, 120)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
    done = subprocess.run(
        [lerobot, "-c", READER, str(folder / "out" / "dataset")],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    seen = [json.loads(line) for line in (folder / "witness.jsonl").read_text().splitlines()]
    found["captured"] = {(name, number): time for name, number, time in seen}
    return found


def source_of(feature: str) -> str:
    return feature.rpartition(".")[2]


def test_every_frame_has_the_time_at_which_it_was_captured(read: dict[str, Any]) -> None:
    start = read["episode"]["start_time"] / 1e9
    assert len(read["rows"]) == read["episode"]["length"] > FRAMES / 2, read["episode"]
    worst = 0.0
    for row, times, _, _ in read["rows"]:
        for feature, time in zip(read["features"], times, strict=True):
            captured = read["captured"][source_of(feature), row[feature]]
            worst = max(worst, abs(start + time - captured))
    assert worst < 1e-3


def test_a_slow_camera_does_not_slow_the_others_and_the_data_set_says_so(read: dict[str, Any]) -> None:
    episode, names, rows = read["episode"], read["features"], read["rows"]
    for name in names:
        times = sorted(time for (source, _), time in read["captured"].items() if source == source_of(name))
        sent = (len(times) - 1) / (times[-1] - times[0])  # a busy machine may have slowed it
        assert episode[f"capture/{name}/rate"] == pytest.approx(sent, rel=0.15)
        shown = len({row[name] for row, *_ in rows}) * FPS / len(rows)
        assert shown == pytest.approx(min(sent, FPS), rel=0.25)
    wrist = "observation.images.wrist"
    assert episode[f"capture/{wrist}/rate"] < 8 < episode["capture/observation.images.front/rate"] / 2
    numbers = [row[wrist] for row, *_ in rows]
    assert {after - before for before, after in pairwise(numbers)} <= {0, 1, 2}
    assert episode[f"capture/{wrist}/missing"] > 20
    gaps = [gap[names.index(wrist)] for _, _, gap, _ in rows]
    assert sum(gaps) == episode[f"capture/{wrist}/gaps"] > len(gaps) / 3


def test_rows_are_at_nominal_times_and_windows_load(read: dict[str, Any]) -> None:
    for index, (_, _, _, timestamp) in enumerate(read["rows"]):
        assert timestamp == pytest.approx(index / FPS, abs=1e-4)
    assert read["shapes"]["observation.images.front"] == [8, 2, 3, 240, 320]
    assert read["shapes"]["observation.state"] == [8, 2, 2]
    assert read["tasks"] == ["push the cube"]
    cameras = [f"observation.images.{name}" for name in sorted(CAMERAS)]
    assert read["policy"] == [*cameras, "observation.state"]  # a policy does not get the times
    assert {"observation.images.front", "observation.state", "capture_time"} <= set(read["stats"])


def test_the_loop_of_lerobot_records_at_the_rate_of_the_slowest_camera(
    lerobot: str, tmp_path: Path
) -> None:
    """The times of its rows are shorter than what happened: a policy learns to move faster."""
    command = [lerobot, "-c", LOOP, json.dumps(CAMERAS), str(tmp_path / "dataset")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows, seconds, nominal = json.loads(done.stdout.splitlines()[-1])
    assert rows / seconds < 8
    assert nominal < seconds / 4
