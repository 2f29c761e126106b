"""A connection with TLS for two threads, against a server that sends back what it gets."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import certify

from dora.coordinator.encryption import server_context
from dora.coordinator.two_way import TwoWaySocket, two_way_context

PATIENCE = 60.0  # seconds


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[ssl.SSLSocket]:
    certify(tmp_path, "here", "127.0.0.1")
    server = server_context(str(tmp_path / "here.pem"), str(tmp_path / "here.key"))
    client = two_way_context(str(tmp_path / "ca.pem"))
    assert server is not None and client is not None
    listener = socket.create_server(("127.0.0.1", 0))

    def echo() -> None:
        plain, _ = listener.accept()
        with plain, server.wrap_socket(plain, server_side=True) as peer:
            while data := peer.recv(1 << 16):
                peer.sendall(data)

    thread = threading.Thread(target=echo)
    thread.start()
    plain = socket.create_connection(listener.getsockname(), timeout=PATIENCE)
    made = client.wrap_socket(plain, server_hostname="127.0.0.1")
    made.settimeout(None)
    try:
        yield made
    finally:
        made.close()
        thread.join(PATIENCE)
        listener.close()


def test_one_thread_reads_what_another_writes(connection: ssl.SSLSocket) -> None:
    assert isinstance(connection, TwoWaySocket)
    sent = os.urandom(8 << 20)
    got = bytearray()

    def read() -> None:
        while len(got) < len(sent):
            got.extend(connection.recv(1 << 16))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()  # so it waits while the first bytes are written
    for start in range(0, len(sent), 100_000):
        connection.sendall(sent[start : start + 100_000])
    reader.join(PATIENCE)
    assert bytes(got) == sent


def test_who_waits_in_vain_is_told(connection: ssl.SSLSocket) -> None:
    connection.settimeout(0.05)
    with pytest.raises(TimeoutError):
        connection.recv(1)
    connection.sendall(b"word")
    connection.settimeout(None)
    assert connection.recv(100) == b"word"


def test_who_waits_on_what_is_closed_is_told(connection: ssl.SSLSocket) -> None:
    told: list[Exception] = []

    def read() -> None:
        try:
            connection.recv(1)
        except OSError as error:
            told.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    connection.close()
    reader.join(PATIENCE)
    assert len(told) == 1
