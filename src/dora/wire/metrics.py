"""Metrics of a running dataflow: totals only, from which collectors compute rates.

The records travel from the machines to the process that collects. `METRIC_KINDS` says what OpenTelemetry
and Prometheus call each figure; a counter of nodes or links is declared in `dora.wire.counters`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from dora.wire.counters import LINK_COUNTERS, NETWORK_FIGURES, NODE_COUNTERS
from dora.wire.path_statistics import PathLatency


class NodeMetrics(msgspec.Struct, frozen=True, omit_defaults=True):
    """A node since the start of its dataflow."""

    node: str
    status: str
    figures: dict[str, float] = {}  # of `NODE_METRICS` by name; a missing one is 0


class OutputMetrics(msgspec.Struct, frozen=True, omit_defaults=True):
    """An output since the start of its dataflow."""

    node: str
    output: str
    figures: dict[str, int] = {}  # of `OUTPUT_METRICS` by name; a missing one is 0


class LinkMetrics(msgspec.Struct, frozen=True, omit_defaults=True):
    """A link since the start of its dataflow."""

    source: str  # "node/output"
    input: str  # "node/input"
    figures: dict[str, int] = {}  # of `LINK_METRICS` by name; a missing one is 0


class NetworkMetrics(msgspec.Struct, frozen=True, omit_defaults=True):
    """The network from one machine to another."""

    source: str  # the machine that sends
    target: str
    figures: dict[str, int] = {}  # of `NETWORK_FIGURES` by name, as on the board; a missing one is 0


class DataflowMetrics(msgspec.Struct, frozen=True):
    """A running dataflow, as one machine knows it."""

    dataflow_id: str
    dataflow: str  # its name
    nodes: list[NodeMetrics] = []
    outputs: list[OutputMetrics] = []
    links: list[LinkMetrics] = []
    paths: list[PathLatency] = []  # since the start
    networks: list[NetworkMetrics] = []  # from this machine


class Metric(NamedTuple):
    """A figure of nodes, outputs, links or networks, for collectors."""

    name: str  # in the record
    title: str
    unit: str  # of UCUM, as OpenTelemetry wants it
    opentelemetry: str  # after "dora.node." and the like, see `MetricKind`
    prometheus: str  # after "dora_node_" and the like; the library adds "_total"
    is_total: bool = True  # it only grows
    scale: float = 1  # the number in the record divided by this is the value in ``unit``

    def value(self, figures: Mapping[str, float]) -> float:
        """Return the value in ``unit`` from the figures of a record."""
        number = figures.get(self.name, 0)
        return number if self.scale == 1 else number / self.scale


NODE_METRICS: Final = (
    Metric("cpu_seconds", "Processor time of a node's live processes", "s", "cpu.time", "cpu_seconds"),
    Metric("memory", "Resident memory of a node's processes", "By", "memory.usage", "memory_bytes", False),
    *(Metric(item.name, item.title, f"{{{item.unit}}}", item.name, item.metric) for item in NODE_COUNTERS),
)
OUTPUT_METRICS: Final = (
    Metric("messages", "Messages sent on an output", "{message}", "messages", "messages"),
    Metric("bytes", "Bytes sent on an output, as far as they were copied", "By", "io", "bytes"),
)
LINK_METRICS: Final = (
    Metric("received", "Messages that an input has taken", "{message}", "received", "received_messages"),
    Metric("dropped", "Messages that a link has lost", "{message}", "dropped", "dropped_messages"),
    *(
        Metric(item.name, item.title, f"{{{item.unit}}}", item.name, item.metric_name)
        for item in LINK_COUNTERS
    ),
    Metric(
        "waiting", "Messages in the queue of an input", "{message}", "waiting", "waiting_messages", False
    ),
)
NETWORK_METRICS: Final = tuple(
    Metric(item.name, item.title, item.unit, item.name, item.metric, item.is_total, item.scale)
    for item in NETWORK_FIGURES
)


class MetricKind(NamedTuple):
    """Nodes, outputs, links or networks: their records, and the metrics of these."""

    name: str  # its metrics begin with "dora.node." or "dora_node_"
    records: Callable[
        [DataflowMetrics], Sequence[NodeMetrics | OutputMetrics | LinkMetrics | NetworkMetrics]
    ]
    attributes: Mapping[str, str]  # field of a record, as Prometheus labels it → attribute of OpenTelemetry
    metrics: Sequence[Metric]


METRIC_KINDS: Final = (
    MetricKind("node", lambda found: found.nodes, {"node": "dora.node"}, NODE_METRICS),
    MetricKind(
        "output",
        lambda found: found.outputs,
        {"node": "dora.node", "output": "dora.output"},
        OUTPUT_METRICS,
    ),
    MetricKind(
        "link", lambda found: found.links, {"source": "dora.source", "input": "dora.input"}, LINK_METRICS
    ),
    MetricKind(
        "network",
        lambda found: found.networks,
        {"source": "dora.machine", "target": "dora.peer"},
        NETWORK_METRICS,
    ),
)
