"""Restarts with the real `Node` over shared memory: nothing is lost that was sent before the crash."""

from __future__ import annotations

import pytest
from running import Bench

from dora.dataflow.model import InputSpec, NodeOutput, RestartOptions

pytestmark = pytest.mark.processes

CRASHES = 6  # more than a channel has room for processes that are not cleaned up

SENDER = f"""
    import os
    from dora import Node
    node = Node()
    for number in range(5):
        node.send_output("x", bytes([node.restart_count(), number]))
    if node.restart_count() < {CRASHES}:
        os._exit(3)
"""
COUNTER = """
    from dora import Node
    got = []
    for event in Node():
        if event["type"] == "INPUT":
            got.append(tuple(event["data"]))
    print(got == [(life, number) for life in range(7) for number in range(5)], len(got))
"""


def test_a_sender_that_crashes_again_and_again_loses_nothing(bench: Bench) -> None:
    counter = bench.node("b", COUNTER)
    result = bench.run(
        bench.node("a", SENDER, outputs=("x",), restart=RestartOptions("on-failure")),
        type(counter)(
            "b", path=counter.path, inputs=(InputSpec("x", NodeOutput("a", "x"), queue_size=100),)
        ),
    )
    assert result.ok
    assert bench.lines("b") == ["True 35"]
    (link,) = result.links
    assert (link.sent, link.received, link.dropped, link.unread) == (35, 35, 0, 0)
