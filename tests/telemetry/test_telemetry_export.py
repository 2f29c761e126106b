"""Traces, metrics and logs at a collector that speaks OTLP over HTTP."""

from __future__ import annotations

import io
import json
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from otlp_collector import Collector, attributes
from traced_flow import Flow
from waiting import TIMEOUT

from dora.errors import DoraError
from dora.node.interceptors.spans import Batch, Span, encode_batch
from dora.observe.telemetry import export
from dora.observe.telemetry.settings import (
    DEFAULT_JAEGER,
    SIGNALS,
    TelemetrySettings,
    ratio_from,
    settings_from,
)
from dora.wire.metrics import DataflowMetrics, NodeMetrics

FLOW = """
    nodes:
      - id: camera
        path: camera.py
        inputs: {tick: dora/timer/millis/20}
        outputs: [image]
      - id: eye
        path: eye.py
        inputs: {image: {source: camera/image, queue_policy: backpressure}}
"""
CAMERA = """
    from dora import Node
    node = Node()
    for _ in range(100):
        node.next()
        node.send_output("image", bytes(100))
"""
EYE = """
    import logging
    from dora import Node
    node = Node()
    logging.getLogger("eye.lens").warning("dark")
    print("raw")
    node.log("info", "ready", target="eye", fields={"lens": "2"})
    for event in node:
        pass
"""


@pytest.mark.slow
@pytest.mark.processes
def test_spans_metrics_and_logs_reach_the_collector(flow: Flow, collector: Collector) -> None:
    flow.write(dataflow=FLOW, camera=CAMERA, eye=EYE)
    flow.dora(
        "run",
        "dataflow.yml",
        DORA_OTLP_ENDPOINT=collector.endpoint,
        OTEL_EXPORTER_OTLP_HEADERS="x-key=secret",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment=test",
        OTEL_METRIC_EXPORT_INTERVAL="300",
    )
    assert collector.headers["x-key"] == "secret"

    spans = {span.span_id: (resource, span) for resource, span in collector.spans()}
    seen = [(resource, span) for resource, span in spans.values() if span.name == "process image"]
    assert len(seen) > 20
    resource, span = seen[0]
    assert resource["service.name"] == "eye" and resource["service.namespace"] == "dataflow"
    assert resource["deployment.environment"] == "test"
    assert span.kind == 5 and attributes(span)["dora.input"] == "image"
    sender, sent = spans[span.parent_span_id]
    assert (sender["service.name"], sent.name, sent.kind) == ("camera", "send image", 4)
    assert sent.trace_id == span.trace_id
    assert sent.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano

    logs = {record.body.string_value: (resource, record) for resource, record in collector.logs()}
    resource, record = logs["dark"]
    assert (record.severity_text, record.severity_number) == ("warn", 13)
    assert resource["service.name"] == "eye" and attributes(record)["log.target"] == "eye.lens"
    assert attributes(logs["ready"][1])["lens"] == "2"
    assert logs["raw"][1].severity_text == "stdout"

    metrics = collector.metrics()
    ((labels, received),) = metrics["dora.link.received"]
    assert labels == {"dora.source": "camera/image", "dora.input": "eye/image"} and received > 0
    # The last values are of nodes that may have ended already.
    memory = collector.peaks("dora.node.memory.usage", "dora.node")
    assert set(memory) == {"camera", "eye"} and min(memory.values()) > 1e6


@pytest.mark.slow
@pytest.mark.processes
def test_a_collector_that_is_not_there_does_not_hold_up_the_end(flow: Flow, collector: Collector) -> None:
    collector.close()
    flow.write(dataflow=FLOW, camera=CAMERA, eye=EYE)
    begun = time.monotonic()
    shown = flow.dora("run", "dataflow.yml", DORA_OTLP_ENDPOINT=collector.endpoint)
    assert time.monotonic() - begun < 45  # of which the collector may take three
    assert "telemetry: " in shown and "Traceback" not in shown
    assert shown.count("telemetry: ") < 8


@pytest.mark.parametrize(
    ("environ", "settings"),
    [
        ({}, None),
        ({"DORA_OTLP_ENDPOINT": ""}, None),
        ({"DORA_JAEGER_TRACING": "false"}, None),
        (
            {"DORA_OTLP_ENDPOINT": "http://c:4318/"},
            TelemetrySettings("DORA_OTLP_ENDPOINT", "http://c:4318"),
        ),
        (
            {"DORA_OTLP_ENDPOINT": "http://c:4317"},
            TelemetrySettings("DORA_OTLP_ENDPOINT", "http://c:4317", grpc=True),
        ),
        (
            {"DORA_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            TelemetrySettings("DORA_OTLP_ENDPOINT", "http://c:4317"),
        ),
        (
            {"DORA_OTLP_ENDPOINT": "http://c", "OTEL_LOGS_EXPORTER": "none"},
            TelemetrySettings("DORA_OTLP_ENDPOINT", "http://c", ("traces", "metrics")),
        ),
        ({"DORA_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "true"}, None),
        (
            {"DORA_JAEGER_TRACING": "true"},
            TelemetrySettings("DORA_JAEGER_TRACING", DEFAULT_JAEGER, ("traces",)),
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"},
            TelemetrySettings("OTEL_EXPORTER_OTLP_ENDPOINT", "", SIGNALS),
        ),
        (
            {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://c/v1/logs"},
            TelemetrySettings("OTEL_EXPORTER_OTLP_ENDPOINT", "", ("logs",)),
        ),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "a=b"}, None),
    ],
)
def test_the_environment_selects_the_export(
    environ: dict[str, str], settings: TelemetrySettings | None
) -> None:
    assert settings_from(environ) == settings


def test_an_invalid_endpoint_is_refused() -> None:
    with pytest.raises(DoraError, match="has to be a URL"):
        settings_from({"DORA_OTLP_ENDPOINT": "localhost:4317"})


@pytest.mark.parametrize(
    ("sampler", "argument", "ratio"),
    [
        ("", "", 1.0),
        ("", "0.5", 0.5),
        ("parentbased_traceidratio", "0.1", 0.1),
        ("always_on", "0.1", 1.0),
        ("parentbased_always_off", "", 0.0),
    ],
)
def test_the_ratio(sampler: str, argument: str, ratio: float) -> None:
    assert ratio_from({"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}) == ratio


def test_a_missing_package_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "find_spec", lambda _: None)
    with pytest.raises(DoraError, match=r"pip install 'dora-dataflow\[telemetry\]'"):
        export.missing_package(TelemetrySettings("DORA_OTLP_ENDPOINT", "http://c"))
    text = export.missing_package(TelemetrySettings("OTEL_EXPORTER_OTLP_ENDPOINT", grpc=True))
    assert "proto-grpc" in text and "nothing is exported" in text


# ------------------------------------------------------------------------- one exporter, without a run


class Collected:
    """OpenTelemetry's exporter of spans: it keeps the names of those in each request."""

    def __init__(self) -> None:
        self.requests: list[list[str]] = []
        self.error: Exception | None = None
        self.may_end = threading.Event()
        self.may_end.set()
        self.ended = False

    def export(self, spans: Sequence[Any]) -> None:
        assert not self.ended
        if self.error is not None:
            raise self.error
        self.requests.append([span.name for span in spans])

    def shutdown(self) -> None:
        self.may_end.wait(TIMEOUT)
        self.ended = True


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Collected:
    pytest.importorskip("opentelemetry.sdk")
    collected = Collected()
    monkeypatch.setattr(export, "_make", lambda *_: collected)
    return collected


@pytest.fixture
def told() -> list[str]:
    """What the user was told."""
    return []


@pytest.fixture
def exporter(tmp_path: Path, collected: Collected, told: list[str]) -> Iterator[export.Exporter]:  # noqa: ARG001
    settings = TelemetrySettings("DORA_OTLP_ENDPOINT", "http://c", ("traces",))
    exporter = export.Exporter(settings, "lab", "id", str(tmp_path), {}, told.append)
    yield exporter
    exporter.close()


def spans(*names: str, trace: str = "ab" * 16) -> list[Span]:
    return [Span(trace, f"{number:016x}", name, 5, "1", "2") for number, name in enumerate(names, 1)]


def test_each_span_is_sent_once_in_requests_that_are_not_too_large(
    exporter: export.Exporter, collected: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_BATCH", 2)
    exporter._send([Batch({}, spans("a", "b")), Batch({}, spans("c")), Batch({}, spans("d", "e"))])
    exporter._send([Batch({}, spans("f"))])
    assert collected.requests == [["a", "b"], ["c", "d", "e"], ["f"]]


def test_a_span_of_another_program_is_left_out(exporter: export.Exporter, collected: Collected) -> None:
    strange = spans("strange", trace="no number")
    exporter._send([Batch({}, [*spans("a"), *strange, *spans("b")])])
    assert collected.requests == [["a", "b"]]


def test_trouble_of_a_kind_is_told_once_and_while_the_exporter_lives(
    exporter: export.Exporter, collected: Collected, told: list[str]
) -> None:
    collected.error = ConnectionError("no route")
    for _ in range(3):
        exporter._send([Batch({}, spans("a"))])
        logging.getLogger("opentelemetry.sdk").warning("%d were dropped", 7)
    expected = ["telemetry: spans could not be sent: no route", "telemetry: 7 were dropped"]
    assert told == expected
    exporter.close()
    logging.getLogger("opentelemetry.sdk").warning("of somebody else")
    assert told == expected


def test_the_last_spans_are_sent_before_the_end(
    tmp_path: Path, exporter: export.Exporter, collected: Collected, told: list[str]
) -> None:
    (tmp_path / "spans_eye.jsonl").write_bytes(encode_batch({}, "1", spans("last")))
    exporter.close()
    assert (collected.requests, collected.ended, told) == ([["last"]], True, [])


def test_a_collector_that_takes_too_long_at_the_end_is_given_up_with_a_sentence(
    exporter: export.Exporter, collected: Collected, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_CLOSING_TIME", 0.01)
    collected.may_end.clear()
    exporter.close()
    collected.may_end.set()
    assert told == ["telemetry: the collector did not take everything in time; the rest is dropped"]


def test_the_last_figures_of_a_short_run_are_sent_and_totals_only_grow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.metrics.export")
    from opentelemetry.sdk.resources import Resource

    eye = NodeMetrics("eye", "Running", {"cpu_seconds": 2.0, "memory": 5000})
    running = [DataflowMetrics("id", "lab", [eye])]
    monkeypatch.setattr(export, "collect_all_metrics", lambda _: running)
    out = io.StringIO()
    metrics = export.Metrics(sdk.ConsoleMetricExporter(out), Resource({}), "id")
    metrics.update()
    running.clear()
    metrics.close()
    (resource,) = json.loads(out.getvalue())["resource_metrics"]
    sent = {metric["name"]: metric["data"] for metric in resource["scope_metrics"][0]["metrics"]}
    memory, cpu = sent["dora.node.memory.usage"], sent["dora.node.cpu.time"]
    assert (memory["data_points"][0]["value"], memory["is_monotonic"]) == (5000, False)
    assert (cpu["data_points"][0]["value"], cpu["is_monotonic"]) == (2.0, True)


def test_the_metrics_of_a_long_run_are_read_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.metrics.export")
    from opentelemetry.sdk.resources import Resource

    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    reads: list[float] = []
    monkeypatch.setattr(export, "time", clock)
    monkeypatch.setattr(export.Metrics, "_read", lambda _: reads.append(clock.now))
    metrics = export.Metrics(sdk.ConsoleMetricExporter(io.StringIO()), Resource({}), "id")
    for clock.now in (101.0, 102.0, 109.0, 112.0, 118.0, 119.0, 128.0, 129.0):
        metrics.update()
    assert reads == [101, 102, 109, 119, 129]
    metrics.close()
