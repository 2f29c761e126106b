"""Which of a node's receivers gets what comes from other machines."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dora.transport.network import receiver as remote_receiver
from dora.transport.network.protocol import LABEL, PROBE
from dora.transport.network.receiver import ReceiverSession
from dora.wire.message import HEADER_SIZE


class Receiver:
    def __init__(self, key: str) -> None:
        self.key = key
        self.got: list[str] = []

    def on_probe(self, data: bytes) -> None:  # noqa: ARG002
        self.got.append("probe")

    def on_message(self, payload: Any, label: bytes) -> None:  # noqa: ARG002
        self.got.append("message")


class Payload(bytes):
    def to_bytes(self) -> bytes:
        return bytes(self)


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> Any:
    session = SimpleNamespace(declare_subscriber=lambda *_: SimpleNamespace(handler=None))
    monkeypatch.setattr(remote_receiver, "listen", lambda *_: session)
    monkeypatch.setattr(remote_receiver.Intake, "begin", lambda *_: None)
    config: Any = SimpleNamespace(dataflow_id="flow", node_id="plot", node_slot=0)
    board: Any = SimpleNamespace(words=[0] * 8)
    remote: Any = None
    return ReceiverSession(config, remote, board)


def deliver(house: Any, key: str, payload: bytes, label: bytes | None) -> None:
    attachment = None if label is None else Payload(label)
    house._deliver(SimpleNamespace(key_expr=key, attachment=attachment, payload=Payload(payload)))


def test_a_probe_for_a_link_that_is_still_to_come_is_not_for_the_only_one(house: Any) -> None:
    image, depth = Receiver("flow/to/plot/image"), Receiver("flow/to/plot/depth~1")
    house.add(image)
    house.subscribe()
    probe, label = bytes(PROBE.size), bytes(LABEL.size)
    deliver(house, depth.key, probe, None)
    assert image.got == []
    deliver(house, image.key, probe, None)
    deliver(house, image.key, bytes(HEADER_SIZE), label)
    assert image.got == ["probe", "message"]
    house.add(depth)
    deliver(house, depth.key, probe, None)
    deliver(house, depth.key, bytes(HEADER_SIZE), label)
    assert (image.got, depth.got) == (["probe", "message"], ["probe", "message"])
