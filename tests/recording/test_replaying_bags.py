"""A bag of ROS 2 as the source of a dataflow: real processes."""

from __future__ import annotations

import json
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
import yaml
from recording_flows import Folder
from ros_bags import MESSAGES, as_read, write_bag
from rosbags.rosbag2 import StoragePlugin

from dora.cli.main import run_command_line
from dora.recording.opening import open_recording
from dora.wire.decode import decode_arrow

LISTENER = """
    import json, os
    from dora import Node
    found = []
    with Node() as node:
        for event in node:
            if event["type"] == "INPUT":
                kept = {key: value for key, value in event["metadata"].items() if key != "timestamp"}
                found.append([event["id"], event["value"].to_pylist(), kept])
    with open("found.json", "w") as file:
        json.dump(found, file)
"""


def flow(outputs: list[str], **source: Any) -> dict[str, Any]:
    inputs = {output.replace("/", "_"): f"robot/{output}" for output in outputs}
    return {
        "nodes": [
            {"id": "robot", "path": "dora-replay", "outputs": outputs, **source},
            {"id": "listener", "path": "listener.py", "inputs": inputs},
        ]
    }


def found(folder: Folder) -> list[Any]:
    received: list[Any] = json.loads((folder.directory / "found.json").read_text())
    return received


@pytest.fixture
def lab(folder: Folder) -> Folder:
    """A folder with a bag and a node that writes down what it gets."""
    write_bag(folder.directory / "drive")
    folder.program("listener.py", LISTENER)
    return folder


@pytest.mark.processes
def test_a_bag_in_sqlite_is_replayed_as_one_in_mcap(folder: Folder) -> None:
    folder.program("listener.py", LISTENER)
    folder.flow(yaml.safe_dump(flow(["camera/image_raw", "chatter", "arm/joint_states"])))
    received = []
    for storage in (StoragePlugin.MCAP, StoragePlugin.SQLITE3):
        write_bag(folder.directory / storage.name, storage=storage)
        folder.dora("replay", storage.name, "lab.yml", "--speed", "0")
        # A bag has no order of events: messages of different topics may overtake each other.
        received.append(sorted(found(folder), key=itemgetter(0)))
    assert received[0] == received[1]
    sent = sorted(MESSAGES, key=lambda message: message.topic)
    assert [values for _, values, _ in received[0]] == [as_read(message) for message in sent]


@pytest.mark.processes
def test_topics_of_a_bag_become_outputs(lab: Folder) -> None:
    lab.flow(yaml.safe_dump(flow(["camera/image_raw", "chatter", "other"])))
    said = lab.dora("replay", "drive", "lab.yml", "--speed", "0")
    assert "from the recording: robot; running again: listener" in said
    assert "lacks the order" not in said
    received = found(lab)
    for name, topic in (("camera_image_raw", "/camera/image_raw"), ("chatter", "/chatter")):
        of_topic = [sent for sent in MESSAGES if sent.topic == topic]
        metadata = {"ros2_type": of_topic[0].type, "ros2_topic": topic}
        assert [each for each in received if each[0] == name] == [
            [name, as_read(sent), metadata] for sent in of_topic
        ]
    assert len(received) == 4


@pytest.mark.processes
def test_a_topic_replaces_a_camera_and_comes_back_as_a_topic(lab: Folder) -> None:
    lab.flow(yaml.safe_dump(flow(["image"], path="camera.py")))
    command = ["replay", "drive", "lab.yml", "--speed", "0", "--images"]
    lab.dora(*command, "--topic", "robot/image=/camera/image_raw", "-o", "again.mcap")
    received = [(value, metadata["width"]) for _, value, metadata in found(lab)]
    assert received == [([10] * 24, 4), ([20] * 24, 4)]
    lab.dora("export", "again.mcap", "--ros2", "new")
    with open_recording(str(lab.directory / "new")) as opened:
        values = [decode_arrow(each.message).to_pylist() for each in opened.messages(["camera/image_raw"])]
    images = [as_read(sent) for sent in MESSAGES if sent.topic == "/camera/image_raw"]
    assert values == [[{**image[0], "step": 12, "data": image[0]["data"][:24]}] for image in images]


@pytest.mark.processes
def test_a_bag_takes_the_place_of_a_node_that_gets_its_topics_from_ros(lab: Folder) -> None:
    block = {
        "namespace": "camera",
        "topics": [
            {
                "topic": "image_raw",
                "message_type": "sensor_msgs/Image",
                "format": "image",
                "output": "image",
            },
            {"topic": "/chatter", "message_type": "std_msgs/String", "output": "text"},
            {"topic": "/silent", "message_type": "std_msgs/String", "output": "none"},
        ],
    }
    described = flow(["image", "text", "none"])
    described["nodes"][0] = {"id": "robot", "ros2": block, "outputs": ["image", "text", "none"]}
    lab.flow(yaml.safe_dump(described))
    said = lab.dora("replay", "drive", "lab.yml", "--speed", "0")
    assert "from the recording: robot; running again: listener" in said
    received = found(lab)
    assert [value for name, value, _ in received if name == "image"] == [[10] * 24, [20] * 24]
    texts = [sent for sent in MESSAGES if sent.topic == "/chatter"]
    assert [value for name, value, _ in received if name == "text"] == [as_read(sent) for sent in texts]
    assert len(received) == 2 + len(texts)


@pytest.mark.processes
def test_a_dataflow_plays_a_bag_by_itself(lab: Folder) -> None:
    settings = {"DORA_REPLAY_FILE": "drive", "DORA_REPLAY_NODE": "robot", "DORA_REPLAY_TO": "0.25"}
    lab.flow(yaml.safe_dump(flow(["chatter"], env=settings)))
    lab.dora("run", "lab.yml")
    assert [each[1] for each in found(lab)] == [[{"data": "hello"}]]


@pytest.mark.processes
def test_a_cut_bag_is_replayed_up_to_the_cut(lab: Folder) -> None:
    file = lab.directory / "drive/drive.mcap"
    file.write_bytes(file.read_bytes()[:-300])
    lab.flow(yaml.safe_dump(flow(["chatter"])))
    said = lab.dora("replay", "drive", "lab.yml", "--speed", "0", status=1)
    assert "error: drive: a part cannot be read: " in said
    assert len(found(lab)) == 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "no output of the dataflow is a topic of the bag"),
        (["--topic", "robot/image=/nothing"], "the bag has no topic `/nothing`; it has"),
        (["--topic", "robot/other=/chatter"], "the dataflow has no output `robot/other`"),
        (
            ["--topic", "robot/image=/chatter", "--topic", "robot/second=/chatter"],
            "two outputs of the node `robot` have the topic `/chatter`",
        ),
        (["--topic", "robot=/chatter"], "`robot=/chatter` is not NODE/OUTPUT=TOPIC"),
    ],
)
def test_what_does_not_match_is_told(
    tmp_path: Path, options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_bag(tmp_path / "drive")
    (tmp_path / "listener.py").write_text("")
    (tmp_path / "flow.yml").write_text(yaml.safe_dump(flow(["image", "second"])))
    assert run_command_line(["replay", str(bag), str(tmp_path / "flow.yml"), *options]) in (1, 2)
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


def test_a_bag_alone_has_no_dataflow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_bag(tmp_path / "drive")
    assert run_command_line(["replay", str(bag)]) == 1
    assert "has no dataflow in it; give a file: dora replay RECORDING FILE" in capsys.readouterr().err
