"""A recording of synchronised inputs is replayed to the same sets: real processes."""

from __future__ import annotations

import pytest
from recording_flows import Folder

from dora.wire.decode import decode_arrow
from dora.wire.metadata import decode_metadata

pytestmark = pytest.mark.processes

SENSOR = """
    import os, sys, time
    from datetime import UTC, datetime, timedelta
    import numpy as np
    from dora import Node

    start = datetime(2026, 1, 1, tzinfo=UTC)
    period, count = float(sys.argv[1]), int(sys.argv[2])
    node = Node()
    for number in range(count):
        time.sleep(os.urandom(1)[0] / 256 * 0.004 * period)
        stamp = start + timedelta(milliseconds=period * number + os.urandom(1)[0] / 128)
        if os.urandom(1)[0] > 20:
            node.send_output("out", np.array([number] * 3000), {"timestamp": stamp})
"""
FUSION = """
    import numpy as np
    import pyarrow as pa
    from dora import Node

    node = Node()
    for event in node:
        if event["type"] == "SYNC":
            numbers = [[int(each.numpy()[0]) for each in event.history(name)] for name in event["inputs"]
                       if name != "tick"]
            node.send_output("sets", pa.array(numbers), {"of": event["id"], "missing": event["missing"]})
        elif event["type"] != "STOP":
            counts = list(node.statistics()["sync"]["left"].values())
            node.send_output("sets", pa.array([counts]), {"of": event["type"], "id": event["id"]})
"""
OPERATOR = """
    from dora import DoraStatus
    class Operator:
        def on_event(self, event, send_output):
            if event["type"] == "INPUT":
                send_output("out", event["value"], event["metadata"])
            elif event["type"] == "SYNC":
                send_output("out", event.message("b")["value"].slice(0, 5), event.message("a")["metadata"])
            return DoraStatus.CONTINUE
"""
FLOW = """
    exit_when_nodes_finish: true
    nodes:
      - {id: left, path: sensor.py, args: 10 40, outputs: [out]}
      - {id: right, path: sensor.py, args: 10 40, outputs: [out]}
      - {id: arm, path: sensor.py, args: 3 120, outputs: [out]}
      - id: fusion
        path: fusion.py
        inputs:
          left: {source: left/out, queue_size: 50}
          right: {source: right/out, queue_size: 50}
          arm: {source: arm/out, queue_size: 50}
          tick: dora/timer/millis/20
          newest: arm/out
          first: {source: left/out, queue_size: 50}
          second: {source: right/out, queue_size: 50}
        sync:
          - {inputs: [left, right, arm], tolerance: 4ms, history: {arm: [-4, 0]}, timeout: 30ms}
          - {inputs: [tick, newest], by: arrival}
          - {inputs: [first, second], tolerance: 4ms}
        outputs: [sets]
      - id: runtime
        operators:
          - {id: copy, python: operator_.py, inputs: {x: left/out}, outputs: [out]}
          - id: join
            python: operator_.py
            inputs: {a: {source: left/out, queue_size: 50}, b: {source: runtime/copy/out, queue_size: 50}}
            outputs: [out]
            sync: [{inputs: [a, b]}]
"""


@pytest.mark.slow
def test_a_replay_gives_the_same_sets(folder: Folder) -> None:
    folder.program("sensor.py", SENSOR)
    folder.program("fusion.py", FUSION)
    folder.program("operator_.py", OPERATOR)
    report = folder.dora("record", folder.flow(FLOW), "-o", "a.mcap")
    assert "unmatched: in no set of `sync`" in report
    folder.dora("replay", "a.mcap", "--speed", "0", "-o", "b.mcap")
    assert "The recordings are equal" in folder.dora("diff", "a.mcap", "b.mcap", "--metadata")
    sets = _sets(folder, "a.mcap")
    assert {"left", "tick", "first", "INPUT_CLOSED"} <= {of for of, _ in sets}
    assert folder.recording().topics["runtime/join/out"].messages > 20
    # Even without the recorded order, a group that only compares timestamps gives the same.
    folder.dora("replay", "a.mcap", "--free", "--speed", "1", "-o", "free.mcap")
    by_timestamp = [item for of, item in sets if of == "first"]
    assert [item for of, item in _sets(folder, "free.mcap") if of == "first"] == by_timestamp
    assert len(by_timestamp) > 10


STAMPED = """
    import sys
    from datetime import UTC, datetime, timedelta
    import numpy as np
    from dora import Node

    node = Node()
    for stamp in map(int, sys.argv[1:]):
        at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(milliseconds=stamp)
        node.send_output("out", np.array([stamp]), {"timestamp": at})
"""
GAP = """
    exit_when_nodes_finish: true
    nodes:
      - {id: left, path: stamped.py, args: 12 20 30, outputs: [out]}
      - {id: arm, path: stamped.py, args: 0 3 6 9 12 30, outputs: [out]}
      - id: fusion
        path: fusion.py
        inputs: {left: {source: left/out, queue_size: 50}, arm: {source: arm/out, queue_size: 50}}
        sync: [{inputs: [left, arm], tolerance: 2ms, history: {arm: [-4, 0]}, timeout: 30s}]
        outputs: [sets]
"""


def test_a_history_goes_back_beyond_a_set_without_the_input(folder: Folder) -> None:
    folder.program("stamped.py", STAMPED)
    folder.program("fusion.py", FUSION)
    folder.dora("record", folder.flow(GAP), "-o", "a.mcap")
    sets = [item for of, item in _sets(folder, "a.mcap") if of == "left"]
    assert [[12], [0, 3, 6, 9, 12]] in sets and [[20], []] in sets and [[30], [3, 6, 9, 12, 30]] in sets
    folder.dora("replay", "a.mcap", "--speed", "0", "-o", "b.mcap")
    assert "The recordings are equal" in folder.dora("diff", "a.mcap", "b.mcap", "--metadata")


def _sets(folder: Folder, name: str) -> list[tuple[str, object]]:
    with folder.recording(name) as recording:
        return [
            (decode_metadata(each.message.metadata)["of"], decode_arrow(each.message).to_pylist())
            for each in recording.messages(["fusion/sets"])
        ]
