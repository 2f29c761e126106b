"""Nodes with Python environments of their own: static, restarted, dynamic, and runtimes of operators."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

pytestmark = [pytest.mark.packages, pytest.mark.processes, pytest.mark.timeout(900)]

SHOW = """
import cowsay, numpy, pyarrow as pa
from dora import Node

node = Node("shown")
node.send_output("version", pa.array([numpy.__version__[0], cowsay.__name__]))
"""

FAILS_ONCE = """
# /// script
# dependencies = ["cowsay"]
# ///
import cowsay, os, sys
from dora import Node

node = Node()
if not os.path.exists("failed"):
    open("failed", "w").close()
    sys.exit(3)
node.send_output("version", cowsay.__name__.encode())
"""

OPERATOR = """
import numpy, pyarrow as pa
from dora import DoraStatus

class Operator:
    def on_event(self, event, send_output):
        if event["type"] == "INPUT":
            send_output("version", pa.array([numpy.__version__[0]]))
        return DoraStatus.CONTINUE
"""

DATAFLOW = """
nodes:
  - id: shown
    path: show.py
    outputs: [version]
    python: {requirements: [cowsay, "numpy<2"]}
  - id: restarted
    path: fails_once.py
    outputs: [version]
    restart_policy: on-failure
  - id: operator
    operator:
      python: shows.py
      inputs: {version: shown/version}
      outputs: [version]
    python: {requirements: ["numpy>=2"]}
  - id: receiver
    path: receiver.py
    inputs: {shown: shown/version, restarted: restarted/version, operator: operator/version}
"""


def test_every_kind_of_node_has_what_it_asked_for(place: Any) -> None:
    place.write("show.py", SHOW)
    place.write("fails_once.py", FAILS_ONCE)
    place.write("shows.py", OPERATOR)
    place.build(DATAFLOW)
    received = {event["id"]: event["value"] for event in place.run()}
    assert received == {"shown": ["1", "cowsay"], "restarted": list(b"cowsay"), "operator": ["2"]}


def test_a_dynamic_node_is_started_with_the_python_that_was_made(place: Any) -> None:
    place.write("show.py", SHOW)
    place.write(
        "ready.py",
        "from dora import Node\nnode = Node()\nprint('ready')\nfor event in node: print(event)\n",
    )
    place.build(
        """
nodes:
  - id: shown
    path: dynamic
    outputs: [version]
    python: {requirements: [cowsay, "numpy<2"]}
  - {id: ready, path: ready.py, inputs: {version: shown/version}}
"""
    )
    [python] = place.folder.glob(".dora/python-envs/shown-*/bin/python")
    run = place.popen("dora", "run", "dataflow.yml", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        while "ready" not in run.stdout.readline():
            assert run.poll() is None
        subprocess.run([python, "show.py"], cwd=place.folder, env=place.environ(), check=True, timeout=60)
        assert "cowsay" in run.communicate(timeout=60)[0] and run.returncode == 0
    finally:
        run.kill()
        run.wait()


def test_what_cannot_be_solved_is_said_in_one_message(place: Any) -> None:
    with pytest.raises(AssertionError) as caught:
        place.build("nodes: [{id: a, path: dynamic, python: {requirements: [numpy<2, numpy>=2]}}]")
    assert "with `numpy<2`, `numpy>=2` cannot be made: its packages cannot be had" in str(caught.value)
    assert "No solution found" in str(caught.value)
