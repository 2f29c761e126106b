"""Messages of every kind between a real rclpy and a dataflow: contents, order, and what stays behind."""

from __future__ import annotations

from hashlib import sha256

import psutil
import pytest
from flow_peer import connect, peer_of
from rclpy_process import files_of, memory_of, threads_of
from ros_flow import RosFlow
from ros_meeting import ros_python
from sample_messages import SAMPLES
from waiting import TIMEOUT, wait_until

from dora.ros2 import InterfaceLibrary

pytestmark = [pytest.mark.ros2, pytest.mark.processes]

MANY = 10_000
RELIABLE = {"reliable": True, "keep_last": MANY}
LISTENER = """
    from dora import Node

    with open("heard", "a", buffering=1) as file:
        for event in Node():
            if event["type"] == "INPUT":
                file.write(f"{event['value'][0].as_py()['data']}\\n")
"""


def test_messages_of_every_kind_go_both_ways_byte_for_byte(
    real_flow: RosFlow, request: pytest.FixtureRequest
) -> None:
    """The dataflow sends back what it gets; it notes the messages, and rclpy the ones that come back."""
    flow, peer = real_flow, peer_of(real_flow, request)
    types = str(ros_python().parents[1])
    library = InterfaceLibrary(prefixes=[types])
    sent = {name: library.message(one.type).encode(one.value) for name, one in SAMPLES.items()}
    there, back = [], []
    for name, one in SAMPLES.items():
        peer.publisher(topic=f"/there/{name}", type=one.type)
        peer.sample_subscription(topic=f"/back/{name}", type=one.type, size=len(sent[name]))
        block = {"message_type": one.type, "qos": {"reliable": True, "keep_last": 10}}
        there.append({**block, "topic": f"/there/{name}", "output": name})
        back.append({**block, "topic": f"/back/{name}", "direction": "publish", "input": name})
    paths = {"ros_paths": [f"{types}/share"]}
    flow.ros2("from_ros", {"topics": there, **paths}, outputs=list(SAMPLES))
    flow.ros2("to_ros", {"topics": back, **paths}, inputs={name: f"echo/{name}" for name in SAMPLES})
    flow.node(
        "echo",
        f"""
        from hashlib import sha256
        from dora import Node
        from dora.ros2 import InterfaceLibrary

        library = InterfaceLibrary(prefixes=[{types!r}])
        node = Node()
        with open("seen", "a", buffering=1) as file:
            for event in node:
                if event["type"] == "INPUT":
                    value = event["value"]
                    value.validate(full=True)
                    data = library.message(event["metadata"]["ros2_type"]).encode(value)
                    file.write(f"{{event['id']}} {{sha256(data).hexdigest()}}\\n")
                    node.send_output(event["id"], value)
        """,
        inputs={name: f"from_ros/{name}" for name in SAMPLES},
        outputs=list(SAMPLES),
    )
    flow.start()
    for name in SAMPLES:
        wait_until(
            lambda name=name: peer.subscriptions_of(topic=f"/there/{name}"),
            lambda: f"the subscription of the dataflow\n{flow.log()}",
        )

        def came_back(name: str = name) -> bool:  # either connection may come later than the other
            peer.publish_sample(topic=f"/there/{name}", sample=name)
            return bool(peer.taken(topic=f"/back/{name}", count=1, timeout=1))

        wait_until(came_back, lambda name=name: f"{name} of the dataflow\n{flow.log()}")
    flow.stop()
    seen = [line.split() for line in (flow.folder / "seen").read_text().splitlines()]
    for name, data in sent.items():
        expected = sha256(data).hexdigest()
        assert {digest for one, digest in seen if one == name} == {expected}, name
        assert set(peer.taken(topic=f"/back/{name}", count=1, timeout=0)) == {expected}, name


def test_ten_thousand_messages_of_rclpy_at_1_khz_reach_a_dataflow_in_order(
    real_flow: RosFlow, request: pytest.FixtureRequest
) -> None:
    flow, peer = real_flow, peer_of(real_flow, request)
    peer.publisher(topic="/many", depth=MANY)
    block = {"topic": "/many", "message_type": "std_msgs/String", "qos": RELIABLE}
    flow.ros2("from_ros", block, outputs=["text"])
    flow.node("listener", LISTENER, inputs={"text": {"source": "from_ros/text", "queue_size": MANY}})
    flow.start()
    connect(peer, "/many", flow)
    peer.publish_many(topic="/many", count=MANY, rate=1000)
    heard = flow.folder / "heard"

    def numbers() -> list[str]:
        return [line for line in heard.read_text().split() if line != "begin"]

    wait_until(lambda: len(numbers()) >= MANY, lambda: f"{len(numbers())} messages\n{flow.log()}")
    assert numbers() == [str(number) for number in range(MANY)]
    flow.stop()


def test_ten_thousand_messages_of_a_dataflow_at_1_khz_reach_rclpy_in_order(
    real_flow: RosFlow, request: pytest.FixtureRequest
) -> None:
    flow, peer = real_flow, peer_of(real_flow, request)
    peer.subscription(topic="/many", depth=MANY)
    flow.node(
        "talker",
        f"""
        import os
        import time

        import pyarrow as pa
        from dora import Node

        node = Node()
        for event in node:  # until both sides know each other
            if event["type"] == "INPUT":
                node.send_output("text", pa.array([{{"data": "begin"}}]))
                if os.path.exists("go"):
                    break
        begin = time.monotonic()
        for number in range({MANY}):
            node.send_output("text", pa.array([{{"data": str(number)}}]))
            time.sleep(max(0.0, begin + (number + 1) / 1000 - time.monotonic()))
        for event in node:
            pass
        """,
        inputs={"tick": "dora/timer/50ms"},
        outputs=["text"],
    )
    block = {"topic": "/many", "message_type": "std_msgs/String", "direction": "publish", "qos": RELIABLE}
    flow.ros2("to_ros", block, inputs={"text": {"source": "talker/text", "queue_size": MANY}})
    flow.start()
    assert peer.taken(topic="/many", count=1, timeout=TIMEOUT), flow.log()
    (flow.folder / "go").touch()

    def numbers() -> list[str]:
        return [text for text in peer.taken(topic="/many", count=0, timeout=0) if text != "begin"]

    wait_until(lambda: len(numbers()) >= MANY, lambda: f"{len(numbers())} messages\n{flow.log()}")
    assert numbers() == [str(number) for number in range(MANY)]
    flow.stop()


def test_a_dataflow_that_comes_later_gets_what_rclpy_has_latched(
    real_flow: RosFlow, request: pytest.FixtureRequest
) -> None:
    flow, peer = real_flow, peer_of(real_flow, request)
    peer.publisher(topic="/map", depth=2, latched=True)
    peer.publish(topic="/map", texts=["a", "b", "c"])
    qos = {"reliable": True, "durability": "transient_local", "keep_last": 2}
    flow.ros2(
        "from_ros", {"topic": "/map", "message_type": "std_msgs/String", "qos": qos}, outputs=["text"]
    )
    flow.node("listener", LISTENER, inputs={"text": "from_ros/text"})
    flow.start()
    assert flow.lines("heard", 2) == ["b", "c"]
    flow.stop()


def test_an_rclpy_that_is_restarted_is_found_again_and_the_bridge_keeps_nothing_of_it(
    real_flow: RosFlow, request: pytest.FixtureRequest
) -> None:
    flow = real_flow
    block = {"topic": "/chatter", "message_type": "std_msgs/String", "qos": {"reliable": True}}
    flow.ros2("from_ros", block, outputs=["text"])
    flow.node("listener", LISTENER, inputs={"text": "from_ros/text"})
    flow.start()
    used: list[list[tuple[int, int, int]]] = []
    heard = flow.folder / "heard"
    for number in range(20):
        peer = peer_of(flow, request)
        peer.publisher(topic="/chatter")
        connect(peer, "/chatter", flow)
        peer.publish(topic="/chatter", texts=[str(number)])
        wait_until(lambda number=number: str(number) in heard.read_text().split(), flow.log)
        heard.write_text("")
        peer.kill()
        pid = flow.pid_of("from_ros")
        pids = [pid, *(child.pid for child in psutil.Process(pid).children())]
        used.append([(files_of(one), threads_of(one), memory_of(one)) for one in pids])
    for first, last in zip(used[4], used[-1], strict=True):  # some killed ones are remembered for a while
        assert last[0] <= first[0] + 2, used
        assert last[1] <= first[1] + 2, used
        assert last[2] <= first[2] + 10, used
    flow.stop()
