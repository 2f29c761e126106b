"""Measure what the QoS of an input costs: ``python -m benchmarks.input_qos``.

One message after the other is sent and taken, with two keys of metadata, and the rules take turns on links
of their own. No message is late, old or frequent, so all are delivered: the figures are the cost of
watching. Then a sender is stopped by SIGSTOP again and again, and the figure is when the receiver, which
waits for its next event, knows that the deadline has passed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import report
from benchmarks.conditions import conditions, short
from benchmarks.implementations import REPOSITORY
from benchmarks.statistics import median
from dora.node.events import Input
from dora.node.receive.input_port import InputPort
from dora.node.receive.link_input import LinkInput
from dora.node.receive.qos_input import QosInput
from dora.node.send.output import OutputPort
from dora.transport.board import LINE_BYTES, Board
from dora.transport.inprocess import LocalEngine
from dora.wire.node_config import InputConfig, LinkConfig, OutputConfig

MARKERS = ("<!-- input qos -->", "<!-- /input qos -->")
_LONG: Final = 10**12  # nanoseconds; no message is late or old
_ALL: Final = {
    "deadline_ns": _LONG,
    "max_age_ns": _LONG,
    "period_ns": 1,
    "keep": ("stop",),
    "queue_policy": "latest",
    "queue_size": 1,
}
RULES: Final[Mapping[str, Mapping[str, Any]]] = {
    "none": {},
    "`deadline`": {"deadline_ns": _LONG},
    "`max_age`": {"max_age_ns": _LONG},
    "`rate`": {"period_ns": 1},
    "`queue_policy: latest`, `keep`": {"keep": ("stop",), "queue_policy": "latest", "queue_size": 1},
    "all of them": _ALL,
}
_DEADLINE_MS: Final = 20
_SENDER = """
import os, time
from dora import Node
node = Node()
open("pid", "w").write(str(os.getpid()))
while not os.path.exists("done"):
    node.send_output("out", b"x")
    time.sleep(0.005)
"""
_RECEIVER = """
import json, os, random, signal, time
from dora import DeadlineMissed, Input, Node
node, late, missed = Node(), [], 0
while node.next()["type"] != "INPUT":
    pass
pid = int(open("pid").read())
for _ in range(STOPS):
    until = time.monotonic() + random.uniform(0.03, 0.1)
    event = None  # the last one has to be a message: a deadline that is missed already is not missed again
    while time.monotonic() < until or not isinstance(event, Input):
        event = node.next()
        missed += isinstance(event, DeadlineMissed)
    os.kill(pid, signal.SIGSTOP)
    while not isinstance(event := node.next(), DeadlineMissed):
        pass
    late.append(event["late"] * 1000)
    os.kill(pid, signal.SIGCONT)
    while not isinstance(node.next(), Input):
        pass
json.dump([late, missed], open("late", "w"))
open("done", "w").close()
"""


class Rig:
    """One link with some rules."""

    def __init__(self, rules: Mapping[str, Any]) -> None:
        board = Board("", mmap.mmap(-1, 4 * LINE_BYTES))
        engine = LocalEngine()
        item = InputConfig("in", "link", "source/out", service="out", slot=0, output_slot=1, **rules)
        receiver = engine.receiver(item, lambda: None)
        link = LinkInput(item, receiver, board, joins_late=False)
        self.port: InputPort = QosInput(link, item, board) if item.has_qos else link
        links = [LinkConfig(0, 0, "", "node/in", keep=item.keep)]
        config = OutputConfig("out", "out", 1, links)
        self._output = OutputPort(config, engine.sender(config), board, rings=False)
        self._value = np.zeros(8)
        self._metadata = {"width": 3, "height": 1}

    def run(self, messages: int) -> tuple[float, float]:
        """Return the medians of the times to send and to take a message, in microseconds."""
        sending, taking = [], []
        for _ in range(messages):
            begin = time.perf_counter_ns()
            self._output.send(self._value, self._metadata)
            sent = time.perf_counter_ns()
            event = self.port.poll()
            taking.append(time.perf_counter_ns() - sent)
            sending.append(sent - begin)
            assert isinstance(event, Input)
        return median(sending) / 1e3, median(taking) / 1e3


def rows(messages: int, repeat: int) -> Iterator[tuple[str, str, str]]:
    """Measure, and yield the rows of the table."""
    rigs = {name: Rig(rules) for name, rules in RULES.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in RULES}
    for _ in range(repeat):
        for name, rig in rigs.items():
            times[name].append(rig.run(messages))
    base = [median([pair[side] for pair in times["none"]]) for side in (0, 1)]
    for name, found in times.items():
        send, take = (median([pair[side] for pair in found]) for side in (0, 1))
        more = (f"{time_ - before:+.2f} µs" for time_, before in zip((send, take), base, strict=True))
        yield (name, f"{send:.2f} µs", f"{take:.2f} µs") if name == "none" else (name, *more)


def detections(stops: int) -> tuple[list[float], int]:
    """Return after how many milliseconds misses were known, ascending, and how many there were besides."""
    with tempfile.TemporaryDirectory(prefix="dora-bench-") as folder:
        files = {
            "sender.py": _SENDER,
            "receiver.py": _RECEIVER.replace("STOPS", str(stops)),
            "dataflow.yml": f"""
nodes:
  - {{id: sender, path: sender.py, outputs: [out]}}
  - {{id: receiver, path: receiver.py, inputs: {{in: {{source: sender/out, deadline: {_DEADLINE_MS}ms}}}}}}
""",
        }
        for name, text in files.items():
            Path(folder, name).write_text(text)
        command = [sys.executable, "-m", "dora", "run", "dataflow.yml"]
        subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=600)
        late, others = json.loads(Path(folder, "late").read_text())
    return sorted(late), others


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.input_qos", description="What the QoS of an input costs."
    )
    parser.add_argument("--messages", type=int, default=2000, metavar="N", help="of a run (default: 2000)")
    parser.add_argument("--repeat", type=int, default=15, metavar="N", help="runs of each (default: 15)")
    parser.add_argument("--stops", type=int, default=100, metavar="N", help="of a sender (default: 100)")
    parser.add_argument("--write-docs", action="store_true", help="publish in docs/performance.md")
    options = parser.parse_args(arguments)
    started = datetime.datetime.now(datetime.UTC)
    page = report.aligned(["rules", "send", "take"], list(rows(options.messages, options.repeat)))
    late, others = detections(options.stops)
    worst = late[len(late) * 99 // 100 if len(late) > 1 else 0]
    page += (
        f"\n\nOf {len(late)} stops of a sender, each was known {median(late):.2f} ms (median) and "
        f"{worst:.2f} ms (99th percentile) after a deadline of {_DEADLINE_MS} ms; "
        f"besides, {others} deadlines were missed."
    )
    print(page)
    if options.write_docs:
        known = conditions("benchmarks.input_qos", started, options.repeat)
        head = short(known)
        head.append(f"- load: {os.getloadavg()[0]:.1f} processes ready to run, at the end")
        text = "\n".join([*head, "", page])
        report.write_between(Path(REPOSITORY, "docs", "performance.md"), MARKERS, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
