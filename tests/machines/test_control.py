"""Commands act on nodes of any machine while all observers are taken, and say what happens if it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from cluster_system import DORA, Spread, spread_over
from hosts import Host, network
from test_remote_observers import observers, wait_for_no_observers
from tokens import TOKEN
from waiting import TIMEOUT, wait_until

from dora._paths import DEFAULT_PORT
from dora.cluster.agent.worker_process import MAX_OBSERVERS
from dora.cluster.client import Client
from dora.cluster.remote_observer import Incoming, ObserverConnection
from dora.observe.queries import SnapshotQuery
from dora.recording.opening import open_recording
from dora.transport.tokens import Token

pytestmark = pytest.mark.processes

NODES = {
    "camera.py": """
        from dora import Node

        node = Node()
        for event in node:
            if event["type"] == "INPUT":
                node.send_output("image", b"1")
    """,
    "motor.py": """
        from dora import Node

        for event in Node():
            if event["type"] == "PARAM_UPDATE":
                print("speed is", event["value"], flush=True)
            elif event["type"] == "INPUT" and len(event["value"]) == 2:
                print("published:", event["value"].to_pylist(), flush=True)
    """,
    "stubborn.py": """
        import signal, time
        from dora import Node

        node = Node()
        while True:
            event = node.next(timeout=1.0)
            if event is not None and event["type"] == "STOP":
                print("goes on", flush=True)
                time.sleep(3600)
    """,
}
# `hand` and `arm` move by what `eye` and `camera` of the same machine see.
FLOW = """
    nodes:
      - {id: eye, path: camera.py, outputs: [image], inputs: {tick: dora/timer/millis/50},
         deploy: {machine: left}}
      - {id: hand, path: motor.py, inputs: {image: eye/image}, parameters: {speed: 1},
         deploy: {machine: left}}
      - {id: camera, path: camera.py, outputs: [image], inputs: {tick: dora/timer/millis/50},
         deploy: {machine: right}}
      - {id: arm, path: motor.py, inputs: {image: camera/image}, parameters: {speed: 1},
         deploy: {machine: right}}
"""
STUBBORN = """
    nodes:
      - {id: stubborn, path: stubborn.py, deploy: {machine: right}}
      - {id: hand, path: motor.py, inputs: {tick: dora/timer/millis/50}, deploy: {machine: left}}
"""


@pytest.fixture(scope="module")
def system(namespaces: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spread]:  # noqa: ARG001
    with network("left", "right", "desk") as hosts:
        desk = hosts.pop("desk")  # has no daemon
        with spread_over(hosts, tmp_path_factory.mktemp("control")) as system:
            system.hosts["desk"] = desk
            system.write({**NODES, "flow.yml": FLOW, "stubborn.yml": STUBBORN})
            yield system


def children(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


@contextmanager
def starts_no_process(system: Spread, machine: str) -> Iterator[None]:
    """Watch the daemon of a machine meanwhile: it may not start a process, however short its life is."""
    daemon = system.processes[machine].pid
    before, seen, over = children(daemon), set[int](), threading.Event()

    def watch() -> None:
        while not over.wait(0.001):
            seen.update(children(daemon))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    assert seen and seen <= before, f"the daemon of {machine} has started {seen - before}"


@contextmanager
def all_observers_taken(system: Spread, flow: str, machine: str) -> Iterator[None]:
    """Look at a machine with as many observers as it has."""
    client = Client(system.first.address, DEFAULT_PORT, authority="", token=Token(TOKEN, "the test"))
    incoming: Incoming = Incoming()
    host = system.hosts[machine]
    with ExitStack() as stack:
        for _ in range(MAX_OBSERVERS):
            connection = stack.enter_context(closing(ObserverConnection(client, flow, machine)))
            connection.begin(SnapshotQuery(5.0), incoming)
        wait_until(lambda: len(observers(host)) == MAX_OBSERVERS, lambda: system.said(machine))
        yield
    wait_for_no_observers(host)


@pytest.mark.slow
def test_commands_act_while_no_further_observer_is_let_in(system: Spread) -> None:
    flow = system.start("flow.yml")
    system.wait_for(flow, "Running")

    def dora(place: str, *arguments: str, status: int = 0) -> str:
        return system.dora(*arguments, "-d", flow, host=system.hosts[place], status=status)

    with all_observers_taken(system, flow, "right"):
        refused = dora("desk", "topic", "echo", "camera/image", status=1)
        assert f"there are {MAX_OBSERVERS} observers of machine `right` already" in refused
        # From the machine of the node, from another one of the dataflow, and from one without a daemon.
        for number, place in enumerate(("right", "left", "desk"), 10):
            with starts_no_process(system, "right"), starts_no_process(system, "left"):
                for node in ("arm", "hand"):
                    assert dora(place, "param", "set", node, "speed", str(number)).startswith("Set `speed`")
                    assert dora(place, "param", "get", node, "speed") == f"{number}\n"
                    assert "speed = " in dora(place, "param", "list", node)
                    assert dora(place, "param", "delete", node, "speed").startswith("Deleted `speed`")
                    assert "did you mean `arm`?" in dora(place, "param", "get", "armm", "speed", status=1)
                for topic in ("camera/image", "eye/image"):
                    published = dora(place, "topic", "pub", topic, f"[{number}, 2]", "--count", "2")
                    assert published == f"Published to `{topic}` 2 times\n"
                    assert topic.partition("/")[0] in dora(place, "topic", "list")
                    assert "has no output `eye/sound`" in dora(
                        place, "topic", "pub", "eye/sound", "1", status=1
                    )
                for node in ("arm", "hand"):
                    assert dora(place, "node", "restart", node) == f"Node `{node}` restart initiated\n"
            for text in (f"speed is {number}", f"published: [{number}, 2]"):
                wait_until(lambda text=text: system.logs(flow).count(text) >= 2, lambda: system.logs(flow))
            system.wait_for(flow, "Running")
        with starts_no_process(system, "right"), starts_no_process(system, "left"):
            assert dora("left", "node", "stop", "arm") == "Node `arm` stopped\n"
            assert dora("right", "node", "stop", "hand") == "Node `hand` stopped\n"
            assert dora("desk", "node", "stop", "hand") == "Node `hand` had ended already\n"
            refused = dora("desk", "topic", "pub", "arm/x", "1", status=1)
            assert "node `arm` has no outputs" in refused or "no output" in refused
    system.dora("stop", flow)


@pytest.mark.slow
def test_the_black_boxes_of_all_machines_become_one_file(system: Spread) -> None:
    flow = system.start("flow.yml", "--black-box", "30s")
    system.wait_for(flow, "Running")
    for place in ("desk", "left"):
        path = system.folder / f"from-{place}.mcap"

        def is_whole(path: Path = path, place: str = place) -> bool:
            path.unlink(missing_ok=True)
            said = system.dora("save", "-d", flow, "-o", str(path), host=system.hosts[place])
            assert "saved" in said
            with open_recording(str(path)) as recording:
                return {"eye/image", "camera/image"} <= {
                    topic.name for topic in recording.topics.values() if topic.messages
                }

        wait_until(is_whole, "messages of both machines")
    said = system.dora("save", "-d", flow)
    assert "of machine left" in said
    assert "of machine right" in said
    system.dora("stop", flow)


@pytest.fixture
def stopping(system: Spread) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Give a dataflow, and a command of `desk` that waits for a node of `right` that does not stop."""
    flow = system.start("stubborn.yml")
    system.wait_for(flow, "Running")
    command = system.hosts["desk"].popen(
        [*DORA, "node", "stop", "stubborn", "--grace", "1h", "-d", flow],
        env=system.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=system.folder,
    )
    system.wait_for_log(flow, "goes on")
    yield flow, command
    command.kill()
    command.communicate()
    system.wait_for_machines("left", "right")
    if system.status(flow) == "Running":
        system.dora("stop", "--force", flow, status=None)
    system.wait_for(flow, "Failed", "Finished")


def processes_of(host: Host, words: Sequence[bytes]) -> list[int]:
    found = []
    for pid in host.pids():
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if all(word in line for word in words):
            found.append(pid)
    return found


def sentence(command: subprocess.Popen[str]) -> str:
    """Return the one sentence with which a command fails."""
    output, _ = command.communicate(timeout=TIMEOUT)
    assert command.returncode == 1, output
    assert output.startswith("error: ") and "Traceback" not in output, output
    return output.removeprefix("error: ").partition("\n")[0]


@pytest.mark.slow
def test_a_command_says_that_the_dataflow_was_killed(
    system: Spread, stopping: tuple[str, subprocess.Popen[str]]
) -> None:
    _, command = stopping
    (worker,) = processes_of(system.hosts["right"], [b"dora.cluster.agent.worker"])
    os.kill(worker, signal.SIGKILL)
    assert sentence(command) in (
        "the dataflow has just ended",
        "the dataflow has ended meanwhile",
        "the partition on machine `right` has ended during the change",
    )


@pytest.mark.slow
def test_a_command_says_that_the_daemon_was_killed(
    system: Spread, stopping: tuple[str, subprocess.Popen[str]]
) -> None:
    _, command = stopping
    os.kill(system.processes["right"].pid, signal.SIGKILL)
    assert sentence(command) == "the connection to machine `right` broke during the change"
    system.start_daemon("right")


@pytest.mark.slow
def test_a_command_says_that_the_coordinator_was_killed(
    system: Spread, stopping: tuple[str, subprocess.Popen[str]]
) -> None:
    _, command = stopping
    os.kill(system.processes["coordinator"].pid, signal.SIGKILL)
    assert sentence(command).startswith("cannot connect to coordinator at ")
    system.start_coordinator()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("machine", "said"),
    [
        ("right", "the connection to machine `right` broke during the change"),
        ("desk", "cannot connect to coordinator at "),
    ],
    ids=["of the node", "its own"],
)
def test_a_command_ends_when_a_machine_is_cut_off(
    system: Spread, stopping: tuple[str, subprocess.Popen[str]], machine: str, said: str
) -> None:
    _, command = stopping
    system.hosts[machine].cut()
    try:
        assert sentence(command).startswith(said)
    finally:
        system.hosts[machine].restore()
