"""A process joins a running dataflow again and again, as a cell of a notebook does."""

from __future__ import annotations

import subprocess
import sys

import pytest
from flow import Flow
from waiting import TIMEOUT

pytestmark = pytest.mark.processes

TIMES = 12  # more than iceoryx2 has room for publishers of one output

TALKER = f"""
    from dora import Node

    node = Node()
    print("ready", flush=True)
    heard = []
    for event in node:
        if event["type"] == "INPUT" and event["id"] == "tick":
            node.send_output("image", bytes(100_000))
        elif event["type"] == "INPUT":
            heard.append(event.data.decode())
            if len(heard) == {TIMES}:
                break
    print(*heard, flush=True)
"""

VISITOR = f"""
from dora import Node, SendError

kept = []
for number in range({TIMES}):
    earlier = None if number == 0 else node
    node = Node("visitor")
    kept.append(next(event for event in node if event["type"] == "INPUT"))
    node.send_output("say", str(number).encode())
    if earlier is not None:
        assert earlier.next() is None
        try:
            earlier.send_output("say", b"too late")
        except SendError as error:
            print(error)
assert all(event.data == bytes(100_000) for event in kept)
"""


@pytest.mark.usefixtures("engine")
def test_a_node_replaces_the_one_before_in_its_process(flow: Flow) -> None:
    flow.node(
        "talker", TALKER, inputs={"tick": "dora/timer/millis/10", "say": "visitor/say"}, outputs=["image"]
    )
    flow.node("visitor", path="dynamic", inputs={"image": "talker/image"}, outputs=["say"])
    command = [sys.executable, "-u", "-m", "dora", "run", flow.write(), "--log-format", "compact"]
    dataflow = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert dataflow.stdout is not None
        next(line for line in dataflow.stdout if "talker: ready" in line)
        script = flow.file("visitor.py", VISITOR)
        visitor = subprocess.run(
            [sys.executable, script], cwd=flow.directory, capture_output=True, text=True, timeout=TIMEOUT
        )
        assert visitor.returncode == 0, visitor.stderr
        assert visitor.stdout.splitlines() == ["node `visitor` is closed"] * (TIMES - 1)
        rest, _ = dataflow.communicate(timeout=TIMEOUT)
        assert "talker: " + " ".join(map(str, range(TIMES))) in rest
        assert dataflow.returncode == 0
    finally:
        dataflow.kill()
        dataflow.wait()
