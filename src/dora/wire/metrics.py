"""A running dataflow in numbers, for whoever collects metrics: only totals, from which rates follow."""

from __future__ import annotations

import msgspec


class NodeMetrics(msgspec.Struct, frozen=True, omit_defaults=True):
    node: str
    status: str
    restarts: int = 0
    cpu_seconds: float = 0.0  # of its processes that live
    memory: int = 0  # bytes, resident


class OutputMetrics(msgspec.Struct, frozen=True, omit_defaults=True):
    node: str
    output: str
    messages: int = 0
    bytes: int = 0  # of what was copied: nothing counts where nobody listens


class LinkMetrics(msgspec.Struct, frozen=True, omit_defaults=True):
    source: str  # "node/output"
    input: str  # "node/input"
    received: int = 0
    dropped: int = 0
    waiting: int = 0


class DataflowMetrics(msgspec.Struct, frozen=True):
    dataflow_id: str
    dataflow: str  # its name
    nodes: list[NodeMetrics] = []
    outputs: list[OutputMetrics] = []
    links: list[LinkMetrics] = []
