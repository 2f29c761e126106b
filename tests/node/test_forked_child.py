"""What a forked child process keeps of its parent's node."""

from __future__ import annotations

import json
import os
import signal

import pytest
from fake_daemon import FakeDaemon, StartFlow
from flows import node
from waiting import TIMEOUT, wait_until

from dora.wire.node_protocol import Closing, Ready


def start_forker(daemon: FakeDaemon) -> int:
    """Start a node that forks and ends without a goodbye; return the child, which waits for its death."""
    process = daemon.start_process(
        "a",
        """
        import os, signal
        from dora import Node
        node = Node()
        child = os.fork()
        if child == 0:
            signal.pause()
        print(child, flush=True)
        os._exit(0)
        """,
    )
    assert process.stdout is not None
    child = int(json.loads(process.stdout.readline()))
    assert process.wait(TIMEOUT) == 0
    return child


@pytest.mark.processes
def test_the_end_of_a_node_shows_although_its_child_lives(start_flow: StartFlow) -> None:
    daemon = start_flow(node("a", outputs="out"))
    child = start_forker(daemon)
    try:
        wait_until(lambda: bool(daemon.heard("a", Ready)), "the node")
        connection = daemon._threads[-1]
        connection.join(TIMEOUT)
        assert not connection.is_alive(), "the child holds the connection of the node"
        os.kill(child, 0)
        assert daemon.heard("a", Closing) == []
    finally:
        os.kill(child, signal.SIGKILL)
