"""A client of Foxglove's WebSocket protocol, as the application is one.

The protocol: https://docs.foxglove.dev/docs/visualization/connecting/live-data, `foxglove.sdk.v1`.
"""

from __future__ import annotations

import json
import re
import struct
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, Self

from foxglove_schemas_protobuf import (
    CompressedImage_pb2,
    ImageAnnotations_pb2,
    JointStates_pb2,
    Log_pb2,
    PointCloud_pb2,
    PoseInFrame_pb2,
    RawImage_pb2,
    SceneUpdate_pb2,
)
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from waiting import TIMEOUT
from websockets.sync.client import connect

FOXGLOVE = {
    f"foxglove.{name}": getattr(module, name)
    for name, module in {
        "CompressedImage": CompressedImage_pb2,
        "ImageAnnotations": ImageAnnotations_pb2,
        "JointStates": JointStates_pb2,
        "Log": Log_pb2,
        "PointCloud": PointCloud_pb2,
        "PoseInFrame": PoseInFrame_pb2,
        "RawImage": RawImage_pb2,
        "SceneUpdate": SceneUpdate_pb2,
    }.items()
}
"""What Foxglove itself reads these messages with."""


class Shown(NamedTuple):
    """A message that the application would show. ``time_ns``: since the Unix epoch."""

    schema: str
    time_ns: int
    data: bytes

    @property
    def message(self) -> Any:
        return FOXGLOVE[self.schema].FromString(self.data)


class FoxgloveClient:
    """Connected to a server, and subscribed to all topics unless ``topics`` names some."""

    def __init__(self, address: str, topics: set[str] | None = None) -> None:
        # A connection without `with` is deprecated; `__exit__` ends it.
        self._socket = connect(address, subprotocols=["foxglove.sdk.v1"], max_size=None).__enter__()  # type: ignore[list-item]
        self._topics = topics
        self.info: dict[str, Any] = {}
        self.channels: dict[int, dict[str, Any]] = {}
        self.shown: dict[str, list[Shown]] = {}
        self.parameters: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.playback: tuple[int, int] = (-1, 0)  # status, time

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        """Receive until a condition is true."""
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < deadline, f"no {what}: {self}"
            try:
                self._take(self._socket.recv(timeout=0.2))
            except TimeoutError:
                continue

    def __str__(self) -> str:
        counts = {topic: len(messages) for topic, messages in self.shown.items()}
        return f"{counts} {self.parameters} {self.warnings} {self.playback}"

    def send(self, op: str, **fields: Any) -> None:
        self._socket.send(json.dumps({"op": op, **fields}))

    def publish(self, topic: str, value: Any, encoding: str = "json") -> None:
        channel = {"id": 7, "topic": topic, "encoding": encoding, "schemaName": ""}
        self.send("advertise", channels=[channel])
        self._socket.send(struct.pack("<BI", 1, 7) + json.dumps(value).encode())
        self.send("unadvertise", channelIds=[7])

    def play(self, speed: float, seek_ns: int | None = None, *, pause: bool = False) -> None:
        request = b"x"
        head = struct.pack("<BBfBQI", 3, pause, speed, seek_ns is not None, seek_ns or 0, len(request))
        self._socket.send(head + request)

    def values(self, topic: str) -> list[list[float]]:
        """Return what a topic of plain numbers has shown, read with the schema that the server gave."""
        (channel,) = (channel for channel in self.channels.values() if channel["topic"] == topic)
        import base64

        pool = DescriptorPool()
        for file in FileDescriptorSet.FromString(base64.b64decode(channel["schema"])).file:
            pool.Add(file)
        kind = GetMessageClass(pool.FindMessageTypeByName(channel["schemaName"]))
        return [list(kind.FromString(shown.data).values) for shown in self.shown.get(topic, ())]

    def _subscribe(self, number: int) -> None:
        self.send("subscribe", subscriptions=[{"id": number, "channelId": number}])

    def _take(self, received: str | bytes) -> None:
        if isinstance(received, bytes):
            self._take_binary(received)
            return
        message = json.loads(received)
        match message["op"]:
            case "serverInfo":
                self.info = message
            case "advertise":
                for channel in message["channels"]:
                    self.channels[channel["id"]] = channel
                    if self._topics is None or channel["topic"] in self._topics:
                        self._subscribe(channel["id"])
            case "unadvertise":
                for number in message["channelIds"]:
                    self.channels.pop(number, None)
            case "parameterValues":
                self.parameters.update({item["name"]: item["value"] for item in message["parameters"]})
            case "status":
                if found := re.fullmatch(r"Unknown channel ID: (\d+)", message["message"]):
                    self._subscribe(int(found[1]))  # the server advertises a channel before it knows it
                else:
                    self.warnings.append(message["message"])

    def _take_binary(self, received: bytes) -> None:
        match received[0]:
            case 1:  # a message
                number, time_ns = struct.unpack_from("<IQ", received, 1)
                channel = self.channels[number]
                shown = Shown(channel["schemaName"], time_ns, received[13:])
                self.shown.setdefault(channel["topic"], []).append(shown)
            case 5:  # the state of the player
                status, time_ns = struct.unpack_from("<BQ", received, 1)
                self.playback = (status, time_ns)
