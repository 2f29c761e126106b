"""Measure the cost of observers for the links that they observe: ``python -m benchmarks.looking``.

A dataflow runs, and the same command observes it several times. Each window with an observer lies between
two without one, and is compared with their mean; the cost is the median over such rounds. Rented processors
change their speed by themselves. This shows in the two windows without an observer: rounds in which these
differ are measured again, independent of the cost. Both links are under full load: one sender without a
pause, and one message that circulates.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import report
from benchmarks.conditions import conditions, short
from benchmarks.implementations import REPOSITORY, ours
from benchmarks.runner import DATAFLOWS
from benchmarks.statistics import median
from dora.daemon.client import running
from dora.observe.tap_session import inspect
from dora.transport.board import RECEIVED, TAPPED, WORDS, Board
from dora.wire.daemon_protocol import Inspection, LinkView

MARKERS = ("<!-- looking -->", "<!-- /looking -->")
KIB, MIB = 1 << 10, 1 << 20
SETTLE_S = 0.5  # after a look has begun or ended
PATIENCE_S = 30.0
STEADY = 0.05  # by so much at most the windows before and after a look differ in speed
MOST_ROUNDS = 3  # times as many rounds as wanted; then the steadiest of them have to do


@dataclass(frozen=True)
class Look:
    """A Python module that looks at an output, with its arguments; ``{topic}`` is the output's name."""

    name: str
    arguments: tuple[str, ...]


LOOKS = (
    Look("dora topic echo", ("dora", "topic", "echo", "{topic}")),
    Look("dora topic hz", ("dora", "topic", "hz", "{topic}", "--duration", "1h")),
    Look("the dashboard with a preview", ("benchmarks.dashboard_reader", "{topic}")),
)


@dataclass(frozen=True)
class Link:
    """A dataflow whose busiest link is looked at, and which part of its speed may be lost at most."""

    title: str
    dataflow: str
    topic: str
    size: int
    allowed: float
    is_latency: bool


LINKS = (
    Link("throughput, 4 KiB", "throughput.yml", "sender/data", 4 * KIB, 0.1, False),
    Link("throughput, 1 MiB", "throughput.yml", "sender/data", 1 * MIB, 0.1, False),
    Link("round trip, 4 KiB", "round_trip.yml", "ping/ping", 4 * KIB, 0.2, True),
    Link("round trip, 1 MiB", "round_trip.yml", "ping/ping", 1 * MIB, 0.2, True),
)


@dataclass(frozen=True)
class Window:
    """A stretch of time in monotonic nanoseconds, and how many messages were taken a second meanwhile."""

    begun: int
    ended: int
    rate: float


@dataclass(frozen=True)
class Round:
    """A window with a look, and its neighbours without one."""

    before: Window
    looked: Window
    after: Window

    @property
    def unsteadiness(self) -> float:
        """By which part the neighbours differ: without a look, only the machine can be the cause."""
        slower, faster = sorted((self.before.rate, self.after.rate))
        return 1 - slower / faster


@dataclass(frozen=True)
class Cost:
    """One link under one look. ``alone`` and ``looked`` are medians; ``cost`` is that of the rounds."""

    link: Link
    look: Look
    alone: float
    looked: float
    cost: float
    rounds: int  # that are in the figures
    measured: int  # with those that were not steady

    @property
    def allowed(self) -> bool:
        return self.cost <= self.link.allowed


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table; return 1 if a look costs more than it may, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.looking", description="What looking costs those who are looked at."
    )
    parser.add_argument("--only", metavar="TEXT", help="links and looks with this text in their names")
    parser.add_argument("--repeat", type=int, default=7, metavar="N", help="steady rounds (default: 7)")
    parser.add_argument(
        "--window", type=float, default=1.5, metavar="SECONDS", help="length of a window (default: 1.5)"
    )
    parser.add_argument("--write-docs", action="store_true", help="publish in docs/performance.md")
    options = parser.parse_args(arguments)
    started = datetime.datetime.now(datetime.UTC)
    costs: list[Cost] = []
    for link in LINKS:
        looks = [
            look for look in LOOKS if options.only is None or options.only in f"{link.title} {look.name}"
        ]
        if looks:
            costs += _measure(link, looks, options.repeat, options.window)
    if not costs:
        parser.error(f"nothing is called {options.only!r}")
    page = _table(costs)
    print(page)
    if options.write_docs:
        known = conditions("benchmarks.looking", started, options.repeat)
        head = "\n".join([*short(known), ""])
        report.write_between(REPOSITORY / "docs" / "performance.md", MARKERS, f"{head}\n{page}")
    return 0 if all(cost.allowed for cost in costs) else 1


def _table(costs: Sequence[Cost]) -> str:
    rows = []
    for cost in costs:
        unit = "µs" if cost.link.is_latency else "messages/s"
        rows.append(
            [
                cost.link.title,
                cost.look.name,
                f"{report.number(cost.alone)} {unit}",
                f"{report.number(cost.looked)} {unit}",
                f"{cost.cost * 100:+.1f} %",
                f"{cost.link.allowed * 100:.0f} % {'✓' if cost.allowed else '✗'}",
                f"{cost.rounds} of {cost.measured}",
            ]
        )
    return report.aligned(["link", "look", "alone", "looked at", "cost", "allowed", "steady rounds"], rows)


# --------------------------------------------------------------------------- one link


def _measure(link: Link, looks: Sequence[Look], repeat: int, window_s: float) -> list[Cost]:
    """Run the dataflow of a link once, and look at it in many ways."""
    rounds: dict[Look, list[Round]] = {look: [] for look in looks}
    with tempfile.TemporaryDirectory(prefix="dora-looking-") as folder:
        with _running(link, Path(folder)) as observed:

            def window() -> Window:
                time.sleep(SETTLE_S)
                begun, before = time.monotonic_ns(), observed.taken
                time.sleep(window_s)
                ended, after = time.monotonic_ns(), observed.taken
                return Window(begun, ended, (after - before) / (ended - begun) * 1e9)

            window()  # to warm up
            before = window()
            while unfinished := [look for look in looks if not _enough(rounds[look], repeat)]:
                for look in unfinished:
                    with _looking(look, link, Path(folder), observed):
                        looked = window()
                    after = window()
                    rounds[look].append(Round(before, looked, after))
                    print(
                        f"{link.title}, {look.name}: {_told(rounds[look][-1])}", file=sys.stderr, flush=True
                    )
                    before = after
        if link.is_latency:
            times = array("q")
            times.frombytes(Path(folder, "ping.bin").read_bytes())
            figure = lambda window: _median_us(times, window)  # noqa: E731
        else:
            figure = lambda window: window.rate  # noqa: E731
        return [_cost(link, look, rounds[look], repeat, figure) for look in looks]


def _enough(rounds: Sequence[Round], repeat: int) -> bool:
    steady = [item for item in rounds if item.unsteadiness <= STEADY]
    return len(steady) >= repeat or len(rounds) >= repeat * MOST_ROUNDS


def _told(item: Round) -> str:
    rates = (item.before.rate, item.looked.rate, item.after.rate)
    return f"{', '.join(map(report.number, rates))} messages/s"


def _cost(
    link: Link, look: Look, rounds: Sequence[Round], repeat: int, figure: Callable[[Window], float]
) -> Cost:
    kept = sorted(rounds, key=lambda item: item.unsteadiness)[:repeat]
    alone = [(figure(item.before) + figure(item.after)) / 2 for item in kept]
    looked = [figure(item.looked) for item in kept]
    change = [with_look / without - 1 for with_look, without in zip(looked, alone, strict=True)]
    costs = change if link.is_latency else [-part for part in change]
    return Cost(link, look, median(alone), median(looked), median(costs), len(kept), len(rounds))


def _median_us(times: array[int], window: Window) -> float:
    pairs = zip(times[::2], times[1::2], strict=True)
    return median([took for sent, took in pairs if window.begun <= sent < window.ended]) / 1e3


# --------------------------------------------------------------------------- processes


class Observed:
    """The counters of the link that is looked at."""

    def __init__(self, words: memoryview, link: LinkView) -> None:
        self._words = words
        self._received = link.slot * WORDS + RECEIVED
        self._tapped = link.output_slot * WORDS + TAPPED

    @property
    def taken(self) -> int:
        """How many messages its receiver took so far."""
        return self._words[self._received]

    @property
    def looked_at_until(self) -> int:
        """What the last look said: it says it as soon as it sees messages, and again and again."""
        return self._words[self._tapped]


def inspected(process: subprocess.Popen[bytes], dataflow: str) -> Inspection:
    """Return what the only dataflow of ``DORA_RUNTIME_DIR`` consists of, once all its nodes run."""
    deadline = time.monotonic() + PATIENCE_S
    inspection = None
    while inspection is None or any(node.status != "Running" for node in inspection.nodes):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"error: {dataflow} does not run")
        time.sleep(0.1)
        for run in running():
            with run:
                inspection = inspect(run)
    return inspection


@contextmanager
def _running(link: Link, folder: Path) -> Iterator[Observed]:
    """Run the dataflow; yield its counters."""

    root = folder / "run"  # neither this nor the looks shall meet other dataflows
    os.environ["DORA_RUNTIME_DIR"] = str(root)
    shutil.copytree(DATAFLOWS / "looking", folder / "dataflow", dirs_exist_ok=True)
    process = subprocess.Popen(
        [*ours().command, "run", link.dataflow],
        cwd=folder / "dataflow",
        env=_environment(link, folder),
        stdout=subprocess.DEVNULL,
    )
    try:
        inspection = inspected(process, link.dataflow)
        board = Board.open(inspection.board)
        (found,) = (item for item in inspection.links if item.producer == link.topic)
        yield Observed(board.words, found)
        board.close()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_S)


@contextmanager
def _looking(look: Look, link: Link, folder: Path, observed: Observed) -> Iterator[None]:
    """Look at the link meanwhile; what is shown goes nowhere, which no terminal is faster than."""
    before = observed.looked_at_until
    arguments = [argument.format(topic=link.topic) for argument in look.arguments]
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=REPOSITORY,
        env=_environment(link, folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while observed.looked_at_until == before and process.poll() is None:
            if time.monotonic() > deadline:
                raise SystemExit(f"error: `{look.name}` does not look at anything")
            time.sleep(0.02)
        yield
        if process.poll() is not None:
            raise SystemExit(f"error: `{look.name}` ended by itself with status {process.returncode}")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_S)


def _environment(link: Link, folder: Path) -> dict[str, str]:
    return {
        **ours().environment(),
        "BENCHMARK_BYTES": str(link.size),
        "BENCHMARK_RESULTS": str(folder),
    }


if __name__ == "__main__":
    sys.exit(main())
