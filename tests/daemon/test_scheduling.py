"""Real-time settings: each node has its own, before its program runs, or nothing starts."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import TIMEOUT

from dora.daemon.processes import scheduling
from dora.daemon.processes.scheduling import in_own_thread, refusals, set_scheduling
from dora.dataflow import load
from dora.dataflow.model import Scheduling, SchedulingPolicy

CAP_SYS_NICE, CAP_IPC_LOCK, PR_CAPBSET_DROP = 23, 14, 24
REPORT = """
import os, threading

def scheduling():
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0).sched_priority
    nice, cores = os.getpriority(os.PRIO_PROCESS, 0), sorted(os.sched_getaffinity(0))
    return f"{policy}:{priority} nice {nice} on {cores}"

found = [scheduling()]
thread = threading.Thread(target=lambda: found.append(scheduling()))
thread.start()
thread.join()
from dora import Node
node = Node()
with open("/proc/self/status") as file:
    locked = next(int(line.split()[1]) for line in file if line.startswith("VmLck:"))
print("found", node.id, *found, bool(locked), sep="; ")
"""


def allowed(wanted: Scheduling) -> bool:
    try:
        in_own_thread(lambda: set_scheduling(wanted))
    except OSError:
        return False
    return True


REAL_TIME = allowed(Scheduling(nice=-5)) and allowed(Scheduling(scheduler=SchedulingPolicy("fifo", 50)))
needs_rights = pytest.mark.skipif(not REAL_TIME, reason="needs CAP_SYS_NICE")


def without_rights() -> None:
    """Give up the capabilities for real-time settings; the next program does not get them back."""
    libc = ctypes.CDLL(None)
    for capability in (CAP_SYS_NICE, CAP_IPC_LOCK):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def dora(*arguments: str, before: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dora", *arguments],
        preexec_fn=before,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


@pytest.mark.slow
@needs_rights
@pytest.mark.processes
def test_each_node_has_its_own_settings_before_its_program_runs(tmp_path: Path) -> None:
    (tmp_path / "report.py").write_text(REPORT)
    core = [min(os.sched_getaffinity(0))]
    (tmp_path / "dataflow.yml").write_text(f"""
nodes:
  - {{id: plain, preload: false, scheduler: fifo 50, lock_memory: true, cpu_affinity: {core},
     path: report.py}}
  - {{id: forked, path: report.py, scheduler: rr 7, cpu_affinity: {core}, lock_memory: true}}
  - {{id: plain_nice, path: report.py, preload: false, scheduler: batch, nice: -5}}
  - {{id: forked_nice, path: report.py, scheduler: idle, nice: 7}}
  - {{id: plain_without, path: report.py, preload: false}}
  - {{id: forked_without, path: report.py}}
""")
    done = dora("run", "--preload", str(tmp_path / "dataflow.yml"))
    assert done.returncode == 0, done.stderr
    found = {
        words[1]: words[2:]
        for line in done.stdout.splitlines()
        if (words := line.partition("found; ")[2]) and (words := ["", *words.split("; ")])
    }
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    mine = f"0:0 nice {nice} on {sorted(os.sched_getaffinity(0))}"
    everywhere = sorted(os.sched_getaffinity(0))
    assert found == {
        "plain": [f"{os.SCHED_FIFO}:50 nice {nice} on {core}"] * 2 + ["True"],
        "forked": [f"{os.SCHED_RR}:7 nice {nice} on {core}"] * 2 + ["True"],
        "plain_nice": [f"{os.SCHED_BATCH}:0 nice -5 on {everywhere}"] * 2 + ["False"],
        "forked_nice": [f"{os.SCHED_IDLE}:0 nice 7 on {everywhere}"] * 2 + ["False"],
        "plain_without": [mine] * 2 + ["False"],
        "forked_without": [mine] * 2 + ["False"],
    }


OPERATOR = """
import os
from dora import DoraStatus

class Operator:
    def __init__(self):
        print("policy", os.sched_getscheduler(0))

    def on_event(self, event, send_output):
        return DoraStatus.STOP
"""


@pytest.mark.processes
def test_the_operators_of_a_runtime_share_its_settings(tmp_path: Path) -> None:
    (tmp_path / "operator_.py").write_text(OPERATOR)
    (tmp_path / "dataflow.yml").write_text("""
nodes:
  - id: both
    scheduler: batch
    operators:
      - {id: a, python: operator_.py, inputs: {tick: dora/timer/millis/10}}
      - {id: b, python: operator_.py, inputs: {tick: dora/timer/millis/10}}
""")
    done = dora("run", str(tmp_path / "dataflow.yml"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"policy {os.SCHED_BATCH}") == 2


WANTED = """
nodes:
  - {id: arm, path: report.py, scheduler: fifo 50, lock_memory: true, cpu_affinity: [0, 4095]}
  - {id: eye, path: report.py, nice: -5}
"""


@pytest.mark.processes
@pytest.mark.skipif(not REAL_TIME, reason="only who has the rights can give them up")
def test_what_the_system_does_not_allow_is_told_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "report.py").write_text(REPORT)
    path = tmp_path / "dataflow.yml"
    path.write_text(WANTED)
    done = dora("run", str(path), before=without_rights)
    assert (done.returncode, done.stdout) == (1, "")
    cores, fifo, memory, nice = done.stderr.splitlines()
    assert f"{path.name}:3:5: node `arm`: `cpu_affinity: [0, 4095]` is not possible here" in cores
    assert "may not use core 4095, only 0" in cores
    assert "node `arm`: `scheduler: fifo 50` is not allowed here: RLIMIT_RTPRIO is 0" in fifo
    assert "`ulimit -r 50` as root, LimitRTPRIO=50 in a systemd service" in fifo
    assert "node `arm`: `lock_memory` is not allowed here: RLIMIT_MEMLOCK is" in memory
    assert "docker run --ulimit memlock=-1" in memory
    assert "node `eye`: `nice: -5` is not allowed here: RLIMIT_NICE is 0, 25 are needed" in nice
    checked = dora("validate", str(path), before=without_rights)
    assert checked.returncode == 0
    assert checked.stderr.count("warning: ") == 4


def test_another_system_is_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report.py").write_text(REPORT)
    path = tmp_path / "dataflow.yml"
    path.write_text("nodes:\n  - {id: arm, path: report.py, scheduler: fifo 50}\n")
    monkeypatch.setattr(scheduling, "_HAS", False)
    (sentence,) = refusals(load(path), lambda _: "")
    assert sentence.endswith(
        "node `arm`: `scheduler` needs Linux, and this system is another one; leave it out"
    )


@pytest.mark.lengthy
def test_doctor_tells_what_a_dataflow_may_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dora.cli.main import run_command_line

    monkeypatch.setattr("dora.cli.commands.doctor._round_trip", lambda: iter(()))
    (tmp_path / "report.py").write_text(REPORT)
    path = tmp_path / "dataflow.yml"
    path.write_text("nodes:\n  - {id: arm, path: report.py, cpu_affinity: [4095]}\n")
    assert run_command_line(["doctor", "--dataflow", str(path)]) == 1
    assert "FAIL  " + str(path.name) in capsys.readouterr().out.replace(str(tmp_path) + "/", "")


def test_a_setting_of_a_thread_ends_with_it() -> None:
    before = os.sched_getscheduler(0)
    assert in_own_thread(
        lambda: (set_scheduling(Scheduling(scheduler=SchedulingPolicy("batch"))), os.sched_getscheduler(0))
    ) == (None, os.SCHED_BATCH)
    assert os.sched_getscheduler(0) == before
