"""A process with a real rclpy beside a dataflow."""

from __future__ import annotations

import pytest
from rclpy_process import RclpyPeer
from ros_flow import RosFlow
from waiting import wait_until


def peer_of(flow: RosFlow, request: pytest.FixtureRequest) -> RclpyPeer:
    peer = RclpyPeer(flow.domain)
    request.addfinalizer(peer.close)
    return peer


def connect(peer: RclpyPeer, topic: str, flow: RosFlow) -> None:
    """Wait until texts of rclpy arrive in the file `heard`: each side finds the other one on its own."""
    wait_until(lambda: peer.subscriptions_of(topic=topic), "the subscription of the dataflow")
    heard = flow.folder / "heard"

    def has_heard() -> bool:
        peer.publish(topic=topic, texts=["begin"])
        return heard.exists() and "begin\n" in heard.read_text()

    wait_until(has_heard, lambda: f"a text on {topic}\n{flow.log()}")
