"""Dataflows of ``dora run``: commands find, show and stop them like those of a coordinator."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from on_terminal import on_terminal
from ports import free_port
from waiting import TIMEOUT, wait_until

from dora.cli import select
from dora.cli.log_location import find_log_location
from dora.cluster.client import Client
from dora.daemon.client import DaemonClient
from dora.errors import ConnectError

pytestmark = pytest.mark.processes

NODE = "from dora import Node\nfor event in Node(): pass\n"
Dora = Callable[..., tuple[int, str]]


@pytest.fixture
def environment(tmp_path: Path, runtime_root: str) -> dict[str, str]:
    # Without the port of a coordinator: `dora list` fails if one that is named is not there.
    others = {name: value for name, value in os.environ.items() if name != "DORA_COORDINATOR_PORT"}
    return {**others, "DORA_RUNTIME_DIR": runtime_root, "DORA_DATA_DIR": str(tmp_path / "data")}


@pytest.fixture
def dora(tmp_path: Path, environment: dict[str, str]) -> Dora:
    """Run a command; return its exit status and all that it prints."""

    def run(*arguments: str, folder: Path = tmp_path) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "dora", *arguments],
            cwd=folder,
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


@pytest.mark.slow
@pytest.mark.parametrize("wanted", ["arm", "arm.yml", "joint"])
def test_a_dataflow_is_stopped_by_its_name_its_file_or_a_node(
    dora: Dora, arm: subprocess.Popen[str], wanted: str, tmp_path: Path
) -> None:
    status, text = dora("list", "--format", "json")
    assert status == 0, text
    listed = json.loads(text)
    assert (listed["name"], listed["status"], listed["nodes"]) == ("arm", "Running", 1)
    assert listed["memory"] > 0
    assert "joint" in dora("node", "list", "-d", wanted)[1]
    assert dora("stop", wanted) == (0, f"dataflow stopped: {listed['uuid']} (arm in {tmp_path})\n")
    assert arm.wait(TIMEOUT) == 0
    status, text = dora("stop", wanted)
    assert status == 1
    assert "cannot connect to coordinator" in text


@pytest.mark.slow
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


def test_a_dataflow_of_another_folder_is_stopped_only_if_the_user_names_it(
    dora: Dora, arm: subprocess.Popen[str], tmp_path: Path, environment: dict[str, str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    uuid = dora("list", "--quiet")[1].strip()
    assert dora("stop", folder=elsewhere) == (
        1,
        "error: No dataflow of this folder is running. Specify one by NAME_OR_UUID:\n"
        f"  {uuid}  arm in {tmp_path}\n",
    )
    assert arm.poll() is None
    with on_terminal("stop", cwd=elsewhere, env=environment) as command:
        command.read_until(lambda text: "Which dataflow" in text)
        assert "No dataflow of this folder is running, but others are:" in command.text
        command.type("1\n")
        assert command.end() == 0
    assert f"dataflow stopped: {uuid} (arm in {tmp_path})" in command.text
    assert arm.wait(TIMEOUT) == 0


def test_a_dataflow_below_this_folder_is_stopped_beside_one_elsewhere(
    dora: Dora, arm: subprocess.Popen[str], tmp_path: Path, environment: dict[str, str]
) -> None:
    below = tmp_path / "project" / "flows"
    below.mkdir(parents=True)
    for name in ("joint.py", "arm.yml"):
        shutil.copy(tmp_path / name, below)
    second = subprocess.Popen([sys.executable, "-m", "dora", "run", "arm.yml"], cwd=below, env=environment)
    try:
        wait_until(lambda: dora("list", "--quiet")[1].count("\n") == 2, "two dataflows")
        status, text = dora("stop", folder=below.parent)
        assert (status, text.endswith(f"(arm in {below})\n")) == (0, True), text
        assert second.wait(TIMEOUT) == 0
        assert arm.poll() is None
    finally:
        second.kill()
        second.wait()


def test_logs_are_followed_while_a_run_is_suspended(
    arm: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DORA_COORDINATOR_PORT", raising=False)
    logs = find_log_location(Client("127.0.0.1", free_port()), "arm")
    arm.send_signal(signal.SIGSTOP)
    assert not logs.ended()
    arm.send_signal(signal.SIGCONT)
    assert not logs.ended()
    arm.send_signal(signal.SIGINT)
    wait_until(logs.ended, "the end of the dataflow")


def test_a_dataflow_that_does_not_answer_is_not_called_stopped(
    arm: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DORA_COORDINATOR_PORT", raising=False)
    (run,) = select.foreground_runs("arm")
    monkeypatch.setattr(select, "foreground_runs", lambda _: [run])

    def ask(*_: object) -> None:
        raise ConnectError("the daemon does not answer")

    monkeypatch.setattr(DaemonClient, "ask", ask)
    with pytest.raises(ConnectError, match="does not answer"):
        select.stop_foreground("arm", None, force=False)
    assert arm.poll() is None
