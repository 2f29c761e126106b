"""Kills and stops at moments at which more than messages is on its way: recordings, hot reloads."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable

import pytest
from arena import (
    SINK,
    Arena,
    Running,
    check_recording,
    command_of,
    counts,
    kill,
    programs_of,
    rings_of,
    script_of,
)
from rounds import FEW, generator
from waiting import wait_until

pytestmark = [pytest.mark.processes, pytest.mark.stress, pytest.mark.timeout(1800)]

Figure = Callable[[str], None]

SOURCE = """
    from dora import Node
    node, number = Node(), 0
    large, small = bytes(300_000), bytes(64)
    while True:
        node.send_output("out", small if number % 10 else large)
        number += 1
        if number == 20:
            print("up", flush=True)
        event = node.next(timeout=0.001)
        if event is not None and event["type"] == "STOP":
            break
"""


@pytest.fixture
def flow(arena: Arena) -> Arena:
    arena.node("source", SOURCE, outputs=["out"])
    arena.node("sink", SINK, inputs={"in": {"source": "source/out", "queue_size": 1000}})
    return arena


def wait_for_traffic(run: Running) -> None:
    wait_until(lambda: run.printed("source") or run.process.poll() is not None, "traffic")
    assert run.process.poll() is None, "\n".join(run.output)


RECORDING_VICTIMS = ("source", "recorder", "dora record", "dora record and guardian")


@pytest.mark.parametrize("victim", RECORDING_VICTIMS)
def test_a_kill_while_recording(flow: Arena, victim: str, figure: Figure) -> None:
    random, files = generator(f"record, kill {victim}"), Counter[str]()
    started = time.monotonic()
    for number in range(FEW):
        path = flow.directory / f"{number}.mcap"
        run = flow.start("-o", str(path), command="record")
        wait_for_traffic(run)
        flow.run_ids()
        recorder = run.recorder()
        assert recorder
        time.sleep(random.uniform(0.0, 1.2))
        if victim == "source":
            assert kill(run.pid_of("source"))
        elif victim == "recorder":
            assert kill(recorder)
            wait_until(lambda run=run: "the recorder was killed" in "\n".join(run.output), "a warning")
            run.process.send_signal(signal.SIGINT)
        else:
            if victim == "dora record and guardian":
                kill(run.guardian())
            kill(run.process.pid)
        status = run.wait()
        text = "\n".join(run.output)
        assert "Traceback" not in text
        if victim == "source":
            assert status == 1 and "ode `source` was killed by SIGKILL" in text, text
        elif victim == "recorder":
            assert status == 1 and "what it has written can be read" in text, text
        else:
            assert status == -signal.SIGKILL
            if victim == "dora record and guardian":
                flow.start("--stop-after", "0s").wait()
        wait_until(lambda: not flow.remains(), "an empty place")
        wait_until(lambda recorder=recorder: not command_of(recorder), "the end of the recorder")
        wait_until(lambda recorder=recorder: not rings_of(recorder), "the end of its ring buffers")
        messages, complete = check_recording(path)
        files["complete" if complete else "marked incomplete" if messages else "empty"] += 1
        path.unlink()
    figure(
        f"kill {victim} while recording: {FEW} kills, files: {counts(files)}, in "
        f"{time.monotonic() - started:.0f} s"
    )


# ---------------------------------------------------------------------- hot reload

VERSIONS = """
    import time
    from dora import Node
    time.sleep({pause})
    node = Node()
    number = int(node.load_state() or 0)
    print("version", {version}, flush=True)
    for event in node:
        if event["type"] == "INPUT":
            number += 1
            node.send_output("out", number.to_bytes(8, "little"))
    node.save_state(str(number).encode())
"""


@pytest.mark.parametrize("victim", ["old process", "new process", "any node", "dora run"])
def test_a_kill_during_a_hot_reload(arena: Arena, victim: str, figure: Figure) -> None:
    """After it, the next version of the code runs, or all is gone."""
    random, outcome = generator(f"hot reload, kill {victim}"), Counter[str]()
    started = time.monotonic()
    arena.node("source", VERSIONS, inputs={"tick": "dora/timer/millis/5"}, outputs=["out"])
    arena.node("sink", SINK, inputs={"in": "source/out"})
    for _ in range(FEW):
        save_version(arena, 1)
        run = arena.start("--hot-reload")
        wait_until(lambda run=run: "version 1" in run.printed("source"), "the first version")
        flow_ids = arena.run_ids()
        assert len(flow_ids) == 1
        (old,) = processes_of(run, "source")
        time.sleep(random.uniform(0.0, 0.3))
        save_version(arena, 2, pause=random.choice((0.0, 0.0, 0.3)))
        if victim == "new process":
            wait_until(lambda run=run: len(processes_of(run, "source")) > 1, "the new process")
        time.sleep(random.uniform(0.0, 0.2 if victim == "new process" else 0.6))
        if victim == "dora run":
            kill(run.process.pid)
            run.wait()
            outcome["everything gone"] += 1
        else:
            pids = processes_of(run, "source")
            if victim == "new process":
                pids = [pid for pid in pids if pid != old]
            elif victim == "old process":
                pids = [old]
            else:
                pids.append(run.pid_of("sink"))
            outcome["hit" if kill(random.choice(pids)) else "already replaced"] += 1
            save_version(arena, 3)
            wait_until(
                lambda run=run: "version 3" in run.printed("source") or run.process.poll() is not None,
                "the third version",
            )
            outcome["next version ran" if run.process.poll() is None else "dataflow failed"] += 1
            run.process.send_signal(signal.SIGINT)
            status = run.wait()
            text = "\n".join(run.output)
            outcome[f"status {status}"] += 1
            assert "Traceback" not in text
        wait_until(lambda: not arena.remains(), "an empty place")
    figure(
        f"kill {victim} during a hot reload: {FEW} kills: {counts(outcome)}, in "
        f"{time.monotonic() - started:.0f} s"
    )


def save_version(arena: Arena, version: int, pause: float = 0.0) -> None:
    arena.file("source.py", VERSIONS.format(version=version, pause=pause))


def processes_of(run: Running, node_id: str) -> list[int]:
    return [pid for pid in programs_of(run.process.pid) if script_of(pid) == node_id]


# ---------------------------------------------------------------------- guardians and stopped processes


def test_guardians_are_killed(flow: Arena, figure: Figure) -> None:
    """Up to three in a row, then ``dora run``: the last guardian, or the next start, cleans up."""
    random, outcome, killed = generator("guardians"), Counter[str](), set[int]()
    started = time.monotonic()
    for _ in range(FEW):
        run = flow.start()
        wait_for_traffic(run)
        flow.run_ids()
        for _ in range(random.randint(1, 3)):
            wait_until(lambda run=run: run.guardian() not in {0, *killed}, "a guardian")
            killed.add(guardian := run.guardian())
            kill(guardian)
            time.sleep(random.uniform(0.0, 0.1))
        another = run.guardian() not in {0, *killed}
        kill(run.process.pid)
        assert run.wait() == -signal.SIGKILL
        if not another:
            flow.start("--stop-after", "0s").wait()
        wait_until(lambda: not flow.remains(), "an empty place")
        outcome["cleaned up by a new guardian" if another else "cleaned up by the next start"] += 1
    figure(
        f"kill {len(killed)} guardians, then dora run: {FEW} rounds: {counts(outcome)}, in "
        f"{time.monotonic() - started:.0f} s"
    )


@pytest.mark.parametrize("victim", ["source", "sink", "dora run"])
def test_a_stopped_process_continues(flow: Arena, victim: str, figure: Figure) -> None:
    """SIGSTOP for up to a second under traffic: nothing fails, and every message is accounted for."""
    random = generator(f"continue {victim}")
    started = time.monotonic()
    run = flow.start()
    wait_for_traffic(run)
    for _ in range(FEW):
        pid = run.process.pid if victim == "dora run" else run.pid_of(victim)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(random.uniform(0.0, 1.0))
        os.kill(pid, signal.SIGCONT)
        time.sleep(random.uniform(0.0, 0.1))
    assert run.process.poll() is None
    run.process.send_signal(signal.SIGINT)
    assert run.wait() == 0, "\n".join(run.output)
    wait_until(lambda: not flow.remains(), "an empty place")
    figure(f"stop and continue {victim}: {FEW} times, in {time.monotonic() - started:.0f} s")


@pytest.mark.parametrize("victim", ["source", "sink", "guardian"])
@pytest.mark.parametrize("end", ["Ctrl-C", "kill"])
def test_an_end_while_a_process_is_stopped(flow: Arena, victim: str, end: str, figure: Figure) -> None:
    """A node that stays stopped is killed after the grace; a stopped guardian waits."""
    random, slowest = generator(f"stopped {victim}, {end}"), 0.0
    for _ in range(FEW):
        run = flow.start("--grace-duration", "1s")
        wait_for_traffic(run)
        flow.run_ids()
        pid = run.pid_of(victim)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(random.uniform(0.0, 0.3))
        begun = time.monotonic()
        if end == "kill":
            kill(run.process.pid)
        else:
            run.process.send_signal(signal.SIGINT)
        status = run.wait()
        text = "\n".join(run.output)
        if end == "kill" and victim == "guardian":
            flow.start("--stop-after", "0s").wait()
        if victim == "guardian":
            if command_of(pid):
                os.kill(pid, signal.SIGCONT)
            wait_until(lambda pid=pid: not command_of(pid), "the end of the guardian")
        wait_until(lambda: not flow.remains(), "an empty place")
        slowest = max(slowest, time.monotonic() - begun)
        if end == "kill":
            assert status == -signal.SIGKILL
        elif victim == "guardian":
            assert status == 0, text
        else:
            assert status == 1 and f"ode `{victim}`" in text, text
        assert "Traceback" not in text
    figure(f"{end} while {victim} is stopped: {FEW} times, all gone after {slowest:.1f} s at most")
