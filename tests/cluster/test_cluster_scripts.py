"""What is run on machines: words that no shell takes apart, and what its failures mean."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from dora._paths import NO_TLS
from dora.cluster.ssh import scripts
from dora.cluster.ssh.connection import SshConnection, _remove_old_sockets
from dora.cluster.ssh.file import Cluster, Machine
from dora.cluster.ssh.ssh import MachineFault, command_line, on_all, reason

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
