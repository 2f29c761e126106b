"""Measure how long starts take, and what a node that has started holds: ``python -m benchmarks.starting``.

The ways of starting a node, and dora-rs where it has the same, take turns at each measure. Port, records
and sockets are separate from those of the user. Times are those of the monotonic clock, which all
processes share.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks import report
from benchmarks.conditions import conditions, short
from benchmarks.implementations import REPOSITORY, add_upstream_venv, ours, upstream
from benchmarks.measures import KIB
from benchmarks.runner import (
    DATAFLOWS,
    Implementation,
    Run,
    RunFailed,
    adopt_orphans,
    copied,
    read_results,
    run_dataflow,
)
from benchmarks.statistics import median

MARKERS = ("<!-- starting -->", "<!-- /starting -->")
PLAIN, TEMPLATE, UPSTREAM = "plain start", "template", "dora-rs 1.1.0"
# The ways in which dora starts a node: title of the column, and options of `dora run` and `dora start`.
WAYS: Mapping[str, tuple[str, ...]] = {PLAIN: ("--no-preload",), TEMPLATE: ("--preload",)}
TOKEN = "of-this-benchmark-0123456789abcdef"
RESTARTS = 5  # of one run
REST = 0.2  # seconds before a node is added, in which nothing starts
PATIENCE_S = 60.0
CHAIN_PATIENCE_S = 1.2  # for each node of a chain
TEN_IDLE = "idle/with_arrow.yml"
Figures = Mapping[str, float]


@dataclass(frozen=True)
class Goal:
    """The highest figure allowed: `most` in the unit of the row, or `most` times the row `of` of `side`.

    A row that a side compares with another row of its own comes right before that one.
    """

    most: float
    side: str = ""
    of: str = ""


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    title: str
    unit: str
    goal: Goal | None = None


@dataclass(frozen=True)
class Side:
    """What is measured: a column of the table.

    `background` is the environment in which `dora up` has started the system in the background, None for
    dora-rs, of which only `dora run` is measured. `alone` is one in which nothing is up.
    """

    title: str
    implementation: Implementation
    arguments: tuple[str, ...]
    alone: Mapping[str, str]
    background: Mapping[str, str] | None = None

    def run(self, dataflow: str, *arguments: str, up: bool = False, **options: Any) -> Run:
        """Give `dora run`, with the system in the background if `up`; see `run_dataflow`."""
        environment = {**((self.background or {}) if up else self.alone), **options.pop("env", {})}
        return run_dataflow(
            self.implementation, dataflow, environment, (*self.arguments, *arguments), **options
        )

    def dora(self, *arguments: str, folder: Path) -> None:
        """Give a command to the system in the background; raises `RunFailed`."""
        done = subprocess.run(
            [*self.implementation.command, *arguments],
            cwd=folder,
            env={**self.implementation.environment(), **(self.background or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise RunFailed(f"dora {shlex.join(arguments)} exited with {done.returncode}: {done.stdout}")

    def processor_time(self) -> float:
        """Return the seconds that the system in the background has used, with processes that have ended."""
        assert self.background is not None
        mine = self.background["DORA_RUNTIME_DIR"]
        seconds = 0.0
        for process in psutil.process_iter():
            try:
                if process.environ().get("DORA_RUNTIME_DIR") == mine:
                    seconds += sum(process.cpu_times()[:4])  # its own, and those of children it waited for
            except psutil.Error:  # it has ended, or belongs to somebody else
                continue
        return seconds


@dataclass(frozen=True)
class Measurement:
    """Rows that one call measures; `upstream_can` says whether dora-rs has what is measured."""

    rows: Mapping[str, Row]
    measure: Callable[[Side], Figures]
    upstream_can: bool = True


def two_nodes(side: Side) -> Figures:
    run = side.run("start_to_end/dataflow.yml")
    return {"run": run.wall_s, "run-processor": run.cpu_s}


def two_nodes_with_daemon(side: Side) -> Figures:
    before = side.processor_time()
    run = side.run("start_to_end/dataflow.yml", up=True)
    return {"run-up": run.wall_s, "run-up-processor": run.cpu_s + side.processor_time() - before}


def added_node(side: Side) -> Figures:
    """Add a node to a dataflow that runs, several times."""
    from dora.cluster.client import Client
    from dora.transport.tokens import Token
    from dora.wire.operations import AddOperation, RemoveOperation

    assert side.background is not None
    client = Client(
        "127.0.0.1", int(side.background["DORA_COORDINATOR_PORT"]), token=Token(TOKEN, "benchmark")
    )
    times_ms = []
    with copied({}) as (dataflows, _):
        folder = dataflows / "starting"
        note = folder / "added.txt"
        side.dora("start", "resident.yml", *side.arguments, "--name", "resident", "--detach", folder=folder)
        try:
            uuid = client.dataflow("resident").uuid
            for _ in range(RESTARTS):
                note.unlink(missing_ok=True)
                time.sleep(REST)
                ordered_ns = time.monotonic_ns()
                client.ask(uuid, AddOperation(f"{{id: added, path: {folder / 'added.py'}}}"))
                deadline = time.monotonic() + PATIENCE_S
                while not (note.exists() and (text := note.read_text())):
                    if time.monotonic() > deadline:
                        raise RunFailed(f"the added node did not start within {PATIENCE_S:.0f} s")
                    time.sleep(0.005)
                times_ms.append((int(text) - ordered_ns) / 1e6)
                client.ask(uuid, RemoveOperation("added"))
        finally:
            side.dora("stop", "resident", folder=folder)
    return {"node": median(times_ms)}


def restart(side: Side) -> Figures:
    run = side.run("starting/restart.yml", env={"BENCHMARK_RESTARTS": str(RESTARTS)})
    times = run.result("restarts")
    return {"restart": median([(received - killed) / 1e6 for killed, received in times])}


def hot_reload(side: Side) -> Figures:
    run = side.run("starting/reload.yml", "--hot-reload", env={"BENCHMARK_RESTARTS": str(RESTARTS)})
    saved = run.result("saved")
    return {
        "reload": median(
            [(run.result(f"version{number}") - at) / 1e6 for number, at in enumerate(saved, start=1)]
        )
    }


def first_message(side: Side) -> Figures:
    run = side.run("starting/first.yml")
    found: dict[str, float] = {}
    for name in ("sender", "receiver"):
        times_us = [nanoseconds / 1e3 for nanoseconds in run.result(name)]
        found |= {
            f"first-{name}": times_us[0],
            f"last-{name}": median(times_us[900:1000]),
            f"rare-{name}": median(times_us[1000:]),
        }
    return found


def memory(side: Side) -> Figures:
    nodes = side.run(TEN_IDLE, env={"BENCHMARK_ENDS": "1"}).results("idle*")
    return {
        "memory": median([node["pss_kib"] / KIB for node in nodes]),
        "memory-own": median([node["own_kib"] / KIB for node in nodes]),
    }


def chain(nodes: int) -> Measurement:
    """Return the measurement of so many nodes in a row."""
    name = f"chain-{nodes}"
    title = f"chain of {nodes} nodes, start of `dora run` to all ready"
    rows = {
        name: Row(title, "s", Goal(1 / 8, PLAIN, name)),
        f"{name}-processor": Row("processor time of the whole run", "s"),
    }

    def measure(side: Side) -> Figures:
        run = side.run(
            "starting/chain.yml",
            files={"starting/chain.yml": chain_dataflow(nodes)},
            timeout_s=max(PATIENCE_S, nodes * CHAIN_PATIENCE_S),
        )
        ready_ns = run.results("relay*")
        if len(ready_ns) != nodes:
            raise RunFailed(f"{len(ready_ns)} of {nodes} nodes passed the message on; {run.printed}")
        return {name: (max(ready_ns) - run.started_ns) / 1e9, f"{name}-processor": run.cpu_s}

    return Measurement(rows, measure)


def chain_dataflow(nodes: int) -> str:
    """Return the YAML of so many nodes in a row."""
    lines = ["nodes:"]
    for number in range(nodes):
        lines += [f"  - id: relay{number}", "    path: relay.py", f"    env: {{NUMBER: {number}}}"]
        lines += [f"    inputs: {{in: relay{number - 1}/out}}"] if number else []
        lines += ["    outputs: [out]"] if number < nodes - 1 else []
    return "\n".join([*lines, ""])


def heavy(module: str) -> Measurement:
    """Return the measurement of ten nodes with `preload: [module]`, and of one import.

    They start twice in one folder: the first start includes the import in a template.
    """
    rows = {
        "import": Row(f"`python -c 'import {module}'`", "s"),
        "heavy-first": Row(f"ten nodes with `preload: [{module}]`, first `dora start` to all ready", "s"),
        "heavy": Row("the same, each later `dora start`", "s"),
        "heavy-memory": Row("memory (PSS) of each of them", "MiB", Goal(1 / 5, PLAIN, "heavy-memory")),
    }

    def measure(side: Side) -> Figures:
        begun = time.monotonic()
        interpreter = side.implementation.prefix / "bin" / "python"
        subprocess.run([interpreter, "-c", f"import {module}"], check=True)
        import_s = time.monotonic() - begun
        program = f"import {module}\n{(DATAFLOWS / TEN_IDLE).with_name('idle.py').read_text()}"
        dataflow = f"preload: [{module}]\n{(DATAFLOWS / TEN_IDLE).read_text()}"
        with copied({"idle/idle.py": program, TEN_IDLE: dataflow}) as (dataflows, results):
            folder = dataflows / "idle"
            first_s, _ = _start_ten(side, folder, results / "first")
            later_s, nodes = _start_ten(side, folder, results / "later")
        return {
            "import": import_s,
            "heavy-first": first_s,
            "heavy": later_s,
            "heavy-memory": median([node["pss_kib"] / KIB for node in nodes]),
        }

    return Measurement(rows, measure, upstream_can=False)


def _start_ten(side: Side, folder: Path, results: Path) -> tuple[float, list[dict[str, Any]]]:
    """Start ten nodes with `dora start`; return the seconds until all are ready, and what they wrote."""
    results.mkdir()
    begun_ns = time.monotonic_ns()
    chosen = (*side.arguments, "--detach", "--name", "heavy", "--env", f"BENCHMARK_RESULTS={results}")
    side.dora("start", Path(TEN_IDLE).name, *chosen, folder=folder)
    deadline = time.monotonic() + PATIENCE_S
    while len(list(results.glob("*.json"))) < 10 and time.monotonic() < deadline:
        time.sleep(0.1)
    side.dora("stop", "heavy", folder=folder)
    nodes = list(read_results(results).values())
    if len(nodes) < 10:
        raise RunFailed(f"{len(nodes)} of 10 nodes were ready within {PATIENCE_S:.0f} s")
    return (max(node["ready_ns"] for node in nodes) - begun_ns) / 1e9, nodes


def measurements(chains: Sequence[int], module: str) -> list[Measurement]:
    """Return all of them in the order of the table; with `module` "" no nodes import another module."""
    return [
        Measurement(
            {
                "node": Row(
                    "a node is added to a dataflow, from the order to `Node()` returned", "ms", Goal(15)
                )
            },
            added_node,
            upstream_can=False,
        ),
        Measurement(
            {
                "run": Row("`dora run` of two nodes and one message", "s", Goal(0.5, UPSTREAM, "run")),
                "run-processor": Row("processor time of that", "s"),
            },
            two_nodes,
        ),
        Measurement(
            {
                "run-up": Row("`dora run` of the same after `dora up`", "s", Goal(0.2, UPSTREAM, "run")),
                "run-up-processor": Row("processor time of that", "s"),
            },
            two_nodes_with_daemon,
            upstream_can=False,
        ),
        Measurement({"restart": Row("a killed node receives again", "ms", Goal(40))}, restart),
        Measurement(
            {"reload": Row("a node whose file was saved receives again", "ms", Goal(100))},
            hot_reload,
            upstream_can=False,
        ),
        Measurement(
            {
                "first-sender": Row(
                    "processor time to make and send the first message",
                    "µs",
                    Goal(1.0, TEMPLATE, "rare-sender"),
                ),
                "rare-sender": Row("a later one, after a pause of a second", "µs"),
                "last-sender": Row("the thousandth, a millisecond after the one before it", "µs"),
                "first-receiver": Row(
                    "processor time to read the first message", "µs", Goal(1.0, TEMPLATE, "rare-receiver")
                ),
                "rare-receiver": Row("a later one, after a pause of a second", "µs"),
                "last-receiver": Row("the thousandth, a millisecond after the one before it", "µs"),
            },
            first_message,
        ),
        Measurement(
            {
                "memory": Row("memory (PSS) of each of ten idle nodes with pyarrow", "MiB", Goal(9)),
                "memory-own": Row("of that, shared with no other process", "MiB"),
            },
            memory,
        ),
        *map(chain, chains),
        *([heavy(module)] if module else []),
    ]


class Results:
    """The figures of all repetitions, by side and row, and the failures."""

    def __init__(self) -> None:
        self.figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.failures: list[str] = []

    def measure(self, measurement: Measurement, sides: Sequence[Side], repeat: int) -> None:
        """Let the sides take turns; one that fails is left out from then on."""
        able = [side for side in sides if side.background or measurement.upstream_can]
        for _ in range(repeat):
            for side in list(able):
                try:
                    found = measurement.measure(side)
                except RunFailed as error:
                    able.remove(side)
                    self.failures.append(f"{side.title}: {next(iter(measurement.rows))}: {error}")
                    continue
                for name, value in found.items():
                    self.figures[side.title][name].append(value)
        for name, row in measurement.rows.items():
            cells = [f"{side.title} {self.cell(side.title, name, row)}" for side in sides]
            print(f"{row.title}: {', '.join(cells)}", file=sys.stderr, flush=True)

    def cell(self, side: str, name: str, row: Row) -> str:
        if not (values := self.figures[side][name]):
            return "–"
        lowest, highest = report.number(min(values)), report.number(max(values))
        return f"{report.number(median(values))} {row.unit} ({lowest}–{highest})"

    def outcome(self, side: str, name: str, goal: Goal | None) -> str:
        """Return the goal, and whether a side has reached it where that can be said."""
        if goal is None:
            return ""
        own = self.figures[side][name]
        if not goal.side:
            text, most = f"{goal.most:g}", goal.most
        else:
            text = f"{goal.most:.3g} of {goal.side}" if goal.side != side else "the next row"
            other = self.figures[goal.side][goal.of]
            if not other:
                return text
            most = goal.most * median(other)
        return f"{text} {'✓' if own and median(own) <= most else '✗'}"

    def table(self, measured: Sequence[Measurement], sides: Sequence[Side]) -> str:
        """Return the table as Markdown; the goals are those of the last column."""
        titles = [side.title for side in sides]
        rows = [
            [
                row.title,
                *(self.cell(title, name, row) for title in titles),
                self.outcome(titles[-1], name, row.goal),
            ]
            for measurement in measured
            for name, row in measurement.rows.items()
        ]
        return report.aligned(["measure", *titles, "goal: at most"], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 if a measure of ours failed, else 0."""
    options = _parser().parse_args(arguments)
    chains = options.chain or ([20] if options.few else [100, 300])
    repeat = options.repeat or (2 if options.few else 5)
    module = options.module if importlib.util.find_spec(options.module) else ""
    if not module:
        print(f"{options.module} is not installed: no nodes import it", file=sys.stderr)
    measured = [
        measurement
        for measurement in measurements(chains, module)
        if options.only is None or any(options.only in name for name in measurement.rows)
    ]
    if not measured:
        names = ", ".join(name for one in measurements(chains, module) for name in one.rows)
        print(f"error: no measure is called {options.only!r}; there are: {names}", file=sys.stderr)
        return 2
    theirs = None if options.ours_only else upstream(options.upstream_venv)
    started = datetime.datetime.now(datetime.UTC)
    load = os.getloadavg()[0]
    results = Results()
    with _sides(theirs) as sides:
        adopt_orphans()  # not before the systems are up, which no run is to end
        for measurement in measured:
            results.measure(measurement, sides, repeat)
    known = conditions("benchmarks.starting", started, repeat)
    head = short(known, "packages")
    head.append(f"- figures: median over {repeat} repetitions in turn (lowest–highest)")
    head.append(f"- processes that ran or waited for a processor when it began: {load:.0f}")
    page = "\n".join([*head, "", results.table(measured, sides)])
    print(page)
    for failure in results.failures:
        print(f"\nfailed: {failure}", file=sys.stderr)
    if options.write_docs:
        report.write_between(REPOSITORY / "docs" / "performance.md", MARKERS, page)
    return 1 if any(not failure.startswith(UPSTREAM) for failure in results.failures) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.starting", description=__doc__)
    parser.add_argument("--only", metavar="NAME", help="take the measures whose name contains NAME")
    parser.add_argument("--repeat", type=int, metavar="N", help="repetitions [5; with --few 2]")
    parser.add_argument("--few", action="store_true", help="a quick look: two repetitions, a short chain")
    parser.add_argument(
        "--chain",
        type=int,
        action="append",
        metavar="NODES",
        help="length of a chain; repeatable [100 and 300; with --few 20]",
    )
    parser.add_argument(
        "--module", default="torch", metavar="NAME", help="what ten nodes preload, if installed [torch]"
    )
    parser.add_argument("--ours-only", action="store_true", help="leave dora-rs out")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/performance.md")
    add_upstream_venv(parser)
    return parser


@contextmanager
def _sides(theirs: Implementation | None) -> Iterator[list[Side]]:
    """Start a system in the background for each way of starting; end them at the end."""
    folder = Path(tempfile.mkdtemp(prefix="dora-bench-", dir="/tmp"))  # short enough for sockets
    try:
        with ExitStack() as stack:
            sides = [] if theirs is None else [Side(UPSTREAM, theirs, (), {})]
            for number, (title, arguments) in enumerate(WAYS.items()):
                alone = _environment(folder / f"{number}a")
                side = Side(title, ours(), arguments, alone, _environment(folder / f"{number}u"))
                side.dora("up", folder=folder)
                stack.callback(side.dora, "down", "--force", folder=folder)
                sides.append(side)
            yield sides
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _environment(folder: Path) -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        "DORA_RUNTIME_DIR": str(folder / "run"),
        "DORA_DATA_DIR": str(folder / "data"),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "DORA_COORDINATOR_PORT": str(port),
        "DORA_AUTH_TOKEN": TOKEN,
    }


if __name__ == "__main__":
    sys.exit(main())
