"""The time of `ros2:` nodes and of a real rclpy (Kilted, Fast DDS), and what is logged."""

from __future__ import annotations

import time
from typing import Any

import pytest
from observing import Observer, observed_flow, observer_of_flow  # noqa: F401 - fixtures
from ros_flow import RosFlow
from waiting import wait_until

from dora.recording.opening import open_recording

pytestmark = [pytest.mark.ros2, pytest.mark.processes]

CLOCK = {"topic": "/clock", "message_type": "rosgraph_msgs/Clock"}
SECOND = 1_000_000_000


def test_the_clock_of_rclpy_follows_a_replay(flow: RosFlow, observer: Observer) -> None:
    flow.node(
        "source",
        """
        from dora import Node

        node = Node()
        for event in node:
            if event["type"] == "INPUT":
                node.send_output("text", b"hello")
        """,
        inputs={"tick": "dora/timer/50ms"},
        outputs=["text"],
    )
    flow.ros2("clock", {**CLOCK, "direction": "publish"}, inputs={"tick": "dora/timer/20ms"})
    flow.node("sink", "from dora import Node\nfor event in Node(): pass", inputs={"text": "source/text"})
    flow.start("record", "-o", "drive.mcap")
    observer.follow_clock(name="live")
    moves(observer, flow)
    flow.stop()
    with open_recording(str(flow.folder / "drive.mcap")) as recording:
        first, last = recording.first_ns, recording.last_ns
    observer.follow_clock(name="follower")
    assert observer.time_of_follower() == 0
    flow.start("replay", "--speed", "0.1", "drive.mcap")
    times = moves(observer, flow)
    assert first - SECOND < times[0]
    assert times[-1] < last + SECOND
    assert times[-1] < time.time_ns()
    flow.stop()
    assert "running again: clock, sink" in flow.log()


def moves(observer: Observer, flow: RosFlow) -> list[int]:
    """Wait until the time of the follower has moved on ten times; return the times."""
    times: list[int] = []

    def has_moved() -> bool:
        now = observer.time_of_follower()
        if now and (not times or now > times[-1]):
            times.append(now)
        return len(times) > 10

    wait_until(has_moved, lambda: f"times: {times}\n{flow.log()}")
    return times


def test_a_ros2_node_takes_its_time_from_a_simulation(flow: RosFlow, observer: Observer) -> None:
    flow.ros2(
        "world",
        {
            "topics": [
                {**CLOCK, "output": "clock"},
                {"topic": "/header", "message_type": "std_msgs/Header", "output": "header"},
                {
                    "topic": "/image",
                    "message_type": "sensor_msgs/Image",
                    "direction": "publish",
                    "input": "image",
                },
            ]
        },
        outputs=["clock", "header"],
        inputs={"image": "node/image"},
        parameters={"use_sim_time": True},
    )
    flow.node(
        "node",
        """
        import numpy as np
        from dora import Node

        node = Node()
        with open("heard", "a", buffering=1) as file:
            for event in node:
                if event["type"] == "INPUT" and event["id"] == "clock":
                    file.write(f"clock {event['value'][0].as_py()['clock']['sec']}\\n")
                elif event["type"] == "INPUT":
                    file.write(f"header {event['metadata']['timestamp'].timestamp()}\\n")
                    image = {"width": 1, "height": 1, "encoding": "mono8"}
                    node.send_output("image", np.zeros(1, np.uint8), image)
                    node.send_output("image", np.zeros(1, np.uint8), {**event["metadata"], **image})
        """,
        inputs={"clock": "world/clock", "header": "world/header"},
        outputs=["image"],
    )
    observer.listen_to_images()
    flow.start()

    def heard(line: str) -> bool:
        path = flow.folder / "heard"
        return path.exists() and line in path.read_text().splitlines()

    def simulated() -> bool:
        observer.simulate(seconds=1000)
        return heard("clock 1000")

    wait_until(simulated, lambda: f"the simulated time\n{flow.log()}")

    def stamped() -> bool:  # each message finds its way on its own
        observer.publish_header()
        return len(observer.image_stamps()) >= 2

    wait_until(stamped, lambda: f"images\n{flow.log()}")
    assert heard("header 1000.0")
    assert set(observer.image_stamps()) == {1000}
    assert observer.set(node="/world", values={"use_sim_time": False}) == [[True, ""]]

    def real() -> bool:
        observer.publish_header()
        return max(observer.image_stamps()) > 1_700_000_000

    wait_until(real, lambda: f"images in the time of the system\n{flow.log()}")
    flow.stop()
    assert "Traceback" not in flow.log()


def test_what_a_ros2_node_warns_of_is_on_rosout(flow: RosFlow, observer: Observer) -> None:
    flow.node(
        "talker",
        """
        import pyarrow as pa
        from dora import Node

        node = Node()
        for event in node:
            if event["type"] == "INPUT":
                node.send_output("text", pa.array([{"data": 7}]))
        """,
        inputs={"tick": "dora/timer/100ms"},
        outputs=["text"],
    )
    block = {"topic": "/chatter", "message_type": "std_msgs/String", "direction": "publish"}
    flow.ros2("to_ros", {**block, "namespace": "/robot"}, inputs={"text": "talker/text"})
    flow.start()

    def logs() -> list[Any]:
        found: list[Any] = observer.logs_of(name="robot.to_ros")
        return found

    wait_until(logs, lambda: f"a log\n{flow.log()}")
    level, text = logs()[0]
    assert level == 30
    assert text.startswith("input `text` has dropped ")
    assert "field 'data' of std_msgs/msg/String: expected" in text
    assert text in flow.log()
    flow.stop()
