"""Traces, metrics and logs at a collector that speaks OTLP over HTTP."""

from __future__ import annotations

import time

import pytest
from otlp_collector import Collector, attributes
from traced_flow import Flow

from dora.errors import DoraError
from dora.observe.telemetry.settings import (
    DEFAULT_JAEGER,
    SIGNALS,
    TelemetrySettings,
    ratio_from,
    settings_from,
)

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
    from dora.observe.telemetry import export

    monkeypatch.setattr(export, "find_spec", lambda _: None)
    with pytest.raises(DoraError, match=r"pip install 'dora-dataflow\[telemetry\]'"):
        export.missing_package(TelemetrySettings("DORA_OTLP_ENDPOINT", "http://c"))
    text = export.missing_package(TelemetrySettings("OTEL_EXPORTER_OTLP_ENDPOINT", grpc=True))
    assert "proto-grpc" in text and "nothing is exported" in text
