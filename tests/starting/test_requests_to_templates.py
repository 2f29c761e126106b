"""A daemon asks a template for processes: each runs at most once, and neither side keeps anything."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from waiting import TIMEOUT, alive, wait_until

from dora.daemon.event_loop import Loop
from dora.daemon.template import client as module
from dora.daemon.template import server
from dora.daemon.template.children import MAX_CHILDREN, PackageSet
from dora.daemon.template.client import ForkedProcess, PendingStart, TemplateClient, fork_request
from dora.daemon.template.process import _VARIABLES as VARIABLES
from dora.daemon.template.process import OwnTemplate
from dora.daemon.template.protocol import (
    REAP,
    STATE,
    ExitStatus,
    Refused,
    pass_on,
    receive_descriptors,
    receive_states,
    send_answer,
)
from dora.dataflow.model import NodeSpec, PreloadedPackage

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="templates need Linux"),
]

WAIT = "import signal; signal.pause()"
GIVEN_UP = "it takes too long"


class Daemon:
    """The part of a daemon that starts processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loop = Loop()
        self.template = OwnTemplate("", "")
        self.client = TemplateClient(self.loop, self.template)
        self.started: list[ForkedProcess] = []
        self.refused: list[Refused] = []

    def start(self, code: str, *packages: str) -> PendingStart:
        script = self.folder / "script.py"
        script.write_text(code)
        preload = tuple(PreloadedPackage(name, "") for name in packages)
        node = NodeSpec("a", path=str(script), preload=preload)
        command = [sys.executable, "-u", str(script)]
        request = fork_request(node, command, VARIABLES | dict(os.environ), str(self.folder))
        return self.client.start(request, self.started.append, self.refused.append)

    def until(self, condition: Callable[[], object]) -> None:
        def turn() -> object:
            self.loop.run_once(0.0)
            assert {refused.reason for refused in self.refused} <= {GIVEN_UP}
            return condition()

        wait_until(turn, "the template")

    def started_now(self, code: str, *packages: str) -> ForkedProcess:
        count = len(self.started)
        self.start(code, *packages)
        self.until(lambda: self.started[count:])
        return self.started[count]

    def close(self) -> None:
        self.client.close()
        self.template.close()
        self.loop.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path)
    try:
        yield daemon
    finally:
        for process in daemon.started:
            if alive(process.pid):
                os.kill(process.pid, signal.SIGKILL)
        daemon.close()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def end(daemon: Daemon, process: ForkedProcess, *, is_asked: bool) -> None:
    """Have a process end; its exit status is asked for, or it is forgotten while it runs."""
    if not is_asked:
        process.close()
    os.kill(process.pid, signal.SIGKILL)
    if is_asked:
        select.select([process.pidfd], [], [], TIMEOUT)
        statuses: list[int | None] = []
        process.reap(daemon.loop, statuses.append)
        daemon.until(lambda: statuses)
        assert statuses == [-signal.SIGKILL]
        process.close()


@pytest.mark.parametrize("is_asked", [True, False], ids=["asked for", "forgotten"])
@pytest.mark.parametrize("packages", [(), ("colorsys",)], ids=["base", "packages"])
def test_a_template_keeps_nothing_of_processes_that_have_ended(
    daemon: Daemon, packages: tuple[str, ...], is_asked: bool
) -> None:
    first = daemon.started_now(WAIT, *packages)
    base, template = daemon.template.pid, parent(first.pid)
    end(daemon, first, is_asked=is_asked)
    # Each keeps a process that it has forked ahead, and the base the template of the packages.
    expected = {base: 1 + len(packages)} | ({template: 1} if packages else {})

    def kept() -> dict[int, int]:
        ended = {process.pid for process in daemon.started}
        found = {pid: set(children(pid)) for pid in expected}
        return {pid: -1 if found[pid] & ended else len(found[pid]) for pid in expected}

    wait_until(lambda: kept() == expected, "the processes to be reaped")
    before = sum(files(pid) for pid in expected)
    for _ in range(5):
        daemon.start(WAIT, *packages)
    daemon.until(lambda: len(daemon.started) == 6)
    for process in daemon.started[1:]:
        end(daemon, process, is_asked=is_asked)
    wait_until(lambda: kept() == expected, "the processes to be reaped")
    # The channel of the first may still have been open, for a moment.
    wait_until(lambda: sum(files(pid) for pid in expected) <= before, "the files to be closed")


def test_a_template_keeps_no_file_of_a_request_that_has_waited_for_an_import(daemon: Daemon) -> None:
    daemon.started_now(WAIT)
    wait_until(lambda: len(children(daemon.template.pid)) == 2, "the process that is forked ahead")
    before = files(daemon.template.pid)
    for _ in range(3):
        daemon.start(WAIT, "colorsys")
    daemon.until(lambda: len(daemon.started) == 4)
    # One more: the connection to the other template. One of those before may have been open for a moment,
    # and each of the three requests would keep at least one.
    wait_until(lambda: files(daemon.template.pid) <= before + 1, "the files to be closed")


def test_processes_have_no_files_of_the_template(daemon: Daemon) -> None:
    first, second = daemon.started_now(WAIT, "colorsys"), daemon.started_now(WAIT)
    assert parent(first.pid) != parent(second.pid) == daemon.template.pid
    third = daemon.started_now(WAIT, "colorsys")
    for process in (first, second, third):
        wait_until(lambda: files(process.pid) == 3, "its own files alone")  # noqa: B023


def test_each_answer_of_a_template_sends_the_next_request(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 1)
    monkeypatch.setattr(module, "_LOOK_EVERY", 10 * TIMEOUT)
    for _ in range(3):
        daemon.start(WAIT)
    daemon.until(lambda: len(daemon.started) == 3)


def test_no_process_begins_that_was_given_up_before_its_template_has_answered(daemon: Daemon) -> None:
    daemon.started_now(WAIT)
    os.kill(daemon.template.pid, signal.SIGSTOP)
    given_up = daemon.start("open('ran', 'w').close()")
    daemon.until(lambda: given_up.sent_at)
    given_up.give_up(GIVEN_UP)
    assert [refused.reason for refused in daemon.refused] == [GIVEN_UP]
    os.kill(daemon.template.pid, signal.SIGCONT)
    daemon.started_now(WAIT)
    # The two that were started, and one that was forked ahead.
    wait_until(lambda: len(children(daemon.template.pid)) == 3, "the end of the process")
    assert not (daemon.folder / "ran").exists()


def test_no_request_is_sent_after_the_end_of_the_client(daemon: Daemon) -> None:
    start = daemon.start(WAIT)
    daemon.client.close()
    for _ in range(2):
        daemon.loop.run_once(0.0)
    assert start.over and not start.sent_at


def test_all_template_processes_of_a_daemon_end_with_it(daemon: Daemon) -> None:
    first = daemon.template.pid
    daemon.started_now(WAIT)  # the template does not end while it runs
    daemon.template.renew()
    daemon.template.close()
    assert not os.path.exists(f"/proc/{first}") and not os.path.exists(f"/proc/{daemon.template.pid}")


@pytest.mark.slow
def test_of_too_many_templates_of_packages_the_one_ends_that_was_not_used_for_the_longest_time(
    daemon: Daemon,
) -> None:
    text = """
        cmd code colorsys compileall filecmp fileinput ftplib graphlib imaplib modulefinder netrc
        plistlib poplib pstats pyclbr sched shelve smtplib stringprep symtable tabnanny trace wave zipapp
    """
    names = text.split()
    templates: dict[str, int] = {}

    def use(name: str) -> int:
        process = daemon.started_now(WAIT, name)
        template = parent(process.pid)
        end(daemon, process, is_asked=True)
        return template

    def use_another() -> None:
        while (template := use(name := names.pop())) == daemon.template.pid:
            pass  # the template of all nodes has this module
        templates[name] = template

    while len(templates) < MAX_CHILDREN:
        use_another()
    first, second, *_ = templates
    assert use(first) == templates[first]
    use_another()
    wait_until(lambda: not alive(templates[second]), "the end of the template")
    assert alive(templates[first])


def test_the_exit_status_is_told_once() -> None:
    ours, of_template = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    process = ForkedProcess(os.getpid(), ours, *os.pipe())  # no zombie
    loop = Loop()
    statuses: list[int | None] = []
    process.reap(loop, statuses.append)
    assert of_template.recv(16) == REAP
    send_answer(of_template, ExitStatus(3))
    while not statuses:
        loop.run_once(None)
    # Nothing is due any more, such as the end of the wait for the answer.
    assert all(timer.callback is None for _, _, timer in loop._timers)
    assert statuses == [3]
    process.close()
    of_template.close()
    loop.close()


def test_what_is_no_request_leaves_no_file_open() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        before = os.listdir("/proc/self/fd")
        pass_on(ours, [0, 1, 2])
        with pytest.raises(ValueError, match="no request"):
            receive_descriptors(theirs)
        assert os.listdir("/proc/self/fd") == before


def test_a_template_is_kept_some_time_after_its_last_connection_unless_memory_is_short(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now, is_short = 0.0, False
    monkeypatch.setattr(server, "time", SimpleNamespace(monotonic=lambda: now, time=time.time))
    monkeypatch.setattr(server, "memory_is_short", lambda: is_short)
    address = str(tmp_path / "template.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen()
        template = server.Template(listener, {}, PackageSet(()), {})

        def connected() -> socket.socket:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            connection.connect(address)
            template._accept(listener)
            return connection

        def serve() -> None:
            (connection,) = template._connections.values()
            template._on_connection(connection)
            assert not template._connections

        connection = connected()
        now += 10 * server.IDLE_TIMEOUT
        connection.close()
        serve()
        now += 0.9 * server.IDLE_TIMEOUT
        assert template._is_kept()
        with connected() as connection:
            connection.send(STATE)
            serve()
            assert [state.pid for state in receive_states(connection)] == [os.getpid()]
        is_short = True
        assert not template._is_kept()
        is_short = False
        assert template._is_kept()
        now += 0.2 * server.IDLE_TIMEOUT
        assert not template._is_kept(), "a question is no use of it"


def test_a_template_that_ends_again_and_again_is_renewed_a_limited_number_of_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Template:
        pid = os.getpid()
        renewals = 0

        def __init__(self) -> None:
            self.connection, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            other.close()

        def renew(self) -> None:
            self.renewals += 1
            self.connection.close()
            if self.renewals == 2:
                raise OSError("this machine has no room for it now")
            self.__init__()  # type: ignore[misc]

        def close(self) -> None:
            self.connection.close()

    monkeypatch.setattr(module, "MAX_RENEWALS", 3)
    loop, template = Loop(), Template()
    client = TemplateClient(loop, template)
    request = fork_request(NodeSpec("a", path="a.py"), ["a.py"], {}, "/")
    refusals: list[Refused] = []
    for count in range(1, 6):
        client.start(request, lambda process: process.close(), refusals.append)
        loop.run_once(0.0)
        assert len(refusals) == count and template.renewals == min(count, 3)
        assert template.renewals == 2 or template.connection.gettimeout() == 0.0, "a full queue would block"
    client.close()
    template.close()
    loop.close()
