"""Coordinator, daemon, runs and nodes killed at random moments, again and again: ``make stress``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from rounds import ROUNDS, generator
from system import FOREVER, System

from dora.cluster.agent.identity import running_daemon
from dora.cluster.client import Unreachable
from dora.cluster.protocol import ACTIVE

pytestmark = [pytest.mark.processes, pytest.mark.stress, pytest.mark.timeout(1800)]


def victim(system: System, kind: str, chance: Random) -> int | None:
    """Return a process of this kind, None if there is none now."""
    try:
        if kind == "coordinator":
            return system.coordinator()
        if kind == "daemon":
            return running_daemon("127.0.0.1", system.port)
        running = system.client.active()
    except Unreachable:
        return None
    pids = system.node_pids(chance.choice(running).uuid) if running else []
    if not pids or kind == "node":
        return chance.choice(pids) if pids else None
    try:
        return int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def test_commands_work_after_any_kill(system: System, figure: Callable[[str], None]) -> None:
    chance, rounds = generator("background"), max(ROUNDS // 2, 1)
    file = system.dataflow("arm", a=FOREVER, b=FOREVER)
    killed: Counter[str] = Counter()
    started = []
    for _ in range(rounds):
        system.dora("up")
        started += [system.start(file) for _ in range(chance.randint(1, 2))]
        for _ in range(chance.randint(1, 3)):
            kind = chance.choice(["coordinator", "daemon", "run", "node"])
            pid = victim(system, kind, chance)
            if pid is not None and pid > 1:
                try:
                    os.kill(pid, signal.SIGKILL)
                    killed[kind] += 1
                except ProcessLookupError:
                    pass
            time.sleep(chance.random() * 0.3)  # the moments are the point
        system.dora("up")
        told = subprocess.run(
            [sys.executable, "-m", "dora", "stop", "--all"],
            cwd=system.folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "Stopped " in told.stdout, told  # with status 1 if a node was killed meanwhile
    recorded = {view.uuid: view.status for view in system.client.dataflows()}
    assert set(recorded) == set(started)
    assert not [run for run, status in recorded.items() if status in ACTIVE]
    assert not [run for run in started if system.node_pids(run)]
    figure(f"{rounds} rounds, {len(started)} dataflows, killed: {dict(killed)}")
