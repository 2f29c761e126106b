"""One port of a machine is enough for the links of all dataflows, and a machine may have none."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_system import Spread
from counted_links import FILES, Counted
from hosts import Host, network
from waiting import wait_until

from dora._paths import DEFAULT_LINK_PORT

pytestmark = pytest.mark.processes

TWO_MACHINES = """
    nodes:
      - {id: talk, path: talk.py, outputs: [out], deploy: {machine: left}}
      - {id: hear, path: hear.py, inputs: {in: talk/out}, deploy: {machine: right}}
"""
NODES = {
    "talk.py": """
        import time
        import pyarrow as pa
        from dora import Node

        node, number = Node(), 0
        while True:
            node.send_output("out", pa.array([number]))
            number += 1
            time.sleep(0.01)
    """,
    "hear.py": """
        from dora import Node

        for count, event in enumerate(Node()):
            if event["type"] == "INPUT" and count % 50 == 0:
                print("got", event["value"][0].as_py(), flush=True)
    """,
    "alone.yml": TWO_MACHINES.replace("left", "right"),
    "another.yml": "{id: another, path: hear.py, inputs: {in: talk/out}, deploy: {machine: left}}",
    "first.yml": TWO_MACHINES,
    "second.yml": TWO_MACHINES,
}


@pytest.fixture
def system(namespaces: None, tmp_path: Path) -> Iterator[Spread]:  # noqa: ARG001
    """Run a coordinator on a host of its own; the daemons are for the tests to start."""
    with network("desk", "left", "right") as hosts:
        system = Spread(hosts, tmp_path, {})
        system.write({**FILES, **NODES})
        system.start_coordinator()
        yield system


def start_daemons(system: Spread, left: int | None = None, right: int | None = None) -> None:
    for name, port in {"left": left, "right": right}.items():
        system.start_daemon(name, *(() if port is None else ("--link-port", str(port))))
    system.wait_for_machines("left", "right")


def await_messages(system: Spread, dataflow: str) -> None:
    """Wait until more messages have crossed."""

    def got() -> int:
        return system.dora("logs", dataflow, "-n", "hear").count(" got ")

    before = got()
    wait_until(lambda: got() > before + 1, lambda: system.logs(dataflow))


@pytest.mark.slow
def test_two_dataflows_have_one_port_of_each_machine(system: Spread) -> None:
    start_daemons(system)
    hosts = [system.hosts[name] for name in ("left", "right")]
    assert [host.listening() for host in hosts] == [set(), set()], "there are no links"
    assert [machine["link_endpoint"] for machine in system.machines().values()] == [None, None]
    assert "links" not in system.dora("status")
    dataflows = [system.start("first.yml"), system.start("second.yml")]
    for dataflow in dataflows:
        await_messages(system, dataflow)
    for host in hosts:
        assert host.listening() == {DEFAULT_LINK_PORT}
        rows = [row.split() for row in host.run(["ss", "-tnH"]).splitlines()]
        between = [row[3:5] for row in rows if row[4].split(":")[0] in {each.address for each in hosts}]
        assert between, "the links are what is looked at"
        for here, there in between:
            assert f"{DEFAULT_LINK_PORT}" in (here.rpartition(":")[2], there.rpartition(":")[2])
    for host in hosts:
        endpoint = f"{host.address}:{DEFAULT_LINK_PORT}"
        assert system.machines()[host.name]["link_endpoint"] == endpoint
        assert f"✓ Machine {host.name}: {host.address}, links at {endpoint}" in system.dora("status")
        assert endpoint in system.dora("cluster", "status")


@pytest.mark.slow
@pytest.mark.parametrize("only_dials", ["left", "right"])
def test_a_machine_without_a_port_sends_and_receives(system: Spread, only_dials: str) -> None:
    """`Counted` sends from `left` to `right` and back; whichever name comes first would dial first."""
    start_daemons(system, **{only_dials: 0})
    counted = Counted(system)
    counted.goes_on()
    assert system.hosts[only_dials].listening() == set()
    assert system.machines()[only_dials]["link_endpoint"] == ""
    assert f"{system.hosts[only_dials].address}, links: only dials" in system.dora("status")
    assert "only dials" in system.dora("cluster", "status")
    for name in ("left", "right"):
        system.hosts[name].move(system.another_address())
        counted.goes_on()
    assert system.hosts[only_dials].listening() == set()
    counted.loses_nothing()


@pytest.mark.slow
@pytest.mark.parametrize("robot", ["left", "right"])
def test_a_robot_behind_a_router_sends_and_receives(
    make_hosts: Callable[..., dict[str, Host]], tmp_path: Path, robot: str
) -> None:
    hosts = make_hosts("desk", "left", "right", impaired=True)
    hosts[robot].impair(behind_nat=True)
    system = Spread(hosts, tmp_path, {})
    system.write(FILES)
    system.start_coordinator()
    start_daemons(system)
    counted = Counted(system)
    hosts[robot].cut()
    hosts[robot].restore()
    counted.goes_on()
    assert hosts[robot].listening() == {DEFAULT_LINK_PORT}
    with pytest.raises(TimeoutError):
        socket.create_connection((hosts[robot].address, DEFAULT_LINK_PORT), timeout=1.0)
    counted.loses_nothing()


@pytest.mark.slow
def test_two_machines_without_a_port_are_an_error(system: Spread) -> None:
    start_daemons(system, left=0, right=0)
    printed = system.dora("start", "first.yml", status=1)
    said = "the daemons of machines `left` and `right` both have `--link-port 0`, so neither can"
    assert said in printed and "Traceback" not in printed
    await_messages(system, alone := system.start("alone.yml"))
    printed = system.dora("node", "add", "-d", alone, "--from-yaml", "another.yml", status=1)
    assert "both have `--link-port 0`" in printed and "Traceback" not in printed
    await_messages(system, alone)


@pytest.mark.slow
def test_a_port_that_is_taken_ends_the_start_with_a_remedy(system: Spread) -> None:
    right = system.hosts["right"]
    taken = right.popen([sys.executable, "-m", "http.server", "7000"])
    wait_until(lambda: right.listening() == {7000}, "another program")
    start_daemons(system, right=7000)
    said = "machine `right`: port 7000 for links is taken; give another one with --link-port"
    assert said in system.dora("start", "first.yml", status=1)
    await_messages(system, alone := system.start("alone.yml"))
    assert said in system.dora("node", "add", "-d", alone, "--from-yaml", "another.yml", status=1)
    taken.terminate()
    taken.wait()
    system.dora("node", "add", "-d", alone, "--from-yaml", "another.yml")
    system.wait_for_log(alone, "another: got")
    assert right.listening() == {7000}


@pytest.mark.slow
def test_a_default_port_that_is_taken_is_replaced(system: Spread) -> None:
    right = system.hosts["right"]
    right.popen([sys.executable, "-m", "http.server", str(DEFAULT_LINK_PORT)])
    wait_until(lambda: right.listening() == {DEFAULT_LINK_PORT}, "another program")
    start_daemons(system)
    await_messages(system, system.start("first.yml"))
    assert len(right.listening()) == 2
    assert f"port {DEFAULT_LINK_PORT} is taken, so links have another one" in system.said("right")


@pytest.mark.slow
def test_links_go_on_while_the_daemon_of_a_machine_hangs(system: Spread) -> None:
    """Their connections are the gateways'; only a new one would have to wait for the daemon."""
    start_daemons(system)
    dataflow = system.start("first.yml")
    await_messages(system, dataflow)
    daemon = system.processes["left"]
    os.kill(daemon.pid, signal.SIGSTOP)
    written = system.folder / "out" / dataflow / "log_hear.jsonl"
    try:
        before = written.stat().st_size
        wait_until(lambda: written.stat().st_size > before + 300, "messages")
    finally:
        os.kill(daemon.pid, signal.SIGCONT)


@pytest.mark.slow
def test_a_machine_moves_with_its_port(system: Spread) -> None:
    start_daemons(system)
    counted = Counted(system)
    for name in ("right", "left"):
        system.hosts[name].move(system.another_address())
        counted.goes_on()
        address = system.hosts[name].address
        listening = system.hosts[name].run(["ss", "-ltnH"])
        assert [row.split()[3] for row in listening.splitlines()] == [f"{address}:{DEFAULT_LINK_PORT}"]
        assert system.machines()[name]["link_endpoint"] == f"{address}:{DEFAULT_LINK_PORT}"
    counted.loses_nothing()


@pytest.mark.slow
def test_a_machine_that_moves_listens_once_its_port_is_free_there(system: Spread) -> None:
    """Only `left` could dial otherwise, so without the port no message would pass."""
    start_daemons(system, left=0, right=7000)
    counted = Counted(system)
    right, address = system.hosts["right"], system.another_address()
    right.add_address(address)
    taken = right.popen([sys.executable, "-m", "http.server", "--bind", address, "7000"])
    wait_until(lambda: f"{address}:7000" in right.run(["ss", "-ltnH"]), "another program")
    right.drop_address(right.address)
    right.address = address
    wait_until(lambda: "port 7000 for links is taken" in system.said("right"), "the daemon to try")
    wait_until(
        lambda: system.machines()["right"]["link_endpoint"] == "",
        lambda: f"the coordinator to know: {system.said('coordinator')}",
    )
    taken.terminate()
    taken.wait()
    counted.goes_on()
    assert right.listening() == {7000}
    assert system.machines()["right"]["link_endpoint"] == f"{address}:7000"
    counted.loses_nothing()
