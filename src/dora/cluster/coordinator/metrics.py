"""Usage and metrics of running dataflows, and the page ``/metrics`` in the format of Prometheus.

Counters are totals; Prometheus computes rates.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final, get_args

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.core import Metric as Family

from dora._version import __version__
from dora.cluster.coordinator.connections import DaemonConnection
from dora.cluster.http_api import DataflowView
from dora.cluster.protocol import Collect, Collectable, Collected, RunStatus, RunUsage
from dora.wire.metrics import METRIC_KINDS, DataflowMetrics, Metric
from dora.wire.node_status import StatusWord

USAGE_FRESH: Final = 1.0  # seconds for which numbers are used again
# Seconds for the answers. A machine that is late with its usage is shown with its former numbers.
TIMEOUTS: Final[dict[Collectable, float]] = {"usage": 0.15, "metrics": 2.0, "templates": 1.0}


class Collector:
    """Asks all machines the same at the same time. For one event loop.

    ``newest`` has the last answer of each machine, which may have come too late for its request.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[set[str], dict[str, Collected], asyncio.Event]] = {}
        self.newest: dict[tuple[Collectable, str], Collected] = {}

    async def collect(
        self, what: Collectable, machines: Mapping[str, DaemonConnection]
    ) -> dict[str, Collected]:
        """Return the answers that come within the timeout, by machine."""
        number = next(self._numbers)
        found: dict[str, Collected] = {}
        complete = asyncio.Event()
        self._waiting[number] = set(machines), found, complete
        try:
            for connection in machines.values():
                connection.send(Collect(number, what))
            if machines:
                await asyncio.wait_for(complete.wait(), TIMEOUTS[what])
        except TimeoutError:
            pass  # those who have answered count
        finally:
            del self._waiting[number]
        return found

    def record(self, machine: str, answer: Collected) -> None:
        """Record an answer."""
        self.newest[answer.what, machine] = answer
        if answer.number in self._waiting:
            missing, found, complete = self._waiting[answer.number]
            found[machine] = answer
            missing.discard(machine)
            if not missing:
                complete.set()


def usage_totals(runs: Iterable[RunUsage]) -> dict[str, tuple[float, int]]:
    """Return percent of one core and bytes of memory of each dataflow, on all its machines."""
    totals: dict[str, tuple[float, int]] = {}
    for run in runs:
        cpu, memory = totals.get(run.dataflow_id, (0.0, 0))
        totals[run.dataflow_id] = round(cpu + run.cpu, 1), memory + run.memory
    return totals


class RequestCounter:
    """Counts the requests of the API by method, path and status."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str, int]] = Counter()
        self.seconds: dict[tuple[str, str], float] = {}

    def add(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count a request. ``path``: of the route, so that names do not make new series."""
        self.counts[method, path, status] += 1
        self.seconds[method, path] = self.seconds.get((method, path), 0.0) + seconds


Labels = tuple[str, ...]
Kind = type[CounterMetricFamily] | type[GaugeMetricFamily]

_TIME: Final = "Time from an output to an input"
_PATH_METRICS: Final = (  # fields of a `PathLatency`, for Prometheus alone
    Metric("messages", "Messages of an input that follow from an output", "{message}", "", "messages"),
    Metric("median_ms", f"{_TIME}, half of the messages", "s", "", "latency_median_seconds", False, 1e3),
    Metric("p99_ms", f"{_TIME}, 99 % of the messages", "s", "", "latency_p99_seconds", False, 1e3),
    Metric("worst_ms", f"{_TIME}, the longest so far", "s", "", "latency_worst_seconds", False, 1e3),
    Metric(
        "missed",
        "Messages of an input that took longer than the budget of their path",
        "{message}",
        "",
        "budget_missed_messages",
    ),
)


def page(
    views: Iterable[DataflowView],
    machines: Mapping[str, bool],
    dataflows: Collection[DataflowMetrics],
    requests: RequestCounter,
) -> bytes:
    """Return the page. ``machines``: whether the daemons of these have answered."""
    statuses = Counter(view.status for view in views)
    registry = CollectorRegistry()
    registry.register(
        _Moment(
            [
                InfoMetricFamily("dora_coordinator", "The coordinator", {"version": __version__}),
                _family(
                    GaugeMetricFamily,
                    "dora_dataflows",
                    "Dataflows on record, by status",
                    ("status",),
                    [((status,), statuses[status]) for status in get_args(RunStatus)],
                ),
                _family(
                    GaugeMetricFamily,
                    "dora_daemon_up",
                    "Whether the daemon of a machine answers",
                    ("machine",),
                    [((name,), int(up)) for name, up in machines.items()],
                ),
                _family(
                    GaugeMetricFamily,
                    "dora_node_running",
                    "Whether a node runs",
                    ("dataflow", "node"),
                    [
                        ((found.dataflow, node.node), int(node.status == StatusWord.RUNNING))
                        for found in dataflows
                        for node in found.nodes
                    ],
                ),
                *_figures(dataflows),
                _family(
                    CounterMetricFamily,
                    "dora_api_requests",
                    "Requests to the coordinator",
                    ("method", "path", "status"),
                    [
                        ((method, path, str(status)), n)
                        for (method, path, status), n in requests.counts.items()
                    ],
                ),
                _family(
                    CounterMetricFamily,
                    "dora_api_request_seconds",
                    "Time spent on requests, waiting included",
                    ("method", "path"),
                    requests.seconds.items(),
                ),
            ]
        )
    )
    return generate_latest(registry)


class _Moment:
    """A collector of the library, with the metrics of one moment."""

    def __init__(self, metrics: list[Family]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Family]:
        return self._metrics


def _figures(dataflows: Collection[DataflowMetrics]) -> Iterator[Family]:
    """Yield the metrics of nodes, outputs, links, networks and paths."""
    for kind in METRIC_KINDS:
        records = [
            ((found.dataflow, *(getattr(record, field) for field in kind.attributes)), record.figures)
            for found in dataflows
            for record in kind.records(found)
        ]
        yield from _families(kind.name, ("dataflow", *kind.attributes), records, kind.metrics)
    paths = [
        ((found.dataflow, path.source, path.sink), msgspec.structs.asdict(path))
        for found in dataflows
        for path in found.paths
    ]
    yield from _families("path", ("dataflow", "source", "input"), paths, _PATH_METRICS)


def _families(
    kind: str,
    labels: Labels,
    records: Collection[tuple[Labels, Mapping[str, float]]],
    metrics: Iterable[Metric],
) -> Iterator[Family]:
    for metric in metrics:
        yield _family(
            CounterMetricFamily if metric.is_total else GaugeMetricFamily,
            f"dora_{kind}_{metric.prometheus}",
            metric.title,
            labels,
            [(key, metric.value(figures)) for key, figures in records],
        )


def _family(
    kind: Kind, name: str, text: str, labels: Labels, values: Iterable[tuple[Labels, float]]
) -> Family:
    """Return one metric. Each machine of a dataflow knows only its own partition: the largest value counts.

    The samples of a counter have ``_total`` behind the name.
    """
    family = kind(name, text, labels=labels)
    merged: dict[Labels, float] = {}
    for key, value in values:
        merged[key] = max(value, merged.get(key, value))
    for key, value in merged.items():
        family.add_metric(key, value)
    return family
