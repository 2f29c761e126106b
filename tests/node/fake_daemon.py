"""A daemon of fifty lines: enough of the control protocol to test nodes without processes."""

from __future__ import annotations

import glob
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dora.dataflow.links import Place, plan
from dora.dataflow.model import Dataflow
from dora.node.node import Node
from dora.transport.board import CONTROL, Board
from dora.transport.doorbell import Bell, Doorbell
from dora.wire.control import (
    Address,
    FrameBuffer,
    Ready,
    Register,
    Registered,
    Started,
    ToDaemon,
    ToNode,
    decode_to_daemon,
    encode_address,
    encode_frame,
)


class FakeDaemon:
    """Answers every node at once: `Started` follows `Ready` without waiting for the others."""

    def __init__(self, dataflow: Dataflow) -> None:
        self.run_dir = tempfile.mkdtemp(prefix="dora-test-", dir="/tmp")
        self.prefix = f"dora_{os.path.basename(self.run_dir)[10:]}_"
        shm = "/dev/shm" if os.path.isdir("/dev/shm") else self.run_dir
        place = Place("test-dataflow", self.run_dir, self.prefix, f"{shm}/{self.prefix}board")
        self.plan = plan(dataflow, place)
        self.board = Board.create(place.board, self.plan.lines)
        for bell in self.plan.bells:
            Doorbell.make(bell)
        self.frames: list[tuple[str, ToDaemon]] = []
        self._sockets: dict[str, socket.socket] = {}
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(f"{self.run_dir}/daemon.sock")
        self._server.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        frames = FrameBuffer()
        node_id = ""
        while data := connection.recv(1 << 16):
            frames.feed(data)
            for body in frames:
                message = decode_to_daemon(body)
                if isinstance(message, Register):
                    node_id = message.node_id
                    self._sockets[node_id] = connection
                    connection.sendall(encode_frame(Registered(self.plan.configs[node_id])))
                elif isinstance(message, Ready):
                    connection.sendall(encode_frame(Started(time.monotonic_ns())))
                self.frames.append((node_id, message))

    def send(self, node_id: str, *messages: ToNode) -> None:
        """Send control frames, as the daemon does: write, count, ring."""
        config = self.plan.configs[node_id]
        for message in messages:
            self._sockets[node_id].sendall(encode_frame(message))
            self.board.set(config.node_slot, CONTROL, self.board.get(config.node_slot, CONTROL) + 1)
        bell = Bell(config.bell)
        bell.ring()
        bell.close()

    def disconnect(self, node_id: str) -> None:
        self._sockets[node_id].shutdown(socket.SHUT_RDWR)

    def node(self, node_id: str) -> Node:
        """Create a node in this process, as if the daemon had started it."""
        with self.environment(node_id):
            return Node()

    @contextmanager
    def environment(self, node_id: str) -> Iterator[None]:
        address = Address("test-dataflow", node_id, f"{self.run_dir}/daemon.sock")
        os.environ["DORA_NODE_CONFIG"] = encode_address(address).decode()
        try:
            yield
        finally:
            del os.environ["DORA_NODE_CONFIG"]

    def close(self) -> None:
        self._server.close()
        for connection in self._sockets.values():
            connection.close()
        self.board.close()
        shutil.rmtree(self.run_dir, ignore_errors=True)
        for path in glob.glob(f"/dev/shm/{self.prefix}*"):
            os.unlink(path)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    """Wait for a condition, within a bound."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.001)
