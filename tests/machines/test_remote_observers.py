"""Looks from one machine into another, in network namespaces: what is seen, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from cluster_system import DORA, Spread, spread_over
from hosts import Host, network
from waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.processes

NODES = {
    "camera.py": """
        import time
        import pyarrow as pa
        from dora import Node

        node = Node()
        print("camera is there", flush=True)
        index = 0
        while True:
            event = node.next(timeout=0.01)
            if event is not None and event["type"] == "STOP":
                break
            node.send_output("numbers", pa.array([index, index + 1]))
            index += 1
    """,
    "sink.py": """
        from dora import Node

        for event in Node():
            if event["type"] == "PARAM_UPDATE":
                print("speed is", event["value"], flush=True)
    """,
    "once.py": """
        from dora import Node

        node = Node()
        node.send_output("word", b"hello")
        for event in node:
            pass
    """,
    "big.py": """
        import numpy as np
        from dora import Node

        node = Node()
        load = np.zeros(500_000_000, dtype=np.uint8)
        while True:
            event = node.next(timeout=0.5)
            if event is not None and event["type"] == "STOP":
                break
            node.send_output("bytes", load)
    """,
}
FLOW = """
    nodes:
      - {id: camera, path: camera.py, outputs: [numbers], deploy: {machine: right},
         parameters: {speed: 1}}
      - {id: sink, path: sink.py, deploy: {machine: left}, parameters: {speed: 1},
         inputs: {numbers: {source: camera/numbers, queue_size: 1}}}
      - {id: near, path: camera.py, outputs: [numbers], deploy: {machine: left}}
      - {id: far, path: sink.py, deploy: {machine: right}, parameters: {speed: 1},
         inputs: {numbers: {source: near/numbers, queue_size: 1}}}
"""


@pytest.fixture(scope="module")
def system(namespaces: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spread]:  # noqa: ARG001
    folder = tmp_path_factory.mktemp("remote")
    with network("left", "right", "desk") as hosts:
        desk = hosts.pop("desk")  # has no daemon
        with spread_over(hosts, folder) as system:
            system.hosts["desk"] = desk
            system.write({**NODES, "flow.yml": FLOW})
            yield system


@pytest.fixture(scope="module")
def flow(system: Spread) -> str:
    dataflow = system.start("flow.yml")
    system.wait_for(dataflow, "Running")
    return dataflow


def observers(host: Host) -> list[int]:
    """Return the processes on a host that observe for a client on another machine."""
    found = []
    for pid in host.pids():
        try:
            if b"dora.observe.remote" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


def wait_for_no_observers(host: Host) -> None:
    wait_until(lambda: not observers(host), lambda: f"the end of the observers: {observers(host)}")


# The dataflow is on the coordinator's machine, on one with a daemon only, and not at all on one without.
PLACES = ["left", pytest.param("right", marks=pytest.mark.stress), "desk"]


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_observers_on_all_machines_show_the_same(system: Spread, flow: str, place: str) -> None:
    def dora(*arguments: str, status: int = 0) -> str:
        return system.dora(*arguments, host=system.hosts[place], status=status)

    listed = dora("topic", "list", "-d", flow)
    assert [line.split() for line in listed.splitlines()] == [
        ["Node", "Machine", "Name", "Subscribers"],
        ["camera", "right", "numbers", "sink/numbers"],
        ["near", "left", "numbers", "far/numbers"],
    ]
    for topic in ("camera/numbers", "near/numbers"):
        lines = dora("topic", "echo", topic, "-d", flow, "--count", "3", "--format", "json").splitlines()
        shown = [json.loads(line) for line in lines if line.startswith("{")]
        assert len(shown) == 3 and {item["name"] for item in shown} == {topic}
        numbers = [item["data"][0] for item in shown]
        assert numbers == sorted(set(numbers))  # on a busy machine not each of them is seen
        assert [item["data"] for item in shown] == [[number, number + 1] for number in numbers]
    both = dora("topic", "echo", "-d", flow, "--duration", "1s")
    assert "camera/numbers\t data=[" in both and "near/numbers\t data=[" in both
    printed = dora("topic", "hz", "-d", flow, "--duration", "1.5s").splitlines()
    measured = [line for line in printed if "came faster than they could be read" not in line]
    assert measured[0].startswith("topic\tavg_ms"), printed
    assert {line.split("\t")[0] for line in measured[1:]} == {"camera/numbers", "near/numbers"}
    assert all(1 < float(line.split("\t")[2]) < 110 for line in measured[1:]), measured
    described = dora("topic", "info", "camera/numbers", "-d", flow, "--duration", "1s")
    assert "camera (Running)" in described and "int64" in described
    wrong = dora("topic", "echo", "camera/nubmers", "-d", flow, status=1)
    assert "did you mean `camera/numbers`?" in wrong


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_nodes_are_inspected_and_changed_from_any_machine(system: Spread, flow: str, place: str) -> None:
    def dora(*arguments: str, status: int = 0) -> str:
        return system.dora(*arguments, host=system.hosts[place], status=status)

    for node in ("sink", "far"):
        speed = str(["left", "right", "desk"].index(place) + 10)
        assert dora("param", "set", node, "speed", speed, "-d", flow).startswith("Set `speed`")
        assert dora("param", "get", node, "speed", "-d", flow) == f"{speed}\n"
        system.wait_for_log(flow, f"speed is {speed}")
    assert "did you mean `sink`?" in dora("param", "get", "snik", "speed", "-d", flow, status=1)
    for node, machine in (("camera", "right"), ("near", "left")):
        assert "Published" in dora("topic", "pub", f"{node}/numbers", "[7]", "-d", flow)
        info = json.loads(dora("node", "info", node, "-d", flow, "--format", "json"))
        assert info["machine"] == machine
        assert info["metrics"]["pid"] in system.hosts[machine].pids()
    head, *rows = dora("node", "list", "-d", flow).splitlines()
    assert head.split() == ["NODE", "STATUS", "MACHINE", "PID", "CPU", "MEMORY", "RESTARTS"]
    assert {row.split()[0]: row.split()[2] for row in rows} == {
        "camera": "right",
        "sink": "left",
        "near": "left",
        "far": "right",
    }
    assert not any("-" in row.split() for row in rows), rows
    nodes = {item["node"]: item for item in json.loads(dora("top", "--once", "-d", flow))}
    assert all(item["pid"] and item["cpu_usage"] is not None for item in nodes.values())
    assert nodes["camera"]["sent_hz"] > 1 and nodes["near"]["sent_hz"] > 1
    assert nodes["sink"]["inputs"][0]["received_hz"] > 1 and nodes["far"]["inputs"][0]["received_hz"] > 1


@pytest.mark.slow
def test_inputs_closed_for_silence_are_named_from_everywhere(system: Spread) -> None:
    system.write(
        {
            "silent.yml": """
                nodes:
                  - {id: once, path: once.py, outputs: [word], deploy: {machine: right}}
                  - {id: left, path: sink.py, deploy: {machine: left},
                     inputs: {word: {source: once/word, input_timeout: 0.1}}}
                  - {id: right, path: sink.py, deploy: {machine: right},
                     inputs: {word: {source: once/word, input_timeout: 0.1}}}
            """
        }
    )
    flow = system.start("silent.yml")

    def is_seen(place: str) -> bool:
        shown = json.loads(system.dora("top", "--once", "-d", flow, host=system.hosts[place]))
        broken = {item["node"]: item["broken_inputs"] for item in shown}
        return broken == {"once": [], "left": ["word"], "right": ["word"]}

    for place in ("left", "right", "desk"):
        wait_until(partial(is_seen, place), partial("the silence to be seen from {}".format, place))
    system.dora("stop", flow)


@pytest.mark.slow
def test_a_killed_asker_leaves_nothing_behind(system: Spread, flow: str) -> None:
    desk, right = system.hosts["desk"], system.hosts["right"]
    process = desk.popen(
        [*DORA, "topic", "echo", "camera/numbers", "-d", flow],
        env=system.env,
        stdout=subprocess.PIPE,
        text=True,
        cwd=system.folder,
    )
    assert process.stdout is not None and process.stdout.readline().startswith("camera/numbers")
    assert observers(right)
    killed = [pid for pid in desk.pids() if b"echo" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    for pid in killed:
        subprocess.run(["kill", "-KILL", str(pid)], check=True)
    process.communicate()
    wait_for_no_observers(right)
    assert system.status(flow) == "Running"


@pytest.mark.slow
def test_ctrl_c_ends_an_observer_and_reports_missed_messages(system: Spread, flow: str) -> None:
    process = system.hosts["desk"].popen(
        [*DORA, "topic", "hz", "-d", flow, "--duration", "1h"],
        env=system.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=system.folder,
    )
    wait_until(lambda: observers(system.hosts["right"]), lambda: "an observer to start")
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0 and "camera/numbers\t" in output, output
    wait_for_no_observers(system.hosts["right"])


def looking(system: Spread, flow: str) -> subprocess.Popen[str]:
    """Look at a topic from the desk; return the command once it shows a message."""
    process = system.hosts["desk"].popen(
        [*DORA, "topic", "echo", "camera/numbers", "-d", flow],
        env=system.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=system.folder,
    )
    assert process.stdout is not None and process.stdout.readline().startswith("camera/numbers")
    return process


@pytest.mark.slow
def test_a_cut_ends_an_observer_with_a_reason(system: Spread, flow: str) -> None:
    right = system.hosts["right"]
    process = looking(system, flow)
    begun = time.monotonic()
    right.cut()
    try:
        _, errors = process.communicate(timeout=TIMEOUT)
        took = time.monotonic() - begun
        assert process.returncode == 1 and "machine `right` does not answer" in errors, errors
        assert took < 15, took
        wait_for_no_observers(right)  # it has noticed by itself
        refused = system.dora("topic", "echo", "camera/numbers", "-d", flow, status=1)
        assert "machine `right` is not connected at the moment" in refused
        listed = system.dora("node", "list", "-d", flow)
        assert "machine `right` is not connected at the moment" in listed and "sink" in listed
    finally:
        right.restore()
    system.wait_for_machines("right")
    assert "data=" in system.dora("topic", "echo", "camera/numbers", "-d", flow, "--count", "1")
    assert system.status(flow) == "Running"


@pytest.mark.slow
def test_a_cut_of_its_own_machine_ends_a_command_with_a_sentence(system: Spread, flow: str) -> None:
    desk = system.hosts["desk"]
    process = looking(system, flow)
    desk.cut()
    try:
        _, errors = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 1
        assert errors.splitlines()[-1] == "error: the connection to the coordinator broke"
        assert "Traceback" not in errors, errors
    finally:
        desk.restore()
    wait_for_no_observers(system.hosts["right"])


@pytest.mark.slow
def test_half_a_gigabyte_is_looked_at_over_a_slow_network(system: Spread) -> None:
    system.write(
        {
            "big.yml": """
                nodes:
                  - {id: big, path: big.py, outputs: [bytes], deploy: {machine: right}}
            """
        }
    )
    right = system.hosts["right"]
    dataflow = system.start("big.yml")
    system.wait_for(dataflow, "Running")
    right.limit("2mbit")
    try:
        shown = system.dora("topic", "echo", "big/bytes", "-d", dataflow, "--count", "2", "--full")
        assert shown.count("499,999,984 more uint8") == 2
        assert system.machines()["right"]["status"] == "connected"
    finally:
        right.unlimit()
    system.dora("stop", dataflow)
    wait_for_no_observers(right)


@pytest.mark.slow
def test_nodes_are_restarted_and_stopped_from_elsewhere(system: Spread, flow: str) -> None:
    desk = system.hosts["desk"]
    before = json.loads(system.dora("node", "info", "far", "-d", flow, "--format", "json"))
    system.dora("node", "restart", "far", "-d", flow, host=desk)

    def restarted() -> bool:
        now = json.loads(system.dora("node", "info", "far", "-d", flow, "--format", "json"))
        pid = now["metrics"]["pid"]
        return pid is not None and pid != before["metrics"]["pid"]

    wait_until(restarted, lambda: system.logs(flow))
    assert "stopped" in system.dora("node", "stop", "far", "-d", flow, host=desk)
    wait_until(
        lambda: "Stopped" in system.dora("node", "info", "far", "-d", flow), lambda: system.logs(flow)
    )


@pytest.mark.slow
def test_observers_report_the_end_of_the_dataflow(system: Spread) -> None:
    system.write({"other.yml": FLOW})
    dataflow = system.start("other.yml")
    system.wait_for(dataflow, "Running")
    process = system.hosts["desk"].popen(
        [*DORA, "topic", "echo", "-d", dataflow],
        env=system.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=system.folder,
    )
    assert process.stdout is not None and process.stdout.readline()
    system.dora("stop", dataflow)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0 and "the dataflow has ended" in errors, errors
    wait_for_no_observers(system.hosts["right"])
