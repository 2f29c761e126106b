"""Which receiver of a node gets a sample from another machine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dora.transport.network import receiver as receiver_module
from dora.transport.network.protocol import DATA_HEADER, PROBE
from dora.transport.network.receiver import ReceiverSession
from dora.wire.message import HEADER_SIZE


class Receiver:
    def __init__(self, key: str) -> None:
        self.key = key
        self.got: list[str] = []

    def on_probe(self, data: bytes) -> None:  # noqa: ARG002
        self.got.append("probe")

    def on_message(self, fragment: Any, header: bytes) -> None:  # noqa: ARG002
        self.got.append("message")


class Payload(bytes):
    def to_bytes(self) -> bytes:
        return bytes(self)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Any:
    zenoh_session = SimpleNamespace(declare_subscriber=lambda *_: SimpleNamespace(handler=None))
    monkeypatch.setattr(receiver_module, "listen", lambda *_: zenoh_session)
    monkeypatch.setattr(receiver_module, "Connections", lambda *_: None)
    monkeypatch.setattr(receiver_module.BackgroundPoller, "start", lambda *_: None)
    config: Any = SimpleNamespace(dataflow_id="flow", node_id="plot", node_slot=0)
    board: Any = SimpleNamespace(words=[0] * 8)
    remote: Any = SimpleNamespace(listen={})
    return ReceiverSession(config, remote, board)


def deliver(session: Any, key: str, payload: bytes, header: bytes | None) -> None:
    attachment = None if header is None else Payload(header)
    session._deliver(SimpleNamespace(key_expr=key, attachment=attachment, payload=Payload(payload)))


def test_the_only_receiver_gets_no_probe_of_a_link_that_is_still_to_come(session: Any) -> None:
    image, depth = Receiver("flow/to/plot/image"), Receiver("flow/to/plot/depth~1")
    session.add(image)
    session.subscribe()
    probe, header = bytes(PROBE.size), bytes(DATA_HEADER.size)
    deliver(session, depth.key, probe, None)
    assert image.got == []
    deliver(session, image.key, probe, None)
    deliver(session, image.key, bytes(HEADER_SIZE), header)
    assert image.got == ["probe", "message"]
    session.add(depth)
    deliver(session, depth.key, probe, None)
    deliver(session, depth.key, bytes(HEADER_SIZE), header)
    assert (image.got, depth.got) == (["probe", "message"], ["probe", "message"])


def test_a_session_that_is_closed_does_not_listen_at_a_new_address(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver_module, "close_session", lambda _: None)
    monkeypatch.setattr(receiver_module.BackgroundPoller, "join", lambda _: None)
    listening: list[str] = []
    monkeypatch.setattr(receiver_module, "listen", lambda node_id, _: listening.append(node_id))
    session._connections = SimpleNamespace(check=lambda: False)
    session.move(SimpleNamespace(listen={"plot": "tcp/10.0.0.9:20000"}))
    session.close()
    session.tick(0.0)
    assert listening == []
