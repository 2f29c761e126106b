"""Usage and metrics of running dataflows, and the page ``/metrics`` in the format of Prometheus.

Counters are totals; Prometheus computes rates.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from dora._version import __version__
from dora.cluster.coordinator.fleet import DaemonConnection
from dora.cluster.protocol import DataflowView, GetMetrics, GetUsage, MetricsResult, RunUsage
from dora.wire.metrics import DataflowMetrics

USAGE_TIMEOUT: Final = 0.15  # seconds for the answers; a late machine is shown with its former numbers
FRESH: Final = 1.0  # seconds for which numbers are used again


class UsageCollector:
    """The newest numbers of every machine. For one event loop."""

    def __init__(self) -> None:
        self._found: dict[str, Sequence[RunUsage]] = {}  # by machine
        self._missing: set[str] = set()
        self._complete = asyncio.Event()
        self._asked_at = -FRESH

    async def measure(self, links: Mapping[str, DaemonConnection]) -> None:
        """Ask these machines, unless the numbers are `FRESH`."""
        now = time.monotonic()
        if now - self._asked_at >= FRESH:
            self._asked_at = now
            self._found = {machine: self._found.get(machine, ()) for machine in links}
            self._missing = set(links)
            self._complete.clear()
            for link in links.values():
                link.send(GetUsage())
        if self._missing:
            try:
                await asyncio.wait_for(self._complete.wait(), USAGE_TIMEOUT)
            except TimeoutError:
                pass

    def record(self, machine: str, runs: Sequence[RunUsage]) -> None:
        """Record the answer of a machine."""
        self._found[machine] = runs
        self._missing.discard(machine)
        if not self._missing:
            self._complete.set()

    def totals(self) -> dict[str, tuple[float, int]]:
        """Return percent of one core and bytes of memory of each dataflow, on all its machines."""
        totals: dict[str, tuple[float, int]] = {}
        for runs in self._found.values():
            for run in runs:
                cpu, memory = totals.get(run.dataflow_id, (0.0, 0))
                totals[run.dataflow_id] = round(cpu + run.cpu, 1), memory + run.memory
        return totals


METRICS_TIMEOUT: Final = 2.0  # seconds for the daemons' answers

Send = Callable[[GetMetrics], None]


class MetricsCollector:
    """Asks all daemons for metrics at the same time. For one event loop."""

    def __init__(self) -> None:
        self._number = 0
        self._waiting: dict[int, tuple[set[str], dict[str, list[DataflowMetrics]], asyncio.Event]] = {}

    async def collect(self, machines: Mapping[str, Send]) -> dict[str, list[DataflowMetrics]]:
        """Return the metrics of the daemons that answer within `METRICS_TIMEOUT`."""
        self._number += 1
        number = self._number
        found: dict[str, list[DataflowMetrics]] = {}
        complete = asyncio.Event()
        self._waiting[number] = set(machines), found, complete
        try:
            for send in machines.values():
                send(GetMetrics(number))
            if machines:
                await asyncio.wait_for(complete.wait(), METRICS_TIMEOUT)
        except TimeoutError:
            pass
        finally:
            del self._waiting[number]
        return found

    def record(self, machine: str, answer: MetricsResult) -> None:
        """Record an answer; one that comes too late is ignored."""
        if answer.number in self._waiting:
            missing, found, complete = self._waiting[answer.number]
            found[machine] = answer.dataflows
            missing.discard(machine)
            if not missing:
                complete.set()


class RequestCounter:
    """Counts the requests of the API by method, path and status."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str, int]] = Counter()
        self.seconds: dict[tuple[str, str], float] = {}

    def add(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count a request. ``path`` is that of the route, so that names do not make new series."""
        self.counts[method, path, status] += 1
        self.seconds[method, path] = self.seconds.get((method, path), 0.0) + seconds


CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Labels = Sequence[str]
Values = Iterable[tuple[tuple[str, ...], float]]


def page(
    views: Iterable[DataflowView],
    machines: Mapping[str, bool],
    dataflows: Iterable[DataflowMetrics],
    requests: RequestCounter,
) -> bytes:
    """Return the page. ``machines``: whether the daemons of these have answered."""
    registry = CollectorRegistry()
    registry.register(_Page(list(views), machines, list(dataflows), requests))
    return generate_latest(registry)


class _Page:
    """A collector of the library, for the metrics of one moment."""

    def __init__(
        self,
        views: list[DataflowView],
        machines: Mapping[str, bool],
        dataflows: list[DataflowMetrics],
        requests: RequestCounter,
    ) -> None:
        self._views = views
        self._machines = machines
        self._dataflows = dataflows
        self._requests = requests

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("dora_coordinator", "The coordinator", {"version": __version__})
        statuses = Counter(view.status for view in self._views)
        yield _gauge(
            "dora_dataflows",
            "Dataflows on record, by status",
            ("status",),
            [((status,), statuses[status]) for status in ("starting", "running", "finished", "failed")],
        )
        yield _gauge(
            "dora_daemon_up",
            "Whether the daemon of a machine answers",
            ("machine",),
            [((name,), int(up)) for name, up in self._machines.items()],
        )
        yield from self._nodes()
        yield from self._messages()
        yield _counter(
            "dora_api_requests",
            "Requests to the coordinator",
            ("method", "path", "status"),
            [
                ((method, path, str(status)), n)
                for (method, path, status), n in self._requests.counts.items()
            ],
        )
        yield _counter(
            "dora_api_request_seconds",
            "Time spent on requests, waiting included",
            ("method", "path"),
            self._requests.seconds.items(),
        )

    def _nodes(self) -> Iterator[Metric]:
        nodes = [(metrics.dataflow, node) for metrics in self._dataflows for node in metrics.nodes]
        labels = ("dataflow", "node")
        yield _gauge(
            "dora_node_running",
            "Whether a node runs",
            labels,
            [((name, node.node), int(node.status == "running")) for name, node in nodes],
        )
        yield _counter(
            "dora_node_cpu_seconds",
            "Processor time of a node's processes",
            labels,
            [((name, node.node), node.cpu_seconds) for name, node in nodes],
        )
        yield _gauge(
            "dora_node_memory_bytes",
            "Resident memory of a node's processes",
            labels,
            [((name, node.node), node.memory) for name, node in nodes],
        )
        yield _counter(
            "dora_node_restarts",
            "Restarts of a node",
            labels,
            [((name, node.node), node.restarts) for name, node in nodes],
        )

    def _messages(self) -> Iterator[Metric]:
        outputs = [(metrics.dataflow, output) for metrics in self._dataflows for output in metrics.outputs]
        labels = ("dataflow", "node", "output")
        yield _counter(
            "dora_output_messages",
            "Messages sent on an output",
            labels,
            [((name, item.node, item.output), item.messages) for name, item in outputs],
        )
        yield _counter(
            "dora_output_bytes",
            "Bytes sent on an output, as far as they were copied",
            labels,
            [((name, item.node, item.output), item.bytes) for name, item in outputs],
        )
        links = [(metrics.dataflow, link) for metrics in self._dataflows for link in metrics.links]
        labels = ("dataflow", "source", "input")
        yield _counter(
            "dora_link_received_messages",
            "Messages that an input has taken",
            labels,
            [((name, item.source, item.input), item.received) for name, item in links],
        )
        yield _counter(
            "dora_link_dropped_messages",
            "Messages that a link has lost",
            labels,
            [((name, item.source, item.input), item.dropped) for name, item in links],
        )
        yield _gauge(
            "dora_link_waiting_messages",
            "Messages in the queue of an input",
            labels,
            [((name, item.source, item.input), item.waiting) for name, item in links],
        )


def _gauge(name: str, text: str, labels: Labels, values: Values) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in _merged(values):
        family.add_metric(key, value)
    return family


def _counter(name: str, text: str, labels: Labels, values: Values) -> Metric:
    """Return a counter; its samples have ``_total`` behind the name."""
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in _merged(values):
        family.add_metric(key, value)
    return family


def _merged(values: Values) -> Iterable[tuple[tuple[str, ...], float]]:
    """Return one value for each series: each machine of a dataflow knows only its own partition."""
    merged: dict[tuple[str, ...], float] = {}
    for key, value in values:
        merged[key] = max(value, merged.get(key, value))
    return merged.items()
