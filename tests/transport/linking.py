"""Helpers of the engine tests: links without a dataflow, messages, bounded waits."""

from __future__ import annotations

import glob
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dora.transport.board import SENT, Board
from dora.transport.interface import Engine, Loan, Receiver, Sender
from dora.wire.encode import encode
from dora.wire.message import Message, pack_head
from dora.wire.metadata import encode_metadata
from dora.wire.node_config import InputConfig, LinkConfig, OutputConfig

# Seconds that anything may take, as in `waiting`, which processes of these tests do not find.
LIMIT = 60.0 * float(os.environ.get("DORA_TEST_SLOWDOWN", "1"))
HERE = Path(__file__).parent
HAS_ICEORYX = importlib.util.find_spec("iceoryx2") is not None
LINES = 64


def until(condition: Callable[[], Any], what: str = "it") -> Any:
    """Wait for a condition and return its value; fail if it does not come true in time."""
    deadline = time.monotonic() + LIMIT
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {LIMIT} s for {what}")
        time.sleep(0.0005)
    return value


class InputPort:
    """The receiving end of one link."""

    def __init__(self, config: InputConfig, engine: Engine) -> None:
        self.config = config
        self.arrivals = 0
        self._notifies = engine.wakes
        self.receiver: Receiver = engine.receiver(config, self._arrived)

    def _arrived(self) -> None:
        self.arrivals += 1

    def take(self) -> Message:
        """Wait for the next message."""
        message: Message = until(self.receiver.receive, f"a message on {self.config.id}")
        return message

    def take_all(self) -> list[Message]:
        """Return all messages in the queue."""
        return list(iter(self.receiver.receive, None))

    def await_arrivals(self, count: int) -> None:
        """Wait until ``count`` messages have reached the queue, taken or not."""
        if self._notifies:
            until(lambda: self.arrivals >= count, f"{count} messages")


class OutputPort:
    """The sending end of one output, which numbers the messages."""

    def __init__(self, config: OutputConfig, engine: Engine, board: Board) -> None:
        self.config = config
        self.board = board
        self.sender: Sender = engine.sender(config)

    def message(self, data: Any, metadata: dict[str, Any] | None = None) -> bytes:
        payload = encode(data)
        sequence = self.board.get(self.config.slot, SENT) + 1
        self.board.set(self.config.slot, SENT, sequence)
        section = encode_metadata(metadata) if metadata else b""
        head = pack_head(payload.encoding, payload.schema, section, payload.size, sequence, 0)
        return head + payload.to_bytes()

    def send(self, data: Any, metadata: dict[str, Any] | None = None) -> None:
        """Send like a node: small messages as bytes, large ones through a loan."""
        message = self.message(data, metadata)
        if len(message) <= 4096:
            self.sender.send(message)
        else:
            self.fill(message).send()

    def fill(self, message: bytes) -> Loan:
        """Loan memory and write the message into it."""
        import ctypes

        loan = self.sender.loan(len(message))
        ctypes.memmove(loan.address, message, len(message))
        return loan


class Bench:
    """One run of one engine, in a directory and with a prefix of its own."""

    def __init__(self, engine: str) -> None:
        self.name = engine
        self.run_dir = tempfile.mkdtemp(prefix="dora-test-", dir="/tmp")
        self.prefix = f"{os.path.basename(self.run_dir).replace('-', '_')}_"
        os.mkdir(f"/dev/shm/{self.prefix}links", 0o700)
        self.board = Board.create(f"{self.run_dir}/board", LINES)
        self._slots = iter(range(LINES))
        self.engines: list[Engine] = []
        self._ports: list[InputPort] = []
        self._processes: list[subprocess.Popen[str]] = []

    def engine(self) -> Engine:
        """Return a new engine, like in another process; the one engine if its links stay in the process."""
        if self.name == "local" and self.engines:
            return self.engines[0]
        engine = make_engine(self.name, self.run_dir, self.prefix, self.board)
        self.engines.append(engine)
        return engine

    def describe(
        self, *queue_sizes: int, policy: Any = "drop_oldest", dynamic: bool = False
    ) -> tuple[OutputConfig, list[InputConfig]]:
        """Describe one output with a link for each queue size."""
        slot = next(self._slots)
        service = f"0190-test/node-{slot}/out.put_{slot}"
        largest = max(queue_sizes, default=1)
        output = OutputConfig(
            id=f"output-{slot}",
            service=service,
            slot=slot,
            max_queue_size=largest,
            max_receivers=len(queue_sizes) + 3,
        )
        inputs = [
            InputConfig(
                id=f"input-{slot}-{index}",
                kind="link",
                source=f"node-{slot}/{output.id}",
                queue_size=size,
                queue_policy=policy,
                service=service,
                slot=next(self._slots),
                output_slot=slot,
                max_queue_size=largest,
                max_receivers=output.max_receivers,
            )
            for index, size in enumerate(queue_sizes)
        ]
        output.links = [
            LinkConfig(
                slot=item.slot,
                node_slot=0,
                bell="",
                consumer=f"consumer/{item.id}",
                queue_size=item.queue_size,
                queue_policy=item.queue_policy,
                dynamic=dynamic,
            )
            for item in inputs
        ]
        return output, inputs

    def port(self, config: InputConfig, engine: Engine | None = None) -> InputPort:
        port = InputPort(config, engine or self.engine())
        self._ports.append(port)
        return port

    def link(self, *queue_sizes: int, policy: Any = "drop_oldest") -> tuple[OutputPort, list[InputPort]]:
        """Connect an output with one receiver, in an engine of its own, for each queue size."""
        output, inputs = self.describe(*queue_sizes, policy=policy)
        ports = [self.port(config) for config in inputs]
        engine = self.engine()
        output_port = OutputPort(output, engine, self.board)
        return output_port, ports

    def start_sender(self, script: str, output: OutputConfig, *wrapper: str) -> subprocess.Popen[str]:
        """Start a process that sends; the values of ``script`` are in `sender_process.py`."""
        return self._start("sender_process.py", script, output, wrapper)

    def start_receiver(self, script: str, item: InputConfig) -> subprocess.Popen[str]:
        """Start a process that receives; the values of ``script`` are in `receiver_process.py`."""
        return self._start("receiver_process.py", script, item, ())

    def _start(
        self, program: str, script: str, config: OutputConfig | InputConfig, wrapper: tuple[str, ...]
    ) -> subprocess.Popen[str]:
        place = json.dumps([self.name, self.run_dir, self.prefix, self.board.path])
        process = subprocess.Popen(
            [*wrapper, sys.executable, str(HERE / program), script, place, encode_config(config)],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        return process

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()
        for port in self._ports:
            port.receiver.close()
        self._ports.clear()
        for engine in self.engines:
            engine.close()
        self.engines.clear()
        shutil.rmtree(self.run_dir, ignore_errors=True)
        for path in glob.glob(f"/dev/shm/{self.prefix}*"):
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)


def make_engine(name: str, run_dir: str, prefix: str, board: Board) -> Engine:
    if name == "iceoryx2":
        from dora.transport.shm.iceoryx2 import IceoryxEngine

        return IceoryxEngine(run_dir, prefix, board)
    if name == "shm":
        from dora.transport.shm.engine import ShmEngine

        return ShmEngine(prefix, board)
    from dora.transport.inprocess import LocalEngine

    return LocalEngine()


def encode_config(config: OutputConfig | InputConfig) -> str:
    import msgspec

    return msgspec.json.encode(config).decode()


def sequences(messages: list[Message]) -> list[int]:
    return [message.sequence for message in messages]
