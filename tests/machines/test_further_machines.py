"""Dataflows that get a further machine while they run, and leave one, in network namespaces."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from changing_machines import (
    DATAFLOW,
    PRESSED,
    all_get_everything,
    outlasts_a_cut,
    said_by,
    start_and_wait,
    until_the_test_ends,
    wait_for_nodes,
    whole,
)
from cluster_system import DORA, Spread
from waiting import wait_until

pytestmark = pytest.mark.processes

ECHO = (
    "{id: echo, path: echo.py, outputs: [out], inputs: {in: {source: count/out, queue_size: 1000}}, "
    "deploy: {machine: third}}"
)


@pytest.fixture
def system(three_machines: Spread) -> Iterator[Spread]:
    three_machines.write({"echo.yml": ECHO})
    yield from until_the_test_ends(three_machines)


def add(system: Spread, file: str = "echo.yml", status: int = 0) -> str:
    return system.dora("node", "add", "--from-yaml", file, status=status)


def places(system: Spread, dataflow: str) -> dict[str, str]:
    """Return where the nodes of a dataflow are."""
    rows = [row.split() for row in system.dora("node", "list", "-d", dataflow).splitlines()[1:]]
    return {row[0]: row[2] for row in rows}


def wait_until_it_has_left(system: Spread, machine: str = "third") -> None:
    """Wait until nothing of any dataflow is on a machine: no process, no folder of a run."""
    host = system.hosts[machine]

    def is_gone() -> bool:
        is_running = any("dora.cluster.agent.worker" in command_of(pid) for pid in host.pids())
        return not is_running and not any(path.is_dir() for path in (host.folder / "run").glob("*"))

    wait_until(is_gone, lambda: f"`{machine}` to leave: {system.said(machine)}")


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def kill_daemon(system: Spread, machine: str) -> None:
    os.kill(system.processes[machine].pid, signal.SIGKILL)
    system.processes[machine].wait()


@pytest.mark.slow
def test_a_machine_gets_its_first_node_and_loses_its_last(system: Spread, running: str) -> None:
    for times in (1, 2):
        assert add(system) == f"Node `echo` added to dataflow {running}\n"
        assert places(system, running)["echo"] == "third"
        for node in ("near", "far"):
            system.dora("node", "connect", "echo/out", f"{node}/back", *PRESSED)
            said_by(system, running, node, "back begins with", times)
        system.dora("node", "remove", "echo")
        for node in ("near", "far"):
            whole(system, running, node, "back", times)
        wait_until_it_has_left(system)
        wait_for_nodes(system, running, "count", "near", "far")
    kill_daemon(system, "third")  # which is nothing to the dataflow
    all_get_everything(system, running)
    system.start_daemon("third")
    system.wait_for_machines("third")


@pytest.mark.slow
def test_nodes_of_a_joined_machine_belong_to_the_dataflow(system: Spread, running: str) -> None:
    """Its end of stream, its counts, its log, its part of a restart of the node and of the whole."""
    system.write(
        {
            "sink.yml": "{id: sink, path: collect.py, deploy: {machine: third}, "
            "inputs: {numbers: {source: count/out, queue_size: 3, queue_policy: backpressure}}}"
        }
    )
    add(system)
    add(system, "sink.yml")
    third = system.hosts["third"]
    system.dora("node", "restart", "echo", host=third)
    system.dora("node", "connect", "echo/out", "sink/back", "--queue-size", "1000", host=third)
    said_by(system, running, "sink", "back begins with")
    said_by(system, running, "sink", "numbers begins with")
    printed = system.dora("restart", running)
    again = re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]+){4}", printed)[-1]
    assert places(system, again) == {
        "count": "left",
        "near": "left",
        "far": "right",
        "echo": "third",
        "sink": "third",
    }
    said_by(system, again, "sink", "back begins with")
    all_get_everything(system, again)
    last = int(said_by(system, again, "count", "sent ").split()[0]) - 1
    assert whole(system, again, "sink", "numbers") == f"0 to {last}"
    wait_until_it_has_left(system)


@pytest.mark.slow
def test_a_stop_reaches_the_further_machine(system: Spread, running: str) -> None:
    add(system)
    system.dora("stop", running)
    assert system.status(running) == "Finished"
    wait_until_it_has_left(system)


@pytest.mark.slow
def test_logs_of_a_joined_machine_reach_the_coordinator(system: Spread) -> None:
    system.background(system.first, "second", "daemon", "--machine-id", "second")
    try:
        system.wait_for_machines("second")
        system.write({"here.yml": DATAFLOW.replace("right", "second")})
        dataflow = start_and_wait(system, "here.yml")
        system.write(
            {
                "words.yml": "{id: words, path: collect.py, inputs: {in: count/out}, "
                "deploy: {machine: third}}"
            }
        )
        third = system.hosts["third"]  # the first one has two parts of it
        system.dora("node", "add", "--from-yaml", "words.yml", "-d", dataflow, host=third)
        said_by(system, dataflow, "words", "in begins with")
        all_get_everything(system, dataflow)
        said_by(system, dataflow, "words", "in is closed")
    finally:
        system.processes["second"].terminate()
        system.processes["second"].wait()


# --------------------------------------------------------------------------- from one machine to several


ALONE = DATAFLOW.replace("right", "left")


@pytest.fixture
def alone(system: Spread) -> str:
    """The UUID of a dataflow on `left` alone."""
    system.write({"alone.yml": ALONE})
    return start_and_wait(system, "alone.yml")


@pytest.mark.slow
def test_a_running_dataflow_spreads_to_a_second_and_a_third_machine(system: Spread, alone: str) -> None:
    own = "{id: own, path: echo.py, outputs: [out], inputs: {in: {source: count/out, queue_size: 1000}}}"
    system.write({"own.yml": own})
    system.dora("node", "add", "--from-yaml", "own.yml")  # as long as it is on one machine
    system.dora("param", "set", "near", "gain", "2")
    assert add(system) == f"Node `echo` added to dataflow {alone}\n"
    system.write({"right.yml": ECHO.replace("echo,", "other,").replace("third", "right")})
    add(system, "right.yml")
    for source, target in (("echo/out", "near/back"), ("other/out", "far/back")):
        system.dora("node", "connect", source, target, *PRESSED)
        said_by(system, alone, target.partition("/")[0], "back begins with")
    system.dora("node", "connect", "own/out", "far/own", "--queue-size", "1000")
    system.dora("node", "remove", "own")
    for source, target in (("echo/out", "near/back"), ("other/out", "far/back")):
        system.dora("node", "disconnect", source, target)
        whole(system, alone, target.partition("/")[0], "back")
    assert places(system, alone) == {
        **dict.fromkeys(("count", "near", "far"), "left"),
        "echo": "third",
        "other": "right",
    }
    system.dora("node", "remove", "other")
    wait_until_it_has_left(system, "right")
    printed = system.dora("restart", alone)
    again = re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]+){4}", printed)[-1]
    assert places(system, again)["echo"] == "third"
    assert "2" in system.dora("param", "get", "near", "gain", "-d", again)
    (system.folder / "enough").touch()
    system.wait_for(again, "Finished")


@pytest.mark.slow
def test_a_dataflow_that_returns_to_one_machine_loses_nothing(system: Spread, alone: str) -> None:
    system.write({"new.yml": ECHO.replace("echo.py", "nothing.py")})
    assert "there is no file" in add(system, "new.yml", 1)
    wait_until_it_has_left(system)
    system.write({"own.yml": "{id: own, path: echo.py, outputs: [out], inputs: {in: count/out}}"})
    add(system, "own.yml")
    assert "own" in system.dora("node", "list", "--quiet", "-d", alone).split()
    system.dora("node", "remove", "own")
    for _ in range(2):
        add(system)
        wait_for_nodes(system, alone, "count", "near", "far", "echo")
        system.dora("node", "remove", "echo")
        wait_until_it_has_left(system)
    system.dora("node", "connect", "count/out", "near/again", "--queue-size", "1000")
    said_by(system, alone, "near", "again begins with")
    all_get_everything(system, alone)


@pytest.mark.slow
def test_logs_of_a_second_machine_are_collected(system: Spread, alone: str) -> None:
    system.write(
        {"words.yml": "{id: words, path: collect.py, inputs: {in: count/out}, deploy: {machine: third}}"}
    )
    add(system, "words.yml")
    said_by(system, alone, "words", "in begins with")
    all_get_everything(system, alone)
    assert system.logs(alone).count("words: in begins with") == 1, "the folder is shared by all machines"
    said_by(system, alone, "words", "in is closed")
    wait_until_it_has_left(system)


@pytest.mark.slow
def test_a_coordinator_that_is_killed_knows_of_the_second_machine(system: Spread, alone: str) -> None:
    add(system)
    kill_daemon(system, "coordinator")
    system.start_coordinator()
    system.wait_for_machines("left", "right", "third")
    wait_for_nodes(system, alone, "count", "near", "far", "echo")
    system.write({"right.yml": ECHO.replace("echo,", "other,").replace("third", "right")})
    add(system, "right.yml")
    for source, target in (("echo/out", "near/back"), ("other/out", "far/back")):
        system.dora("node", "connect", source, target, *PRESSED)
        said_by(system, alone, target.partition("/")[0], "back begins with")
    all_get_everything(system, alone)


@pytest.mark.slow
def test_the_second_machine_is_lost(system: Spread, alone: str) -> None:
    add(system)
    system.dora("node", "connect", "echo/out", "near/back", "--queue-size", "1000")
    said_by(system, alone, "near", "back begins with")
    kill_daemon(system, "third")
    said_by(system, alone, "near", "NODE_FAILED echo")
    system.start_daemon("third")
    system.wait_for_machines("third")
    system.dora("node", "remove", "echo")
    system.dora("node", "restart", "far")
    (system.folder / "enough").touch()
    system.wait_for(alone, "Failed")
    number = int(said_by(system, alone, "count", "sent ").split()[0])
    assert whole(system, alone, "near", "numbers") == f"0 to {number - 1}"


# --------------------------------------------------------------------------- when something goes wrong


@pytest.mark.slow
def test_a_node_that_cannot_start_there_leaves_nothing_behind(system: Spread, running: str) -> None:
    system.write(
        {"cannot.sh": "#!/no/such/interpreter\n", "new.yml": ECHO.replace("echo.py", "nothing.py")}
    )
    (system.folder / "cannot.sh").chmod(0o755)
    assert "there is no file" in add(system, "new.yml", 1)
    wait_until_it_has_left(system)
    system.write({"new.yml": ECHO.replace("echo.py", "./cannot.sh")})
    assert "node `echo` could not be started: " in add(system, "new.yml", 1)
    wait_until_it_has_left(system)
    wait_for_nodes(system, running, "count", "near", "far")
    add(system)
    all_get_everything(system, running)


@pytest.mark.slow
def test_a_machine_that_is_cut_off_does_not_join(system: Spread, running: str) -> None:
    third = system.hosts["third"]
    third.cut()
    try:
        assert "the connection to machine `third` broke during the change, and nothing was changed" in add(
            system, status=1
        )
        assert "node `echo` is for machine `third`, which is not connected now" in add(system, status=1)
    finally:
        third.restore()
    system.wait_for_machines("third")
    wait_for_nodes(system, running, "count", "near", "far")
    wait_until_it_has_left(system)
    add(system)
    all_get_everything(system, running)


BUILDS = f"""
id: echo
path: echo.py
outputs: [out]
inputs: {{in: count/out}}
deploy: {{machine: third}}
build: {sys.executable} build.py
"""
BUILD = """
import os, time

open("building", "w").close()
while not os.path.exists("may-go"):
    time.sleep(0.02)
"""


@pytest.fixture
def joining(system: Spread, running: str) -> Iterator[subprocess.Popen[str]]:
    """A command that adds `echo`, while `third` has joined and builds."""
    for name in ("building", "may-go"):
        (system.folder / name).unlink(missing_ok=True)
    system.write({"builds.yml": BUILDS, "build.py": BUILD})
    command = [*DORA, "node", "add", "--from-yaml", "builds.yml", "-d", running]
    process = system.first.popen(
        command,
        env=system.env,
        cwd=system.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_until((system.folder / "building").exists, lambda: f"the build: {system.said('third')}")
    yield process
    (system.folder / "may-go").touch()
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "cut off"])
def test_a_machine_lost_while_joining_changes_nothing(
    system: Spread, running: str, joining: subprocess.Popen[str], how: str
) -> None:
    third = system.hosts["third"]
    if how == "killed":
        kill_daemon(system, "third")
    else:
        third.cut()
    try:
        printed, _ = joining.communicate(timeout=60)
        assert (
            joining.returncode,
            "the connection to machine `third` broke during the change" in printed,
        ) == (
            1,
            True,
        )
    finally:
        third.restore()
        if how == "killed":
            system.start_daemon("third")
    (system.folder / "may-go").touch()
    system.wait_for_machines("third")
    wait_until_it_has_left(system)
    wait_for_nodes(system, running, "count", "near", "far")
    add(system)
    all_get_everything(system, running)


@pytest.mark.slow
@pytest.mark.usefixtures("joining")
def test_a_coordinator_that_is_killed_while_a_machine_joins(system: Spread, running: str) -> None:
    kill_daemon(system, "coordinator")
    (system.folder / "may-go").touch()
    system.start_coordinator()
    system.wait_for_machines("left", "right", "third")
    wait_until_it_has_left(system)
    wait_for_nodes(system, running, "count", "near", "far")
    add(system)
    system.dora("node", "connect", "echo/out", "near/back", "--queue-size", "1000")
    said_by(system, running, "near", "back begins with")
    all_get_everything(system, running)


@pytest.mark.slow
def test_a_further_machine_is_cut_off_and_comes_back(system: Spread, running: str) -> None:
    options = ("--queue-policy", "backpressure", "--queue-size", "3")
    waits = ECHO.replace("queue_size: 1000", "queue_size: 3, queue_policy: backpressure")
    system.write({"waits.yml": waits})
    add(system, "waits.yml")
    system.dora("node", "connect", "echo/out", "near/back", *options)
    said_by(system, running, "near", "back begins with")
    outlasts_a_cut(system, running, "third")
    whole(system, running, "near", "back")


@pytest.mark.slow
def test_a_further_machine_is_lost_and_gets_a_node_again(system: Spread, running: str) -> None:
    add(system)
    system.dora("node", "connect", "echo/out", "near/back", "--queue-size", "1000")
    said_by(system, running, "near", "back begins with")
    kill_daemon(system, "third")
    said_by(system, running, "near", "NODE_FAILED echo")
    system.start_daemon("third")
    system.wait_for_machines("third")
    system.write({"other.yml": ECHO.replace("id: echo", "id: other")})
    assert (
        "machine `third` is lost to the dataflow, with the nodes that it had; take these out "
        "(`dora node remove echo`), and it can get others"
    ) in add(system, "other.yml", 1)
    system.dora("node", "remove", "echo")
    add(system)
    system.dora("node", "connect", "echo/out", "far/back", "--queue-size", "1000")
    said_by(system, running, "far", "back begins with")
    (system.folder / "enough").touch()
    system.wait_for(running, "Failed")  # as it has lost a machine
    whole(system, running, "far", "back")
    number = int(said_by(system, running, "count", "sent ").split()[0])
    assert whole(system, running, "near", "numbers") == f"0 to {number - 1}"
