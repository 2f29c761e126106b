"""Cameras, recorder and replay in real dataflows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from made_recording import Recording, check_whole, command, frames, message, rows
from waiting import TIMEOUT, wait_until

from dora.daemon.client import name_of, running
from dora.node.events import Input
from dora.nodes.lerobot.dataset import SCRATCH, read_episodes, read_info
from dora.observe.tap_session import inspect

pytestmark = pytest.mark.processes

FRONT = "observation.images.front"

# Joints that say in which message they came, and when it was sent, as the metadata has it.
ARM = """
import os, time
import numpy as np
from dora import Node

with Node() as node:
    begin, number = time.monotonic(), 0
    while number < int(os.environ.get("COUNT", 1_000_000)):
        due = begin + number / 100
        event = node.next(max(0.0, due - time.monotonic()))
        if event is None or event["type"] == "STOP":
            break
        if time.monotonic() < due:
            continue
        moment = node.timestamp()
        sent = np.array([number, moment.timestamp() % 1000], np.float64)
        node.send_output("state", sent, {"timestamp": moment})
        node.send_output("action", sent[:1], {"timestamp": moment})
        number += 1
"""

# Records one episode after the other: each begins when the one before is saved.
TEACHER = """
import json
import pyarrow as pa
from dora import Node

FRAMES = 20
with Node() as node:
    seen, state = 0, "idle"
    for event in node:
        if event["type"] != "INPUT":
            continue
        if event["id"] == "status":
            print("status", event["value"][0].as_py(), flush=True)
            seen, state = 0, "idle"
            continue
        seen += 1
        if state == "idle" and seen == 3:
            node.send_output("episode", pa.array(["start push the cube"]))
            state = "recording"
        elif state == "recording" and seen >= 3 + FRAMES:
            node.send_output("episode", pa.array(["success"]))
            state = "ended"
"""

SOURCES = {"front": "front/image", "state": "arm/state", "action": "arm/action"}


def camera(name: str, **parameters: Any) -> dict[str, Any]:
    pattern = {"source": "pattern", "width": 64, "height": 48, **parameters}
    return {"id": name, "path": "dora-camera", "outputs": ["image"], "parameters": pattern}


def recorder(inputs: dict[str, str], **parameters: Any) -> dict[str, Any]:
    return {
        "id": "recorder",
        "path": "dora-lerobot-recorder",
        "inputs": {name: {"source": source, "queue_size": 200} for name, source in inputs.items()},
        "outputs": ["status"],
        "parameters": {"dataset": "dataset", **parameters},
    }


def arm(count: int = 1_000_000) -> dict[str, Any]:
    return {"id": "arm", "path": "arm.py", "outputs": ["state", "action"], "env": {"COUNT": count}}


def teacher() -> dict[str, Any]:
    inputs = {"image": "front/image", "status": "recorder/status"}
    return {"id": "teacher", "path": "teacher.py", "inputs": inputs, "outputs": ["episode"]}


class Place:
    """A folder with a dataflow of a name of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dataset = folder / "dataset"
        self.name = f"lerobot-{folder.name}"
        self.log = folder / "log.txt"
        (folder / "arm.py").write_text(ARM)
        (folder / "teacher.py").write_text(TEACHER)

    def run(self, *nodes: dict[str, Any], status: int = 0) -> str:
        """Run a dataflow until it ends; return what was printed."""
        with self.started(*nodes) as process:
            assert process.wait(TIMEOUT) == status, self.printed()
        return self.printed()

    def record(self, *nodes: dict[str, Any], episodes: int, status: int = 0) -> str:
        """Run a dataflow with a teacher until so many episodes are reported; return what was printed."""
        with self.started(*nodes, teacher()) as process:
            wait_until(lambda: self.printed().count(" status {") >= episodes, self.printed)
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT) == status, self.printed()
        return self.printed()

    @contextmanager
    def started(self, *nodes: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
        """Run a dataflow, and kill it if a test fails meanwhile."""
        (self.folder / f"{self.name}.yml").write_text(yaml.safe_dump({"nodes": list(nodes)}))
        with self.log.open("w") as log:
            command = [sys.executable, "-m", "dora", "run", f"{self.name}.yml"]
            process = subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT, text=True
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(TIMEOUT)

    def printed(self) -> str:
        return self.log.read_text()

    def pid_of(self, node_id: str) -> int | None:
        """Return the process of a node of the running dataflow."""
        for run in running():
            with run:
                if name_of(run.description) == self.name:
                    nodes = {node.id: node.pid for node in inspect(run).nodes}
                    return nodes.get(node_id)
        return None


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.slow
def test_episodes_are_recorded_at_the_word_of_a_node(place: Place) -> None:
    inputs = {**SOURCES, "wrist": "wrist/image", "episode": "teacher/episode"}
    wrist = camera("wrist", rate=60, encoding="jpeg")
    printed = place.record(camera("front"), wrist, arm(), recorder(inputs), episodes=2)
    assert printed.count('"saved":true') >= 2
    info = read_info(place.dataset)
    check_whole(place.dataset, info.total_episodes)
    names = info.features["capture_time"].names or []
    for episode in read_episodes(place.dataset, info)[:2]:
        assert (episode["tasks"], episode["outcome"]) == (["push the cube"], "success")
        own = [row for row in rows(place.dataset) if row["episode_index"] == episode["episode_index"]]
        for row in own:
            number, sent = row["observation.state"]
            captured = episode["start_time"] / 1e9 + row["capture_time"][names.index("observation.state")]
            assert captured % 1000 == pytest.approx(sent, abs=1e-3)  # float32 of seconds
            assert number >= 0
        shown = list(frames(place.dataset, FRONT, episode))
        assert shown == sorted(shown)


@pytest.mark.slow
def test_a_replay_has_the_times_of_the_recording(place: Place) -> None:
    place.run(camera("front", frames=30), arm(400), recorder(SOURCES))
    replay = {
        "id": "episode",
        "path": "dora-lerobot-replay",
        "outputs": ["front", "state", "action"],
        "parameters": {"dataset": "dataset", "speed": 2},
    }
    again = recorder({name: f"episode/{name}" for name in SOURCES}, dataset="again", fps=60)
    place.run(replay, again)
    first, second = rows(place.dataset), rows(place.folder / "again")
    [episode] = read_episodes(place.dataset, read_info(place.dataset))
    [replayed] = read_episodes(place.folder / "again", read_info(place.folder / "again"))
    count = min(len(first), len(second))
    assert count >= 20
    shift = first[0]["capture_time"][0] / 2 - second[0]["capture_time"][0]
    for before, after in zip(first[:count], second[:count], strict=True):
        assert after["observation.state"] == before["observation.state"]
        halved = [time / 2 for time in before["capture_time"]]
        assert [time + shift for time in after["capture_time"]] == pytest.approx(halved, abs=1e-5)
    shown = list(frames(place.dataset, FRONT, episode))[:count]
    assert list(frames(place.folder / "again", FRONT, replayed))[:count] == shown


@pytest.mark.slow
def test_a_recorder_that_is_killed_leaves_the_episodes_before(place: Place) -> None:
    inputs = {**SOURCES, "episode": "teacher/episode"}
    nodes = (camera("front"), arm(), recorder(inputs, resume=True), teacher())
    with place.started(*nodes) as process:
        wait_until(lambda: place.printed().count(" status {") >= 1, place.printed)
        wait_until(lambda: list((place.dataset / SCRATCH).glob("*.mp4")), "the next episode")
        pid = place.pid_of("recorder")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: "killed by SIGKILL" in place.printed(), place.printed)
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) != 0
    before = read_info(place.dataset).total_episodes
    assert before >= 1
    printed = place.record(*nodes[:-1], episodes=1)
    assert "of an episode that was interrupted" in printed
    check_whole(place.dataset, read_info(place.dataset).total_episodes)
    assert read_info(place.dataset).total_episodes > before


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few hundred kilobytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    try:
        made = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if made.returncode:
        pytest.skip(f"no file system can be mounted: {made.stderr}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


@pytest.mark.slow
def test_a_disk_that_fills_costs_only_the_episode_for_which_it_has_no_room(
    place: Place, tiny_disk: Path
) -> None:
    inputs = {**SOURCES, "episode": "teacher/episode"}
    place.dataset = tiny_disk / "dataset"
    large = camera("front", width=320, height=240)
    node = recorder(inputs, dataset=str(place.dataset))
    with place.started(large, arm(), node, teacher()) as process:
        wait_until(
            lambda: '"saved":false' in place.printed(),
            place.printed,
            timeout=TIMEOUT,
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 1, place.printed()
    printed = place.printed()
    assert "the episode cannot be saved" in printed
    assert "No space left on device" in printed
    episodes = read_info(place.dataset).total_episodes
    assert episodes >= 1
    check_whole(place.dataset, episodes)


def test_a_disk_that_fills_with_a_video_costs_only_that_episode(tiny_disk: Path) -> None:
    noise = np.random.default_rng(1)

    def image(at: float) -> Input:
        data = pa.array(noise.integers(0, 255, 320 * 240 * 3).astype(np.uint8))
        return message("front", at, data, width=320, height=240, encoding="rgb8")

    with Recording(tiny_disk, "front episode") as recording:
        recording.take(image(0), command(0, "start"), *(image(number / 30) for number in range(1, 90)))
        recording.take(command(3, "end"))
        recording.take(image(4), command(4, "start"), image(4.03), command(4.04, "end"))
    assert recording.reports[0]["saved"] is False
    assert "No space left on device" in recording.reports[0]["reason"]
    check_whole(recording.root, 1)


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        (recorder(SOURCES, fsp=30), "error: there is no parameter `fsp`; did you mean `fps`?"),
        (recorder(SOURCES, dataset="."), "error: . has files and is no data set; choose another folder"),
        (
            {**camera("front", source=77), "inputs": {}},
            "error: there is no camera /dev/video77: ",
        ),
        (
            {**camera("front"), "outputs": ["picture"]},
            "error: the camera sends on the output `image`; add it",
        ),
    ],
)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names of devices on Linux")
def test_a_node_that_cannot_work_says_why_and_fails(
    node: dict[str, Any], sentence: str, place: Place
) -> None:
    others = [camera("front", frames=1), arm(1)] if node["id"] == "recorder" else []
    printed = place.run(*others, node, status=1)
    assert sentence in printed
    assert "Traceback" not in printed


@pytest.mark.slow
def test_a_data_set_that_is_missing_fails_the_replay(place: Place) -> None:
    node = {"id": "episode", "path": "dora-lerobot-replay", "outputs": ["state"]}
    printed = place.run(node, status=1)
    assert "error: out/dataset is no data set for LeRobot: it has no meta/info.json" in printed
    place.run(camera("front", frames=10), arm(300), recorder(SOURCES))
    printed = place.run({**node, "outputs": ["stat"], "parameters": {"dataset": "dataset"}}, status=1)
    assert "has no `observation.stat`; did you mean `observation.state`?" in printed
