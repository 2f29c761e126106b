"""Send what is observed of a dataflow to a collector, over OTLP, from the process that runs the dataflow.

Nodes know nothing of it: spans are read from the files that they write, log entries come from the daemon,
numbers are taken from outside. So one process has the connection and the libraries of OpenTelemetry, and a
collector that is slow or away costs nobody but this one. What cannot be sent is dropped, after the attempts
that the exporters make, and said once.
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
from dora.observe.trace.reader import SpanReader
from dora.wire.metrics import DataflowMetrics

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.sdk.trace import ReadableSpan

_LOOK_EVERY: Final = 1.0  # seconds between looks at the files
_AT_ONCE: Final = 512  # spans in one request
_FAREWELL: Final = 3.0  # seconds that sending the rest may take

OnTrouble = Callable[[str], None]


def missing_package(settings: TelemetrySettings) -> str:
    """Return what has to be installed for these settings, "" if nothing.

    Raises `DoraError` with it if a variable of dora's own asks for the export; those of OpenTelemetry may
    be meant for other programs.
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
    text = f"{settings.variable} is set, but what it takes is not installed here: {mend}"
    if settings.variable.startswith("DORA_"):
        raise DoraError(text)
    return f"{text}; nothing is exported"


class Exporter:
    """Sends traces, metrics and logs of one run, each if it is wanted, until `close`."""

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
        """Send a log entry, soon."""
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
        """Send what is left; gives up after three seconds, and says so."""
        self._over.set()
        ending = threading.Thread(target=self._end, name="dora-telemetry-end", daemon=True)
        ending.start()
        ending.join(_FAREWELL)
        if ending.is_alive():
            self._trouble.tell("the collector did not take everything in time; what was left is dropped")
        logging.getLogger("opentelemetry").removeHandler(self._trouble)

    def _end(self) -> None:
        self._thread.join()
        if self._spans is not None:
            self._spans.shutdown()
        if self._logs is not None:
            self._logs.close()
        if self._metrics is not None:
            self._metrics.close()

    def _work(self) -> None:
        while True:
            over = self._over.wait(_LOOK_EVERY)
            if self._metrics is not None:
                self._metrics.look()
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
                    continue  # somebody else has written into the file
            if len(waiting) >= _AT_ONCE:
                self._export(waiting)
                waiting = []
        if waiting:
            self._export(waiting)

    def _export(self, spans: Sequence[ReadableSpan]) -> None:
        try:
            self._spans.export(spans)
        except Exception as error:  # noqa: BLE001 - older exporters raise whatever the network does
            self._trouble.tell_once(type(error).__name__, f"spans could not be sent: {error}")

    def _resource(self, attributes: Mapping[str, str | int]) -> Any:
        """Return a resource, with what the variables of OpenTelemetry add; their name of it wins."""
        from opentelemetry.sdk.resources import Resource

        return Resource.create(
            {key: value for key, value in attributes.items() if not (self._named and key == "service.name")}
        )


def _make(settings: TelemetrySettings, signal: str) -> Any:
    """Return the exporter of OpenTelemetry for a signal."""
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
    """Log entries, as each node's own."""

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
    """What the libraries complain of: the first sentence is told, and those that differ from it."""

    def __init__(self, on_trouble: OnTrouble) -> None:
        super().__init__(logging.WARNING)
        self._on_trouble = on_trouble
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        kind = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
        self.tell_once(kind, record.getMessage())

    def tell_once(self, kind: str, text: str) -> None:
        """Tell of a kind of trouble, unless it was told before."""
        if kind not in self._told:
            self._told.add(kind)
            self.tell(text)

    def tell(self, text: str) -> None:
        self._on_trouble(f"telemetry: {text}")


# Metrics of one run for OpenTelemetry: asked for by its reader, taken from outside.

_FAREWELL_MS: Final = 2000
_YOUNG: Final = 10.0  # seconds of a run in which numbers are taken at every look
_LOOK_EVERY_metrics: Final = 10.0  # seconds between them afterwards

Values = Callable[[DataflowMetrics], Iterable[tuple[float, dict[str, str]]]]


def _outputs(survey: DataflowMetrics) -> Iterator[tuple[float, dict[str, str]]]:
    for item in survey.outputs:
        yield item.messages, {"dora.node": item.node, "dora.output": item.output}


def _output_bytes(survey: DataflowMetrics) -> Iterator[tuple[float, dict[str, str]]]:
    for item in survey.outputs:
        yield item.bytes, {"dora.node": item.node, "dora.output": item.output}


def _nodes(field: str) -> Values:
    return lambda survey: ((getattr(item, field), {"dora.node": item.node}) for item in survey.nodes)


def _links(field: str) -> Values:
    return lambda survey: (
        (getattr(item, field), {"dora.source": item.source, "dora.input": item.input})
        for item in survey.links
    )


# name, how OpenTelemetry observes it, unit, what it is, its values
_METRICS: Final[tuple[tuple[str, str, str, str, Values], ...]] = (
    ("dora.node.cpu.time", "counter", "s", "Processor time of a node's processes", _nodes("cpu_seconds")),
    ("dora.node.memory.usage", "up_down_counter", "By", "Memory of a node's processes", _nodes("memory")),
    ("dora.node.restarts", "counter", "{restart}", "Restarts of a node", _nodes("restarts")),
    ("dora.output.messages", "counter", "{message}", "Messages sent on an output", _outputs),
    ("dora.output.io", "counter", "By", "Bytes sent on an output", _output_bytes),
    ("dora.link.received", "counter", "{message}", "Messages taken by an input", _links("received")),
    ("dora.link.dropped", "counter", "{message}", "Messages that a link lost", _links("dropped")),
    ("dora.link.waiting", "up_down_counter", "{message}", "Messages in a queue", _links("waiting")),
)


class Metrics:
    """The instruments; `close` sends their last values."""

    def __init__(self, exporter: Any, resource: Any, dataflow_id: str) -> None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        self._dataflow_id = dataflow_id
        self._last: DataflowMetrics | None = None
        self._begun = self._looked = time.monotonic()
        self._provider = MeterProvider(
            [PeriodicExportingMetricReader(exporter)], resource=resource, shutdown_on_exit=False
        )
        meter = self._provider.get_meter("dora")
        for name, kind, unit, description, values in _METRICS:
            make = getattr(meter, f"create_observable_{kind}")
            make(
                name,
                callbacks=[self._observe(values, first=values is _METRICS[0][-1])],
                unit=unit,
                description=description,
            )

    def look(self) -> None:
        """Take numbers now and then: when the last ones are sent, there is nobody left to be asked."""
        now = time.monotonic()
        if now - self._begun < _YOUNG or now - self._looked >= _LOOK_EVERY_metrics:
            self._looked = now
            self._survey()

    def _survey(self) -> None:
        for found in collect_all_metrics([self._dataflow_id]):
            self._last = found

    def _observe(
        self, values: Values, *, first: bool
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        from opentelemetry.metrics import Observation

        def observe(options: CallbackOptions) -> Iterator[Observation]:  # noqa: ARG001
            if first:  # the others follow at once, and tell of the same moment
                self._survey()
            if self._last is not None:
                for value, attributes in values(self._last):
                    yield Observation(value, attributes)

        return observe

    def close(self) -> None:
        self._provider.shutdown(_FAREWELL_MS)
