"""Messages followed through real nodes and operators, by their spans."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from traced_flow import Flow

from dora.observe.trace import SpanReader, Trace, rows, traces_of

pytestmark = pytest.mark.processes

FLOW = """
    nodes:
      - id: source
        path: source.py
        outputs: [out, lent]
      - id: relay
        path: relay.py
        inputs: {a: source/out, b: source/lent}
        outputs: [out]
      - id: hands
        operators:
          - {id: left, python: hand.py, inputs: {x: relay/out}, outputs: [out]}
          - {id: right, python: hand.py, inputs: {x: hands/left/out}, outputs: [out]}
      - id: sink
        path: sink.py
        inputs: {y: hands/right/out}
"""
SOURCE = """
    from dora import Node
    with Node() as node:
        for number in range(3):
            node.send_output("out", bytes([number]), {"number": number})
        with node.loan("lent", 100_000) as memory:
            memory[:] = 1
"""
RELAY = """
    from dora import Node
    node = Node()
    for event in node:
        if event["type"] == "INPUT":
            node.send_output("out", event["value"][:1], {"number": 7})
"""
HAND = """
    from dora import DoraStatus
    class Operator:
        def on_event(self, event, send_output):
            if event["type"] == "INPUT":
                send_output("out", event["value"], event["metadata"])
            return DoraStatus.CONTINUE
"""
SINK = """
    from dora import Node
    for event in Node():
        if event["type"] == "INPUT":
            print(event["metadata"].get("open_telemetry_context", "nothing").split(":")[0])
"""
CHAIN = [
    "source: send out",
    "relay: process a",
    "relay: send out",
    "hands: process left/x",
    "hands: send left/out",
    "hands: process right/x",
    "hands: send right/out",
    "sink: process y",
]


def traces(folder: Path) -> list[Trace]:
    (directory,) = filter(Path.is_dir, (folder / "out").iterdir())
    return traces_of(SpanReader(str(directory)).batches())


def titles(trace: Trace) -> list[str]:
    return [row.item.title for row in rows(trace)]


def test_a_message_is_followed_through_nodes_and_operators(flow: Flow) -> None:
    flow.write(dataflow=FLOW, source=SOURCE, relay=RELAY, hand=HAND, sink=SINK)
    shown = flow.dora("run", "dataflow.yml", "--trace")
    assert shown.count("traceparent") == 4
    found = traces(flow.folder)
    lent = [item.replace(" out", " lent").replace(" a", " b") for item in CHAIN[:2]] + CHAIN[2:]
    assert sorted(titles(trace) for trace in found) == sorted([CHAIN, CHAIN, CHAIN, lent])
    for trace in found:
        spans = [row.item.span for row in rows(trace)]
        for before, after in pairwise(spans):
            assert after.parent_span_id == before.span_id
            assert before.start_ns <= after.start_ns
        assert all(span.start_ns <= span.end_ns for span in spans)

    listed = flow.dora("trace", "list", "--local").splitlines()
    assert listed[0].split() == ["TRACE", "ID", "ROOT", "SPAN", "SPANS", "STARTED", "DURATION"]
    assert listed[1].split()[1:5] == ["source:", "send", "out", "8"]
    viewed = flow.dora("trace", "view", listed[1].split()[0][:9])
    assert [
        line.split("ms")[1].strip(" └─").rsplit("  ", 1)[0].strip() for line in viewed.splitlines()
    ] == CHAIN
    one = json.loads(flow.dora("trace", "list", "-f", "json", "-n", "1"))
    assert (one["spans"], one["failed"]) == (8, False)
    spans = [
        json.loads(line) for line in flow.dora("trace", "view", one["trace_id"], "-f", "json").splitlines()
    ]
    assert spans[0]["node"] == "source" and len(spans) == 8


def test_no_tracing_code_runs_when_tracing_is_off(flow: Flow) -> None:
    spy = """
        import sys
        from dora import Node
        for event in Node():
            if event["type"] == "INPUT":
                print("context", "open_telemetry_context" in event["metadata"])
                print("loaded", [m for m in sys.modules if m.startswith(("dora.trac", "dora.node.trac"))])
    """
    one = "nodes: [{id: source, path: source.py, outputs: [out, lent]}, "
    flow.write(
        dataflow=one + "{id: sink, path: sink.py, inputs: {y: source/out}}]", source=SOURCE, sink=spy
    )
    shown = flow.dora("run", "dataflow.yml")
    assert shown.count("context False") == 3 and shown.count("loaded []") == 3
    assert "start it with --trace" in flow.dora("trace", "list", "--local", status=1)


@pytest.mark.slow
def test_ticks_begin_traces_and_failures_are_marked(flow: Flow) -> None:
    clock = """
        from dora import Node
        count = 0
        for event in Node():
            if event["type"] == "INPUT":
                count += 1
                assert count < 3, "enough"
    """
    flow.write(
        dataflow="nodes: [{id: clock, path: clock.py, inputs: {tick: dora/timer/millis/10}}]", clock=clock
    )
    flow.dora("run", "dataflow.yml", status=1, DORA_TRACE="1")
    found = traces(flow.folder)
    assert [titles(trace) for trace in found] == [["clock: process tick"]] * 3
    assert [trace.failed for trace in found] == [False, False, True]
    assert "FAILED" in flow.dora("trace", "list")
    assert "AssertionError: enough" in flow.dora("trace", "view", found[-1].trace_id)


def test_a_failing_operator_marks_its_span(flow: Flow) -> None:
    broken = """
        class Operator:
            def on_event(self, event, send_output):
                raise ValueError("no hands")
    """
    flow.write(
        dataflow="""
            nodes:
              - id: hands
                operators: [{id: a, python: broken.py, inputs: {tick: dora/timer/millis/10}}]
        """,
        broken=broken,
    )
    flow.dora("run", "dataflow.yml", "--trace", status=1)
    (trace,) = traces(flow.folder)
    assert trace.root.span.status.message == "ValueError: no hands"


def test_foreign_trace_contexts_are_continued(flow: Flow) -> None:
    trace_id, span_id = "ab" * 16, "cd" * 8
    source = f"""
        from dora import Node
        key = "open_telemetry_context"
        with Node() as node:
            parent = "traceparent:00-{trace_id}-{span_id}"
            node.send_output("out", b"1", {{key: parent + "-01\\ntracestate:a=b\\n"}})
            node.send_output("out", b"2", {{key: parent + "-00\\n"}})
            node.send_output("out", b"3", {{key: "7632e76"}})
    """
    sink = """
        from dora import Node
        for event in Node():
            if event["type"] == "INPUT":
                print(event["data"], event["metadata"]["open_telemetry_context"].split())
    """
    one = "nodes: [{id: source, path: source.py, outputs: [out]}, "
    flow.write(
        dataflow=one + "{id: sink, path: sink.py, inputs: {y: source/out}}]", source=source, sink=sink
    )
    shown = flow.dora("run", "dataflow.yml", "--trace")
    assert f"b'1' ['traceparent:00-{trace_id}-" in shown and "-01', 'tracestate:a=b']" in shown
    assert f"b'2' ['traceparent:00-{trace_id}-" in shown and "-00']" in shown
    found = {trace.trace_id: trace for trace in traces(flow.folder)}
    continued = found.pop(trace_id)
    assert titles(continued) == ["source: send out", "sink: process y"]  # of the first alone
    assert continued.root.span.parent_span_id == span_id
    (other,) = found.values()  # nobody understands what the third carries
    assert titles(other) == ["sink: process y"]


def test_some_of_the_traces_are_recorded(flow: Flow) -> None:
    flow.write(dataflow=FLOW, source=SOURCE, relay=RELAY, hand=HAND, sink=SINK)
    flow.dora("run", "dataflow.yml", "--trace", OTEL_TRACES_SAMPLER="always_off")
    assert traces(flow.folder) == []
    wrong = flow.dora("run", "dataflow.yml", "--trace", OTEL_TRACES_SAMPLER_ARG="2", status=1)
    assert "from 0 to 1" in wrong


def test_asynchronous_nodes(flow: Flow) -> None:
    relay = """
        import asyncio
        from dora import Node

        async def main() -> None:
            node = Node()
            async for event in node:
                if event["type"] == "INPUT":
                    await asyncio.sleep(0)
                    node.send_output("out", event["value"][:1])

        asyncio.run(main())
    """
    flow.write(dataflow=FLOW, source=SOURCE, relay=relay, hand=HAND, sink=SINK)
    flow.dora("run", "dataflow.yml", "--trace")
    assert [titles(trace) for trace in traces(flow.folder)].count(CHAIN) == 3


def test_a_program_that_uses_opentelemetry_itself(flow: Flow) -> None:
    pytest.importorskip("opentelemetry.sdk")
    relay = """
        from dora import Node
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider

        trace.set_tracer_provider(TracerProvider())
        tracer = trace.get_tracer("mine")
        node = Node()
        for event in node:
            if event["type"] == "INPUT":
                with tracer.start_as_current_span("think") as span:
                    node.send_output("out", event["value"][:1])
                print("mine", f"{span.parent.span_id:016x}", f"{span.get_span_context().span_id:016x}")
    """
    flow.write(dataflow=FLOW, source=SOURCE, relay=relay, hand=HAND, sink=SINK)
    shown = flow.dora("run", "dataflow.yml", "--trace")
    mine = [line.split("mine ")[1].split() for line in shown.splitlines() if "mine " in line]
    spans: dict[str, Any] = {
        item.span.span_id: item for trace in traces(flow.folder) for item in trace.spans
    }
    assert len(mine) == 4
    for parent, own in mine:
        assert spans[parent].title.startswith("relay: process")
        below = [item.title for item in spans.values() if item.span.parent_span_id == own]
        assert below == ["relay: send out"]
