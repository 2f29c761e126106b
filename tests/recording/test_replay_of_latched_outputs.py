"""Recordings of latched outputs, and their replays: a receiver is restarted, or the recorder comes late."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from recording_flows import Folder, end, said
from test_replaying import Lab
from waiting import wait_until

from dora.wire.decode import decode_arrow

pytestmark = pytest.mark.processes

# Sends nothing while the listener is restarted.
SERVER = """
    import os
    import pyarrow as pa
    from dora import Node

    node, number = Node(), 0
    for event in node:
        if number < 5 or os.path.exists("back"):
            number += 1
            node.send_output("map", pa.array([number]))
            if number == 20:
                break
"""
# Is killed once, in the recorded run.
LISTENER = """
    import os, pathlib, signal
    import pyarrow as pa
    from dora import Node

    node = Node()
    for event in node:
        if node.restart_count():
            pathlib.Path("back").touch()
        if event["type"] == "INPUT":
            node.send_output("seen", event["value"])
            if event["value"][0].as_py() == 5 and not os.path.exists("killed"):
                pathlib.Path("killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
"""
FLOW: dict[str, object] = {
    "nodes": [
        {
            "id": "server",
            "path": "server.py",
            "inputs": {"tick": "dora/timer/millis/20"},
            "outputs": [{"map": {"latched": {"depth": 2}, "priority": "bulk"}}],
        },
        {
            "id": "listener",
            "path": "listener.py",
            "restart_policy": "on-failure",
            "inputs": {"map": {"source": "server/map", "queue_size": 100}},
            "outputs": ["seen"],
        },
    ]
}


@pytest.mark.slow
def test_a_replay_latches_and_goes_on_after_repeated_messages(tmp_path: Path, runtime_root: str) -> None:
    assert runtime_root
    lab = Lab(tmp_path)
    lab.program("server.py", SERVER)
    lab.program("listener.py", LISTENER)
    lab.flow("flow.yml", FLOW)
    lab.dora("record", "flow.yml", "-o", "a.mcap")
    seen = [number for (number,) in lab.values("a.mcap", "listener/seen")]
    assert seen == [1, 2, 3, 4, 5, 4, 5, *range(6, 21)]
    done = lab.dora("replay", "a.mcap", "--speed", "0", "-o", "b.mcap")
    assert "did not come" not in done.stdout + done.stderr
    replayed = [number for (number,) in lab.values("b.mcap", "listener/seen")]
    assert replayed == list(range(1, 21)), "nothing is repeated for a node that is not restarted"
    lab.dora("replay", "a.mcap", "--output-yaml", "replay.yml")
    written = yaml.safe_load((tmp_path / "replay.yml").read_text())
    assert {"map": {"latched": 2, "priority": "bulk"}} in written["nodes"][0]["outputs"]


MAP_SERVER = """
    import pyarrow as pa
    from dora import Node

    node = Node()
    for number in (1, 2, 3):
        node.send_output("map", pa.array([number]))
    for event in node:
        node.send_output("pose", pa.array([0]))
"""
PLANNER = """
    import pathlib
    import pyarrow as pa
    from dora import Node

    node, maps = Node(), []
    for event in node:
        if event["type"] == "INPUT" and event["id"] == "map":
            maps.append(event["value"][0].as_py())
            if len(maps) == 3:
                pathlib.Path("planned").touch()
        elif event["type"] == "INPUT":
            node.send_output("plan", pa.array(maps[-2:]))
"""
LATE = """
    nodes:
      - id: server
        path: server.py
        inputs: {tick: dora/timer/millis/20}
        outputs: [map: {latched: 2}, pose]
      - id: planner
        path: planner.py
        inputs: {map: server/map, pose: server/pose}
        outputs: [plan]
"""


@pytest.mark.slow
def test_a_late_recording_has_what_was_latched_before(folder: Folder) -> None:
    folder.program("server.py", MAP_SERVER)
    folder.program("planner.py", PLANNER)
    dataflow = folder.run(LATE)
    wait_until((folder.directory / "planned").exists, "the planner to have the maps")
    recorder = folder.attach("-o", "a.mcap")
    wait_until(lambda: folder.recorders()[0].messages > 20, "messages")
    folder.dora("record", "--stop")
    said(recorder, 0)
    end(dataflow)
    with folder.recording() as recording:
        maps = list(recording.messages(["server/map"]))
        assert [decode_arrow(each.message).to_pylist() for each in maps] == [[2], [3]]
        begun_ns = recording.start.started
        assert all(each.time_ns == begun_ns > each.message.time_ns for each in maps)
        assert recording.complete and recording.duration < 60

    def plans(*options: str) -> list[list[int]]:
        folder.dora("replay", "a.mcap", "--speed", "0", *options, "--force", "-o", "b.mcap")
        with folder.recording("b.mcap") as replayed:
            return [decode_arrow(each.message).to_pylist() for each in replayed.messages(["planner/plan"])]

    assert plans("--free")[-1] == [2, 3]
    in_order = plans()
    assert in_order and all(plan == [2, 3] for plan in in_order), "the maps come first"
