"""Measure links between two machines: ``python -m benchmarks.machines``.

The machines are network namespaces of this one, joined by a virtual switch without added delay, with
shared memory of their own. Each side runs its coordinator on the first and a daemon on both; the same two
nodes as in the other benchmarks are placed with `deploy`. In between run the floors: the same messages over
bare Zenoh and over a plain TCP socket (`benchmarks.network_floors`). Nothing of it is encrypted,
as dora-rs does not encrypt; ``--encryption`` compares this dora without TLS and with it. All connections
have the congestion control cubic, the default of Linux; ``--congestion bbr`` measures with BBR. Needs
Linux, root, and iproute2.
"""

import argparse
import datetime
import json
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, TimeoutExpired
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import network_floors, report
from benchmarks.conditions import conditions
from benchmarks.implementations import REPOSITORY, add_upstream_venv, ours, upstream
from benchmarks.measures import MIB, Measure, Scenario, round_trip, sized, throughput
from benchmarks.runner import (
    DATAFLOWS,
    NOT_A_USERS,
    Implementation,
    Run,
    RunFailed,
    zenoh_files_removed,
)
from benchmarks.statistics import Figure, Spread
from dora._paths import NO_TLS

sys.path.insert(0, str(REPOSITORY / "tests"))
sys.path.insert(0, str(REPOSITORY / "tests" / "machines"))
from hosts import Host, missing, network

# By congestion control. BBR sends at the rate that it has seen, so it sends large messages more slowly than
# a fast wire could take them; on a lossy network it is the better one.
MARKERS = {
    "cubic": ("<!-- machines -->", "<!-- /machines -->"),
    "bbr": ("<!-- machines bbr -->", "<!-- /machines bbr -->"),
}
ENCRYPTION_MARKERS = ("<!-- encryption -->", "<!-- /encryption -->")
PLAIN, ENCRYPTED = "without TLS", "with TLS"
START_S, PATIENCE_S = 30.0, 90.0
COORDINATOR_PORT = 6013
MOST_OF_FLOOR = ("Zenoh", 1.3)  # how many times the cost of which floor ours may be
FIRST, SECOND = "left", "right"

SCENARIOS = tuple(
    Scenario(
        dataflow="round_trip/dataflow.yml",
        measures=(Measure(f"round-trip-{size}", f"round trip between machines, {sized(size)}", "µs", 1),),
        evaluate=round_trip,
        messages=messages,
        warm_up=messages // 10,
        size=size,
    )
    for size, messages in {8: 2000, 64 * 1024: 2000, MIB: 500, 4 * MIB: 100}.items()
) + tuple(
    Scenario(
        dataflow="throughput/drop_oldest.yml",
        measures=(
            Measure(
                f"throughput-{size}",
                f"throughput between machines, {sized(size)}",
                "messages/s",
                higher_is_better=True,
            ),
        ),
        evaluate=throughput,
        messages=messages,
        size=size,
    )
    for size, messages in {8: 20_000, 64 * 1024: 5_000, MIB: 500}.items()
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the measures and report; return 1 when a run failed, else 0."""
    options = _parser().parse_args(arguments)
    if reason := missing():
        print(f"error: there can be no machines here: {reason}", file=sys.stderr)
        return 1
    sides = _sides(options)
    started = datetime.datetime.now(datetime.UTC)
    scenarios = [s for s in SCENARIOS if options.only is None or options.only in s.measures[0].name]
    figures: dict[str, dict[str, list[Figure]]] = {
        name: defaultdict(list) for name in {"dora", "dora-rs", *network_floors.KINDS, *sides}
    }
    failures: dict[str, list[str]] = defaultdict(list)
    for scenario in scenarios:
        (measure,) = scenario.measures
        for _ in range(options.repeat):
            for name, run in sides.items():
                try:
                    found = scenario.evaluate(scenario, run(scenario))
                except RunFailed as error:
                    failures[measure.name].append(f"{name}: {error}")
                else:
                    figures[name][measure.name].append(found[measure.name])
        medians = [
            f"{name} {report.number(Spread.over(found[measure.name]).median)} {measure.unit}"
            for name, found in figures.items()
            if found[measure.name]
        ]
        print(f"{measure.title}: {', '.join(medians)}", file=sys.stderr, flush=True)

    measures = [scenario.measures[0] for scenario in scenarios]
    known = conditions("benchmarks.machines", started, options.repeat)
    known["congestion control"] = options.congestion
    print("\n".join(f"{key}: {value}" for key, value in known.items()), end="\n\n")
    if options.encryption:
        costs = report.cost_table(measures, (PLAIN, figures[PLAIN]), (ENCRYPTED, figures[ENCRYPTED]))
        print(costs)
        known = {key: value for key, value in known.items() if key != "compared with"}
        return _end(failures, options, ENCRYPTION_MARKERS, f"{report.listed(known)}\n\n{costs}")
    results = report.collect(measures, figures["dora-rs"], figures["dora"], failures)
    floors = report.network_floor_table(
        measures, {name: figures[name] for name in network_floors.KINDS}, figures["dora"], MOST_OF_FLOOR
    )
    print(report.table(results), floors, sep="\n\n")
    page = f"{report.results_page(results, {}, known)}\n\n{floors}"
    return _end(failures, options, MARKERS[options.congestion], page)


def _end(
    failures: Mapping[str, list[str]], options: argparse.Namespace, markers: tuple[str, str], page: str
) -> int:
    """Print what failed, or publish the page if that is wanted; return the exit status."""
    for name, reasons in failures.items():
        for reason in reasons:
            print(f"\nfailed: {name}: {reason}", file=sys.stderr)
    if options.write_docs and not failures:
        report.write_between(REPOSITORY / "docs" / "performance.md", markers, page)
    return 1 if failures else 0


def _sides(options: argparse.Namespace) -> dict[str, Callable[[Scenario], Run]]:
    """Return how each side runs a scenario, by name, in the order in which they take turns."""
    congestion = options.congestion
    if options.encryption:
        return {
            PLAIN: partial(run_between, ours(), congestion),
            ENCRYPTED: partial(run_between, ours(), congestion, is_encrypted=True),
        }
    sides: dict[str, Callable[[Scenario], Run]] = {}
    if not options.ours_only:
        sides["dora-rs"] = partial(run_between, upstream(options.upstream_venv), congestion)
    if not options.upstream_only:
        sides["dora"] = partial(run_between, ours(), congestion)
        sides |= {kind: partial(run_floor, kind, congestion) for kind in network_floors.KINDS}
    return sides


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.machines",
        description="Compare dora with dora-rs between two machines, which are network namespaces.",
    )
    parser.add_argument("--only", metavar="NAME", help="run the measures whose name contains NAME")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="repetitions (default: 3)")
    side = parser.add_mutually_exclusive_group()
    side.add_argument("--ours-only", action="store_true", help="leave upstream out")
    side.add_argument("--upstream-only", action="store_true", help="leave ours and the floors out")
    side.add_argument("--encryption", action="store_true", help="compare ours without TLS and with it")
    parser.add_argument(
        "--congestion",
        choices=list(MARKERS),
        default="cubic",
        help="congestion control of all connections (default: cubic, the default of Linux)",
    )
    parser.add_argument(
        "--write-docs", action="store_true", help="publish the results in docs/performance.md"
    )
    add_upstream_venv(parser)
    return parser


@contextmanager
def _two_machines(congestion: str) -> Iterator[dict[str, Host]]:
    with network(FIRST, SECOND) as hosts:
        for host in hosts.values():
            host.use_congestion_control(congestion)
        yield hosts


def run_between(
    side: Implementation, congestion: str, scenario: Scenario, is_encrypted: bool = False
) -> Run:
    """Run a scenario's two nodes on two machines to their end; raises `RunFailed`."""
    with (
        zenoh_files_removed(),
        _two_machines(congestion) as hosts,
        TemporaryDirectory(prefix="dora-benchmark-") as temporary,
    ):
        folder = Path(temporary)
        file = write_dataflow(folder, scenario)
        with running_system(side, hosts, folder, is_encrypted) as dora:
            started = time.perf_counter()
            printed = dora("start", file.name, "--attach")
            wall_s = time.perf_counter() - started
        files = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
        last_lines = "\n".join(["it printed:", *printed.splitlines()[-15:]])
        return Run(wall_s, 0.0, files, last_lines)


def run_floor(kind: str, congestion: str, scenario: Scenario) -> Run:
    """Run a scenario's messages between two machines without dora; raises `RunFailed`."""
    with _two_machines(congestion) as hosts, TemporaryDirectory(prefix="dora-benchmark-") as temporary:
        folder = Path(temporary)
        pair = Path(scenario.dataflow).parent.name
        numbers = [scenario.size, scenario.warm_up, scenario.messages]

        def command(role: str) -> list[str]:
            address = [hosts[SECOND].address, str(network_floors.PORT)]
            arguments = [kind, role, pair, *address, *map(str, numbers), temporary]
            return [sys.executable, "-m", "benchmarks.network_floors", *arguments]

        second = hosts[SECOND].popen(command("second"), cwd=REPOSITORY, stdin=PIPE, stdout=DEVNULL)
        started = time.perf_counter()
        try:
            printed = hosts[FIRST].run(command("first"), cwd=REPOSITORY, status=None, timeout=PATIENCE_S)
        except TimeoutExpired:
            raise RunFailed(f"bare {kind} did not end within {PATIENCE_S:.0f} s") from None
        wall_s = time.perf_counter() - started
        second.communicate()
        files = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
        return Run(wall_s, 0.0, files, f"it printed: {printed}")


def write_dataflow(folder: Path, scenario: Scenario, more: Mapping[str, str] = {}) -> Path:
    """Write the scenario's dataflow with its first node on one machine and its second on the other.

    ``more``: further environment variables of the nodes.
    """
    import yaml

    original = DATAFLOWS / scenario.dataflow
    document = yaml.safe_load(original.read_text())
    environment = {
        "BENCHMARK_MESSAGES": str(scenario.messages),
        "BENCHMARK_WARM_UP": str(scenario.warm_up),
        "BENCHMARK_BYTES": str(scenario.size),
        "BENCHMARK_RESULTS": str(folder),
        **more,
    }
    for node, machine in zip(document["nodes"], (FIRST, SECOND), strict=True):
        node["path"] = str(original.parent / node["path"])
        node["deploy"] = {"machine": machine}
        node["env"] = environment
    file = folder / "dataflow.yml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


@contextmanager
def running_system(
    side: Implementation, hosts: dict[str, Host], folder: Path, is_encrypted: bool = False
) -> Iterator[Callable[..., str]]:
    """Run a coordinator and two daemons; yield how to give commands on the first machine.

    ``is_encrypted`` is about ours: dora-rs has no encryption.
    """
    first = hosts[FIRST]
    address = first.address
    found = side.environment()
    environment = {name: found[name] for name in ("PATH", "VIRTUAL_ENV")}
    environment |= dict.fromkeys(NOT_A_USERS, "")
    environment["DORA_AUTH_TOKEN"] = "of-this-benchmark-0123456789abcdef"
    plain = []
    if side.name == "dora" and not is_encrypted:
        environment["DORA_COORDINATOR_CA"] = NO_TLS
        plain = ["--no-tls"]
    where = ("--coordinator-addr", address)
    options: dict[str, Any] = {"env": environment, "cwd": folder, "stdin": DEVNULL, "stderr": STDOUT}

    def background(host: Host, name: str, *arguments: str) -> Path:
        log = folder / f"{name}.txt"
        with log.open("wb") as output:
            host.popen([*side.command, *arguments], stdout=output, **options)
        return log

    logs = [background(first, "coordinator", "coordinator", "--interface", address, *plain)]
    _wait_for_port(address, logs)
    for name, host in hosts.items():
        logs.append(background(host, f"daemon-{name}", "daemon", "--machine-id", name, *where))
    _wait_for_daemons(side, first, environment, address, logs)

    def dora(*arguments: str) -> str:
        try:
            printed = first.run(
                [*side.command, *arguments, *where],
                env=environment,
                cwd=folder,
                status=None,
                timeout=PATIENCE_S,
            )
        except TimeoutExpired as error:
            said = (error.stdout or b"").decode(errors="replace")
            raise RunFailed(f"it did not end within {PATIENCE_S:.0f} s; {_tails(logs)}\n{said}") from None
        return printed

    yield dora


def _wait_for_port(address: str, logs: list[Path]) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection((address, COORDINATOR_PORT), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RunFailed(f"the coordinator does not listen: {error}\n{_tails(logs)}") from None
            time.sleep(0.05)


def _wait_for_daemons(
    side: Implementation, first: Host, environment: dict[str, str], address: str, logs: list[Path]
) -> None:
    """Wait until both daemons are connected, as the side's own command tells."""
    deadline = time.monotonic() + START_S
    command = [*side.command, "cluster", "status", "--coordinator-addr", address]
    while True:
        printed = first.run(command, env=environment, status=None)
        if all(name in printed for name in (FIRST, SECOND)):
            return
        if time.monotonic() > deadline:
            raise RunFailed(f"the daemons did not connect: {printed}\n{_tails(logs)}")
        time.sleep(1)  # dora-rs refuses who asks more often


def _tails(logs: Sequence[Path]) -> str:
    return "\n".join(
        f"{log.stem}: {line}" for log in logs for line in log.read_text(errors="replace").splitlines()[-5:]
    )


if __name__ == "__main__":
    sys.exit(main())
