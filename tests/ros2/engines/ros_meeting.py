"""Opens contexts of an engine that meet each other, and no other test."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ports import free_port
from ros_domains import free_domain, give_back
from waiting import TIMEOUT, wait_until

from dora.ros2.graph import Kind
from dora.ros2.rclpy.find import PYTHON_VARIABLE


class RosTypeName(NamedTuple):
    """A `dora.ros2.engine.RosType` made of its three names."""

    name: str
    dds_name: str
    hash: str


STRING = RosTypeName(
    "std_msgs/msg/String",
    "std_msgs::msg::dds_::String_",
    "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18",
)
OTHER_STRING = RosTypeName(STRING.name, STRING.dds_name, "RIHS01_" + "c" * 64)
BOOL = RosTypeName(
    "std_msgs/msg/Bool",
    "std_msgs::msg::dds_::Bool_",
    "RIHS01_feb91e995ff9ebd09c0cb3d2aed18b11077585839fb5db80193b62d74528f6c9",
)
# A service whose request and response have the same fields.
BASIC = RosTypeName("test_msgs/srv/BasicTypes", "test_msgs::srv::dds_::BasicTypes_", "RIHS01_" + "b" * 64)
HEADER = b"\x00\x01\x00\x00"

NAME_ENGINES = ("zenoh", "dds")  # for which a type is its names, whatever they are
SERVICE_ENGINES = ("zenoh", "rclpy")
ENGINES = (*NAME_ENGINES, "rclpy")
# A participant that was killed is forgotten after a second instead of ten.
_CYCLONE = (
    "<CycloneDDS><Domain><General><AllowMulticast>false</AllowMulticast></General><Discovery>"
    "<ParticipantIndex>auto</ParticipantIndex><LeaseDuration>1 s</LeaseDuration>"
    "<Peers><Peer address='localhost'/></Peers></Discovery></Domain></CycloneDDS>"
)


def engine_params(engines: tuple[str, ...] = ENGINES) -> list[Any]:
    """Return the engines as parameters of a fixture; rclpy is for `make ros2`."""
    no_cyclone = importlib.util.find_spec("cyclonedds") is None

    def marks(engine: str) -> list[pytest.MarkDecorator]:
        if engine == "rclpy":
            return [pytest.mark.ros2, pytest.mark.processes]
        absent = engine == "dds" and no_cyclone
        return [pytest.mark.skipif(absent, reason="Cyclone DDS has no wheel for this machine")]

    return [pytest.param(engine, marks=marks(engine)) for engine in engines]


def message(number: int, size: int = 8) -> bytes:
    """Return a message with a number, padded to whole words as DDS does it."""
    return HEADER + number.to_bytes(4, "little") + bytes(size - 4)


def request(number: int) -> bytes:
    """Return a request of `BASIC` with a number; as a response it says the same."""
    body = bytearray(48)
    body[24:28] = number.to_bytes(4, "little")  # the field int32_value
    return HEADER + bytes(body) + b"\x01\x00\x00\x00\x00"


def asked(data: bytes) -> int:
    """Return the number of a request or response."""
    return int.from_bytes(data[28:32], "little")


def number_of(data: bytes) -> int:
    return int.from_bytes(data[4:8], "little")


def ros_python() -> Path:
    """Return the Python of the environment with a real ROS 2 that `make ros2` makes."""
    folder = os.environ.get("DORA_ROS2_VENV")
    assert folder, "DORA_ROS2_VENV names no environment with ROS: `make ros2` makes one"
    return Path(folder).absolute() / "bin" / "python"


class Meeting:
    """An engine, a domain, and what the contexts need to meet."""

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.domain = free_domain()
        self._contexts: list[Any] = []

    def open(self, domain: int | None = None) -> Any:
        """Open a context; it is closed at the end."""
        context = open_context(self.engine, self.domain if domain is None else domain)
        self._contexts.append(context)
        return context

    def close(self) -> None:
        for context in self._contexts:
            context.close()
        give_back(self.domain)


def open_context(engine: str, domain: int) -> Any:
    """Open a context, also in a process that a test has started."""
    if engine == "zenoh":
        from dora.ros2.zenoh.context import open_context as open_zenoh

        return open_zenoh(domain)
    if engine == "dds":
        from dora.ros2.dds.context import open_context as open_dds

        return open_dds(domain)
    from dora.ros2.rclpy.context import open_context as open_rclpy

    return open_rclpy(domain)


@contextmanager
def meeting(engine: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Meeting]:
    """Prepare a meeting: variables that child processes inherit, and a router for Zenoh."""
    router = None
    if engine == "zenoh":
        from dora.ros2.zenoh.session import open_router

        endpoint = f"tcp/127.0.0.1:{free_port()}"
        router = open_router(endpoint)
        listen = 'listen/endpoints=["tcp/127.0.0.1:0"]'
        monkeypatch.setenv("ZENOH_CONFIG_OVERRIDE", f'connect/endpoints=["{endpoint}"];{listen}')
    elif engine == "dds":
        monkeypatch.setenv("CYCLONEDDS_URI", _CYCLONE)
    else:
        from real_ros import ROS_VARIABLES  # not in processes that tests start, which import this file

        for name, value in ROS_VARIABLES.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv(PYTHON_VARIABLE, str(ros_python()))
    found = Meeting(engine)
    try:
        yield found
    finally:
        found.close()
        if router is not None:
            router.close()


def wait_for_match(context: Any, topic: str, publishers: int = 1, subscriptions: int = 1) -> None:
    """Wait until a context sees so many endpoints of a topic."""

    def matched() -> bool:
        endpoints = context.graph.endpoints(name=topic)
        kinds = [item.kind for item in endpoints]
        return kinds.count(Kind.PUBLISHER) == publishers and kinds.count(Kind.SUBSCRIPTION) == subscriptions

    assert context.graph.wait_for(matched, TIMEOUT), context.graph.endpoints()


def wait_for_subscription(publisher: Any) -> None:
    """Wait until messages of a publisher get to a subscription."""
    wait_until(publisher.has_subscription, f"a subscription of {publisher.topic}")
