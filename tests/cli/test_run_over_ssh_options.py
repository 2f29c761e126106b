"""``dora run --on``: what is refused before ssh is tried, and what passes between the two ends."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import run_command
from waiting import TIMEOUT, wait_until

from dora.cli import run_on_both as both
from dora.cli import run_over_ssh
from dora.cli.run_on_both import run_on_both
from dora.cli.run_over_ssh import MarkedOutput
from dora.cli.session import Component, Order
from dora.cluster.client import Unreachable
from dora.cluster.http_api import MachineView
from dora.cluster.ssh.environment import MachineFacts
from dora.cluster.ssh.file import Machine
from dora.cluster.ssh.ssh import MachineFault
from dora.daemon.processes.ending import end_by_stdin
from dora.errors import DoraError
from dora.wire.decoders import from_json


def printed_by(folder: Path, *arguments: str) -> tuple[int, str]:
    status, printed = run_command("run", *arguments, folder=folder, env={"PATH": ""})
    return status, printed.splitlines()[0]


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    (tmp_path / "a.py").touch()
    (tmp_path / "dataflow.yml").write_text(json.dumps({"nodes": [{"id": "a", "path": "a.py"}]}))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (
            ["--detach"],
            2,
            "error: --detach goes with --on; `dora up` and `dora start` leave a dataflow here",
        ),
        (
            ["--link-port", "7000"],
            2,
            "error: --link-port goes with --on; other machines join with `dora da",
        ),
        (
            ["--on", "r", "--link-port", "0"],
            1,
            "error: --link-port is for links with nodes that run here, and no node has `machine: local`",
        ),
        (["--on", "-x"], 2, "error: invalid value for '--on': `-x` is no machine for ssh"),
        (["--on", "r", "https://example.org/a.yml"], 2, "error: --on copies the folder of FILE, which"),
        (["--on", "r", "--detach", "--ui"], 2, "error: --ui needs this command to stay, and --detach lets"),
        (["--on", "r", "--detach", "--open"], 2, "error: --open needs this command to stay, and --detach"),
        (["--on", "r", "--detach", "--hot-reload"], 2, "error: --hot-reload needs this command to stay"),
        (["--on", "r", "--write-lockfile"], 2, "error: --write-lockfile would write on the other machine"),
        (["--on", "r", "--locked", "--lockfile", "x"], 2, "error: --lockfile cannot be used with --on"),
        (["--on", "r", "none.yml"], 1, "error: there is no file `none.yml`"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    flow: Path, arguments: list[str], status: int, told: str
) -> None:
    found, printed = printed_by(flow, *arguments)
    assert found == status and printed.startswith(told), printed


def test_options_that_are_too_long_for_the_other_end_are_refused(flow: Path) -> None:
    status, printed = printed_by(flow, "--on", "r", "--env", f"A={'x' * (1 << 20)}")
    assert status == 1 and "and 1,040,384 go over ssh; give long values in a file" in printed


@pytest.mark.parametrize(
    ("node", "told"),
    [
        ({"deploy": {"machine": "desk"}}, "that is not `machine: local`, and --on knows only r and this"),
        ({"deploy": {"labels": {"gpu": True}}}, "that is not `machine: local`"),
        ({"path": "../b.py"}, "../b.py is not in the folder of the dataflow file, and only that is copied"),
    ],
)
def test_a_node_that_can_run_on_neither_machine_is_refused(
    flow: Path, node: dict[str, object], told: str
) -> None:
    (flow / "flow").mkdir()
    (flow / "b.py").touch()
    (flow / "flow" / "a.py").touch()
    nodes = [{"id": "a", "path": "a.py", **node}]
    (flow / "flow" / "dataflow.yml").write_text(json.dumps({"nodes": nodes}))
    status, printed = printed_by(flow / "flow", "--on", "r")
    assert status == 1 and told in printed


@pytest.mark.parametrize("option", [["--detach"], ["--locked"]])
def test_a_node_that_runs_here_needs_a_command_that_stays(flow: Path, option: list[str]) -> None:
    nodes = [{"id": "a", "path": "a.py", "deploy": {"machine": "local"}}]
    (flow / "dataflow.yml").write_text(json.dumps({"nodes": nodes}))
    status, printed = printed_by(flow, "--on", "r", *option)
    assert status == 1 and printed.startswith("error: node `a` runs here (dataflow.yml:1:")


def test_one_of_the_two_machines_has_a_port_for_links(flow: Path) -> None:
    nodes = [{"id": "a", "path": "a.py", "deploy": {"machine": "local"}}]
    (flow / "dataflow.yml").write_text(json.dumps({"nodes": nodes}))
    arguments = ("run", "--on", "r", "--link-port", "0")
    status, printed = run_command(*arguments, folder=flow, env={"PATH": "", "DORA_LINK_PORT": "0"})
    assert (status, printed) == (
        1,
        "error: --link-port 0 and DORA_LINK_PORT=0 leave no machine a port for links; leave out one\n",
    )


@pytest.mark.parametrize("size", [1, 3, 100])
def test_marked_lines_are_taken_out_of_the_output(size: int) -> None:
    shown, lines = b"", []

    def show(data: bytes) -> None:
        nonlocal shown
        shown += data

    output = MarkedOutput(b"\0mark ", show, lines.append)
    stream = b"one\0mark ready\ntwo\0mar\0mark page 1 x\r\n\0other\n\0mark"
    for begin in range(0, len(stream), size):
        output.feed(stream[begin : begin + size])
    output.end()
    assert shown == b"onetwo\0mar\0other\n\0mark" and lines == [["ready"], ["page", "1", "x"]]


def test_a_machine_that_is_this_one_needs_no_node_for_the_local_machine() -> None:
    found = MachineFacts(here="127.0.0.1", there="127.0.0.1")
    unused: Any = None
    with pytest.raises(DoraError, match="localhost is this machine, so no node needs `machine: local`"):
        run_on_both(unused, Machine(id="localhost", host="localhost"), found, "", unused, unused)


@pytest.mark.processes
def test_the_session_here_is_not_killed_before_the_grace_of_its_nodes_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timeouts = []

    def end(process: Any, timeout: float) -> None:
        timeouts.append(timeout)
        end_by_stdin(process, timeout)

    monkeypatch.setattr(both, "end_by_stdin", end)
    with both._SessionProcess("a daemon", Order(component=Component(1), grace=100.0)):
        pass
    assert timeouts[0] > 1.5 * 100.0, "those that are killed end before it"


@pytest.mark.parametrize("fault", [OSError("it cannot be read"), ValueError("it is odd")])
def test_hot_reload_goes_on_after_a_fault_and_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: Exception
) -> None:
    copied = threading.Event()
    looks = iter([fault])

    def look(folder: str) -> dict[str, Any]:  # noqa: ARG001
        for first in looks:
            raise first
        return {"a.py": (1, 1, 1)}

    monkeypatch.setattr(run_over_ssh, "_LOOK_EVERY", 0.001)
    monkeypatch.setattr(run_over_ssh, "scan_folder", look)
    monkeypatch.setattr(run_over_ssh, "copy_folder", lambda *_: copied.set())
    with run_over_ssh._keep_copied(Machine(id="r", host="r"), str(tmp_path), {}):
        assert copied.wait(30)
    assert f"warning: {fault}" in capsys.readouterr().err


class Ports:
    """The way to a machine on which so many ports are taken."""

    def __init__(self, taken: int) -> None:
        self.taken = taken
        self.tried: list[int] = []

    def forward_back(self, port: int) -> None:
        self.tried.append(port)
        if len(self.tried) <= self.taken:
            raise MachineFault(Machine(id="r", host="r"), "the port is taken")


def test_instead_of_a_port_that_is_taken_on_the_other_machine_some_more_are_tried() -> None:
    some: Any = Ports(taken=4)
    assert both._common_port(some) == some.tried[4]
    all_of_them: Any = Ports(taken=5)
    with pytest.raises(MachineFault, match="r: the port is taken"):
        both._common_port(all_of_them)
    assert len(all_of_them.tried) == 5


def test_a_machine_that_is_away_is_not_connected() -> None:
    machines = [MachineView(id="here"), MachineView(id="there", away_since=1.0)]
    client: Any = SimpleNamespace(status=lambda: SimpleNamespace(machines=machines))
    assert both._connected(client) == {"here"}

    def status() -> None:
        raise Unreachable("it is starting", lambda: "")

    client = SimpleNamespace(status=status)
    assert both._connected(client) == set()


def test_a_component_is_waited_for_while_it_lives_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def check() -> None:
        raise DoraError("it was killed")

    both._wait_until(lambda: True, check, "it does not answer")
    with pytest.raises(DoraError, match="it was killed"):
        both._wait_until(lambda: False, check, "it does not answer")
    monkeypatch.setattr(both, "START_TIMEOUT", 0.0)
    with pytest.raises(DoraError, match="it does not answer after 0 s"):
        both._wait_until(lambda: False, lambda: None, "it does not answer")


def session_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch, program: str, **options: Any
) -> both._SessionProcess:
    """Start a program of sh in place of the session, with its mark in ``$6``."""
    path = folder / "session"
    path.write_text(f"#!/bin/sh\n{program}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))
    return both._SessionProcess("a daemon", Order(component=Component(1), **options))


@pytest.mark.processes
def test_a_session_gets_its_order_when_it_is_ready_and_then_hears_that_the_other_end_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(both, "LINE_EVERY", 0.1)
    heard = tmp_path / "heard"
    program = f"echo greetings; printf '\\0%s ready\\n' \"$6\"; seq 50000; exec cat >{heard}"
    with session_process(tmp_path, monkeypatch, program, grace=7.0) as process:
        wait_until(lambda: heard.exists(), "the session to go on, with its output read")
        wait_until(lambda: b"alive\nalive\n" in heard.read_bytes(), "a sign of life")
        process.check()
        assert len(process._output) < 100, "the last lines are kept"
    order = heard.read_bytes().splitlines()[0]
    assert from_json(order, Order) == Order(component=Component(1), grace=7.0)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("(sleep 0.1; echo 'error: the port is taken') >&2 & echo odd >&2", "has ended: the port is taken"),
        ("echo 'error: not the last' >&2; echo later >&2; kill -9 $$", "a daemon was killed"),
        ("exec sleep 0", "a daemon was killed"),
    ],
)
def test_a_session_that_ends_by_itself_says_why_with_its_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, told: str
) -> None:
    monkeypatch.setattr(both, "_READ_TIMEOUT", TIMEOUT)
    with session_process(tmp_path, monkeypatch, program) as process:
        process._process.wait(TIMEOUT)
        with pytest.raises(DoraError, match=told):
            process.check()
