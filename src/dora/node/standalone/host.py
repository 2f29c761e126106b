"""The host of a node outside a dataflow: one source of events, and a function that gets its outputs."""

from __future__ import annotations

import itertools
import mmap
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from dora.node.events import Event
from dora.node.host import Host
from dora.node.receive.inbox import Inbox
from dora.node.receive.input_port import InputPort
from dora.node.saved_state import StateInMemory, StateStore
from dora.node.send.output import OutputPort
from dora.transport.board import LINE_BYTES, Board
from dora.transport.doorbell import Bell, Doorbell
from dora.transport.inprocess import LocalEngine
from dora.transport.interface import Engine
from dora.wire.message import Message
from dora.wire.node_config import LinkConfig, NodeConfig, OutputConfig
from dora.wire.node_protocol import Started, ToDaemon, ToNode

OnOutput = Callable[[str, Message], None]
_LINES = 4096  # of the board: room for so many outputs


class AnyOutput(dict[str, OutputPort]):
    """Outputs of a node that may send on any output: ports are made on demand."""

    def __init__(self, make: Callable[[str], OutputPort]) -> None:
        super().__init__()
        self._make = make
        # Two threads may send first at once. Reentrant: a signal handler may send.
        self._lock = threading.RLock()
        self._closed = False

    def get(self, key: str, default: Any = None) -> Any:
        port = super().get(key)
        if port is None and not self._closed:
            with self._lock:
                port = super().get(key)
                if port is None:
                    port = self[key] = self._make(key)
        return default if port is None else port

    def clear(self) -> None:
        self._closed = True
        super().clear()


class NullChannel:
    """Stands in for the connection to a daemon, and carries no frames."""

    lost = False

    def __init__(self) -> None:
        self._never_readable, self._open = os.pipe()

    def fileno(self) -> int:
        return self._never_readable

    def send(self, message: ToDaemon) -> None:
        """Drop it."""

    def wait(self) -> ToNode:
        return Started(time.monotonic_ns())

    def read(self) -> Iterator[ToNode]:
        return iter(())

    def is_readable(self) -> bool:
        return False

    def leave(self) -> None:
        self.close()

    def close(self) -> None:
        if self._open >= 0:
            os.close(self._never_readable)
            os.close(self._open)
            self._never_readable = self._open = -1


class EventSource(InputPort):
    """The only input port of a standalone node; the stream ends when it is not ``open``.

    No daemon reports anything, and there are no counters.
    """

    id = ""
    detached = False

    def __init__(self) -> None:
        self.open = True

    def stop(self) -> None:
        self.open = False

    def close(self) -> None:
        self.open = False


class _Inbox(Inbox):
    """Ends with its only source, without a ``STOP`` of its own."""

    def _next_event(self) -> Event | None:
        event = super()._next_event()
        if event is None and not self._ending and not any(port.open for port in self._open_ports):
            self._finish()
        return event

    def _remove_closed(self, port: InputPort) -> None:  # noqa: ARG002 - there is only one
        self._finish()


class LocalHost(Host):
    """The host of a node without a daemon: all that it needs is in this process."""

    owns_process = False

    def __init__(self, config: NodeConfig, lines: int) -> None:
        """``lines``: of the board."""
        super().__init__(NullChannel(), config, Board("", mmap.mmap(-1, lines * LINE_BYTES)))
        self._engine = LocalEngine()
        with tempfile.TemporaryDirectory(prefix="dora-") as folder:
            path = os.path.join(folder, "bell")
            Doorbell.make(path)
            # It stays open without its name, so a node that is killed leaves no file.
            self._doorbell = Doorbell(path, self.channel.fileno())

    def make_engine(self) -> Engine:
        return self._engine

    def bell(self, path: str) -> Bell:  # noqa: ARG002
        return Bell("")

    def doorbell(self, path: str, also: int = -1) -> Doorbell:  # noqa: ARG002
        return self._doorbell

    def state(self) -> StateStore:
        return StateInMemory()


class Standalone(LocalHost):
    """``on_output`` gets every message that the node sends."""

    def __init__(self, node_id: str, source: EventSource, on_output: OnOutput) -> None:
        config = NodeConfig(
            dataflow_id="00000000-0000-0000-0000-000000000000",
            node_id=node_id,
            engine="iceoryx2",
            run_dir="",
            prefix="",
            board="",
            node_slot=0,
            bell="",
            run_config={"inputs": {}, "outputs": []},
        )
        super().__init__(config, _LINES)
        self._source = source
        self._on_output = on_output
        self._slots = itertools.count(1)

    def make_outputs(self, engine: Engine) -> dict[str, OutputPort]:
        def make(output_id: str) -> OutputPort:
            listener = LinkConfig(slot=0, node_slot=0, bell="", consumer="")
            config = OutputConfig(output_id, output_id, next(self._slots), [listener])
            self._engine.listen(output_id, lambda message: self._on_output(output_id, message))
            return OutputPort(config, engine.sender(config), self.board, rings=False)

        return AnyOutput(make)

    def make_ports(self) -> list[InputPort]:
        return [self._source]

    def inbox_type(self) -> type[Inbox]:
        return _Inbox
