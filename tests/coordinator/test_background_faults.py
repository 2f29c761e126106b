"""What each fault costs under traffic, and what 200 starts and stops leave behind: ``make stress``."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest
from rounds import ROUNDS
from system import System
from waiting import alive, wait_until

from dora.cluster.agent.identity import running_daemon
from dora.cluster.client import Unreachable
from dora.cluster.protocol import RunSpec
from dora.daemon.load_dataflow import load_for_run
from dora.daemon.options import FileRunOptions

pytestmark = [pytest.mark.processes, pytest.mark.stress, pytest.mark.timeout(1800)]

CYCLES = 2 * ROUNDS
FAULTS = max(ROUNDS // 10, 1)  # of each kind

SOURCE = """
from dora import Node
node, number = Node(), 0
while True:
    node.send_output("out", number.to_bytes(8, "little") + bytes(4088))
    number += 1
    event = node.next(timeout=0.002)
    if event is not None and event["type"] == "STOP":
        break
"""
SINK = """
from dora import Node
expected = 0
for event in Node():
    if event["type"] == "INPUT":
        number = int.from_bytes(event["value"].to_numpy()[:8].tobytes(), "little")
        if number != expected:
            raise SystemExit(f"message {number} came instead of {expected}")
        expected += 1
        if expected % 50 == 0:
            open("progress", "w").write(str(expected))
    elif event["type"] == "STOP":
        break
"""
TRAFFIC = """
nodes:
  - {id: source, path: source.py, outputs: [out]}
  - id: sink
    path: sink.py
    inputs: {in: {source: source/out, queue_size: 1000, queue_policy: backpressure}}
"""


def traffic(system: System, name: str) -> str:
    """Write a dataflow whose messages are counted, in a folder of its own; return its file."""
    folder = system.folder / name
    folder.mkdir()
    (folder / "source.py").write_text(SOURCE)
    (folder / "sink.py").write_text(SINK)
    (folder / f"{name}.yml").write_text(TRAFFIC)
    return f"{name}/{name}.yml"


def progress(system: System, name: str) -> int:
    try:
        return int((system.folder / name / "progress").read_text() or 0)
    except FileNotFoundError:
        return 0


def test_recovery_times_after_faults(system: System, figure: Callable[[str], None]) -> None:
    system.dora("up")
    other, victim = traffic(system, "other"), traffic(system, "victim")
    seconds: dict[str, list[float]] = {}

    def measure(what: str, fault: Callable[[str], None], is_well: Callable[[str], bool]) -> None:
        run = system.start(victim)
        wait_until(lambda: progress(system, "victim"), "traffic")
        begun = time.monotonic()
        fault(run)
        wait_until(lambda: is_well(run), f"all to be well after: {what}")
        seconds.setdefault(what, []).append(time.monotonic() - begun)
        system.dora("up")
        system.try_dora("stop", "victim")
        (system.folder / "victim" / "progress").unlink(missing_ok=True)

    def failed(run: str) -> bool:
        try:
            return system.status_of(run) == "Failed" and not system.node_pids(run)
        except Unreachable:
            return False

    def kill_coordinator(run: str) -> None:  # noqa: ARG001
        os.kill(system.coordinator(), signal.SIGKILL)
        system.dora("up")

    def is_known(run: str) -> bool:
        return system.status_of(run) == "Running" and bool(system.client.status().daemons)

    def kill_daemon(run: str) -> None:  # noqa: ARG001
        os.kill(system.daemon(), signal.SIGKILL)
        system.dora("up")

    def kill_both(run: str) -> None:  # noqa: ARG001
        coordinator = system.coordinator()
        os.kill(system.daemon(), signal.SIGKILL)
        os.kill(coordinator, signal.SIGKILL)
        system.dora("up")

    def kill_source(run: str) -> None:
        """Kill the node whose end is the end of the dataflow."""
        (source,) = [
            pid for pid in system.node_pids(run) if "source.py" in psutil.Process(pid).cmdline()[-1]
        ]
        os.kill(source, signal.SIGKILL)

    faults: list[tuple[str, Callable[[str], None], Callable[[str], bool]]] = [
        ("coordinator, then dora up", kill_coordinator, is_known),
        ("process of the dataflow", lambda run: os.kill(system.worker(run), 9), failed),
        ("node", kill_source, failed),
    ]
    run = system.start(other)
    for _ in range(FAULTS):
        for what, fault, is_well in faults:
            measure(what, fault, is_well)
            before = progress(system, "other")
            wait_until(lambda before=before: progress(system, "other") > before, "the other's traffic")
    system.dora("stop", "other")
    assert system.status_of(run) == "Finished"
    for _ in range(FAULTS):
        measure("daemon, then dora up", kill_daemon, failed)
        measure("coordinator and daemon, then dora up", kill_both, failed)
    for what, found in seconds.items():
        found.sort()
        figure(
            f"{what}: {len(found)} times, median {found[len(found) // 2]:.2f} s, at most {found[-1]:.2f} s"
        )


class Footprint:
    """What coordinator and daemon hold at one moment."""

    def __repr__(self) -> str:
        return str(self.numbers)

    def __init__(self, system: System) -> None:
        self.numbers: dict[str, int] = {}
        self.memory: dict[str, int] = {}
        for name, pid in (("coordinator", system.coordinator()), ("daemon", system.daemon())):
            process = psutil.Process(pid)
            self.numbers[f"descriptors of the {name}"] = process.num_fds()
            self.numbers[f"threads of the {name}"] = process.num_threads()
            self.numbers[f"processes of the {name}"] = len(process.children(recursive=True))
            self.memory[name] = process.memory_info().rss
        self.numbers["run directories"] = sum(
            path.is_dir() for path in Path(os.environ["DORA_RUNTIME_DIR"]).iterdir()
        )


def test_starts_and_stops_leave_nothing(
    system: System, monkeypatch: pytest.MonkeyPatch, figure: Callable[[str], None]
) -> None:
    system.dora("up")
    file = traffic(system, "arm")
    monkeypatch.chdir(system.folder)
    dataflow = load_for_run(file, FileRunOptions())
    spec = RunSpec(name="", dataflow=msgspec.to_builtins(dataflow))

    runs: list[str] = []

    def cycle() -> None:
        run = system.client.start(spec).uuid
        assert system.client.wait(run, started=True).status == "Running"
        system.client.stop(run, None, False)
        assert system.client.wait(run).status == "Finished"
        runs.append(run)

    def holds_no_more_than(before: Footprint | None) -> bool:
        now = Footprint(system).numbers
        if before is None:
            return now["processes of the daemon"] == 0
        return all(now[name] <= number for name, number in before.numbers.items())

    for _ in range(CYCLES // 10):
        cycle()
    wait_until(lambda: holds_no_more_than(None), "the end of all runs")
    before = Footprint(system)
    begun = time.monotonic()
    steps = []  # the memory of the coordinator after each tenth, in MiB
    for number in range(CYCLES):
        cycle()
        if number % max(CYCLES // 10, 1) == 0:
            steps.append(Footprint(system).memory["coordinator"] / 2**20)
    seconds = time.monotonic() - begun
    wait_until(lambda: holds_no_more_than(before), f"as little as before, {before}")
    after = Footprint(system)
    names = {run[-12:] for run in runs}  # which the names of a run's shared memory contain
    assert not [name for name in os.listdir("/dev/shm") if any(end in name for end in names)]
    for name, memory in after.memory.items():
        assert memory - before.memory[name] < 4 << 20, f"{name}: {before.memory[name]} → {memory} bytes"
    size = sum(path.stat().st_size for path in Path(os.environ["DORA_DATA_DIR"]).iterdir())
    assert len(system.client.clean()) == CYCLES + CYCLES // 10
    assert system.client.dataflows() == []
    grown = {
        name: f"{(after.memory[name] - before.memory[name]) / 2**20:+.1f} MiB" for name in after.memory
    }
    figure(f"{CYCLES} starts and stops in {seconds:.0f} s; memory {grown}; records {size / 1024:.0f} KiB")
    figure(f"the coordinator after each tenth of them: {' '.join(f'{step:.1f}' for step in steps)} MiB")


def test_nothing_that_was_up_stays_after_down(system: System) -> None:
    for _ in range(FAULTS):
        system.dora("up")
        pids = [system.coordinator(), system.daemon()]
        system.dora("down")
        assert not any(alive(pid) for pid in pids)
    assert running_daemon("127.0.0.1", system.port) is None
