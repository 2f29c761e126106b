"""A process's part in a running dataflow, from the handshake with the daemon to the goodbye.

`Node` shows it to users' programs, the runtime hosts operators on it.
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from dora.errors import DaemonLost, SendError, StartFailed
from dora.node.connect import connect
from dora.node.control import ControlChannel
from dora.node.inbox import DEFAULT_SPIN_US, Inbox
from dora.node.input import LinkPort, Port, QueuePort, TimerPort
from dora.node.log import install_bridge, log_line, write_line
from dora.node.output import OutputPort
from dora.node.undeclared import UndeclaredOutputs
from dora.transport.board import Board
from dora.transport.doorbell import Bell, Doorbell
from dora.transport.interface import Engine
from dora.wire.control import Closing, NodeConfig, Ready, Started, StartRefused, ToNode
from dora.wire.decode import warm_up
from dora.wire.metadata import on_text

_CONNECT_TIMEOUT = 60.0  # seconds; the daemon ends the wait earlier when a node fails


class Session:
    """The ports of one node and its connection to the daemon; closed when it goes away.

    ``outputs`` is empty once the session is closed.
    """

    def __init__(
        self, node_id: str | None = None, prepare: Callable[[NodeConfig], None] | None = None
    ) -> None:
        """Connect and pass the start barrier; ``prepare`` is called before this node is ready.

        Raises `NotInDataflow`, `ConnectError`, `StartFailed`.
        """
        self.closed = True  # until everything below has worked
        self.channel, self.config = connect(node_id)
        config = self.config
        self.board = Board.open(config.board)
        if not config.dynamic:
            install_bridge(config.node_id)
        on_text(_text_warning(config.node_id))
        self._engine = _make_engine(config, self.board)
        self.outputs = {
            output.id: OutputPort(
                output, self._engine.sender(output), self.board, rings=not self._engine.wakes
            )
            for output in config.outputs
        }
        self.undeclared = UndeclaredOutputs(config.node_id, self.outputs, self.board, config.node_slot)
        doorbell = Doorbell(config.bell, also=self.channel.fileno())
        ports = _make_ports(config, self._engine, self.board)
        self._engine.connect(_CONNECT_TIMEOUT, self.channel.is_readable)
        if prepare is not None:
            prepare(config)
        if any(item.kind != "timer" for item in config.inputs):
            warm_up()
        epoch_ns, early = _pass_barrier(self.channel)
        ports += [TimerPort(item, epoch_ns) for item in config.inputs if item.kind == "timer"]
        self.inbox = Inbox(
            ports,
            self.channel,
            self.board,
            config.node_slot,
            doorbell,
            spin_us=_spin_us(),
            clock_is_work=not config.exit_when_nodes_finish,
        )
        self.inbox.parameters = config.parameters
        for frame in early:
            self.inbox.handle(frame)
        self.closed = False

    def output(self, output_id: str) -> OutputPort:
        """Return a declared output; raises `UndeclaredOutput`, or `SendError` after `close`."""
        port = self.outputs.get(output_id)
        if port is None:
            self._check_open()
            raise self.undeclared.error(output_id)
        return port

    def send(self, output_id: str, data: Any, metadata: Mapping[str, Any] | None = None) -> None:
        """Send a message; one for an output that is not declared is dropped, see `UndeclaredOutputs`."""
        port = self.outputs.get(output_id)
        if port is None:
            self.drop(output_id)
        else:
            port.send(data, metadata)

    def drop(self, output_id: str) -> None:
        """Take a message for an output that is not declared; raises `SendError` after `close`."""
        self._check_open()
        if self.undeclared.drop(output_id):
            atexit.register(_report_at_exit, weakref.ref(self))

    def _check_open(self) -> None:
        if self.closed:
            raise SendError(f"node `{self.config.node_id}` is closed")

    def close(self) -> None:
        """Leave the dataflow: inputs are not read any more, outputs close. Again: does nothing."""
        if self.closed:
            return
        self.closed = True
        self.inbox.close()
        ports = list(self.outputs.values())
        self.outputs.clear()
        for port in ports:
            port.close()
        self._engine.close()
        self.report_undeclared()
        self.channel.close()

    def report_undeclared(self) -> None:
        """Say goodbye to the daemon, with what was sent to undeclared outputs."""
        try:
            self.channel.send(Closing(self.undeclared.sent))
        except DaemonLost:
            pass

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not finalizing():
            self.close()


def _report_at_exit(reference: weakref.ref[Session]) -> None:
    session = reference()
    if session is not None and not session.closed:
        session.report_undeclared()


def _text_warning(node_id: str) -> Callable[[Any], None]:
    """Return what warns of metadata that does not arrive as it was sent, once for each type."""
    told: set[type] = set()

    def warn(value: Any) -> None:
        kind = type(value)
        if kind not in told:
            told.add(kind)
            name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
            write_line(log_line(node_id, "warn", f"metadata values of type {name} are sent as text"))

    return warn


def _make_engine(config: NodeConfig, board: Board) -> Engine:
    if config.engine == "zenoh":
        from dora.transport.zenoh import ZenohEngine

        return ZenohEngine(config.zenoh_endpoint, config.dataflow_id, board)
    from dora.transport.iceoryx import IceoryxEngine

    return IceoryxEngine(config.run_dir, config.prefix, board)


def _make_ports(config: NodeConfig, engine: Engine, board: Board) -> list[Port]:
    own_bell = Bell(config.bell)
    ports: list[Port] = []
    for item in config.inputs:
        if item.kind == "link":
            ports.append(
                LinkPort(
                    item,
                    engine.receiver(item, own_bell.ring),
                    board,
                    in_flight=engine.in_flight,
                    joins_late=config.dynamic,
                )
            )
        elif item.kind in ("text", "local"):
            ports.append(QueuePort(item, board))
    return ports


def _pass_barrier(channel: ControlChannel) -> tuple[int, list[ToNode]]:
    """Say that this node is ready and wait for the others.

    Returns the epoch of all timers, and what else the daemon said meanwhile (a stop, say).
    """
    channel.send(Ready())
    early: list[ToNode] = []
    while True:
        match channel.wait():
            case Started(epoch_ns=epoch_ns):
                return epoch_ns, early
            case StartRefused(reason=reason):
                channel.close()
                raise StartFailed(reason)
            case other:
                early.append(other)


def _spin_us() -> float:
    text = os.environ.get("DORA_SPIN_US")
    if not text:
        return DEFAULT_SPIN_US
    try:
        return max(float(text), 0.0)
    except ValueError:
        raise ValueError(f"DORA_SPIN_US is a number of microseconds, not {text!r}") from None
