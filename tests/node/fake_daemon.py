"""A small daemon: enough of the control protocol to test nodes without a dataflow's processes."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
from waiting import TIMEOUT, wait_until

from dora._paths import board_of, prefix_of
from dora.daemon.guardian import remove_run_files
from dora.daemon.run_directory import make_shared_folders
from dora.dataflow.layout import RunContext
from dora.dataflow.model import Dataflow
from dora.dataflow.plan import plan
from dora.node.node import Node
from dora.transport.board import CONTROL, STOPPED, Board
from dora.transport.doorbell import Bell, Doorbell
from dora.transport.engines import best_engine
from dora.wire.daemon_protocol import Request, decode_to_daemon
from dora.wire.framing import FrameBuffer, encode_frame
from dora.wire.node_config import Address, encode_address
from dora.wire.node_protocol import (
    InputsClosed,
    Ready,
    Register,
    Registered,
    Started,
    StopFrame,
    ToDaemon,
    ToNode,
)


class FakeDaemon:
    """Answers every node at once: `Started` follows `Ready` without waiting for the others.

    ``answer_ready``: what is sent instead of `Started`. ``restart_count`` is what nodes are told.
    """

    def __init__(
        self, dataflow: Dataflow, *, answer_ready: tuple[ToNode, ...] | None = None, restart_count: int = 0
    ) -> None:
        self.run_dir = f"/tmp/{secrets.token_hex(6)}"
        os.mkdir(self.run_dir, 0o700)
        self.prefix = prefix_of(self.run_dir)
        make_shared_folders(self.run_dir)
        context = RunContext(
            "test-dataflow", self.run_dir, self.prefix, board_of(self.run_dir), best_engine()
        )
        self.plan = plan(dataflow, context)
        self.board = Board.create(context.board, self.plan.lines)
        for bell in self.plan.bells:
            Doorbell.make(bell)
        self.frames: list[tuple[str, ToDaemon]] = []
        self._answer_ready = answer_ready
        self._restart_count = restart_count
        self._nodes: list[weakref.ref[Node]] = []
        self._incarnations: dict[str, int] = {}
        self._processes: list[subprocess.Popen[str]] = []
        self._sockets: dict[str, socket.socket] = {}
        self._connections: list[socket.socket] = []
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(f"{self.run_dir}/daemon.sock")
        self._server.listen()
        self._is_closed = False
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._server.accept()
            if self._is_closed:
                connection.close()
                return
            self._connections.append(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        frames = FrameBuffer()
        node_id = ""
        while data := _receive(connection):
            frames.feed(data)
            for body in frames:
                message = decode_to_daemon(body)
                assert not isinstance(message, Request)
                if isinstance(message, Register):
                    node_id = message.node_id
                    self._sockets[node_id] = connection
                self.frames.append((node_id, message))  # before a waiting test sees the answer
                if isinstance(message, Register):
                    config = msgspec.structs.replace(
                        self.plan.configs[node_id], restart_count=self._restart_count
                    )
                    connection.sendall(encode_frame(Registered(config)))
                elif isinstance(message, Ready):
                    # At once, so that nothing comes between them from the test that waited for the first.
                    answers = self._answer_ready or (Started(time.monotonic_ns()),)
                    connection.sendall(b"".join(map(encode_frame, answers)))
        connection.shutdown(socket.SHUT_RDWR)

    def send(self, node_id: str, *messages: ToNode) -> None:
        """Send control frames, as the daemon does: write, count, ring."""
        config = self.plan.configs[node_id]
        for message in messages:
            self._sockets[node_id].sendall(encode_frame(message))
            self.board.set(config.node_slot, CONTROL, self.board.get(config.node_slot, CONTROL) + 1)
        Bell(config.bell).ring()

    def stop(self, node_id: str, patience: float = 0.0) -> None:
        """Ask a node to stop; ``patience``: for how many seconds its sends may still wait for room."""
        self.send(node_id, StopFrame())
        config = self.plan.configs[node_id]
        self.board.set(config.node_slot, STOPPED, time.monotonic_ns() + int(patience * 1e9))
        for output in config.outputs:
            Bell(output.credit_bell).ring()

    def close_inputs(self, node_id: str, *inputs: str) -> None:
        self.send(node_id, InputsClosed(list(inputs)))

    def disconnect(self, node_id: str) -> None:
        """Break the connection, as a daemon that dies does."""
        self._sockets[node_id].shutdown(socket.SHUT_RDWR)

    def heard(self, node_id: str, kind: type[ToDaemon]) -> list[ToDaemon]:
        """Return the frames of one kind that a node has sent."""
        return [frame for sender, frame in self.frames if sender == node_id and isinstance(frame, kind)]

    def node(self, node_id: str) -> Node:
        """Create a node in this process, as if the daemon had started it; again: its next process."""
        self._incarnations[node_id] = self._incarnations.get(node_id, -1) + 1
        with self.environment(node_id):
            node = Node()
        self._nodes.append(weakref.ref(node))
        return node

    def address(self, node_id: str) -> str:
        return encode_address(
            Address(
                "test-dataflow",
                node_id,
                f"{self.run_dir}/daemon.sock",
                incarnation=self._incarnations.get(node_id, 0),
            )
        ).decode()

    @contextmanager
    def environment(self, node_id: str) -> Iterator[None]:
        os.environ["DORA_NODE_CONFIG"] = self.address(node_id)
        try:
            yield
        finally:
            del os.environ["DORA_NODE_CONFIG"]

    def start_process(
        self, node_id: str, script: str | None = None, **environment: str
    ) -> subprocess.Popen[str]:
        """Run a script (None: the runtime) as a node in a process of its own."""
        command = ["-c", textwrap.dedent(script)] if script is not None else ["-m", "dora.runtime"]
        process = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, "DORA_NODE_CONFIG": self.address(node_id), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        return process

    def wait_for_sleep(self, node_id: str) -> None:
        """Wait until a node waits for its next event."""
        slot = self.plan.configs[node_id].node_slot
        wait_until(lambda: self.board.get(slot, 0) == 1, f"node {node_id} to wait")

    def close(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()
        for reference in self._nodes:
            if (node := reference()) is not None:
                node.close()
        self._end_threads()
        self._server.close()
        for connection in self._connections:
            connection.close()
        self.board.close()
        remove_run_files(self.run_dir, self.prefix)

    def _end_threads(self) -> None:
        """Before their sockets are closed, whose numbers the next daemon gets: one that is woken meanwhile,
        by a signal, say, would listen to that."""
        self._is_closed = True
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(f"{self.run_dir}/daemon.sock")
        self._threads[0].join(TIMEOUT)
        for connection in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the node was faster
        for thread in self._threads:
            thread.join(TIMEOUT)


StartFlow = Callable[..., FakeDaemon]  # the fixture ``start_flow``


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 16)
    except OSError:
        return b""


def finish(process: subprocess.Popen[str], seconds: float = TIMEOUT) -> tuple[int, str, str]:
    """Wait for a process; return its exit status, stdout and stderr."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err
