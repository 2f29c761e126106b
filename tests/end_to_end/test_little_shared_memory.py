"""Runs whose /dev/shm is small: a file system of their own, in a namespace of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from flow import Flow
from waiting import TIMEOUT

from dora.transport.engines import ENGINES
from dora.wire.node_config import EngineName

# Root needs no namespace of users, and gets none in another root folder (`make arm64`).
PRIVATE = ["unshare", "--mount", *(["--user", "--map-root-user"] if os.geteuid() else [])]

SENDER = """
    import numpy as np
    from dora import Node, SharedMemoryFull

    node = Node()
    for size in (40_000_000, 30_900_000, 28_000_000, 1000):
        try:
            node.send_output("out", np.zeros(size, np.uint8))
        except SharedMemoryFull as error:
            print(error)
    node.send_output("out", b"the end")
"""
RECEIVER = """
    from dora import Node

    for event in Node():
        if event["type"] == "INPUT":
            print(len(event["value"]))
"""
NUMBERS = """
    from dora import Node

    node = Node()
    for number in range(500):
        node.send_output("out", str(number).encode())
"""
PICTURES = """
    import numpy as np
    from dora import Node

    node = Node()
    for number in range(50):
        node.send_output("out", np.full((480, 640, 3), number, np.uint8))
"""
ONE_LARGE_PICTURE = """
    import numpy as np
    from dora import Node

    Node().send_output("out", np.zeros((1080, 1920, 3), np.uint8))
"""
PASSING_ON = """
    from dora import Node

    node = Node()
    for event in node:
        if event["type"] == "INPUT":
            node.send_output("out", event["value"])
"""
COUNTER = """
    from dora import Node

    print(sum(event["type"] == "INPUT" for event in Node()))
"""


def can_mount() -> bool:
    try:
        mount = ["sh", "-c", "mount -t tmpfs none /dev/shm"]
        return subprocess.run([*PRIVATE, *mount], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _engine(name: EngineName) -> Any:
    why = ENGINES[name].fault()
    return pytest.param(name, marks=pytest.mark.skipif(bool(why), reason=f"the engine {name} {why}"))


pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not can_mount(), reason="file systems cannot be mounted here"),
]
in_shared_memory = pytest.mark.parametrize("engine", [_engine("shm"), _engine("iceoryx2")])
with_shm = pytest.mark.parametrize("engine", [_engine("shm")])


def run(flow: Flow, size: str, engine: str) -> subprocess.CompletedProcess[str]:
    """Run with so much shared memory; what is left of it at the end is printed last."""
    return dora(size, engine, f'run "{flow.write()}" --log-format compact')


def dora(size: str, engine: str, command: str) -> subprocess.CompletedProcess[str]:
    script = f"""
        mount -t tmpfs -o size={size} none /dev/shm
        "{sys.executable}" -m dora {command}
        status=$?
        ls /dev/shm
        exit $status
    """
    return subprocess.run(
        [*PRIVATE, "sh", "-c", script],
        env={**os.environ, "DORA_ENGINE": engine},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def write_ten_nodes(flow: Flow, sender: str, **link: Any) -> None:
    """Write ten nodes in a row, the last of which counts."""
    flow.node("node0", sender, outputs=["out"])
    for number in range(1, 9):
        source = {"source": f"node{number - 1}/out", "queue_policy": "backpressure", **link}
        flow.node(f"node{number}", PASSING_ON, inputs={"in": source}, outputs=["out"])
    source = {"source": "node8/out", "queue_policy": "backpressure", **link}
    flow.node("counter", COUNTER, inputs={"in": source})


def counted(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if " stdout counter" in line]
    assert done.stdout.splitlines()[-1] == line, "something is left in the shared memory"
    return line.split()[-1]


@pytest.mark.slow
@in_shared_memory
def test_a_message_too_large_for_shared_memory_is_refused_and_smaller_ones_arrive(
    flow: Flow, engine: str
) -> None:
    flow.node("sender", SENDER, outputs=["out"])
    flow.node("receiver", RECEIVER, inputs={"out": "sender/out"})
    done = run(flow, "30m", engine)
    assert done.returncode == 0, done.stderr
    lines = [line.partition(" stdout ")[2] for line in done.stdout.splitlines()]
    refused = [line for line in lines if line.startswith("sender")]
    assert "the message needs 40.0 MB of shared memory, but /dev/shm has only 3" in refused[0]
    assert "needs 31.9 MB" in refused[1], "the last of the memory is not for messages"
    assert len(refused) == 2
    got = [line for line in lines if line.startswith("receiver")]
    assert got == ["receiver: 28000000", "receiver: 1000", "receiver: 7"]
    assert lines == [line for line in lines if line], "something is left in the shared memory"


@in_shared_memory
def test_a_dataflow_is_refused_if_shared_memory_is_too_small(flow: Flow, engine: EngineName) -> None:
    flow.node("only", "from dora import Node; Node()")
    done = run(flow, "1m", engine)
    assert (done.returncode, done.stdout) == (1, "")
    enough = {"shm": 2, "iceoryx2": 16}[engine]
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"error: /dev/shm has 1.0 MiB left, and a dataflow needs at least {enough} MiB to start; enlarge it"
    )
    assert "docker run --shm-size" in line


@with_shm
def test_ten_nodes_pass_small_messages_on_in_4_mib(flow: Flow, engine: str) -> None:
    write_ten_nodes(flow, NUMBERS)
    assert counted(run(flow, "4m", engine)) == "500"


@in_shared_memory
def test_ten_nodes_pass_pictures_on_in_64_mib(flow: Flow, engine: str) -> None:
    write_ten_nodes(flow, PICTURES, queue_size=2)
    assert counted(run(flow, "64m", engine)) == "50"


@with_shm
def test_a_recorder_leaves_room_for_messages(flow: Flow, engine: str) -> None:
    write_ten_nodes(flow, PICTURES, queue_size=2)
    path = flow.directory / "all.mcap"
    done = dora("64m", engine, f'record "{flow.write()}" -o "{path}" --log-format compact')
    assert done.returncode in (0, 1), done.stderr  # 1: the recorder was too slow, and says so
    assert " 50\n" in done.stdout, done.stdout + done.stderr


@with_shm
def test_too_many_outputs_are_told_before_the_start(flow: Flow, engine: str) -> None:
    outputs = [f"out{number}" for number in range(40)]
    flow.node("sender", "from dora import Node; Node()", outputs=outputs)
    done = run(flow, "4m", engine)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "its links need about 6 MiB of /dev/shm, and 4 MiB are free; enlarge it" in line


@with_shm
def test_a_picture_without_room_ends_its_sender_with_the_reason(flow: Flow, engine: str) -> None:
    flow.node("sender", ONE_LARGE_PICTURE, outputs=["out"])
    flow.node("receiver", RECEIVER, inputs={"out": "sender/out"})
    done = run(flow, "4m", engine)
    assert done.returncode == 1
    assert "output `out`: the message needs 6.2 MB of shared memory, but /dev/shm has only" in done.stderr


@with_shm
def test_doctor_says_what_fits(engine: str, runtime_root: str) -> None:  # noqa: ARG001
    done = dora("64m", engine, "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "  PASS  shared memory: 64 MiB free in /dev/shm\n" in done.stdout
    assert "  WARN  that is room for 10 pictures of 1920 × 1080" in done.stdout
