"""Nodes that fork, nodes that print without end, and full disks, with kills while all that goes on."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from arena import SINK, Arena, account, check_recording, counts, kill, rings_of
from rounds import FEW, ROUNDS, generator
from waiting import wait_until

pytestmark = [pytest.mark.processes, pytest.mark.stress, pytest.mark.timeout(1800)]

Figure = Callable[[str], None]

# Children that ignore signals: one, a grandchild whose parent has ended, and one in a session of its own.
FORKING = """
    import os, signal, sys, time
    from dora import Node

    node = Node()

    def stay():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        time.sleep(1000)
        os._exit(0)

    if os.fork() == 0:
        stay()
    if sys.argv[1] == "leave" and os.fork() == 0:
        os.setsid()
        stay()
    between = os.fork()
    if between == 0:
        if os.fork() == 0:
            stay()
        os._exit(0)
    os.waitpid(between, 0)
    number = 0
    while True:
        node.send_output("out", number.to_bytes(8, "little"))
        number += 1
        if number == 20:
            print("up", flush=True)
        event = node.next(timeout=0.002)
        if event is not None and event["type"] == "STOP":
            break
"""


@pytest.mark.parametrize("end", ["kill the node", "kill dora run", "Ctrl-C"])
def test_no_child_of_a_node_outlives_its_dataflow(arena: Arena, end: str, figure: Figure) -> None:
    random, slowest = generator(f"children, {end}"), 0.0
    # One that leaves its process group outlives its node on purpose, but not a dora run that is killed.
    leave = "leave" if end == "kill dora run" else "stay"
    arena.node("source", FORKING, args=leave, outputs=["out"])
    arena.node("sink", SINK, inputs={"in": "source/out"})
    for _ in range(FEW):
        run = arena.start()
        wait_until(lambda run=run: run.printed("source") or run.process.poll() is not None, "traffic")
        assert run.process.poll() is None, "\n".join(run.output)
        arena.run_ids()
        time.sleep(random.uniform(0.0, 0.8))
        begun = time.monotonic()
        if end == "kill the node":
            (source,) = [pid for pid in (run.pid_of("source"),) if pid]
            kill(source)
        elif end == "kill dora run":
            kill(run.process.pid)
        else:
            run.process.send_signal(signal.SIGINT)
        status = run.wait()
        wait_until(lambda: not arena.remains(), "an empty place")
        slowest = max(slowest, time.monotonic() - begun)
        text = "\n".join(run.output)
        assert "Traceback" not in text
        if end == "kill the node":
            assert status == 1 and "ode `source` was killed by SIGKILL" in text, text
            heard = run.printed("sink")
            assert heard.index("NODE_FAILED source") < heard.index("INPUT_CLOSED in"), heard
        elif end == "Ctrl-C":
            assert status == 0, text
    figure(f"a node with children, {end}: {FEW} times, all gone after {slowest:.2f} s at most")


PRINTING = """
    import sys
    from dora import Node

    kind, size = sys.argv[1], int(sys.argv[2])
    node = Node()
    node.send_output("out", b"first")
    if kind == "lines":
        line = "x" * 990
        for number in range(size // 1000):
            print(f"{number:8d} {line}")
    elif kind == "one line":
        sys.stdout.write("x" * size)
    else:
        sys.stdout.buffer.write(bytes(range(256)) * (size // 256))
    sys.stdout.flush()
    node.send_output("out", b"last")
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    with open("peak", "w") as file:
        file.write(str(peak))
"""
TAKING = """
    from dora import Node
    print("received", sum(event["type"] == "INPUT" for event in Node()))
"""


@pytest.mark.parametrize("kind", ["lines", "one line", "bytes"])
def test_100_megabytes_of_prints(arena: Arena, kind: str, figure: Figure) -> None:
    size = ROUNDS * 1_000_000
    arena.node("printer", PRINTING, args=f'"{kind}" {size}', outputs=["out"])
    arena.node("taker", TAKING, inputs={"in": "printer/out"})
    started = time.monotonic()
    result = arena.run(on_log=lambda entry: entry.node_id == "taker" and arena.entries.append(entry))
    seconds = time.monotonic() - started
    assert arena.lines("taker") == ["received 2"]
    report = account(result, "printer/out -> taker/in")
    assert (report.sent, report.received) == (2, 2)
    (log,) = arena.directory.glob("out/*/log_printer.jsonl")
    written, lines = 0, 0
    with log.open() as file:
        for line in file:
            message = json.loads(line)["msg"]
            written, lines = written + len(message), lines + 1
            if kind == "lines":
                assert int(message[:8]) == lines - 1
    assert not result.unlogged
    if kind == "lines":
        assert written == size // 1000 * 999
    elif kind == "one line":
        assert written == size
    else:
        text = bytes(range(256)).decode(errors="replace").replace("\n", "")
        assert written == size // 256 * len(text)
    peak = int((arena.directory / "peak").read_text())
    figure(
        f"{ROUNDS} MB printed as {kind}: {lines:,} entries, {written / 1e6:.0f} MB of text in the log "
        f"file, printer {peak / 1024:.0f} MiB at most, in {seconds:.0f} s"
    )


# ---------------------------------------------------------------------- full disks

NOISY = """
    from dora import Node
    node, number = Node(), 0
    while True:
        node.send_output("out", bytes(500))
        print("x" * 500, flush=True)
        number += 1
        if number == 20:
            print("up", flush=True)
        event = node.next(timeout=0.005)
        if event is not None and event["type"] == "STOP":
            break
"""


@pytest.mark.parametrize("victim", ["nobody", "source", "recorder", "dora record"])
def test_a_disk_that_is_full_of_logs_and_recordings(
    arena: Arena, small_disk: Path, victim: str, figure: Figure
) -> None:
    """The dataflow goes on, files are readable, what is missing is counted; then ``victim`` is killed."""
    random, outcome = generator(f"full disk, {victim}"), Counter[str]()
    disk = Arena(small_disk, arena.root)
    disk.node("source", NOISY, outputs=["out"])
    disk.node("sink", SINK, inputs={"in": "source/out"})
    for _ in range(FEW):
        path = small_disk / "a.mcap"
        run = disk.start("-o", str(path), "--compression", "none", command="record")
        wait_until(lambda run=run: run.recorder() or run.process.poll() is not None, "the recorder")
        recorder = run.recorder()
        wait_until(
            lambda run=run: all(
                any(words in line for line in list(run.output))
                for words in ("goes on unrecorded", "its log files lack lines")
            ),
            "both warnings",
        )
        arena.run_ids()
        assert run.process.poll() is None
        time.sleep(random.uniform(0.0, 0.3))
        if victim == "dora record":
            kill(run.process.pid)
        elif victim == "source":
            kill(run.pid_of("source"))
        else:
            if victim == "recorder":
                kill(recorder)  # it has ended, most likely
            run.process.send_signal(signal.SIGINT)
        status = run.wait()
        text = "\n".join(line for line in run.output if "xxxx" not in line)
        assert "Traceback" not in text
        if victim != "dora record":
            assert status == 1 and "INCOMPLETE: messages are missing" in text, text
            assert "Log entries that could not be written to the log files: " in text, text
        wait_until(lambda: not arena.remains(), "an empty place")
        wait_until(lambda recorder=recorder: not rings_of(recorder), "the end of its ring buffers")
        messages, complete = check_recording(path)
        assert not complete
        outcome["readable" if messages else "empty"] += 1
        for log in small_disk.glob("out/*/*.jsonl"):
            assert all(json.loads(line)["node"] for line in log.read_text().splitlines())
        path.unlink()
        shutil.rmtree(small_disk / "out")
    figure(f"recording and logging to a full disk, kill {victim}: {FEW} times, {counts(outcome)}")
