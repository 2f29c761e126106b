"""Processes that are killed at any moment: the others go on, all is counted, and nothing is left."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from kill_trial import SIZES, body, open_ledger
from linking import HERE, LIMIT, Bench, OutputPort, encode_config, until
from rounds import ROUNDS

from dora.transport.board import DROPPED, FIRST, RECEIVED, SENT
from dora.transport.shm.channel import remove_dead_processes
from dora.wire.node_config import InputConfig, OutputConfig

pytestmark = pytest.mark.processes
RECEIVERS = 2
# Of the queues, of what is held, and as much again for processes that died and are not cleaned up yet.
MOST_MEMORY = 100 * max(SIZES)


@dataclass
class Player:
    """One of the processes, and those that took its place."""

    role: str
    config: OutputConfig | InputConfig
    process: subprocess.Popen[str]
    kills: int = 0


def start(bench: Bench, role: str, config: OutputConfig | InputConfig) -> subprocess.Popen[str]:
    place = json.dumps([bench.name, bench.run_dir, bench.prefix, bench.board.path])
    command = [sys.executable, str(HERE / "kill_trial.py"), role, place, encode_config(config)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def await_start(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        _, errors = process.communicate(timeout=LIMIT)
        raise AssertionError(errors)


def kill(player: Player) -> None:
    """Kill a process that has found no fault."""
    player.process.kill()
    _, errors = player.process.communicate(timeout=LIMIT)
    assert player.process.returncode == -9, errors
    player.kills += 1


def occupied(bench: Bench) -> int:
    total = 0
    for path in Path(f"/dev/shm/{bench.prefix}links").rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue  # another process has just removed it
    return total


@pytest.mark.slow
@pytest.mark.parametrize(
    "kills", [15, pytest.param(10 * ROUNDS, marks=[pytest.mark.stress, pytest.mark.timeout(3600)])]
)
def test_kills_at_any_moment_harm_nobody_else_and_all_is_counted(
    shm_bench: Bench, kills: int, figure: Callable[[str], None]
) -> None:
    bench, choice = shm_bench, random.Random(kills)
    output, inputs = bench.describe(*(3 + 10 * number for number in range(RECEIVERS)))
    roles = [("send", output), *(("receive", item) for item in inputs), ("tap", output), ("clean", output)]
    players = [Player(role, config, start(bench, role, config)) for role, config in roles]
    started, largest = time.monotonic(), 0
    try:
        for player in players:
            await_start(player.process)
        for _ in range(kills):
            before = bench.board.get(output.slot, SENT)
            some = before + choice.randrange(1, 200)
            until(lambda some=some: bench.board.get(output.slot, SENT) >= some, "more messages")
            victim = choice.choice(players)
            kill(victim)
            victim.process = start(bench, victim.role, victim.config)
            if choice.random() < 0.3:  # while it joins
                time.sleep(choice.uniform(0.0, 0.5))
                kill(victim)
                victim.process = start(bench, victim.role, victim.config)
            await_start(victim.process)
            largest = max(largest, occupied(bench))
        assert largest < MOST_MEMORY
        # What a killed sender has counted and not sent, the next message shows.
        kill(players[0])
        sent = bench.board.get(output.slot, SENT) + 1
        last = OutputPort(output, bench.engine(), bench.board)
        last.send(body(sent))
        for item in inputs:
            until(lambda item=item: counted(bench, item) == sent, f"{sent} on {item.id}")
        last.sender.close()
        bench.engines[0].close()
        for player in players[1:]:
            kill(player)
    finally:
        for player in players:
            player.process.kill()
            player.process.communicate()
    for player, item in zip(players[1:], inputs, strict=False):
        assert counted(bench, item) == sent
        ledger = open_ledger(f"{bench.run_dir}/ledger-{item.slot}")
        got = ledger[: sent + 1]
        assert set(got) <= {0, 1}, "a message came twice"
        received = bench.board.get(item.slot, RECEIVED)
        # A process that was killed may have counted one message that it has not marked.
        assert received - player.kills <= sum(got) <= received
    assert remove_dead_processes(bench.prefix)
    left = [path for path in Path(f"/dev/shm/{bench.prefix}links").rglob("*") if path.is_file()]
    assert [path.name for path in left] == ["changes"]
    links = ", ".join(
        f"{bench.board.get(item.slot, RECEIVED):,} received + {bench.board.get(item.slot, DROPPED):,} "
        "dropped"
        for item in inputs
    )
    figure(
        f"shm: {sum(player.kills for player in players):,} kills ("
        + ", ".join(f"{player.role} {player.kills}" for player in players)
        + f"): {sent:,} sent = {links}; /dev/shm at most {largest / 2**20:.0f} MiB, "
        f"{time.monotonic() - started:.0f} s"
    )


def counted(bench: Bench, item: InputConfig) -> int:
    return sum(bench.board.get(item.slot, word) for word in (FIRST, RECEIVED, DROPPED))
