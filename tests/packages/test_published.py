"""Published node packages, unchanged, in real dataflows. `make packages` runs these; they need PyPI.

The table in docs/compatibility.md has what was found; a test here names every package in it.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from place import values

pytestmark = [pytest.mark.packages, pytest.mark.processes, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
STILL_OURS = "import dora; print(dora.__file__, dora._lean)"  # dora-rs has no such module

VIDEO = """
import cv2, numpy
video = cv2.VideoWriter("clip.avi", cv2.VideoWriter_fourcc(*"MJPG"), 25, (320, 240))
for number in range(60):
    video.write(numpy.full((240, 320, 3), number * 4, numpy.uint8))
video.release()
"""


def test_pyarrow_sender_to_dora_echo_to_pyarrow_assert(place: Any) -> None:
    place.build(
        """
nodes:
  - id: sender
    build: pip install pyarrow-sender
    path: pyarrow-sender
    outputs: [data]
    env: {DATA: "[1, 2, 3]"}
  - id: echo
    build: pip install dora-echo
    path: dora-echo
    inputs: {data: sender/data}
    outputs: [data]
  - id: check
    build: pip install pyarrow-assert
    path: pyarrow-assert
    inputs: {data: echo/data}
    env: {DATA: "[1, 2, 3]"}
  - id: receiver
    path: receiver.py
    inputs: {data: echo/data}
"""
    )
    assert values(place.run()) == [[1, 2, 3]]
    assert "dora._lean" in place.python(STILL_OURS)
    assert "skipped" not in place.output and "3 of them with nothing" in place.build(
        (place.folder / "dataflow.yml").read_text()
    )


def test_a_value_that_pyarrow_assert_does_not_expect_fails_it(place: Any) -> None:
    place.build(
        """
nodes:
  - {id: sender, build: pip install pyarrow-sender, path: pyarrow-sender, outputs: [data], env: {DATA: "7"}}
  - id: check
    build: pip install pyarrow-assert
    path: pyarrow-assert
    inputs: {data: sender/data}
    env: {DATA: "8"}
"""
    )
    with pytest.raises(AssertionError, match="Node `check` exited with status 1"):
        place.run()


@pytest.mark.parametrize("options", [[], ["--uv"]], ids=["pip", "uv"])
def test_opencv_video_capture_and_opencv_plot(place: Any, options: list[str]) -> None:
    place.write("make_video.py", VIDEO)
    place.build(
        """
nodes:
  - {id: ticker, path: ticker.py, outputs: [tick]}
  - id: camera
    build: |
      pip install opencv-video-capture
      python make_video.py
    path: opencv-video-capture
    inputs: {tick: ticker/tick}
    outputs: [image]
    env: {CAPTURE_PATH: clip.avi, IMAGE_WIDTH: 160, IMAGE_HEIGHT: 120, ENCODING: rgb8}
  - id: plot
    build: pip install opencv-plot
    path: opencv-plot
    inputs: {image: camera/image}
    env: {CI: "true"}  # no window
  - id: receiver
    path: receiver.py
    inputs: {image: camera/image}
""",
        *options,
    )
    received = place.run(*options)
    assert values(received, "image") == [160 * 120 * 3] * 20
    assert received[0]["metadata"] == {
        "encoding": "rgb8", "height": 120, "primitive": "image", "width": 160,
    }  # fmt: skip


def test_dora_camera_opencv_which_wants_dora_rs_below_0_4(place: Any) -> None:
    place.build(
        """
nodes:
  - {id: ticker, path: ticker.py, outputs: [tick]}
  - id: camera
    build: pip install dora-camera-opencv
    path: dora-camera-opencv
    inputs: {tick: ticker/tick}
    outputs: [image]
    env: {IMAGE_WIDTH: 64, IMAGE_HEIGHT: 48, CAPTURE_PATH: none.avi, ENCODING: jpeg}
  - id: receiver
    path: receiver.py
    inputs: {image: camera/image}
"""
    )
    received = place.run()
    assert len(received) == 20 and received[0]["metadata"]["encoding"] == "jpeg"
    assert "dora._lean" in place.python(STILL_OURS)


def test_terminal_input_by_hand(place: Any) -> None:
    place.build(
        """
nodes:
  - id: terminal
    build: pip install terminal-input
    path: dynamic
    outputs: [data]
    inputs: {echo: echo/echo}
  - id: echo
    path: echo.py
    inputs: {data: terminal/data}
    outputs: [echo]
"""
    )
    place.write(
        "echo.py",
        "from dora import Node\n"
        "node = Node()\n"
        "print('ready')\n"
        "for event in node:\n"
        "    if event['type'] == 'INPUT':\n"
        "        node.send_output('echo', event['value'])\n"
        "        break\n",
    )
    run = place.popen("dora", "run", "dataflow.yml", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while "ready" not in run.stdout.readline():
        assert run.poll() is None
    typed = place.popen(
        "terminal-input", "--name", "terminal", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        typed.stdin.write("[4, 5]\n")
        typed.stdin.flush()
        printed = ""
        while "Received" not in printed:
            line = typed.stdout.readline()
            assert line, printed
            printed += line
        assert "Received: [4, 5]" in printed
        assert run.wait(60) == 0
    finally:
        for process in (run, typed):
            process.kill()
            process.wait()


def test_dora_parquet_recorder(place: Any) -> None:
    place.write(
        "sender.py",
        "import pyarrow as pa\n"
        "from dora import Node\n"
        "node = Node()\n"
        "for number in range(5):\n"
        "    node.send_output('data', pa.array([number] * 4, pa.uint8()), {'timestamp': number})\n",
    )
    place.build(
        """
nodes:
  - {id: sender, path: sender.py, outputs: [data]}
  - id: recorder
    build: pip install dora-parquet-recorder
    path: dora-parquet-recorder
    inputs: {data: sender/data}
    outputs: [status]
  - {id: receiver, path: receiver.py, inputs: {status: recorder/status}}
"""
    )
    assert values(place.run(), "status") == [["READY"]]
    rows = json.loads(
        place.python(
            "import json, pyarrow.parquet as pq\n"
            "rows = pq.read_table('data_logs/data.parquet').to_pylist()\n"
            "print(json.dumps([[list(row['data']), row['metadata']] for row in rows]))"
        )
    )
    assert rows == [[[number] * 4, json.dumps({"timestamp": number})] for number in range(5)]


def test_llama_factory_recorder(place: Any) -> None:
    place.write(
        "sender.py",
        "import numpy, pyarrow as pa, time\n"
        "from dora import Node\n"
        "node = Node()\n"
        "about = {'encoding': 'rgb8', 'width': 8, 'height': 4}\n"
        "node.send_output('image', numpy.zeros(96, numpy.uint8), about)\n"
        "time.sleep(0.5)\n"
        "node.send_output('truth', pa.array(['a cat']))\n",
    )
    (place.folder / "data").mkdir()
    place.build(
        """
nodes:
  - {id: sender, path: sender.py, outputs: [image, truth]}
  - id: recorder
    build: pip install llama-factory-recorder
    path: llama-factory-recorder
    inputs: {image: sender/image, ground_truth: sender/truth}
    outputs: [text]
    env: {LLAMA_FACTORY_ROOT_PATH: .}
"""
    )
    place.run()
    [entry] = (place.folder / "data" / "dora_demo.json").read_text().splitlines()
    assert [message["content"] for message in json.loads(entry)["messages"]] == [
        "<image>Describe this image",
        "a cat",
    ]
    assert (place.folder / "data" / json.loads(entry)["images"][0]).exists()


def test_replay_client_which_pins_dora_rs_0_3_5(place: Any) -> None:
    place.write(
        "make_episode.py",
        "import pandas\n"
        "pandas.DataFrame({'episode_index': [1] * 3, 'action': [[float(n)] * 2 for n in range(3)],"
        " 'joints': [['a', 'b']] * 3}).to_parquet('dataset.parquet')\n",
    )
    place.build(
        """
nodes:
  - {id: ticker, path: ticker.py, outputs: [tick]}
  - id: replay
    build: |
      pip install replay-client
      python make_episode.py
    path: replay-client
    inputs: {pull_position: ticker/tick}
    outputs: [position, end]
    env: {PATH: ., EPISODE: 1}
  - {id: receiver, path: receiver.py, inputs: {position: replay/position, end: replay/end}}
""",
        "--uv",
    )
    received = place.run("--uv")
    assert [value[0] for value in values(received, "position")] == [
        {"joints": "a", "values": float(number)} for number in range(3)
    ]
    assert values(received, "end") == [[]]


def test_lerobot_dashboard_which_pins_dora_rs_0_3_5(place: Any) -> None:
    place.build(
        """
nodes:
  - {id: ticker, path: ticker.py, outputs: [tick]}
  - id: dashboard
    build: pip install lerobot-dashboard
    path: lerobot-dashboard
    inputs: {tick: ticker/tick}
    outputs: [tick, episode, failed, end]
    env: {SDL_VIDEODRIVER: dummy, WINDOW_WIDTH: 64, WINDOW_HEIGHT: 48}
  - {id: receiver, path: receiver.py, inputs: {tick: dashboard/tick}}
""",
        "--uv",
    )
    assert values(place.run("--uv"), "tick") == [[]] * 20


def test_dora_openai_server_with_dora_echo(place: Any) -> None:
    place.build(
        """
nodes:
  - id: server
    build: pip install dora-openai-server
    path: dora-openai-server
    inputs: {v1/chat/completions: echo/echo}
    outputs: [v1/chat/completions]
  - id: echo
    path: echo.py
    inputs: {text: server/v1/chat/completions}
    outputs: [echo]
""",
        "--uv",
    )
    place.write(
        "echo.py",
        "from dora import Node\n"
        "node = Node()\n"
        "for event in node:\n"
        "    if event['type'] == 'INPUT':\n"
        "        node.send_output('echo', event['value'])\n",
    )
    run = place.popen("dora", "run", "dataflow.yml", "--uv", "--stop-after", "120s")
    question = {"model": "any", "messages": [{"role": "user", "content": "hello robot"}]}
    request = urllib.request.Request(
        "http://127.0.0.1:8000/v1/chat/completions",
        json.dumps(question).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(request, timeout=20) as reply:
                    answer = json.load(reply)
                break
            except OSError:
                assert time.monotonic() < deadline and run.poll() is None
                time.sleep(0.2)
        assert answer["choices"][0]["message"]["content"] == "hello robot"
    finally:
        run.terminate()
        run.wait(30)


def test_robot_stand_ins_of_openarm(place: Any) -> None:
    """A chain of five: camera → splitter, and arm → quitter → selector."""
    place.build(
        """
nodes:
  - {id: ticker, path: ticker.py, outputs: [tick]}
  - id: camera
    build: pip install dora-openarm-dummy-camera
    path: dora-openarm-dummy-camera
    inputs: {tick: ticker/tick}
    outputs: [image]
    env: {ENCODING: bgr8, IMAGE_WIDTH: 64, IMAGE_HEIGHT: 48, PATTERN: ball}
  - id: splitter
    build: pip install dora-opencv-image-splitter
    path: dora-opencv-image-splitter
    inputs: {image: camera/image}
    outputs: [image_0, image_1]
  - id: arm
    build: pip install dora-openarm-dummy
    path: dora-openarm-dummy
    inputs: {request_position: ticker/tick}
    outputs: [position, status]
  - id: quitter
    build: pip install dora-openarm-quitter
    path: dora-openarm-quitter
    inputs: {position: arm/position}
    outputs: [position]
  - id: selector
    build: pip install dora-openarm-selector
    path: dora-openarm-selector
    args: --sources arm
    inputs: {arm_position: quitter/position}
    outputs: [position, selected]
  - id: receiver
    path: receiver.py
    inputs: {left: splitter/image_0, right: splitter/image_1, position: selector/position}
"""
    )
    received = place.run()
    assert [len(values(received, name)) for name in ("left", "right", "position")] == [20, 20, 20]
    [left, *_] = [event for event in received if event["id"] == "left"]
    assert (left["metadata"]["width"], left["metadata"]["encoding"]) == (32, "jpeg")
    assert values(received, "position")[0] == [0.0] * 8


@pytest.mark.parametrize("package", ["dora-rav1e", "dora-openai-websocket", "dora-rustypot"])
def test_programs_in_rust_are_refused(place: Any, package: str) -> None:
    with pytest.raises(AssertionError, match=f"`{package}` is a program in Rust that speaks an old wire"):
        place.build(f"nodes: [{{id: a, build: pip install {package}, path: {package}}}]")


def test_the_table_names_what_is_tested_here() -> None:
    table = (ROOT / "docs" / "compatibility.md").read_text()
    installed: set[str] = set()
    for file in Path(__file__).parent.glob("test_*.py"):
        installed |= set(
            re.findall(r'(?:pip install |Case\(\s*")(?:--no-deps )?([a-z0-9-]+)', file.read_text())
        )
    installed.remove("httpx")  # a package that is installed without what it requires needs it
    assert sorted(name for name in installed if f"`{name}`" not in table) == []
