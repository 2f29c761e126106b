"""``dora run --on``, with a real ssh server on another host."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Host, network
from on_terminal import on_terminal, plain
from robot import Robot, read_until, write_dataflow
from sniffer import Sniffer
from sshd import no_ssh
from waiting import wait_until

from dora.cli.session import PATIENCE

pytestmark = [pytest.mark.processes, pytest.mark.skipif(bool(no_ssh()), reason=no_ssh())]

SOURCE = """
import pyarrow as pa
from dora import Node
node = Node()
for number in range(3):
    node.send_output("number", pa.array([number]))
"""
SINK = """
from dora import Node
print("got", [event["value"][0].as_py() for event in Node() if event["type"] == "INPUT"])
"""
TICKS = """
import os, socket
from dora import Node
for event in Node():
    if event["type"] == "INPUT":
        print("tick", os.environ.get("HOME"), flush=True)
print("stopped", flush=True)
"""
STUBBORN = """
import time
from dora import Node
node = Node()
next(node)
print("tick now", flush=True)
time.sleep(1000)
"""
PULSE = """
from dora import Node
node = Node()
for event in node:
    if event["type"] == "INPUT":
        node.send_output("pulse", event["value"])
"""
HEAR = """
from dora import Node
for event in Node():
    if event["type"] == "INPUT":
        print("heard it", flush=True)
"""
TWO = [
    {"id": "source", "path": "source.py", "outputs": ["number"]},
    {"id": "sink", "path": "sink.py", "inputs": {"number": "source/number"}},
]
ONE = [{"id": "ticks", "path": "ticks.py", "inputs": {"tick": "dora/timer/millis/50"}}]


@pytest.fixture(scope="module")
def robot(namespaces: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:  # noqa: ARG001
    """Make the robot and the desk; the tests of this module share what is installed there."""
    with network("desk", "robot") as hosts:
        yield Robot(hosts["desk"], hosts["robot"], tmp_path_factory.mktemp("robot"))


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    write_dataflow(tmp_path / "numbers", {"source.py": SOURCE, "sink.py": SINK}, TWO)
    return tmp_path / "numbers"


@pytest.fixture
def ticks(tmp_path: Path) -> Path:
    write_dataflow(tmp_path / "ticks", {"ticks.py": TICKS}, ONE)
    return tmp_path / "ticks"


@pytest.mark.slow
def test_a_dataflow_runs_on_a_machine_without_this_dora(robot: Robot, numbers: Path) -> None:
    robot.write_program("dora", "echo an old one; exit 1")
    printed = robot.dora(numbers)
    assert "installed dora in" in printed
    size = sum(path.stat().st_size for path in numbers.iterdir())
    assert f"copied 3 file(s), {size:,} bytes, to {robot.host.folder}/data/dataflows/numbers-" in printed
    assert printed.splitlines()[-1].endswith("stdout sink:   got [0, 1, 2]")
    robot.wait_until_nothing_is_left()

    (numbers / "sink.py").write_text(SINK.replace("got", "received"))
    printed = robot.dora(numbers)
    assert "installed" not in printed and "copied 1 file(s)" in printed and "received [0, 1, 2]" in printed
    printed = robot.dora(numbers)
    assert "copied" not in printed and "received [0, 1, 2]" in printed
    robot.wait_until_nothing_is_left()


@pytest.mark.slow
def test_a_failure_is_reported_as_by_a_local_run(robot: Robot, tmp_path: Path) -> None:
    folder = tmp_path / "flow"
    write_dataflow(folder, {"bad.py": "print(1)\nraise SystemExit(3)"}, [{"id": "bad", "path": "bad.py"}])
    printed = robot.dora(folder, status=1)
    command = [sys.executable, "-m", "dora", "run"]
    local = robot.desk.run(command, status=1, cwd=folder)
    ends = [text.rpartition("\n\n")[2] for text in (printed, local)]
    assert ends[0] == ends[1] and "bad" in ends[0]
    assert f"{robot.name}:{robot.host.folder}/data/dataflows/flow-" in printed


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_dataflow_as_that_of_a_local_run(
    robot: Robot, ticks: Path, number: signal.Signals
) -> None:
    process = robot.start(ticks)
    read_until(process, "tick /")
    pid = next(iter(robot.programs(robot.desk, "dora run --on")))
    os.kill(pid, number)
    printed, _ = process.communicate(timeout=60)
    assert "stopped" in printed and process.returncode == 0
    robot.wait_until_nothing_is_left()


@pytest.mark.slow
def test_a_second_ctrl_c_kills_the_nodes(robot: Robot, tmp_path: Path) -> None:
    write_dataflow(tmp_path / "flow", {"ticks.py": STUBBORN}, ONE)
    process = robot.start(tmp_path / "flow", "--grace-duration", "10m")
    read_until(process, "tick now")
    pid = next(iter(robot.programs(robot.desk, "dora run --on")))
    os.kill(pid, signal.SIGINT)
    read_until(process, "waiting for")
    os.kill(pid, signal.SIGTERM)
    process.communicate(timeout=60)
    robot.wait_until_nothing_is_left()


def test_a_killed_command_leaves_nothing_on_either_machine(robot: Robot, ticks: Path) -> None:
    process = robot.start(ticks)
    read_until(process, "tick /")
    for pid in robot.programs(robot.desk, "dora run --on"):
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=60)
    robot.wait_until_nothing_is_left()


@pytest.mark.parametrize("side", ["desk", "robot"])
def test_a_killed_ssh_ends_the_run_on_both_machines(robot: Robot, ticks: Path, side: str) -> None:
    process = robot.start(ticks)
    read_until(process, "tick /")
    if side == "desk":
        pids = list(robot.programs(robot.desk, "ControlPersist"))  # the connection that the others use
    else:
        servers = robot.programs(robot.host, "sshd").items()
        pids = [pid for pid, line in servers if "[listener]" not in line]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert printed.splitlines()[-1] == (
        f"error: {robot.name}: the connection is lost; what runs there is stopped within half a minute"
    )
    robot.wait_until_nothing_is_left()


@pytest.mark.slow
def test_a_killed_run_on_the_robot_is_reported(robot: Robot, ticks: Path) -> None:
    process = robot.start(ticks)
    read_until(process, "tick /")
    for pid in robot.programs(robot.host, "cluster session"):
        os.kill(pid, signal.SIGKILL)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert printed.splitlines()[-1] == (
        f"error: {robot.name}: the dora there was killed, and the dataflow with it"
    )
    robot.wait_until_nothing_is_left()


@pytest.mark.slow
def test_a_cut_cable_stops_the_dataflow_on_the_robot(robot: Robot, ticks: Path) -> None:
    process = robot.start(ticks)
    read_until(process, "tick /")
    robot.host.cut()
    try:
        wait_until(lambda: not robot.programs(robot.host, "ticks.py"), "the end of the nodes")
        printed, _ = process.communicate(timeout=60)
        assert "the connection is lost" in printed
    finally:
        robot.host.restore()
    robot.wait_until_nothing_is_left(120.0)


@pytest.mark.slow
def test_a_short_cut_is_survived(robot: Robot, ticks: Path) -> None:
    process = robot.start(ticks, "--stop-after", "8s")
    read_until(process, "tick /")
    robot.host.cut()
    try:
        # Longer than a line from the desk may be late, shorter than the patience.
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(4.0)
    finally:
        robot.host.restore()
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "stopped" in printed


@pytest.mark.slow
def test_a_terminal_that_is_stopped_does_not_stop_the_dataflow(robot: Robot, tmp_path: Path) -> None:
    flood = TICKS.replace('print("tick"', 'print("x" * 50_000); print("tick"')
    write_dataflow(tmp_path / "flow", {"ticks.py": flood}, ONE)
    process = robot.start(tmp_path / "flow")
    read_until(process, "tick /")
    with pytest.raises(subprocess.TimeoutExpired):  # nobody reads what it prints, as after Ctrl-S
        process.wait(PATIENCE + 5.0)
    assert robot.programs(robot.host, "ticks.py")
    os.kill(next(iter(robot.programs(robot.desk, "dora run --on"))), signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    robot.wait_until_nothing_is_left()


@pytest.mark.slow
def test_a_detached_dataflow_goes_on_until_it_is_stopped_there(robot: Robot, ticks: Path) -> None:
    printed = robot.dora(ticks, "--detach")
    assert "dataflow started: " in printed
    robot.wait_until_nothing_is_left_here()
    commands = [line for line in printed.splitlines() if line.startswith("  ssh ")]
    logs, stop = (shlex.split(command) for command in commands)
    seen = robot.desk.popen(logs, env={"PATH": robot.keys.path}, stdout=subprocess.PIPE, text=True)
    read_until(seen, "tick /")
    robot.desk.run(stop, env={"PATH": robot.keys.path})
    seen.communicate(timeout=60)
    robot.wait_until_nothing_is_left()


def test_a_detached_dataflow_that_does_not_start_is_reported(robot: Robot, tmp_path: Path) -> None:
    folder = tmp_path / "flow"
    write_dataflow(folder, {"bad.py": "raise SystemExit(3)"}, [{"id": "bad", "path": "bad.py"}])
    printed = robot.dora(folder, "--detach", status=1)
    assert printed.splitlines()[-1] == "error: dataflow.yml: node `bad` exited with status 3"
    robot.wait_until_nothing_is_left()


def take_port(host: Host, port: int) -> subprocess.Popen[str]:
    script = (
        f"import socket; s = socket.create_server(('127.0.0.1', {port})); print(1, flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process: subprocess.Popen[str] = host.popen([sys.executable, "-c", script], **pipes)
    read_until(process, "1")
    return process


@pytest.mark.slow
def test_the_page_of_a_run_is_reached_from_the_desk(robot: Robot, ticks: Path) -> None:
    taken = [take_port(robot.desk, 6020), take_port(robot.host, 6021)]
    process = robot.start(ticks, "--ui")
    printed = read_until(process, "The dashboard is at")
    address = re.search(r"http://127.0.0.1:\d+/open\?ticket=\w+", printed)
    assert address is not None
    read_until(process, "tick /")
    ask = f"import urllib.request as r; print(r.urlopen({address[0]!r}).read().decode())"
    assert "<html" in robot.desk.run([sys.executable, "-c", ask])
    assert ":6021/" in address[0], "it is the first free port of the desk, whatever is free on the robot"
    for holder in taken:
        holder.communicate("")
    os.kill(next(iter(robot.programs(robot.desk, "dora run --on"))), signal.SIGINT)
    process.communicate(timeout=60)
    robot.wait_until_nothing_is_left()


@pytest.mark.slow
def test_a_saved_file_is_reloaded_on_the_robot(robot: Robot, ticks: Path) -> None:
    process = robot.start(ticks, "--hot-reload")
    read_until(process, "tick /")
    (ticks / "ticks.py").write_text(TICKS.replace('tick"', 'another"'))
    read_until(process, "another")
    os.kill(next(iter(robot.programs(robot.desk, "dora run --on"))), signal.SIGINT)
    process.communicate(timeout=60)
    robot.wait_until_nothing_is_left()


@pytest.mark.slow
def test_a_terminal_shows_a_status_line_of_its_width(robot: Robot, ticks: Path) -> None:
    environment = {**robot.environment(), "TERM": "xterm"}
    with on_terminal("run", "--on", robot.name, cwd=ticks, env=environment) as command:
        command.read_until(lambda text: "1 of 1 node" in plain(text) and "tick /" in plain(text))
        command.process.send_signal(signal.SIGINT)
        assert command.end() == 0
        assert "stopped" in command.text
    robot.wait_until_nothing_is_left()


@pytest.mark.slow
def test_nodes_for_the_local_machine_run_on_the_desk(robot: Robot, tmp_path: Path) -> None:
    folder = tmp_path / "both"
    where = 'import os\nprint("runs at", os.environ["HOME"])\n'
    local = {"deploy": {"machine": "local"}}
    programs = {"source.py": where + SOURCE, "sink.py": where + SINK}
    write_dataflow(folder, programs, [TWO[0], {**TWO[1], **local}])
    with Sniffer(robot.host) as sniffer:
        printed = robot.dora(folder)
    links = [data for data in sniffer.of_links() if data]
    assert links and all(data[0] == 0x16 for data in links), "each begins with a handshake of TLS"
    assert f"source: runs at {robot.host.folder}" in " ".join(printed.split())
    assert f"sink: runs at {robot.desk.folder}" in " ".join(printed.split())
    assert "got [0, 1, 2]" in printed
    robot.wait_until_nothing_is_left()
    printed = robot.dora(folder, "--detach", status=1)
    assert printed.startswith("error: node `sink` runs here") and printed.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("port", "listening"), [("7000", {7000}), ("0", set())])
def test_the_robot_has_the_wanted_port_for_links(
    robot: Robot, tmp_path: Path, port: str, listening: set[int]
) -> None:
    before = robot.host.listening()
    pulse = {**ONE[0], "path": "pulse.py", "outputs": ["pulse"]}
    hear = {
        "id": "hear",
        "path": "hear.py",
        "inputs": {"in": "ticks/pulse"},
        "deploy": {"machine": "local"},
    }
    write_dataflow(tmp_path / "both", {"pulse.py": PULSE, "hear.py": HEAR}, [pulse, hear])
    process = robot.start(tmp_path / "both", "--link-port", port)
    read_until(process, "heard it")
    assert robot.host.listening() - before == listening
    os.kill(next(iter(robot.programs(robot.desk, "dora run --on"))), signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    robot.wait_until_nothing_is_left()


@pytest.mark.slow
def test_a_port_for_links_that_the_robot_lacks_is_reported(robot: Robot, tmp_path: Path) -> None:
    nodes = [ONE[0], {**ONE[0], "id": "here", "deploy": {"machine": "local"}}]
    write_dataflow(tmp_path / "both", {"ticks.py": TICKS}, nodes)
    printed = robot.dora(tmp_path / "both", "--link-port", "22", status=1)
    assert "port 22 for links is taken; give another one with --link-port" in printed
    assert "Traceback" not in printed
    robot.wait_until_nothing_is_left()


@pytest.mark.slow
def test_a_killed_ssh_ends_the_nodes_of_both_machines(robot: Robot, tmp_path: Path) -> None:
    nodes = [ONE[0], {**ONE[0], "id": "here", "deploy": {"machine": "local"}}]
    write_dataflow(tmp_path / "both", {"ticks.py": TICKS}, nodes)
    process = robot.start(tmp_path / "both", "--log-filter", "here=error", "--stop-after", "10m")
    printed = read_until(process, f"tick {robot.host.folder}")
    assert f"tick {robot.desk.folder}" not in printed
    for pid in robot.programs(robot.desk, "ControlPersist"):
        os.kill(pid, signal.SIGKILL)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "the connection is lost; what runs there is" in printed
    robot.wait_until_nothing_is_left()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_end_of_the_command_ends_the_nodes_of_both_machines(
    robot: Robot, tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "both"
    nodes = [ONE[0], {**ONE[0], "id": "here", "deploy": {"machine": "local"}}]
    write_dataflow(folder, {"ticks.py": TICKS}, nodes)
    process = robot.start(folder)
    read_until(process, f"tick {robot.desk.folder}")
    read_until(process, f"tick {robot.host.folder}")
    os.kill(next(iter(robot.programs(robot.desk, "dora run --on"))), number)
    printed, _ = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 0 and printed.count("stopped") == 2
    robot.wait_until_nothing_is_left()
