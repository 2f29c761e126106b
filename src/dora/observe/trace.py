"""Read the spans of a dataflow back, and on while they are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from dora.daemon.logs.reader import RotatedFile, nodes_with_files
from dora.node.interceptors.spans import FAILED, Batch, Span, decode_batches


class SpanReader:
    """The files of spans in one directory, which need not exist yet."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._files: dict[str, RotatedFile] = {}

    def batches(self) -> Iterator[Batch]:
        """Yield what has been written since the last call, node after node."""
        for node in nodes_with_files(self._directory, "spans_"):
            file = self._files.get(node)
            if file is None:
                file = self._files[node] = RotatedFile(f"{self._directory}/spans_{node}")
            for line in file.read():
                yield from decode_batches(line)

    def close(self) -> None:
        for file in self._files.values():
            file.close()


# Traces from spans: which there are, and one of them as a tree. Pure.


class NodeSpan(msgspec.Struct, frozen=True):
    """A span and the node that it happened in."""

    node_id: str
    span: Span

    @property
    def title(self) -> str:
        """The node and the name of the span, for people."""
        return f"{self.node_id}: {self.span.name}"


class Trace(msgspec.Struct, frozen=True):
    """The spans of one message and of all that followed from it; the earliest one first."""

    trace_id: str
    spans: list[NodeSpan]

    @property
    def root(self) -> NodeSpan:
        """The span that began it; of a trace whose beginning is not kept any more, the earliest."""
        return self.spans[0]

    @property
    def start_ns(self) -> int:
        """Start of the root, in nanoseconds since the Unix epoch."""
        return self.spans[0].span.start_ns

    @property
    def duration_ns(self) -> int:
        """Nanoseconds from the start of the root to the last end of a span."""
        return max(item.span.end_ns for item in self.spans) - self.start_ns

    @property
    def failed(self) -> bool:
        """Whether any span has ended with an exception."""
        return any(item.span.status.code == FAILED for item in self.spans)


def traces_of(batches: Iterable[Batch]) -> list[Trace]:
    """Put spans together to traces, the latest one last."""
    found: dict[str, list[NodeSpan]] = {}
    for batch in batches:
        node_id = str(batch.resource.get("service.name", "?"))
        for span in batch.spans:
            found.setdefault(span.trace_id, []).append(NodeSpan(node_id, span))
    traces = []
    for trace_id, spans in found.items():
        spans.sort(key=lambda item: (item.span.start_ns, bool(item.span.parent_span_id)))
        traces.append(Trace(trace_id, spans))
    return sorted(traces, key=lambda trace: (trace.start_ns, trace.trace_id))


class Row(msgspec.Struct, frozen=True):
    """A line of a tree: ``branch`` is what is drawn before the title."""

    branch: str
    item: NodeSpan
    after_ns: int  # since the beginning of the trace


def rows(trace: Trace) -> Iterator[Row]:
    """Yield the spans of a trace as a tree, what follows from a span below it.

    Spans whose parent is not there are roots. So are spans in a circle, which no program makes.
    """
    ids = {item.span.span_id for item in trace.spans}
    children: dict[str, list[NodeSpan]] = {}
    roots = []
    for item in trace.spans:
        parent = item.span.parent_span_id
        if parent in ids and parent != item.span.span_id:
            children.setdefault(parent, []).append(item)
        else:
            roots.append(item)
    # Not recursive: a trace that goes round in a dataflow with a loop can be very deep.
    waiting = [(root, "", "") for root in reversed(roots)]
    while waiting:
        item, branch, indent = waiting.pop()
        yield Row(branch, item, item.span.start_ns - trace.start_ns)
        below = children.pop(item.span.span_id, [])
        for index in range(len(below) - 1, -1, -1):
            last = index == len(below) - 1
            waiting.append(
                (below[index], indent + ("└─ " if last else "├─ "), indent + ("   " if last else "│  "))
            )


def find_trace(traces: list[Trace], prefix: str) -> Trace:
    """Return the only trace whose id begins like this; raises ``ValueError`` with a sentence."""
    wanted = prefix.strip().lower()
    if not wanted:
        raise ValueError("say how the id of the trace begins; `dora trace list` shows the ids")
    fitting = [trace for trace in traces if trace.trace_id.startswith(wanted)]
    if not fitting:
        raise ValueError(f"there is no trace `{prefix}`; `dora trace list` shows those that are kept")
    if len(fitting) > 1:
        some = ", ".join(trace.trace_id for trace in fitting[:3])
        more = f" and {len(fitting) - 3} more" if len(fitting) > 3 else ""
        raise ValueError(f"`{prefix}` fits more than one trace: {some}{more}; give more digits")
    return fitting[0]
