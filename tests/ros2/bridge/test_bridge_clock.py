"""`/clock` from a dataflow: timers and messages become times, in a replay the recorded ones."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from waiting import wait_until

from dora import Ros2NodeOptions
from dora.recording.opening import open_recording

if TYPE_CHECKING:
    from ros_flow import RosFlow

pytestmark = pytest.mark.processes

SECOND = 1_000_000_000


BLOCK = {"topic": "/clock", "message_type": "rosgraph_msgs/Clock", "direction": "publish"}
SOURCE = """
    import pyarrow as pa
    from dora import Node

    node = Node()
    for event in node:
        if event["type"] == "INPUT":
            node.send_output("text", pa.array([{"data": "hello"}]))
"""
SINK = """
    from dora import Node

    with open("heard", "a", buffering=1) as file:
        for event in Node():
            if event["type"] == "INPUT":
                file.write("one\\n")
"""


def check_replay(flow: RosFlow, *arguments: str) -> None:
    """Replay what was recorded, slowly, and look at the time of a node of ROS meanwhile."""
    with open_recording(str(flow.folder / "drive.mcap")) as recording:
        first, last = recording.first_ns, recording.last_ns
    follower = flow.context().new_node(
        "follower", "/", Ros2NodeOptions(), parameters={"use_sim_time": True}
    )
    flow.start("replay", "drive.mcap", *arguments, "--speed", "0.1")
    times = [0]

    def moves() -> bool:
        times.append(max(follower.time_ns(), times[-1]))
        return len(set(times)) > 5

    wait_until(moves, lambda: f"times from {first} to {last}: {times}\n{flow.log()}")
    # In a replay, a timer ticks at the recorded times, also before and after the messages.
    assert first - SECOND < times[times.count(0)]
    assert times[-1] < last + SECOND
    assert time.time_ns() > times[-1]
    flow.stop()
    assert "Traceback" not in flow.log()


def record(flow: RosFlow) -> None:
    flow.node("source", SOURCE, inputs={"tick": "dora/timer/20ms"}, outputs=["text"])
    flow.node("sink", SINK, inputs={"text": "source/text"})
    flow.start("record", "dataflow.yml", "-o", "drive.mcap")
    flow.lines("heard", 50)
    flow.stop()


def test_nodes_of_ros_follow_the_time_of_a_replay(flow: RosFlow) -> None:
    flow.ros2("clock", BLOCK, inputs={"tick": "dora/timer/20ms"})
    record(flow)
    check_replay(flow)


def test_a_clock_that_was_not_recorded_moves_with_the_messages_of_a_replay(flow: RosFlow) -> None:
    record(flow)
    flow.ros2("clock", BLOCK, inputs={"text": "source/text"})
    flow.write()
    check_replay(flow, "dataflow.yml")
