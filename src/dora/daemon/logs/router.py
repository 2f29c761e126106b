"""Routes the lines that nodes print to inputs of other nodes, the log files and the console.

The order for one captured line is: ``send_stdout_as``, parsing, ``min_log_level``, ``dora/logs``
inputs, ``send_logs_as``, log file, console.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from dora.daemon.event_loop import Timer
from dora.daemon.logs.entry import LogEntry, Stream, passes
from dora.daemon.logs.formats import renderer
from dora.daemon.logs.parse import Tracebacks, parse_line
from dora.dataflow.layout import Link
from dora.dataflow.model import Dataflow, LogLevel, LogOptions, LogSource
from dora.wire.excerpt import LINES_KEPT, failure_lines
from dora.wire.node_protocol import TextInput

_NO_OPTIONS = LogOptions()  # of a node that was removed, and whose process still prints
KEPT_LENGTH = 4000  # characters of each line that is kept to explain a failure
HELD_LINES = 1000  # per node, kept for it until it runs; the oldest is dropped for one more
TRACEBACK_AFTER = 0.2  # seconds without a further line, after which a traceback is logged

Deliver = Callable[[str, TextInput], bool | None]
"""Send a frame to a node: True if it was sent, False if it was lost, None if the node has not started."""


class TextRouter:
    """Turns lines into log entries and delivers both.

    ``deliver`` reaches the nodes; ``sink`` takes every entry that is kept (file and console).
    ``sent`` and ``dropped`` count lines per board slot of the receiving input.
    """

    def __init__(
        self,
        dataflow: Dataflow,
        links: tuple[Link, ...],
        dataflow_id: str,
        deliver: Deliver,
        sink: Callable[[LogEntry], None],
        call_later: Callable[[float, Callable[[], None]], Timer] | None = None,
    ) -> None:
        """``call_later`` calls a function after some seconds; without it, a traceback is over with the
        next line or with `end_traceback`."""
        self._call_later = call_later
        self._tracebacks: dict[str, Tracebacks] = {}
        self._timers: dict[str, Timer] = {}  # of the tracebacks that are held
        self._deliver = deliver
        self._sink = sink
        self._json = renderer("json", dataflow_id=dataflow_id)
        self._held: dict[str, deque[tuple[TextInput, list[int]]]] = {}
        self._last: dict[str, tuple[deque[str], deque[str]]] = {}
        self.sent: dict[int, int] = {}
        self.dropped: dict[int, int] = {}
        self.change(dataflow, links)

    def change(self, dataflow: Dataflow, links: tuple[Link, ...]) -> None:
        """Change to another dataflow."""
        self._options = {node.id: node.log for node in dataflow.nodes}
        self._log_inputs = [
            (node.id, item.id, item.source)
            for node in dataflow.nodes
            for item in node.inputs
            if isinstance(item.source, LogSource)
        ]
        # (producer, output) → consumer → [(input id, board slot)]
        self._edges: dict[tuple[str, str], dict[str, list[tuple[str, int]]]] = {}
        for link in links:
            if link.kind == "text":
                edges = self._edges.setdefault((link.producer, link.output), {})
                edges.setdefault(link.consumer, []).append((link.input, link.slot))

    def line(self, node_id: str, stream: Stream, text: str) -> None:
        """Handle one captured line."""
        options = self._options.get(node_id, _NO_OPTIONS)
        if options.send_stdout_as is not None:
            self._publish(node_id, options.send_stdout_as, text + "\n")
        entry = parse_line(node_id, stream, text, time.time_ns())
        lines = self._last.get(node_id)
        if lines is None:
            lines = self._last[node_id] = (deque(maxlen=LINES_KEPT), deque(maxlen=LINES_KEPT))
        lines[stream == "stderr"].append(_excerpt(entry.message))
        if stream == "stderr" and entry.level == "stdout":
            self._raw(node_id, entry.message)
        else:
            self.entry(entry)

    def _raw(self, node_id: str, text: str) -> None:
        """Handle a line of stderr without a level; the lines of a traceback become one entry."""
        tracebacks = self._tracebacks.get(node_id)
        if tracebacks is None:
            tracebacks = self._tracebacks[node_id] = Tracebacks()
        self._errors(node_id, tracebacks.add(text))
        if (timer := self._timers.pop(node_id, None)) is not None:
            timer.cancel()
        if tracebacks.holds and self._call_later is not None:
            self._timers[node_id] = self._call_later(TRACEBACK_AFTER, lambda: self.end_traceback(node_id))

    def end_traceback(self, node_id: str) -> None:
        """Log a traceback that is held, because no more lines of it will come."""
        if (tracebacks := self._tracebacks.get(node_id)) is not None:
            self._errors(node_id, tracebacks.flush())

    def _errors(self, node_id: str, messages: list[tuple[str, bool]]) -> None:
        for text, is_traceback in messages:
            level: LogLevel = "error" if is_traceback else "stdout"
            self.entry(LogEntry(time.time_ns(), level, node_id, text, "stderr"))

    def entry(self, entry: LogEntry) -> None:
        """Handle a log entry of a node or of the daemon."""
        options = self._options.get(entry.node_id or "")
        threshold = options.min_log_level if options is not None else None
        if threshold is not None and not passes(entry.level, threshold):
            return
        if self._log_inputs or (options is not None and options.send_logs_as):
            self._broadcast(entry)
        self._sink(entry)

    def last_lines(self, node_id: str) -> tuple[str, ...]:
        """Return the telling lines of what a node printed: of stderr, or of stdout if that is empty."""
        stdout, stderr = self._last.get(node_id, ((), ()))
        return failure_lines(tuple(stderr or stdout))

    def forget_lines(self, node_id: str) -> None:
        """Forget the lines of a node that starts again."""
        self._last.pop(node_id, None)

    def release(self, node_id: str) -> None:
        """Deliver the frames that were held for a node that runs now."""
        for frame, slots in self._held.pop(node_id, ()):
            self._count(self._deliver(node_id, frame) is True, slots)

    def _broadcast(self, entry: LogEntry) -> None:
        text = self._json(entry)
        wanted: dict[str, list[str]] = {}
        for consumer, input_id, source in self._log_inputs:
            if entry.node_id == consumer or (source.node is not None and source.node != entry.node_id):
                continue
            if passes(entry.level, source.level):
                wanted.setdefault(consumer, []).append(input_id)
        for consumer, inputs in wanted.items():
            self._deliver_or_hold(consumer, TextInput(inputs, text), [])
        if entry.node_id is not None and entry.level != "stdout":
            output = self._options.get(entry.node_id, _NO_OPTIONS).send_logs_as
            if output is not None:
                self._publish(entry.node_id, output, text)

    def _publish(self, node_id: str, output: str, text: str) -> None:
        for consumer, edges in self._edges.get((node_id, output), {}).items():
            frame = TextInput([input_id for input_id, _ in edges], text)
            self._deliver_or_hold(consumer, frame, [slot for _, slot in edges])

    def _deliver_or_hold(self, consumer: str, frame: TextInput, slots: list[int]) -> None:
        taken = self._deliver(consumer, frame)
        if taken is not None:
            self._count(taken, slots)
            return
        held = self._held.setdefault(consumer, deque())
        held.append((frame, slots))
        if len(held) > HELD_LINES:
            self._count(False, held.popleft()[1])

    def _count(self, taken: bool, slots: list[int]) -> None:
        for slot in slots:
            self.sent[slot] = self.sent.get(slot, 0) + 1
            if not taken:
                self.dropped[slot] = self.dropped.get(slot, 0) + 1


def _excerpt(line: str) -> str:
    """Return a line without its middle if it is long: the report of a failure has many lines."""
    if len(line) <= KEPT_LENGTH:
        return line
    half = KEPT_LENGTH // 2
    return f"{line[:half]}… ({len(line) - 2 * half:,} characters left out) …{line[-half:]}"
