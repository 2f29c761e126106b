"""A disk without room for logs and records: a small file system that is really full."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from system import System
from waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.processes

TALKER = """
import sys
from dora import Node
for number, event in enumerate(Node()):
    for _ in range(20):
        print("x" * 5000, flush=True)
    with open({path!r}, "w") as file:
        file.write(str(number))
"""


def talker(system: System, disk: Path) -> str:
    """Write a dataflow onto the small disk whose node counts its events elsewhere; return its file."""
    (disk / "talker.py").write_text(TALKER.format(path=str(system.folder / "count")))
    node = {"id": "talker", "path": "talker.py", "inputs": {"tick": "dora/timer/millis/20"}}
    (disk / "talker.yml").write_text(json.dumps({"nodes": [node]}))
    return str(disk / "talker.yml")


def count(system: System) -> int:
    try:
        return int((system.folder / "count").read_text() or 0)
    except FileNotFoundError:
        return 0


def test_a_run_continues_with_a_warning_when_logs_have_no_space(system: System, small_disk: Path) -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "dora", "run", talker(system, small_disk), "--log-format", "compact"],
        cwd=system.folder,
        stdout=(system.folder / "told").open("w"),
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_until(lambda: count(system) > 8, "a node that goes on")
        run.send_signal(signal.SIGINT)
        assert run.wait(TIMEOUT) == 0
    finally:
        run.kill()
        run.wait()
    told = (system.folder / "told").read_text()
    assert told.count("cannot write log files in ") == 1
    assert "No space left on device; the dataflow goes on, and its log files lack lines" in told
    assert "Log entries that could not be written to the log files: " in told
    (log,) = small_disk.glob("out/*/log_talker.jsonl")
    assert all(json.loads(line)["node"] == "talker" for line in log.read_text().splitlines())


@pytest.mark.slow
def test_in_the_background_too(system: System, small_disk: Path) -> None:
    system.dora("up")
    system.start(talker(system, small_disk))
    wait_until(lambda: count(system) > 8, "a node that goes on")
    assert "Log entries that could not be written to the log files: " in system.dora("stop")
    log = (system.folder / "out" / "dora-daemon.txt").read_text()
    assert log.count("the dataflow goes on, and its log files lack lines") == 1


@pytest.mark.slow
def test_a_store_without_room(system: System, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DORA_DATA_DIR", str(small_disk))
    system.dora("up")
    file = system.dataflow("arm", a="from dora import Node\nfor event in Node(): pass")
    running = system.start(file)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as everything:
        try:
            while everything.write(bytes(512)):
                pass
        except OSError:
            pass
    # As much as fits into what the store has already; then it is refused, and what runs goes on.
    long = json.loads((system.folder / file).read_text()) | {"env": {"LONG": "x" * 100_000}}
    (system.folder / "long.yml").write_text(json.dumps(long))
    refused = ""
    for _ in range(20):
        status, printed = system.try_dora("start", "long.yml", "--detach")
        if status:
            refused = printed
            break
    assert "error: the dataflow cannot be recorded, and is not started: " in refused
    system.dora("stop", "--all")
    assert system.status_of(running) == "Finished"
    filler.unlink()
    wait_until(lambda: "can be written again" in coordinator_log(system), "the disk to be used again")
    system.start(file)


def coordinator_log(system: System) -> str:
    return (system.folder / "out" / "dora-coordinator.txt").read_text()
