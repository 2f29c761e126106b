"""Dataflows of ``dora run``: commands find, show and stop them like those of a coordinator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ports import free_port
from waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.processes

NODE = "from dora import Node\nfor event in Node(): pass\n"
Dora = Callable[..., tuple[int, str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "DORA_RUNTIME_DIR": str(tmp_path / "run"),
        "DORA_DATA_DIR": str(tmp_path / "data"),
        "DORA_COORDINATOR_PORT": str(free_port()),
    }


@pytest.fixture
def dora(tmp_path: Path, environment: dict[str, str]) -> Dora:
    """Run a command; return its exit status and all that it prints."""

    def run(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "dora", *arguments],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
        )
        return done.returncode, done.stdout

    return run


@pytest.fixture
def arm(tmp_path: Path, environment: dict[str, str], dora: Dora) -> Iterator[subprocess.Popen[str]]:
    """The process of `dora run arm.yml`, whose node `joint` waits."""
    (tmp_path / "joint.py").write_text(NODE)
    (tmp_path / "arm.yml").write_text(
        "nodes: [{id: joint, path: joint.py, inputs: {tick: dora/timer/millis/50}}]"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "dora", "run", "arm.yml"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_until(lambda: "Running" in dora("node", "list")[1], "the running node")
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("wanted", ["arm", "arm.yml", "joint"])
def test_a_dataflow_is_stopped_by_its_name_its_file_or_a_node(
    dora: Dora, arm: subprocess.Popen[str], wanted: str
) -> None:
    status, text = dora("list", "--format", "json")
    assert status == 0, text
    listed = json.loads(text)
    assert (listed["name"], listed["status"], listed["nodes"]) == ("arm", "Running", 1)
    assert listed["memory"] > 0
    assert "joint" in dora("node", "list", "-d", wanted)[1]
    assert dora("stop", wanted) == (0, f"dataflow stopped: {listed['uuid']}\n")
    assert arm.wait(TIMEOUT) == 0
    status, text = dora("stop", wanted)
    assert status == 1
    assert "cannot connect to coordinator" in text


def test_the_only_dataflow_is_stopped_without_a_name_beside_a_coordinator(
    dora: Dora, arm: subprocess.Popen[str]
) -> None:
    assert dora("up")[0] == 0
    try:
        assert dora("list", "--quiet")[1].count("\n") == 1
        status, text = dora("stop", "--force")
        assert (status, text.partition(":")[0]) == (0, "dataflow stopped")
        arm.wait(TIMEOUT)
        assert dora("stop") == (0, "No dataflows are running.\n")
        assert dora("stop", "arm")[0] == 1
    finally:
        dora("down")
