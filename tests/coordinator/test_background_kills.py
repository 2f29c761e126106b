"""Coordinator, daemon, runs and nodes killed at random moments, again and again: ``make stress``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from random import Random

import psutil
import pytest
from rounds import FEW, ROUNDS, generator
from system import FOREVER, System
from waiting import TIMEOUT, wait_until

from dora.cluster.agent.identity import running_daemon
from dora.cluster.client import Unreachable
from dora.cluster.protocol import ACTIVE

pytestmark = [pytest.mark.processes, pytest.mark.stress, pytest.mark.timeout(1800)]


# What the daemon has started, by a word of its command line.
PROGRAMS = {"run": "dora.cluster.agent.worker", "template": "/dora/daemon/template/"}


def victim(system: System, kind: str, chance: Random) -> int | None:
    """Return a process of this kind, None if there is none now."""
    try:
        if kind == "coordinator":
            return system.coordinator()
        daemon = running_daemon("127.0.0.1", system.port)
        if kind == "daemon":
            return daemon
        if kind in PROGRAMS:
            children = psutil.Process(daemon).children() if daemon else []
            pids = [child.pid for child in children if PROGRAMS[kind] in " ".join(child.cmdline())]
        else:
            running = system.client.active()
            pids = system.node_pids(chance.choice(running).uuid) if running else []
    except (Unreachable, psutil.Error):
        return None
    return chance.choice(pids) if pids else None


def test_commands_work_after_any_kill(system: System, figure: Callable[[str], None]) -> None:
    chance, rounds = generator("background"), max(ROUNDS // 2, 1)
    file = system.dataflow("arm", a=FOREVER, b=FOREVER)
    killed: Counter[str] = Counter()
    started = []
    for _ in range(rounds):
        system.dora("up")
        started += [system.start(file) for _ in range(chance.randint(1, 2))]
        for _ in range(chance.randint(1, 3)):
            kind = chance.choice(["coordinator", "daemon", "run", "node", "template"])
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


def wait_for_request(system: System, command: subprocess.Popen[str]) -> None:
    """Wait until a command has a connection to the coordinator."""
    deadline = time.monotonic() + TIMEOUT
    while command.poll() is None and time.monotonic() < deadline:
        try:
            connections = psutil.Process(command.pid).net_connections("tcp")
        except psutil.Error:
            continue  # it has just ended
        if any(connection.raddr and connection.raddr.port == system.port for connection in connections):
            return
        time.sleep(0.001)


COMMANDS = ("up", "start", "stop", "node add")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_kill_while_a_command_runs(system: System, command: str, figure: Callable[[str], None]) -> None:
    """The command ends in time, with status 0 or an error of a sentence, and the next ones work."""
    chance = generator(f"while {command} runs")
    file = system.dataflow("arm", a=FOREVER, b=FOREVER)
    (system.folder / "more.yml").write_text(
        "id: more\npath: arm_a.py\ninputs: {tick: dora/timer/millis/50}\n"
    )
    outcome: Counter[str] = Counter()
    started = time.monotonic()
    for number in range(FEW):
        if command != "up" or number % 2:
            system.dora("up")
        run = system.start(file) if command in ("stop", "node add") else ""
        arguments = {
            "up": ["up"],
            "start": ["start", file, "--detach"],
            "stop": ["stop", "--all"],
            "node add": ["node", "add", "--from-yaml", "more.yml"],
        }[command]
        running = subprocess.Popen(
            [sys.executable, "-m", "dora", *arguments],
            cwd=system.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if number % 4:  # else while it starts
            wait_for_request(system, running)
        time.sleep(chance.random() * 0.4)
        kind = chance.choice(["coordinator", "daemon", "run"])
        if (pid := victim(system, kind, chance)) is not None and pid > 1:
            try:
                os.kill(pid, signal.SIGKILL)
                outcome[f"{kind} killed"] += 1
            except ProcessLookupError:
                pass
        try:
            printed, _ = running.communicate(timeout=60)
        finally:
            running.kill()
            running.wait()
        assert "Traceback" not in printed, printed
        assert running.returncode in (0, 1), printed
        assert running.returncode == 0 or printed.strip(), "an error without a sentence"
        outcome[f"status {running.returncode}"] += 1
        system.dora("up")
        if command == "start" and running.returncode == 0:
            run = printed.split()[-1]
        if run:
            assert system.status_of(run) in (*ACTIVE, "Finished", "Failed")
        system.try_dora("stop", "--all")
        wait_until(lambda: not system.client.active(), "the end of all dataflows")
        for view in system.client.dataflows():
            wait_until(lambda view=view: not system.node_pids(view.uuid), f"the end of {view.uuid}")
    figure(
        f"kills while `dora {command}` runs: {FEW} rounds, {dict(sorted(outcome.items()))}, in "
        f"{time.monotonic() - started:.0f} s"
    )
