"""What looking costs those who are looked at: ``python -m benchmarks.looking``.

A dataflow runs, and the same command looks at it again and again. A window without a look is followed by
one with a look, so that what else goes on in the machine hits both; the cost is the median over such pairs.
Both links are as busy as they can be: one sender without a pause, and a message that goes round and round.
"""

from __future__ import annotations

import argparse
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
from benchmarks.implementations import REPOSITORY, ours
from benchmarks.runner import DATAFLOWS
from benchmarks.statistics import median

MARKERS = ("<!-- looking -->", "<!-- /looking -->")
KIB, MIB = 1 << 10, 1 << 20
SETTLE_S = 1.0  # after a look has begun or ended
PATIENCE_S = 20.0


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

Window = tuple[int, int]  # monotonic nanoseconds


@dataclass(frozen=True)
class Cost:
    """One link under one look. ``alone`` and ``looked`` are medians; ``cost`` is that of the pairs."""

    link: Link
    look: Look
    alone: float
    looked: float
    cost: float

    @property
    def allowed(self) -> bool:
        return self.cost <= self.link.allowed


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table; return 1 if a look costs more than it may, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.looking", description="What looking costs those who are looked at."
    )
    parser.add_argument("--only", metavar="TEXT", help="links and looks with this text in their names")
    parser.add_argument("--repeat", type=int, default=7, metavar="N", help="pairs of windows (default: 7)")
    parser.add_argument(
        "--window", type=float, default=1.5, metavar="SECONDS", help="length of a window (default: 1.5)"
    )
    parser.add_argument("--write-docs", action="store_true", help="publish in docs/performance.md")
    options = parser.parse_args(arguments)
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
        head = f"- command: python -m benchmarks.looking --repeat {options.repeat}\n"
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
            ]
        )
    return report.aligned(["link", "look", "alone", "looked at", "cost", "allowed"], rows)


# --------------------------------------------------------------------------- one link


def _measure(link: Link, looks: Sequence[Look], repeat: int, window_s: float) -> list[Cost]:
    """Run the dataflow of a link once, and look at it in many ways."""
    pairs: dict[Look, list[tuple[Window, Window]]] = {look: [] for look in looks}
    with tempfile.TemporaryDirectory(prefix="dora-looking-") as folder:
        with _running(link, Path(folder)) as rate:
            rates: dict[Window, float] = {}

            def window() -> Window:
                time.sleep(SETTLE_S)
                begun, before = time.monotonic_ns(), rate()
                time.sleep(window_s)
                ended, after = time.monotonic_ns(), rate()
                rates[begun, ended] = (after - before) / (ended - begun) * 1e9
                return begun, ended

            window()  # to warm up
            for _ in range(repeat):
                for look in looks:
                    alone = window()
                    with _looking(look, link, Path(folder)):
                        pairs[look].append((alone, window()))
                    print(f"{link.title}, {look.name}", file=sys.stderr, flush=True)
        if link.is_latency:
            times = array("q")
            times.frombytes(Path(folder, "ping.bin").read_bytes())
            figure = lambda window: _median_us(times, window)  # noqa: E731
        else:
            figure = rates.__getitem__
        return [_cost(link, look, [(figure(a), figure(b)) for a, b in pairs[look]]) for look in looks]


def _cost(link: Link, look: Look, figures: Sequence[tuple[float, float]]) -> Cost:
    if link.is_latency:
        costs = [looked / alone - 1 for alone, looked in figures]
    else:
        costs = [1 - looked / alone for alone, looked in figures]
    return Cost(
        link,
        look,
        median([alone for alone, _ in figures]),
        median([looked for _, looked in figures]),
        median(costs),
    )


def _median_us(times: array[int], window: Window) -> float:
    begun, ended = window
    pairs = zip(times[::2], times[1::2], strict=True)
    return median([took for sent, took in pairs if begun <= sent < ended]) / 1e3


# --------------------------------------------------------------------------- processes


@contextmanager
def _running(link: Link, folder: Path) -> Iterator[Callable[[], int]]:
    """Run the dataflow; yield what tells how many messages were taken from its link so far."""
    from dora.daemon.runs import running
    from dora.inspection.look import inspect
    from dora.transport.board import RECEIVED, WORDS, Board

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
        deadline = time.monotonic() + PATIENCE_S
        inspection = None
        while inspection is None or any(node.status != "running" for node in inspection.nodes):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"error: {link.dataflow} does not run")
            time.sleep(0.1)
            for run in running():
                with run:
                    inspection = inspect(run)
        board = Board.open(inspection.board)
        (slot,) = (item.slot for item in inspection.links if item.producer == link.topic)
        yield lambda: board.words[slot * WORDS + RECEIVED]
        board.close()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_S)


@contextmanager
def _looking(look: Look, link: Link, folder: Path) -> Iterator[None]:
    """Look at the link meanwhile; what is shown goes nowhere, which no terminal is faster than."""
    arguments = [argument.format(topic=link.topic) for argument in look.arguments]
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=REPOSITORY,
        env=_environment(link, folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
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
