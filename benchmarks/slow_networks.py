"""Measure how old messages are on slow and bad networks: ``python -m benchmarks.slow_networks``.

A robot sends 64 bytes at 100 Hz and pictures at 30 Hz to a desk. Both are network namespaces, and the cable
between them (`tests/machines/wire.py`) limits, delays and loses packets, or is cut. Beside dora and dora-rs
runs bare Zenoh, with a priority and a connection for each of the two streams. Needs Linux, root, iproute2.
"""

import argparse
import datetime
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, TimeoutExpired
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import report
from benchmarks.conditions import conditions
from benchmarks.implementations import REPOSITORY, add_upstream_venv, ours, upstream
from benchmarks.machines import FIRST, PATIENCE_S, SECOND, running_system, write_dataflow
from benchmarks.measures import MIB, Measure, Scenario
from benchmarks.runner import Implementation, RunFailed, zenoh_files_removed
from benchmarks.statistics import percentile

sys.path.insert(0, str(REPOSITORY / "tests"))
sys.path.insert(0, str(REPOSITORY / "tests" / "machines"))
from hosts import Host, missing, network

MARKERS = ("<!-- slow networks -->", "<!-- /slow networks -->")
DATAFLOW = "slow_network/dataflow.yml"
CUT_AFTER_S, CUT_S = 4.0, 5.0
ZENOH_PORT = 6100

FAST = {"rate": 50e6, "delay": 0.01}
SLOW = {"rate": 10e6, "delay": 0.01}
WIRELESS = {"rate": 50e6, "delay": 0.005, "jitter": 0.03, "in_order": True}


@dataclass(frozen=True)
class Network:
    """One network, and the size of the pictures on it."""

    title: str
    link: dict[str, Any]
    size: int
    cut: bool = False


NETWORKS = {
    "fast": Network("50 Mbit/s, 10 ms; 1 MiB", FAST, MIB),
    "slow": Network("10 Mbit/s, 10 ms; 64 kB", SLOW, 64_000),
    "lossy": Network("50 Mbit/s, 5 to 35 ms, 0.2 % loss; 1 MiB", {**WIRELESS, "loss": 0.002}, MIB),
    "bad": Network("50 Mbit/s, 5 to 35 ms, 2 % loss; 1 MiB", {**WIRELESS, "loss": 0.02}, MIB),
    "cut": Network("50 Mbit/s, 10 ms; 1 MiB; cut for 5 s", FAST, MIB, cut=True),
}


@dataclass(frozen=True)
class Outcome:
    """What one run found; ages in milliseconds."""

    sent: dict[str, int]
    arrivals_ns: dict[str, list[tuple[int, int]]]
    longest_ms: float  # call that sends
    restored_ns: int = 0  # the end of the cut; 0: there was none

    def age(self, name: str, percent: float) -> str:
        ages = [(came - sent) / 1e6 for sent, came in self.arrivals_ns[name]]
        return f"{percentile(ages, percent):,.0f} ms" if ages else "none"

    def row(self) -> list[str]:
        control, picture = (len(self.arrivals_ns[name]) for name in ("control", "picture"))
        cells = [
            f"{control:,} of {self.sent['control']:,}",
            f"{self.age('control', 50)} (p99 {self.age('control', 99)})",
            f"{picture:,} of {self.sent['picture']:,}, {self.age('picture', 50)}",
            f"{self.longest_ms:.1f} ms",
            "",
        ]
        if self.restored_ns:
            cells[-1] = "; ".join(self._after_the_cut(name) for name in ("control", "picture"))
        return cells

    def _after_the_cut(self, name: str) -> str:
        after = [each for each in self.arrivals_ns[name] if each[1] > self.restored_ns]
        if not after:
            return f"{name} never"
        sent, came = min(after, key=lambda each: each[1])
        return f"{name} {(came - self.restored_ns) / 1e9:.1f} s later, {(came - sent) / 1e9:.1f} s old"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run each side on each network and print a table; return 1 when a run failed, else 0."""
    options = _parser().parse_args(arguments)
    if reason := missing():
        print(f"error: there can be no machines here: {reason}", file=sys.stderr)
        return 1
    sides: dict[str, Callable[[Network, str, float], Outcome]] = {}
    if not options.ours_only:
        theirs = upstream(options.upstream_venv)
        sides["dora-rs"] = lambda *run: run_dora(theirs, *run)
        sides["Zenoh"] = run_zenoh
    sides["dora"] = lambda *run: run_dora(ours(), *run)
    started = datetime.datetime.now(datetime.UTC)
    rows: list[list[str]] = []
    failed = False
    for name, kind in NETWORKS.items():
        if options.only and options.only != name:
            continue
        for congestion in ("cubic", "bbr"):
            for side, run in sides.items():
                try:
                    cells = run(kind, congestion, options.seconds).row()
                except RunFailed as error:
                    print(f"failed: {side} on {name}, {congestion}: {error}", file=sys.stderr)
                    cells, failed = ["failed", "", "", "", ""], True
                rows.append([f"{kind.title}; {congestion}", side, *cells])
                print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    known = conditions("benchmarks.slow_networks", started, 1)
    head = [
        "network; picture; congestion control",
        "side",
        "control",
        "age",
        "pictures, age",
        "longest send",
    ]
    table = report.aligned([*head, "after the cut"], rows)
    print("\n".join(f"{key}: {value}" for key, value in known.items()), table, sep="\n\n")
    if options.write_docs and not failed:
        text = "\n".join(f"- {key}: {value}" for key, value in known.items())
        report.write_between(REPOSITORY / "docs" / "performance.md", MARKERS, f"{text}\n\n{table}")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.slow_networks",
        description="Compare the age of messages on slow networks with dora-rs and bare Zenoh.",
    )
    parser.add_argument("--only", choices=NETWORKS, help="run on one network")
    parser.add_argument("--seconds", type=float, default=12.0, help="how long each run sends (default: 12)")
    parser.add_argument("--ours-only", action="store_true", help="leave dora-rs and bare Zenoh out")
    parser.add_argument(
        "--write-docs", action="store_true", help="publish the results in docs/performance.md"
    )
    add_upstream_venv(parser)
    return parser


class _Cable:
    """The network of one run: its hosts with their link, which is cut if the network says so."""

    def __init__(self, hosts: dict[str, Host], kind: Network, congestion: str) -> None:
        self._robot = hosts[FIRST]
        self._kind = kind
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._cut)
        self.restored_ns = 0
        for host in hosts.values():
            host.use_congestion_control(congestion)
        self._robot.impair(**kind.link)

    def begin(self) -> None:
        """Start to count the time until the cut."""
        if self._kind.cut:
            self._thread.start()

    def _cut(self) -> None:
        if self._ends.wait(CUT_AFTER_S):
            return
        self._robot.cut()
        self._ends.wait(CUT_S)
        self._robot.restore()
        self.restored_ns = time.monotonic_ns()

    def end(self) -> None:
        self._ends.set()
        if self._thread.ident:
            self._thread.join()


def run_dora(side: Implementation, kind: Network, congestion: str, seconds: float) -> Outcome:
    """Run the two nodes on two machines to their end; raises `RunFailed`."""
    measure = Measure("slow-network", "age on a slow network", "ms")
    scenario = Scenario(DATAFLOW, (measure,), lambda *_: {}, size=kind.size)
    with (
        zenoh_files_removed(),
        network(FIRST, SECOND, impaired=True) as hosts,
        TemporaryDirectory(prefix="dora-benchmark-") as temporary,
    ):
        folder = Path(temporary)
        file = write_dataflow(folder, scenario, {"BENCHMARK_SECONDS": str(seconds)})
        with running_system(side, hosts, folder) as dora:
            cable = _Cable(hosts, kind, congestion)
            cable.begin()
            try:
                printed = dora("start", file.name, "--attach")
            finally:
                cable.end()
        return _outcome(folder, cable, printed)


def run_zenoh(kind: Network, congestion: str, seconds: float) -> Outcome:
    """Send the same messages over bare Zenoh; raises `RunFailed`."""
    with (
        network(FIRST, SECOND, impaired=True) as hosts,
        TemporaryDirectory(prefix="dora-benchmark-") as temporary,
    ):
        folder = Path(temporary)
        address = [hosts[SECOND].address, str(ZENOH_PORT), str(kind.size), str(seconds), temporary]
        program = [sys.executable, "-m", "benchmarks.slow_zenoh"]
        cable = _Cable(hosts, kind, congestion)
        desk = hosts[SECOND].popen([*program, "desk", *address], cwd=REPOSITORY, stdin=PIPE, stdout=DEVNULL)
        cable.begin()
        try:
            printed = hosts[FIRST].run(
                [*program, "robot", *address], cwd=REPOSITORY, status=None, timeout=PATIENCE_S
            )
        except TimeoutExpired:
            raise RunFailed(f"bare Zenoh did not end within {PATIENCE_S:.0f} s") from None
        finally:
            cable.end()
        desk.communicate()
        return _outcome(folder, cable, printed)


def _outcome(folder: Path, cable: _Cable, printed: str) -> Outcome:
    try:
        robot = json.loads((folder / "robot.json").read_text())
        arrivals_ns = json.loads((folder / "desk.json").read_text())
    except FileNotFoundError as error:
        tail = "\n".join(printed.splitlines()[-15:])
        raise RunFailed(f"{error.filename} was not written; it printed:\n{tail}") from None
    return Outcome(robot["sent"], arrivals_ns, robot["longest_ns"] / 1e6, cable.restored_ns)


if __name__ == "__main__":
    sys.exit(main())
