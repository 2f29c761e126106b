"""Measure the floors of links between machines: bare Zenoh, and a plain TCP socket, both in Python.

`benchmarks.machines` starts two processes of this module for each scenario, one on each machine: the first
one sends, the second one echoes or counts. Their result files are those of the nodes in `dataflows`, so the
same functions evaluate them.
"""

import argparse
import json
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

PORT = 6100
KINDS = ("TCP", "Zenoh")
_LENGTH = struct.Struct("<Q")
_COUNTED = struct.Struct("<QQ")  # number of messages, when the last one came
_SENT_AT_ONCE = 128 << 10  # bytes; up to this size, joining costs less than a second system call
_READ_BUFFER = 1 << 20  # bytes
_TIMEOUT_S = 30.0


class Channel(Protocol):
    """Both directions between the two processes."""

    def send(self, message: bytes) -> None: ...

    def receive(self) -> bytes: ...

    def close(self) -> None: ...


class TcpChannel:
    """Messages on a TCP connection, each after its length."""

    def __init__(self, address: tuple[str, int], *, first: bool) -> None:
        if first:
            self._socket = _connect(address)
        else:
            with socket.create_server(address) as server:
                self._socket, _ = server.accept()
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self._socket.makefile("rb", buffering=_READ_BUFFER)

    def send(self, message: bytes) -> None:
        length = _LENGTH.pack(len(message))
        if len(message) <= _SENT_AT_ONCE:
            self._socket.sendall(length + message)
        else:
            self._socket.sendall(length, socket.MSG_MORE)
            self._socket.sendall(message)

    def receive(self) -> bytes:
        (length,) = _LENGTH.unpack(self._stream.read(_LENGTH.size))
        return self._stream.read(length)

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


class ZenohChannel:
    """A publisher and a subscriber on one connection of two peers, without discovery.

    Publishers block instead of dropping messages. ``express``: each message at once, not in a batch.
    """

    def __init__(self, address: tuple[str, int], *, first: bool, express: bool) -> None:
        import zenoh

        config = zenoh.Config()
        endpoints = "connect/endpoints" if first else "listen/endpoints"
        settings: dict[str, Any] = {
            "mode": "peer",
            "listen/endpoints": [],
            "scouting/multicast/enabled": False,
            "scouting/gossip/enabled": False,
            "transport/shared_memory/enabled": False,  # both ends are on one host, unlike two machines
            "connect/timeout_ms": int(_TIMEOUT_S * 1000),
            endpoints: ["tcp/{}:{}".format(*address)],
        }
        for key, value in settings.items():
            config.insert_json5(key, json.dumps(value))
        self._session = zenoh.open(config)
        names = ("forth", "back") if first else ("back", "forth")
        keys = [f"floor/{name}" for name in names]
        self._publisher = self._session.declare_publisher(
            keys[0], congestion_control=zenoh.CongestionControl.BLOCK, express=express
        )
        self._subscriber = self._session.declare_subscriber(keys[1])
        deadline = time.monotonic() + _TIMEOUT_S
        while not self._publisher.matching_status.matching:
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody subscribes to {keys[0]}")
            time.sleep(0.01)

    def send(self, message: bytes) -> None:
        self._publisher.put(message)

    def receive(self) -> bytes:
        return self._subscriber.recv().payload.to_bytes()

    def close(self) -> None:
        self._session.close()  # type: ignore[no-untyped-call]


def _connect(address: tuple[str, int]) -> socket.socket:
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            return socket.create_connection(address)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def round_trip(channel: Channel, payload: bytes, warm_up: int, messages: int, results: Path) -> None:
    """Send messages one after the other, each when the one before has come back."""
    times_ns = []
    for number in range(warm_up + messages):
        sent_at = time.perf_counter_ns()
        channel.send(payload)
        assert len(channel.receive()) == len(payload)
        if number >= warm_up:
            times_ns.append(time.perf_counter_ns() - sent_at)
    (results / "ping.json").write_text(json.dumps({"times_ns": times_ns, "lost": 0}))


def echo(channel: Channel, count: int) -> None:
    """Send every message back."""
    for _ in range(count):
        channel.send(channel.receive())


def throughput(channel: Channel, payload: bytes, warm_up: int, messages: int, results: Path) -> None:
    """Send messages without a pause."""
    started_ns = time.monotonic_ns()
    for _ in range(warm_up + messages):
        channel.send(payload)
    received, last_ns = _COUNTED.unpack(channel.receive())
    (results / "receiver.json").write_text(
        json.dumps({"received": received, "started_ns": started_ns, "last_ns": last_ns})
    )


def count(channel: Channel, count: int) -> None:
    """Receive messages, and answer with their number and with the time of the last one."""
    for _ in range(count):
        channel.receive()
    channel.send(_COUNTED.pack(count, time.monotonic_ns()))


PAIRS: dict[str, tuple[Callable[..., None], Callable[[Channel, int], None]]] = {
    "round_trip": (round_trip, echo),
    "throughput": (throughput, count),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two processes; return 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.network_floors", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("role", choices=("first", "second"))
    parser.add_argument("pair", choices=PAIRS)
    parser.add_argument("address", help="on which the second process listens")
    parser.add_argument("port", type=int)
    parser.add_argument("size", type=int, help="of a message, in bytes")
    parser.add_argument("warm_up", type=int)
    parser.add_argument("messages", type=int)
    parser.add_argument("results", type=Path, help="the folder for the result file")
    options = parser.parse_args(arguments)
    first = options.role == "first"
    address = options.address, options.port
    channel: Channel
    if options.kind == "TCP":
        channel = TcpChannel(address, first=first)
    else:
        channel = ZenohChannel(address, first=first, express=options.pair == "round_trip")
    sends, answers = PAIRS[options.pair]
    if first:
        sends(channel, b"\x01" * options.size, options.warm_up, options.messages, options.results)
    else:
        answers(channel, options.warm_up + options.messages)
        sys.stdin.read()  # closed when the first process has ended: a channel that closes may drop messages
    channel.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
