"""Export traces, metrics and logs of a dataflow over OTLP, from the process that runs the dataflow.

Nodes are not involved: spans come from the files that they write, log entries from the daemon, and metrics
are read from outside. So one process has the connection and the libraries of OpenTelemetry, and a slow or
absent collector delays only this process. Data that cannot be sent is dropped after the exporters' own
attempts, with one log entry.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from dora._version import __version__
from dora.daemon.logs.entry import LogEntry
from dora.errors import DoraError
from dora.node.interceptors.spans import FAILED, Batch, Span, plain
from dora.observe.metrics import collect_all_metrics
from dora.observe.telemetry.settings import TelemetrySettings
from dora.observe.trace import SpanReader
from dora.wire.metrics import METRIC_KINDS, DataflowMetrics, Metric, MetricKind

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.sdk.trace import ReadableSpan

_READ_EVERY: Final = 1.0  # seconds between two reads of the files
_BATCH: Final = 512  # spans in one request
_CLOSING_TIME: Final = 3.0  # seconds that sending the rest may take: the end of the run waits for it

OnTrouble = Callable[[str], None]


def missing_package(settings: TelemetrySettings) -> str:
    """Return what has to be installed for these settings, "" if nothing.

    Raises `DoraError` with that text if one of dora's own variables asks for the export.
    Variables of OpenTelemetry may be meant for other programs.
    """
    protocol = "grpc" if settings.grpc else "http"
    try:
        found = find_spec(f"opentelemetry.exporter.otlp.proto.{protocol}") and find_spec(
            "opentelemetry.sdk"
        )
    except ModuleNotFoundError:
        found = None
    if found:
        return ""
    if settings.grpc:
        mend = (
            "pip install opentelemetry-exporter-otlp-proto-grpc, or name the HTTP port of the collector, "
            "which is usually 4318"
        )
    else:
        mend = "pip install 'dora-dataflow[telemetry]'"
    text = f"{settings.variable} is set, but the packages it needs are not installed: {mend}"
    if settings.variable.startswith("DORA_"):
        raise DoraError(text)
    return f"{text}; nothing is exported"


class Exporter:
    """Sends the traces, metrics and logs of one run that the settings ask for, until `close`."""

    def __init__(
        self,
        settings: TelemetrySettings,
        dataflow: str,
        dataflow_id: str,
        directory: str,
        environ: Mapping[str, str],
        on_trouble: OnTrouble,
    ) -> None:
        """``directory``: where nodes write their spans. ``on_trouble`` may be called by any thread."""
        self._dataflow = dataflow
        self._dataflow_id = dataflow_id
        self._named = bool(environ.get("OTEL_SERVICE_NAME"))
        self._reader = SpanReader(directory)
        self._over = threading.Event()
        self._trouble = _Trouble(on_trouble)
        logging.getLogger("opentelemetry").addHandler(self._trouble)
        self._spans: Any = _make(settings, "traces") if "traces" in settings.signals else None
        self._logs = _Logs(_make(settings, "logs"), self._resource) if "logs" in settings.signals else None
        self._metrics: Metrics | None = None
        if "metrics" in settings.signals:
            resource = self._resource({"service.name": dataflow, "service.instance.id": dataflow_id})
            self._metrics = Metrics(_make(settings, "metrics"), resource, dataflow_id)
        self._thread = threading.Thread(target=self._work, name="dora-telemetry", daemon=True)
        self._thread.start()

    def log(self, entry: LogEntry) -> None:
        """Queue a log entry."""
        if self._logs is not None:
            node = entry.node_id or "dora"
            self._logs.send(
                entry,
                node,
                {
                    "service.name": node,
                    "service.namespace": self._dataflow,
                    "service.instance.id": f"{self._dataflow_id}/{node}",
                    "dora.dataflow.id": self._dataflow_id,
                },
            )

    def close(self) -> None:
        """Send the rest; give up after three seconds, with a log entry."""
        self._over.set()
        closing = threading.Thread(target=self._end, name="dora-telemetry-end", daemon=True)
        closing.start()
        closing.join(_CLOSING_TIME)
        if closing.is_alive():
            self._trouble.report("the collector did not take everything in time; the rest is dropped")
        logging.getLogger("opentelemetry").removeHandler(self._trouble)

    def _end(self) -> None:
        self._thread.join()  # first: it reads the last spans, and the nodes have ended
        if self._spans is not None:
            self._spans.shutdown()
        if self._logs is not None:
            self._logs.close()
        if self._metrics is not None:
            self._metrics.close()

    def _work(self) -> None:
        while True:
            over = self._over.wait(_READ_EVERY)
            if self._metrics is not None:
                self._metrics.update()
            if self._spans is not None:
                self._send(self._reader.batches())
            if over:
                return

    def _send(self, batches: Iterable[Batch]) -> None:
        waiting: list[ReadableSpan] = []
        for batch in batches:
            resource = self._resource(batch.resource)
            for span in batch.spans:
                try:
                    waiting.append(_readable(span, resource))
                except ValueError:
                    continue  # another program has written to the file
            if len(waiting) >= _BATCH:
                self._export(waiting)
                waiting = []
        if waiting:
            self._export(waiting)

    def _export(self, spans: Sequence[ReadableSpan]) -> None:
        try:
            self._spans.export(spans)
        except Exception as error:  # noqa: BLE001 - older exporters raise whatever the network does
            self._trouble.report_once(type(error).__name__, f"spans could not be sent: {error}")

    def _resource(self, attributes: Mapping[str, str | int]) -> Any:
        """Return a resource with the additions of OpenTelemetry's variables; their service name wins."""
        from opentelemetry.sdk.resources import Resource

        return Resource.create(
            {key: value for key, value in attributes.items() if not (self._named and key == "service.name")}
        )


def _make(settings: TelemetrySettings, signal: str) -> Any:
    """Return OpenTelemetry's exporter for a signal."""
    from importlib import import_module

    module, name = {
        "traces": ("trace_exporter", "OTLPSpanExporter"),
        "metrics": ("metric_exporter", "OTLPMetricExporter"),
        "logs": ("_log_exporter", "OTLPLogExporter"),
    }[signal]
    protocol = "grpc" if settings.grpc else "http"
    make = getattr(import_module(f"opentelemetry.exporter.otlp.proto.{protocol}.{module}"), name)
    if not settings.endpoint:
        return make()
    if settings.grpc:
        return make(endpoint=settings.endpoint, insecure=settings.endpoint.startswith("http:"))
    return make(endpoint=f"{settings.endpoint}/v1/{signal}")


def _readable(span: Span, resource: Any) -> ReadableSpan:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

    def context(span_id: str, *, remote: bool) -> SpanContext:
        return SpanContext(
            int(span.trace_id, 16),
            int(span_id, 16),
            is_remote=remote,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
            trace_state=TraceState.from_header([span.trace_state]) if span.trace_state else None,
        )

    return ReadableSpan(
        span.name,
        context(span.span_id, remote=False),
        parent=context(span.parent_span_id, remote=True) if span.parent_span_id else None,
        resource=resource,
        attributes=plain(span.attributes),
        kind=SpanKind(span.kind - 1),  # OTLP counts from one
        instrumentation_scope=InstrumentationScope("dora", __version__),
        status=Status(StatusCode.ERROR, span.status.message) if span.status.code == FAILED else Status(),
        start_time=span.start_ns,
        end_time=span.end_ns,
    )


class _Logs:
    """Sends log entries, with one resource for each node."""

    def __init__(self, exporter: Any, make_resource: Callable[[Mapping[str, str | int]], Any]) -> None:
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

        self._processor = BatchLogRecordProcessor(exporter)
        self._make_resource = make_resource
        self._loggers: dict[str, Any] = {}

    def send(self, entry: LogEntry, node: str, resource: Mapping[str, str | int]) -> None:
        from opentelemetry._logs import SeverityNumber

        logger = self._loggers.get(node)
        if logger is None:
            from opentelemetry.sdk._logs import LoggerProvider

            provider = LoggerProvider(self._make_resource(resource), shutdown_on_exit=False)
            provider.add_log_record_processor(self._processor)
            logger = self._loggers[node] = provider.get_logger("dora", __version__)
        severity = {
            "error": SeverityNumber.ERROR,
            "warn": SeverityNumber.WARN,
            "debug": SeverityNumber.DEBUG,
            "trace": SeverityNumber.TRACE,
        }.get(entry.level, SeverityNumber.INFO)
        place = {
            "dora.node": entry.node_id,
            "log.target": entry.target,
            "code.file.path": entry.file,
            "code.line.number": entry.line,
        }
        attributes: dict[str, Any] = {**entry.fields, "log.iostream": entry.stream}
        attributes |= {key: value for key, value in place.items() if value is not None}
        logger.emit(
            timestamp=entry.timestamp_ns,
            observed_timestamp=time.time_ns(),
            severity_number=severity,
            severity_text=entry.level,
            body=entry.message,
            attributes=attributes,
        )

    def close(self) -> None:
        self._processor.shutdown()  # type: ignore[no-untyped-call]  # a gap in its stubs


class _Trouble(logging.Handler):
    """Reports the warnings of the libraries, each kind once."""

    def __init__(self, on_trouble: OnTrouble) -> None:
        super().__init__(logging.WARNING)
        self._on_trouble = on_trouble
        self._reported: set[str] = set()  # without a lock: at worst, a kind is reported twice

    def emit(self, record: logging.LogRecord) -> None:
        kind = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
        self.report_once(kind, record.getMessage())

    def report_once(self, kind: str, text: str) -> None:
        """Report a kind of trouble, unless it was reported before."""
        if kind not in self._reported:
            self._reported.add(kind)
            self.report(text)

    def report(self, text: str) -> None:
        self._on_trouble(f"telemetry: {text}")


# Metrics of one run for OpenTelemetry: its reader asks for them.

_CLOSING_TIME_MS: Final = 2000  # less than `_CLOSING_TIME`, in which the spans and log entries go, too
_YOUNG: Final = 10.0  # seconds of a run in which metrics are read each time: it may end soon
_METRICS_EVERY: Final = 10.0  # seconds between two reads afterwards

Values = Callable[[DataflowMetrics], Iterable[tuple[float, dict[str, str]]]]


def _values(kind: MetricKind, metric: Metric) -> Values:
    return lambda found: (
        (
            metric.value(record.figures),
            {name: getattr(record, field) for field, name in kind.attributes.items()},
        )
        for record in kind.records(found)
    )


_INSTRUMENTS: Final = [
    (f"dora.{kind.name}.{metric.opentelemetry}", metric, _values(kind, metric))
    for kind in METRIC_KINDS
    for metric in kind.metrics
]


class Metrics:
    """The instruments; `close` sends their last values."""

    def __init__(self, exporter: Any, resource: Any, dataflow_id: str) -> None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        self._dataflow_id = dataflow_id
        self._last: DataflowMetrics | None = None  # replaced as a whole, by our thread and the reader's
        self._begun = self._updated = time.monotonic()
        self._provider = MeterProvider(
            [PeriodicExportingMetricReader(exporter)], resource=resource, shutdown_on_exit=False
        )
        meter = self._provider.get_meter("dora")
        for number, (name, metric, values) in enumerate(_INSTRUMENTS):
            make = (
                meter.create_observable_counter
                if metric.is_total
                else meter.create_observable_up_down_counter
            )
            make(
                name,
                callbacks=[self._observe(values, first=number == 0)],
                unit=metric.unit,
                description=metric.title,
            )

    def update(self) -> None:
        """Read the metrics now and then: at the last export, the dataflow can no longer be asked."""
        now = time.monotonic()
        if now - self._begun < _YOUNG or now - self._updated >= _METRICS_EVERY:
            self._updated = now
            self._read()

    def _read(self) -> None:
        for found in collect_all_metrics([self._dataflow_id]):
            self._last = found

    def _observe(
        self, values: Values, *, first: bool
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        from opentelemetry.metrics import Observation

        def observe(options: CallbackOptions) -> Iterator[Observation]:  # noqa: ARG001
            if first:  # the other instruments follow at once, and share the moment
                self._read()
            if self._last is not None:
                for value, attributes in values(self._last):
                    yield Observation(value, attributes)

        return observe

    def close(self) -> None:
        """Export the last figures and stop; returns after `_CLOSING_TIME_MS` at the latest."""
        self._provider.shutdown(_CLOSING_TIME_MS)
