"""The template process is killed or stopped while it starts nodes: nobody else notices."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
import yaml
from two_ways import marked
from waiting import TIMEOUT, alive, wait_until

from dora.daemon.event_loop import Loop
from dora.daemon.run_directory import usable_root
from dora.daemon.template.client import ForkedProcess, PendingStart, TemplateClient, fork_request
from dora.daemon.template.process import open_template, warm_address
from dora.daemon.template.protocol import Refused
from dora.dataflow.model import NodeSpec

pytestmark = pytest.mark.processes

MARK = "TWO_WAYS"

# Is restarted again and again. It prints its number, the way, its descriptors, and its exit code.
SHORT = """
    import os
    import sys

    names = [
        name
        for name in os.listdir("/proc/self/fd")
        if os.path.exists(path := f"/proc/self/fd/{name}")
        and "/libffi.so." not in os.readlink(path)  # which the template has loaded, with ctypes
    ]
    with open(f"/proc/{os.getppid()}/cmdline") as file:
        way = "forked" if "dora/daemon/template" in file.read() else "plain"
    with open("count", "r+") as file:
        number = int(file.read()) + 1
        file.seek(0)
        file.write(f"{number:6}")
    print(f"{number} {way} {chr(44).join(sorted(names))} {number % 7} {os.getppid()}", flush=True)

    from dora import Node

    Node()
    sys.exit(number % 7)
"""
SENDER = """
    from dora import Node

    node = Node()
    number = 0
    while True:
        node.send_output("out", number.to_bytes(8, "little"))
        number += 1
        event = node.next(timeout=0.002)
        if event is not None and event["type"] == "STOP":
            break
"""
RECEIVER = """
    from dora import Node

    for event in Node():
        if event["type"] == "INPUT":
            last = int.from_bytes(event["data"], "little")
            if last % 20 == 0:
                print(last, flush=True)
        else:
            print(event["type"], flush=True)
"""


class Flow:
    """A ``dora run`` of a sender, a receiver, and a node that is restarted again and again."""

    def __init__(self, folder: Path, outputs: list[str]) -> None:
        self.folder = folder
        for name, text in (("short", SHORT), ("sender", SENDER), ("receiver", RECEIVER)):
            (folder / f"{name}.py").write_text(textwrap.dedent(text))
        (folder / "count").write_text(f"{0:6}")
        again = {"restart_policy": "always", "restart_delay": 0.02, "max_restart_delay": 0.02}
        from_sender = {"source": "sender/out", "queue_size": 4000, "queue_policy": "backpressure"}
        nodes = [
            {"id": "short", "path": "short.py", "outputs": outputs, **again},
            {"id": "sender", "path": "sender.py", "outputs": ["out"]},
            {"id": "receiver", "path": "receiver.py", "inputs": {"in": from_sender}},
        ]
        (folder / "dataflow.yml").write_text(yaml.safe_dump({"nodes": nodes}))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dora", "run", "dataflow.yml", "--progress", "off", "--preload"],
            cwd=folder,
            env={**os.environ, MARK: str(folder)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 4000)),
        )

    def lines(self, node: str, stream: str = "stdout") -> list[str]:
        """Return what a node printed, or what the "daemon" said about it."""
        text = "".join(file.read_text() for file in self.folder.glob(f"out/*/log_{node}.jsonl"))
        entries = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [entry["msg"] for entry in entries if entry["stream"] == stream]

    def starts(self) -> list[Start]:
        return [Start.of(line) for line in self.lines("short")]

    def template(self) -> int:
        """Return the process that has forked the newest process of the node that was forked."""
        return [start.parent for start in self.starts() if start.way == "forked"][-1]

    def received(self) -> int:
        return int(([line for line in self.lines("receiver") if line.isdecimal()] or ["0"])[-1])

    def wait_for_start(self, way: str) -> None:
        """Wait for another start, and for messages after it."""
        count, received = len(self.starts()), self.received()
        wait_until(lambda: way in [start.way for start in self.starts()[count:]], f"a node that is {way}")
        wait_until(lambda: self.received() > received, "messages")


class Start(NamedTuple):
    """What one process of the node `short` has printed."""

    number: int
    way: str  # "forked" or "plain"
    descriptors: list[str]
    status: int
    parent: int

    @classmethod
    def of(cls, line: str) -> Start:
        number, way, descriptors, status, parent = line.split()
        return cls(int(number), way, descriptors.split(","), int(status), int(parent))


@pytest.fixture
def flow(tmp_path: Path, runtime_root: str, request: pytest.FixtureRequest) -> Iterator[Flow]:
    """Run it; check at the end that nobody else has noticed, and that nothing is left.

    The parameter are the outputs of the node `short`.
    """
    flow = Flow(tmp_path, getattr(request, "param", []))
    try:
        flow.wait_for_start("forked")
        yield flow
        flow.process.send_signal(signal.SIGINT)
        _, errors = flow.process.communicate(timeout=TIMEOUT)
        assert flow.lines("receiver")[-1] == "STOP"
        assert not [line for line in flow.lines("receiver")[:-1] if not line.isdecimal()]
        starts = flow.starts()
        assert [start.number for start in starts] == list(range(1, len(starts) + 1))
        assert {tuple(start.descriptors) for start in starts} == {("0", "1", "2")}
        said = [line.partition(";")[0] for line in flow.lines("short", "daemon") if "restarting" in line]
        assert said == [f"exited with status {start.status}" for start in starts[: len(said)]]
        assert len(said) >= len(starts) - 1
        assert "Traceback" not in errors, errors
        wait_until(lambda: not marked(str(tmp_path)), lambda: f"the end of {marked(str(tmp_path))}")
        assert set(os.listdir(runtime_root)) <= {"lock"}
        ids = [name.replace("-", "")[-12:] for name in os.listdir(tmp_path / "out")]
        assert not [name for name in os.listdir("/dev/shm") if any(item in name for item in ids)]
    finally:
        flow.process.kill()
        flow.process.wait()
        for pid in marked(str(tmp_path)):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_template_that_is_killed_is_replaced_and_no_node_notices(flow: Flow) -> None:
    for _ in range(2):
        template = flow.template()
        os.kill(template, signal.SIGKILL)
        wait_until(lambda template=template: not alive(template), "the end of the template")
        wait_until(lambda template=template: flow.template() != template, "a node of another template")
        flow.wait_for_start("forked")


@pytest.mark.slow
@pytest.mark.parametrize(
    "flow", [[], ["out"]], ids=["of all nodes", "of nodes with messages"], indirect=True
)
def test_nodes_start_plainly_while_the_template_is_stopped(flow: Flow) -> None:
    template = flow.template()
    os.kill(template, signal.SIGSTOP)
    flow.wait_for_start("plain")
    os.kill(template, signal.SIGCONT)
    flow.wait_for_start("forked")


@pytest.mark.slow
def test_a_stopped_template_outlives_nothing(flow: Flow) -> None:
    os.kill(flow.template(), signal.SIGSTOP)
    flow.wait_for_start("plain")


# The parent of processes whose own one has ended, as a container or a session of a desktop may have.
ADOPTING = """
import ctypes, subprocess, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
run = subprocess.Popen(sys.argv[1:])
print(run.pid, flush=True)
run.wait()
print("ended", flush=True)
sys.stdin.read()
"""


def kill_with_stopped_templates(folder: Path, templates: int, *command: str) -> None:
    """Run a command, stop its template processes once there are so many, and kill it; nothing is left.

    The kernel continues no stopped process whose own parent has ended if it gets another one.
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", ADOPTING, sys.executable, *command],
        cwd=folder,
        env={**os.environ, MARK: str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def found() -> list[int]:
        pids = [pid for pid, command in marked(str(folder)).items() if "/daemon/template/" in command]
        return pids if len(pids) >= templates else []

    try:
        assert parent.stdout is not None
        victim = int(parent.stdout.readline())
        for pid in wait_until(found, "the template processes"):
            os.kill(pid, signal.SIGSTOP)
        os.kill(victim, signal.SIGKILL)
        assert parent.stdout.readline() == "ended\n"
        wait_until(
            lambda: set(marked(str(folder))) <= {parent.pid}, lambda: f"the end of {marked(str(folder))}"
        )
    finally:
        for pid in set(marked(str(folder))) - {parent.pid}:
            os.kill(pid, signal.SIGKILL)
        parent.communicate("")


def test_a_stopped_template_ends_with_a_run_that_is_killed(tmp_path: Path, runtime_root: str) -> None:
    (tmp_path / "node.py").write_text(
        "import yaml\nfrom dora import Node\nfor event in Node():\n    pass\n"
    )
    tick = {"inputs": {"tick": "dora/timer/millis/10"}}
    (tmp_path / "dataflow.yml").write_text(
        yaml.safe_dump({"nodes": [{"id": "a", "path": "node.py", "preload": ["yaml"], **tick}]})
    )
    # The base, the template with `yaml`, and a process that each of them has forked ahead.
    kill_with_stopped_templates(tmp_path, 4, "-m", "dora", "run", "dataflow.yml", "--preload")
    assert os.listdir(runtime_root) == ["lock"]


WARM = """
import asyncio, sys
from dora.cluster.agent.warm_templates import WarmTemplates

async def keep():
    WarmTemplates().ensure(sys.executable)
    await asyncio.Event().wait()

asyncio.run(keep())
"""


@pytest.mark.usefixtures("runtime_root")
def test_a_stopped_template_ends_with_a_daemon_that_is_killed(tmp_path: Path) -> None:
    usable_root()
    kill_with_stopped_templates(tmp_path, 1, "-c", WARM)


def test_a_template_may_open_a_file_for_each_node_of_a_large_dataflow(flow: Flow) -> None:
    limits = Path(f"/proc/{flow.template()}/limits").read_text()
    assert re.search(r"^Max open files +4000 +4000 ", limits, re.MULTILINE)


@pytest.mark.usefixtures("runtime_root")
@pytest.mark.timeout(60)
def test_a_run_does_not_wait_for_a_warm_template_that_accepts_no_connection() -> None:
    usable_root()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stopped:
        stopped.bind(warm_address())
        stopped.listen(0)
        waiting = []
        while (template := open_template(start=False)) is not None:
            waiting.append(template)
        assert waiting  # the last one found a full queue
        for template in waiting:
            template.close()


def test_the_end_of_a_node_of_a_killed_template_is_noticed_at_once_where_the_kernel_knows_no_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ioctl(*_: object) -> None:
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

    monkeypatch.setattr("dora.daemon.template.client.fcntl", SimpleNamespace(ioctl=ioctl))
    program = subprocess.Popen(["true"])
    ours, of_template = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = ForkedProcess(program.pid, ours, *os.pipe())
    of_template.close()
    program.wait()
    loop, statuses = Loop(), []
    process.reap(loop, statuses.append)
    assert statuses == [None]
    process.close()
    loop.close()


def test_a_start_that_finds_the_queue_of_the_template_full_is_sent_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries: list[PendingStart] = []

    def send(start: PendingStart, _: socket.socket) -> None:
        tries.append(start)
        if len(tries) < 3:
            raise BlockingIOError
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(PendingStart, "send", send)
    monkeypatch.setattr("dora.daemon.template.client._LOOK_EVERY", 0.01)
    loop = Loop()
    ours, of_template = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client = TemplateClient(loop, cast(Any, SimpleNamespace(connection=ours, pid=os.getpid())))
    request = fork_request(NodeSpec("a", path="a.py"), ["a.py"], {}, "/")
    refusals: list[Refused] = []
    start = client.start(request, lambda process: process.close(), refusals.append)
    deadline = time.monotonic() + TIMEOUT
    while not refusals and time.monotonic() < deadline:
        loop.run_once(deadline)
    assert tries == [start] * 3
    assert [refused.reason for refused in refusals] == [
        "the template process cannot be reached: Too many open files"
    ]
    client.close()
    loop.close()
    ours.close()
    of_template.close()


def test_a_start_without_free_descriptors_leaves_none_open_and_keeps_the_template() -> None:
    class Template:
        pid = os.getpid()

        def __init__(self) -> None:
            self.connection, self.other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.renewals = 0

        def renew(self) -> None:
            self.renewals += 1

        def close(self) -> None:
            self.connection.close()
            self.other.close()

    loop, template = Loop(), Template()
    client = TemplateClient(loop, template)
    request = fork_request(NodeSpec("a", path="a.py"), ["a.py"], {}, "/")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_before = len(os.listdir("/proc/self/fd"))
    refusals: list[Refused] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_before + 100, limits[1]))
    try:
        for free in range(7):  # a start needs a socket with two ends, two pipes and a file
            taken: list[int] = []
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(0))
            for _ in range(free):
                os.close(taken.pop())
            client.start(request, lambda process: process.close(), refusals.append)
            loop.run_once(0.0)
            for descriptor in taken:
                os.close(descriptor)
            assert len(os.listdir("/proc/self/fd")) == open_before
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        client.close()
        template.close()
        loop.close()
    assert len(refusals) == 7 and all("Too many open files" in refused.reason for refused in refusals)
    assert template.renewals == 0
