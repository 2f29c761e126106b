"""Metrics of a running dataflow: totals only, from which collectors compute rates.

The records travel from the machines to the process that collects. The tables say what OpenTelemetry and
Prometheus call each figure; a counter of links is declared in `dora.wire.counters`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from dora.wire.counters import LINK_COUNTERS
from dora.wire.path_statistics import PathLatency


class NodeMetrics(msgspec.Struct, frozen=True, omit_defaults=True):
    node: str
    status: str
    restarts: int = 0
    cpu_seconds: float = 0.0  # of its live processes
    memory: int = 0  # bytes, resident


class OutputMetrics(msgspec.Struct, frozen=True, omit_defaults=True):
    node: str
    output: str
    messages: int = 0
    bytes: int = 0  # copied to receivers: 0 without receivers


class LinkMetrics(msgspec.Struct, frozen=True, omit_defaults=True):
    source: str  # "node/output"
    input: str  # "node/input"
    figures: dict[str, int] = {}  # of `LINK_METRICS` by name; a missing one is 0


class DataflowMetrics(msgspec.Struct, frozen=True):
    dataflow_id: str
    dataflow: str  # its name
    nodes: list[NodeMetrics] = []
    outputs: list[OutputMetrics] = []
    links: list[LinkMetrics] = []
    paths: list[PathLatency] = []  # since the start


class Metric(NamedTuple):
    """A figure of nodes, outputs or links, for collectors."""

    name: str  # in the record
    title: str
    unit: str  # of UCUM, as OpenTelemetry wants it
    opentelemetry: str  # after "dora.node.", "dora.output." or "dora.link."
    prometheus: str  # after "dora_node_", "dora_output_" or "dora_link_"
    is_total: bool = True  # it only grows


NODE_METRICS: Final = (
    Metric("cpu_seconds", "Processor time of a node's processes", "s", "cpu.time", "cpu_seconds"),
    Metric("memory", "Resident memory of a node's processes", "By", "memory.usage", "memory_bytes", False),
    Metric("restarts", "Restarts of a node", "{restart}", "restarts", "restarts"),
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
