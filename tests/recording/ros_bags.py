"""Bags of ROS 2 for tests, written by rosbags."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from recorded_files import SECOND, T0
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from dora.ros2 import InterfaceLibrary, MessageType

LIBRARY = InterfaceLibrary(prefixes=[], distribution="kilted")


class Sent(NamedTuple):
    """A message of a bag: its topic, seconds from the start, type and value."""

    topic: str
    seconds: float
    type: str
    value: Mapping[str, Any]


def image(seconds: int, shade: int) -> dict[str, Any]:
    """Return a `sensor_msgs/msg/Image` of 4 × 2 pixels; each row ends with two other bytes."""
    return {
        "header": {"stamp": {"sec": seconds, "nanosec": 5}, "frame_id": "camera"},
        "height": 2,
        "width": 4,
        "encoding": "rgb8",
        "step": 14,
        "data": np.full(28, shade, np.uint8),
    }


MESSAGES = [
    Sent("/camera/image_raw", 0.0, "sensor_msgs/msg/Image", image(7, 10)),
    Sent("/chatter", 0.1, "std_msgs/msg/String", {"data": "hello"}),
    Sent("/camera/image_raw", 0.2, "sensor_msgs/msg/Image", image(8, 20)),
    Sent("/chatter", 0.3, "std_msgs/msg/String", {"data": "again"}),
    Sent("/arm/joint_states", 0.4, "sensor_msgs/msg/JointState", {"name": ["a"], "position": [0.5]}),
]


def time_of(sent: Sent) -> int:
    """Return the time of a message in nanoseconds."""
    return T0 + round(sent.seconds * SECOND)


def write_bag(
    path: Path,
    messages: Iterable[Sent] = MESSAGES,
    *,
    storage: StoragePlugin = StoragePlugin.MCAP,
    compression: CompressionMode = CompressionMode.NONE,
    library: InterfaceLibrary = LIBRARY,
    definitions: Mapping[str, str] = {},
    version: Any = 9,
    data: Mapping[int, bytes] = {},
) -> Path:
    """Write a bag. ``definitions`` replaces texts of types, ``data`` the bytes of numbered messages."""
    writer = Writer(path, version=version, storage_plugin=storage)
    writer.set_compression(compression, CompressionFormat.ZSTD)
    connections = {}
    with writer:
        for number, sent in enumerate(messages):
            kind = library.message(sent.type)
            if (sent.topic, sent.type) not in connections:
                text = definitions.get(sent.type, kind.definition_text())
                connections[sent.topic, sent.type] = writer.add_connection(
                    sent.topic, sent.type, msgdef=text, rihs01=kind.hash
                )
            content = data.get(number) or kind.encode(sent.value)
            writer.write(connections[sent.topic, sent.type], time_of(sent), content)
    return path


def as_read(sent: Sent, kind: MessageType | None = None) -> list[dict[str, Any]]:
    """Return the value of a message as a node gets it, with defaults for what was left out."""
    kind = kind or LIBRARY.message(sent.type)
    return kind.decode(kind.encode(sent.value)).to_pylist()


def join_bags(path: Path, *bags: Path) -> Path:
    """Make one bag of the files of several, without metadata: the recorder was killed."""
    path.mkdir()
    for number, bag in enumerate(bags):
        (file,) = (one for one in bag.iterdir() if one.name != "metadata.yaml")
        shutil.copy(file, path / f"{path.name}_{number}{''.join(file.suffixes)}")
    return path
