"""Metrics of a running dataflow: totals only, from which collectors compute rates."""

from __future__ import annotations

import msgspec

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
    received: int = 0
    dropped: int = 0
    waiting: int = 0
    expired: int = 0
    thinned: int = 0
    missed: int = 0  # deadlines
    unmatched: int = 0  # in no set of a `sync` group
    safe_states: int = 0


class DataflowMetrics(msgspec.Struct, frozen=True):
    dataflow_id: str
    dataflow: str  # its name
    nodes: list[NodeMetrics] = []
    outputs: list[OutputMetrics] = []
    links: list[LinkMetrics] = []
    paths: list[PathLatency] = []  # since the start
