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


def moves(flow: RosFlow) -> list[int]:
    """Wait until the time of a new node of ROS has moved on ten times; return the times."""
    node = flow.context().new_node("follower", "/", Ros2NodeOptions(), parameters={"use_sim_time": True})
    times: list[int] = []

    def has_moved() -> bool:
        now = node.time_ns()
        if now and (not times or now > times[-1]):
            times.append(now)
        return len(times) > 10

    wait_until(has_moved, lambda: f"times: {times}\n{flow.log()}")
    return times


def check_replay(flow: RosFlow) -> None:
    """Replay what was recorded, slowly, and look at the time of a node of ROS meanwhile."""
    with open_recording(str(flow.folder / "drive.mcap")) as recording:
        first, last = recording.first_ns, recording.last_ns
    flow.start("replay", "--speed", "0.1", "drive.mcap")
    times = moves(flow)
    # In a replay, a timer ticks at the recorded times, also before and after the messages.
    assert first - SECOND < times[0]
    assert times[-1] < last + SECOND
    assert times[-1] < time.time_ns()
    flow.stop()
    assert "Traceback" not in flow.log()


def start_to_record(flow: RosFlow) -> None:
    flow.node("source", SOURCE, inputs={"tick": "dora/timer/20ms"}, outputs=["text"])
    flow.node("sink", SINK, inputs={"text": "source/text"})
    flow.start("record", "-o", "drive.mcap")
    flow.lines("heard", 50)


@pytest.mark.slow
def test_nodes_of_ros_follow_the_time_of_a_replay(flow: RosFlow) -> None:
    flow.ros2("clock", BLOCK, inputs={"tick": "dora/timer/20ms"})
    start_to_record(flow)
    times = moves(flow)
    assert times[-1] > time.time_ns() - 60 * SECOND
    flow.stop()
    check_replay(flow)


@pytest.mark.slow
def test_a_clock_that_was_not_recorded_moves_with_the_messages_of_a_replay(flow: RosFlow) -> None:
    start_to_record(flow)
    flow.stop()
    flow.ros2("clock", BLOCK, inputs={"text": "source/text"})
    check_replay(flow)
