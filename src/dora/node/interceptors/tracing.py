"""Tracing: spans for the messages that a node receives and sends.

A message carries the context of the span that sent it. Its receiver begins a child span, *process*, which
lasts until the program asks for its next event. Each message that is sent meanwhile begins a child span of
*process*, *send*, whose context travels with the message. A tick of a timer begins a trace, and so does a
message that is sent outside of any *process*.

The parent of a *send* is, in this order: the context in the metadata given to ``send_output``, which
belongs to *process* if a program passes on what it received; the current span of OpenTelemetry, if the
program uses it; the *process* of this task or thread.

Nodes write spans to files (`dora.node.interceptors.spans`) and do not need OpenTelemetry: a program may run
in its own environment, a slow collector must not hold up a node, and the spans of a killed node matter
most. This module is not loaded where tracing is off.
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
from dora.node.events import Event, Input, Synced
from dora.node.interceptor import Lent, Metadata, ReceiveInterceptor, SendInterceptor
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
from dora.node.log import write_log
from dora.transport.forking import disown_after_fork, leak
from dora.wire.metadata import MetadataError, decode_metadata
from dora.wire.trace_context import KEY, TraceContext, format_context, parse_context

if TYPE_CHECKING:
    from dora.transport.interface import Loan
    from dora.wire.node_config import NodeConfig

_BATCH: Final = 64  # spans; a node that has nothing else to do writes fewer
_LOANS: Final = 1024  # loans that may be under way at once

_now = time.time_ns


class _Process:
    """A *process*: work of a task or thread on an event. ``span`` is None if the trace is not sampled."""

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
        # By thread: `asyncio.wait_for` may receive in another context.
        self._processes: dict[int, _Process] = {}
        self._done: list[Span] = []
        self._random = random.Random()
        # Any thread that sends or receives may write. One at a time: each span is written once.
        self._lock = threading.Lock()
        self._inherited = False  # this process was forked from the node's
        atexit.register(self.close)
        disown_after_fork(self)

    # ------------------------------------------------------------------ receiving

    def end_process(self) -> None:
        """End the *process* of this thread: the program asks for its next event."""
        process = self._processes.pop(threading.get_ident(), None)
        if process is not None:
            self._end(process)

    def begin_process(self, event: Event, name: str, attributes: list[Attribute]) -> None:
        """Begin the *process* of an event in this thread."""
        try:
            metadata = event["metadata"]
        except MetadataError:  # the program gets the error when it asks for the metadata
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
        process = self._processes[threading.get_ident()] = _Process(context, span)
        self._current.set(process)
        _attach_to_opentelemetry(context)

    def _end(self, process: _Process) -> None:
        self._current.set(None)
        if process.span is not None:
            process.span.end_time_unix_nano = str(_now())
            self.keep(process.span)

    def fail(self, error: BaseException) -> None:
        """End the *process* of this thread as a failure."""
        process = self._processes.pop(threading.get_ident(), None)
        if process is None or process.span is None:
            return
        process.span.status = Status(FAILED, f"{type(error).__name__}: {error}")
        self._end(process)

    # ------------------------------------------------------------------ sending

    def begin_send(
        self, name: str, attributes: list[Attribute], metadata: Mapping[str, Any] | None
    ) -> tuple[Span | None, Mapping[str, Any] | None]:
        """Return the span of a message, None if it is not sampled; and the message's metadata."""
        given = metadata.get(KEY) if metadata else None
        parent = parse_context(given)
        if given is not None and parent is None:
            return None, metadata  # the program's own kind of context
        parent = _current_of_opentelemetry(parent) or parent or self._current_context()
        context = self._child(parent)
        metadata = {**(metadata or {}), KEY: format_context(context)}
        if not context.sampled:
            return None, metadata
        span = Span(context.trace_id, context.span_id, name, PRODUCER, str(_now()), attributes=attributes)
        _link(span, parent)
        return span, metadata

    def _current_context(self) -> TraceContext | None:
        process = self._current.get() or self._processes.get(threading.get_ident())
        return process.context if process is not None else None

    # ------------------------------------------------------------------ spans

    def _child(self, parent: TraceContext | None) -> TraceContext:
        """Return the context of a new span; without a parent, begin a trace and sample it or not."""
        bits = self._random.getrandbits
        span_id = f"{bits(64) or 1:016x}"
        if parent is not None:
            return TraceContext(parent.trace_id, span_id, parent.sampled, parent.state)
        low = bits(64)
        # The rule of OpenTelemetry's sampler, so all nodes decide alike.
        return TraceContext(f"{bits(64) or 1:016x}{low:016x}", span_id, low < self._limit)

    def keep(self, span: Span) -> None:
        """Keep a span that has ended; a batch of them is written."""
        self._done.append(span)
        if len(self._done) >= _BATCH:
            self.write()

    def write(self) -> None:
        """Write all spans that have ended."""
        if self._inherited or not self._done:
            return
        with self._lock:
            done, self._done = self._done, []
            trouble = self._file.append(encode_batch(self._resource, __version__, done))
        if trouble:
            write_log(self._node_id, "warn", f"spans are not written any more: {trouble}")

    def disown(self) -> None:
        """Leave all spans to the parent, in a forked child process."""
        atexit.unregister(self.close)
        leak(self._file)
        self._inherited = True

    def close(self) -> None:
        """End the open spans, as failures if an exception ends the program; write all spans."""
        if self._inherited:
            return
        atexit.unregister(self.close)
        error: BaseException | None = getattr(sys, "last_value", None)  # one that the program did not catch
        for process in list(self._processes.values()):
            if process.span is not None and error is not None and isinstance(error, Exception):
                process.span.status = Status(FAILED, f"{type(error).__name__}: {error}")
            self._end(process)
        self._processes.clear()
        self.write()
        self._file.close()


class TracedInputs(ReceiveInterceptor):
    """Begins and ends *process* spans as the program takes events."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._names: dict[str, tuple[str, list[Attribute]]] = {}  # by input; inputs come while it runs

    def before_poll(self) -> None:
        self._tracer.end_process()

    def after_poll(self, event: Event | None) -> None:
        if event is None:
            self._tracer.write()  # there is time for it
            return
        if event.__class__ is Synced:  # a set belongs to the trace of the message that leads
            event = event.message(event["id"])
        if event.__class__ is Input:
            input_id = event["id"]
            if input_id not in self._names:
                self._names[input_id] = f"process {input_id}", attributes_of({"dora.input": input_id})
            self._tracer.begin_process(event, *self._names[input_id])


class TracedOutput(SendInterceptor):
    """Gives each message of an output a context and a *send* span."""

    def __init__(self, tracer: Tracer, output_id: str) -> None:
        self._tracer = tracer
        self._name = f"send {output_id}"
        self._attributes = attributes_of({"dora.output": output_id})
        self._lent: dict[str, Span] = {}  # id of the span → the span

    def send(self, proceed: Callable[[Any, Metadata], None], data: Any, metadata: Metadata) -> None:
        span, metadata = self._tracer.begin_send(self._name, self._attributes, metadata)
        if span is None:
            proceed(data, metadata)
            return
        try:
            proceed(data, metadata)
        except BaseException as error:
            span.status = Status(FAILED, f"{type(error).__name__}: {error}")
            raise
        finally:
            self._end(span)

    def loan(
        self, proceed: Callable[[bytes, int, Metadata], Lent], schema: bytes, size: int, metadata: Metadata
    ) -> Lent:
        span, metadata = self._tracer.begin_send(self._name, self._attributes, metadata)
        lent = proceed(schema, size, metadata)
        if span is not None:
            self._lent[span.span_id] = span
            while len(self._lent) > _LOANS:  # the oldest were given back unsent
                self._lent.pop(next(iter(self._lent)), None)
        return lent

    def send_loan(
        self,
        proceed: Callable[[Loan, bytes, bytes, int], None],
        loan: Loan,
        schema: bytes,
        section: bytes,
        size: int,
    ) -> None:
        proceed(loan, schema, section, size)
        try:
            context = parse_context(decode_metadata(section).get(KEY))
        except MetadataError:
            return
        span = self._lent.pop(context.span_id, None) if context is not None else None
        if span is not None:
            self._end(span)

    def _end(self, span: Span) -> None:
        span.end_time_unix_nano = str(_now())
        self._tracer.keep(span)


def _link(span: Span, parent: TraceContext | None) -> None:
    if parent is not None:
        span.parent_span_id = parent.span_id
        span.trace_state = parent.state


# ---------------------------------------------------------------------- programs that use OpenTelemetry


def _attach_to_opentelemetry(context: TraceContext) -> None:
    """Make the *process* span the parent of the spans that the program itself makes meanwhile."""
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
