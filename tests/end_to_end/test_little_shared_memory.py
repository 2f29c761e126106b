"""Runs whose /dev/shm is small: a file system of their own, in namespaces of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest
from flow import Flow
from waiting import TIMEOUT

PRIVATE = ["unshare", "--user", "--map-root-user", "--mount"]

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


def can_mount() -> bool:
    try:
        mount = ["sh", "-c", "mount -t tmpfs none /dev/shm"]
        return subprocess.run([*PRIVATE, *mount], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not can_mount(), reason="file systems cannot be mounted here"),
    pytest.mark.usefixtures("memory_engine"),
]


def run(flow: Flow, size: str) -> subprocess.CompletedProcess[str]:
    """Run with so much shared memory; what is left of it at the end is printed last."""
    script = f"""
        mount -t tmpfs -o size={size} none /dev/shm
        "{sys.executable}" -m dora run "{flow.write()}" --log-format compact
        status=$?
        ls /dev/shm
        exit $status
    """
    command = [*PRIVATE, "sh", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)


def test_a_message_too_large_for_shared_memory_is_refused_and_smaller_ones_arrive(flow: Flow) -> None:
    flow.node("sender", SENDER, outputs=["out"])
    flow.node("receiver", RECEIVER, inputs={"out": "sender/out"})
    done = run(flow, "30m")
    assert done.returncode == 0, done.stderr
    lines = [line.partition(" stdout ")[2] for line in done.stdout.splitlines()]
    refused = [line for line in lines if line.startswith("sender")]
    assert "the message needs 40.0 MB of shared memory, but /dev/shm has only 3" in refused[0]
    assert "needs 31.9 MB" in refused[1], "the last of the memory is not for messages"
    assert len(refused) == 2
    got = [line for line in lines if line.startswith("receiver")]
    assert got == ["receiver: 28000000", "receiver: 1000", "receiver: 7"]
    assert lines == [line for line in lines if line], "something is left in the shared memory"


def test_a_dataflow_is_refused_if_shared_memory_is_too_small(flow: Flow) -> None:
    flow.node("only", "from dora import Node; Node()")
    done = run(flow, "1m")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: /dev/shm has 1.0 MiB left, and a dataflow needs at least 16 MiB")
    assert "docker run --shm-size" in done.stderr
