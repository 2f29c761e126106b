"""A recording of a latched output whose receiver was restarted, and its replay."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from test_replaying import Lab

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
            "outputs": [{"map": {"latched": {"depth": 2}}}],
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
    assert {"map": {"latched": {"depth": 2, "survive_restart": False}}} in written["nodes"][0]["outputs"]
