"""Measure dataflows of many nodes on one machine: ``python -m benchmarks.scale``.

Each shape of dataflow runs at several sizes, so that the table shows how its costs grow. All processes are
real; they are measured from outside, while messages have ended and the nodes wait. ``scale_node.py`` is the
program of the nodes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks import report
from benchmarks.conditions import conditions, short
from benchmarks.implementations import REPOSITORY, ours
from benchmarks.statistics import median

MARKERS = ("<!-- scale -->", "<!-- /scale -->")
PROGRAM = Path(__file__).with_name("scale_node.py")
MESSAGES = 20  # of each sender
PATIENCE_S = 600.0  # for a start, or a stop
LAST_MESSAGE_S = 20.0


@dataclass(frozen=True)
class Shape:
    """A kind of dataflow: ``nodes`` makes one of a size, ``hops`` counts the links of a message."""

    title: str
    sizes: tuple[int, ...]
    nodes: Callable[[int], list[dict[str, Any]]]
    hops: Callable[[int], int]
    senders: Callable[[int], int] = lambda _: 1
    receivers: Callable[[int], int] = lambda _: 1


def _node(name: str, role: str, inputs: dict[str, str], messages: int = 0) -> dict[str, Any]:
    outputs = {} if role == "sink" else {"outputs": ["out"]}
    return {"id": name, "path": str(PROGRAM), "args": f"{role} {messages}", "inputs": inputs, **outputs}


def _source(name: str, milliseconds: int) -> dict[str, Any]:
    return _node(name, "source", {"tick": f"dora/timer/millis/{milliseconds}"}, MESSAGES)


def chain(size: int) -> list[dict[str, Any]]:
    """Return a source, relays and a sink in a row."""
    relays = [_node(f"n{number}", "relay", {"in": f"n{number - 1}/out"}) for number in range(1, size - 1)]
    return [_source("n0", 200), *relays, _node("sink", "sink", {"in": f"n{size - 2}/out"}, 1)]


def one_to_many(size: int) -> list[dict[str, Any]]:
    """Return a source whose output goes to so many sinks."""
    sinks = [_node(f"sink{number}", "sink", {"in": "source/out"}, 1) for number in range(size)]
    return [_source("source", 200), *sinks]


def many_to_one(size: int) -> list[dict[str, Any]]:
    """Return so many sources that send to one sink."""
    sources = [_source(f"n{number}", 500) for number in range(size)]
    inputs = {f"from_{source['id']}": f"{source['id']}/out" for source in sources}
    return [*sources, _node("sink", "sink", inputs, size)]


def operators(size: int) -> list[dict[str, Any]]:
    """Return so many operators in a row, in one process, between a source and a sink."""
    row = [
        {
            "id": f"n{number}",
            "python": str(PROGRAM),
            "inputs": {"in": f"runtime/n{number - 1}/out" if number else "source/out"},
            "outputs": ["out"],
        }
        for number in range(size)
    ]
    end = _node("sink", "sink", {"in": f"runtime/n{size - 1}/out"}, 1)
    return [_source("source", 200), {"id": "runtime", "operators": row}, end]


SHAPES = {
    "chain": Shape("nodes in a chain", (10, 30, 100, 300), chain, lambda size: size - 1),
    "one-to-many": Shape(
        "receivers of one output", (10, 30, 100), one_to_many, lambda _: 1, receivers=lambda size: size
    ),
    "many-to-one": Shape(
        "senders to one node", (10, 30, 100), many_to_one, lambda _: 1, senders=lambda size: size
    ),
    "operators": Shape("operators of one process", (10, 50), operators, lambda size: size + 1),
}
FILES = (250, 500, 1000, 2000)  # nodes of a file that is only read


@dataclass(frozen=True)
class Figures:
    """What one run used. Seconds, bytes, numbers of files."""

    ready_s: float
    cpu_s: float  # of all processes, until all nodes were ready
    daemon_cpu_s: float  # of the daemon
    memory: int  # of all processes
    daemon_memory: int
    node_memory: float
    daemon_files: int
    most_node_files: int
    shared_memory: int
    latency_s: float
    sent: int
    dropped: int
    stop_s: float


def measure(shape: Shape, size: int) -> Figures:
    """Run a dataflow of a size once; raises SystemExit if it does not run as it should."""
    with _folder() as folder:
        results = folder / "results"
        results.mkdir()
        nodes = shape.nodes(size)
        (folder / "dataflow.yml").write_text(json.dumps({"nodes": nodes}))  # JSON is YAML
        printed = folder / "printed.txt"
        begun = time.monotonic()
        with printed.open("wb") as output:
            daemon = psutil.Popen(
                [*ours().command, "run", "dataflow.yml"],
                cwd=folder,
                env={
                    **ours().environment(),
                    "BENCHMARK_RESULTS": str(results),
                    "DORA_RUNTIME_DIR": str(folder / "run"),
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            senders, receivers = shape.senders(size), shape.receivers(size)
            if not _wait(lambda: _count(results, "ready") == senders, daemon, printed, PATIENCE_S):
                raise SystemExit(
                    f"error: it was not ready after {PATIENCE_S:.0f} s: {printed.read_text()[-2000:]}"
                )
            daemon_cpu_s = _cpu_s(daemon)
            cpu_s = daemon_cpu_s + sum(map(_cpu_s, daemon.children(recursive=True)))
            ready_ns = max(json.loads(file.read_text()) for file in results.glob("ready-*.json"))
            # Without the last message the wait ends as well, and the figures show what is lost.
            _wait(lambda: _count(results, "latencies") == receivers, daemon, printed, LAST_MESSAGE_S)
            looked = _look(daemon, len(nodes), folder / "run")
            stopping = time.monotonic()
            daemon.send_signal(signal.SIGINT)
            exit_code = daemon.wait(PATIENCE_S)
            stop_s = time.monotonic() - stopping
        finally:
            if daemon.is_running():
                os.killpg(daemon.pid, signal.SIGKILL)
                daemon.wait()
        if exit_code:
            raise SystemExit(
                f"error: the run ended with exit code {exit_code}: {printed.read_text()[-2000:]}"
            )
        found = [json.loads(file.read_text()) for file in results.glob("latencies-*.json")]
        latencies = [latency for one in found for latency in one]
        sent = MESSAGES * senders * receivers
        return Figures(
            ready_s=ready_ns / 1e9 - begun,
            cpu_s=cpu_s,
            daemon_cpu_s=daemon_cpu_s,
            latency_s=median(latencies) / 1e9,
            sent=sent,
            dropped=sent - len(latencies),
            stop_s=stop_s,
            **looked,
        )


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _look(daemon: psutil.Popen, nodes: int, root: Path) -> dict[str, Any]:
    """Return memory and files of the processes of a run."""
    everything = daemon.children(recursive=True)  # also the guardian, and the template of the nodes
    processes = [process for process in everything if _is_node(process)]
    if len(processes) != nodes:
        printed = (root.parent / "printed.txt").read_text()[-2000:]
        raise SystemExit(f"error: {len(processes)} processes run instead of {nodes}: {printed}")
    memory = [process.memory_full_info().pss for process in processes]
    files = [process.num_fds() for process in processes]
    daemon_memory = daemon.memory_full_info().pss
    (run,) = (path.parent.name for path in root.rglob("daemon.sock"))
    shared = sum(path.stat().st_blocks * 512 for path in Path("/dev/shm").glob(f"dora_{run}_*"))
    return {
        "memory": sum(process.memory_full_info().pss for process in everything) + daemon_memory,
        "daemon_memory": daemon_memory,
        "node_memory": sum(memory) / nodes,
        "daemon_files": daemon.num_fds(),
        "most_node_files": max(files),
        "shared_memory": shared,
    }


def _is_node(process: psutil.Process) -> bool:
    return any(part == str(PROGRAM) or part == "dora.runtime" for part in process.cmdline())


def _count(results: Path, name: str) -> int:
    return sum(file.startswith(f"{name}-") and file.endswith(".json") for file in os.listdir(results))


def _wait(condition: Callable[[], bool], daemon: psutil.Popen, printed: Path, patience: float) -> bool:
    """Return whether a condition holds within some seconds; raises SystemExit if the run ends meanwhile."""
    deadline = time.monotonic() + patience
    while not condition():
        if daemon.poll() is not None:
            raise SystemExit(f"error: the run ended too early: {printed.read_text()[-2000:]}")
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="dora-scale-", dir="/tmp"))  # short enough for sockets
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def measure_file(size: int, command: Sequence[str]) -> tuple[float, int]:
    """Return the seconds of processor time and the bytes of memory of a command on a file of a size."""
    with _folder() as folder:
        (folder / "dataflow.yml").write_text(json.dumps({"nodes": chain(size)}))
        process = subprocess.Popen(
            [*ours().command, *command, "dataflow.yml"],
            cwd=folder,
            env=ours().environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"error: dora {' '.join(command)} of {size} nodes failed")
        return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


_HEAD = (
    "dataflow", "all ready", "processor time of that", "of the daemon", "memory", "of a node", "of daemon",
    "open files: daemon", "largest node", "/dev/shm", "latency per hop", "lost", "stop",
)  # fmt: skip


def row(title: str, shape: Shape, size: int, found: Sequence[Figures]) -> tuple[str, ...]:
    """Return a row of the table: medians over repetitions."""

    def middle(name: str) -> float:
        return median([getattr(figures, name) for figures in found])

    mib = 2**20
    lost, sent = (sum(getattr(figures, name) for figures in found) for name in ("dropped", "sent"))
    return (
        f"{size} {title}",
        f"{middle('ready_s'):.1f} s",
        f"{middle('cpu_s'):.1f} s",
        f"{middle('daemon_cpu_s'):.2f} s",
        f"{middle('memory') / mib:,.0f} MiB",
        f"{middle('node_memory') / mib:.1f} MiB",
        f"{middle('daemon_memory') / mib:.1f} MiB",
        f"{middle('daemon_files'):,.0f}",
        f"{middle('most_node_files'):,.0f}",
        f"{middle('shared_memory') / mib:.1f} MiB",
        f"{middle('latency_s') / shape.hops(size) * 1e6:,.0f} µs",
        f"{lost:,} of {sent:,}",
        f"{middle('stop_s'):.2f} s",
    )


_COMMANDS = (("validate",), ("graph", "--mermaid"), ("graph",))


def file_row(size: int, repeat: int) -> tuple[str, ...]:
    """Return a row about a file that is only read."""
    cells = []
    for command in _COMMANDS:
        found = [measure_file(size, command) for _ in range(repeat)]
        seconds, memory = (median(values) for values in zip(*found, strict=True))
        cells.append(f"{seconds:.2f} s, {memory / 2**20:.0f} MiB")
    return (f"{size:,}", *cells)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], f"| --- |{' ---: |' * (len(head) - 1)}", *lines[1:]])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--only", choices=[*SHAPES, "file"], help="measure one shape")
    parser.add_argument("--largest", type=int, metavar="N", help="leave out larger sizes")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="repetitions [1]")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/performance.md")
    options = parser.parse_args(arguments)
    started = datetime.datetime.now(datetime.UTC)
    before = os.getloadavg()[2]
    rows, read = [], []
    for name, shape in SHAPES.items():
        for size in shape.sizes:
            if options.only in (None, name) and (options.largest is None or size <= options.largest):
                found = [measure(shape, size) for _ in range(options.repeat)]
                rows.append(row(shape.title, shape, size, found))
                print(*rows[-1], sep="; ", flush=True)
    if options.only in (None, "file"):
        read = [file_row(size, options.repeat) for size in FILES]
    known = conditions("benchmarks.scale", started, options.repeat)
    head = short(known)
    head.append(f"- load before: {before:.0f}")
    tables = [_table(_HEAD, rows)] if rows else []
    if read:
        tables.append(_table(("nodes of a file", *(f"`dora {' '.join(c)}`" for c in _COMMANDS)), read))
    page = "\n".join([*head, "", "\n\n".join(tables)])
    print("", page, sep="\n")
    if options.write_docs:
        report.write_between(REPOSITORY / "docs" / "performance.md", MARKERS, page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
