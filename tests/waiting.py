"""Waiting for a condition, and asking whether dataflows run and processes are alive."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

# How many times slower this machine is: `make arm64` runs tests on a processor that is emulated.
SLOWDOWN = float(os.environ.get("DORA_TEST_SLOWDOWN", "1"))
TIMEOUT = 60.0 * SLOWDOWN  # seconds that anything may take on a busy machine


def wait_until(condition: Callable[[], T], what: str | Callable[[], str], timeout: float = TIMEOUT) -> T:
    """Wait until a condition is true, at most ``timeout`` seconds, and return its value.

    ``what`` describes it in the error. The pauses grow, and are at least twice as long as the condition
    takes: other tests need the processor for what is waited for.
    """
    begin = time.monotonic()
    while True:
        asked = time.monotonic()
        if value := condition():
            return value
        now = time.monotonic()
        if now - begin > timeout:
            raise AssertionError(f"waited {timeout:g} s for {what if isinstance(what, str) else what()}")
        time.sleep(min(0.1, max(0.001, (now - begin) / 20, 2 * (now - asked))))


def all_nodes_run(name: str) -> bool:
    """Return whether a dataflow of this name runs, and all its nodes, but for dynamic ones."""
    from dora.daemon.client import name_of, running
    from dora.errors import DoraError
    from dora.observe.tap_session import inspect

    found = False
    for run in running():
        with run:
            if name_of(run.description) == name:
                try:
                    nodes = inspect(run).nodes
                except DoraError:
                    continue
                found = all(node.status in ("Running", "Not connected") for node in nodes)
    return found


def alive(pid: int) -> bool:
    """Return whether a process exists and is no zombie.

    A process that is killed keeps its sockets until its last thread has ended; the first one may be a
    zombie before.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0] != "Z" or int(fields[17]) > 1  # its threads: proc(5)
    except OSError:
        return False


def guardian_of(pid: int) -> int | None:
    """Return the guardian that a process with a daemon has started for its run."""
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat, open(f"/proc/{name}/cmdline", "rb") as line:
                    parent = int(stat.read().rpartition(b")")[2].split()[1])
                    if parent == pid and b"guardian.py" in line.read():
                        return int(name)
            except OSError:
                continue
    return None
