"""The template process is killed or stopped at random moments, alone or with others, under traffic."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable

import pytest
from arena import Arena, Running, counts, is_template, kill, programs_of
from rounds import FEW, ROUNDS, generator
from waiting import wait_until

pytestmark = [pytest.mark.processes, pytest.mark.stress, pytest.mark.timeout(3600)]

Figure = Callable[[str], None]

SENDER = """
    from dora import Node
    node, number = Node(), 0
    large, small = bytes(300_000), bytes(64)
    while True:
        node.send_output("out", small if number % 10 else large)
        number += 1
        event = node.next(timeout=0.001)
        if event is not None and event["type"] == "STOP":
            break
"""
RECEIVER = """
    import pyarrow
    from dora import Node
    total = 0
    for event in Node():
        if event["type"] == "INPUT":
            total += 1
            if total % 20 == 0:
                print("received", total, flush=True)
        else:
            print(event["type"], flush=True)
"""
# Is restarted again and again; one that names a package is a node of a child template.
SHORT = """
    import os
    import sys
    with open(f"/proc/{os.getppid()}/cmdline") as file:
        way = "forked" if "dora/daemon/template" in file.read() else "plain"
    open_now = [name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")]
    status = os.getpid() % 5
    print("start", way, ",".join(sorted(open_now)), status, flush=True)
    from dora import Node
    Node()
    sys.exit(status)
"""
START = re.compile(r"start (forked|plain) (\S+) (\d)")


@pytest.fixture
def flow(arena: Arena) -> Arena:
    again = {"restart_policy": "always", "restart_delay": 0.01, "max_restart_delay": 0.05}
    arena.node("sender", SENDER, outputs=["out"])
    arena.node("receiver", RECEIVER, inputs={"in": {"source": "sender/out", "queue_size": 1000}})
    arena.node("short", SHORT, **again)
    arena.node("other", SHORT, preload=["yaml"], **again)
    return arena


def templates_of(run: Running) -> list[int]:
    """Return the template processes of a run, the base first."""
    return [pid for pid in programs_of(run.process.pid) if is_template(pid)]


def received(run: Running) -> int:
    lines = [line for line in run.printed("receiver") if line.startswith("received")]
    return int(lines[-1].split()[1]) if lines else 0


def wait_for_messages(run: Running) -> None:
    """Wait until messages have arrived that were sent after this call."""
    count = received(run)
    wait_until(lambda: received(run) > count + 40 or run.process.poll() is not None, "messages")
    assert run.process.poll() is None, "\n".join(run.output)


def starts_of(run: Running) -> list[re.Match[str]]:
    lines = [*run.printed("short"), *run.printed("other")]
    return [match for line in lines if (match := START.fullmatch(line))]


def wait_for_starts(run: Running, way: str, of: int = 0) -> None:
    wait_until(lambda: [match[1] for match in starts_of(run)[of:]].count(way) > 0, f"a node that is {way}")


def check(run: Running, arena: Arena) -> Counter[str]:
    """After the end: exit codes are true, nobody has got a descriptor of others, nothing is left."""
    text = "\n".join(run.output)
    assert "Traceback" not in text, text
    assert "INPUT_CLOSED" not in text.partition("STOP")[0], text
    assert "NODE_FAILED" not in text, text
    ways: Counter[str] = Counter()
    for node in ("short", "other"):
        starts = [match for line in run.printed(node) if (match := START.fullmatch(line))]
        said = re.findall(rf"{node}: exited with status (\S+); restarting", text)
        assert said == [match[3] for match in starts[: len(said)]], text
        assert len(starts) - len(said) <= 1, text
        ways.update(match[1] for match in starts)
        assert {match[2] for match in starts} <= {"0,1,2"}, text
    wait_until(lambda: not arena.remains(), "an empty place")
    wait_until(lambda: not arena.processes(), "the end of all processes")
    return ways


MOMENTS = ("while it starts", "under traffic", "with all others", "at the stop")


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_template_is_killed(flow: Arena, moment: str, figure: Figure) -> None:
    numbers, ways, kills = generator(f"template {moment}"), Counter[str](), Counter[str]()
    started = time.monotonic()
    rounds = max(ROUNDS // len(MOMENTS), 1)
    for _ in range(rounds):
        run = flow.start()
        if moment == "while it starts":
            wait_until(lambda run=run: templates_of(run), "a template")
            time.sleep(numbers.uniform(0.0, 0.5))
        else:
            wait_for_messages(run)
        if moment == "at the stop":
            run.process.send_signal(signal.SIGINT)
        time.sleep(numbers.uniform(0.0, 0.3))
        templates = templates_of(run)
        victims = templates if moment == "with all others" else templates[:1] or templates
        if moment == "under traffic" and templates and numbers.random() < 0.5:
            victims = [numbers.choice(templates)]
        for victim in victims:
            kills["killed" if kill(victim) else "gone already"] += 1
        if moment != "at the stop":
            wait_for_messages(run)
            wait_for_starts(run, "forked", of=len(starts_of(run)))
            run.process.send_signal(signal.SIGINT)
        run.wait()
        ways += check(run, flow)
    figure(
        f"kill the template {moment}: {rounds} rounds ({counts(kills)}; starts: "
        f"{counts(ways)}) in {time.monotonic() - started:.0f} s"
    )


def test_the_template_is_stopped(flow: Arena, figure: Figure) -> None:
    """Nodes start plainly after a bounded time, and dora run ends as always."""
    numbers, ways, slowest = generator("template stopped"), Counter[str](), 0.0
    started = time.monotonic()
    for number in range(FEW):
        run = flow.start()
        wait_for_messages(run)
        time.sleep(numbers.uniform(0.0, 0.3))
        stopped = templates_of(run)
        for template in stopped:
            os.kill(template, signal.SIGSTOP)
        since = time.monotonic()
        wait_for_starts(run, "plain", of=len(starts_of(run)))
        slowest = max(slowest, time.monotonic() - since)
        wait_for_messages(run)
        if number % 2:
            for template in stopped:
                os.kill(template, signal.SIGCONT)
            wait_for_starts(run, "forked", of=len(starts_of(run)))
        run.process.send_signal(signal.SIGINT)
        run.wait()
        ways += check(run, flow)
    figure(
        f"stop the template: {FEW} rounds (starts: {counts(ways)}; the first one after {slowest:.1f} s at "
        f"most) in {time.monotonic() - started:.0f} s"
    )


OTHERS = ("dora run", "dora run and its guardian", "dora run while the template is stopped")


@pytest.mark.parametrize("others", OTHERS)
def test_the_template_is_killed_with_others(flow: Arena, others: str, figure: Figure) -> None:
    numbers, slowest = generator(f"template and {others}"), 0.0
    started = time.monotonic()
    for number in range(FEW):
        run = flow.start()
        if number % 3:
            wait_for_messages(run)
        else:
            wait_until(lambda run=run: templates_of(run), "a template")
        time.sleep(numbers.uniform(0.0, 0.6))
        flow.run_ids()
        templates, guardian = templates_of(run), run.guardian()
        if "stopped" in others:
            for template in templates:
                os.kill(template, signal.SIGSTOP)
        victims = [run.process.pid, *(templates if "stopped" not in others else ())]
        victims += [guardian] if "guardian" in others else []
        numbers.shuffle(victims)
        for victim in victims:
            kill(victim)
        killed = time.monotonic()
        run.wait()
        if "guardian" in others:
            flow.start("--stop-after", "0s").wait()
        wait_until(lambda: not flow.remains(), "an empty place")
        wait_until(lambda: not flow.processes(), "the end of all processes")
        slowest = max(slowest, time.monotonic() - killed)
    figure(
        f"kill the template and {others}: {FEW} rounds (all gone after {slowest:.1f} s at most) in "
        f"{time.monotonic() - started:.0f} s"
    )
