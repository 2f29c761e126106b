"""The session of a process in a running dataflow, from the handshake with the daemon to the end.

`Node` is its interface for users' programs; the runtime hosts operators on it.
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec

import msgspec

from dora._ownership import UnsafeFile
from dora.errors import DaemonLost, DoraError, SendError, StartFailed
from dora.node.attach import attach
from dora.node.host import REPLAY_DIRECTORY
from dora.node.log import install_log_bridge, write_log
from dora.node.receive.input_port import InputPort
from dora.node.receive.path_meter import PathMeter, output_names
from dora.node.receive.stack import StackBuilder
from dora.node.receive.wait import DEFAULT_SPIN_US
from dora.node.send.output import OutputPort
from dora.node.send.undeclared import UndeclaredOutputs
from dora.node.session.other_machines import await_arrival, await_receivers
from dora.node.session.topology import Topology
from dora.node.warm_up import RECORD_TO, warm_up, warm_up_arrow
from dora.transport.board import CLOCK_ERROR, WORDS
from dora.transport.forking import RefusingState, disown_after_fork, leak, refuse
from dora.transport.interface import Receiver
from dora.wire.decode import BAD_MESSAGE, decode_arrow
from dora.wire.message import Message
from dora.wire.metadata import decode_metadata, on_text
from dora.wire.node_config import InputConfig, WriteEventLog, decode_descriptor
from dora.wire.node_protocol import (
    Closing,
    PathMissed,
    PublishRequest,
    PublishResult,
    Ready,
    SafeStateChanged,
    SessionFrame,
    Started,
    StartRefused,
    StopDataflow,
    ToDaemon,
    ToNode,
)
from dora.wire.trail import origin_id

if TYPE_CHECKING:
    from dora.node.events import BudgetMissed
    from dora.node.interceptors.event_log import EventLog
    from dora.node.interceptors.tracing import Tracer
    from dora.node.interceptors.type_check import FirstMessageCheck
    from dora.node.operator import OperatorOutput
    from dora.node.receive.inbox import Inbox
    from dora.transport.doorbell import Doorbell
    from dora.wire.path_statistics import PathLatency

P = ParamSpec("P")

_CONNECT_TIMEOUT = 60.0  # seconds; the daemon ends the wait earlier when a node fails


class Session:
    """The ports of one node and its connection to the daemon; closed when it goes away.

    ``outputs`` is empty once the session is closed.
    """

    def __init__(
        self, node_id: str | None = None, prepare: Callable[[Session], None] | None = None
    ) -> None:
        """Connect and pass the start barrier; ``prepare`` is called before this node is ready.

        Raises `NotInDataflow`, `ConnectError`, `StartFailed`.
        """
        self.closed = True  # until everything below has worked
        self._inherited = False  # this process was forked from the session's own
        self.on_publish: Callable[[str, Any, Mapping[str, Any]], None] | None = None  # instead of `send`
        host = attach(node_id)
        self.channel = host.channel
        self.config = config = host.config
        self.board = host.board
        self.bell = host.bell(config.bell)
        self.state = host.state()
        self.owns_process = host.owns_process
        if self.owns_process:
            if not config.dynamic:
                install_log_bridge(config.node_id)
            on_text(_text_warning(config.node_id))
            if config.lock_memory:
                from dora.node.process import lock_memory

                lock_memory()
        self._host = host
        self.engine = host.make_engine()
        self.paths = PathMeter(host.path_records())
        self.stacks = StackBuilder(
            config,
            self.board,
            self.engine,
            self.paths,
            ring=self.bell.ring,
            make_bell=host.bell,
            latch_reader=host.latch_reader,
            follows_log=bool(host.event_log()),
            on_late=_weakly(self._on_budget_missed),
            on_safe_state=_weakly(self._safe_state_changed),
        )
        receivers: dict[str, Receiver] = {}
        if config.standby:  # all slow steps come first
            receivers = {
                item.id: self.stacks.receiver(item) for item in config.inputs if item.kind == "link"
            }
            epoch_ns, early = _pass_barrier(self, prepare)
        self.outputs = host.make_outputs(self.engine)
        self.undeclared = UndeclaredOutputs(
            config.node_id,
            self.outputs,
            self.board,
            config.node_slot,
            [operator.id for operator in config.operators if not operator.alone],
        )
        doorbell = host.doorbell(config.bell, self.channel.fileno())
        ports = host.make_ports()
        ports += (
            self.stacks.port(item, receivers.get(item.id)) for item in config.inputs if item.kind != "timer"
        )
        await_receivers(config, self.board, _CONNECT_TIMEOUT, self.channel.is_readable)
        if not config.standby:  # its queues exist now, so the first messages of others find them
            epoch_ns, early = _pass_barrier(self, prepare)
        ports += (
            self.stacks.port(item, epoch_ns=epoch_ns) for item in config.inputs if item.kind == "timer"
        )
        self.topology = Topology()
        self.inbox = self._make_inbox(ports, doorbell, epoch_ns)
        self.tracer: Tracer | None = None
        self._first_message_check: FirstMessageCheck | None = None
        self._event_log: EventLog | None = None
        self._intercept_events()
        if not config.operators:  # the runtime does it for the outputs of operators
            self.intercept_sends(self.outputs)
        for port in self.outputs.values():
            port.on_links_changed = self.inbox.read_control
            port.warm_up()
        for wanted in config.event_logs:
            self._write_event_log(wanted)
        self.closed = False
        for frame in early:  # last: one may stop the node, or change the links that were just made
            self.inbox.handle(frame)
        disown_after_fork(self)
        if config.dynamic and self.owns_process:
            atexit.register(_weakly(self._leave_at_exit))

    def _make_inbox(self, ports: list[InputPort], doorbell: Doorbell, epoch_ns: int) -> Inbox:
        return self._host.inbox_type()(
            ports,
            self.channel,
            self.board,
            self.config.node_slot,
            doorbell,
            groups=self.stacks.groups,
            parameters=self.config.parameters,
            epoch_ns=epoch_ns,
            on_frame=_weakly(self._handle),
            on_detached=_weakly(self._detached),
            spin_us=_spin_us(),
            clock_is_work=not self.config.exit_when_nodes_finish,
            current=self._host.current,
            paths=self.paths,
        )

    def _intercept_events(self) -> None:
        """Put the interceptors into the inbox, in the order of `dora.node.interceptor`."""
        if typed := [item for item in self.config.inputs if item.shapes]:
            self._check_first_messages(typed)
        folder = os.environ.get(RECORD_TO) if self.owns_process else None
        if folder and not os.environ.get(REPLAY_DIRECTORY):
            from dora.node.interceptors.input_recorder import InputRecorder

            self.inbox.intercept(InputRecorder(self.config.node_id, folder))
        if self.config.trace is not None:
            from dora.node.interceptors.tracing import TracedInputs, Tracer

            self.tracer = Tracer(self.config)
            self.inbox.intercept(TracedInputs(self.tracer))

    def _check_first_messages(self, inputs: list[InputConfig]) -> None:
        if self._first_message_check is None:
            from dora.node.interceptors.type_check import FirstMessageCheck

            self._first_message_check = FirstMessageCheck(self.inbox, self.config.node_id)
        self._first_message_check.add(inputs)

    def intercept_sends(self, outputs: Mapping[str, OutputPort | OperatorOutput]) -> None:
        """Put the interceptors around outputs, in the order of `dora.node.interceptor`."""
        if any(output.shapes for output in self.config.outputs):
            from dora.node.interceptors.type_check import check_sends

            check_sends(self.config, outputs)
        if self.tracer is not None:
            from dora.node.interceptors.tracing import TracedOutput

            for output_id, port in outputs.items():
                port.intercept(TracedOutput(self.tracer, output_id))

    # ------------------------------------------------------------------ frames of the daemon

    def _handle(self, frame: SessionFrame) -> None:
        match frame:
            case PublishRequest():
                self._publish(frame)
            case WriteEventLog():
                self._write_event_log(frame)
            case _:
                self.topology.handle(self, frame)

    def _detached(self, input_id: str) -> None:
        self.topology.detached(self, input_id)

    def _safe_state_changed(self, input_id: str, reason: str, entered: bool, seconds: float) -> None:
        self.report(SafeStateChanged(input_id, reason, entered, seconds))

    def _publish(self, frame: PublishRequest) -> None:
        """Send a message of `dora topic pub`: numbered and counted like the node's own, and with credit."""
        reason = ""
        try:
            message = Message(frame.message)
            message.validate(len(frame.message))
            metadata = decode_metadata(message.metadata)
            port = self.output(frame.output)
            unsent = port.unsent
            (self.on_publish or self.send)(frame.output, decode_arrow(message), metadata)
            if port.unsent != unsent:
                reason = f"output `{frame.output}`: the queue is full, and the node was asked to stop"
        except (DoraError, *BAD_MESSAGE) as error:
            reason = str(error)
        self.report(PublishResult(frame.ticket, reason))

    def report(self, message: ToDaemon) -> None:
        """Send something to the daemon, unless it is gone."""
        try:
            self.channel.send(message)
        except DaemonLost:
            pass  # the next event reports it

    def _write_event_log(self, frame: WriteEventLog) -> None:
        if frame.ring_buffers:
            change = _stop_ring_buffer if frame.end else _start_ring_buffer
            for port in self.outputs.values():
                change(port, frame.ring_buffers)
        if frame.black_box:
            from dora.node.send.kept_output import keep

            for port in self.outputs.values():
                keep(port, frame.black_box)
        if not (frame.path or frame.black_box):
            return
        if self._event_log is None:
            from dora.node.interceptors.event_log import EventLog

            self._event_log = EventLog(self.config, self.inbox)
        if frame.black_box:
            self._event_log.keep(f"{frame.black_box}/order/{self.config.node_id}")
        elif frame.end:
            self._event_log.end(frame.path)
        else:
            self._event_log.write_to(frame.path)

    # ------------------------------------------------------------------ inputs

    def _on_budget_missed(self, on_miss: str, miss: BudgetMissed) -> None:
        """Act on a message that is late, before the program gets it."""
        from dora.node.receive.budget_input import warning

        misses, node_id = miss["misses"], self.config.node_id
        text = warning(miss, f"{node_id}/{miss['id']}")
        is_reported = misses & (misses - 1) == 0  # the 1st, 2nd, 4th, 8th … in a row
        if is_reported:
            self.report(PathMissed(text, save=on_miss == "save"))
        if on_miss == "stop" and not self.inbox.is_closing:
            write_log(node_id, "error", f"{text}; the dataflow is stopped")
            self.report(StopDataflow())
        elif on_miss in ("warn", "safe_state", "save") and is_reported:
            write_log(node_id, "warn", text)

    def path_latencies(self) -> list[PathLatency]:
        """Return how long data took to the inputs of this node."""
        names = output_names(decode_descriptor(self.config.descriptor))
        sources = {origin_id(name): name for name in names}
        node_id = self.config.node_id
        sinks = {item.slot: f"{node_id}/{item.id}" for item in self.config.inputs if item.kind != "timer"}
        words = self.board.words
        errors = {
            f"{node_id}/{item.id}": words[item.output_slot * WORDS + CLOCK_ERROR] / 1e6
            for item in self.config.inputs
            if item.machine
        }
        return [
            msgspec.structs.replace(path, clock_error_ms=errors.get(path.sink, 0.0))
            for path in self.paths.statistics(sources, sinks)
        ]

    def add_input(self, item: InputConfig) -> None:
        """Receive on one more input from now on; raises `DoraError`, ``OSError``."""
        if item.kind != "timer":
            warm_up_arrow(receives=True, sends=bool(self.outputs))
        port = self.stacks.port(item, epoch_ns=self.inbox.epoch_ns)
        known = {other.id: index for index, other in enumerate(self.config.inputs)}
        if item.id in known:
            self.config.inputs[known[item.id]] = item
        else:
            self.config.inputs.append(item)
        if item.shapes:
            self._check_first_messages([item])
        self.inbox.add(port)

    # ------------------------------------------------------------------ outputs

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
        """Drop a message for an output that is not declared; raises `SendError` after `close`."""
        self._check_open()
        if self.undeclared.drop(output_id) and not self.config.dynamic:
            atexit.register(_weakly(self._report_at_exit))

    # ------------------------------------------------------------------ end

    def disown(self) -> None:
        """Leave the dataflow to the parent, in a forked child process."""
        leak(self)
        self.closed = self._inherited = True  # the child reports no end
        self.channel.close()  # else the daemon would see the end of the parent only when the child ends
        self.inbox.disown()
        for port in self.outputs.values():
            port.disown()
        self.outputs.clear()
        self.state = RefusingState()

    def _check_open(self) -> None:
        if self._inherited:
            refuse()
        if self.closed:
            raise SendError(f"node `{self.config.node_id}` is closed")

    def close(self) -> None:
        """Leave the dataflow: close inputs and outputs. Does nothing the second time."""
        if not self.closed:
            self._close(goodbye=True)

    def fail(self) -> None:
        """Leave the dataflow like a killed process: receivers get ``NODE_FAILED`` first."""
        if not self.closed:
            self._close(goodbye=False)

    def _close(self, goodbye: bool) -> None:
        self.closed = True  # first: a signal handler that closes the node meanwhile does nothing
        self.inbox.close()
        if self.tracer is not None:
            self.tracer.close()
            self.tracer = None
        ports = list(self.outputs.values())
        self.outputs.clear()
        for port in ports:
            port.close()
        await_arrival(self.config, self.board)
        self.engine.close()
        if goodbye:
            self._report_undeclared()
        if self.config.dynamic:
            self.channel.leave()  # a cell of a notebook may join as this node right afterwards
        else:
            self.channel.close()

    def _report_undeclared(self) -> None:
        """Report the end to the daemon, with the counts of messages to undeclared outputs."""
        self.report(Closing(self.undeclared.sent))

    def _report_at_exit(self) -> None:
        if not self.closed:
            self._report_undeclared()

    def _leave_at_exit(self) -> None:
        """Report the end of a dynamic node, unless its program fails: the daemon does not watch it."""
        uncaught = getattr(sys, "last_type", None)
        interactive = hasattr(sys, "ps1")  # there, a program survives its errors
        if uncaught is None or interactive or issubclass(uncaught, KeyboardInterrupt):
            self._report_at_exit()

    def __del__(self, finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not finalizing() and not self.closed:
            self.tracer = None  # the program may be failing, and knows that only at its exit
            self.close()


def _weakly(method: Callable[P, None]) -> Callable[P, None]:
    """Return a function that calls a method and does not keep its object alive."""
    reference = weakref.WeakMethod(method)

    def call(*args: P.args, **options: P.kwargs) -> None:
        if (found := reference()) is not None:
            found(*args, **options)

    return call


def _start_ring_buffer(port: OutputPort, directory: str) -> None:
    """Copy small messages to a recorder's ring buffer, if its folder has one for this output."""
    from dora.transport.shm.ring_buffer import RingBufferWriter

    if directory in port.ring_buffers:
        return
    try:
        ring = RingBufferWriter(f"{directory}/{port.slot}")
    except (OSError, UnsafeFile):
        return  # this output is not recorded, or without a ring buffer
    port.set_ring_buffers({**port.ring_buffers, directory: ring})


def _stop_ring_buffer(port: OutputPort, directory: str) -> None:
    ring = port.ring_buffers.get(directory)
    if ring is not None:
        port.set_ring_buffers({key: other for key, other in port.ring_buffers.items() if other is not ring})
        ring.close()


def _text_warning(node_id: str) -> Callable[[Any], None]:
    """Return a function that warns of metadata values which are sent as text, once for each type."""
    warned: set[type] = set()

    def warn(value: Any) -> None:
        kind = type(value)
        if kind not in warned:
            warned.add(kind)
            name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
            write_log(node_id, "warn", f"metadata values of type {name} are sent as text")

    return warn


def _pass_barrier(session: Session, prepare: Callable[[Session], None] | None) -> tuple[int, list[ToNode]]:
    """Get ready, report that, and wait for the other nodes.

    Returns the epoch of all timers, and the other frames that the daemon sent meanwhile (a stop, say).
    """
    if prepare is not None:
        prepare(session)
    warm_up(session.config)
    session.channel.send(Ready())
    early: list[ToNode] = []
    while True:
        # Without a timeout: how long a start may take is a rule of the dataflow (`startup_timeout`). The
        # daemon keeps it, and ends this wait with `StartRefused` or with the connection.
        match session.channel.wait():
            case Started(epoch_ns=epoch_ns):
                return epoch_ns, early
            case StartRefused(reason=reason):
                session.channel.close()
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
