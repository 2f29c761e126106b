"""The spans of one node: when they end, which are kept, and what they follow."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dora.node.events import Input, Tick
from dora.node.interceptors import tracing
from dora.node.interceptors.spans import Span
from dora.node.interceptors.tracing import TracedInputs, TracedOutput, Tracer
from dora.observe.trace import SpanReader
from dora.wire.metadata import encode_metadata
from dora.wire.node_config import NodeConfig, TraceConfig
from dora.wire.trace_context import KEY, TraceContext, parse_context


class Traced:
    """The tracer of a node, and what it has written."""

    def __init__(self, folder: Path) -> None:
        self.config = NodeConfig("id", "arm", "iceoryx2", "", "", "", 0, "")
        self.config.trace = TraceConfig(str(folder), "flow", ratio=0.25)
        self.tracer = Tracer(self.config)
        self.tracer._random = cast("Any", SimpleNamespace(getrandbits=self._next_bits))
        self.bits = 0
        self.inputs = TracedInputs(self.tracer)
        self.output = TracedOutput(self.tracer, "out")
        self._reader = SpanReader(str(folder))

    def _next_bits(self, _: int) -> int:
        self.bits += 1
        return self.bits

    def poll(self, number: int | None = None) -> None:
        """Take a tick, or nothing."""
        self.inputs.before_poll()
        self.inputs.after_poll(None if number is None else Input.make("tick", Tick(number, 0)))

    def send(self) -> TraceContext:
        """Send a message; return its context."""
        sent: list[Any] = []
        self.output.send(lambda _, metadata: sent.append(metadata), b"", None)
        context = parse_context(sent[0][KEY])
        assert context is not None
        return context

    def written(self) -> list[Span]:
        """Return what was written since the last call."""
        return [span for batch in self._reader.batches() for span in batch.spans]

    def names(self) -> list[str]:
        return [span.name for span in self.written()]


@pytest.fixture
def traced(tmp_path: Path) -> Traced:
    return Traced(tmp_path / "out")


def test_spans_are_written_when_nothing_else_is_to_do_when_they_are_many_and_at_the_end(
    traced: Traced,
) -> None:
    traced.poll(1)
    traced.send()
    assert traced.written() == []
    traced.poll()
    assert traced.names() == ["send out", "process tick"]
    for _ in range(tracing._BATCH):
        traced.send()
    assert traced.names() == ["send out"] * tracing._BATCH
    traced.poll(2)
    traced.tracer.close()
    (span,) = traced.written()
    assert span.name == "process tick" and span.end_ns >= span.start_ns
    traced.tracer.close()
    assert traced.written() == []


def test_a_message_follows_the_event_that_is_worked_on_and_none_before_and_after(traced: Traced) -> None:
    before = traced.send()
    traced.poll(1)
    within = traced.send()
    traced.poll()
    after = traced.send()
    traced.tracer.close()
    spans = {span.span_id: span for span in traced.written()}
    assert spans[spans[within.span_id].parent_span_id].name == "process tick"
    assert len({before.trace_id, within.trace_id, after.trace_id}) == 3
    assert spans[before.span_id].parent_span_id == spans[after.span_id].parent_span_id == ""


def test_a_message_follows_the_event_also_where_another_context_took_it(traced: Traced) -> None:
    """As ``asyncio.wait_for`` does."""
    import contextvars

    contextvars.copy_context().run(traced.poll, 1)
    sent = traced.send()
    traced.poll()
    spans = {span.span_id: span for span in traced.written()}
    assert spans[spans[sent.span_id].parent_span_id].name == "process tick"


def test_events_of_two_threads_have_spans_of_their_own(traced: Traced) -> None:
    traced.poll(1)

    def work() -> None:
        traced.poll(2)
        traced.poll()

    other = threading.Thread(target=work)
    other.start()
    other.join()
    assert traced.names() == ["process tick"], "the first one is still worked on"
    traced.poll()
    assert traced.names() == ["process tick"]


def test_a_forked_child_leaves_the_spans_to_its_parent(traced: Traced) -> None:
    traced.send()
    traced.tracer.disown()
    traced.tracer.write()
    traced.tracer.close()
    assert traced.written() == []


@pytest.mark.parametrize(("low", "sampled"), [((1 << 62) - 1, True), (1 << 62, False)])
def test_a_quarter_of_the_traces_is_recorded_by_their_ids(low: int, sampled: bool, traced: Traced) -> None:
    traced.bits = low - 2  # the id of the span comes first
    context = traced.send()
    assert (int(context.trace_id[16:], 16), context.sampled) == (low, sampled)
    traced.tracer.close()
    assert len(traced.written()) == sampled


def test_spans_of_loans_end_when_they_are_sent_and_the_oldest_unsent_ones_are_forgotten(
    traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "_LOANS", 2)
    lent: list[Any] = []
    loan: Any = None

    def lend(*given: Any) -> Any:
        lent.append(given)
        return loan, 0, b""

    for _ in range(3):
        traced.output.loan(lend, b"C", 1, None)
    for _, _, metadata in lent:
        traced.output.send_loan(lambda *_: None, loan, b"C", encode_metadata(metadata), 1)
    traced.tracer.close()
    contexts = [parse_context(metadata[KEY]) for _, _, metadata in lent]
    assert [span.span_id for span in traced.written()] == [
        context.span_id for context in contexts[1:] if context
    ]
    assert traced.output._lent == {}
