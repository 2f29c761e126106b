"""A collector of OpenTelemetry, as far as a test needs one: it takes OTLP over HTTP and keeps it."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Collector:
    """``endpoint`` is what ``DORA_OTLP_ENDPOINT`` takes. ``headers`` are those of the last request."""

    def __init__(self) -> None:
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        kinds: dict[str, Any] = {
            "/v1/traces": ExportTraceServiceRequest,
            "/v1/metrics": ExportMetricsServiceRequest,
            "/v1/logs": ExportLogsServiceRequest,
        }
        requests: dict[str, list[Any]] = {path: [] for path in kinds}
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    data = gzip.decompress(data)
                collector.headers = dict(self.headers)
                requests[self.path].append(kinds[self.path].FromString(data))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._requests = requests
        self.headers: dict[str, str] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def spans(self) -> Iterator[tuple[dict[str, str], Any]]:
        """Yield each span with the attributes of its resource."""
        for request in self._requests["/v1/traces"]:
            for item in request.resource_spans:
                for scope in item.scope_spans:
                    for span in scope.spans:
                        yield attributes(item.resource), span

    def logs(self) -> Iterator[tuple[dict[str, str], Any]]:
        for request in self._requests["/v1/logs"]:
            for item in request.resource_logs:
                for scope in item.scope_logs:
                    for record in scope.log_records:
                        yield attributes(item.resource), record

    def metrics(self) -> dict[str, list[tuple[dict[str, str], float]]]:
        """Return the latest values by the name of the metric."""
        return dict(self._each_metric())

    def peaks(self, name: str, label: str) -> dict[str, float]:
        """Return the highest values of a metric, by a label."""
        found: dict[str, float] = {}
        for each, values in self._each_metric():
            for labels, value in values if each == name else []:
                found[labels[label]] = max(value, found.get(labels[label], 0.0))
        return found

    def _each_metric(self) -> Iterator[tuple[str, list[tuple[dict[str, str], float]]]]:
        for request in self._requests["/v1/metrics"]:
            for item in request.resource_metrics:
                for scope in item.scope_metrics:
                    for metric in scope.metrics:
                        points = metric.sum.data_points
                        yield (
                            metric.name,
                            [(attributes(each), each.as_double or float(each.as_int)) for each in points],
                        )


def attributes(holder: Any) -> dict[str, str]:
    return {item.key: item.value.string_value or str(item.value.int_value) for item in holder.attributes}
