"""Dataflows with `ros2:` nodes and a real rclpy (Kilted, Fast DDS) meet, in both directions."""

from __future__ import annotations

import os
import signal
from hashlib import sha256
from pathlib import Path

import pytest
from flow_peer import connect, peer_of
from ros_flow import RosFlow
from waiting import TIMEOUT, wait_until

pytestmark = [pytest.mark.ros2, pytest.mark.processes]

STRING = {"topic": "/chatter", "message_type": "std_msgs/String"}
LISTENER = """
    from dora import Node

    with open("heard", "a", buffering=1) as file:
        for event in Node():
            if event["type"] == "INPUT":
                file.write(f"{event['value'][0].as_py()['data']}\\n")
"""


def heard_after_begin(flow: RosFlow) -> list[str]:
    return [text for text in (flow.folder / "heard").read_text().splitlines() if text != "begin"]


def test_a_dataflow_talks_to_rclpy_and_hears_it(real_flow: RosFlow, request: pytest.FixtureRequest) -> None:
    peer = peer_of(real_flow, request)
    peer.subscription(topic="/chatter")
    real_flow.node(
        "talker",
        """
        import pyarrow as pa
        from dora import Node

        node = Node()
        for number, event in enumerate(node):
            if event["type"] == "INPUT":
                node.send_output("text", pa.array([{"data": f"hello {number}"}]))
        """,
        inputs={"tick": "dora/timer/20ms"},
        outputs=["text"],
    )
    real_flow.ros2("to_ros", {**STRING, "direction": "publish"}, inputs={"text": "talker/text"})
    real_flow.ros2("from_ros", {**STRING, "topic": "/answers"}, outputs=["text"])
    real_flow.node("listener", LISTENER, inputs={"text": "from_ros/text"})
    real_flow.start()
    heard = peer.taken(topic="/chatter", count=5, timeout=TIMEOUT)
    numbers = [int(text.split()[1]) for text in heard[:5]]
    assert numbers == list(range(numbers[0], numbers[0] + 5))
    peer.publisher(topic="/answers")
    connect(peer, "/answers", real_flow)
    peer.publish(topic="/answers", texts=["one", "two", "three"])
    wait_until(lambda: heard_after_begin(real_flow) == ["one", "two", "three"], real_flow.log)
    nodes = {"to_ros", "from_ros"}
    wait_until(lambda: nodes <= set(peer.graph(topic="/chatter")["nodes"]), "the nodes in the graph")
    real_flow.stop()


def test_an_image_of_rclpy_arrives_as_flat_bytes(
    real_flow: RosFlow, request: pytest.FixtureRequest
) -> None:
    peer = peer_of(real_flow, request)
    peer.publisher(topic="/image", type="sensor_msgs/msg/Image")
    block = {"topic": "/image", "message_type": "sensor_msgs/Image", "format": "image"}
    real_flow.ros2("camera", block, outputs=["image"])
    real_flow.node(
        "look",
        """
        from hashlib import sha256
        from dora import Node

        with open("seen", "a", buffering=1) as file:
            for event in Node():
                if event["type"] == "INPUT":
                    keys = ("width", "height", "encoding", "frame_id")
                    found = [event["metadata"][key] for key in keys]
                    file.write(f"{found} {sha256(event.numpy().tobytes()).hexdigest()}\\n")
        """,
        inputs={"image": "camera/image"},
    )
    real_flow.start()
    wait_until(lambda: peer.subscriptions_of(topic="/image"), "the subscription of the dataflow")
    seen = real_flow.folder / "seen"

    def has_seen() -> bool:  # the first ones may come before the other side is ready
        peer.publish_image(topic="/image", width=640, height=480)
        return seen.exists() and bool(seen.read_text())

    wait_until(has_seen, "an image")
    digest = sha256(bytes(range(256)) * 3600).hexdigest()
    assert real_flow.lines("seen")[0] == f"[640, 480, 'rgb8', 'camera'] {digest}"
    real_flow.stop()


def test_rclpy_that_comes_later_gets_what_is_latched(
    real_flow: RosFlow, request: pytest.FixtureRequest
) -> None:
    real_flow.node(
        "map",
        """
        import pyarrow as pa
        from dora import Node

        node = Node()
        node.send_output("map", pa.array([{"data": "the map"}]))
        open("sent", "w").write("yes\\n")
        for event in node:
            pass
        """,
        inputs={"tick": "dora/timer/1s"},
        outputs=[{"map": {"latched": 1}}],
    )
    real_flow.ros2("to_ros", {**STRING, "direction": "publish"}, inputs={"text": "map/map"})
    real_flow.start()
    real_flow.lines("sent")
    peer = peer_of(real_flow, request)
    peer.subscription(topic="/chatter", latched=True, depth=1)
    assert peer.taken(topic="/chatter", count=1, timeout=TIMEOUT) == ["the map"]
    real_flow.stop()


def test_services_go_both_ways(rclpy_flow: RosFlow, request: pytest.FixtureRequest) -> None:
    flow, peer = rclpy_flow, peer_of(rclpy_flow, request)
    peer.server(service="/theirs")
    kind = {"service_type": "std_srvs/SetBool"}
    flow.ros2(
        "theirs",
        {"service": "/theirs", "role": "client", **kind},
        inputs={"request": "node/request"},
        outputs=["response"],
    )
    flow.ros2(
        "ours",
        {"service": "/ours", "role": "server", **kind},
        inputs={"response": "node/response"},
        outputs=["request"],
    )
    flow.node(
        "node",
        """
        import pyarrow as pa
        from dora import Node

        node = Node()

        @node.serve("asked", "response")
        def switch(request):
            return pa.array([{"success": True, "message": str(request.value[0].as_py()["data"])}])

        answer = node.call("request", pa.array([{"data": True}]), timeout=60).wait()
        open("answer", "w").write(f"{answer['value'].to_pylist()}\\n")
        for event in node:
            pass
        """,
        inputs={"answer": "theirs/response", "asked": "ours/request"},
        outputs=["request", "response"],
    )
    flow.start()
    assert flow.lines("answer") == ["[{'success': True, 'message': 'set'}]"]
    assert peer.call(service="/ours", value=False) == [True, "False"]
    flow.stop()


def test_actions_go_both_ways_with_cancellation(
    rclpy_flow: RosFlow, request: pytest.FixtureRequest
) -> None:
    flow, peer = rclpy_flow, peer_of(rclpy_flow, request)
    peer.fibonacci_server(action="/theirs")
    kind = {"action_type": "test_msgs/Fibonacci"}
    flow.ros2(
        "theirs",
        {"action": "/theirs", "role": "client", **kind},
        inputs={"goal": "node/goal", "cancel": "node/cancel"},
        outputs=["feedback", "result"],
    )
    flow.ros2(
        "ours",
        {"action": "/ours", "role": "server", **kind},
        inputs={"feedback": "node/feedback", "result": "node/result"},
        outputs=["goal", "cancel"],
    )
    flow.node(
        "node",
        """
        import pyarrow as pa
        from dora import Node

        node = Node()

        @node.serve_goals("asked", result="result", feedback="feedback", cancel="stop")
        def work(goal):
            order = goal.value[0].as_py()["order"]
            goal.send_feedback(pa.array([{"sequence": [order]}]))
            if order > 100:
                goal.wait_for_cancel(60)
                goal.cancel(pa.array([{"sequence": [1]}]))
                return None
            return pa.array([{"sequence": [order, order]}])

        with open("heard", "a", buffering=1) as file:
            for order in (3, 100000):
                goal = node.send_goal("goal", pa.array([{"order": order}]), timeout=60)
                count = 0
                for feedback in goal:
                    count += 1
                    if order > 100 and count == 1:
                        goal.cancel()
                result = goal.result()["value"][0].as_py()["sequence"]
                file.write(f"{goal.status} {result[:2]} {count >= 1}\\n")
        for event in node:
            pass
        """,
        inputs={
            "feedback_of_theirs": "theirs/feedback",
            "result_of_theirs": "theirs/result",
            "asked": "ours/goal",
            "stop": "ours/cancel",
        },
        outputs=["goal", "cancel", "feedback", "result"],
    )
    flow.start()
    heard = flow.lines("heard", 2)
    assert heard == ["succeeded [0, 1] True", "canceled [0, 1] True"]
    assert peer.fibonacci_goal(action="/ours", order=2) == [4, [2, 2], [[2]]]
    assert peer.fibonacci_goal(action="/ours", order=1000, cancel=True) == [5, [1], [[1000]]]
    flow.stop()


def test_a_node_whose_rclpy_process_has_died_is_restarted(
    rclpy_flow: RosFlow, request: pytest.FixtureRequest
) -> None:
    rclpy_flow.ros2(
        "from_ros",
        STRING,
        outputs=["text"],
        restart_policy="on-failure",
    )
    rclpy_flow.node("listener", LISTENER, inputs={"text": "from_ros/text"})
    rclpy_flow.start()
    peer = peer_of(rclpy_flow, request)
    peer.publisher(topic="/chatter")
    connect(peer, "/chatter", rclpy_flow)
    peer.publish(topic="/chatter", texts=["one"])
    wait_until(lambda: heard_after_begin(rclpy_flow) == ["one"], rclpy_flow.log)
    bridge = rclpy_flow.pid_of("from_ros")
    (server,) = Path(f"/proc/{bridge}/task/{bridge}/children").read_text().split()
    os.kill(int(server), signal.SIGKILL)
    rclpy_flow.wait_for_log(f"the process {server}, which has rclpy, has ended")
    (rclpy_flow.folder / "heard").write_text("")
    connect(peer, "/chatter", rclpy_flow)
    assert rclpy_flow.pid_of("from_ros") != bridge
    peer.publish(topic="/chatter", texts=["two"])
    wait_until(lambda: heard_after_begin(rclpy_flow)[-1:] == ["two"], rclpy_flow.log)
    rclpy_flow.stop()
