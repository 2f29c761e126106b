"""Senders and receivers that are killed at any moment: the others go on, and nothing is left in the end."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from linking import HERE, LIMIT, Bench, encode_config, until
from rounds import ROUNDS

from dora.transport.board import SENT
from dora.transport.shm.channel import remove_dead_processes
from dora.wire.node_config import InputConfig, OutputConfig

pytestmark = pytest.mark.processes
RECEIVERS = 2


def start(bench: Bench, role: str, config: OutputConfig | InputConfig) -> subprocess.Popen[str]:
    place = json.dumps([bench.name, bench.run_dir, bench.prefix, bench.endpoint, bench.board.path])
    command = [sys.executable, str(HERE / "kill_trial.py"), role, place, encode_config(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process that has found no fault."""
    process.kill()
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == -9, errors


@pytest.mark.parametrize(
    "kills", [15, pytest.param(10 * ROUNDS, marks=[pytest.mark.stress, pytest.mark.timeout(3000)])]
)
def test_kills_at_any_moment_harm_nobody_else(shm_bench: Bench, kills: int) -> None:
    bench, choice = shm_bench, random.Random(kills)
    output, inputs = bench.describe(*(3 + 10 * number for number in range(RECEIVERS)))
    roles = [("send", output), *(("receive", item) for item in inputs)]
    running = [start(bench, role, config) for role, config in roles]
    try:
        for _ in range(kills):
            before = bench.board.get(output.slot, SENT)
            some = before + choice.randrange(1, 200)
            until(lambda some=some: bench.board.get(output.slot, SENT) >= some, "more messages")
            victim = choice.randrange(len(running))
            kill(running[victim])
            remove_dead_processes(bench.prefix)  # False if a receiver has not read all yet
            running[victim] = start(bench, *roles[victim])
    finally:
        for process in running:
            process.kill()
    for process in running:
        _, errors = process.communicate(timeout=LIMIT)
        assert process.returncode == -9, errors
    assert remove_dead_processes(bench.prefix)
    left = [path for path in Path(f"/dev/shm/{bench.prefix}links").rglob("*") if path.is_file()]
    assert [path.name for path in left] == ["changes"]
