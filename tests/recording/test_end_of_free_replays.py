"""A replay in which nodes take their inputs as they come ends when nobody works any more."""

from __future__ import annotations

import pytest
from recording_flows import Folder

from dora.wire.decode import decode_arrow

pytestmark = pytest.mark.processes

SOURCE = """
    from dora import Node

    node = Node()
    for number in range(2):
        node.send_output("number", bytes([number]))
"""
# Its second input never ends, because `echo` waits for it in turn.
SLOW = """
    import os, time
    from dora import Node

    node, done = Node(), 0
    for event in node:
        if event["type"] == "INPUT" and event["id"] == "number":
            if os.path.exists("slow"):
                time.sleep(1.6)
            node.send_output("result", event["value"])
            done += 1
            if done == 2 and not os.path.exists("slow"):
                break
"""
ECHO = """
    from dora import Node

    node = Node()
    for event in node:
        if event["type"] == "INPUT":
            node.send_output("echo", event["value"])
"""
FLOW = """
    nodes:
      - {id: source, path: source.py, outputs: [number]}
      - id: slow
        path: slow.py
        inputs: {number: source/number, echo: echo/echo}
        outputs: [result]
      - id: echo
        path: echo.py
        inputs: {result: slow/result}
        outputs: [echo]
"""


@pytest.mark.slow
def test_nodes_that_work_are_not_stopped(folder: Folder) -> None:
    for name, text in (("source.py", SOURCE), ("slow.py", SLOW), ("echo.py", ECHO)):
        folder.program(name, text)
    folder.dora("record", folder.flow(FLOW), "-o", "a.mcap")
    (folder.directory / "slow").touch()
    folder.dora("replay", "a.mcap", "--free", "--speed", "0", "-o", "b.mcap")
    with folder.recording("b.mcap") as replayed:
        echoes = replayed.messages(["echo/echo"])
        assert [decode_arrow(each.message).to_pylist() for each in echoes] == [[0], [1]]
