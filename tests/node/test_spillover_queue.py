"""Queues that are longer than shared memory allows."""

from __future__ import annotations

import pytest
from fake_daemon import FakeDaemon
from waiting import wait_until

from dora.dataflow.model import Dataflow, InputSpec, NodeOutput, NodeSpec
from dora.transport.interface import MAX_QUEUE


@pytest.mark.lengthy
def test_a_queue_longer_than_shared_memory_keeps_the_newest_and_counts_the_rest() -> None:
    size = MAX_QUEUE + 1000
    daemon = FakeDaemon(
        Dataflow(
            nodes=(
                NodeSpec(id="sender", path="s.py", outputs=("out",)),
                NodeSpec(
                    id="receiver",
                    path="r.py",
                    inputs=(InputSpec("in", NodeOutput("sender", "out"), queue_size=size),),
                ),
            ),
            working_dir="/tmp",
        )
    )
    try:
        receiver, sender = daemon.node("receiver"), daemon.node("sender")
        for number in range(size + 500):
            sender.send_output("out", number.to_bytes(4, "little"))
            if number % 1000 == 0:
                # The receiver computes, and its thread makes room.
                queue = receiver._inbox.ports["in"]._receiver
                wait_until(
                    lambda queue=queue: queue._sent() - queue._last <= MAX_QUEUE // 8,
                    "room in shared memory",
                )
        numbers = [int.from_bytes(event["data"], "little") for event in receiver.drain()]
        assert numbers == list(range(500, size + 500))
        counts = receiver.statistics()["inputs"]["in"]
        assert counts == {"received": size, "dropped": 500}
        receiver.close()
        sender.close()
    finally:
        daemon.close()
