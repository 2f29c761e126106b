"""Measure the cost of the black box for a dataflow: ``python -m benchmarks.black_box``.

Two runs of the same dataflow take turns: one with a black box, one without; the processes of the other one
are stopped meanwhile (SIGSTOP). Each window with a black box lies between two without, and is compared with
their mean; the cost is the median over such rounds. Rented processors change their speed by themselves.
This shows in the two windows without a black box: the steadiest rounds count.

The links are under full load: one sender without a pause, and one message that circulates. The demo runs at
the rate of its camera, so its processor time is compared. On a machine that does other work,
``--processor-time`` compares the processor time of each message in all cases, which depends less on it.
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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from benchmarks import report
from benchmarks.conditions import conditions, short
from benchmarks.implementations import REPOSITORY, ours
from benchmarks.looking import KIB, MIB, PATIENCE_S, inspected
from benchmarks.runner import DATAFLOWS
from benchmarks.statistics import median
from dora.daemon.guardian import box_of, marked_processes
from dora.transport.board import RECEIVED, WORDS, Board

MARKERS = ("<!-- black box -->", "<!-- /black box -->")
SETTLE_S = 0.2  # after the other run goes on
WARM_UP_S = 3.0
MORE_ROUNDS = 2  # times as many rounds as count


@dataclass(frozen=True)
class Case:
    """A dataflow, and by which part its figure may be worse. ``topic``: the output whose messages count."""

    title: str
    folder: Path
    dataflow: str
    topic: str
    allowed: float
    size: int = 0
    is_processor_time: bool = False


LINKS = DATAFLOWS / "looking"
CASES = (
    Case("round trip, 8 B", LINKS, "round_trip.yml", "ping/ping", 0.02, 8),
    Case("round trip, 1 MiB", LINKS, "round_trip.yml", "ping/ping", 0.02, MIB),
    Case("throughput, 8 B", LINKS, "throughput.yml", "sender/data", 0.02, 8),
    Case("throughput, 4 KiB", LINKS, "throughput.yml", "sender/data", 0.02, 4 * KIB),
    Case("throughput, 1 MiB", LINKS, "throughput.yml", "sender/data", 0.02, MIB),
    Case(
        "processor time of the demo",
        REPOSITORY / "examples" / "object-detection",
        "dataflow.yml",
        "camera/image",
        0.03,
        is_processor_time=True,
    ),
)


@dataclass(frozen=True)
class Round:
    """The figures of a window with a black box, and of its neighbours without one."""

    before: float
    kept: float
    after: float

    @property
    def alone(self) -> float:
        return (self.before + self.after) / 2

    @property
    def unsteadiness(self) -> float:
        smaller, larger = sorted((self.before, self.after))
        return 1 - smaller / larger


@dataclass(frozen=True)
class Cost:
    """The medians of a case, and by which part the black box makes it worse."""

    case: Case
    alone: float
    kept: float
    cost: float
    spread: float  # half of the costs are closer to the median
    memory: int  # bytes

    @property
    def allowed(self) -> bool:
        return self.cost <= self.case.allowed


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table; return 1 if the black box costs more than it may, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.black_box", description="What the black box costs dataflows."
    )
    parser.add_argument("--only", metavar="TEXT", help="cases with this text in their names")
    parser.add_argument("--repeat", type=int, default=15, metavar="N", help="rounds (default: 15)")
    parser.add_argument(
        "--window", type=float, default=1.0, metavar="SECONDS", help="length of a window (default: 1)"
    )
    parser.add_argument(
        "--processor-time", action="store_true", help="compare the processor time of each message"
    )
    parser.add_argument("--write-docs", action="store_true", help="publish in docs/performance.md")
    options = parser.parse_args(arguments)
    started = datetime.datetime.now(datetime.UTC)
    cases = [case for case in CASES if options.only is None or options.only in case.title]
    if options.processor_time:
        cases = [replace(case, is_processor_time=True) for case in cases]
    if not cases:
        parser.error(f"nothing is called {options.only!r}")
    costs = [_measure(case, options.repeat, options.window) for case in cases]
    page = _table(costs)
    print(page)
    if options.write_docs:
        known = conditions("benchmarks.black_box", started, options.repeat)
        head = "\n".join([*short(known), ""])
        report.write_between(REPOSITORY / "docs" / "performance.md", MARKERS, f"{head}\n{page}")
    return 0 if all(cost.allowed for cost in costs) else 1


def _table(costs: Sequence[Cost]) -> str:
    rows = []
    for cost in costs:
        unit = "µs of a processor" if cost.case.is_processor_time else "messages/s"
        rows.append(
            [
                cost.case.title,
                f"{report.number(cost.alone)} {unit}",
                f"{report.number(cost.kept)} {unit}",
                f"{cost.cost * 100:+.1f} % (±{cost.spread * 100:.1f})",
                f"{cost.case.allowed * 100:.0f} % {'✓' if cost.allowed else '✗'}",
                f"{cost.memory / MIB:.1f} MiB",
            ]
        )
    names = ["case", "without", "with", "cost", "allowed", "memory of the black box"]
    return report.aligned(names, rows)


def _measure(case: Case, repeat: int, window_s: float) -> Cost:
    rounds: list[Round] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dora-black-box-")))
        without = stack.enter_context(_running(case, folder / "without", "off"))
        without.pause()
        kept = stack.enter_context(_running(case, folder / "with", "30s"))
        time.sleep(WARM_UP_S)
        kept.pause()
        without.window(WARM_UP_S)
        before = without.window(window_s)
        while len(rounds) < repeat * MORE_ROUNDS:
            with_it = kept.window(window_s)
            after = without.window(window_s)
            rounds.append(Round(before, with_it, after))
            before = after
        memory = kept.memory()
        kept.resume()
        without.resume()
    counted = sorted(rounds, key=lambda item: item.unsteadiness)[:repeat]
    changes = [item.kept / item.alone - 1 for item in counted]
    costs = changes if case.is_processor_time else [-change for change in changes]
    cost = median(costs)
    spread = median([abs(one - cost) for one in costs])
    found = Cost(
        case,
        median([item.alone for item in counted]),
        median([item.kept for item in counted]),
        cost,
        spread,
        memory,
    )
    print(f"{case.title}: {cost * 100:+.1f} %", file=sys.stderr, flush=True)
    return found


class Run:
    """A run of which the processes are stopped while it is not measured."""

    def __init__(self, case: Case, process: subprocess.Popen[bytes], root: str) -> None:
        self._case = case
        self._process = process
        os.environ["DORA_RUNTIME_DIR"] = root
        inspection = inspected(process, case.dataflow)
        self._prefix = inspection.prefix
        self._board = Board.open(inspection.board)
        (self._word, *_) = (
            item.slot * WORDS + RECEIVED for item in inspection.links if item.producer == case.topic
        )
        self._pids = [process.pid, *marked_processes(inspection.dataflow_id)]

    def pause(self) -> None:
        for pid in self._pids:
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in self._pids:
            os.kill(pid, signal.SIGCONT)

    def window(self, seconds: float) -> float:
        """Let it run for so long; return messages a second, or the microseconds of a processor for each."""
        self.resume()
        time.sleep(SETTLE_S)
        begun, taken, spent = time.monotonic(), self._taken(), self._spent()
        time.sleep(seconds)
        ended, taken_then, spent_then = time.monotonic(), self._taken(), self._spent()
        self.pause()
        if self._case.is_processor_time:
            return (spent_then - spent) * 1e3 / max(taken_then - taken, 1)
        return (taken_then - taken) / (ended - begun)

    def _taken(self) -> int:
        return self._board.words[self._word]

    def _spent(self) -> float:
        return sum(_processor_ms(pid) for pid in self._pids)

    def memory(self) -> int:
        """Return how many bytes of shared memory its black box takes."""
        folders = os.walk(box_of(self._prefix))
        files = [os.path.join(parent, name) for parent, _, names in folders for name in names]
        return sum(os.stat(path).st_blocks * 512 for path in files)


def _processor_ms(pid: int) -> float:
    """Return the processor time of a process, in milliseconds; exact, unlike the ticks of proc(5)."""
    try:
        spent = 0.0
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as file:
                spent += int(file.read().split()[0]) / 1e6
        return spent
    except OSError:
        times = psutil.Process(pid).cpu_times()
        return (times.user + times.system) * 1e3


@contextmanager
def _running(case: Case, folder: Path, black_box: str) -> Iterator[Run]:
    root = str(folder / "run")
    shutil.copytree(case.folder, folder / "dataflow")
    environment = {
        **ours().environment(),
        "BENCHMARK_BYTES": str(case.size),
        "BENCHMARK_RESULTS": str(folder),
        "DORA_RUNTIME_DIR": root,
        "FRAMES": "1000000",
        "PLOT": "no",
    }
    process = subprocess.Popen(
        [*ours().command, "run", case.dataflow, "--black-box", black_box],
        cwd=folder / "dataflow",
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield Run(case, process, root)
    finally:
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_S)


if __name__ == "__main__":
    sys.exit(main())
