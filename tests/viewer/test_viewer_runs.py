"""The viewer in real dataflows: what a user who writes ``path: dora-rerun`` gets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from ports import free_port
from rrd import last, read

pytestmark = pytest.mark.processes
needs_rerun = pytest.mark.skipif(find_spec("rerun") is None, reason="rerun-sdk is not installed")

TIMEOUT = 60  # seconds, for a run that hangs
SENDER_TIMEOUT = 45  # seconds for what a sender waits for

SENDER = """
import numpy as np
import pyarrow as pa
from dora import Node

def metadata(primitive, **more):
    return {"primitive": primitive, **more}

with Node() as node:
    frame = np.full(12, 7, np.uint8)
    node.send_output("camera", frame, metadata("image", width=2, height=2, encoding="rgb8"))
    node.send_output("range", np.ones(4, np.float32), metadata("depth", width=2, height=2, focal=[5, 5]))
    node.send_output("words", pa.array(["hello"]), metadata("text"))
    boxes = [{"bbox": np.array([0, 0, 2, 4], np.float32), "conf": [0.9], "labels": ["cat"]}]
    node.send_output("found", pa.array(boxes), metadata("boxes2d", format="xyxy"))
    node.send_output("cubes", pa.array([0.0, 0, 0, 1, 1, 1]), metadata("boxes3d"))
    node.send_output("cut", np.ones(4, np.float32), metadata("masks", width=2, height=2))
    node.send_output("hand", pa.array([1.0, 2, 3, 0, 0, 0, 1]), metadata("pose"))
    for number in range(3):
        node.send_output("speed", pa.array([float(number)]), metadata("series"))
    node.send_output("cloud", pa.array([1.0, 2, 3]), metadata("points3d"))
    node.send_output("spots", pa.array([1.0, 2]), metadata("points2d"))
    node.send_output("track", pa.array([0.0, 0, 0, 1, 1, 1]), metadata("lines3d"))
    node.send_output("joints", pa.array([0.5]), metadata("jointstate", encoding="jointstate"))
    for _ in range(2):
        node.send_output("odd", pa.array([1]), metadata("smell"))
    node.send_output("short", frame, metadata("image", width=3, height=3))
"""
OUTPUTS = ["camera", "range", "words", "found", "cubes", "cut", "hand", "speed", "cloud", "spots", "track"]
OUTPUTS += ["joints", "odd", "short"]

ROBOT = """
<robot name="r"><link name="a"/><link name="b"/>
<joint name="j" type="continuous"><parent link="a"/><child link="b"/><axis xyz="0 0 1"/></joint></robot>
"""


def run(
    folder: Path,
    sender: str,
    *viewers: dict[str, Any],
    outputs: list[str],
    status: int = 0,
    **variables: str,
) -> str:
    """Run a sender and viewers that get all of its outputs; return what was printed."""
    (folder / "sender.py").write_text(sender)
    inputs = {output: {"source": f"sender/{output}", "queue_size": 100} for output in outputs}
    nodes = [{"id": "sender", "path": "sender.py", "outputs": outputs}]
    nodes += [
        {"id": f"viewer{number}", "path": "dora-rerun", "inputs": inputs, **viewer}
        for number, viewer in enumerate(viewers)
    ]
    (folder / "dataflow.yml").write_text(yaml.safe_dump({"nodes": nodes}))
    clean = {
        name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")
    }
    done = subprocess.run(
        [sys.executable, "-m", "dora", "run", "dataflow.yml"],
        cwd=folder,
        env={**clean, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


@needs_rerun
def test_all_sent_messages_are_saved(tmp_path: Path) -> None:
    (tmp_path / "robot.urdf").write_text(ROBOT)
    inputs = {("jointstate_robot" if name == "joints" else name): f"sender/{name}" for name in OUTPUTS}
    env = {"OPERATING_MODE": "SAVE", "README": "# Hello", "robot_urdf": "robot.urdf"}
    printed = run(tmp_path, SENDER, {"inputs": inputs, "env": env}, outputs=OUTPUTS)

    (path,) = tmp_path.glob("out/*/archive-*.rrd")
    assert path.stem == f"archive-{path.parent.name}"
    assert f"saving to {path.relative_to(tmp_path)}" in printed
    entities = read(path)
    assert last(entities, "README")["TextDocument:text"] == ["# Hello"]
    assert bytes(last(entities, "camera")["Image:buffer"][0]) == bytes([7] * 12)
    assert "timestamp" in entities["camera"][0]
    assert last(entities, "range")["Pinhole:resolution"] == [[2, 2]]
    assert last(entities, "range/raw")["DepthImage:meter"] == [1.0]
    assert last(entities, "words")["TextLog:text"] == ["hello"]
    assert last(entities, "found")["Boxes2D:labels"] == ["cat 90%"]
    assert last(entities, "cubes")["Boxes3D:half_sizes"] == [[1, 1, 1]]
    assert "SegmentationImage:buffer" in last(entities, "cut")
    assert last(entities, "hand")["Transform3D:translation"] == [[1, 2, 3]]
    assert [row["Scalars:scalars"] for row in entities["speed"]] == [[0], [1], [2]]
    assert last(entities, "cloud")["Points3D:positions"] == [[1, 2, 3]]
    assert last(entities, "spots")["Points2D:positions"] == [[1, 2]]
    assert last(entities, "track")["LineStrips3D:strips"] == [[[0, 0, 0], [1, 1, 1]]]
    assert last(entities, "robot/joints/0")["Transform3D:child_frame"] == ["robot/b"]

    assert printed.count("input `odd` cannot be shown: its `primitive` is `smell`") == 1
    assert "input `odd`: 2 messages were not shown" in printed
    assert "input `short` cannot be shown: an image of 3 × 3 in bgr8 has 27 bytes, and it has 12" in printed


@needs_rerun
def test_inputs_are_named_by_older_senders_and_the_file_can_be_chosen(tmp_path: Path) -> None:
    sender = """
import pyarrow as pa
from dora import Node
with Node() as node:
    node.send_output("text", pa.array(["hello"]))
    node.send_output("image", pa.array(bytes(12), pa.uint8()))
"""
    env = {"RERUN_SAVE": "made/here.rrd", "IMAGE_WIDTH": 2, "IMAGE_HEIGHT": 2}
    run(tmp_path, sender, {"env": env}, outputs=["text", "image"])
    entities = read(tmp_path / "made" / "here.rrd")
    assert {"text", "image"} <= entities.keys()


@needs_rerun
def test_a_page_is_served_and_another_viewer_connects(tmp_path: Path) -> None:
    """The sender waits for the page and for the gRPC server, which show while the dataflow runs."""
    grpc, web = free_port(), free_port()
    sender = f"""
import time, urllib.request
from dora import Node
with Node() as node:
    deadline = time.monotonic() + {SENDER_TIMEOUT}
    while True:
        try:
            print("page:", urllib.request.urlopen("http://127.0.0.1:{web}/", timeout=5).status)
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    node.send_output("text", b"hello")
"""
    address = f"127.0.0.1:{grpc}"
    printed = run(
        tmp_path,
        sender,
        {"env": {"OPERATING_MODE": "SERVE", "RERUN_SERVER_ADDR": address, "RERUN_WEB_PORT": web}},
        {"env": {"OPERATING_MODE": "CONNECT", "RERUN_SERVER_ADDR": address}},
        outputs=["text"],
    )
    assert "page: 200" in printed
    assert f"showing at http://localhost:{web}" in printed
    assert f"showing in the viewer at rerun+http://{address}/proxy" in printed


@needs_rerun
def test_a_viewer_joins_by_hand(tmp_path: Path) -> None:
    """The sender waits for the viewer, which reads from when it has joined."""
    sender = f"""
import os, subprocess, sys
from dora import Node
environ = dict(os.environ)
del environ["DORA_NODE_CONFIG"]
with Node() as node:
    command = [sys.executable, "-u", "-m", "dora.nodes.rerun", "viewer0"]
    viewer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ)
    for line in viewer.stderr:
        print("viewer says:", line.strip())
        node.send_output("text", b"hello")
        break
print("viewer ended with", viewer.wait({SENDER_TIMEOUT}))
"""
    printed = run(tmp_path, sender, {"path": "dynamic"}, outputs=["text"], RERUN_SAVE="x.rrd")
    assert "viewer says: saving to x.rrd" in printed
    assert "viewer ended with 0" in printed
    assert last(read(tmp_path / "x.rrd"), "text")["TextLog:text"] == ["hello"]


@needs_rerun
def test_a_port_in_use_and_a_missing_display_are_no_failures(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        served = {"OPERATING_MODE": "SERVE", "RERUN_SERVER_ADDR": f"127.0.0.1:{port}"}
        printed = run(tmp_path, SENDER, {"env": served}, outputs=OUTPUTS)
    assert f"port {port} is taken; choose another one with RERUN_SERVER_ADDR; nothing is shown" in printed


@needs_rerun
def test_a_robot_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    viewer = {"env": {"RERUN_SAVE": "x.rrd", "arm_urdf": "arm.urdf"}}
    printed = run(tmp_path, SENDER, viewer, outputs=OUTPUTS, status=1)
    assert f"error: arm_urdf: there is no file {tmp_path}/arm.urdf" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("module", "needs"),
    [
        ('raise ImportError("not here", name="rerun")', "Rerun is not installed; install it with"),
        ("print('another package of this name')", "Rerun is not installed; install it with"),
        (
            "RecordingStream = 1; __version__ = '0.24.1'",
            "Rerun 0.24.1 is too old: 0.32 or newer is needed;",
        ),
    ],
)
def test_a_missing_rerun_is_reported_with_the_package_to_install(
    tmp_path: Path, module: str, needs: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "rerun.py").write_text(module)
    path = str(tmp_path / "elsewhere")
    printed = run(tmp_path, SENDER, {}, outputs=OUTPUTS, status=1, PYTHONPATH=path)
    assert needs in printed
    assert "pip install 'rerun-sdk" in printed
    assert "Traceback" not in printed


def test_the_help_names_every_variable() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dora.nodes.rerun", "--help"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    source = Path(find_spec("dora.nodes.rerun").origin).parent / "settings.py"  # type: ignore[union-attr, arg-type]
    for variable in ("OPERATING_MODE", "RERUN_SERVER_ADDR", "RERUN_WEB_PORT", "RERUN_SAVE", "README"):
        assert variable in done.stdout
        assert variable in source.read_text()
