"""The coordinator's machine is cut off, while the links between the other machines work."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster_system import DORA, Spread, spread_over
from hosts import network
from rounds import ROUNDS
from waiting import wait_until

from dora.cluster.agent.connection import PING_TIMEOUT
from dora.cluster.coordinator.api import SILENCE_TIMEOUT
from dora.cluster.coordinator.fleet import FORGET_AFTER, LOST_AFTER

pytestmark = pytest.mark.processes

NODES = {
    "count.py": """
        import os
        import pyarrow as pa
        from dora import Node

        node, number, event = Node(), 0, None
        while not os.path.exists("enough") and (event is None or event["type"] != "STOP"):
            node.send_output("number", pa.array([number]))
            number += 1
            event = node.next(timeout=0.005)
        print("sent", number, flush=True)
    """,
    "take.py": """
        import time
        from dora import Node

        node, taken, written, others = Node(), 0, 0.0, []
        for event in node:
            if event["type"] == "INPUT":
                assert event["value"][0].as_py() == taken
                taken += 1
                if time.monotonic() - written > 0.1:
                    written = time.monotonic()
                    open("progress", "w").write(str(taken))
            else:
                others.append(event["type"])
        print("took", taken, others, flush=True)
    """,
}
DATAFLOW = """
    nodes:
      - {id: count, path: count.py, outputs: [number], deploy: {machine: left}}
      - id: take
        path: take.py
        deploy: {machine: right}
        inputs: {number: {source: count/number, queue_size: 100, queue_policy: backpressure}}
"""


@pytest.fixture
def system(namespaces: None, tmp_path: Path) -> Iterator[Spread]:  # noqa: ARG001
    with network("desk", "left", "right") as hosts, spread_over(hosts, tmp_path) as system:
        system.write({**NODES, "flow.yml": DATAFLOW})
        yield system


def progress(system: Spread) -> int:
    try:
        return int((system.folder / "progress").read_text() or 0)
    except OSError:
        return 0


def goes_on(system: Spread, seconds: float) -> None:
    """Check for this long that messages arrive, some every few seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        before = progress(system)
        wait_until(lambda before=before: progress(system) > before, lambda: "messages")  # type: ignore[misc]


def nodes(system: Spread) -> dict[str, int]:
    """Return the process of each node."""
    found = {}
    for name in ("left", "right"):
        for pid in system.hosts[name].pids():
            try:
                words = psutil.Process(pid).cmdline()
            except psutil.Error:
                continue
            found |= {script: pid for script in NODES if any(word.endswith(script) for word in words)}
    return found


def start(system: Spread) -> tuple[str, dict[str, int]]:
    dataflow = system.start("flow.yml")
    wait_until(lambda: progress(system), lambda: f"messages: {system.logs(dataflow)}")
    running = nodes(system)
    assert set(running) == set(NODES)
    return dataflow, running


def wait_for_the_daemons_to_notice(system: Spread) -> None:
    for name in ("left", "right"):
        wait_until(
            lambda name=name: "no connection to the coordinator" in system.said(name),  # type: ignore[misc]
            lambda: "the daemons to notice",
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "seconds",
    [
        PING_TIMEOUT + SILENCE_TIMEOUT + LOST_AFTER,
        pytest.param(
            min(FORGET_AFTER + 30.0, max(3.0 * ROUNDS, 20.0)),
            marks=[pytest.mark.stress, pytest.mark.timeout(900)],
            id="longest",
        ),
    ],
)
def test_nodes_whose_links_work_outlive_a_cut_to_the_coordinator(system: Spread, seconds: float) -> None:
    dataflow, running = start(system)
    system.first.cut()
    try:
        wait_for_the_daemons_to_notice(system)
        goes_on(system, seconds)
    finally:
        system.first.restore()
    system.wait_for_machines("left", "right")
    assert system.status(dataflow) == "Running"
    assert nodes(system) == running
    goes_on(system, 1.0)
    (system.folder / "enough").touch()
    system.wait_for(dataflow, "Finished")
    logs = system.logs(dataflow)
    sent = logs.partition("sent ")[2].split()[0]
    assert f"took {sent} ['INPUT_CLOSED'" in logs, logs


@pytest.mark.slow
def test_a_dataflow_is_stopped_after_a_cut_to_the_coordinator(system: Spread) -> None:
    dataflow, running = start(system)
    system.first.cut()
    wait_for_the_daemons_to_notice(system)
    goes_on(system, SILENCE_TIMEOUT)
    system.first.restore()
    system.wait_for_machines("left", "right")
    assert nodes(system) == running
    system.dora("stop", dataflow)
    assert system.status(dataflow) == "Finished"
    assert "NODE_FAILED" not in system.logs(dataflow)


def stopping(system: Spread, dataflow: str) -> Any:
    """Begin to stop a dataflow; return the process of the command, for a ``with``."""
    return system.first.popen(
        [*DORA, "stop", dataflow],
        env=system.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_a_dataflow_that_is_stopped_meanwhile_ends_when_the_machine_is_back(system: Spread) -> None:
    dataflow, _ = start(system)
    right = system.hosts["right"]
    right.cut()
    wait_until(lambda: system.machines()["right"]["status"] == "not connected", lambda: "the cut")
    with stopping(system, dataflow) as stop:
        assert "machine `right` is out of reach; its nodes end when it is back" in stop.stdout.readline()
        wait_until(lambda: set(nodes(system)) == {"take.py"}, lambda: f"`left` to stop: {nodes(system)}")
        right.restore()
        printed, _ = stop.communicate(timeout=60.0)
    assert stop.returncode == 0, printed
    assert not nodes(system)
    assert system.status(dataflow) == "Finished"


@pytest.mark.slow
def test_a_stop_says_that_a_machine_is_out_of_reach_when_that_is_noticed(system: Spread) -> None:
    dataflow, _ = start(system)
    right = system.hosts["right"]
    right.cut()
    with stopping(system, dataflow) as stop:
        assert "machine `right` is out of reach; its nodes end when it is back" in stop.stdout.readline()
        right.restore()
        printed, _ = stop.communicate(timeout=60.0)
    assert stop.returncode == 0, printed
    assert "out of reach" not in printed, "it says so once"


@pytest.mark.slow
def test_a_machine_that_is_given_up_ends_its_nodes_when_it_is_back(system: Spread) -> None:
    dataflow, _ = start(system)
    right = system.hosts["right"]
    right.cut()
    wait_until(lambda: system.machines()["right"]["status"] == "not connected", lambda: "the cut")
    printed = system.dora("stop", "--force", dataflow, status=None)
    killed = "Node `count` was killed because the dataflow had to end at once" in printed
    right.restore()
    wait_until(lambda: not nodes(system), lambda: f"the end of the nodes: {nodes(system)}")
    system.wait_for_machines("right")
    # It may end by itself in the time that the daemon takes to kill it.
    assert system.status(dataflow) == ("Failed" if killed else "Finished")


@pytest.mark.slow
def test_a_new_coordinator_takes_over_what_ran_meanwhile(system: Spread) -> None:
    dataflow, running = start(system)
    system.first.cut()
    wait_for_the_daemons_to_notice(system)
    os.kill(system.processes["coordinator"].pid, 9)
    system.processes["coordinator"].wait()
    system.first.restore()
    system.start_coordinator()
    system.wait_for_machines("left", "right")
    assert system.status(dataflow) == "Running"
    assert nodes(system) == running
    goes_on(system, 1.0)
    system.dora("stop", dataflow)


@pytest.mark.slow
def test_without_a_coordinator_the_daemon_ends_its_nodes(system: Spread) -> None:
    start(system)
    system.first.cut()
    wait_for_the_daemons_to_notice(system)
    for name in ("left", "right"):
        host = system.hosts[name]
        host.run(["kill", str(system.processes[name].pid)])
        system.processes[name].wait(60.0)
    assert not nodes(system)
