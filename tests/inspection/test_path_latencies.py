"""The latencies of paths, as observers of a running dataflow see them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from watching import Running, dora, wait_until

from dora.daemon.client import running as running_dataflows
from dora.observe.metrics import collect_metrics

pytestmark = pytest.mark.processes

CHAIN = """
nodes:
  - id: camera
    path: camera.py
    inputs: {tick: dora/timer/millis/10}
    outputs: [image]
  - id: detector
    path: detector.py
    inputs: {image: camera/image}
    outputs: [boxes]
  - id: motor
    path: motor.py
    inputs: {command: detector/boxes}
"""
SEND = """
from dora import Node
node = Node()
for event in node:
    if event["type"] == "INPUT":
        node.send_output("%s", b"x")
"""
SLOW = """
import time
from dora import Node
node = Node()
for event in node:
    if event["type"] == "INPUT":
        time.sleep(0.003)
        node.send_output("boxes", b"x")
"""


def test_observers_see_how_long_data_takes_to_each_input(running: Running) -> None:
    running.program("camera.py", SEND % "image")
    running.program("detector.py", SLOW)
    running.program("motor.py", "from dora import Node\nfor event in Node():\n    pass\n")
    running(CHAIN)

    def paths() -> dict[tuple[str, str], dict[str, Any]] | None:
        nodes = json.loads(dora("top", "--once", "--refresh-interval", "0.5").stdout)
        found = {(path["source"], path["sink"]): path for node in nodes for path in node["paths"]}
        return found if len(found) == 2 and all(path["messages"] > 20 for path in found.values()) else None

    found = wait_until(paths, "messages at both inputs")
    whole, part = found["camera/image", "motor/command"], found["camera/image", "detector/image"]
    assert 2.8 < whole["median_ms"] <= whole["p99_ms"] <= whole["worst_ms"]
    # A median is the bound of an interval, and on a busy machine both may lie in the same one.
    assert 0 < part["median_ms"] <= whole["median_ms"]
    (run,) = list(running_dataflows())
    with run:
        metrics = collect_metrics(run)
    assert {(path.source, path.sink) for path in metrics.paths} == set(found)
    assert all(path.messages >= found[path.source, path.sink]["messages"] for path in metrics.paths)
