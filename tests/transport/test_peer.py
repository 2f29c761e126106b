"""A broken connection to another node is replaced; over the loopback interface."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import zenoh
from ports import free_port
from waiting import TIMEOUT

from dora.transport.network.peer import Peer, PeerConnection, Publishers
from dora.transport.network.protocol import ACK, close_session, link_name
from dora.transport.network.sessions import Connections, listen, write_passwords
from dora.wire.node_config import RemoteConfig

KEY = "flow/to/plot/image"


class Sender:
    """Replaces a `RemoteSender`."""

    def __init__(self, peer: Peer) -> None:
        self.link = SimpleNamespace(consumer="plot/image", generation=0, slot=1)
        self.key = KEY
        self.publishers = peer.publishers(KEY)
        self.acks: list[bytes] = []

    def set_siblings(self, senders: Iterable[Any]) -> None:
        """Replaces `RemoteSender.set_siblings`."""

    def renew(self, publishers: Publishers) -> None:
        self.publishers = publishers

    def on_ack(self, data: bytes) -> None:
        self.acks.append(data)


class Listener:
    """The session of the other node, which records what arrives, and acknowledges it."""

    def __init__(self, remote: RemoteConfig) -> None:
        self.got: list[bytes] = []
        self._session = listen("plot", remote)
        self.connections = Connections(self._session, remote.listen["plot"])
        self._session.declare_subscriber("flow/to/plot/**", self._on_sample)

    def _on_sample(self, sample: zenoh.Sample) -> None:
        self.got.append(sample.payload.to_bytes())
        self._session.put(f"flow/from/camera/{link_name('plot/image', 0)}", bytes(ACK.size))

    def close(self) -> None:
        close_session(self._session)


@pytest.fixture
def remote(tmp_path: Path) -> RemoteConfig:
    endpoint = f"tcp/127.0.0.1:{free_port()}"
    write_passwords(str(tmp_path / "passwords"), "secret")
    return RemoteConfig({"plot": endpoint}, {"plot": endpoint}, "secret", str(tmp_path / "passwords"))


@pytest.fixture
def peer(remote: RemoteConfig) -> Iterator[Peer]:
    config: Any = SimpleNamespace(dataflow_id="flow", node_id="camera")
    peer = Peer(config, remote, "plot")
    yield peer
    peer.close()


def wait_until(condition: Callable[[], object], meanwhile: Callable[[], object] = lambda: None) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        meanwhile()
        time.sleep(0.005)


def send(sender: Any, word: bytes) -> None:
    sender.publishers.put(word)


@pytest.fixture
def sender(peer: Peer) -> Any:
    """The sender of a peer that has subscribed."""
    sender: Any = Sender(peer)
    peer.add(sender)
    peer.subscribe()
    return sender


def test_a_broken_connection_is_replaced(remote: RemoteConfig, peer: Peer, sender: Any) -> None:
    for word in (b"once", b"and again"):
        listener = Listener(remote)
        publishers = sender.publishers
        wait_until(lambda: sender.acks, lambda word=word: send(sender, word))  # type: ignore[misc]
        assert set(listener.got) == {word}
        peer.tick()
        assert sender.publishers is publishers, "a working connection is kept"
        listener.close()
        wait_until(lambda publishers=publishers: sender.publishers is not publishers, peer.tick)  # type: ignore[misc]
        sender.acks.clear()


def lingering(endpoint: str) -> list[bool]:
    """Return of each socket of a connection with an endpoint whether closing it may take a while."""
    port, found = int(endpoint.rpartition(":")[2]), []
    for connection in psutil.Process().net_connections("tcp"):
        if connection.raddr and port in (connection.laddr.port, connection.raddr.port):
            with socket.socket(fileno=os.dup(connection.fd)) as end:
                linger = end.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
            found.append(struct.unpack("ii", linger)[0] == 1)
    return found


def test_no_thread_waits_until_the_other_side_has_seen_a_connection_closed(
    remote: RemoteConfig, peer: Peer, sender: Any
) -> None:
    """A machine that is cut off never does."""
    listener = Listener(remote)
    wait_until(lambda: sender.acks, lambda: send(sender, b"word"))
    two_connections = 4  # ends

    def check() -> None:
        peer.tick()
        listener.connections.check()

    wait_until(lambda: lingering(peer.endpoint) == [False] * two_connections, check)
    listener.close()


def test_a_sender_that_is_added_meanwhile_gets_the_new_connection(
    remote: RemoteConfig, peer: Peer, sender: Any
) -> None:
    late: Any = Sender(peer)
    listener = Listener(remote)
    wait_until(lambda: sender.acks, lambda: send(sender, b"word"))
    publishers = late.publishers
    listener.close()
    wait_until(lambda: sender.publishers.connection is not publishers.connection, peer.tick)
    assert late.publishers is publishers
    peer.add(late)
    assert late.publishers.connection is sender.publishers.connection


def test_acknowledgements_on_the_former_connection_are_ignored(peer: Peer, sender: Any) -> None:
    sample: Any = SimpleNamespace(
        key_expr="flow/from/camera/plot/image",
        payload=SimpleNamespace(to_bytes=lambda: bytes(ACK.size)),
    )
    peer._on_ack(sender.publishers.connection, sample)
    assert len(sender.acks) == 1
    former: Any = object()
    peer._on_ack(former, sample)
    assert len(sender.acks) == 1


def test_a_new_connection_that_cannot_be_used_is_closed(
    remote: RemoteConfig, peer: Peer, sender: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener(remote)
    wait_until(lambda: sender.acks, lambda: send(sender, b"word"))
    publishers, closed = sender.publishers, []

    def fail(*_: Any) -> None:
        raise zenoh.ZError("no")

    with monkeypatch.context() as patched:
        patched.setattr(PeerConnection, "listen", fail)
        patched.setattr(PeerConnection, "close", lambda self: closed.append(self))
        listener.close()
        wait_until(lambda: closed, peer.tick)
    for connection in closed:
        assert connection is not publishers.connection
        connection.close()
    assert sender.publishers is publishers
    wait_until(lambda: sender.publishers is not publishers, peer.tick)


def test_a_closed_peer_replaces_nothing(remote: RemoteConfig, peer: Peer, sender: Any) -> None:
    listener = Listener(remote)
    wait_until(lambda: sender.acks, lambda: send(sender, b"word"))
    publishers = sender.publishers
    listener.close()
    peer.close()
    peer.tick()
    assert sender.publishers is publishers
    assert not [each for each in threading.enumerate() if each.name == "dora camera leaves plot"]
