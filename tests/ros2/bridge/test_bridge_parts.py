"""Parts of a bridge at its edges: bad values, late answers, nodes that never answer. Without ROS."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from dora.dataflow.ros2 import Ros2BlockTopic
from dora.ros2 import InterfaceLibrary
from dora.ros2.bridge.topics import PublishedTopic, SubscribedTopic
from dora.ros2.message_queue import MessageCounters

LIBRARY = InterfaceLibrary(prefixes=[], distribution="kilted")
IMAGE = LIBRARY.message("sensor_msgs/Image")


class DoraSide:
    """Stands for the node: keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any, dict[str, Any]]] = []
        self.warnings: list[str] = []

    def send_output(self, output: str, value: Any, metadata: dict[str, Any]) -> None:
        self.sent.append((output, value, metadata))

    def log_warn(self, text: str) -> None:
        self.warnings.append(text)


class Event(dict[str, Any]):
    """An input."""

    sequence = 1


def event(port: str, value: Any, **metadata: Any) -> Any:
    return Event(id=port, value=value, metadata={"timestamp": datetime.now(UTC), **metadata})


def topic(direction: Any, *, form: Any = "message") -> Any:
    return Ros2BlockTopic(
        topic="/image", message_type=IMAGE.name, direction=direction, ports=("image",), format=form
    )


def test_a_text_for_an_image_topic_is_left_out() -> None:
    node, published = DoraSide(), list[Any]()
    side: Any = node
    publisher: Any = SimpleNamespace(publish=published.append)
    images = PublishedTopic(side, topic("publish"), publisher, IMAGE.name)
    images.handle(event("image", pa.array(["hello"]), width=1, height=1))
    assert published == []
    assert "expected the bytes of an image, got an array of string" in node.warnings[0]
    images.handle(event("image", pa.array([1, 2, 3], pa.uint8()), width=1, height=1))
    assert len(published) == 1


def test_an_image_of_ros_with_half_a_value_is_left_out() -> None:
    node = DoraSide()
    side: Any = node
    subscription: Any = SimpleNamespace(
        counters=MessageCounters(),
        next=lambda timeout: IMAGE.decode(  # noqa: ARG005
            IMAGE.encode(
                {"height": 3, "step": 1, "encoding": "mono16", "is_bigendian": 1, "data": [1, 2, 3]}
            )
        ),
    )
    images = SubscribedTopic(side, topic("subscribe", form="image"), subscription, IMAGE.name)
    deliver = images.next(0)
    assert deliver is not None
    deliver()
    assert node.sent == []
    assert "mono16 has values of 2 bytes" in node.warnings[0]
