"""Nodes of `benchmarks.scale`, and the operator: ``python scale_node.py source|relay|sink [MESSAGES]``.

A source sends one number with each tick; a relay forwards what it gets; a sink writes down how long each
message was on its way. All stay until they are stopped, so that the benchmark can look at them.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dora import DoraStatus, Node

_TICKS_BEFORE = 5  # unsent, until all receivers have slept once


class Operator:
    def on_event(self, dora_event: dict[str, Any], send_output: Callable[..., None]) -> DoraStatus:
        if dora_event["type"] == "INPUT":
            send_output("out", dora_event["value"], dora_event["metadata"])
        return DoraStatus.CONTINUE


def source(node: Node, messages: int) -> None:
    write(node, "ready", time.monotonic_ns())  # Node() returns when all nodes are ready
    ticks = 0
    for event in node:
        if event["type"] == "INPUT":
            ticks += 1
            if _TICKS_BEFORE < ticks <= _TICKS_BEFORE + messages:
                sequence = ticks - _TICKS_BEFORE
                metadata = {"sent_ns": time.monotonic_ns(), "last": sequence == messages}
                node.send_output("out", np.array([sequence]), metadata)


def relay(node: Node, _: int) -> None:
    for event in node:
        if event["type"] == "INPUT":
            node.send_output("out", event["value"], event["metadata"])


def sink(node: Node, messages: int) -> None:
    """Write down the latencies when the last message of every sender has come, or at the end."""
    latencies_ns: list[int] = []
    missing = messages
    for event in node:
        if event["type"] == "INPUT":
            metadata = event["metadata"]
            latencies_ns.append(time.monotonic_ns() - metadata["sent_ns"])
            missing -= metadata["last"]
            if metadata["last"] and missing == 0:
                write(node, "latencies", latencies_ns)
    write(node, "latencies", latencies_ns)


def write(node: Node, name: str, content: object) -> None:
    path = Path(os.environ["BENCHMARK_RESULTS"], f"{name}-{node.id}")
    path.write_text(json.dumps(content))
    path.rename(path.with_suffix(".json"))  # whole, or not there


if __name__ == "__main__":
    role = {"source": source, "relay": relay, "sink": sink}[sys.argv[1]]
    role(Node(), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
