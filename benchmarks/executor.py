"""Measure how steady commands are while a policy is slow: ``python -m benchmarks.executor``.

A policy takes 5 to 300 ms at random and keeps its core busy meanwhile. Executor and selector send 250
commands a second. A human takes over, gives back, stops and starts at random moments. A stop is swallowed
if executor and selector do not confirm it, or if they send another command before the start. In a second
run, the policy is killed and frozen at random moments.

Meanwhile a bare timer of higher priority runs on each core. Gaps between commands at the moments at which
it was late, too, are pauses of the machine, such as a virtual machine has.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import report
from benchmarks.bare_timer import BareTimers, Pause, outside
from benchmarks.conditions import conditions, short
from benchmarks.implementations import REPOSITORY
from benchmarks.runner import DATAFLOWS, RunFailed
from benchmarks.statistics import percentile

MARKERS = ("<!-- executor -->", "<!-- /executor -->")
PERIOD_MS = 4.0  # of the timers in the dataflows
DEADLINE_MS = 600.0  # of the executor's input for chunks
START_S = 60.0  # for the start of a dataflow, at most
SECONDS_PER_TAKEOVER = 6.0  # at most
SECONDS_PER_KILL = 20.0  # at most
PATIENCE_S = 60.0  # for the end of a dataflow

Command = tuple[int, int, str, list[float]]


@dataclass(frozen=True)
class Stream:
    """How steady a stream of commands was, from the times at which they were sent, in milliseconds."""

    commands: int
    jitter_p99: float  # by how much an interval differs from the period
    jitter_worst: float
    gaps: list[Pause]  # intervals of two periods or more

    @classmethod
    def of(cls, sent: Sequence[tuple[int, str]]) -> Stream:
        """``sent``: when each command was sent, and the reason if it is of the safe state.

        A safe command at a stop does not wait for the next tick, so its intervals are no jitter. Raises
        ValueError without two commands in a row.
        """
        pairs = list(itertools.pairwise(sent))
        gaps = [
            (before, after) for (before, _), (after, _) in pairs if after - before >= 2 * PERIOD_MS * 1e6
        ]
        jitter = [
            abs((after - before) / 1e6 - PERIOD_MS)
            for (before, was_safe), (after, is_safe) in pairs
            if not was_safe and not is_safe
        ]
        return cls(len(sent), percentile(jitter, 99), max(jitter), gaps)


@dataclass(frozen=True)
class Takeovers:
    """What happened in a run with a human. ``stop_ms``: from a stop to the safe command at the arm."""

    takeovers: int
    swallowed: int
    stop_ms: list[float]
    executor: Stream
    selector: Stream
    largest_step: float  # of a number, from a tick to the next, other than into the safe state
    missed_ticks: int
    pauses: int  # of the machine
    worst_pause: float
    gaps_outside: list[str]  # of executor and selector, when the machine had no pause


@dataclass(frozen=True)
class Kills:
    """Milliseconds from each signal to the safe command at the arm; None: none came."""

    killed_ms: list[float | None]
    frozen_ms: list[float | None]


def run(
    name: str, done: str, seconds: float, environment: dict[str, str], *, real_time: bool
) -> tuple[Path, list[str]]:
    """Run a dataflow of `benchmarks/dataflows/executor`; return its folder of results, and its log.

    It is stopped when a node has written the file ``done``. Raises `RunFailed` if it is not there after
    so many seconds.
    """
    folder = Path(tempfile.mkdtemp(prefix="benchmark-executor-"))
    source = DATAFLOWS / "executor"
    dataflow = yaml.safe_load((source / f"{name}.yml").read_text())
    for node in dataflow["nodes"]:
        if not real_time:
            node.pop("scheduler", None)
            node.pop("lock_memory", None)
        for program in source.glob("*.py"):
            (folder / program.name).write_text(program.read_text())
    (folder / "dataflow.yml").write_text(yaml.safe_dump(dataflow, sort_keys=False))
    variables = {**os.environ, **environment, "BENCHMARK_RESULTS": str(folder)}
    with subprocess.Popen(
        [sys.executable, "-m", "dora", "run", "dataflow.yml"],
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        end = time.monotonic() + seconds
        while not (folder / done).exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        log, _ = process.communicate(timeout=PATIENCE_S)
    if not (folder / done).exists():
        raise RunFailed(f"{name} has not come to its end in {seconds:.0f} s: {log}")
    return folder, log.splitlines()


def takeovers(count: int, *, real_time: bool) -> Takeovers:
    """Let a human take over so many times."""
    seconds = START_S + count * SECONDS_PER_TAKEOVER
    variables = {"BENCHMARK_TAKEOVERS": str(count)}
    with BareTimers(real_time=real_time) as timers:
        folder, lines = run("takeovers", "human.json", seconds, variables, real_time=real_time)
    arm = json.loads((folder / "arm.json").read_text())
    human = json.loads((folder / "human.json").read_text())
    commands: list[Command] = [tuple(each) for each in arm["commands"]]  # type: ignore[misc]
    delays = list(stop_delays(arm["stops"], arm["starts"], commands))
    executor = Stream.of([tuple(each) for each in arm["executed"]])
    selector = Stream.of([(sent, reason) for sent, _, reason, _ in commands])
    return Takeovers(
        human["takeovers"],
        human["unconfirmed"] + delays.count(None),
        [delay for delay in delays if delay is not None],
        executor,
        selector,
        max(steps(commands), default=0.0),
        missed_ticks(lines),
        len(timers.pauses),
        timers.worst_ms(),
        [
            f"{name}: {(end - begin) / 1e6:.1f} ms, after {(begin - commands[0][0]) / 1e9:.3f} s"
            for name, stream in (("executor", executor), ("selector", selector))
            for begin, end in outside(stream.gaps, timers.pauses)
        ],
    )


def stop_delays(
    stops: Sequence[int], starts: Sequence[int], commands: Sequence[Command]
) -> Iterator[float | None]:
    """Yield for each stop the milliseconds until the arm had the safe command.

    None if none was sent before the next start, or if another command was sent between them.
    """
    times = [sent for sent, _, _, _ in commands]
    for stop in stops:
        start = next((start for start in starts if start > stop), times[-1])
        during = commands[bisect(times, stop) : bisect(times, start)]
        # The tick before the stop may be answered after it.
        first = next((index for index, each in enumerate(during) if each[2] == "stopped"), None)
        if first is None or not all(each[2] for each in during[first:]):
            yield None
        else:
            yield (during[first][1] - stop) / 1e6


def steps(commands: Sequence[Command]) -> Iterator[float]:
    """Yield how far each command is from the one a tick before, other than into the safe state."""
    for before, after in itertools.pairwise(commands):
        if not after[2] and after[0] - before[0] < 2 * PERIOD_MS * 1e6:
            yield max(abs(a - b) for a, b in zip(before[3], after[3], strict=True))


def missed_ticks(lines: Sequence[str]) -> int:
    """Return how many ticks executor and selector have missed, by their own account."""
    found = [
        line.partition(" ticks missed")[0].rpartition(" ")[2] for line in lines if "ticks missed" in line
    ]
    return sum(map(int, found))


def kills(count: int, *, real_time: bool) -> Kills:
    """Kill the policy so many times, and freeze it every other time."""
    seconds = START_S + count * SECONDS_PER_KILL
    folder, _ = run("kills", "killer.json", seconds, {"BENCHMARK_KILLS": str(count)}, real_time=real_time)
    arm = json.loads((folder / "arm.json").read_text())
    delays: dict[str, list[float | None]] = {"SIGKILL": [], "SIGSTOP": []}
    for sent, name in json.loads((folder / "killer.json").read_text()):
        safe = (at for _, at, reason, _ in arm["commands"] if reason and at >= sent)
        first = next(safe, None)
        delays[name].append(None if first is None else (first - sent) / 1e6)
    return Kills(delays["SIGKILL"], delays["SIGSTOP"])


def rows(found: Takeovers, killed: Kills) -> Iterator[tuple[str, str]]:
    """Yield the rows of the table."""
    for name, stream in (("executor", found.executor), ("selector", found.selector)):
        yield f"{name}: commands", f"{stream.commands}"
        yield f"{name}: jitter, 99 %", f"{stream.jitter_p99:.3f} ms"
        yield f"{name}: jitter, worst", f"{stream.jitter_worst:.3f} ms"
        yield f"{name}: gaps of two periods or more", f"{len(stream.gaps)}"
    yield "pauses of the machine, of 2 ms or more", f"{found.pauses}"
    yield "longest pause of the machine", f"{found.worst_pause:.1f} ms"
    yield "gaps of both outside of these pauses", f"{len(found.gaps_outside)}"
    yield "ticks missed by both", f"{found.missed_ticks}"
    yield "take-overs, each with a stop", f"{found.takeovers}"
    yield "stops swallowed", f"{found.swallowed}"
    if found.stop_ms:
        yield "from a stop to the arm, median", f"{percentile(found.stop_ms, 50):.2f} ms"
        yield "from a stop to the arm, worst", f"{max(found.stop_ms):.2f} ms"
    yield "largest step from a tick to the next, curve and ramps", f"{found.largest_step:.3f}"
    for name, delays in (("killed", killed.killed_ms), ("frozen", killed.frozen_ms)):
        arrived = [delay for delay in delays if delay is not None]
        yield f"policy {name}: times, and safe commands", f"{len(delays)}, {len(arrived)}"
        if arrived:
            yield f"policy {name}: until the safe command, worst", f"{max(arrived):.1f} ms"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table; return 1 if a stop was swallowed or a safe command is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.executor", description="How steady commands are while a policy is slow."
    )
    parser.add_argument(
        "--takeovers", type=int, default=1000, metavar="N", help="of a human [1000: 10 minutes]"
    )
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="of the policy [20]")
    parser.add_argument("--ordinary", action="store_true", help="without real-time scheduling")
    parser.add_argument("--write-docs", action="store_true", help="publish in docs/performance.md")
    options = parser.parse_args(arguments)
    started = datetime.datetime.now(datetime.UTC)
    load = os.getloadavg()[0]
    found = takeovers(options.takeovers, real_time=not options.ordinary)
    killed = kills(options.kills, real_time=not options.ordinary)
    page = report.aligned(["", "measured"], list(rows(found, killed)))
    print(
        f"load before: {load:.1f}, after: {os.getloadavg()[0]:.1f}\n{page}", *found.gaps_outside, sep="\n"
    )
    if options.write_docs:
        known: dict[str, Any] = conditions("benchmarks.executor", started, 1)
        head = short(known)
        text = "\n".join([*head, "", page])
        report.write_between(Path(REPOSITORY, "docs", "performance.md"), MARKERS, text)
    missing = sum(delay is None for delay in (*killed.killed_ms, *killed.frozen_ms))
    return 1 if found.swallowed or missing else 0


if __name__ == "__main__":
    sys.exit(main())
