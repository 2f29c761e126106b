"""Latched outputs in virtual time, between nodes and between the operators of one runtime."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from dora import DoraStatus, Node
from dora.testing import VirtualDataflow

NODES = """
nodes:
  - id: server
    path: server.py
    outputs: [{map: {latched: 2}}]
  - id: listener
    path: listener.py
    restart_policy: on-failure
    inputs: {map: server/map}
"""
OPERATORS = """
nodes:
  - id: runtime
    restart_policy: on-failure
    operators:
      - id: server
        python: server.py
        inputs: {tick: dora/timer/millis/100}
        outputs: [{map: {latched: {depth: 2, survive_restart: SURVIVES}}}]
      - id: listener
        python: listener.py
        inputs: {map: runtime/server/map, tick: dora/timer/millis/100}
"""


def serve(node: Node) -> None:
    for number in range(3):
        node.send_output("map", pa.array([number]))
    for _ in node:
        pass


def test_a_restarted_node_gets_the_newest_messages_again() -> None:
    got: list[tuple[int, int]] = []

    def listen(node: Node) -> None:
        for event in node:
            if event["type"] == "INPUT":
                got.append((node.restart_count(), event["value"][0].as_py()))
                if got[-1] == (0, 2):
                    raise OSError("once")
        assert node.statistics()["inputs"]["map"] == {"received": 5, "dropped": 0}

    with VirtualDataflow(NODES, nodes={"server": serve, "listener": listen}) as flow:
        (link,) = flow.run(10).links
    assert got == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2)]
    assert (link.sent, link.received, link.dropped, link.unread) == (5, 5, 0, 0)


@pytest.mark.parametrize("survives", [True, False], ids=["survive", "are_cleared"])
def test_messages_between_operators_of_a_restarted_runtime(survives: bool) -> None:
    processes: list[Any] = []
    got: list[tuple[int, int]] = []

    class Server:
        def __init__(self) -> None:
            processes.append(self)
            self.number = 0

        def on_event(self, event: Any, send_output: Any) -> DoraStatus:
            if event["type"] == "INPUT" and len(processes) == 1 and self.number < 4:
                send_output("map", pa.array([self.number]))
                self.number += 1
            return DoraStatus.CONTINUE

    class Listener:
        def on_event(self, event: Any, _: Any) -> DoraStatus:
            if event["type"] == "INPUT" and event["id"] == "map":
                got.append((len(processes), event["value"][0].as_py()))
                if got[-1] == (1, 3):
                    raise OSError("once")
            return DoraStatus.CONTINUE

    text = OPERATORS.replace("SURVIVES", str(survives).lower())
    with VirtualDataflow(text, nodes={"runtime": {"server": Server, "listener": Listener}}) as flow:
        (link,) = flow.run(3, check=False).links
    assert got == [(1, 0), (1, 1), (1, 2), (1, 3), *([(2, 2), (2, 3)] if survives else [])]
    assert link.sent == link.received == len(got)
