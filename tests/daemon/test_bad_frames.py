"""Frames that cannot be understood end the connection on which they came, and nothing else."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from running import Bench
from waiting import TIMEOUT

from dora._version import __version__
from dora.daemon import control_server
from dora.daemon.client import DaemonClient
from dora.daemon.control_server import TEXT_BUFFER, ControlServer
from dora.daemon.event_loop import Loop
from dora.errors import ConnectError, DaemonLost
from dora.node.daemon_client import SocketChannel, connect
from dora.wire.daemon_protocol import Request
from dora.wire.framing import FrameBuffer, encode_frame
from dora.wire.node_config import Address, encode_address
from dora.wire.node_protocol import (
    PROTOCOL_VERSION,
    Ready,
    StopDataflow,
    StopFrame,
    TextInput,
    ToDaemon,
    ToNode,
    decode_to_node,
)

BAD = {
    "text_that_is_no_utf8": b"\x81\xa4type\xa8Regist\xffr",
    "a_field_that_is_no_utf8": b"\x82\xa4type\xadOutputsClosed\xa7outputs\x91\xa1\xff",
    "nested_without_end": b"\x81\xa4type" + b"\x91" * 100_000,
    "a_list_of_four_billion": b"\x82\xa4type\xadOutputsClosed\xa7outputs\xdd\xff\xff\xff\xff",
    "a_time_out_of_range": b"\x82\xa4type\xacSetParameter\xa5value\xd7\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    "another_type": b"\x81\xa4type\xa5Other",
    "nothing": b"",
}


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "little") + body


class Served:
    """A control socket whose handler fails for `Ready`, in a loop that the test drives."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.notes: list[tuple[str, str]] = []
        self.handled: list[ToDaemon | Request] = []
        self.closed = 0
        self.loop = Loop()
        self.server = ControlServer(
            self.loop,
            path,
            lambda _, message: self._handle(message),
            lambda _: self._count(),
            lambda level, _, text: self.notes.append((level, text)),
        )

    def _handle(self, message: ToDaemon | Request) -> None:
        if isinstance(message, Ready):
            raise KeyError("no such thing")
        self.handled.append(message)

    def _count(self) -> None:
        self.closed += 1

    def send(self, data: bytes) -> socket.socket:
        """Send bytes over a connection of its own; returns it once they were read."""
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(self.path)
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
        before, deadline = self.closed, time.monotonic() + 30
        while self.closed == before and time.monotonic() < deadline:
            self.loop.run_once(time.monotonic() + 0.1)
        return peer


@pytest.fixture
def served(runtime_root: str) -> Iterator[Served]:
    served = Served(f"{runtime_root}/socket")
    yield served
    served.server.close()
    served.loop.close()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_frame_closes_its_connection_and_no_other(served: Served, name: str) -> None:
    from dora.wire.daemon_protocol import DescribeDataflow

    with socket.socket(socket.AF_UNIX) as other:
        other.connect(served.path)
        with served.send(frame(BAD[name])) as peer:
            peer.settimeout(10)
            assert peer.recv(10) == b""
        ((level, text),) = served.notes
        assert level == "warn"
        assert text.startswith("the connection of process ")
        assert "it sent a frame that this version of dora does not know" in text
        other.sendall(encode_frame(DescribeDataflow()))
        served.loop.run_once(time.monotonic() + 10)
        assert served.handled == [DescribeDataflow()]


def test_a_message_that_cannot_be_handled_closes_its_connection_only(served: Served) -> None:
    served.send(encode_frame(Ready())).close()
    ((level, text),) = served.notes
    assert level == "error"
    assert "its Ready cannot be handled: KeyError: 'no such thing'" in text


def test_what_follows_a_frame_that_closed_its_connection_is_not_handled(served: Served) -> None:
    served.send(encode_frame(Ready()) + encode_frame(StopDataflow())).close()
    assert (served.handled, served.closed, len(served.notes)) == ([], 1, 1)


def test_a_connection_that_has_ended_is_forgotten(served: Served) -> None:
    served.send(encode_frame(StopDataflow())).close()
    assert (served.handled, served.closed) == ([StopDataflow()], 1)
    assert served.server.connections == {}


def test_only_lines_are_left_out_for_a_node_that_reads_nothing(served: Served) -> None:
    line, event = TextInput(["log"], "x" * 100_000), StopFrame()
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(served.path)
        served.loop.run_once(time.monotonic() + TIMEOUT)
        (connection,) = served.server.connections.values()
        lines = 0
        while connection.send_text(line):
            lines += 1
            assert lines * 100_000 < 10 * TEXT_BUFFER
        connection.send(event)
        frames = FrameBuffer()
        found: list[ToNode] = []
        peer.settimeout(TIMEOUT)
        while len(found) <= lines:
            served.loop.run_once(time.monotonic())
            frames.feed(peer.recv(1 << 20))
            found += [decode_to_node(body) for body in frames]
        assert found == [*[line] * lines, event]
        assert connection.send_text(line), "the node reads again"


def test_each_time_without_a_free_descriptor_is_told_once(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: socket.socket) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(control_server, "_RETRY_AFTER", 0.0)
    for count in (1, 2):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(served.path)
            with monkeypatch.context() as patch:
                patch.setattr(socket.socket, "accept", refuse)
                for _ in range(3):
                    served.loop.run_once(time.monotonic())
            assert len(served.notes) == count
            deadline = time.monotonic() + TIMEOUT
            while not served.server.connections and time.monotonic() < deadline:
                served.loop.run_once(deadline)
        while served.server.connections and time.monotonic() < deadline:
            served.loop.run_once(deadline)
        assert served.closed == count


def test_a_server_that_is_closed_without_a_free_descriptor_accepts_nothing_later(
    runtime_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: socket.socket) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    served = Served(f"{runtime_root}/socket")
    monkeypatch.setattr(control_server, "_RETRY_AFTER", 0.05)
    with socket.socket(socket.AF_UNIX) as peer, monkeypatch.context() as patch:
        peer.connect(served.path)
        patch.setattr(socket.socket, "accept", refuse)
        served.loop.run_once(time.monotonic() + TIMEOUT)
        assert len(served.notes) == 1
        served.server.close()
        served.loop.run_once(time.monotonic() + 0.1)
        served.loop.close()


def test_a_connection_waits_for_a_free_descriptor_and_costs_no_processor(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    later: list[Callable[[], None]] = []
    attempts = []

    def refuse(_: socket.socket) -> None:
        attempts.append(1)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(served.loop, "call_later", lambda _, callback: later.append(callback))
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(served.path)
        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "accept", refuse)
            for second in range(1, 3):
                for _ in range(3):
                    served.loop.run_once(time.monotonic())
                assert len(attempts) == second
                later.pop()()
        assert served.notes == [
            ("warn", "nodes and commands that connect have to wait: Too many open files")
        ]
        served.loop.run_once(time.monotonic() + TIMEOUT)
        assert len(served.server.connections) == 1


@pytest.mark.processes
def test_bad_frames_do_not_end_the_dataflow(bench: Bench) -> None:
    script = f"""
        import os, socket
        from control_peer import Peer
        from dora.wire.node_config import decode_address
        node = Peer()
        address = decode_address(os.environ["DORA_NODE_CONFIG"])
        for body in {list(BAD.values())!r}:
            stranger = socket.socket(socket.AF_UNIX)
            stranger.connect(address.socket)
            stranger.sendall(len(body).to_bytes(4, "little") + body)
            while stranger.recv(1000):
                pass
        print("alive", flush=True)
        node.close()
    """
    result = bench.run(bench.node("a", script))
    assert result.ok
    assert "alive" in bench.lines("a")
    told = [line for line in bench.lines(None) if "it sent a frame that" in line]
    assert len(told) == len(BAD)


@pytest.mark.processes
def test_a_grace_that_is_no_number_is_rejected(bench: Bench) -> None:
    script = """
        import os
        from control_peer import Peer
        from dora.daemon.client import DaemonClient
        from dora.errors import DoraError
        from dora.wire.node_config import decode_address
        from dora.wire.operations import StopOperation
        node = Peer()
        with DaemonClient(decode_address(os.environ["DORA_NODE_CONFIG"]).socket) as run:
            for grace in (float("nan"), float("inf"), -1.0, 1e300):
                try:
                    run.ask(StopOperation("a", grace))
                except DoraError as error:
                    print(error, flush=True)
        node.close()
    """
    result = bench.run(bench.node("a", script))
    assert result.ok
    assert len([line for line in bench.lines("a") if line.startswith("nodes get from 0 to 86,400 s")]) == 4


@pytest.mark.processes
@pytest.mark.parametrize("text", ["\0", "x\0y", "x" * 5000, "\n", "../" * 2000, "/proc/self/mem"])
def test_event_logs_at_a_strange_path_end_no_node(bench: Bench, text: str) -> None:
    script = f"""
        import os
        from dora import Node
        from dora.daemon.client import DaemonClient
        from dora.errors import DoraError
        from dora.wire.daemon_protocol import GetProgress, StartEventLogs
        from dora.wire.node_config import decode_address
        socket = decode_address(os.environ["DORA_NODE_CONFIG"]).socket
        with Node() as node:
            for request in (StartEventLogs({text!r}), StartEventLogs("", {text!r})):
                with DaemonClient(socket) as run:
                    try:
                        run.ask(request)
                        run.ask(GetProgress())
                    except DoraError:
                        pass  # the request is refused
                    for _ in range(5):
                        assert node.next(10)["type"] == "INPUT"
        print("alive", flush=True)
    """
    result = bench.run(bench.node("a", script, inputs={"tick": "timer"}))
    assert result.ok, bench.lines("a")
    assert "alive" in bench.lines("a")


class Liar:
    """A server that answers every connection with the same bytes."""

    def __init__(self, path: Path | str, answer: bytes) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._answer = answer

    def serve_one(self) -> socket.socket:
        peer, _ = self._socket.accept()
        peer.sendall(self._answer)
        return peer

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("name", BAD)
def test_a_node_reports_the_frame_of_a_false_daemon(runtime_root: str, name: str) -> None:
    liar = Liar(f"{runtime_root}/socket", frame(BAD[name]))
    channel = SocketChannel(f"{runtime_root}/socket")
    sentence = "the daemon sent data that is no frame of this version of dora"
    with liar.serve_one(), pytest.raises(DaemonLost, match=sentence):
        channel.wait()
    channel.close()
    channel = SocketChannel(f"{runtime_root}/socket")
    with liar.serve_one():
        assert list(channel.read()) == []
        assert channel.lost
    channel.close()
    liar.close()


def test_a_node_names_its_version_when_the_daemon_answers_with_an_unknown_message(
    runtime_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar = Liar(f"{runtime_root}/socket", frame(msgspec.msgpack.encode({"type": "Refused", "reason": "x"})))
    address = Address("some dataflow", "a", f"{runtime_root}/socket")
    monkeypatch.setenv("DORA_NODE_CONFIG", encode_address(address).decode())
    peers: list[socket.socket] = []
    thread = threading.Thread(target=lambda: peers.append(liar.serve_one()))
    thread.start()
    with pytest.raises(ConnectError) as refused:
        connect(None)
    thread.join(TIMEOUT)
    for peer in peers:
        peer.close()
    liar.close()
    told = str(refused.value)
    assert "the daemon answered the registration of node `a` with an unknown message" in told
    assert f"dora {__version__} with protocol {PROTOCOL_VERSION}; install the same version" in told


@pytest.mark.parametrize("body", [*BAD.values(), msgspec.msgpack.encode({"type": "Noted"})])
def test_a_command_reports_that_a_server_is_no_daemon(runtime_root: str, body: bytes) -> None:
    liar = Liar(f"{runtime_root}/socket", frame(body))
    peers: list[socket.socket] = []
    thread = threading.Thread(target=lambda: peers.append(liar.serve_one()))
    thread.start()
    with pytest.raises(ConnectError, match=r"of another version of dora|no daemon of this version"):
        DaemonClient(f"{runtime_root}/socket")
    thread.join(TIMEOUT)
    for peer in peers:
        peer.close()
    liar.close()
