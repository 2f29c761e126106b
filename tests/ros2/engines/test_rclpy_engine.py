"""The rclpy engine alone: its process, and what that cannot do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ros_meeting import BASIC, Meeting, meeting
from waiting import TIMEOUT

from dora.ros2.graph import NodeName

pytestmark = [pytest.mark.ros2, pytest.mark.processes]


@pytest.fixture(name="engine")
def _engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meeting]:
    with meeting("rclpy", monkeypatch) as found:
        yield found


def test_a_server_of_a_node_that_is_there_is_seen(engine: Meeting) -> None:
    ours, other = engine.open(), engine.open()
    client = ours.create_node("client").create_client("/later", BASIC)
    node = other.create_node("server")

    def seen() -> bool:
        return NodeName("server", "/") in ours.graph.nodes() and bool(ours.graph.endpoints(name="/later"))

    assert ours.graph.wait_for(seen, TIMEOUT)
    node.create_server("/later", BASIC)
    assert client.wait_for_service(TIMEOUT)
