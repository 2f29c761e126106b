"""Dataflows with `ros2:` nodes, over every engine."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from commands import run_command
from waiting import TIMEOUT, wait_until

from dora import Ros2NodeOptions, Ros2Publisher, Ros2QosPolicies, Ros2Subscription

if TYPE_CHECKING:
    from ros_flow import RosFlow

pytestmark = pytest.mark.processes

OPTIONS = Ros2NodeOptions()
RELIABLE = Ros2QosPolicies(reliable=True, keep_last=100)
STRING = {"topic": "/chatter", "message_type": "std_msgs/String"}

TALKER = """
    import pyarrow as pa
    from dora import Node

    node = Node()
    for number, event in enumerate(node):
        if event["type"] == "INPUT":
            node.send_output("text", pa.array([{"data": f"hello {number}"}]))
"""
LISTENER = """
    from dora import Node

    with open("heard", "a", buffering=1) as file:
        for event in Node():
            if event["type"] == "INPUT":
                found = event["metadata"]
                file.write(f"{event['value'].to_pylist()} {found['ros2_type']} {found['ros2_topic']}\\n")
"""
COUNTER = """
    from dora import Node

    with open("count", "a", buffering=1) as file:
        for event in Node():
            if event["type"] == "INPUT":
                file.write(f"{event['id']}\\n")
"""


def answer_to(publisher: Ros2Publisher, value: Any, subscription: Ros2Subscription) -> Any:
    """Publish until the dataflow answers: of its two connections, one may be there before the other."""
    found: list[Any] = []

    def ask() -> bool:
        publisher.publish(value)
        message = subscription.next(0.5)
        if message is not None:
            found.append(message[0].as_py())
        return bool(found)

    wait_until(ask, "an answer of the dataflow")
    return found[0]


@pytest.mark.slow
def test_messages_go_from_one_dataflow_node_to_another_through_ros(flow: RosFlow) -> None:
    flow.node("talker", TALKER, inputs={"tick": "dora/timer/20ms"}, outputs=["text"])
    # On a busy machine more of them wait somewhere than a queue has room for by default.
    qos, waiting = {"reliable": True, "keep_last": 1000}, {"queue_size": 1000}
    sent, came = {"source": "talker/text", **waiting}, {"source": "from_ros/text", **waiting}
    flow.ros2("to_ros", {**STRING, "direction": "publish", "qos": qos}, inputs={"text": sent})
    flow.ros2("from_ros", {**STRING, "qos": qos}, outputs=["text"])
    flow.node("listener", LISTENER, inputs={"text": came})
    flow.start()
    heard = flow.lines("heard", 5)
    numbers = [int(line.split("hello ")[1].split("'")[0]) for line in heard[:5]]
    assert numbers == list(range(numbers[0], numbers[0] + 5))
    assert heard[0].endswith("std_msgs/msg/String /chatter")
    flow.stop()
    assert "Traceback" not in flow.log()


@pytest.mark.slow
def test_a_bad_message_is_reported_with_its_field_and_the_next_ones_pass(flow: RosFlow) -> None:
    flow.node(
        "talker",
        """
        import pyarrow as pa
        from dora import Node

        node = Node()
        for event in node:
            if event["type"] == "INPUT":
                node.send_output("text", pa.array([{"data": 7}]))
                node.send_output("text", b"raw")
                node.send_output("text", pa.array([{"data": "good"}]))
        """,
        inputs={"tick": "dora/timer/20ms"},
        outputs=["text"],
    )
    flow.ros2("to_ros", {**STRING, "direction": "publish"}, inputs={"text": "talker/text"})
    node = flow.context().new_node("listener", "/", OPTIONS)
    subscription = node.create_subscription(node.create_topic("/chatter", "std_msgs/String", RELIABLE))
    flow.start()
    for _ in range(3):
        message = subscription.next(TIMEOUT)
        assert message is not None, flow.log()
        assert message.to_pylist() == [{"data": "good"}]
    # On a busy machine the queue drops some of the first ones, so either kind may be reported first.
    flow.wait_for_log("WARN   to_ros: input `text` has dropped a message: ")
    flow.wait_for_log("field 'data' of std_msgs/msg/String: expected a string, got int 7")
    flow.wait_for_log("Arrow struct array of one row, got an Arrow array of uint8")
    status, text = run_command("node", "list", "-f", "json", folder=flow.folder)
    assert status == 0, text
    nodes = [json.loads(line) for line in text.splitlines()]
    lost = {node["node"]: int(node["ros2_lost"]) for node in nodes}
    assert lost["talker"] == 0
    assert lost["to_ros"] >= 4
    flow.stop()
    assert "Traceback" not in flow.log()


@pytest.mark.slow
def test_several_topics_belong_to_one_ros_node_with_its_name_and_namespace(flow: RosFlow) -> None:
    block = {
        "topics": [
            {"topic": "pose", "message_type": "geometry_msgs/Pose", "output": "where"},
            {"topic": "cmd", "message_type": "geometry_msgs/Twist", "direction": "publish"},
        ],
        "node_name": "base",
        "namespace": "/robot",
    }
    flow.node(
        "driver",
        """
        import pyarrow as pa
        from dora import Node

        node = Node()
        for event in node:
            if event["type"] == "INPUT" and event["id"] == "where":
                where = event["value"][0].as_py()["position"]
                node.send_output("speed", pa.array([{"linear": {"x": where["y"]}}]))
        """,
        inputs={"where": "base/where"},
        outputs=["speed"],
    )
    flow.ros2("base", block, inputs={"cmd": "driver/speed"}, outputs=["where"])
    context = flow.context()
    node = context.new_node("sim", "/robot", OPTIONS)
    poses = node.create_publisher(node.create_topic("pose", "geometry_msgs/Pose", RELIABLE))
    speeds = node.create_subscription(node.create_topic("cmd", "geometry_msgs/Twist", RELIABLE))
    flow.start()
    wait_until(poses.has_subscription, "the subscription of the dataflow")
    graph = context.engine(services=False)[0].graph
    assert graph.wait_for(lambda: "/robot/base" in [item.full for item in graph.nodes()], TIMEOUT)
    speed = answer_to(poses, {"position": {"y": 2.5}}, speeds)
    assert speed["linear"]["x"] == 2.5
    flow.stop()


@pytest.mark.slow
def test_images_arrive_as_flat_bytes_and_leave_as_messages(flow: RosFlow) -> None:
    image = {"topic": "/image", "message_type": "sensor_msgs/Image"}
    flow.ros2("from_ros", {**image, "format": "image"}, outputs=["image"])
    flow.node(
        "flip",
        """
        from dora import Node

        node = Node()
        for event in node:
            if event["type"] == "INPUT":
                keep = ("width", "height", "encoding", "frame_id")
                metadata = {name: event["metadata"][name] for name in keep}
                node.send_output("image", event["value"].to_numpy()[::-1].copy(), metadata)
        """,
        inputs={"image": "from_ros/image"},
        outputs=["image"],
    )
    flow.ros2(
        "to_ros", {**image, "topic": "/flipped", "direction": "publish"}, inputs={"image": "flip/image"}
    )
    node = flow.context().new_node("camera", "/", OPTIONS)
    camera = node.create_publisher(node.create_topic("/image", "sensor_msgs/Image", RELIABLE))
    flipped = node.create_subscription(node.create_topic("/flipped", "sensor_msgs/Image", RELIABLE))
    flow.start()
    wait_until(camera.has_subscription, "the subscription of the dataflow")
    pixels = bytes(range(256)) * 3600  # 640 × 480 × 3
    image_value = {
        "header": {"frame_id": "lens"},
        "width": 640,
        "height": 480,
        "step": 1920,
        "encoding": "rgb8",
        "data": pixels,
    }
    found = answer_to(camera, image_value, flipped)
    assert (found["width"], found["height"], found["encoding"], found["step"]) == (640, 480, "rgb8", 1920)
    assert found["header"]["frame_id"] == "lens"
    assert bytes(found["data"]) == pixels[::-1]
    flow.stop()


@pytest.mark.slow
def test_a_latched_output_is_kept_for_ros_nodes_that_come_later(flow: RosFlow) -> None:
    flow.node(
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
    flow.ros2("to_ros", {**STRING, "direction": "publish"}, inputs={"text": "map/map"})
    flow.start()
    flow.lines("sent")
    node = flow.context().new_node("late", "/", OPTIONS)
    from dora import Ros2Durability

    qos = Ros2QosPolicies(reliable=True, durability=Ros2Durability.TransientLocal)
    subscription = node.create_subscription(node.create_topic("/chatter", "std_msgs/String", qos))
    message = subscription.next(TIMEOUT)
    assert message is not None, flow.log()
    assert message.to_pylist() == [{"data": "the map"}]
    flow.stop()


@pytest.mark.slow
def test_a_dataflow_node_calls_a_service_of_ros(serving_flow: RosFlow) -> None:
    flow = serving_flow
    flow.node(
        "asker",
        """
        from dora import Node
        import pyarrow as pa

        node = Node()
        answer = node.call("request", pa.array([{"data": True}]), timeout=30).wait()
        open("answer", "w").write(f"{answer['value'].to_pylist()}\\n")
        try:
            node.call("request", pa.array([{"data": "no"}]), timeout=30).wait()
        except RuntimeError as error:
            open("refused", "w").write(f"{error}\\n")
        """,
        inputs={"response": "service/response"},
        outputs=["request"],
    )
    flow.ros2(
        "service",
        {"service": "/lamp", "service_type": "std_srvs/SetBool", "role": "client"},
        inputs={"request": "asker/request"},
        outputs=["response"],
    )
    flow.start()
    server = (
        flow.context()
        .new_node("lamp", "/", OPTIONS)
        .create_service_server("/lamp", "std_srvs/SetBool", RELIABLE)
    )
    taken = server.take_request(TIMEOUT)
    assert taken is not None, flow.log()
    assert taken[1].to_pylist() == [{"data": True}]
    server.send_response(taken[0], {"success": True, "message": "on"})
    assert flow.lines("answer") == ["[{'success': True, 'message': 'on'}]"]
    assert "field 'data' of std_srvs/srv/SetBool_Request: expected" in flow.lines("refused")[0]
    assert flow.end() == 0


def test_a_dataflow_node_serves_ros(serving_flow: RosFlow) -> None:
    flow = serving_flow
    flow.ros2(
        "service",
        {"service": "/lamp", "service_type": "std_srvs/SetBool", "role": "server"},
        inputs={"response": "lamp/response"},
        outputs=["request"],
    )
    flow.node(
        "lamp",
        """
        import pyarrow as pa
        from dora import Node

        node = Node()

        @node.serve("request", "response")
        def switch(request):
            on = request.value[0].as_py()["data"]
            return pa.array([{"success": True, "message": "on" if on else "off"}])

        for event in node:
            pass
        """,
        inputs={"request": "service/request"},
        outputs=["response"],
    )
    flow.start()
    node = flow.context().new_node("asker", "/", OPTIONS)
    client = node.create_service_client("/lamp", "std_srvs/SetBool", RELIABLE)
    answers: list[Any] = [None] * 8

    def ask(index: int) -> None:
        answers[index] = client.call({"data": index % 2 == 0}, TIMEOUT).to_pylist()

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    expected = [[{"success": True, "message": "off" if index % 2 else "on"}] for index in range(8)]
    assert answers == expected, flow.log()
    flow.stop()


def test_a_dataflow_node_sends_goals_to_an_action_of_ros(serving_flow: RosFlow) -> None:
    flow = serving_flow
    flow.node(
        "asker",
        """
        import pyarrow as pa
        from dora import Node

        node = Node()
        goal = node.send_goal("goal", pa.array([{"order": 3}]), timeout=30)
        with open("heard", "w", buffering=1) as file:
            for feedback in goal:
                file.write(f"feedback {feedback['value'].to_pylist()}\\n")
            result = goal.result()
            file.write(f"{goal.status} {result['value'].to_pylist()}\\n")
        """,
        inputs={"feedback": "fibonacci/feedback", "result": "fibonacci/result"},
        outputs=["goal"],
    )
    flow.ros2(
        "fibonacci",
        {"action": "/fibonacci", "action_type": flow.fibonacci, "role": "client"},
        inputs={"goal": "asker/goal"},
        outputs=["feedback", "result"],
    )
    flow.start()
    server = (
        flow.context()
        .new_node("server", "/", OPTIONS)
        .create_action_server("/fibonacci", flow.fibonacci, RELIABLE)
    )
    taken = server.take_goal(TIMEOUT)
    assert taken is not None, flow.log()
    assert taken[1].to_pylist() == [{"order": 3}]
    server.send_feedback(taken[0], {"sequence": [0, 1]})
    assert flow.lines("heard") == ["feedback [{'sequence': [0, 1]}]"]
    server.send_result(taken[0], {"sequence": [0, 1, 1]})
    assert flow.lines("heard", 2)[1] == "succeeded [{'sequence': [0, 1, 1]}]"
    assert flow.end() == 0


def test_a_dataflow_node_works_on_goals_of_ros_until_they_are_canceled(serving_flow: RosFlow) -> None:
    flow = serving_flow
    flow.ros2(
        "fibonacci",
        {"action": "/fibonacci", "action_type": flow.fibonacci, "role": "server"},
        inputs={"feedback": "worker/feedback", "result": "worker/result"},
        outputs=["goal", "cancel"],
    )
    flow.node(
        "worker",
        """
        import pyarrow as pa
        from dora import Node

        node = Node()

        @node.serve_goals("goal", result="result", feedback="feedback", cancel="cancel")
        def work(goal):
            order = goal.value[0].as_py()["order"]
            kind = pa.struct([("sequence", pa.list_(pa.int32()))])
            goal.send_feedback(pa.array([{"sequence": [order]}], kind))
            if order == 0:
                goal.wait_for_cancel(60)
                goal.cancel()
                return None
            return pa.array([{"sequence": [0] * order}], kind)

        for event in node:
            pass
        """,
        inputs={"goal": "fibonacci/goal", "cancel": "fibonacci/cancel"},
        outputs=["feedback", "result"],
    )
    flow.start()
    node = flow.context().new_node("client", "/", OPTIONS)
    client = node.create_action_client("/fibonacci", flow.fibonacci, RELIABLE)
    goal_id = client.send_goal({"order": 2}, TIMEOUT)
    assert goal_id is not None
    feedback = client.take_feedback(goal_id, TIMEOUT)
    assert feedback is not None, flow.log()
    assert feedback.to_pylist() == [{"sequence": [2]}]
    found = client.take_result(goal_id, TIMEOUT)
    assert found is not None, flow.log()
    assert (found[0], found[1].to_pylist()) == ("succeeded", [{"sequence": [0, 0]}])
    canceled = client.send_goal({"order": 0}, TIMEOUT)
    assert canceled is not None
    assert client.take_feedback(canceled, TIMEOUT) is not None
    assert client.cancel(canceled, TIMEOUT) == 0
    found = client.take_result(canceled, TIMEOUT)
    assert found is not None, flow.log()
    assert found[0] == "canceled"
    flow.stop()


@pytest.mark.slow
def test_a_recording_of_what_comes_from_ros_becomes_a_bag_with_the_same_messages(flow: RosFlow) -> None:
    """The bridge sends its messages on without an array of each; a recording has them as any others."""
    from rosbags.highlevel import AnyReader

    block = {"qos": {"reliable": True, "keep_last": 100}}
    topics = [
        {**block, "topic": "/joints", "message_type": "sensor_msgs/JointState", "output": "joints"},
        {**block, "topic": "/image", "message_type": "sensor_msgs/Image", "output": "image"},
    ]
    flow.ros2("from_ros", {"topics": topics}, outputs=["joints", "image"])
    flow.node("listener", COUNTER, inputs={name: f"from_ros/{name}" for name in ("joints", "image")})
    flow.start("record", "--output", "run.mcap")
    node = flow.context().new_node("robot", "/", OPTIONS)
    joints = node.create_publisher(node.create_topic("/joints", "sensor_msgs/JointState", RELIABLE))
    image = node.create_publisher(node.create_topic("/image", "sensor_msgs/Image", RELIABLE))
    state = {"name": ["hip", "knee"], "position": [0.5, -1.5]}
    picture = {"width": 1100, "height": 1000, "encoding": "mono8", "step": 1100, "data": bytes(1_100_000)}

    def both_came() -> bool:
        joints.publish(state)
        image.publish(picture)
        path = flow.folder / "count"
        return path.exists() and {"joints", "image"} <= set(path.read_text().split())

    wait_until(both_came, flow.log)
    flow.stop()
    export = [sys.executable, "-m", "dora", "export", "run.mcap", "--ros2", "bag"]
    subprocess.run(export, cwd=flow.folder, check=True, capture_output=True)
    with AnyReader([flow.folder / "bag"]) as reader:
        seen = {
            connection.topic: reader.deserialize(data, connection.msgtype)
            for connection, _, data in reader.messages()
        }
    assert seen["/joints"].name == ["hip", "knee"]
    assert seen["/joints"].position.tolist() == [0.5, -1.5]
    assert (seen["/image"].width, bytes(seen["/image"].data)) == (1100, bytes(1_100_000))
