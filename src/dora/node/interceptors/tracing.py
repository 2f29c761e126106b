"""Following a message: spans for what a node receives and sends, where tracing is on.

A message carries the context of the span that sent it. Whoever receives it begins a span below that
one, *process*, which lasts until the program asks for its next event; and what it sends meanwhile begins a
span below *process*, *send*, whose context travels on. Ticks of timers, and what is sent out of nothing,
begin a trace.

So the parent of what is sent is, in this order: the context in the metadata given to ``send_output``,
which is that of *process* if a program passes on what it received; the current span of OpenTelemetry, if
the program uses that; the *process* that this task or thread is in.

Nodes write spans to files (`dora.node.interceptors.spans`) and need no OpenTelemetry for it: a program may
live in
an environment of its own, a slow collector must not hold up a node, and what a killed node did is what
one wants to know. Nothing of this module is loaded where tracing is off.
"""

from __future__ import annotations

import atexit
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from dora._version import __version__
from dora.node.events import Event, Input
from dora.node.interceptors.spans import (
    CONSUMER,
    FAILED,
    PRODUCER,
    Attribute,
    Span,
    SpanFile,
    Status,
    Value,
    attributes_of,
    encode_batch,
)
from dora.node.process import log_line, write_line
from dora.node.send.output import OutputPort
from dora.transport.forking import disown_after_fork, do_nothing, leak
from dora.wire.metadata import MetadataError, decode_metadata
from dora.wire.trace_context import KEY, TraceContext, format_context, parse_context

if TYPE_CHECKING:
    from dora.node.operators.operator import OperatorOutput
    from dora.node.receive.inbox import Inbox
    from dora.transport.interface import Loan
    from dora.wire.node_config import NodeConfig

_BATCH: Final = 64  # spans; a node that has nothing else to do writes fewer
_LOANS: Final = 1024  # loans that may be under way at once

_now = time.time_ns


class _Process:
    """What a task or thread is busy with. ``span`` is None in a trace that is not recorded."""

    __slots__ = ("context", "span")

    def __init__(self, context: TraceContext, span: Span | None) -> None:
        self.context = context
        self.span = span


class Tracer:
    """The spans of one node."""

    def __init__(self, config: NodeConfig) -> None:
        assert config.trace is not None
        self._node_id = config.node_id
        self._limit = int(config.trace.ratio * (1 << 64))
        self._file = SpanFile(config.trace.directory, config.node_id)
        self._resource = {
            "service.name": config.node_id,
            "service.namespace": config.trace.dataflow,
            "service.instance.id": f"{config.dataflow_id}/{config.node_id}",
            "dora.dataflow.id": config.dataflow_id,
        }
        self._current: ContextVar[_Process | None] = ContextVar("dora_process", default=None)
        self._busy: dict[int, _Process] = {}  # by thread: `asyncio.wait_for` may receive in another context
        self._done: list[Span] = []
        self._random = random.Random()
        self._lock = threading.Lock()
        atexit.register(self.close)
        disown_after_fork(self)

    # ------------------------------------------------------------------ receiving

    def watch(self, inbox: Inbox) -> None:
        """Begin and end spans as the program takes events."""
        poll = inbox._poll
        names: dict[str, tuple[str, list[Attribute]]] = {}  # by input; there may be new ones

        def traced_poll() -> Event | None:
            thread = threading.get_ident()
            busy = self._busy.pop(thread, None)
            if busy is not None:
                self._end(busy)
            event = poll()
            if event is None:
                if self._done:
                    self._write()  # there is time for it
            elif event.__class__ is Input:
                input_id = event["id"]
                if input_id not in names:
                    names[input_id] = f"process {input_id}", attributes_of({"dora.input": input_id})
                self._busy[thread] = self._begin(event, *names[input_id])
            return event

        inbox._poll = traced_poll  # type: ignore[method-assign]

    def _begin(self, event: Event, name: str, attributes: list[Attribute]) -> _Process:
        try:
            metadata = event["metadata"]
        except MetadataError:  # which the program is told when it asks for it
            metadata = {}
        parent = parse_context(metadata.get(KEY))
        context = self._child(parent)
        metadata[KEY] = format_context(context)
        span = None
        if context.sampled:
            span = Span(
                context.trace_id, context.span_id, name, CONSUMER, str(_now()), attributes=attributes
            )
            if sequence := event.sequence:
                span.attributes = [*attributes, Attribute("dora.sequence", Value(int_value=str(sequence)))]
            _link(span, parent)
        process = _Process(context, span)
        self._current.set(process)
        _tell_opentelemetry(context)
        return process

    def _end(self, process: _Process) -> None:
        self._current.set(None)
        if process.span is not None:
            process.span.end_time_unix_nano = str(_now())
            self._keep(process.span)

    def fail(self, error: BaseException) -> None:
        """End what this thread is busy with as a failure."""
        busy = self._busy.pop(threading.get_ident(), None)
        if busy is None or busy.span is None:
            return
        busy.span.status = Status(FAILED, f"{type(error).__name__}: {error}")
        self._end(busy)

    # ------------------------------------------------------------------ sending

    def watch_output(self, port: OutputPort | OperatorOutput, output_id: str) -> None:
        """Give a context to what is sent on an output."""
        send: Callable[..., None] = port.send
        name = f"send {output_id}"
        attributes = attributes_of({"dora.output": output_id})

        def traced_send(data: Any, metadata: Mapping[str, Any] | None) -> None:
            span, metadata = self._begin_send(name, attributes, metadata)
            if span is None:
                send(data, metadata)
                return
            try:
                send(data, metadata)
            except BaseException as error:
                span.status = Status(FAILED, f"{type(error).__name__}: {error}")
                raise
            finally:
                span.end_time_unix_nano = str(_now())
                self._keep(span)

        port.send = traced_send  # type: ignore[method-assign]
        if isinstance(port, OutputPort):
            self._watch_loans(port, name, attributes)

    def _watch_loans(self, port: OutputPort, name: str, attributes: list[Attribute]) -> None:
        """The same for memory that is lent: its metadata is written when it is asked for."""
        borrow, send_loan = port.loan, port.send_loan
        lent: dict[str, Span] = {}  # id of the span → the span

        def traced_loan(
            schema: bytes, size: int, metadata: Mapping[str, Any] | None
        ) -> tuple[Loan, int, bytes]:
            span, metadata = self._begin_send(name, attributes, metadata)
            found = borrow(schema, size, metadata)
            if span is not None:
                lent[span.span_id] = span
                while len(lent) > _LOANS:  # they were given back
                    lent.pop(next(iter(lent)), None)
            return found

        def traced_send_loan(loan: Loan, schema: bytes, section: bytes, size: int) -> None:
            send_loan(loan, schema, section, size)
            try:
                context = parse_context(decode_metadata(section).get(KEY))
            except MetadataError:
                return
            span = lent.pop(context.span_id, None) if context is not None else None
            if span is not None:
                span.end_time_unix_nano = str(_now())
                self._keep(span)

        port.loan = traced_loan  # type: ignore[method-assign]
        port.send_loan = traced_send_loan  # type: ignore[method-assign]

    def _begin_send(
        self, name: str, attributes: list[Attribute], metadata: Mapping[str, Any] | None
    ) -> tuple[Span | None, Mapping[str, Any] | None]:
        """Return the span of a message, if it is recorded, and its metadata."""
        given = metadata.get(KEY) if metadata else None
        parent = parse_context(given)
        if given is not None and parent is None:
            return None, metadata  # a context of the program's own, for whoever understands it
        parent = _current_of_opentelemetry(parent) or parent or self._current_context()
        context = self._child(parent)
        metadata = {**(metadata or {}), KEY: format_context(context)}
        if not context.sampled:
            return None, metadata
        span = Span(context.trace_id, context.span_id, name, PRODUCER, str(_now()), attributes=attributes)
        _link(span, parent)
        return span, metadata

    def _current_context(self) -> TraceContext | None:
        process = self._current.get() or self._busy.get(threading.get_ident())
        return process.context if process is not None else None

    # ------------------------------------------------------------------ spans

    def _child(self, parent: TraceContext | None) -> TraceContext:
        """Return the context of a new span; without a parent it begins a trace, or decides not to."""
        bits = self._random.getrandbits
        span_id = f"{bits(64) or 1:016x}"
        if parent is not None:
            return TraceContext(parent.trace_id, span_id, parent.sampled, parent.state)
        low = bits(64)
        # As the sampler of OpenTelemetry decides, so that all nodes would decide alike.
        return TraceContext(f"{bits(64) or 1:016x}{low:016x}", span_id, low < self._limit)

    def _keep(self, span: Span) -> None:
        self._done.append(span)
        if len(self._done) >= _BATCH:
            self._write()

    def _write(self) -> None:
        with self._lock:
            done, self._done = self._done, []
            if not done:
                return
            trouble = self._file.append(encode_batch(self._resource, __version__, done))
        if trouble:
            write_line(log_line(self._node_id, "warn", f"spans are not written any more: {trouble}"))

    def disown(self) -> None:
        """Leave all spans to the parent, in a forked child process."""
        atexit.unregister(self.close)
        leak(self._file)
        vars(self).update(_write=do_nothing, close=do_nothing)

    def close(self) -> None:
        """End what is not ended, as a failure if the program ends by an exception; write it all."""
        atexit.unregister(self.close)
        error: BaseException | None = getattr(sys, "last_value", None)  # what nobody has caught
        for busy in list(self._busy.values()):
            if busy.span is not None and error is not None and isinstance(error, Exception):
                busy.span.status = Status(FAILED, f"{type(error).__name__}: {error}")
            self._end(busy)
        self._busy.clear()
        self._write()
        self._file.close()


def _link(span: Span, parent: TraceContext | None) -> None:
    if parent is not None:
        span.parent_span_id = parent.span_id
        span.trace_state = parent.state


# ---------------------------------------------------------------------- programs that use OpenTelemetry


def _tell_opentelemetry(context: TraceContext) -> None:
    """Let spans that the program itself makes, while it processes an event, be below ours."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return
    from opentelemetry.context import attach

    ours = trace.SpanContext(
        int(context.trace_id, 16),
        int(context.span_id, 16),
        is_remote=False,
        trace_flags=trace.TraceFlags(int(context.sampled)),
    )
    attach(trace.set_span_in_context(trace.NonRecordingSpan(ours)))


def _current_of_opentelemetry(given: TraceContext | None) -> TraceContext | None:
    """Return the program's own current span, if it is one of the trace that is given."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    span = trace.get_current_span()
    if not span.is_recording():
        return None
    context = span.get_span_context()
    trace_id = f"{context.trace_id:032x}"
    if given is not None and given.trace_id != trace_id:
        return None
    return TraceContext(trace_id, f"{context.span_id:016x}", bool(context.trace_flags & 1))
