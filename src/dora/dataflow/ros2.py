"""The `ros2` block of a node, once every rule has been applied; a node of dora's reads it and obeys.

Names of topics, types and services are texts here: `dora.ros2` knows what they mean.
"""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

BRIDGE_VARIABLE = "DORA_ROS2_BRIDGE"
"""The environment variable with which the program of the node gets its `Ros2Block`, as JSON."""

BRIDGE_PATH = "dora-ros2"
"""The ``path`` of a node with a `ros2` block."""

_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9_]")

Direction = Literal["subscribe", "publish"]
Role = Literal["client", "server"]
MessageFormat = Literal["message", "image"]
TransportKind = Literal["dds", "zenoh", "rclpy"]
Compatibility = Literal["humble", "rep2016"]
Durability = Literal["volatile", "transient_local"]
Liveliness = Literal["automatic", "manual_by_participant", "manual_by_topic"]


def port_of_topic(topic: str) -> str:
    """Return the input or output of a topic that names none.

    >>> port_of_topic("~/camera/image")
    'camera_image'
    """
    return topic.lstrip("~").strip("/").replace("/", "_")


class Ros2BlockQos(msgspec.Struct, frozen=True, omit_defaults=True):
    """The quality of service that the block asks for. None: the rules of inputs and outputs decide."""

    reliable: bool | None = None
    durability: Durability | None = None
    liveliness: Liveliness | None = None
    lease_duration: float | None = None  # seconds
    max_blocking_time: float | None = None  # seconds
    keep_last: int | None = None
    keep_all: bool = False


class Ros2BlockTopic(msgspec.Struct, frozen=True, omit_defaults=True):
    """A topic, and the outputs (`subscribe`) or inputs (`publish`) that it is connected with."""

    topic: str
    message_type: str
    direction: Direction
    ports: tuple[str, ...]
    qos: Ros2BlockQos = Ros2BlockQos()
    format: MessageFormat = "message"


class Ros2BlockCalls(msgspec.Struct, frozen=True, omit_defaults=True):
    """A service or an action. ``ports``: its part, such as `request`, → the input or output for it."""

    name: str
    type: str
    role: Role
    ports: dict[str, str]
    qos: Ros2BlockQos = Ros2BlockQos()


class Ros2Block(msgspec.Struct, frozen=True, omit_defaults=True):
    """One node of the ROS graph: topics, or a service, or an action."""

    topics: tuple[Ros2BlockTopic, ...] = ()
    service: Ros2BlockCalls | None = None
    action: Ros2BlockCalls | None = None
    namespace: str = "/"
    node_name: str = ""  # "": the id of the node, with `_` for what ROS does not allow
    transport: TransportKind | None = None
    compatibility: Compatibility | None = None
    config_uri: str | None = None
    domain_id: int | None = None
    ros_paths: tuple[str, ...] = ()  # relative to the folder that the node runs in

    @property
    def names(self) -> tuple[str, ...]:
        """The topics, or the service or action, that it connects."""
        calls = [item.name for item in (self.service, self.action) if item is not None]
        return (*(topic.topic for topic in self.topics), *calls)

    def name_of(self, node_id: str) -> str:
        """Return the name of the ROS node, by default the node's id, in a form that ROS allows.

        >>> Ros2Block().name_of("camera-1"), Ros2Block().name_of("2.left")
        ('camera_1', '_2_left')
        """
        name = self.node_name or _NOT_IN_A_NAME.sub("_", node_id)
        return f"_{name}" if name[0].isdigit() else name

    def in_words(self) -> str:
        """Return what it does, for drawings: ``ROS 2: /chatter → text``."""
        parts = [
            f"{topic.topic} → {', '.join(topic.ports)}"
            if topic.direction == "subscribe"
            else f"{', '.join(topic.ports)} → {topic.topic}"
            for topic in self.topics
        ]
        parts += [f"{item.role} of {item.name}" for item in (self.service, self.action) if item is not None]
        return f"ROS 2: {'; '.join(parts)}"

    @property
    def needs_services(self) -> bool:
        """Whether it needs more than topics."""
        return self.service is not None or self.action is not None
