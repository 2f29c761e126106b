"""`dora up`, `start`, `stop` and so on, with real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from on_terminal import on_terminal, plain
from ports import free_port
from system import FOREVER, System
from waiting import TIMEOUT, alive, wait_until

from dora import ConnectError, Node
from dora.cli.commands.up import Background, _stop_what_was_started, _wait_for_daemon
from dora.cluster.agent.identity import daemon_lock, running_daemon
from dora.daemon.client import name_of, running
from dora.observe.tap_session import inspect

pytestmark = pytest.mark.processes

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.mark.slow
def test_the_life_of_a_dataflow(system: System) -> None:
    *told, dashboard = system.dora("up").splitlines(keepends=True)
    assert "".join(told) == "started dora coordinator\nstarted dora daemon\n"
    where = f"127.0.0.1:{system.port}"
    running = f"coordinator already running on {where}\ndaemon already running\n"
    assert system.dora("up") == running + dashboard
    assert dashboard.startswith(f"dashboard: http://{where}/open?ticket=")
    assert dashboard.removeprefix("dashboard: ") in system.dora("status")
    file = system.dataflow("arm", a=FOREVER, b=FOREVER)
    started = system.dora("start", file, "--detach", "--name", "left")
    assert re.fullmatch(f"dataflow start triggered: ({UUID})\ndataflow started: {UUID}\n", started)
    dataflow_id = started.split()[-1]
    assert re.fullmatch("UUID +Name +Status +Nodes +CPU +Memory", system.dora("list").splitlines()[0])
    # The figures of a busy daemon may come after the first answer.
    row = rf"\n{dataflow_id}  left  Running  2      [\d.]+%  +[\d.]+ MB\n"
    wait_until(lambda: re.search(row, system.dora("list")), "the figures of the dataflow")
    assert system.dora("ps", "-q") == f"{dataflow_id}\n"
    assert "error: there is already a running dataflow with name `left`" in system.dora(
        "start", file, "-n", "left", "--detach", status=1
    )
    # Commands that speak with a running dataflow find it by this name, too.
    assert "b has no parameters" in system.dora("param", "list", "b", "-d", "left")
    wait_until(lambda: "got INPUT" in system.dora("logs", "left", "-n", "a"), "an entry of `a`")
    refused = system.dora("down", status=1)
    assert f"1 dataflow(s) still running\n  - [left] {dataflow_id}" in refused
    assert system.dora("stop", "left") == f"dataflow stopped: {dataflow_id} (left in {system.folder})\n"
    listed = json.loads(system.dora("list", "-f", "json"))
    assert listed == {
        "uuid": dataflow_id,
        "name": "left",
        "status": "Finished",
        "nodes": 0,
        "cpu": 0.0,
        "memory": 0.0,
    }
    assert system.dora("logs", "left", "--tail", "1", "--log-format", "compact").endswith("got STOP\n")
    assert system.dora("stop") == "No dataflows are running.\n"
    assert system.dora("clean", "-q") == f"{dataflow_id}\nCleaned 1 dataflow(s).\n"
    assert system.dora("clean") == "No finished or failed dataflows to clean.\n"
    assert system.dora("down").splitlines()[-1] == "Coordinator and daemons destroyed successfully"


def test_a_silent_node_has_empty_logs(shared: System) -> None:
    silent = "from dora import Node\nfor event in Node():\n    pass\n"
    shared.start(shared.dataflow("arm", a=FOREVER, silent=silent))
    assert shared.dora("logs", "arm", "-n", "silent") == ""
    for more in ((), ("--follow",)):
        told = shared.dora("logs", "arm", "-n", "silence", *more, status=1)
        assert told == "error: this dataflow has no node `silence`; did you mean `silent`?\n"
    shared.dora("stop", "arm")
    assert shared.dora("logs", "arm", "-n", "silent", "--follow") == ""


def completed(system: System) -> list[str]:
    code = "from dora.cli.main import cli; cli(prog_name='dora')"
    done = subprocess.run([sys.executable, "-c", code], cwd=system.folder, capture_output=True, text=True)
    return done.stdout.split()


@pytest.mark.slow
def test_several_dataflows_at_once(shared: System, monkeypatch: pytest.MonkeyPatch) -> None:
    file = shared.dataflow("arm", a=FOREVER)
    first, second = shared.start(file), shared.start(file)
    assert [view.name for view in shared.client.active()] == ["arm", "arm-2"]
    with monkeypatch.context() as shell:
        shell.setenv("_DORA_COMPLETE", "bash_complete")
        shell.setenv("COMP_WORDS", "dora stop ar")
        shell.setenv("COMP_CWORD", "2")
        assert completed(shared) == ["plain,arm", "plain,arm-2", "plain,arm.yml"]
    checked = shared.dora("doctor")
    assert f"  PASS  coordinator at 127.0.0.1:{shared.port}: dora " in checked
    assert "  PASS  2 dataflows on the coordinator: arm, arm-2\n" in checked
    assert "  PASS  machine `default` is connected\n" in checked
    assert "  PASS  2 nodes run on this machine\n" in checked
    message = shared.dora("stop", status=1)
    named = "".join(
        f"  {run}  {name} in {shared.folder}\n" for run, name in ((first, "arm"), (second, "arm-2"))
    )
    assert message == f"error: Multiple dataflows running. Specify one by NAME_OR_UUID:\n{named}"
    restarted = shared.dora("restart", "arm-2")
    match = re.fullmatch(rf"dataflow restarted: {second} -> ({UUID})\n", restarted)
    assert match
    assert shared.dora("stop", "--all") == "Stopped 2 dataflow(s).\n"
    assert {shared.status_of(run) for run in (first, second, match[1])} == {"Finished"}


def test_two_systems_do_not_see_the_nodes_of_each_other(
    shared: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared.start(shared.dataflow("arm", a=FOREVER))
    other, ours = str(free_port()), str(shared.port)
    monkeypatch.setenv("DORA_COORDINATOR_PORT", other)
    option = ("--coordinator-port", other)
    assert shared.dora("node", "list", "-q") == shared.dora("node", "list", "-q", *option) == ""
    for command in (
        ("node", "stop", "a"),
        ("param", "set", "a", "gain", "1", "-d", "arm"),
        ("topic", "list"),
        ("top", "--once"),
    ):
        assert "error: no dataflow is running" in shared.dora(*command, status=1), command
        option = ("--coordinator-port", other)
        assert "error: no dataflow is running" in shared.dora(*command, *option, status=1), command
    option = ("--coordinator-port", ours)
    assert shared.dora("node", "list", "-q", *option) == "a\n"
    assert shared.dora("param", "set", "a", "gain", "1", *option) == "Set `gain` = 1 on node `a`\n"
    monkeypatch.setenv("DORA_COORDINATOR_PORT", ours)
    assert shared.dora("param", "get", "a", "gain") == "1\n"


def test_a_dynamic_node_chooses_its_dataflow_by_id(shared: System, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"id": "visitor", "path": "dynamic", "inputs": {"tick": "dora/timer/millis/50"}}]
    (shared.folder / "arm.yml").write_text(json.dumps({"nodes": nodes}))
    runs = [shared.start("arm.yml", "--name", name) for name in ("left", "right")]
    with pytest.raises(ConnectError, match="set DORA_DATAFLOW to the name or the UUID of one"):
        Node("visitor")
    for wanted, run in zip(("left", runs[1]), runs, strict=True):
        monkeypatch.setenv("DORA_DATAFLOW", wanted)
        with Node("visitor") as node:
            assert node.dataflow_id() == run
    monkeypatch.setenv("DORA_DATAFLOW", "middle")
    with pytest.raises(ConnectError, match=f"{runs[0]} is not called `middle`"):
        Node("visitor")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows shared memory as files")
def test_shared_memory_is_of_the_user_alone(shared: System) -> None:
    shared.start(shared.dataflow("arm", a=FOREVER))
    (run,) = running()
    with run:
        prefix = inspect(run).prefix
        objects = [path for path in Path("/dev/shm").iterdir() if path.name.startswith(prefix)]
        assert objects
        assert [path.name for path in objects if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


@pytest.mark.slow
def test_the_options_of_a_run(shared: System) -> None:
    file = shared.dataflow("arm", a="from dora import Node\nNode().send_output('out', b'')")
    told = shared.dora("start", file, "--attach", "--engine", "shm", "--strict", status=1)
    assert "output `out` is not declared" in told
    shared.start(shared.dataflow("leg", a=FOREVER), "--engine", "shm")
    engines = {}
    for run in running():
        with run, suppress(ConnectError):  # the one before may still be leaving
            engines[name_of(run.description)] = inspect(run).engine
    assert engines["leg"] == "shm"


def test_a_dataflow_that_cannot_start_reports_its_reason(shared: System) -> None:
    told = shared.dora(
        "start", shared.dataflow("bad", a="raise SystemExit('no camera')"), "--detach", status=1
    )
    assert "Node `a` exited with status 1" in told and "no camera" in told
    told = shared.dora("start", "missing.yml", "--detach", status=1)
    assert "missing.yml" in told
    assert [view.status for view in shared.client.dataflows()] == ["Failed"]


def test_a_start_does_not_both_attach_and_detach(system: System) -> None:
    file = system.dataflow("arm", a=FOREVER)
    for options in (("--attach", "--detach"), ("--detach", "--attach")):
        assert "use either --attach or --detach" in system.dora("start", file, *options, status=2)
    told = system.dora("cluster", "start", "cluster.yml", file, "--attach", "--detach", status=2)
    assert "use either --attach or --detach" in told


def test_a_missing_command_is_reported_with_its_line(shared: System) -> None:
    (shared.folder / "flow.yml").write_text("nodes: [{id: a, path: no-camera}]")
    told = shared.dora("start", "flow.yml", "--detach", status=1)
    assert "flow.yml:1:23: error: the node `a` cannot be started" in told


def test_diagnostics_of_the_coordinator_and_the_daemon(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUST_LOG", "info,dora_coordinator=debug,dora_daemon::run=debug,loud")
    assert "warning: RUST_LOG: `loud` is neither a level nor a part of dora" in system.dora("up")
    dataflow = system.start(system.dataflow("told", waiter=FOREVER))
    told = {name: system.folder / "out" / f"dora-{name}.txt" for name in ("coordinator", "daemon")}
    coordinator, daemon = (file.read_text() for file in told.values())
    assert "DEBUG dora.coordinator.api: POST /api/dataflows: 201 after" in coordinator
    assert (
        f"machine `default` is told StartRun(dataflow_id={dataflow}, spec=RunSpec, partition=Partition)"
        in coordinator
    )
    assert f"DEBUG dora.daemon.run: dataflow {dataflow}: waiter: Ready() -> Send" in daemon
    assert f"INFO dora.daemon: dataflow {dataflow}: Running" in daemon
    assert "DEBUG dora.daemon:" not in daemon
    assert all("warning: RUST_LOG: `loud`" in text for text in (coordinator, daemon))


@pytest.mark.slow
def test_quiet_wins_over_the_diagnostics_filter(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUST_LOG", "debug")
    with open(system.folder / "told", "w") as file:
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "dora", name, "--quiet"], cwd=system.folder, stdout=file, stderr=file
            )
            for name in ("coordinator", "daemon")
        ]
        wait_until(lambda: system.client.is_reachable() and system.client.status().daemons, "the daemon")
        system.start(system.dataflow("quiet", waiter=FOREVER))
        system.dora("down", "--force")
        assert [process.wait(TIMEOUT) for process in processes] == [0, 0]
    assert (system.folder / "told").read_text() == ""


def test_a_start_writes_the_build_session_file(shared: System) -> None:
    first = shared.start(shared.dataflow("noted", waiter=FOREVER))
    session = shared.folder / "out" / "noted.dora-session.yaml"
    noted = session.read_text()
    assert f"waiter: {shared.folder}" in noted
    shared.dora("restart", first)
    assert session.read_text() == noted


def test_a_failed_build_is_reported_and_logged(shared: System) -> None:
    (shared.folder / "b.yml").write_text("nodes: [{id: a, path: a.py, build: 'false'}]")
    (shared.folder / "a.py").write_text(FOREVER)
    told = shared.dora("start", "b.yml", "--detach", status=1)
    assert "failed: " in told and "`a`" in told
    assert "ERROR" in shared.dora("logs", "b")


def test_a_stop_during_the_build_ends_it(shared: System) -> None:
    (shared.folder / "slow.yml").write_text("nodes: [{id: a, path: a.py, build: sleep 600}]")
    (shared.folder / "a.py").write_text(FOREVER)
    start = subprocess.Popen(
        [sys.executable, "-m", "dora", "start", "slow.yml", "--detach"],
        cwd=shared.folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: shared.client.active(), "the start")
    shared.dora("stop", "slow")
    start.communicate(timeout=TIMEOUT)
    assert start.returncode == 1
    assert shared.client.dataflow("slow").reason == "it was stopped before its nodes were started"


def test_a_stop_during_the_start_ends_the_start(shared: System) -> None:
    file = shared.dataflow("slow", a="import time\nprint('is there', flush=True)\ntime.sleep(600)")
    start = subprocess.Popen(
        [sys.executable, "-m", "dora", "start", file, "--detach"],
        cwd=shared.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_until(lambda: shared.client.active(), "the start")
    wait_until(lambda: "is there" in shared.dora("logs", "slow"), "the node")
    shared.dora("stop", "slow")
    told = start.communicate(timeout=TIMEOUT)[0]
    assert "does not run: it was stopped before all of its nodes were ready" in told
    assert start.returncode == 1


def test_nodes_that_ignore_a_stop_are_killed(shared: System) -> None:
    deaf = """
    import signal
    from dora import Node
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    node = Node()
    signal.pause()
    """
    file = shared.dataflow("deaf", a=deaf)
    shared.start(file)
    told = shared.dora("stop", "--grace-duration", "200ms", status=1)
    assert "had to be killed: it did not end within the grace duration of 0.2 s" in told
    shared.start(file)
    shared.dora("stop", "-f", status=1)
    assert not shared.client.active()


def test_ctrl_c_in_an_attached_start_stops_the_dataflow(shared: System) -> None:
    file = shared.dataflow("arm", a=FOREVER)
    attached = subprocess.Popen(
        [sys.executable, "-u", "-m", "dora", "start", file, "--attach"],
        cwd=shared.folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert attached.stdout is not None
    lines = []
    for line in attached.stdout:
        lines.append(line)
        if "got INPUT" in line:
            attached.send_signal(signal.SIGINT)
            break
    rest = attached.stdout.read()  # `communicate` leaves out what the loop has read ahead
    attached.wait(timeout=TIMEOUT)
    assert any(line.startswith("dataflow started: ") for line in [*lines, *rest.splitlines()])
    assert "got STOP" in rest
    assert attached.returncode == 0
    assert shared.client.dataflow("arm").status == "Finished"


@pytest.mark.slow
def test_every_command_finds_a_dataflow_by_name_file_and_node(shared: System) -> None:
    file = shared.dataflow("arm", motor=FOREVER)
    shared.start(file, "--name", "kitchen")
    shared.start(shared.dataflow("leg", knee=FOREVER))
    for wanted in ("kitchen", file, f"./{file}", "motor"):
        wait_until(lambda wanted=wanted: "got INPUT" in shared.dora("logs", wanted), wanted)
        assert shared.dora("node", "list", "-q", "-d", wanted) == "motor\n"
        assert '"kitchen"' in shared.dora("top", "--once", "-d", wanted)
    assert "dataflow restarted: " in shared.dora("restart", "motor")
    assert "dataflow stopped: " in shared.dora("stop", file)
    assert [view.name for view in shared.client.active()] == ["leg"]
    assert "got STOP" in shared.dora("logs", file), "the latest of the file"
    shared.start(shared.dataflow("foot", knee=FOREVER))
    shown = shared.dora("stop", "knee", status=1)
    assert "`knee` fits more than one dataflow:" in shown and "[leg]" in shown and "[foot]" in shown


@pytest.mark.slow
def test_names_files_nodes_and_topics_are_completed(shared: System) -> None:
    (shared.folder / "knee.py").write_text(FOREVER)
    knee = "{id: knee, path: knee.py, inputs: {tick: dora/timer/millis/50}, outputs: [angle]}"
    foot = "{id: foot, path: knee.py, inputs: {angle: knee/angle}}"
    (shared.folder / "leg.yml").write_text(f"nodes:\n- {knee}\n- {foot}\n")
    shared.start("leg.yml", "--name", "kitchen")

    def offered(line: str) -> list[str]:
        words = f"dora {line}"
        variables = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = subprocess.run(
            [sys.executable, "-m", "dora"],
            cwd=shared.folder,
            env={**os.environ, **variables, "_DORA_COMPLETE": "bash_complete"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        return [item.removeprefix("plain,") for item in done.stdout.split()]

    assert offered("stop k") == ["kitchen", "knee"]
    assert offered("logs l") == ["leg.yml"]
    assert offered("top -d ") == ["kitchen"]
    assert offered("logs kitchen --node ") == offered("node info ") == ["knee", "foot"]
    assert offered("topic hz -d kitchen k") == offered("node connect ") == ["knee/angle"]
    assert offered("node connect knee/angle f") == ["foot/angle"]
    assert offered("param get f") == ["foot"]


SLOW = (
    """
import os, time
while not os.path.exists("go"):
    time.sleep(0.01)
"""
    + FOREVER
)


def test_a_terminal_shows_a_dataflow_of_the_coordinator_like_one_of_run(
    shared: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    file = shared.dataflow("arm", a=SLOW, b=FOREVER)
    with on_terminal("start", file, cwd=shared.folder) as command:
        command.read_until(lambda text: "starting 2 nodes · waiting for a (" in plain(text))
        Path(shared.folder, "go").touch()
        command.read_until(lambda text: re.search(r"2 of 2 nodes · \d+ messages/s · none", plain(text)))
        assert re.search(r"\x1b\[2K2 nodes are running after \d", plain(command.text))
        command.process.send_signal(signal.SIGINT)
        assert command.end() == 0
    assert re.search(r"\r\nended after \d+(\.\d)? s\r\n$", command.text)


def test_an_unknown_name_is_reported(shared: System) -> None:
    shared.start(shared.dataflow("arm", a=FOREVER))
    told = shared.dora("stop", "amr", status=1)
    assert told == "error: no dataflow with name or UUID `amr`; did you mean `arm`?\n"


def test_no_coordinator(system: System) -> None:
    sentence = f"error: cannot connect to coordinator at 127.0.0.1:{system.port}: Connection refused\n"
    for command in (
        ["list"],
        ["stop"],
        ["start", system.dataflow("arm", a=FOREVER)],
        ["logs", "arm"],
    ):
        told = system.dora(*command, status=1)
        assert sentence in told
        assert "hint: is the coordinator running? Start it with `dora up`" in told
    assert "✗ Coordinator: Not running" in system.dora("status", status=1)
    assert system.dora("down", status=1) == (
        f"error: nothing is up: there is no coordinator at 127.0.0.1:{system.port}, "
        "and no daemon of it here\n"
    )


def test_a_list_without_a_coordinator_that_somebody_has_named(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dora.cli.commands.list import list_dataflows

    (port,) = (option for option in list_dataflows.params if option.name == "coordinator_port")
    monkeypatch.setattr(port, "default", system.port)
    monkeypatch.delenv("DORA_COORDINATOR_PORT")
    nothing = (
        "No dataflow runs here: there is no `dora run`, and no coordinator at "
        f"127.0.0.1:{system.port}. Start it with `dora up`.\n"
    )
    assert nothing in system.dora("list")
    assert system.dora("list", "-q") == nothing
    cannot = f"error: cannot connect to coordinator at 127.0.0.1:{system.port}: Connection refused"
    assert cannot in system.dora("list", "--coordinator-port", str(system.port), status=1)
    assert cannot in system.dora("list", "--coordinator-addr", "127.0.0.1", status=1)
    file = system.dataflow("arm", a=FOREVER)
    run = subprocess.Popen(
        [sys.executable, "-m", "dora", "run", file],
        cwd=system.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: system.dora("list").count("Running") == 1, "the run is in the list")
        assert nothing not in system.dora("list")
        assert cannot in system.dora("list", "--coordinator-port", str(system.port), status=1)
    finally:
        run.send_signal(signal.SIGINT)
        run.wait(60)


def test_the_status_with_a_dataflow_file(system: System) -> None:
    file = system.dataflow("arm", a=FOREVER)
    told = system.dora("status", "--dataflow", file, status=1)
    assert "✗ Daemon: Unknown" in told and "✓ Dataflow arm.yml: 1 node(s)" in told
    system.dora("up")
    assert "✓ Dataflow arm.yml: 1 node(s)" in system.dora("status", "--dataflow", file)
    (system.folder / "bad.yml").write_text("nodes: [{id: a, pth: a.py}]")
    told = system.dora("status", "--dataflow", "bad.yml", status=1)
    assert "✓ Daemon: Running" in told and "✗ Dataflow bad.yml: cannot be used" in told
    assert "did you mean `path`?" in told
    told = system.dora("status", "--dataflow", file, "-f", "json")
    assert json.loads(told)["dataflow"] == {"file": file, "status": "usable", "nodes": 1}


def test_a_port_of_another_program_is_reported(system: System) -> None:
    with socket.create_server(("127.0.0.1", system.port)) as other:
        other.settimeout(TIMEOUT)
        up = subprocess.Popen(
            [sys.executable, "-m", "dora", "up"], cwd=system.folder, stderr=subprocess.PIPE, text=True
        )
        peer, _ = other.accept()
        with peer:
            peer.recv(4096)
            peer.sendall(b"220 mail\r\n")
        _, told = up.communicate(timeout=TIMEOUT)
    assert up.returncode == 1
    assert "is not a dora coordinator; choose another port" in told
    assert not (system.folder / "out").exists()


def test_two_cold_starts_at_once(system: System) -> None:
    ups = [
        subprocess.Popen([sys.executable, "-m", "dora", "up"], cwd=system.folder, stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert 0 in [up.wait(TIMEOUT) for up in ups]
    assert len(system.client.status().daemons) == 1
    # A second one that was still starting would take over once the first one ends.
    for name in ("coordinator", "daemon"):
        wait_until(lambda name=name: len(processes_of(name, system.port)) == 1, f"one {name}")  # type: ignore[misc]


def test_an_up_that_fails_leaves_no_coordinator(system: System) -> None:
    (system.folder / "out" / "dora-daemon.txt").mkdir(parents=True)
    assert "cannot write" in system.dora("up", status=1)
    assert not processes_of("coordinator", system.port)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_up_that_is_interrupted_leaves_no_coordinator(system: System, number: signal.Signals) -> None:
    with daemon_lock("127.0.0.1", system.port):  # it waits for the daemon that seems to be there
        up = subprocess.Popen(
            [sys.executable, "-u", "-m", "dora", "up"],
            cwd=system.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert up.stdout is not None and up.stdout.readline() == "started dora coordinator\n"
        up.send_signal(number)
        _, told = up.communicate(timeout=TIMEOUT)
    assert up.returncode == 130 and "Traceback" not in told
    assert not processes_of("coordinator", system.port)


def test_an_up_whose_reader_has_ended_starts_everything(system: System) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "dora", "up"]
    done = subprocess.run(
        command, cwd=system.folder, stdout=writer, stderr=subprocess.PIPE, timeout=TIMEOUT
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "daemon already running" in system.dora("up")


def test_an_up_that_is_interrupted_leaves_no_daemon(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.dora("up")
    os.kill(daemon := system.daemon(), signal.SIGKILL)
    wait_until(lambda: not alive(daemon), "the end of the daemon")
    monkeypatch.chdir(system.folder)
    started = Background("daemon", ["--coordinator-port", str(system.port)])
    wait_until(lambda: running_daemon("127.0.0.1", system.port) == started.pid, "the new daemon")
    _stop_what_was_started(system.client, {"daemon": started})
    assert not alive(started.pid)


def processes_of(name: str, port: int) -> list[int]:
    """Return the processes that are, or want to be, the coordinator at a port or its daemon."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        command = process.info["cmdline"] or []
        if name in command and str(port) in command:
            found.append(process.info["pid"])
    return found


def test_a_daemon_that_starts_slowly_does_not_wait_for_the_end_of_a_quicker_one(system: System) -> None:
    system.dora("up")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as slow:
        try:
            assert not _wait_for_daemon(system.client, {"daemon": slow}, [])  # type: ignore[dict-item]
            assert slow.wait(TIMEOUT) == -signal.SIGTERM
        finally:
            slow.kill()


def test_logs_that_are_followed_end_with_the_dataflow(shared: System) -> None:
    shared.start(shared.dataflow("arm", a=FOREVER))
    follow = subprocess.Popen(
        [sys.executable, "-u", "-m", "dora", "logs", "arm", "-f", "--grep", "GOT", "--log-format", "json"],
        cwd=shared.folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert follow.stdout is not None
    assert json.loads(follow.stdout.readline())["message"] == "got INPUT"
    shared.dora("stop", "arm")
    rest, _ = follow.communicate(timeout=TIMEOUT)
    assert json.loads(rest.splitlines()[-1])["message"] == "got STOP"
    assert follow.returncode == 0
    assert "got INPUT" in shared.dora("logs", "--local", "--node", "a")
    assert "did you mean" in shared.dora("logs", "arm", "--node", "aa", status=1)


def test_a_failed_dataflow_is_reported_with_its_logs(shared: System) -> None:
    file = shared.dataflow("arm", a="raise SystemExit(3)")
    run = shared.dora("start", file, "--detach", status=1).partition("triggered: ")[2][:36]
    fault = f"dataflow arm ({run}) failed: node `a` exited with status 3\n"
    assert shared.dora("logs", "arm").endswith(fault)
    assert shared.dora("logs", "arm", "-f").endswith(fault)
    assert shared.dora("stop", "arm", status=1) == f"dataflow had ended already: {run}\n{fault}"


def test_ctrl_c_is_the_usual_end_of_following(shared: System) -> None:
    shared.start(shared.dataflow("arm", a=FOREVER))
    follow = subprocess.Popen(
        [sys.executable, "-u", "-m", "dora", "logs", "arm", "-f"],
        cwd=shared.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert follow.stdout is not None
    assert "got INPUT" in follow.stdout.readline()
    follow.send_signal(signal.SIGINT)
    _, complaints = follow.communicate(timeout=TIMEOUT)
    assert (follow.returncode, complaints) == (0, "")


def test_following_a_quiet_node_ends_when_nobody_reads_any_more(shared: System) -> None:
    shared.start(shared.dataflow("arm", a=FOREVER))
    follow = subprocess.Popen(
        [sys.executable, "-m", "dora", "logs", "arm", "-f", "--grep", "got STOP"],
        cwd=shared.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert follow.stdout is not None
    follow.stdout.close()
    assert follow.wait(TIMEOUT) == 1
    assert follow.stderr is not None
    assert follow.stderr.read() == ""
    follow.stderr.close()


@pytest.mark.slow
def test_an_attached_command_survives_the_coordinator(system: System) -> None:
    system.dora("up")
    attached = subprocess.Popen(
        [sys.executable, "-u", "-m", "dora", "start", system.dataflow("arm", a=FOREVER), "--attach"],
        cwd=system.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: [view for view in system.client.active() if view.status == "Running"], "the start")
    os.kill(system.coordinator(), signal.SIGKILL)
    assert attached.stderr is not None
    assert "no answer from the coordinator" in attached.stderr.readline()
    system.dora("up")
    system.dora("stop", "arm")
    out, _ = attached.communicate(timeout=TIMEOUT)
    assert attached.returncode == 0
    assert "got STOP" in out
