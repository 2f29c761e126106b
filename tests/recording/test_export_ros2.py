"""`dora export --ros2`: bags that rosbags reads, with the values that were sent."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from recorded_files import T0, write_recording
from ros_bags import LIBRARY, MESSAGES, Sent, time_of, write_bag
from rosbags.rosbag2 import Reader, StoragePlugin
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from dora.cli.main import run_command_line
from dora.recording.opening import open_recording

STRING, IMAGE = "std_msgs/msg/String", "sensor_msgs/msg/Image"
SIZE = {"width": 4, "height": 2}


def read(path: Path) -> list[tuple[str, int, Any]]:
    """Return the topics, times and messages of a bag as rosbags decodes them, with the types in it."""
    store = get_typestore(Stores.EMPTY)
    found = []
    with Reader(path) as reader:
        for connection in reader.connections:
            store.register(get_types_from_msg(connection.msgdef.data, connection.msgtype))
            assert store.hash_rihs01(connection.msgtype) == LIBRARY.message(connection.msgtype).hash
            assert connection.digest == store.hash_rihs01(connection.msgtype)
        for connection, time_ns, data in reader.messages():
            found.append((connection.topic, time_ns, store.deserialize_cdr(data, connection.msgtype)))
    return found


def read_as_foxglove_does(path: Path) -> list[tuple[str, int, Any]]:
    """Return the topics, times and messages of a bag as `mcap-ros2-support` decodes them."""
    (file,) = path.glob("*.mcap")
    with file.open("rb") as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()])
        assert {schema.encoding for schema in reader.get_summary().schemas.values()} == {"ros2msg"}
        return [
            (channel.topic, message.publish_time, decoded)
            for _, channel, message, decoded in reader.iter_decoded_messages()
        ]


def like(found: Any, expected: Any) -> Any:
    """Return a message as dictionaries and lists with the fields of another one; constants have none."""
    if isinstance(expected, dict):
        return {name: like(getattr(found, name), one) for name, one in expected.items()}
    if isinstance(expected, list):
        values = found.tolist() if isinstance(found, np.ndarray) else list(found)
        pairs = zip(values, expected, strict=True)
        return [like(one, other) for one, other in pairs]
    return found


def row(name: str, value: dict[str, Any]) -> Any:
    """Return a message as a bridge sends it."""
    kind = LIBRARY.message(name)
    return kind.decode(kind.encode(value))


def export(recording: Path, to: Path, *options: str) -> int:
    return run_command_line(["export", str(recording), "--ros2", str(to), *options])


def test_messages_of_ros_and_images_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.arange(24, dtype=np.uint8)
    recording = write_recording(
        tmp_path / "run.mcap",
        [
            ("ros/chatter", 0.0, row(STRING, {"data": "hello"}), {"ros2_type": STRING}),
            ("cam-1/image", 0.1, pixels, {**SIZE, "encoding": "bgr8", "frame_id": "cam"}),
            ("ros/state", 0.2, row(STRING, {}), {"ros2_type": STRING, "ros2_topic": "/arm/state"}),
            ("cam-1/brightness", 0.3, np.array([1.0])),
            ("cam-1/file", 0.4, b"\xff\xd8 a file", {"encoding": "jpeg"}),
            ("cam-1/brightness", 0.5, np.array([2.0])),
            ("ros/image", 0.6, pixels, {**SIZE, "encoding": "rgb8", "ros2_type": IMAGE, "stamp": 9}),
        ],
    )
    bag = tmp_path / "bag"
    assert export(recording, bag) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{bag}: 5 messages\n"
    assert captured.err == "left out: 2 messages of cam-1/brightness, which are none of ROS\n"
    chatter, image, state, file, stamped = read(bag)
    assert (chatter[0], chatter[1] - T0, chatter[2].data) == ("/ros/chatter", 0, "hello")
    assert (state[0], state[1] - T0) == ("/arm/state", 200_000_000)
    assert image[0] == "/cam_1/image"
    assert (image[2].header.frame_id, image[2].encoding, image[2].step) == ("cam", "bgr8", 12)
    assert image[2].header.stamp.sec * 10**9 + image[2].header.stamp.nanosec == T0 + 100_000_000
    assert image[2].data.tolist() == pixels.tolist()
    assert (file[2].format, bytes(file[2].data)) == ("jpeg", b"\xff\xd8 a file")
    assert stamped[2].header.stamp.nanosec == 9


def test_an_image_with_a_time_that_ros_does_not_have_gets_the_time_of_sending(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8)
    last = (2**31 - 1) * 10**9
    sent = [
        ("cam/image", 0.0, pixels, {**SIZE, "encoding": "bgr8", "stamp": stamp})
        for stamp in (-1, last + 10**9, "soon", last)
    ]
    assert export(write_recording(tmp_path / "run.mcap", sent), tmp_path / "bag") == 0
    stamps = [message.header.stamp for _, _, message in read(tmp_path / "bag")]
    assert [stamp.sec * 10**9 + stamp.nanosec for stamp in stamps] == [T0, T0, T0, last]


def test_what_has_an_encoding_and_is_called_no_image_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.arange(24, dtype=np.uint8)
    sent = [
        ("cam/mask", 0.0, pixels[:8], {**SIZE, "encoding": "mono8", "primitive": "masks"}),
        ("cam/image", 0.1, pixels, {**SIZE, "encoding": "bgr8", "primitive": "image"}),
    ]
    assert export(write_recording(tmp_path / "run.mcap", sent), tmp_path / "bag") == 0
    assert [topic for topic, _, _ in read(tmp_path / "bag")] == ["/cam/image"]
    assert "left out: 1 message of cam/mask" in capsys.readouterr().err


EVERY_KIND: dict[str, dict[str, Any]] = {
    "std_msgs/msg/String": {"data": "grüße"},
    "sensor_msgs/msg/Image": {
        "width": 2,
        "height": 1,
        "encoding": "rgb8",
        "step": 6,
        "data": list(range(6)),
    },
    "sensor_msgs/msg/JointState": {"name": ["hip", "knee"], "position": [0.5, -1.5], "effort": [2.0]},
    "sensor_msgs/msg/PointCloud2": {
        "fields": [{"name": "x", "offset": 0, "datatype": 7, "count": 1}],
        "width": 2,
        "data": list(range(8)),
        "is_dense": True,
    },
    "geometry_msgs/msg/PoseArray": {"poses": [{"position": {"x": 1.0}}, {"orientation": {"w": 0.5}}]},
    "tf2_msgs/msg/TFMessage": {"transforms": [{"child_frame_id": "arm", "header": {"frame_id": "base"}}]},
}


def test_rosbags_and_the_reader_of_foxglove_read_the_same_from_messages_of_every_kind(
    tmp_path: Path,
) -> None:
    sent = [
        (f"ros/topic{number}", number / 10, row(name, value), {"ros2_type": name})
        for number, (name, value) in enumerate(EVERY_KIND.items())
    ]
    recording = write_recording(tmp_path / "run.mcap", sent)
    assert export(recording, tmp_path / "bag") == 0
    with_rosbags, with_mcap = read(tmp_path / "bag"), read_as_foxglove_does(tmp_path / "bag")
    assert len(with_rosbags) == len(with_mcap) == len(EVERY_KIND)
    for one, other, (name, value) in zip(with_rosbags, with_mcap, EVERY_KIND.items(), strict=True):
        expected = row(name, value).to_pylist()[0]
        assert one[:2] == other[:2]
        for found in (one[2], other[2]):
            assert like(found, expected) == expected


def test_a_bag_keeps_its_topics_and_its_bytes(tmp_path: Path) -> None:
    old = write_bag(tmp_path / "old", storage=StoragePlugin.SQLITE3)
    assert export(old, tmp_path / "new") == 0
    found = read(tmp_path / "new")
    assert [each[:2] for each in found] == [(sent.topic, time_of(sent)) for sent in MESSAGES]
    with open_recording(str(old)) as first, open_recording(str(tmp_path / "new")) as second:
        assert [each.data for each in first.messages()] == [each.data for each in second.messages()]


def test_types_of_a_ros_install_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    message = ("ros/pair", 0.0, pa.array([{"left": 1, "right": 2}]), {"ros2_type": "lab_msgs/msg/Pair"})
    recording = write_recording(tmp_path / "run.mcap", [message])
    assert export(recording, tmp_path / "bag") == 1
    error = capsys.readouterr().err
    assert "error: message 1 of `ros/pair`: there is no message type 'lab_msgs/msg/Pair'" in error
    assert "AMENT_PREFIX_PATH may name folders" in error
    folder = tmp_path / "install/share/lab_msgs/msg"
    folder.mkdir(parents=True)
    (folder / "Pair.msg").write_text("int32 left\nint32 right\n")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path / "install"))
    assert export(recording, tmp_path / "bag", "--force") == 0
    with Reader(tmp_path / "bag") as reader:
        assert [bytes(data)[4:] for _, _, data in reader.messages()] == [b"\1\0\0\0\2\0\0\0"]


@pytest.mark.parametrize(
    ("data", "metadata", "told"),
    [
        (
            pa.array([{"data": 5}]),
            {"ros2_type": STRING},
            "field 'data' of std_msgs/msg/String: expected",
        ),
        (pa.array([1, 2]), {"ros2_type": STRING}, "std_msgs/msg/String: expected"),
        (b"12", {**SIZE, "encoding": "bgr8"}, "expected 24 bytes for 4 × 2 pixels of bgr8"),
    ],
)
def test_a_value_that_does_not_fit_is_told(
    tmp_path: Path, data: Any, metadata: dict[str, Any], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = write_recording(tmp_path / "run.mcap", [("a/x", 0.0, data, metadata)])
    assert export(recording, tmp_path / "bag") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: no message fits its type, so no bag is written; message 1 of `a/x`: ")
    assert told in error
    assert error.count("\n") == 1


def test_a_type_whose_name_is_none_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = ("a/x", 0.0, pa.array([1]), {"ros2_type": "no type"})
    recording = write_recording(tmp_path / "run.mcap", [message])
    assert export(recording, tmp_path / "bag") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: message 1 of `a/x`: 'no type' is no name of a type")
    assert error.count("\n") == 1


def test_of_a_node_that_passes_on_metadata_only_what_fits_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    chatter = {"ros2_type": STRING, "ros2_topic": "/chatter"}
    camera = {"ros2_type": IMAGE, "ros2_topic": "/camera", **SIZE, "encoding": "bgr8"}
    pixels = np.arange(24, dtype=np.uint8)
    recording = write_recording(
        tmp_path / "run.mcap",
        [
            ("detector/boxes", 0.0, np.array([1.0, 2.0]), camera),
            ("camera/image", 0.1, pixels, camera),
            ("detector/boxes", 0.2, np.array([3.0, 4.0]), camera),
            ("edges/image", 0.3, pixels[::-1].copy(), camera),
            ("ros/chatter", 0.4, row(STRING, {"data": "hello"}), chatter),
            ("parrot/text", 0.5, row(STRING, {"data": "HELLO"}), chatter),
            ("parrot/text", 0.6, pa.array([{"data": 5}]), chatter),
            ("ros/chatter", 0.7, row(STRING, {"data": "again"}), chatter),
        ],
    )
    assert export(recording, tmp_path / "bag") == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'bag'}: 5 messages\n"
    assert "left out: 2 messages of detector/boxes" in captured.err
    assert "left out: 1 message of parrot/text" in captured.err
    topics = [topic for topic, _, _ in read(tmp_path / "bag")]
    assert topics == ["/camera", "/edges/image", "/chatter", "/parrot/text", "/chatter"]
    boxes, text = caplog.messages
    assert boxes.startswith("left out: message 1 of `detector/boxes`: field 'data' of ")
    assert text.startswith("left out: message 2 of `parrot/text`: field 'data' of std_msgs/msg/String")


def test_what_exists_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_bag(tmp_path / "old")
    other = write_bag(tmp_path / "other", MESSAGES[:1])
    assert export(bag, other) == 1
    assert "exists already" in capsys.readouterr().err
    assert export(bag, other, "--force") == 0
    assert len(read(other)) == 5
    (other / "notes.txt").write_text("mine")
    assert export(bag, other, "--force") == 1
    assert "is no bag, so it is not written over" in capsys.readouterr().err
    assert (other / "notes.txt").read_text() == "mine"
    assert len(read(other)) == 5
    assert export(bag, bag, "--force") == 1
    assert "is the recording itself" in capsys.readouterr().err
    assert export(bag, tmp_path / "old/metadata.yaml/x") == 1
    assert "cannot write" in capsys.readouterr().err


def test_recordings_are_not_taken_for_a_bag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sent: list[Any] = [("a/x", 0.0, row(STRING, {"data": "1"}), {"ros2_type": STRING})]
    folder = tmp_path / "recordings"
    folder.mkdir()
    recording = write_recording(folder / "monday.mcap", sent)
    assert export(recording, tmp_path / "bag") == 0
    for source in (recording, tmp_path / "bag"):
        assert export(source, folder, "--force") == 1
        assert "is no bag, so it is not written over" in capsys.readouterr().err
    (file,) = (tmp_path / "bag").glob("*.mcap")
    assert export(file, tmp_path / "bag", "--force") == 1
    assert "which would be replaced" in capsys.readouterr().err
    assert recording.exists() and file.exists()


def test_an_export_that_fails_leaves_everything_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sent: list[Any] = [("a/x", 0.0, row(STRING, {"data": "1"}), {"ros2_type": STRING})]
    good = write_recording(tmp_path / "good.mcap", sent)
    bad = write_recording(tmp_path / "bad.mcap", [*sent, ("a/x", 0.1, b"", {"ros2_type": "a/msg/None"})])
    assert export(bad, tmp_path / "bag") == 1
    assert "message 2 of `a/x`" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.mcap", "good.mcap"]
    assert export(good, tmp_path / "bag") == 0
    assert export(bad, tmp_path / "bag", "--force") == 1
    assert [each[2].data for each in read(tmp_path / "bag")] == ["1"]
    for _ in range(2):
        assert export(good, tmp_path / "before", "--force") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.mcap", "bag", "before", "good.mcap"]


@pytest.mark.processes
def test_the_next_export_removes_what_a_killed_one_has_left(tmp_path: Path) -> None:
    sent: list[Any] = [("a/x", 0.0, row(STRING, {"data": "1"}), {"ros2_type": STRING})]
    recording = write_recording(tmp_path / "good.mcap", sent)
    program = """
import os, signal, sys
from dora.cli.main import run_command_line
from dora.recording import export_ros2

write = export_ros2._write
def write_and_end(*parts):
    write(*parts)
    os.kill(os.getpid(), signal.SIGKILL)
export_ros2._write = write_and_end
run_command_line(["export", sys.argv[1], "--ros2", sys.argv[2]])
"""
    command = [sys.executable, "-c", program, str(recording), str(tmp_path / "bag")]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    left = [path.name for path in tmp_path.iterdir() if path != recording]
    assert len(left) == 1
    assert left[0].startswith("dora-export-")
    assert export(recording, tmp_path / "other") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.mcap", "other"]


def test_without_the_extra_the_error_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_bag(tmp_path / "old")
    monkeypatch.setitem(sys.modules, "rosbags.rosbag2", None)
    assert export(bag, tmp_path / "new") == 1
    error = 'error: a bag of ROS 2 needs rosbags: pip install "dora-dataflow[ros2]"\n'
    assert capsys.readouterr().err == error
    assert not (tmp_path / "new").exists()


def test_a_recording_without_messages_of_ros_makes_no_bag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = write_recording(tmp_path / "run.mcap", [("a/x", 0.0, np.array([1.0]))])
    assert export(recording, tmp_path / "bag") == 1
    assert "has no messages of ROS and no images" in capsys.readouterr().err
    assert not (tmp_path / "bag").exists()


def test_requests_of_services_have_no_topic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "std_srvs/srv/SetBool_Request"
    sent = [
        ("ros/request", 0.0, row(name, {"data": True}), {"ros2_type": name}),
        ("ros/chatter", 0.1, row(STRING, {"data": "1"}), {"ros2_type": STRING}),
    ]
    assert export(write_recording(tmp_path / "run.mcap", sent), tmp_path / "bag") == 0
    assert [each[0] for each in read(tmp_path / "bag")] == ["/ros/chatter"]
    assert "left out: 1 message of ros/request" in capsys.readouterr().err


def test_two_types_of_one_topic(tmp_path: Path) -> None:
    sent = [
        ("a/x", 0.0, row(STRING, {"data": "1"}), {"ros2_type": STRING}),
        ("a/x", 0.1, row("std_msgs/msg/Bool", {"data": True}), {"ros2_type": "std_msgs/msg/Bool"}),
    ]
    assert export(write_recording(tmp_path / "run.mcap", sent), tmp_path / "bag") == 0
    assert [each[2].data for each in read(tmp_path / "bag")] == ["1", True]


def test_a_message_of_a_bag_that_is_damaged_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_bag(tmp_path / "drive", [Sent("/x", 0.0, STRING, {})], data={0: b"\x28\xb5\x2f\xfd broken"})
    assert export(bag, tmp_path / "new") == 1
    assert "error: a message cannot be decompressed" in capsys.readouterr().err


FILMED = """
nodes:
  - id: camera
    path: camera.py
    outputs: [image, brightness]
"""
FILMING = """
import numpy as np
from dora import Node

with Node() as node:
    size = {"width": 2, "height": 2, "encoding": "bgr8"}
    for count in range(5):
        node.send_output("image", np.full(12, count, np.uint8), size)
        node.send_output("brightness", np.array([count]))
"""


@pytest.mark.processes
def test_a_recording_becomes_a_bag_when_it_ends(tmp_path: Path) -> None:
    (tmp_path / "flow.yml").write_text(FILMED)
    (tmp_path / "camera.py").write_text(FILMING)
    command = [sys.executable, "-m", "dora", "record", "flow.yml", "-o", "a.mcap", "--ros2", "bag"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "bag: 5 messages" in done.stdout
    assert "left out: 5 messages of camera/brightness, which are none of ROS" in done.stderr
    assert [topic for topic, _, _ in read(tmp_path / "bag")] == ["/camera/image"] * 5
    again = subprocess.run(
        [*command[:-3], "b.mcap", *command[-2:]], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert again.returncode == 1
    assert "bag exists already" in again.stderr
    assert not (tmp_path / "b.mcap").exists(), "it is told before anything runs"


def test_a_ring_becomes_no_bag(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["record", "flow.yml", "--last", "3s", "--ros2", "bag"]) == 2
    assert "use `dora export --ros2` for each file" in capsys.readouterr().err
