"""Measure what the bridge to ROS 2 costs beside rclpy alone: ``python -m benchmarks.ros2``.

A publisher of rclpy sends in turn to a subscription of rclpy and to a `ros2` node, behind which a node of
dora receives; so both have the same conditions. It needs an rclpy: ``DORA_ROS2_VENV`` names an environment
that `make ros2` has made, or a ROS 2 is sourced.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.conditions import conditions, short
from benchmarks.implementations import REPOSITORY, Rclpy, ours, rclpy
from benchmarks.measures import KIB, MIB
from benchmarks.runner import NO_FILES, NOT_A_USERS, ROS_DOMAIN, TIMEOUT_S, RunFailed, copied
from benchmarks.statistics import median, percentile

MARKERS = ("<!-- ros2 -->", "<!-- /ros2 -->")
DATAFLOWS = ("ros2/bridge.yml", "ros2/small.yml", "ros2/restarts.yml")
_DIRECT, _BRIDGED = "direct", "bridged"
_SAMPLE_S = 10.0  # the time for which processor time is told


@dataclass(frozen=True)
class Size:
    """Messages of some bytes, and how many of them a second each side gets."""

    size: int
    what: str
    dataflow: str
    publisher: str
    subscription: str
    rate: int
    messages: int
    highest_latency: float | None = None  # goals, as parts of what rclpy has
    highest_cpu: float | None = None


_TEXTS = ("small.yml", "rclpy_talker.py", "rclpy_texts.py")
_IMAGES = ("bridge.yml", "rclpy_camera.py", "rclpy_images.py")
SIZES = (
    Size(0, "short text", *_TEXTS, rate=100, messages=1000, highest_cpu=1.0),
    Size(64 * KIB, "image of 64 KiB", *_IMAGES, rate=50, messages=500, highest_latency=1.3),
    Size(MIB, "image of 1 MiB", *_IMAGES, rate=15, messages=150, highest_latency=1.3),
)
WARM_UP = 50
RESTARTS = 20
LONGEST_S = 2.0  # until an rclpy that was started again is found


@dataclass
class Side:
    """What the receivers of one side have noted in all repetitions, for one size."""

    latencies_us: list[float] = field(default_factory=list)
    medians_us: list[float] = field(default_factory=list)  # of each repetition
    cpu_ms: list[float] = field(default_factory=list)  # in ten seconds, of each repetition
    bridge_ms: list[float] = field(default_factory=list)  # the same, of the `ros2` node alone
    sent: int = 0
    lost: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 if a goal was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ros2", description=__doc__)
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="repetitions [3]")
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages, once: a look")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args(arguments)
    if options.write_docs and options.quick:
        parser.error("--write-docs publishes a whole run: leave out --quick")
    ros = rclpy()
    if ros is None:
        parser.error("there is no rclpy: `make ros2` makes .venv-ros2; then set DORA_ROS2_VENV=.venv-ros2")
    started = datetime.datetime.now(datetime.UTC)
    repeat, factor = (1, 0.1) if options.quick else (options.repeat, 1.0)
    sides = {size: {_DIRECT: Side(), _BRIDGED: Side()} for size in SIZES}
    for _ in range(repeat):
        for size in SIZES:
            measure(ros, size, int(size.messages * factor), sides[size])
            found = [f"{name} {median(side.medians_us):.0f} µs" for name, side in sides[size].items()]
            print(f"{size.what}: {', '.join(found)}", file=sys.stderr, flush=True)
    seconds = restart(ros, 3 if options.quick else RESTARTS)
    known = conditions("benchmarks.ros2", started, repeat, options.quick, ros.version)
    head = short(known, "packages")
    load = f"{os.getloadavg()[0]:.1f} processes ready to run, at the end"
    head += [f"- compared with: {ros.version}, reliable", f"- load: {load}"]
    rows, missed = _rows(sides, seconds)
    header = [
        "measure",
        "rclpy → rclpy",
        "rclpy → `ros2` node → node",
        "ratio",
        "goal",
        "lost: rclpy",
        "lost",
    ]
    page = "\n".join([*head, "", report.aligned(header, rows)])
    print(page)
    if options.write_docs:
        report.write_between(REPOSITORY / "docs" / "performance.md", MARKERS, page)
    return 1 if missed else 0


def measure(ros: Rclpy, size: Size, messages: int, sides: Mapping[str, Side]) -> None:
    """Send messages to both sides, and add what they note. Raises `RunFailed`."""
    values = {
        "BENCHMARK_BYTES": str(size.size),
        "BENCHMARK_WARM_UP": str(WARM_UP),
        "BENCHMARK_MESSAGES": str(messages),
        "BENCHMARK_RATE": str(size.rate),
    }
    with _place(ros, values) as place:
        place.start_dataflow(size.dataflow)
        place.start(size.subscription, _DIRECT)
        publisher = place.start(size.publisher, "publisher")
        place.wait(publisher.poll, "the publisher has ended", lambda done: done is not None)
        for name, side in sides.items():
            found = place.wait(lambda name=name: place.result(name, "received"), f"{name} has ended")
            latencies = [nanoseconds / 1e3 for nanoseconds in found["latencies_ns"]]
            side.latencies_us += latencies
            side.medians_us.append(median(latencies))
            in_sample = _SAMPLE_S * size.rate / messages / 1e6
            side.cpu_ms.append(found["cpu_ns"] * in_sample)
            side.bridge_ms.append(found["bridge_ns"] * in_sample)
            side.sent += messages + WARM_UP
            side.lost += messages + WARM_UP - found["received"]


def restart(ros: Rclpy, count: int) -> list[float]:
    """Kill an rclpy and start it again; return how long each one's first message took to a node, in s."""
    found: list[float] = []
    with _place(ros, {}) as place:
        place.start_dataflow("restarts.yml")
        for number in range(count):
            process = place.start("rclpy_restarted.py", "restarted", str(number))
            name = f"first{number}"
            found.append(place.wait(lambda name=name: place.result(_BRIDGED, name), name) / 1e9)
            process.kill()
            process.wait()
    return found


class _Place:
    """The processes of a run, with a folder of results for each of them."""

    def __init__(self, ros: Rclpy, folder: Path, results: Path, values: Mapping[str, str]) -> None:
        self._ros, self._folder, self._results = ros, folder, results
        kept = {name: value for name, value in os.environ.items() if name not in NOT_A_USERS}
        ros_values = {"ROS_DOMAIN_ID": ROS_DOMAIN, "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        self._values = {**kept, **values, **ros_values}
        self._printed = results.with_name("printed.txt").open("wb")
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, script: str, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a script with rclpy."""
        return self._start([self._ros.python, script, *arguments], name)

    def start_dataflow(self, file: str) -> None:
        """Start a dataflow."""
        self._start([*ours().command, "run", file], _BRIDGED)

    def _start(self, command: Sequence[str], name: str) -> subprocess.Popen[bytes]:
        results = self._results / name
        results.mkdir(exist_ok=True)
        process = subprocess.Popen(
            command,
            cwd=self._folder,
            env={**self._values, "BENCHMARK_RESULTS": str(results)},
            stdin=subprocess.DEVNULL,
            stdout=self._printed,
            stderr=subprocess.STDOUT,
        )
        self._processes.append(process)
        return process

    def result(self, name: str, file: str) -> Any:
        """Return what a process wrote; None if it has not."""
        path = self._results / name / f"{file}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def wait(self, look: Callable[[], Any], what: str, done: Callable[[Any], bool] = bool) -> Any:
        """Look until something is there; raises `RunFailed` after some time."""
        deadline = time.monotonic() + TIMEOUT_S
        while not done(found := look()):
            if time.monotonic() > deadline:
                tail = Path(self._printed.name).read_text(errors="replace").splitlines()[-15:]
                raise RunFailed(
                    "\n".join([f"waited {TIMEOUT_S:.0f} s until {what}; the last lines:", *tail])
                )
            time.sleep(0.01)
        return found

    def end(self) -> None:
        """End what still runs."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._printed.close()


@contextmanager
def _place(ros: Rclpy, values: Mapping[str, str]) -> Iterator[_Place]:
    with copied(NO_FILES) as (copy, results), tempfile.TemporaryDirectory(dir="/tmp") as run:
        place = _Place(ros, copy / "ros2", results, {**values, "DORA_RUNTIME_DIR": run})
        try:
            yield place
        finally:
            place.end()


def _rows(
    sides: Mapping[Size, Mapping[str, Side]], seconds: Sequence[float]
) -> tuple[list[list[str]], bool]:
    """Return the rows of the table, and whether a goal was missed."""
    rows: list[list[str]] = []
    missed = False

    def add(
        title: str, cells: Sequence[str], ratio: float, highest: float | None, lost: Sequence[str]
    ) -> None:
        nonlocal missed
        goal = "" if highest is None else f"at most {highest:g} {'✓' if ratio <= highest else '✗'}"
        missed |= highest is not None and ratio > highest
        rows.append([title, *cells, f"{ratio:.2f}", goal, *lost])

    for size, both in sides.items():
        direct, bridged = both[_DIRECT], both[_BRIDGED]
        what = f"{size.what} at {size.rate} Hz"
        lost = [f"{side.lost:,} of {side.sent:,}" for side in (direct, bridged)]
        cells = [_spread(side.latencies_us) for side in (direct, bridged)]
        # Of the runs one by one: what slows the machine down slows both sides down.
        ratios = [a / b for a, b in zip(bridged.medians_us, direct.medians_us, strict=True)]
        add(f"latency, {what}", cells, median(ratios), size.highest_latency, lost)
        for whose, found, highest in (
            ("the subscription, and of the `ros2` node", bridged.bridge_ms, size.highest_cpu),
            ("the subscription, and of the `ros2` node and the node behind it", bridged.cpu_ms, None),
        ):
            cells = [f"{report.number(median(times))} ms" for times in (direct.cpu_ms, found)]
            ratios = [a / b for a, b in zip(found, direct.cpu_ms, strict=True)]
            add(f"processor time of {whose} in 10 s, {what}", cells, median(ratios), highest, lost)
    longest = max(seconds)
    missed |= longest > LONGEST_S
    outcome = f"at most {LONGEST_S:g} s {'✓' if longest <= LONGEST_S else '✗'}"
    found = f"{median(seconds):.2f} s; longest {longest:.2f}"
    title = f"an rclpy that was killed, from its new publisher to a node ({len(seconds)} times)"
    rows.append([title, "", found, "", outcome, "", ""])
    return rows, missed


def _spread(latencies_us: Sequence[float]) -> str:
    middle, tail = median(latencies_us), percentile(latencies_us, 99)
    return f"{report.number(middle)} µs; p99 {report.number(tail)}"


if __name__ == "__main__":
    sys.exit(main())
