"""Foxglove shows running dataflows, the inputs of a node, and recordings."""

from __future__ import annotations

import errno
import json
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import foxglove
import pyarrow as pa
import pytest
from foxglove.websocket import Parameter
from foxglove_client import FoxgloveClient
from ports import free_port
from recorded_files import message_of
from rosbags.rosbag2 import StoragePlugin, Writer
from waiting import TIMEOUT, wait_until

from dora.cli import command_run
from dora.errors import ConnectError, DoraError
from dora.nodes.foxglove.address import check_address
from dora.nodes.foxglove.channels import ChannelMap, values_of
from dora.nodes.foxglove.live import LiveView
from dora.nodes.foxglove.server import FoxgloveServer, Published, SetParameters, _parameters, array_of
from dora.ros2 import InterfaceLibrary

PLAYING, ENDED = 0, 3

CAMERA = """
    import numpy as np
    import pyarrow as pa
    from dora import Node

    node = Node()
    count = 0
    print("camera begins", flush=True)
    boxes = {"bbox": np.array([10, 20, 30, 60], np.float32), "labels": ["cat"]}
    for event in node:
        if event["type"] == "PARAM_UPDATE":
            print("gain is", event["value"], flush=True)
        if event["type"] != "INPUT":
            continue
        count += 1
        picture = np.full(8 * 6 * 3, count % 250, np.uint8)
        node.send_output("image", picture, {"width": 8, "height": 6, "encoding": "rgb8"})
        node.send_output("depth", np.ones(4, np.float32), {"primitive": "depth", "width": 2, "height": 2})
        node.send_output("cloud", np.arange(6, dtype=np.float32), {"primitive": "points3d"})
        node.send_output("boxes", pa.array([boxes]), {"primitive": "boxes2d", "format": "xyxy"})
        node.send_output("cubes", pa.array([0.0, 0, 0, 1, 1, 1]), {"primitive": "boxes3d"})
        node.send_output("joints", pa.array([0.5]), {"primitive": "jointstate", "joint_names": ["elbow"]})
        node.send_output("hand", pa.array([1.0, 2, 3, 0, 0, 0, 1]), {"primitive": "pose"})
        node.send_output("speed", np.array([count, -count], np.float64))
        node.send_output("words", pa.array(["hello"]))
        node.send_output("found", pa.array([{"name": "cup", "sure": 0.5}]))
        node.send_output("odd", pa.array([1.0, 2.0]), {"primitive": "boxes2d"})
    """
OUTPUTS = "[image, depth, cloud, boxes, cubes, joints, hand, speed, words, found, odd]"
LISTENER = """
    from dora import Node
    for event in Node():
        if event["type"] == "INPUT" and event["id"] == "command":
            print("command", event["value"].to_pylist(), flush=True)
    """
FLOW = f"""
nodes:
  - id: camera
    path: camera.py
    parameters: {{gain: 0.5}}
    inputs: {{tick: dora/timer/hz/20}}
    outputs: {OUTPUTS}
  - id: pilot
    path: pilot.py
    inputs: {{tick: dora/timer/secs/1}}
    outputs: [command]
  - id: wheels
    path: listener.py
    inputs: {{command: pilot/command}}
"""
PILOT = """
    from dora import Node
    for event in Node():
        pass
    """
SCHEMAS = {
    "/logs": "foxglove.Log",
    "camera/image": "foxglove.RawImage",
    "camera/depth": "foxglove.RawImage",
    "camera/cloud": "foxglove.PointCloud",
    "camera/boxes": "foxglove.ImageAnnotations",
    "camera/cubes": "foxglove.SceneUpdate",
    "camera/joints": "foxglove.JointStates",
    "camera/hand": "foxglove.PoseInFrame",
    "camera/speed": "dora.Float64",
    "camera/words": "foxglove.Log",
    "camera/found": "dora.Values",
    "camera/odd": "dora.Float64",
}


class Command:
    """A command of dora, and what it prints."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dora", *arguments],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said: list[str] = []

    def until(self, pattern: str) -> re.Match[str]:
        """Read until a line matches, and return the match."""
        assert self.process.stdout is not None
        end = threading.Timer(TIMEOUT, self.process.kill)  # a line that never comes ends the wait
        end.start()
        try:
            for line in self.process.stdout:
                self.said.append(line)
                if found := re.search(pattern, line):
                    return found
        finally:
            end.cancel()
        raise AssertionError(f"no {pattern} in {''.join(self.said)}")

    def address(self) -> str:
        return self.until(r"Foxglove: open a connection to (ws://\S+)")[1]

    def end(self, number: int = signal.SIGINT) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.said.append(self.process.communicate(timeout=TIMEOUT)[0])
        finally:
            self.process.kill()
        return self.process.returncode


Start = Callable[..., Command]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    programs = {"camera.py": CAMERA, "listener.py": LISTENER, "pilot.py": PILOT, "robot.yml": FLOW}
    for name, text in programs.items():
        (tmp_path / name).write_text(textwrap.dedent(text))
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    commands: list[Command] = []

    def begin(*arguments: str) -> Command:
        commands.append(Command(folder, *arguments))
        return commands[-1]

    yield begin
    for command in reversed(commands):
        command.end()


@pytest.mark.slow
@pytest.mark.processes
def test_each_kind_of_message_has_the_schema_that_foxglove_draws(start: Start) -> None:
    start("run", "robot.yml").until("camera begins")
    shower = start("foxglove", "--address", "0")
    with FoxgloveClient(shower.address()) as client:
        client.wait(lambda: client.shown.keys() >= SCHEMAS.keys(), "message of each topic")
        assert client.info["name"] == "robot"
        assert {topic: shown[-1].schema for topic, shown in client.shown.items()} == SCHEMAS
        image = client.shown["camera/image"][-1].message
        assert (image.width, image.height, image.step, image.encoding) == (8, 6, 24, "rgb8")
        assert len(image.data) == 8 * 6 * 3 and len(set(image.data)) == 1
        (box,) = client.shown["camera/boxes"][-1].message.points
        assert [(point.x, point.y) for point in box.points] == [(10, 20), (30, 20), (30, 60), (10, 60)]
        assert client.shown["camera/boxes"][-1].message.texts[0].text == "cat"
        (cube,) = client.shown["camera/cubes"][-1].message.entities[0].cubes
        assert (cube.size.x, cube.size.y, cube.size.z) == (2, 2, 2)
        (joint,) = client.shown["camera/joints"][-1].message.joints
        assert (joint.name, joint.position) == ("elbow", 0.5)
        assert client.shown["camera/hand"][-1].message.pose.position.y == 2
        cloud = client.shown["camera/cloud"][-1].message
        assert (cloud.point_stride, len(cloud.data)) == (12, 24)
        assert client.shown["camera/words"][-1].message.message == "hello"
        assert client.shown["camera/found"][-1].data == b'{"values": [{"name": "cup", "sure": 0.5}]}'
        numbers = client.values("camera/speed")
        assert all(one == -other for one, other in numbers)
        times = [shown.time_ns for shown in client.shown["camera/speed"]]
        assert times == sorted(times)
    shower.end()
    assert any("`camera/odd` is shown as plain values: boxes" in line for line in shower.said)


@pytest.mark.slow
@pytest.mark.processes
def test_only_topics_that_somebody_looks_at_are_tapped(start: Start) -> None:
    start("run", "robot.yml").until("camera begins")
    with FoxgloveClient(start("foxglove", "--address", "0").address(), {"camera/speed"}) as client:
        client.wait(lambda: len(client.shown.get("camera/speed", ())) > 20, "numbers")
        assert client.shown.keys() == {"camera/speed"}
        assert {channel["topic"] for channel in client.channels.values()} == SCHEMAS.keys()


@pytest.mark.slow
@pytest.mark.processes
def test_with_control_a_client_publishes_and_sets_parameters(start: Start) -> None:
    run = start("run", "robot.yml")
    run.until("camera begins")
    with FoxgloveClient(start("foxglove", "--address", "0", "--control").address()) as client:
        client.send("getParameters", parameterNames=[], id="all")
        client.wait(lambda: client.parameters == {"camera/gain": 0.5}, "parameter")
        client.send("subscribeParameterUpdates", parameterNames=["camera/gain"])
        client.send("setParameters", parameters=[{"name": "camera/gain", "value": 0.75}], id="one")
        run.until(r"gain is 0\.75")
        client.wait(lambda: client.parameters == {"camera/gain": 0.75}, "new value")
        client.publish("/pilot/command", {"values": [1, 2]})
        run.until(r"command \[1, 2\]")
        client.publish("pilot/command", {"x": 1})
        run.until(r"command \[{'x': 1}\]")
        client.publish("pilot/steering", 1)
        client.wait(
            lambda: any("has no output `pilot/steering`" in text for text in client.warnings), "hint"
        )
        client.send("setParameters", parameters=[{"name": "nobody/gain", "value": 1}], id="two")
        client.wait(lambda: any("`nobody`" in text for text in client.warnings), "refusal")
        client.publish("pilot/command", 1, "protobuf")
        client.wait(lambda: any("in JSON, not in protobuf" in text for text in client.warnings), "encoding")
        client.publish("pilot/command", nested(70))
        client.wait(lambda: any("Arrow cannot write" in text for text in client.warnings), "too deep lists")
        client.publish("pilot/command", {"values": [3]})
        run.until(r"command \[3\]")


@pytest.mark.slow
@pytest.mark.processes
def test_without_control_a_client_only_looks(start: Start) -> None:
    start("run", "robot.yml").until("camera begins")
    with FoxgloveClient(start("foxglove", "--address", "0").address()) as client:
        client.wait(lambda: client.info, "greeting")
        assert "clientPublish" not in client.info["capabilities"]
        client.send("setParameters", parameters=[{"name": "camera/gain", "value": 0.75}], id="one")
        client.wait(lambda: client.warnings == ["parameters can be set only with --control"], "refusal")
        client.send("getParameters", parameterNames=["camera/gain"], id="all")
        client.wait(lambda: client.parameters == {"camera/gain": 0.5}, "old value")


@pytest.mark.slow
@pytest.mark.processes
def test_foxglove_ends_with_the_dataflow(start: Start) -> None:
    run = start("run", "robot.yml")
    run.until("camera begins")
    shower = start("foxglove", "--address", "0")
    with FoxgloveClient(shower.address()) as client:
        client.wait(lambda: client.shown, "message")
        run.end()
    assert shower.process.wait(TIMEOUT) == 0


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_with_foxglove_leaves_no_process(
    start: Start, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DORA_FOXGLOVE_ADDRESS", f"127.0.0.1:{free_port()}")
    run = start("run", "robot.yml", "--foxglove")
    address = run.address()
    with FoxgloveClient(address) as client:
        client.wait(lambda: "camera/image" in client.shown, "picture")
        run.end(number)
    host, _, port = address.removeprefix("ws://").rpartition(":")

    def is_free() -> bool:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            return trial.connect_ex((host, int(port))) != 0

    from waiting import wait_until

    wait_until(is_free, "end of the process that shows the run")


@pytest.mark.processes
@pytest.mark.timeout(60)
def test_a_run_does_not_wait_for_a_process_of_foxglove_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hangs").write_text("#!/bin/sh\nexec sleep 1000\n")
    (tmp_path / "hangs").chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "hangs"))
    monkeypatch.setattr(command_run, "_FOXGLOVE_END_TIMEOUT", 0.1)
    with command_run._foxglove() as show:
        show("run", "logs")


@pytest.mark.slow
@pytest.mark.processes
def test_the_node_shows_its_inputs_and_sends_what_clients_publish(folder: Path, start: Start) -> None:
    port = free_port()
    (folder / "node.yml").write_text(
        f"""
nodes:
  - id: camera
    path: camera.py
    inputs: {{tick: dora/timer/hz/20}}
    outputs: {OUTPUTS}
  - id: foxglove
    path: dora-foxglove
    env: {{DORA_FOXGLOVE_ADDRESS: "127.0.0.1:{port}"}}
    inputs: {{picture: camera/image, speed: camera/speed}}
    outputs: [command]
  - id: wheels
    path: listener.py
    inputs: {{command: foxglove/command}}
"""
    )
    run = start("run", "node.yml")
    run.until("showing at")
    with FoxgloveClient(f"ws://127.0.0.1:{port}") as client:
        client.wait(lambda: {"picture", "speed"} <= client.shown.keys(), "pictures and numbers")
        assert client.shown["picture"][-1].message.width == 8
        client.publish("command", {"values": [3.5]})
        run.until(r"command \[3\.5\]")
        client.publish("other", 1)
        client.wait(lambda: any("`other` is no output" in text for text in client.warnings), "refusal")
        client.publish("command", nested(70))
        client.wait(lambda: any("Arrow cannot write" in text for text in client.warnings), "too deep lists")
        client.publish("command", {"values": [4.5]})
        run.until(r"command \[4\.5\]")


@pytest.mark.slow
@pytest.mark.processes
def test_foxglove_plays_a_recording_and_jumps_in_it(folder: Path, start: Start) -> None:
    (folder / "count.py").write_text(
        textwrap.dedent("""
        import numpy as np
        from dora import Node
        with Node() as node:
            for number, event in zip(range(40), node):
                node.send_output("number", np.array([number], np.int64))
        """)
    )
    (folder / "count.yml").write_text(
        "nodes: [{id: count, path: count.py, inputs: {tick: dora/timer/hz/50}, outputs: [number]}]"
    )
    record = start("record", "count.yml", "-o", "drive.mcap")
    assert record.process.wait(TIMEOUT) == 0
    player = start("foxglove", "--recording", "drive.mcap", "--address", "0")
    with FoxgloveClient(player.address()) as client:
        client.wait(lambda: client.channels, "channel")
        assert client.info["name"] == "drive.mcap" and "playbackControl" in client.info["capabilities"]
        begin = client.info["dataStartTime"]["sec"] * 10**9 + client.info["dataStartTime"]["nsec"]
        client.play(10.0)
        client.wait(lambda: client.playback[0] == ENDED, "end")
        whole = [[number] for number in range(40)]
        client.play(10.0, begin)
        # The state of the player overtakes messages, so some may come from the first time.
        client.wait(lambda: client.values("count/number")[-40:] == whole, "all messages")
        middle = client.shown["count/number"][-10].time_ns
        client.shown.clear()
        client.play(1.0, middle)
        client.wait(lambda: client.values("count/number")[-10:] == whole[30:], "rest")
        third = client.shown["count/number"][-8].time_ns  # from the end: some may come from the second time
        client.shown.clear()
        client.play(1.0, third, pause=True)
        client.wait(lambda: client.values("count/number")[-1:] == [[32]], "moment while it stands still")
        client.wait(lambda: client.playback == (1, third), "state of the moment")
        client.play(1.0, begin, pause=True)
        client.wait(lambda: client.playback == (1, begin), "pause at the start")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (pa.array([1], pa.timestamp("ns")), ["1970-01-01 00:00:00.000000001"]),
        (pa.array([2**62], pa.timestamp("s")), None),
        (pa.array([1], pa.duration("ns")), ["1"]),
        (pa.array([1], pa.time64("ns")), ["00:00:00.000000001"]),
        (pa.array([{"at": 1}], pa.struct([("at", pa.timestamp("ns"))])), None),
    ],
)
def test_values_that_python_lacks_are_shown_as_text(value: pa.Array[Any], shown: list[str] | None) -> None:
    channels = ChannelMap(foxglove.Context())
    channels.show("odd", message_of(value, {}, 1, 1))
    assert "odd" in channels
    found = values_of(value)
    assert all(isinstance(item, str) for item in found)
    assert shown is None or found == shown


def test_a_message_that_no_drawer_expects_is_shown_as_plain_values(
    caplog: pytest.LogCaptureFixture,
) -> None:
    channels = ChannelMap(foxglove.Context())
    metadata = {"primitive": "boxes2d", "color": [float("nan"), 0.0, 0.0]}
    for _ in range(2):
        channels.show("boxes", message_of(pa.array([1.0, 2.0, 3.0, 4.0]), metadata, 1, 1))
    assert channels.not_drawn == {"boxes": 2}
    assert caplog.text.count("`boxes` is shown as plain values: ValueError: ") == 1


@pytest.mark.parametrize("metadata", [{}, {"primitive": "text"}], ids=str)
def test_a_text_that_is_not_utf_8_is_shown_as_plain_values(metadata: dict[str, Any]) -> None:
    offsets = pa.array([0, 1], pa.int32()).buffers()[1]
    text = pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(b"\xff")])
    channels = ChannelMap(foxglove.Context())
    channels.show("odd", message_of(text, metadata, 1, 1))
    assert channels.not_drawn == {"odd": 1}
    assert "odd" in channels


class EndedDataflow:
    """A dataflow that ends while the server begins."""

    run = None
    name = "ended"
    inspection = SimpleNamespace(nodes=[SimpleNamespace(id="camera", pid=1)])
    closed = False

    def ask(self, request: Any) -> Any:
        raise ConnectError(f"the dataflow has ended, and does not answer {request}")

    def machine_of(self, node_id: str) -> str:  # noqa: ARG002
        return ""

    def other_machines(self) -> list[str]:
        return []

    def connect(self, machine: str) -> Any:
        raise AssertionError(f"nothing is wanted of {machine}")

    def close(self) -> None:
        self.closed = True


def test_a_dataflow_that_ends_while_foxglove_begins_leaves_no_server(tmp_path: Path) -> None:
    dataflow: Any = EndedDataflow()
    port = free_port()
    with pytest.raises(ConnectError, match="the dataflow has ended"):
        LiveView(dataflow, f"127.0.0.1:{port}", str(tmp_path))
    assert dataflow.closed

    def refused() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED

    wait_until(refused, "the end of the server")


def test_no_more_requests_of_clients_wait_than_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dora.nodes.foxglove.server._MOST_WAITING", 2)
    server = FoxgloveServer("busy", f"127.0.0.1:{free_port()}", control=True)
    client: Any = None
    try:
        for gain in range(4):
            server.on_set_parameters(client, [Parameter("camera/gain", value=gain)])
        assert list(server._refusals) == [
            "parameters change faster than they can be set; a change was left out"
        ]
        assert server.take_requests() == [SetParameters({"camera/gain": gain}) for gain in range(2)]
        server.on_set_parameters(client, [Parameter("camera/gain", value=4)])
        assert len(server.take_requests()) == 1
    finally:
        server.close()


@pytest.mark.slow
@pytest.mark.processes
def test_messages_of_a_bag_that_cannot_be_read_are_left_out(folder: Path, start: Start) -> None:
    string = InterfaceLibrary(prefixes=[], distribution="kilted").message("std_msgs/String")
    messages = [string.encode({"data": f"{number}"}) for number in range(5)]
    messages[2] = b"\x00\x01\x00\x00\xff\xff\xff\xff"
    with Writer(folder / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        texts = {"/good": string.definition_text(), "/odd": "strange thing"}
        for topic, text in texts.items():
            connection = bag.add_connection(topic, f"a/msg/{topic[1:]}", msgdef=text, rihs01=string.hash)
            for number, data in enumerate(messages):
                bag.write(connection, 10**18 + number * 10**8, data)
    player = start("foxglove", "--recording", "bag", "--address", "0")
    with FoxgloveClient(player.address()) as client:
        client.play(1.0)

        def found() -> set[str]:
            return {json.loads(shown.data)["values"][0]["data"] for shown in client.shown["good"]}

        # The state of the player overtakes messages.
        client.wait(lambda: client.playback[0] == ENDED and "4" in found(), "end")
        assert found() == {"0", "1", "3", "4"}
        client.wait(lambda: any("of `good`: a received" in text for text in client.warnings), "warning")
    player.end()
    said = "".join(player.said)
    assert said.count("left out: the messages of `/odd` cannot be read") == 1
    assert said.count("of `good`: a received message is no") == 1


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"values": ' + b"[" * 100_000, b'["\\ud800"]', b"\xff"])
def test_a_text_that_is_no_array_is_refused(text: bytes) -> None:
    with pytest.raises(DoraError, match="a message for `a/b` cannot be sent: "):
        array_of(Published("a/b", text))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        ([1.5, None], "[1.5, null]"),
        ({"a": None}, '{"a": null}'),
        (2**63, "9223372036854775808"),
        ([-(2**63) - 1], "[-9223372036854775809]"),
        ({"a": {"b": [2**64]}}, '{"a": {"b": [18446744073709551616]}}'),
        ({"a": [1, {"b": "x"}]}, {"a": [1, {"b": "x"}]}),
        (-(2**63), -(2**63)),
        (True, True),
    ],
    ids=str,
)
def test_a_parameter_that_foxglove_has_no_form_for_is_its_json(value: Any, shown: Any) -> None:
    (found,) = _parameters({"camera/gain": value})
    assert (found.name, found.get_value()) == ("camera/gain", shown)


def test_an_address_that_cannot_be_used_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(DoraError, match=f"cannot be served at {address}: Address already in use"):
            check_address(address)
    for wrong in ("localhost:99999", "here:there"):
        with pytest.raises(DoraError, match=r"it has to be HOST:PORT, like 127\.0\.0\.1:8765"):
            check_address(wrong)
    with pytest.raises(DoraError, match=r"cannot be served at no\.such\.host\.invalid:1: "):
        check_address("no.such.host.invalid:1")


def test_a_missing_sdk_is_told_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from dora.nodes.installed import check_installed

    monkeypatch.setitem(sys.modules, "foxglove", None)
    with pytest.raises(DoraError, match=r"pip install 'foxglove-sdk>=0\.30,<1'"):
        check_installed("dora-foxglove")
