"""What becomes of a node's way to another one when the connection breaks, over the loopback interface."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zenoh
from ports import free_port

from dora.transport.network.peer import Peer, PeerConnection, Publishers
from dora.transport.network.protocol import PROGRESS, close_session, link_name
from dora.transport.network.sessions import listen, write_passwords
from dora.wire.node_config import RemoteConfig

PATIENCE = 60.0  # seconds
KEY = "flow/to/plot/image"


class Sender:
    """In place of a `RemoteSender`."""

    def __init__(self, gate: Peer) -> None:
        self.link = SimpleNamespace(consumer="plot/image", generation=0, slot=1)
        self.key = KEY
        self.ways = gate.ways(KEY)
        self.beside: tuple[Any, ...] = ()
        self.told: list[bytes] = []

    def renew(self, ways: Publishers) -> None:
        self.ways = ways

    def on_progress(self, data: bytes) -> None:
        self.told.append(data)


class Listener:
    """The session of the other node: notes what comes, and answers."""

    def __init__(self, remote: RemoteConfig) -> None:
        self.got: list[bytes] = []
        self._session = listen("plot", remote)
        self._session.declare_subscriber("flow/to/plot/**", self._take)

    def _take(self, sample: zenoh.Sample) -> None:
        self.got.append(sample.payload.to_bytes())
        self._session.put(f"flow/from/camera/{link_name('plot/image', 0)}", bytes(PROGRESS.size))

    def close(self) -> None:
        close_session(self._session)


@pytest.fixture
def remote(tmp_path: Path) -> RemoteConfig:
    endpoint = f"tcp/127.0.0.1:{free_port()}"
    write_passwords(str(tmp_path / "passwords"), "secret")
    return RemoteConfig({"plot": endpoint}, {"plot": endpoint}, "secret", str(tmp_path / "passwords"))


@pytest.fixture
def gate(remote: RemoteConfig) -> Iterator[Peer]:
    config: Any = SimpleNamespace(dataflow_id="flow", node_id="camera")
    gate = Peer(config, remote, "plot")
    yield gate
    gate.close()


def wait_until(condition: Callable[[], object], meanwhile: Callable[[], object] = lambda: None) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        meanwhile()
        time.sleep(0.005)


def send(sender: Any, word: bytes) -> None:
    sender.ways.put(word)


@pytest.fixture
def sender(gate: Peer) -> Any:
    """Of a gate that listens."""
    sender: Any = Sender(gate)
    gate.add(sender)
    gate.subscribe()
    return sender


def test_a_connection_that_broke_is_replaced(remote: RemoteConfig, gate: Peer, sender: Any) -> None:
    for word in (b"once", b"and again"):
        listener = Listener(remote)
        ways = sender.ways
        wait_until(lambda: sender.told, lambda word=word: send(sender, word))  # type: ignore[misc]
        assert set(listener.got) == {word}
        gate.look()
        assert sender.ways is ways, "what works is kept"
        listener.close()
        wait_until(lambda ways=ways: sender.ways is not ways, gate.look)  # type: ignore[misc]
        sender.told.clear()


def test_a_sender_that_comes_meanwhile_gets_the_new_connection(
    remote: RemoteConfig, gate: Peer, sender: Any
) -> None:
    late: Any = Sender(gate)
    listener = Listener(remote)
    wait_until(lambda: sender.told, lambda: send(sender, b"word"))
    ways = late.ways
    listener.close()
    wait_until(lambda: sender.ways.connection is not ways.connection, gate.look)
    assert late.ways is ways
    gate.add(late)
    assert late.ways.connection is sender.ways.connection


def test_what_was_said_on_the_former_connection_counts_no_more(gate: Peer, sender: Any) -> None:
    sample: Any = SimpleNamespace(
        key_expr="flow/from/camera/plot/image",
        payload=SimpleNamespace(to_bytes=lambda: bytes(PROGRESS.size)),
    )
    gate._take(sender.ways.connection, sample)
    assert len(sender.told) == 1
    former: Any = object()
    gate._take(former, sample)
    assert len(sender.told) == 1


def test_a_new_connection_that_cannot_be_used_is_given_back(
    remote: RemoteConfig, gate: Peer, sender: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener(remote)
    wait_until(lambda: sender.told, lambda: send(sender, b"word"))
    ways, given_back = sender.ways, []

    def fail(*_: Any) -> None:
        raise zenoh.ZError("no")

    with monkeypatch.context() as patched:
        patched.setattr(PeerConnection, "listen", fail)
        patched.setattr(PeerConnection, "close", lambda self: given_back.append(self))
        listener.close()
        wait_until(lambda: given_back, gate.look)
    for connection in given_back:
        assert connection is not ways.connection
        connection.close()
    assert sender.ways is ways
    wait_until(lambda: sender.ways is not ways, gate.look)


def test_nothing_is_replaced_after_the_end(remote: RemoteConfig, gate: Peer, sender: Any) -> None:
    listener = Listener(remote)
    wait_until(lambda: sender.told, lambda: send(sender, b"word"))
    ways = sender.ways
    listener.close()
    gate.close()
    gate.look()
    assert sender.ways is ways
    assert not [each for each in threading.enumerate() if each.name == "dora camera leaves plot"]
