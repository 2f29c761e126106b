"""A machine that loses its power, and comes back, while the other machines of the dataflow go on."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from changing_machines import said_by
from cluster_system import Spread, spread_over
from counted_links import FILES, Counted
from hosts import Host, network
from rounds import FEW
from waiting import wait_until

from dora.daemon.report import loss_report
from dora.wire.counters import RESTART_LOSS

pytestmark = pytest.mark.processes

POLICY = "restart_policy: on-failure"
RESTARTED = FILES["flow.yml"].replace("path: relay.py", f"path: relay.py\n        {POLICY}")
NEEDED = RESTARTED.replace("{machine: right}", "{machine: right, on_machine_lost: stop}")


@pytest.fixture
def system(namespaces: None, tmp_path: Path) -> Iterator[Spread]:  # noqa: ARG001
    with network("desk", "left", "right") as hosts, spread_over(hosts, tmp_path) as system:
        system.write({**FILES, "restarted.yml": RESTARTED, "needed.yml": NEEDED})
        yield system


def reboot(system: Spread, machine: str) -> None:
    system.hosts[machine].kill_all()
    system.processes[machine].wait()
    system.start_daemon(machine)


def command_lines(host: Host) -> dict[int, list[str]]:
    """Return the command lines of a machine's processes, without those that end meanwhile."""
    found = {}
    for pid in host.pids():
        with suppress(psutil.NoSuchProcess):
            found[pid] = psutil.Process(pid).cmdline()
    return found


def ends_with_exact_counts(counted: Counted, restarts: int) -> None:
    """Let the dataflow end; what `relay` has sent was received, or dropped and counted."""
    assert counted.system.status(counted.dataflow) == "Running"
    logs = counted.end()
    assert logs.count("NODE_RESTARTED relay") == restarts, logs
    counts = re.findall(r"(\w+): got (\d+) and lost (\d+)", logs)
    taken = {name: int(got) + int(lost) for name, got, lost in counts}
    sent = {name: int(count) for name, count in re.findall(r"(\w+) sent in all (\d+)", logs)}
    assert taken == sent, logs
    for name, host in counted.system.hosts.items():
        left = command_lines(host).values()
        ours = ("agent.worker", *(file for file in FILES if file.endswith(".py")))
        assert not [words for words in left if any(word.endswith(ours) for word in words)]
        run_folders = [path.name for path in (host.folder / "run").iterdir() if path.is_dir()]
        assert not run_folders, (name, run_folders)
        assert host.run(["ls", "/dev/shm"]) == "", name


@pytest.mark.slow
@pytest.mark.parametrize(
    "reboots", [1, pytest.param(FEW, marks=[pytest.mark.stress, pytest.mark.timeout(1200)])]
)
def test_a_machine_that_reboots_starts_its_nodes_again(system: Spread, reboots: int) -> None:
    counted = Counted(system, "restarted.yml")
    for _ in range(reboots):
        reboot(system, "right")
        counted.goes_on()
    ends_with_exact_counts(counted, reboots)
    note = "Machine `right` was lost" + (f" {reboots} times" if reboots > 1 else "")
    assert note in loss_report(system.result(counted.dataflow))


@pytest.mark.stress
@pytest.mark.timeout(1200)
def test_reboots_on_a_slow_network_leave_exact_counts(namespaces: None, tmp_path: Path) -> None:  # noqa: ARG001
    """Messages of the former part are still on their way when the next one sends."""
    large = RESTARTED.replace("path: count.py,", "path: count.py, env: {REST: 8000},")
    with (
        network("desk", "left", "right", impaired=True) as hosts,
        spread_over(hosts, tmp_path) as system,
    ):
        system.write({**FILES, "large.yml": large})
        for name in ("left", "right"):
            hosts[name].impair(delay=0.01, rate=10e6, loss=0.002, queue=256 << 10)
        counted = Counted(system, "large.yml")
        for _ in range(FEW):
            reboot(system, "right")
            counted.goes_on()
        ends_with_exact_counts(counted, FEW)


@pytest.mark.slow
def test_what_a_rebooted_machine_missed_is_counted(system: Spread) -> None:
    """It counts from the last message of which the other machine knows that it was taken."""
    counted = Counted(system, "restarted.yml")
    reboot(system, "right")
    counted.goes_on()
    logs = counted.end()
    first, lost = map(int, re.findall(r"newest begins with (\d+) lost (\d+)", logs)[-1])
    assert lost > 0, logs
    links = {link.link: link for link in system.result(counted.dataflow).links}
    link = links["count/newest -> relay/newest"]
    (sent,) = re.findall(r"sent (\d+)\b", logs)
    assert link.sent == int(sent) - (first - lost), (link, logs)
    assert link.received + link.dropped == link.sent
    assert link.count(RESTART_LOSS) == lost


@pytest.mark.slow
def test_a_dataflow_stops_with_a_machine_if_the_file_says_so(system: Spread) -> None:
    counted = Counted(system, "needed.yml")
    system.hosts["right"].kill_all()
    system.wait_for(counted.dataflow, "Failed")
    logs = system.logs(counted.dataflow)
    assert "machine `right` is lost" in logs
    assert re.search(r"count: sent \d", logs), logs  # which nothing else has stopped


def kill(system: Spread, machine: str, program: str) -> None:
    for pid, words in command_lines(system.hosts[machine]).items():
        if any(word.endswith(program) for word in words):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_links_to_a_restarted_node_survive_a_late_report_of_its_end(system: Spread) -> None:
    """It comes through the coordinator. The new process may receive before it arrives."""
    system.write({"later.yml": RESTARTED.replace(POLICY, f"{POLICY}\n        restart_delay: 0.1")})
    counted = Counted(system, "later.yml")
    coordinator = system.processes["coordinator"]
    coordinator.send_signal(signal.SIGSTOP)
    kill(system, "right", "relay.py")
    counted.goes_on()
    coordinator.send_signal(signal.SIGCONT)
    system.wait_for_log(counted.dataflow, "was killed by SIGKILL; restarting in 0.1 s")
    counted.goes_on()
    counted.goes_on("newest")
    ends_with_exact_counts(counted, 1)


@pytest.mark.slow
def test_the_part_of_a_killed_worker_is_started_again(system: Spread) -> None:
    counted = Counted(system, "restarted.yml")
    kill(system, "right", "agent.worker")
    counted.goes_on()
    ends_with_exact_counts(counted, 1)


@pytest.mark.slow
def test_a_daemon_that_is_killed_and_started_again_starts_its_nodes_again(system: Spread) -> None:
    counted = Counted(system, "restarted.yml")
    daemon = system.processes["right"]
    daemon.kill()
    daemon.wait()
    system.start_daemon("right")
    counted.goes_on()
    ends_with_exact_counts(counted, 1)


@pytest.mark.slow
def test_nodes_that_are_restarted_meanwhile_find_the_machine_when_it_is_back(system: Spread) -> None:
    again = RESTARTED.replace("path: count.py,", "path: count.py, restart_policy: on-failure,")
    system.write({"again.yml": again})
    counted = Counted(system, "again.yml")
    system.hosts["right"].kill_all()
    system.wait_for_log(counted.dataflow, "machine `right` is lost")
    left = system.hosts["left"]
    left.move(system.another_address())  # the endpoints are sent again
    wait_until(lambda: system.machines()["left"]["address"] == left.address, "the other address")
    kill(system, "left", "count.py")
    system.wait_for_log(counted.dataflow, "was killed by SIGKILL; restarting now")
    system.start_daemon("right")
    counted.goes_on()
    logs = counted.end()
    assert len(re.findall("restarting now", logs)) == 1, logs


@pytest.mark.slow
def test_a_machine_comes_back_to_a_coordinator_that_was_restarted(system: Spread) -> None:
    counted = Counted(system, "restarted.yml")
    system.hosts["right"].kill_all()
    system.wait_for_log(counted.dataflow, "machine `right` is lost")
    system.processes["coordinator"].kill()
    system.processes["coordinator"].wait()
    system.start_coordinator()
    system.wait_for_machines("desk", "left")
    assert system.status(counted.dataflow) == "Running"
    system.start_daemon("right")
    counted.goes_on()
    ends_with_exact_counts(counted, 1)


@pytest.mark.slow
def test_the_machine_of_the_coordinator_reboots(system: Spread) -> None:
    system.write({"desk.yml": RESTARTED.replace("machine: right", "machine: desk")})
    counted = Counted(system, "desk.yml")
    system.first.kill_all()
    for name in ("coordinator", "desk"):
        system.processes[name].wait()
    system.start_coordinator()
    system.start_daemon("desk")
    counted.goes_on()
    ends_with_exact_counts(counted, 1)


@pytest.mark.slow
def test_a_machine_that_was_given_up_starts_its_nodes_again(namespaces: None, tmp_path: Path) -> None:  # noqa: ARG001
    """Its former part, which goes on without the coordinator, is ended first."""
    limit = {"DORA_UNREACHABLE_AFTER": "0.5"}
    with network("desk", "left", "right") as hosts, spread_over(hosts, tmp_path, limit) as system:
        system.write({**FILES, "restarted.yml": RESTARTED})
        counted = Counted(system, "restarted.yml")
        system.hosts["right"].cut()
        system.wait_for_log(counted.dataflow, "machine `right` is lost: it has not answered for 0.5 s")
        system.hosts["right"].restore()
        counted.goes_on()
        ends_with_exact_counts(counted, 1)


SOURCE = f"""
    nodes:
      - {{id: count, path: count.py, outputs: [sure, newest], deploy: {{machine: right}}, {POLICY}}}
      - id: take
        path: take.py
        deploy: {{machine: left}}
        inputs:
          sure: {{source: count/sure, queue_size: 100, queue_policy: backpressure}}
          newest: {{source: count/newest, queue_size: 10}}
"""


@pytest.mark.slow
def test_a_part_that_was_given_up_sends_nothing_more(namespaces: None, tmp_path: Path) -> None:  # noqa: ARG001
    """Its links work, so it goes on. The numbers of its last messages are used again after it."""
    limit = {"DORA_UNREACHABLE_AFTER": "0.5"}
    with network("desk", "left", "right") as hosts, spread_over(hosts, tmp_path, limit) as system:
        system.write({**FILES, "source.yml": SOURCE})
        counted = Counted(system, "source.yml")
        route = ["blackhole", system.first.address]
        hosts["right"].run(["ip", "route", "add", *route])
        system.wait_for_log(counted.dataflow, "machine `right` is lost: it has not answered for 0.5 s")
        hosts["right"].run(["ip", "route", "del", *route])
        counted.goes_on()
        logs = counted.end()
        assert re.findall(r"sure goes back to (\d+)", logs) == ["0"], logs


SERVE = """
    from dora import Node
    node = Node()
    node.send_output("map", b"the map")
    for event in node:
        pass
"""
LISTEN = """
    from dora import Node
    node = Node()
    state = node.load_state()
    print("begins with", state, flush=True)
    node.save_state(b"what it knows")
    for event in node:
        if event["type"] == "INPUT":
            print("got", bytes(event["data"]).decode(), flush=True)
"""
MAPS = f"""
    nodes:
      - {{id: server, path: serve.py, deploy: {{machine: left}}, outputs: [map: {{latched: 1}}]}}
      - id: listener
        path: listen.py
        deploy: {{machine: right}}
        {POLICY}
        inputs: {{map: server/map}}
"""


@pytest.mark.slow
def test_a_machine_that_was_given_up_has_the_saved_states_again(namespaces: None, tmp_path: Path) -> None:  # noqa: ARG001
    limit = {"DORA_UNREACHABLE_AFTER": "0.5"}
    with network("desk", "left", "right") as hosts, spread_over(hosts, tmp_path, limit) as system:
        system.write({"serve.py": SERVE, "listen.py": LISTEN, "maps.yml": MAPS})
        dataflow = system.start("maps.yml")
        said_by(system, dataflow, "listener", "got the map")
        hosts["right"].cut()
        system.wait_for_log(dataflow, "machine `right` is lost: it has not answered for 0.5 s")
        hosts["right"].restore()
        said_by(system, dataflow, "listener", "begins with", times=2)
        assert "begins with b'what it knows'" in system.logs(dataflow)
        system.dora("stop", dataflow)


@pytest.mark.slow
def test_a_rebooted_machine_gets_latched_messages_and_saved_states_again(system: Spread) -> None:
    system.write({"serve.py": SERVE, "listen.py": LISTEN, "maps.yml": MAPS})
    dataflow = system.start("maps.yml")
    said_by(system, dataflow, "listener", "got the map")
    reboot(system, "right")
    said_by(system, dataflow, "listener", "got the map", times=2)
    assert "begins with b'what it knows'" in system.logs(dataflow)
    assert system.status(dataflow) == "Running"
    system.dora("stop", dataflow)
    assert not (system.hosts["right"].folder / "data" / "state").exists()
