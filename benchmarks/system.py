"""Measure the commands of a system in the background: ``python -m benchmarks.system``.

Every figure is the wall time of a command, from the start of its process to its end. Port, records and
sockets are separate from those of the user.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import report
from benchmarks.conditions import conditions, short
from benchmarks.implementations import REPOSITORY, ours
from benchmarks.statistics import median

MARKERS = ("<!-- system -->", "<!-- /system -->")
NODES = 10
ENDED = 200

NODE = """
from dora import Node

for event in Node():
    pass
"""
_ROWS = {
    "up": ("`dora up` to ready", 1.5),
    "start": (f"`dora start` of {NODES} nodes to all running", 2.0),
    "stop": (f"`dora stop` of {NODES} nodes to all gone", 1.0),
    "list": (f"`dora list` with {ENDED} ended dataflows", 0.2),
    "down": ("`dora down`", None),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 if a goal was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.system", description=__doc__)
    parser.add_argument("--repeat", type=int, default=10, metavar="N", help="repetitions [10]")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args(arguments)
    started = datetime.datetime.now(datetime.UTC)
    figures = measure(options.repeat)
    rows = [("command", "goal", "median", "lowest", "highest")]
    missed = False
    for name, (title, goal) in _ROWS.items():
        seconds = figures[name]
        middle = median(seconds)
        outcome = "" if goal is None else f"{goal:g} s " + ("✓" if middle < goal else "✗")
        missed |= goal is not None and middle >= goal
        rows.append(
            (title, outcome, *(f"{value * 1e3:.0f} ms" for value in (middle, min(seconds), max(seconds))))
        )
    known = conditions("benchmarks.system", started, options.repeat)
    head = short(known)
    page = "\n".join([*head, "", _table(rows)])
    print(page)
    if options.write_docs:
        report.write_between(REPOSITORY / "docs" / "performance.md", MARKERS, page)
    return 1 if missed else 0


def measure(repeat: int) -> dict[str, list[float]]:
    """Return the seconds of every repetition of every command."""
    found: dict[str, list[float]] = {name: [] for name in _ROWS}
    with _place() as folder:
        _write_ended_dataflows()
        for _ in range(repeat):
            found["up"].append(_time(folder, "up"))
            found["start"].append(_time(folder, "start", "ten.yml", "--detach"))
            found["stop"].append(_time(folder, "stop"))
            found["list"].append(_time(folder, "list"))
            found["down"].append(_time(folder, "down"))
    return found


@contextmanager
def _place() -> Iterator[Path]:
    """Make a folder with a dataflow; what the system keeps is in it as well."""
    folder = Path(tempfile.mkdtemp(prefix="dora-bench-", dir="/tmp"))  # short enough for sockets
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.update(
        DORA_RUNTIME_DIR=str(folder / "run"),
        DORA_DATA_DIR=str(folder / "data"),
        XDG_CONFIG_HOME=str(folder / "config"),
        DORA_COORDINATOR_PORT=str(port),
    )
    (folder / "node.py").write_text(NODE)
    nodes = [
        f"  - {{id: n{number}, path: node.py, inputs: {{tick: dora/timer/millis/100}}}}"
        for number in range(NODES)
    ]
    (folder / "ten.yml").write_text("\n".join(["nodes:", *nodes, ""]))
    try:
        yield folder
    finally:
        subprocess.run([*ours().command, "down", "--force"], cwd=folder, capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _write_ended_dataflows() -> None:
    """Put records of ended dataflows into the store, as if they had run."""
    from dora._paths import store_path
    from dora.cluster.coordinator.policy import first_view
    from dora.cluster.coordinator.store import Store
    from dora.cluster.protocol import DEFAULT_MACHINE, RunReport, RunSpec
    from dora.daemon.supervisor.result import DataflowResult
    from dora.wire.correlation import uuid7

    store = Store(store_path(int(os.environ["DORA_COORDINATOR_PORT"])))
    dataflow = {"nodes": [{"id": f"n{number}"} for number in range(NODES)], "working_dir": "/tmp"}
    for number in range(ENDED):
        dataflow_id, spec = uuid7(), RunSpec(name=f"ended-{number}", dataflow=dataflow)
        daemons = {DEFAULT_MACHINE: "daemon"}
        store.add(dataflow_id, spec, first_view(dataflow_id, spec, time.time()), daemons)
        store.update(RunReport(dataflow_id, "Finished", DataflowResult(dataflow_id)), daemons)
    store.close()


def _time(folder: Path, *arguments: str) -> float:
    begun = time.monotonic()
    done = subprocess.run(
        [*ours().command, *arguments], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    seconds = time.monotonic() - begun
    if done.returncode != 0:
        raise SystemExit(f"error: dora {' '.join(arguments)} failed: {done.stderr}{done.stdout}")
    return seconds


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "| --- | --- | ---: | ---: | ---: |", *rest])


if __name__ == "__main__":
    sys.exit(main())
