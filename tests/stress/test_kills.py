"""Nodes, runtimes and ``dora run`` itself are killed at random moments, under traffic."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
from arena import Arena, Running, counts, kill
from rounds import ROUNDS, generator
from waiting import TIMEOUT, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.stress, pytest.mark.timeout(1800)]

Figure = Callable[[str], None]

# A ring, so that every node has an input that closes when any of the others dies. The source floods;
# every tenth message is large.
SOURCE = """
    from dora import Node
    node = Node()
    large, small, number = bytes(300_000), bytes(64), 0
    print("up", flush=True)
    while True:
        node.send_output("out", small if number % 10 else large)
        number += 1
        event = node.try_recv()
        if event is None or event["type"] == "INPUT":
            continue
        print(event["type"], event["id"], flush=True)
        if event["type"] == "STOP":
            break
"""
OPERATOR = """
    from dora import DoraStatus

    class Operator:
        def __init__(self):
            self.first = True

        def on_event(self, dora_event, send_output):
            if dora_event["type"] == "INPUT":
                send_output("out", dora_event["value"])
                if self.first:
                    print("up", flush=True)
                    self.first = False
            else:
                print(dora_event["type"], dora_event["id"], flush=True)
            return DoraStatus.CONTINUE
"""
SINK = """
    from dora import Node
    node, first = Node(), True
    for event in node:
        if event["type"] == "INPUT":
            node.send_output("out", event["value"])
            if first:
                print("up", flush=True)
                first = False
        else:
            print(event["type"], event["id"], flush=True)
"""

# Who listens to whom: victim → the node that must hear of its death, and on which input.
LISTENERS = {"source": ("host", "first/in"), "host": ("sink", "in"), "sink": ("source", "back")}


@pytest.fixture
def ring(arena: Arena) -> Arena:
    arena.node("source", SOURCE, inputs={"back": "sink/out"}, outputs=["out"])
    arena.file("forward.py", OPERATOR)
    arena.runtime(
        "host",
        {"id": "first", "python": "forward.py", "inputs": {"in": "source/out"}, "outputs": ["out"]},
        {"id": "second", "python": "forward.py", "inputs": {"in": "host/first/out"}, "outputs": ["out"]},
    )
    arena.node("sink", SINK, inputs={"in": "host/second/out"}, outputs=["out"])
    return arena


def wait_for_traffic(run: Running) -> None:
    wait_until(
        lambda: all("up" in run.printed(name) for name in LISTENERS) or run.process.poll() is not None,
        "traffic in the whole ring",
    )
    assert run.process.poll() is None, "\n".join(run.output)


def check_survivors(run: Running, victim: str) -> None:
    """The listener heard of the failure, then of the closing; everybody was asked to stop."""
    listener, input_id = LISTENERS[victim]
    heard = [line for line in run.printed(listener) if line != "up"]
    failed = heard.index(f"NODE_FAILED {victim}")
    if listener == "host":  # its operators know inputs by their own names
        input_id = input_id.partition("/")[2]
    closed = heard.index(f"INPUT_CLOSED {input_id}")
    assert failed < closed, heard
    for survivor in set(LISTENERS) - {victim}:
        assert any(line.startswith(("STOP", "INPUT_CLOSED")) for line in run.printed(survivor)), survivor


def run_and_kill(ring: Arena, victim: str, random: Random, *, early: bool) -> str:
    """Kill one node; returns when it was hit."""
    run = ring.start()
    if early:  # while everything is still starting
        wait_until(lambda: run.pid_of(victim) or run.process.poll() is not None, "the victim")
        time.sleep(random.uniform(0.0, 0.25))
    else:
        wait_for_traffic(run)
        time.sleep(random.uniform(0.0, 0.2))
    ring.run_ids()
    traffic = all("up" in run.printed(name) for name in LISTENERS)
    assert kill(run.pid_of(victim))
    status = run.wait()
    text = "\n".join(run.output)
    assert status == 1, text
    assert f"ode `{victim}` was killed by SIGKILL" in text  # also: "First cause: node …"
    assert "Traceback" not in text
    if traffic:
        check_survivors(run, victim)
    assert ring.remains() == []
    return "under traffic" if traffic else "at start"


@pytest.mark.parametrize("victim", LISTENERS)
def test_a_node_is_killed(ring: Arena, victim: str, figure: Figure) -> None:
    random, moments = generator(victim), Counter[str]()
    started = time.monotonic()
    for number in range(ROUNDS):
        moments[run_and_kill(ring, victim, random, early=number % 5 == 0)] += 1
    seconds = time.monotonic() - started
    figure(f"kill {victim}: {moments.total()} kills ({counts(moments)}) in {seconds:.0f} s")


@pytest.mark.parametrize("command", ["run", "record"])
def test_a_command_is_killed_in_its_first_second(ring: Arena, command: str, figure: Figure) -> None:
    """Its guardian is there before anything that it could leave."""
    started, slowest = time.monotonic(), 0.0
    steps = max(ROUNDS * 2 // 5, 1)
    for number in range(steps):
        run = ring.start(command=command)
        time.sleep(number / steps)
        ring.run_ids()
        kill(run.process.pid)
        killed = time.monotonic()
        assert run.wait() == -signal.SIGKILL
        wait_until(lambda: not ring.remains(), "the guardian's work")
        wait_until(lambda: not ring.processes(), "the end of all processes")
        slowest = max(slowest, time.monotonic() - killed)
    figure(
        f"kill dora {command} in its first second, {steps} times: all gone after {slowest:.2f} s at most, "
        f"in {time.monotonic() - started:.0f} s"
    )


def test_dora_run_is_killed(ring: Arena, figure: Figure) -> None:
    """Half of the times its guardian dies with it."""
    random, outcome = generator("dora run"), Counter[str]()
    started = time.monotonic()
    slowest = 0.0
    for number in range(ROUNDS):
        run = ring.start()
        wait_until(lambda run=run: ring.run_ids() or run.process.poll() is not None, "the run's directory")
        # What the last one left is gone now, at the latest.
        mine = ring.run_ids()
        assert len(mine) == 1
        assert ring.remains(but=mine) == []
        if number % 4:
            wait_for_traffic(run)
            time.sleep(random.uniform(0.0, 0.6))
        else:
            time.sleep(random.uniform(0.0, 0.4))
        if both := number % 2 == 0:
            kill(run.guardian())
        kill(run.process.pid)
        killed = time.monotonic()
        run.wait()
        if not both:
            wait_until(lambda: not ring.remains(), "the guardian's work")
            slowest = max(slowest, time.monotonic() - killed)
            outcome["guardian cleaned up"] += 1
        else:
            outcome["guardian killed too"] += 1
    last = ring.start("--stop-after", "0s")
    last.wait()
    wait_until(lambda: not ring.remains(), "an empty place after the next start", TIMEOUT)
    figure(
        f"kill dora run: {ROUNDS} kills ({counts(outcome)}; slowest clean-up {slowest:.2f} s) "
        f"in {time.monotonic() - started:.0f} s"
    )
