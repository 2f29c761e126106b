"""Packages for robots, cameras, sound and models: what is not here is a stub, from the folder `drivers`.

Each runs between a sender and a receiver. What a stub does with what it gets, it prints.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from place import Place, values

pytestmark = [pytest.mark.packages, pytest.mark.processes, pytest.mark.timeout(900)]

# Sends [output, type, value, metadata] from a file, slowly: some nodes leave out what comes too fast.
SENDER = """
import json, time
import pyarrow as pa
from dora import Node

TYPES = {"joints": pa.struct({"joints": pa.string(), "values": pa.int32()})}

node = Node()
for output, kind, value, metadata in json.load(open("messages.json")):
    node.send_output(output, pa.array(value, TYPES.get(kind, kind)), metadata)
    time.sleep(0.1)
"""


class Every:
    """Equals each list of this number, however long."""

    def __init__(self, number: float) -> None:
        self._number = number

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, list)
            and len(other) > 0
            and other == pytest.approx([self._number] * len(other), abs=0.01)
        )


@dataclass(frozen=True)
class Case:
    """A package, what it gets, and what must come out of it or be in its log."""

    package: str
    drivers: tuple[str, ...]
    messages: list[list[Any]]
    outputs: dict[str, Any] = field(default_factory=dict)  # the last message of each, or its length
    metadata: dict[str, dict[str, Any]] = field(default_factory=dict)
    printed: tuple[str, ...] = ()
    command: str = ""  # where it is not the name of the package
    env: dict[str, Any] = field(default_factory=dict)
    build: str = ""  # options of pip

    def __str__(self) -> str:
        return self.command or self.package

    def dataflow(self) -> str:
        inputs = {message[0]: f"sender/{message[0]}" for message in self.messages}
        tested = {
            "id": "tested",
            "build": f"pip install {self.build} {self.package}",
            "path": str(self),
            "inputs": inputs,
            "outputs": list(self.outputs),
            "env": {"PYTHONPATH": "drivers", **self.env},
        }
        nodes = [{"id": "sender", "path": "sender.py", "outputs": list(inputs)}, tested]
        if self.outputs:  # without inputs, a receiver would wait until the dataflow is stopped
            outputs = {name: f"tested/{name}" for name in self.outputs}
            nodes.append({"id": "receiver", "path": "receiver.py", "inputs": outputs})
        return json.dumps({"nodes": nodes})


def tick(times: int = 3, name: str = "tick") -> list[list[Any]]:
    return [[name, "int64", [number], {}] for number in range(times)]


ONLY = "--no-deps"  # what the package asks for is compiled, needs devices, or weighs gigabytes
MOTOR = {"model": "x_series", "torque": True, "goal_current": 100, "P": 1, "I": 1, "D": 1}
GOALS = [{"joints": "shoulder", "values": 100}, {"joints": "elbow", "values": 300}]
IMAGE = ["image", "uint8", [90] * 36, {"encoding": "rgb8", "width": 4, "height": 3}]

QUIET = {"SAMPLE_RATE": 500, "MAX_DURATION": 0.1}  # few samples a message
SILENCE = [["audio", "float32", [0.0] * 80, {}]]
HELLO = [["text", None, ["hello"], {}]]

SOUND = [
    Case("dora-keyboard", ("pynput",), tick(10), {"char": ["b"]}, {"char": {"primitive": "text"}}),
    Case(
        "dora-microphone",
        ("sounddevice.py",),
        tick(15),
        {"audio": Every(1000 / 32768)},
        env=QUIET,
        build=ONLY,
    ),
    Case(
        "dora-pyaudio",
        ("pyaudio.py",),
        [["audio", "float32", [0.25] * 8, {"sample_rate": 16000}]],
        printed=("played 8 samples, up to 17500",),
        build=ONLY,
    ),
]

ROBOTS = [
    Case(
        "dora-piper",
        ("piper_sdk.py",),
        [["joint_action", "float32", [0.5] * 6 + [0.05], {}], *tick()],
        {"jointstate": [0.5] * 7, "pose": [1.0] * 3 + [17.453] * 3, "gripper": [0.5]},
        build=ONLY,
    ),
    Case(
        "dora-ugv",
        ("ugv_sdk_py",),
        [["action", "float64", [0.5, 0.1], {}], *tick()],
        {"velocity": [0.5, 0.1]},
    ),
    Case(
        "dora-reachy1",
        ("reachy_sdk",),
        [["r_arm_action", None, [0.1, 0.2, 0.3], {}], ["head_action", None, [1.0, 2.0, 3.0], {}]],
        printed=(
            "goto {'joint_0': 0.3, 'joint_1': -0.26, 'joint_2': -0.12}",
            "head off, head at [1.0, 2.0, 3.0]",
        ),
        build=ONLY,
    ),
    Case(
        "dora-reachy2",
        ("reachy2_sdk",),
        tick(1),
        {"image_left": [90] * 72, "depth": [1.5] * 24},
        {"depth": {"width": 6, "height": 4, "focal": [50, 50], "resolution": [0, 0], "primitive": "depth"}},
        command="dora-reachy2-camera",
        build=ONLY,
    ),
    Case(
        "dora-reachy2",
        ("reachy2_sdk",),
        [["action_base", None, [0.5, 0.25, 0.0, 0.0, 0.0, 3.14159265], {}]],
        {"response_base": [True]},
        printed=("rotate by 180", "translate by 0.5 0.25"),
        command="dora-reachy2-mobile-base",
        build=ONLY,
    ),
    Case(
        "lebai-client",
        ("lebai_sdk.py",),
        [["claw", None, [40.0], {}], ["movej", None, [0.1] * 6, {}], ["save", None, ["home"], {}]],
        printed=("claw 40", "move to [0.1, 0.1, 0.1, 0.1, 0.1, 0.1]"),
    ),
    Case(
        "dynamixel-client",
        ("dynamixel_sdk.py",),
        [["write_goal_position", "joints", GOALS, {}], *tick(name="pull_position")],
        {"position": GOALS},
        env={"PORT": "/dev/null", "CONFIG": "joints.json"},
    ),
]

CAMERAS = [
    Case(
        "dora-pyrealsense",
        ("pyrealsense2.py",),
        tick(),
        {"image": 576, "depth": 192},
        {
            "depth": {
                "encoding": "mono16",
                "width": 16,
                "height": 12,
                "resolution": [8, 6],
                "focal_length": [50, 50],
            }
        },
        env={"IMAGE_WIDTH": 16, "IMAGE_HEIGHT": 12},
    ),
    Case(
        "dora-pyorbbecksdk",
        ("pyorbbecsdk.py",),
        tick(),
        {"depth": 192},
    ),
    Case(
        "dora-ios-lidar",
        ("record3d.py",),
        tick(),
        {"image": 576, "depth": 192},
        {"image": {"encoding": "rgb8", "width": 16, "height": 12}},
        build="--no-deps scipy opencv-python-headless",
    ),
    Case(
        "hex-dora-node-camera",
        (),
        tick(),
        {"color": 64 * 48 * 3},
        {"color": {"encoding": "bgr8", "width": "64", "height": "48", "primitive": "image"}},
        command="hex-dora-cam-dummy",
        env={"WIDTH": 64, "HEIGHT": 48},
        build="hex-util-runtime==0.0.1a9",  # later ones lack what the package uses
    ),
]

MODELS = [
    Case(
        "dora-yolo",
        ("ultralytics.py",),
        [IMAGE],
        {"bbox": [{"bbox": [0.0, 0.0, 4.0, 3.0], "conf": [pytest.approx(0.9)], "labels": ["cat"]}]},
        {"bbox": {"encoding": "rgb8", "width": 4, "height": 3, "format": "xyxy", "primitive": "boxes2d"}},
        build=ONLY,
    ),
    Case(
        "dora-argotranslate",
        ("argostranslate",),
        [["text", None, ["bonjour"], {}]],
        {"text": ["good day"]},
        {"text": {"language": "en"}},
        build=ONLY,
    ),
    Case("dora-opus", ("transformers.py",), HELLO, {"text": ["HELLO"]}, build=ONLY),
    Case("dora-qwen", ("transformers.py",), HELLO, {"text": ["HELLO"]}, build=ONLY),
    Case(
        "dora-distil-whisper",
        ("torch.py", "transformers.py"),
        SILENCE,
        {"text": ["80 samples in english"]},
        build=ONLY,
    ),
    Case(
        "dora-funasr",
        ("funasr.py",),
        SILENCE,
        {"text": ["80samples"]},
        build=ONLY,
    ),
    Case(
        "dora-kokoro-tts",
        ("kokoro.py", "torch.py"),
        [["text", None, ["hi"], {}]],
        {"audio": [0.5, 0.5]},
        {"audio": {"sample_rate": 24000}},
        build=ONLY,
    ),
]


@pytest.mark.parametrize("case", [*SOUND, *ROBOTS, *CAMERAS, *MODELS], ids=str)
def test_a_package_works_with_a_stub_of_its_driver(place: Place, case: Case) -> None:
    place.write("sender.py", SENDER)
    place.write("messages.json", json.dumps(case.messages))
    place.write("joints.json", json.dumps({"shoulder": {"id": 1, **MOTOR}, "elbow": {"id": 2, **MOTOR}}))
    place.drivers(*case.drivers)
    place.build(case.dataflow())
    received = place.run()
    for name, expected in case.outputs.items():
        last = values(received, name)[-1]
        if isinstance(last, list) and isinstance(last[0], float) and not isinstance(expected, Every):
            expected = pytest.approx(expected, abs=0.01)
        assert last == expected, name
    for name, metadata in case.metadata.items():
        assert next(event["metadata"] for event in received if event["id"] == name) == metadata
    assert [text for text in case.printed if text not in place.output] == []


ENCODER = """#!{python}
import sys
open(sys.argv[-1], "w").write(" ".join(sys.argv[1:-1]))
"""

FILM = """
nodes:
  - {id: sender, path: sender.py, outputs: [image, episode_index]}
  - id: encoder
    build: pip install --no-deps video-encoder python-ffmpeg pyee opencv-python-headless
    path: video-encoder
    args: --name encoder
    inputs: {image: sender/image, episode_index: sender/episode_index}
    outputs: [image]
    env: {VIDEO_NAME: film, FPS: 10, PATH: BIN}
  - {id: receiver, path: receiver.py, inputs: {image: encoder/image}}
"""


def test_video_encoder_with_a_stub_of_ffmpeg(place: Place) -> None:
    """Its pictures come as structs, and it asks for the identifier of the dataflow."""
    (place.folder / "bin").mkdir()
    place.write("bin/ffmpeg", ENCODER.format(python=place.program("python")))
    (place.folder / "bin" / "ffmpeg").chmod(0o755)
    picture = {"width": 4, "height": 3, "channels": 3, "data": [90] * 36}
    messages = [["episode_index", None, [1], {}], *[["image", None, [picture], {}]] * 3]
    place.write("sender.py", SENDER)
    place.write("messages.json", json.dumps([*messages, ["episode_index", None, [-1], {}]]))
    place.build(FILM.replace("BIN", str(place.folder / "bin")))
    received = place.run()
    assert [value[0]["timestamp"] for value in values(received, "image")] == [0.0, 0.0, 0.1, 0.2]
    [film] = place.folder.glob("out/*/videos/film_episode_000001.mp4")
    assert "-f image2 -r 10" in film.read_text() and "-vcodec libx264" in film.read_text()
    assert len(list(film.parent.glob("film_episode_000001/*.png"))) == 3
