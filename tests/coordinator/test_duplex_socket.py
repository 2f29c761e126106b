"""A connection with TLS for two threads, against a server that sends back what it gets."""

from __future__ import annotations

import os
import queue
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pytest
from certificates import certify
from waiting import TIMEOUT

from dora.transport.tls import DuplexTLSSocket, duplex_client_context, server_context

pytestmark = pytest.mark.processes


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[ssl.SSLSocket]:
    certify(tmp_path, "here", "127.0.0.1")
    server = server_context(str(tmp_path / "here.pem"), str(tmp_path / "here.key"))
    client = duplex_client_context(str(tmp_path / "ca.pem"))
    assert server is not None and client is not None
    listener = socket.create_server(("127.0.0.1", 0))

    def echo() -> None:
        plain, _ = listener.accept()
        with suppress(OSError), plain, server.wrap_socket(plain, server_side=True) as peer:
            while data := peer.recv(1 << 16):
                peer.sendall(data)

    thread = threading.Thread(target=echo)
    thread.start()
    plain = socket.create_connection(listener.getsockname(), timeout=TIMEOUT)
    made = client.wrap_socket(plain, server_hostname="127.0.0.1")
    made.settimeout(None)
    try:
        yield made
    finally:
        made.close()
        thread.join(TIMEOUT)
        listener.close()


def test_a_thread_reads_while_another_writes(connection: ssl.SSLSocket) -> None:
    assert isinstance(connection, DuplexTLSSocket)
    sent = os.urandom(8 << 20)
    got = bytearray()

    def read() -> None:
        while len(got) < len(sent):
            got.extend(connection.recv(1 << 16))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()  # so it waits while the first bytes are written
    for start in range(0, len(sent), 100_000):
        connection.sendall(sent[start : start + 100_000])
    reader.join(TIMEOUT)
    assert bytes(got) == sent


def test_a_wait_without_data_times_out(connection: ssl.SSLSocket) -> None:
    connection.settimeout(0.05)
    with pytest.raises(TimeoutError):
        connection.recv(1)
    connection.sendall(b"word")
    connection.settimeout(None)
    assert connection.recv(100) == b"word"


def test_a_close_wakes_waiting_threads_with_an_error(
    connection: ssl.SSLSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora.transport.tls._POLL_INTERVAL", 10 * TIMEOUT)  # so it is woken
    told = reading(connection)
    connection.close()
    assert isinstance(told.get(timeout=TIMEOUT), OSError)


def test_a_connection_is_closed_between_reads(
    connection: DuplexTLSSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, closes = threading.Event(), threading.Event()
    read = ssl.SSLSocket.read

    class Turn:
        def __init__(self, lock: AbstractContextManager[bool]) -> None:
            self.lock = lock

        def __enter__(self) -> None:
            if threading.current_thread() is closer:
                closes.set()
            self.lock.__enter__()

        def __exit__(self, *error: Any) -> None:
            self.lock.__exit__(*error)

    def close() -> None:
        begun.wait(TIMEOUT)
        connection.close()
        closes.set()

    def read_meanwhile(reader: ssl.SSLSocket, *args: Any) -> Any:
        if reader is connection:
            begun.set()
            closes.wait(TIMEOUT)  # is done with it, or waits for its turn
        return read(reader, *args)

    closer = threading.Thread(target=close)
    monkeypatch.setattr(connection, "_lock", Turn(connection._lock))
    monkeypatch.setattr(ssl.SSLSocket, "read", read_meanwhile)
    closer.start()
    told = reading(connection)
    assert isinstance(told.get(timeout=TIMEOUT), OSError)
    closer.join(TIMEOUT)
    assert connection.fileno() < 0


def test_data_can_be_read_after_the_write_side_is_shut_down(connection: ssl.SSLSocket) -> None:
    connection.sendall(b"word")
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(100) == b"word"
    with pytest.raises(OSError):
        connection.sendall(b"more")


def test_a_file_of_the_socket_is_readable_after_its_close(connection: ssl.SSLSocket) -> None:
    with connection.makefile("rb") as file:
        connection.sendall(b"word")
        connection.close()
        assert file.read(4) == b"word"
    assert connection.fileno() < 0


def reading(connection: ssl.SSLSocket) -> queue.SimpleQueue[Any]:
    """Read in another thread; the queue gets what comes, or the exception."""
    told: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def read() -> None:
        try:
            told.put(connection.recv(1))
        except (OSError, ValueError) as error:
            told.put(error)

    threading.Thread(target=read, daemon=True).start()
    return told
