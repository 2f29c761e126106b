"""Senders that are stopped and killed at any time: each time, the receiver gets the safe value in time.

Printed is how late the safe value came after the pause of 20 ms.
`DORA_TEST_ROUNDS=1000` makes the run without a fault as long as ten minutes.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rounds import ROUNDS, SECONDS, SEED
from waiting import TIMEOUT

from dora.daemon.logs.entry import LogEntry
from dora.daemon.options import LocalRunOptions
from dora.daemon.processes.scheduling import in_own_thread, set_scheduling
from dora.daemon.run import run_dataflow
from dora.dataflow import load
from dora.dataflow.model import Scheduling, SchedulingPolicy

pytestmark = [pytest.mark.processes, pytest.mark.stress, pytest.mark.timeout(1200)]

FAULTS = ROUNDS

# Sends at 200 Hz. Each message has the number of the message and, on CLOCK_MONOTONIC, when it was sent.
PLANNER = """
    import os, sys, time
    import pyarrow as pa
    from dora import Node

    node = Node()
    for event in node:
        if event["id"] == "tick":
            node.send_output("command", pa.array([time.monotonic_ns(), os.getpid()], pa.int64()))
        elif event["id"] == "done" or event["type"] == "STOP":
            break
"""

# Waits until all is well, and then stops or kills the planner, at a random time.
VILLAIN = """
    import json, os, random, signal, sys, time
    from dora import Node

    faults = int(sys.argv[1])
    random.seed(sys.argv[2])
    node = Node()
    done = []
    planner = 0

    def next_of(kinds):
        for event in node:
            if event["type"] == "STOP":
                sys.exit("stopped")
            if event["type"] == "INPUT" and event["id"] == "seen":
                what, *values = json.loads(event["value"][0].as_py())
                if what in kinds:
                    return what, values

    for number in range(faults):
        _, (planner, *_) = next_of(["well"])
        time.sleep(random.uniform(0, 0.02))
        how = random.choice([signal.SIGSTOP, signal.SIGKILL])
        at = time.monotonic_ns()
        os.kill(planner, how)
        _, (reason, entered, last) = next_of(["safe"])
        done.append([how.name, reason, at, entered, last])
        if how == signal.SIGSTOP:
            os.kill(planner, signal.SIGCONT)
    next_of(["well"])
    print("faults", json.dumps(done))
    node.send_output("done", b"")
"""

MOTOR = """
    import json, time
    import pyarrow as pa
    from dora import Node

    node = Node()
    last = planner = count = 0
    safe = False
    stale = pauses = 0

    def tell(*words):
        node.send_output("seen", pa.array([json.dumps(words)]))

    for event in node:
        if event["id"] == "done" or event["type"] == "STOP":
            break
        if event["type"] == "SAFE_STATE_ENTERED":
            entered = time.monotonic_ns()
        elif event["type"] == "SAFE_STATE_LEFT":
            safe, count = False, 0
        elif event["type"] == "INPUT" and "safe_state" in event["metadata"]:
            assert event["value"].to_pylist() == [-1, -1]
            safe = True
            tell("safe", event["metadata"]["safe_state"], time.monotonic_ns(), last)
        elif event["type"] == "INPUT":
            sent, planner = event["value"].to_pylist()
            stale += safe or sent < last
            pauses += last and sent - last > 20_000_000
            last = sent
            count += 1
            if count % 20 == 10:
                tell("well", planner)
    safe_states = node.statistics()["inputs"]["command"]["safe_states"]
    print("motor", json.dumps([stale, safe_states, pauses]))
"""

DATAFLOW = """
nodes:
  - id: planner
    path: planner.py
    restart_policy: on-failure
    inputs:
      tick: dora/timer/200hz
      %s
    outputs:
      - command: {safe_state: {value: [-1, -1], type: int64%s}}
  - id: motor
    path: motor.py
    REAL_TIME
    inputs:
      command: %s
      %s
    outputs: [seen]
"""


def is_allowed() -> bool:
    """Return whether a node may be scheduled in real time: so a busy machine does not hold it up."""
    try:
        in_own_thread(lambda: set_scheduling(Scheduling(scheduler=SchedulingPolicy("fifo", 50))))
    except OSError:
        return False
    return True


def run(folder: Path, text: str, **options: float) -> dict[str, list[object]]:
    """Run a dataflow; return what its nodes have printed, by the first word."""
    entries: list[LogEntry] = []
    for name, program in (("planner", PLANNER), ("villain", VILLAIN), ("motor", MOTOR)):
        lines = [line.removeprefix("    ") for line in program.splitlines()]
        (folder / f"{name}.py").write_text("\n".join(lines))
    path = folder / "dataflow.yml"
    path.write_text(text.replace("REAL_TIME", "scheduler: fifo 50" if is_allowed() else ""))
    result = run_dataflow(load(path), LocalRunOptions(**options), entries.append)  # type: ignore[arg-type]
    lines = [entry.message for entry in entries]
    assert result.failures == (), "\n".join(lines[-40:])
    return {
        word: json.loads(rest)
        for line in lines
        for word, _, rest in [line.partition(" ")]
        if word in ("motor", "faults")
    }


CONDITIONS = [
    ("silence", ", silence: 20ms", "planner/command"),
    ("deadline", "", "{source: planner/command, deadline: 20ms}"),
]


@pytest.mark.parametrize(("name", "options", "source"), CONDITIONS, ids=[name for name, *_ in CONDITIONS])
def test_a_fault_of_the_sender_leads_to_the_safe_value_in_time(
    tmp_path: Path, name: str, options: str, source: str
) -> None:
    villain = f"""
  - id: villain
    path: villain.py
    args: ["{FAULTS}", "{SEED}"]
    inputs: {{seen: {{source: motor/seen, queue_size: 1000}}}}
    outputs: [done]
"""
    done = "done: villain/done"
    text = DATAFLOW % (done, options, source, done) + villain
    found = run(tmp_path, text, stop_after=TIMEOUT + FAULTS)
    stale, safe_states, _ = found["motor"]
    faults = found["faults"]
    assert len(faults) == FAULTS
    assert stale == 0
    late = sorted(entered - last - 20_000_000 for _, _, _, entered, last in faults)  # type: ignore[misc]
    late_ms = [each / 1e6 for each in late]
    print(
        f"\n{name}: {FAULTS} faults, safe value after the deadline: median {late_ms[FAULTS // 2]:.2f} ms, "
        f"p99 {late_ms[int(FAULTS * 0.99) - 1]:.2f} ms, worst {late_ms[-1]:.2f} ms; "
        f"{safe_states} safe states"
    )
    assert late_ms[int(FAULTS * 0.99) - 1] < 2.0


def test_no_safe_value_comes_while_all_is_well(tmp_path: Path) -> None:
    """Each safe state has its pause between two messages, by the sender's own clock."""
    text = DATAFLOW % ("", ", silence: 20ms", "planner/command", "")
    _, safe_states, pauses = run(tmp_path, text, stop_after=SECONDS)["motor"]
    print(
        f"\n{SECONDS:g} s at 200 Hz: {safe_states} safe states, {pauses} pauses of the sender above 20 ms"
    )
    assert safe_states <= pauses  # type: ignore[operator]
