"""Measure what a set of synchronised inputs costs: ``python -m benchmarks.synchronising``.

Three inputs get a message each millisecond, with timestamps that differ by tenths of a millisecond. The
time to receive the three messages one by one is taken off, so the figures are the cost of matching, reading
of timestamps included. The same messages are given to the algorithm of ROS 2's
``ApproximateTimeSynchronizer``, written in plain Python after its description, and the timestamps to the
function `align_timestamped` of DimOS, in a virtual environment that has it.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import mmap
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.conditions import conditions, short
from benchmarks.implementations import REPOSITORY
from benchmarks.statistics import median
from dora.node.events import Input, Synced
from dora.node.receive.link_input import LinkInput
from dora.node.receive.sync_matcher import Matcher
from dora.node.receive.sync_port import SyncPort, timestamp_ns
from dora.node.send.output import OutputPort
from dora.transport.board import LINE_BYTES, Board
from dora.transport.inprocess import LocalEngine
from dora.wire.input_rules import SyncGroup
from dora.wire.node_config import InputConfig, LinkConfig, OutputConfig

MARKERS = ("<!-- synchronising -->", "<!-- /synchronising -->")
NAMES = ("left", "right", "arm")
PERIOD_US = 1000
OFFSETS_US = (0, 200, -300)
TOLERANCE_US = 450
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
DIMOS = "dimos==0.0.15"
_DIMOS_SCRIPT = """
import json, sys, time
from reactivex.subject import Subject
from dimos.types.timestamped import Timestamped, align_timestamped
sets, period, tolerance, *offsets = json.loads(sys.argv[1])
class Item(Timestamped):
    def __init__(self, ts):
        self.ts = ts
subjects = [Subject() for _ in offsets]
found = []
align_timestamped(*subjects, match_tolerance=tolerance).subscribe(found.append)
times = []
for number in range(sets):
    items = [Item(1e9 + number * period + offset) for offset in offsets]
    before = time.perf_counter_ns()
    for subject, item in zip(subjects, items):
        subject.on_next(item)
    times.append(time.perf_counter_ns() - before)
print(json.dumps([len(found), sorted(times)[len(times) // 2] / 1e3]))
"""


class ApproximateTime:
    """The algorithm of ``ApproximateTimeSynchronizer`` in ROS 2's message_filters, in plain Python.

    A message looks for partners within ``slop`` in the queues of the other inputs. The combination of the
    nearest ones whose times all lie within ``slop`` is a set, and its messages leave the queues.
    """

    def __init__(self, inputs: int, queue_size: int, slop: int) -> None:
        self._queues: list[dict[int, Any]] = [{} for _ in range(inputs)]
        self._size = queue_size
        self._slop = slop

    def add(self, index: int, stamp: int, message: Any) -> list[Any] | None:
        """Add a message; return the set that it completes."""
        queues = self._queues
        queues[index][stamp] = message
        while len(queues[index]) > self._size:
            del queues[index][min(queues[index])]
        candidates = []
        for other, queue in enumerate(queues):
            if other == index:
                continue
            near = [(abs(time_ - stamp), time_) for time_ in queue if abs(time_ - stamp) <= self._slop]
            if not near:
                return None
            candidates.append([time_ for _, time_ in sorted(near)])
        for times in itertools.product(*candidates):
            stamps = [*times[:index], stamp, *times[index:]]
            if max(stamps) - min(stamps) <= self._slop:
                return [queue.pop(time_) for queue, time_ in zip(queues, stamps, strict=True)]
        return None


class Rig:
    """Three inputs of one node, and their senders."""

    def __init__(self) -> None:
        board = Board("", mmap.mmap(-1, 16 * LINE_BYTES))
        engine = LocalEngine()
        self.inputs = [
            InputConfig(
                name,
                "link",
                f"source/{name}",
                queue_size=10,
                service=name,
                slot=index,
                output_slot=4 + index,
            )
            for index, name in enumerate(NAMES)
        ]
        self.ports = [
            LinkInput(item, engine.receiver(item, lambda: None), board, joins_late=False)
            for item in self.inputs
        ]
        self._outputs = []
        for index, name in enumerate(NAMES):
            config = OutputConfig(name, name, 4 + index, [LinkConfig(index, 0, "", f"node/{name}")])
            self._outputs.append(OutputPort(config, engine.sender(config), board, rings=False))
        self._value = np.zeros(8)
        self.words = board.words

    def send(self, number: int) -> None:
        """Send one message on each output."""
        for output, offset in zip(self._outputs, OFFSETS_US, strict=True):
            stamp = START + datetime.timedelta(microseconds=number * PERIOD_US + offset)
            output.send(self._value, {"timestamp": stamp})

    def group(self) -> SyncPort:
        """Return the port that gives sets of the three inputs."""
        config = SyncGroup(NAMES, tolerance_ns=TOLERANCE_US * 1000)
        ports = {port.id: port for port in self.ports}
        return SyncPort(config, ports, self.inputs, self.words, lambda _: None)


def _cost(sets: int, take: Callable[[], int], rig: Rig) -> tuple[int, float]:
    """Return how many sets ``take`` gave, and the median of its times in microseconds."""
    times = []
    found = 0
    for number in range(sets):
        rig.send(number)
        before = time.perf_counter_ns()
        found += take()
        times.append(time.perf_counter_ns() - before)
    return found, sorted(times)[sets // 2] / 1e3


def receiving(sets: int) -> tuple[int, float]:
    """Receive the messages one by one."""
    rig = Rig()

    def take() -> int:
        return sum(port.poll() is not None for port in rig.ports) // 3

    return _cost(sets, take, rig)


def synchronised(sets: int) -> tuple[int, float]:
    """Receive the messages as sets."""
    rig = Rig()
    group = rig.group()

    def take() -> int:
        return isinstance(group.poll(), Synced)

    return _cost(sets, take, rig)


def approximate_time(sets: int) -> tuple[int, float]:
    """Receive the messages one by one, and match them like ``ApproximateTimeSynchronizer``."""
    rig = Rig()
    matcher = ApproximateTime(3, 10, TOLERANCE_US + 100)

    def take() -> int:
        found = 0
        for index, port in enumerate(rig.ports):
            event = port.poll()
            if isinstance(event, Input):
                found += matcher.add(index, timestamp_ns(event) // 1000, event) is not None
        return found

    return _cost(sets, take, rig)


@dataclass
class _Alone:
    """Times alone, without messages."""

    sets: int

    def run(self, add: Callable[[int, int, object], int]) -> tuple[int, float]:
        times = []
        found = 0
        message = object()
        for number in range(self.sets):
            stamps = [1_000_000 + number * PERIOD_US + offset for offset in OFFSETS_US]
            before = time.perf_counter_ns()
            for index, stamp in enumerate(stamps):
                found += add(index, stamp, message)
            times.append(time.perf_counter_ns() - before)
        return found, sorted(times)[self.sets // 2] / 1e3


def matcher_alone(sets: int) -> tuple[int, float]:
    """Match timestamps as `sync` does."""
    matcher: Matcher[object] = Matcher([10, 10, 10], tolerance=TOLERANCE_US)

    def add(index: int, stamp: int, message: object) -> int:
        matcher.add(index, stamp, message, 0)
        return matcher.next(0) is not None

    return _Alone(sets).run(add)


def approximate_time_alone(sets: int) -> tuple[int, float]:
    """Match timestamps like ``ApproximateTimeSynchronizer``."""
    matcher = ApproximateTime(3, 10, TOLERANCE_US + 100)
    return _Alone(sets).run(lambda *message: matcher.add(*message) is not None)


def dimos_alone(sets: int, python: str) -> tuple[int, float]:
    """Match timestamps with `align_timestamped` of DimOS, in another interpreter."""
    given = [sets, PERIOD_US / 1e6, TOLERANCE_US / 1e6, *(offset / 1e6 for offset in OFFSETS_US)]
    done = subprocess.run(
        [python, "-c", _DIMOS_SCRIPT, json.dumps(given)], capture_output=True, text=True, check=True
    )
    count, microseconds = json.loads(done.stdout.splitlines()[-1])
    return count, microseconds


def rows(sets: int, repeat: int, dimos: str | None) -> Iterator[tuple[str, str, str]]:
    """Measure, and yield the rows of the table."""
    base = median([receiving(sets)[1] for _ in range(repeat)])
    for name, measure, off in (
        ("`sync`", synchronised, base),
        ("`ApproximateTimeSynchronizer` in Python", approximate_time, base),
        ("the matcher of `sync` alone", matcher_alone, 0.0),
        ("`ApproximateTimeSynchronizer` in Python, alone", approximate_time_alone, 0.0),
    ):
        yield _row(name, [measure(sets) for _ in range(repeat)], sets, off)
    if dimos is not None:
        found = [dimos_alone(sets, dimos) for _ in range(repeat)]
        yield _row(f"`align_timestamped` of {DIMOS}, alone", found, sets, 0.0)


def _row(name: str, found: Sequence[tuple[int, float]], sets: int, off: float) -> tuple[str, str, str]:
    cost = median([microseconds for _, microseconds in found]) - off
    return name, f"{cost:.1f} µs", f"{min(count for count, _ in found) / sets:.1%}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.synchronising", description="What a set of synchronised inputs costs."
    )
    parser.add_argument("--sets", type=int, default=5000, metavar="N", help="sets of a run (default: 5000)")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="runs of each (default: 5)")
    parser.add_argument("--dimos", metavar="PYTHON", help=f"an interpreter with {DIMOS}")
    parser.add_argument("--write-docs", action="store_true", help="publish in docs/performance.md")
    options = parser.parse_args(arguments)
    started = datetime.datetime.now(datetime.UTC)
    found = list(rows(options.sets, options.repeat, options.dimos))
    page = report.aligned(["matched by", "time for a set", "sets found"], found)
    print(page)
    if options.write_docs:
        known = conditions("benchmarks.synchronising", started, options.repeat)
        head = short(known)
        text = "\n".join([*head, "", page])
        report.write_between(Path(REPOSITORY, "docs", "performance.md"), MARKERS, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
