"""`Node`: a program's place in a dataflow."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from dora.errors import ConnectError, DaemonLost, NotInDataflow, SendError, StartFailed, UndeclaredOutput
from dora.node.connect import connect, show_without_traceback
from dora.node.control import ControlChannel
from dora.node.events import Event
from dora.node.inbox import DEFAULT_SPIN_US, Inbox
from dora.node.input import LinkPort, Port, QueuePort, TimerPort
from dora.node.log import install_bridge, log_line, write_line
from dora.node.output import ArrayLoan, OutputPort, SampleHandler
from dora.transport.board import ASLEEP, UNDECLARED, WORDS, Board
from dora.transport.doorbell import Bell, Doorbell
from dora.transport.interface import Engine
from dora.wire.control import Closing, NodeConfig, Ready, Started, StartRefused, ToDaemon, ToNode
from dora.wire.decode import warm_up
from dora.wire.ids import uuid7
from dora.wire.plain import plain_format

_CONNECT_TIMEOUT = 60.0  # seconds; the daemon ends the wait earlier when a node fails


class Node:
    """This program's node in a running dataflow.

    >>> from dora import Node                                             # doctest: +SKIP
    >>> node = Node()
    >>> for event in node:
    ...     if event["type"] == "INPUT":
    ...         node.send_output("out", event["value"], event["metadata"])

    Creating it connects to the dataflow that started this program, or, with ``node_id``, to the
    running dataflow that declares this node with ``path: dynamic``; and returns once every other
    (non-dynamic) node is ready too, so that nothing sent from then on misses its receivers.

    Events are taken with `next`, `try_recv`, `drain`, `recv_async`, or by iterating (``for``,
    ``async for``); sent with `send_output`, `send_output_raw`, `loan`. Methods may be called from any
    thread. ``with Node() as node`` closes it at the end of the block.

    Raises `NotInDataflow`, `ConnectError`, `StartFailed` (all are ``RuntimeError``).
    """

    def __init__(self, node_id: str | None = None, daemon_port: int | None = None) -> None:
        """``daemon_port`` is accepted for dora-rs and unused: a dataflow is found by its socket."""
        del daemon_port
        try:
            self._open(node_id)
        except (NotInDataflow, ConnectError) as error:
            show_without_traceback(error)
            raise

    def _open(self, node_id: str | None, prepare: Callable[[NodeConfig], None] | None = None) -> None:
        """Connect and pass the start barrier; ``prepare`` is called before this node is ready."""
        self._closed = True  # until everything below has worked
        self._channel, self._config = connect(node_id)
        config = self._config
        self.id: str = config.node_id
        self._board = Board.open(config.board)
        self._undeclared_sent: dict[str, int] = {}
        self._undeclared_lock = threading.Lock()
        self._strict = os.environ.get("DORA_STRICT_OUTPUTS", "").lower() in ("1", "true", "yes", "on")
        if not config.dynamic:
            install_bridge(self.id)
        self._engine = _make_engine(config, self._board)
        self._outputs = {
            output.id: OutputPort(
                output,
                self._engine.sender(output),
                self._board,
                rings=self._engine.name == "iceoryx2",
            )
            for output in config.outputs
        }
        doorbell = Doorbell(config.bell, also=self._channel.fileno())
        ports = _make_ports(config, self._engine, self._board)
        self._engine.connect(_CONNECT_TIMEOUT, self._channel.is_readable)
        if prepare is not None:
            prepare(config)
        if any(item.kind != "timer" for item in config.inputs):
            warm_up()
        epoch_ns, early = _pass_barrier(self._channel)
        for item in config.inputs:
            if item.kind == "timer":
                ports.append(TimerPort(item, epoch_ns))
        self._inbox = Inbox(
            ports,
            self._channel,
            self._board,
            config.node_slot,
            doorbell,
            spin_us=_spin_us(),
            clock_is_work=not config.exit_when_nodes_finish,
        )
        for frame in early:
            self._inbox.handle(frame)
        self._closed = False

    # ------------------------------------------------------------------ receiving

    def next(self, timeout: float | None = None) -> Event | None:
        """Wait for the next event and return it; None once the stream has ended, and ever after.

        With ``timeout`` (seconds, 0 only looks), returns an ``ERROR`` event when it expires, as
        existing programs expect; its ``is_timeout`` is True. Raises ``ValueError`` for a negative or
        non-finite timeout. Ctrl-C works while it waits.
        """
        return self._inbox.next(_checked(timeout))

    def try_recv(self) -> Event | None:
        """Return an event that is there, else None (also at the end); never blocks."""
        return self._inbox.try_next()

    def drain(self) -> list[Event]:
        """Return all events that are there, oldest first; raises `ReceiveClosed` after the end."""
        return self._inbox.drain()

    def is_empty(self) -> bool:
        """Tell whether no event is there."""
        return self._inbox.is_empty()

    async def recv_async(self, timeout: float | None = None) -> Event | None:
        """As `next`, for asyncio: other tasks run meanwhile. No thread is involved."""
        return await self._inbox.next_async(_checked(timeout))

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        event = self._inbox.next(None)
        if event is None:
            raise StopIteration
        return event

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        event = await self._inbox.next_async(None)
        if event is None:
            raise StopAsyncIteration
        return event

    # ------------------------------------------------------------------ sending

    def send_output(self, output_id: str, data: Any, metadata: Mapping[str, Any] | None = None) -> None:
        """Send one message on an output.

        ``data``: ``bytes``, ``bytearray``, ``memoryview``, a NumPy array (sent flat), an Arrow array,
        chunked array, record batch or table (arrive as struct arrays). ``metadata``: string keys;
        values may nest, see the reference. It is copied before the call returns.

        Never waits, except on an output with a ``queue_policy: backpressure`` link whose queue is
        full. An output that is not declared is warned about once, counted and dropped; with
        ``DORA_STRICT_OUTPUTS=1`` it raises `UndeclaredOutput`. Raises ``TypeError`` for data that
        cannot be sent, `SharedMemoryFull`, `SendError` after `close`.
        """
        port = self._outputs.get(output_id)
        if port is None:
            self._undeclared(output_id)
            return
        port.send(data, metadata)

    def send_output_raw(
        self, output_id: str, data_length: int, metadata: Mapping[str, Any] | None = None
    ) -> SampleHandler:
        """Get shared memory for ``data_length`` bytes, to be filled in place: no copy at all.

        Arrives as a ``uint8`` array. Raises `UndeclaredOutput`, `SharedMemoryFull`.
        """
        return SampleHandler(self._declared(output_id), b"C", data_length, metadata)

    def loan(
        self,
        output_id: str,
        shape: int | tuple[int, ...],
        dtype: Any = "uint8",
        metadata: Mapping[str, Any] | None = None,
    ) -> ArrayLoan:
        """Get shared memory as a NumPy array, to be filled in place; sent at the end of the block.

        >>> with node.loan("image", (480, 640, 3)) as frame:              # doctest: +SKIP
        ...     camera.read(frame)

        Arrives flat, with the Arrow type of ``dtype`` (integers and floats). Nothing is sent if the
        block raises. Raises `UndeclaredOutput`, `SharedMemoryFull`, ``TypeError`` for other dtypes.
        """
        port = self._declared(output_id)
        dimensions = (shape,) if isinstance(shape, int) else tuple(shape)
        schema, dtype_name, size = plain_format(dtype)
        for length in dimensions:
            size *= length
        return ArrayLoan(SampleHandler(port, schema, size, metadata), dtype_name, dimensions)

    def send_service_request(
        self, output_id: str, data: Any, metadata: Mapping[str, Any] | None = None
    ) -> str:
        """Send a request and return its fresh ``request_id``, which the response will carry."""
        if metadata and "request_id" in metadata:
            self.log_warn("send_service_request: the given `request_id` is replaced by a fresh one")
        request_id = uuid7()
        self.send_output(output_id, data, {**(metadata or {}), "request_id": request_id})
        return request_id

    def send_service_response(self, output_id: str, data: Any, metadata: Mapping[str, Any]) -> None:
        """Send the response to a request; ``metadata`` carries the request's ``request_id``."""
        if "request_id" not in metadata:
            self.log_warn("send_service_response: the metadata has no `request_id`; nobody can match it")
        self.send_output(output_id, data, metadata)

    def _declared(self, output_id: str) -> OutputPort:
        port = self._outputs.get(output_id)
        if port is None:
            if self._closed:
                raise SendError(f"node `{self.id}` is closed")
            raise UndeclaredOutput(self._undeclared_message(output_id))
        return port

    def _undeclared(self, output_id: str) -> None:
        if self._closed:
            raise SendError(f"node `{self.id}` is closed")
        if self._strict:
            raise UndeclaredOutput(self._undeclared_message(output_id))
        with self._undeclared_lock:
            self._board.words[self._config.node_slot * WORDS + UNDECLARED] += 1
            before = self._undeclared_sent.get(output_id, 0)
            if not self._undeclared_sent:
                atexit.register(_report_at_exit, weakref.ref(self))
            self._undeclared_sent[output_id] = before + 1
            if before:
                return
        self.log_warn(self._undeclared_message(output_id) + "; its messages are dropped")

    def _undeclared_message(self, output_id: str) -> str:
        import difflib

        declared = sorted(self._outputs)
        close = difflib.get_close_matches(str(output_id), declared, 1)
        return (
            f"output `{output_id}` is not declared for node `{self.id}`"
            + (f", did you mean `{close[0]}`?" if close else "")
            + f" (declared: {', '.join(declared) or 'none'})"
        )

    # ------------------------------------------------------------------ information

    def dataflow_id(self) -> str:
        """Return the UUID of this run of the dataflow."""
        return self._config.dataflow_id

    def dataflow_descriptor(self) -> dict[str, Any]:
        """Return the parsed YAML of the dataflow."""
        return self._config.descriptor

    def node_config(self) -> dict[str, Any]:
        """Return ``{"inputs": {id: source}, "outputs": [id]}``; a source with options is a mapping."""
        return self._config.run_config

    def is_restart(self) -> bool:
        """Tell whether an earlier process of this node ended and was restarted."""
        return self._config.restart_count > 0

    def restart_count(self) -> int:
        """Return how often this node has been restarted."""
        return self._config.restart_count

    def timestamp(self) -> datetime:
        """Return the current time, aware, in UTC."""
        return datetime.now(UTC)

    def statistics(self) -> dict[str, Any]:
        """Return what was sent, received and lost so far.

        ``{"outputs": {id: {"sent": n}}, "inputs": {id: {"received": n, "dropped": n}},
        "undeclared": n}``
        """
        words = self._board.words
        return {
            "outputs": {port.id: {"sent": port.sent} for port in self._outputs.values()},
            "inputs": {
                item.id: {
                    "received": words[item.slot * WORDS],
                    "dropped": words[item.slot * WORDS + 1],
                }
                for item in self._config.inputs
                if item.kind != "timer"
            },
            "undeclared": words[self._config.node_slot * WORDS + UNDECLARED],
        }

    # ------------------------------------------------------------------ logging

    def log(
        self,
        level: str,
        message: str,
        target: str | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        """Write a log entry. ``level``: error, warn, info, debug or trace; others count as info."""
        write_line(log_line(self.id, level, message, target, fields))

    def log_error(self, message: str) -> None:
        self.log("error", message)

    def log_warn(self, message: str) -> None:
        self.log("warn", message)

    def log_info(self, message: str) -> None:
        self.log("info", message)

    def log_debug(self, message: str) -> None:
        self.log("debug", message)

    def log_trace(self, message: str) -> None:
        self.log("trace", message)

    # ------------------------------------------------------------------ for the runtime

    @property
    def config(self) -> NodeConfig:
        """The configuration that the daemon gave to this node."""
        return self._config

    def output_port(self, output_id: str) -> OutputPort:
        return self._outputs[output_id]

    def local_consumers(self) -> dict[str, list[QueuePort]]:
        """Return source → inputs of this very process that take it by reference."""
        consumers: dict[str, list[QueuePort]] = {}
        for item in self._config.inputs:
            port = self._inbox.ports[item.id]
            if item.kind == "local" and isinstance(port, QueuePort):
                consumers.setdefault(item.source, []).append(port)
        return consumers

    def is_asleep(self) -> bool:
        """Tell whether a thread of this process waits for the next event."""
        return bool(self._board.words[self._config.node_slot * WORDS + ASLEEP])

    def is_closed(self, input_id: str) -> bool:
        """Tell whether an input is closed for good (not by an ``input_timeout``)."""
        return not self._inbox.ports[input_id].open

    def close_inputs(self, input_ids: list[str]) -> None:
        """Stop receiving on some inputs."""
        self._inbox.close_inputs(input_ids)

    def tell_daemon(self, message: ToDaemon) -> None:
        """Send a control frame; raises `DaemonLost`."""
        self._channel.send(message)

    # ------------------------------------------------------------------ end

    def close(self) -> None:
        """Leave the dataflow: receivers of this node's outputs get ``INPUT_CLOSED`` after the data.

        Called by ``with`` and when the object goes away. A program that simply ends need not call it:
        the daemon sees the end of the process, and whether it failed. Calling it again does nothing.
        """
        if self._closed:
            return
        self._closed = True
        self._inbox.close()
        outputs, self._outputs = self._outputs, {}
        for port in outputs.values():
            port.close()
        self._engine.close()
        try:
            self._channel.send(Closing(self._undeclared_sent))
        except DaemonLost:
            pass
        self._channel.close()

    def report_undeclared(self) -> None:
        """Tell the daemon, at the end of the program, what was sent to undeclared outputs."""
        if not self._closed:
            try:
                self._channel.send(Closing(self._undeclared_sent))
            except DaemonLost:
                pass

    def __enter__(self) -> Node:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        # When the block fails, the process is about to fail too: leaving the end to the daemon lets
        # the receivers learn of the failure (NODE_FAILED) before their inputs close.
        if kind is None:
            self.close()

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not finalizing() and not self._closed:
            self.close()

    def __repr__(self) -> str:
        return f"<dora.Node {self.id!r} of dataflow {self._config.dataflow_id}>"


def _report_at_exit(reference: weakref.ref[Node]) -> None:
    node = reference()
    if node is not None:
        node.report_undeclared()


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
                    in_flight=engine.name == "zenoh",
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


def _checked(timeout: float | None) -> float | None:
    if timeout is not None and not 0.0 <= timeout < float("inf"):
        raise ValueError(f"timeout must be a finite number of seconds, at least 0, not {timeout}")
    return timeout


def _spin_us() -> float:
    text = os.environ.get("DORA_SPIN_US")
    if not text:
        return DEFAULT_SPIN_US
    try:
        return max(float(text), 0.0)
    except ValueError:
        raise ValueError(f"DORA_SPIN_US is a number of microseconds, not {text!r}") from None
