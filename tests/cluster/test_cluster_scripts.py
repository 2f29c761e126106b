"""What is run on machines: words that no shell takes apart, and what its failures mean."""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from waiting import TIMEOUT, alive, wait_until

from dora._paths import NO_TLS
from dora.cluster.ssh import connection as connections
from dora.cluster.ssh import daemons, scripts
from dora.cluster.ssh.connection import SshConnection, _remove_old_sockets
from dora.cluster.ssh.file import Cluster, Machine
from dora.cluster.ssh.ssh import MachineFault, PipedScript, command_line, on_all, reason, send_file
from dora.daemon.work import Work

ROBOT = Machine(id="robot", host="robot.local", user="ros", port=2222, labels={"gpu": "a b", "arm": "100%"})
CLUSTER = Cluster(address="10.0.0.1", port=6013, machines=(ROBOT,), file="cluster.yml")
ENCRYPTED = msgspec.structs.replace(CLUSTER, authority="/etc/ca.pem")
PLAIN = msgspec.structs.replace(CLUSTER, authority=NO_TLS)
ALL = {
    "start": scripts.start_daemon(CLUSTER, ROBOT, "stamp"),
    "end": scripts.end_daemon(ROBOT),
    "last": scripts.last_log_line(ROBOT),
    "look": scripts.log_of_ended_daemon(ROBOT),
    "install": scripts.install(CLUSTER, ROBOT),
    "prepare": scripts.prepare_install(ROBOT),
    "copies": scripts.list_copies(ROBOT, remove=True),
    "uninstall": scripts.uninstall(ROBOT),
    "wheel": scripts.install_wheel(ROBOT, "dora-1-py3-none-any.whl"),
    "end what was started": scripts.end_started_daemon(ROBOT, "stamp"),
    "start with TLS": scripts.start_daemon(ENCRYPTED, ROBOT, "stamp"),
    "install with TLS": scripts.install(ENCRYPTED, ROBOT),
    "start without TLS": scripts.start_daemon(PLAIN, ROBOT, "stamp"),
    "install without TLS": scripts.install(PLAIN, ROBOT),
    "receive": scripts.receive_copy(ROBOT, "flow-1"),
}


@pytest.mark.processes
@pytest.mark.parametrize("name", ALL)
def test_scripts_run_in_any_posix_shell(name: str) -> None:
    subprocess.run(["sh", "-n"], input=ALL[name], text=True, check=True)


def test_ssh_never_prompts_and_gets_the_script_as_one_word() -> None:
    words = command_line(ROBOT, "echo 'it is'")
    assert words[0] == "ssh" and "BatchMode=yes" in words
    assert words[-6:-1] == ["-p", "2222", "-l", "ros", "robot.local"]
    assert shlex.split(words[-1]) == ["exec", "sh", "-c", "echo 'it is'"]


def test_the_daemon_gets_the_options_of_the_cluster_file() -> None:
    assert scripts.daemon_options(CLUSTER, Machine(id="a", host="b", address="10.0.0.7")) == [
        *("--machine-id", "a", "--coordinator-addr", "10.0.0.1", "--coordinator-port", "6013"),
        *("--interface", "10.0.0.7"),
    ]
    assert scripts.daemon_options(CLUSTER, ROBOT)[-2:] == ["--labels", "arm=100%,gpu=a b"]
    for port in (0, 7000):
        options = scripts.daemon_options(CLUSTER, Machine(id="a", host="b", link_port=port))
        assert options[-2:] == ["--link-port", str(port)]


def test_words_of_a_unit_are_quoted_for_systemd() -> None:
    line = next(line for line in scripts.unit(CLUSTER, ROBOT).splitlines() if line.startswith("ExecStart"))
    assert line.endswith(' "--labels" "arm=100%%,gpu=a b"')


def test_the_command_is_found_in_the_home_folder() -> None:
    machine = Machine(id="a", host="b", dora="~/venv/bin/dora")
    assert scripts.command(machine) == '"$HOME"/venv/bin/dora'


@pytest.mark.parametrize(
    ("status", "said", "told"),
    [
        (255, "ros@robot: Permission denied (publickey).", "`ssh -p 2222 -l ros robot.local` has to work"),
        (255, "Host key verification failed.\r", "its host key is unknown"),
        (255, "ssh: Could not resolve hostname robot.local: Name or service not known", "check the name"),
        (255, "ssh: connect to host robot.local port 22: Connection timed out", "does not answer"),
        (255, "something new", "something new"),
        (127, "not found", "there is no command `dora` on robot.local"),
        (1, "warning: x\nerror: the disk is full\nbye", "the disk is full"),
        (1, "", "the command ended with exit status 1"),
    ],
)
def test_ssh_errors_are_reported_with_a_remedy(status: int, said: str, told: str) -> None:
    assert told in reason(ROBOT, status, said)


def test_every_machine_is_tried_and_reports_its_own_fault() -> None:
    desk = Machine(id="desk", host="desk")

    def work(machine: Machine) -> str:
        if machine is desk:
            raise MachineFault(machine, "it is off")
        return "done"

    results, (fault,) = on_all([ROBOT, desk], work)
    assert results == [(ROBOT, "done")] and str(fault) == "desk: it is off"


def test_a_port_that_is_not_forwarded_in_time_is_a_fault_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hang(command: list[str], *, timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr("subprocess.run", hang)
    connection: Any = SimpleNamespace(machine=ROBOT, _socket="/socket")
    with pytest.raises(MachineFault, match=r"robot: ssh has not forwarded a port \(-ports-\) within 60 s"):
        SshConnection._forward(connection, "-L", "-ports-")


def test_two_commands_may_remove_the_same_socket_of_a_killed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets = [tmp_path / "s3ffffe", tmp_path / "s3fffff"]
    for path in sockets:
        path.touch()

    def removed_by_the_other(*_: int) -> None:
        for path in sockets:
            path.unlink(missing_ok=True)
        raise ProcessLookupError

    monkeypatch.setattr(os, "kill", removed_by_the_other)
    _remove_old_sockets(str(tmp_path))
    assert not any(path.exists() for path in sockets)


def test_sockets_of_commands_that_live_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(pid: int, _: int) -> None:
        if pid == 0x3FFFFE:
            raise ProcessLookupError
        raise PermissionError("it is another user's")

    monkeypatch.setattr(os, "kill", kill)
    names = ["s3ffffe", "s3fffff", f"s{os.getpid():x}", "s3ffffe.lock", "shared"]
    for name in names:
        (tmp_path / name).touch()
    _remove_old_sockets(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {*names[1:]}


@pytest.fixture
def local_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return a function that puts a program of sh in the place of ssh; the script is its last word.

    The program may write its number to the file that the function returns.
    """
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(connections, "usable_root", lambda: str(tmp_path))

    def put(program: str) -> Path:
        ssh = tmp_path / "ssh"
        ssh.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\n{program}\n")
        ssh.chmod(0o755)
        return tmp_path / "pid"

    return put


RUNS = 'for script; do :; done; exec sh -c "$script"'


@pytest.mark.processes
def test_a_connection_gives_the_answer_of_its_script_and_ends_with_its_block(
    local_ssh: Callable[[str], Path], tmp_path: Path
) -> None:
    pid = local_ssh(f"touch {tmp_path}/s{os.getpid():x}\n{RUNS}")
    with SshConnection(ROBOT, "echo welcome; echo dora system Linux; echo dora folder /a") as connection:
        assert connection.answer == ["system Linux", "folder /a"]
        assert connection.machine.connection == f"{tmp_path}/s{os.getpid():x}"
        assert alive(int(pid.read_text()))
    assert not alive(int(pid.read_text()))
    assert not Path(connection.machine.connection).exists(), "this ssh has left it, as one that is killed"


@pytest.mark.processes
@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("echo 'Permission denied' >&2; exit 255", "robot: ssh to robot.local failed: it wants more than"),
        ("exec sleep 60", "robot: it took longer than 0 s, and was given up"),
    ],
)
def test_a_connection_that_fails_leaves_no_process_and_no_thread(
    local_ssh: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, program: str, told: str
) -> None:
    pid = local_ssh(program)
    if "sleep" in program:
        monkeypatch.setattr(connections, "COMMAND_TIMEOUT", 0.2)
    threads = threading.active_count()
    with pytest.raises(MachineFault, match=told):
        SshConnection(ROBOT, "true")
    started = pid.read_text() if pid.exists() else ""
    assert not started or not alive(int(started))
    wait_until(lambda: threading.active_count() <= threads, "the threads to end")


@pytest.mark.processes
def test_a_connection_that_is_interrupted_while_it_is_made_leaves_no_process(
    local_ssh: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = local_ssh("exec sleep 60")

    def interrupted(_: SshConnection) -> None:
        wait_until(lambda: pid.exists() and pid.read_text(), "the start of ssh")
        raise KeyboardInterrupt

    monkeypatch.setattr(connections, "_END_TIMEOUT", 0.01)
    monkeypatch.setattr(SshConnection, "_read_answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        SshConnection(ROBOT, "true")
    assert not alive(int(pid.read_text()))


@pytest.mark.processes
def test_a_run_that_was_killed_is_told_from_a_connection_that_is_lost(
    local_ssh: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = local_ssh(RUNS)
    monkeypatch.setattr(connections, "_LOSS_TIMEOUT", 0.01)
    with SshConnection(ROBOT, "true") as connection:
        assert connection.fault().reason == "the dora there was killed, and the dataflow with it"
        os.kill(int(pid.read_text()), 9)
        monkeypatch.setattr(connections, "_LOSS_TIMEOUT", TIMEOUT)
        assert "the connection is lost" in connection.fault().reason


def files() -> int:
    return len(os.listdir("/dev/fd"))


class SeenWork(Work):
    """Work that notes how much was done at each change of its phase."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def become(self, done: int, total: int, unit: str = "") -> None:
        self.seen.append((self.done, self.total))
        super().become(done, total, unit)


@pytest.mark.processes
@pytest.mark.parametrize("script", ["cat", "true", "echo 'error: the disk is full' >&2; exit 1"])
def test_a_file_is_sent_as_far_as_it_is_taken_and_leaves_nothing_open(
    local_ssh: Callable[[str], Path], tmp_path: Path, script: str
) -> None:
    local_ssh(RUNS)
    file = tmp_path / "wheel"
    file.write_bytes(b"w" * 1_000_000)
    work = SeenWork()
    before = files(), threading.active_count()
    if script.startswith("echo"):
        with pytest.raises(MachineFault, match="robot: the disk is full"):
            send_file(ROBOT, lambda *_: script, str(file), TIMEOUT, work)
    else:
        sent = send_file(ROBOT, lambda *_: script, str(file), TIMEOUT, work)
        assert sent == ("w" * 1_000_000 if script == "cat" else "")
        if script == "cat":
            assert work.seen == [(0, 0), (1_000_000, 1_000_000)]
    assert (work.done, work.total) == (0, 0), "nothing more is known"
    assert (files(), threading.active_count()) == before


@pytest.mark.processes
def test_a_script_that_is_left_ends_and_leaves_nothing_open(local_ssh: Callable[[str], Path]) -> None:
    local_ssh(RUNS)
    before = files()
    with PipedScript(ROBOT, "echo ready; exec sleep 60") as script:
        assert script.stdout.readline() == b"ready\n"
        script.stdin.write(b"x" * 1000)  # nobody takes it
    assert script.process.returncode == -9
    wait_until(lambda: files() == before, "its standard error to be closed")


@pytest.mark.processes
def test_the_last_lines_of_standard_error_come_with_the_status(local_ssh: Callable[[str], Path]) -> None:
    local_ssh(RUNS)
    with PipedScript(ROBOT, "(sleep 0.1; seq 200) >&2 & exit 3") as script:
        status, errors = script.wait()
    assert status == 3 and errors.split() == [str(number) for number in range(101, 201)]


LEFT, RIGHT = Machine(id="left", host="left"), Machine(id="right", host="right")


class Machines:
    """Stands in for ssh: notes the scripts by their names, and answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[tuple[str, str]] = []
        self.answers: dict[tuple[str, str], str | MachineFault] = {}
        for name in ("start_daemon", "end_daemon", "prepare_install", "install"):
            monkeypatch.setattr(scripts, name, lambda *_, name=name: name)
        for name in ("log_of_ended_daemon", "last_log_line"):
            monkeypatch.setattr(scripts, name, lambda *_, name=name: name)
        monkeypatch.setattr(daemons, "run", self.run)
        monkeypatch.setattr(daemons, "send_file", lambda machine, *_: self.run(machine, "install_wheel"))
        monkeypatch.setattr(daemons, "_POLL_INTERVAL", 0.0)

    def run(self, machine: Machine, script: str, **_: Any) -> str:
        self.ran.append((machine.id, script))
        answer = self.answers.get((machine.id, script), "")
        if isinstance(answer, MachineFault):
            raise answer
        return answer

    def scripts_of(self, machine: str) -> list[str]:
        return [script for id, script in self.ran if id == machine]


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Machines:
    return Machines(monkeypatch)


def connected_after(looks: int, *ids: str) -> Callable[[], set[str]]:
    """Return a function of the ids that are connected: none, and these after so many looks."""
    left = iter(range(looks))
    return lambda: set(ids) if next(left, None) is None else set()


def test_only_daemons_that_were_started_are_waited_for(machines: Machines) -> None:
    machines.answers["left", "start_daemon"] = MachineFault(LEFT, "it is off")
    said: list[str] = []
    (fault,) = daemons.start(CLUSTER, [LEFT, RIGHT], "token", connected_after(3, "right"), said.append)
    assert str(fault) == "left: it is off" and said == ["right: started dora daemon"]


def test_a_daemon_that_has_ended_is_reported_once_and_the_others_are_waited_for(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemons, "_SSH_POLL_INTERVAL", 0.0)
    machines.answers["left", "log_of_ended_daemon"] = "started\nerror: the moon is full\n"
    said: list[str] = []
    (fault,) = daemons.await_daemons(CLUSTER, [LEFT, RIGHT], connected_after(5, "right"), said.append)
    assert str(fault) == "left: the daemon could not be started: the moon is full"
    assert said == ["right"]
    assert machines.scripts_of("left") == ["log_of_ended_daemon"]


def test_machines_are_asked_now_and_then_only_and_in_the_end_no_more(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(
        daemons, "time", SimpleNamespace(monotonic=lambda: 0.5 * next(clock), sleep=lambda _: None)
    )
    monkeypatch.setattr(daemons, "START_TIMEOUT", 10.0)
    machines.answers["left", "last_log_line"] = "it is dark\n"
    (fault,) = daemons.await_daemons(CLUSTER, [LEFT], set, print)
    assert fault.reason == (
        "its daemon has not reached the coordinator at 10.0.0.1:6013 within 10 s; it says: it is dark"
    )
    assert machines.scripts_of("left") == ["log_of_ended_daemon"] * 4 + ["last_log_line"]


@pytest.mark.parametrize("failing", ["prepare_install", "install_wheel"])
def test_a_daemon_goes_on_where_no_service_or_no_wheel_can_be_installed(
    machines: Machines, failing: str
) -> None:
    machines.answers["left", failing] = MachineFault(LEFT, "it cannot be installed")
    if failing == "prepare_install":
        faults = daemons.install(CLUSTER, [LEFT, RIGHT], "token", connected_after(0, "right"), print)
        assert machines.scripts_of("right") == ["prepare_install", "end_daemon", "install"]
    else:
        faults = daemons.upgrade(CLUSTER, LEFT, "dora.whl", "token", set, print, Work())
    assert list(map(str, faults)) == ["left: it cannot be installed"]
    assert machines.scripts_of("left") == [failing]


def test_an_upgraded_daemon_is_another_process(machines: Machines) -> None:
    connected = connected_after(0, "left")
    assert daemons.upgrade(CLUSTER, LEFT, "dora.whl", "token", connected, print, Work()) == []
    assert machines.scripts_of("left") == ["install_wheel", "end_daemon", "start_daemon"]
