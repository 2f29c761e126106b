"""What `dora daemon` and `dora coordinator` take from their options and the environment for their runs."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from system import FOREVER, System
from waiting import TIMEOUT, wait_until

from dora.cluster.agent import identity as lock
from dora.cluster.agent.identity import running_daemon
from dora.cluster.agent.limits import PRIORITY, TimeLimit, UsageMeter, _processes, become_realtime
from dora.cluster.agent.worker import Worker, _Commands
from dora.cluster.agent.worker_reports import Reports
from dora.cluster.coordinator.policy import limits_from
from dora.cluster.protocol import (
    Limits,
    LogBatch,
    Partition,
    RunReport,
    RunSpec,
    StartRun,
    decode_to_coordinator,
    encode,
)
from dora.dataflow import load
from dora.errors import BuildError, DoraError
from dora.wire.correlation import uuid7

pytestmark = pytest.mark.processes

ENDLESS_BUILD = """
nodes:
  - id: never
    path: never.py
    build: python -c "import signal; signal.pause()"
"""


@pytest.mark.parametrize("name", ["DORA_BUILD_RESULT_TIMEOUT_SECS", "DORA_SPAWN_RESULT_TIMEOUT_SECS"])
def test_limits_come_from_the_environment_of_the_coordinator(
    system: System, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    field = name.split("_")[1].lower()
    assert limits_from({}) == Limits(build=1200.0, spawn=60.0)
    assert getattr(limits_from({name: " 2.5 "}), field) == 2.5
    for text in ("soon", "0", "-1", "inf", "nan"):
        with pytest.raises(DoraError, match=f"{name} is `{text}`; it has to be a number of seconds"):
            limits_from({name: text})
    monkeypatch.setenv(name, "soon")
    assert f"the coordinator could not be started: {name} is `soon`" in system.dora("up", status=1)


def test_a_build_beyond_the_timeout_fails(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DORA_BUILD_RESULT_TIMEOUT_SECS", "0.2")
    system.dora("up")
    (system.folder / "slow.yml").write_text(ENDLESS_BUILD)
    (system.folder / "never.py").write_text("")
    told = system.dora("start", "slow.yml", "--detach", status=1)
    reason = "failed: the build took longer than 0.2 s; DORA_BUILD_RESULT_TIMEOUT_SECS of the coordinator"
    assert reason in told
    assert reason in system.dora("logs", "slow")
    daemon = psutil.Process(system.daemon())

    def only_templates_run() -> bool:
        kept = {template.pid for template in system.client.templates()}  # one that starts is not listed yet
        return {child.pid for child in daemon.children()} <= kept  # a template has a spare process

    wait_until(only_templates_run, "the end of what was building")


def test_a_time_limit_counts_although_its_timer_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.Timer.start", lambda _: None)
    failures: list[str] = []
    limit = TimeLimit(-1.0, lambda: failures.append("late"))
    limit.met()
    limit.met()
    assert limit.late and failures == ["late"]


def test_a_build_that_is_late_by_a_moment_fails_its_dataflow_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its programs have ended, so no signal is sent: it would only hit the worker."""
    monkeypatch.setattr("threading.Timer.start", lambda _: None)  # a timer that is later than the build
    signals: list[int] = []
    monkeypatch.setattr("os.killpg", lambda _, number: signals.append(number))
    source, pipe = os.pipe()
    spec = RunSpec(name="x", dataflow={})
    start = StartRun("d", spec, Partition(machine="arm", secret=""), limits=Limits(build=-1.0))
    reports = Reports(pipe, "d")
    worker: Any = Worker(start, _Commands(-1), reports)
    worker._log_files = SimpleNamespace(close=lambda: None)
    worker._building = worker._limit(start.limits.build, "the build", "NAME")
    with pytest.raises(BuildError):
        worker._on_built(SimpleNamespace())
    assert signals == []
    reports.flush()
    report = decode_to_coordinator(os.read(source, 1 << 16))
    assert isinstance(report, RunReport)
    assert (report.status, report.reason[:27]) == ("Failed", "the build took longer than ")
    os.close(source)
    os.close(pipe)


def test_one_look_finds_the_processes_of_all_dataflows() -> None:
    """The worker, its descendants, and nodes of a template, which only their environment tells."""
    with ExitStack() as stack:

        def start(script: str, run_id: str = "") -> int:
            process = stack.enter_context(
                subprocess.Popen(
                    ["sh", "-c", f"{script} echo; read end"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**os.environ, "DORA_RUN_ID": run_id},
                    start_new_session=True,
                )
            )
            stack.callback(os.killpg, process.pid, signal.SIGKILL)
            assert process.stdout is not None
            process.stdout.readline()  # its environment is there, and so are its children
            return process.pid

        first, second = start("sleep 1000 & "), start("")
        of_template = start("", "run-1")
        start("", "another-run")
        found = _processes({first: "run-1", second: "run-2"})
        (child,) = psutil.Process(first).children()
        pids = {run_id: [process.pid for process in each] for run_id, each in found.items()}
        assert pids == {"run-1": [first, child.pid, of_template], "run-2": [second]}
        measured = UsageMeter().measure({first: "run-1", second: "run-2"})
        assert [memory > 0 for _, memory in measured.values()] == [True, True]


def test_nodes_that_start_too_slowly_fail_the_dataflow(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DORA_SPAWN_RESULT_TIMEOUT_SECS", "1e-9")  # which no process can be
    system.dora("up")
    many = system.dataflow("many", **{f"n{number}": FOREVER for number in range(8)})
    told = system.dora("start", many, "--detach", status=1)
    assert "failed: the start of the nodes took longer than 1e-09 s; DORA_SPAWN_RESULT_TIMEOUT_SECS" in told
    dataflow = told.splitlines()[0].split()[-1]
    wait_until(lambda: not system.node_pids(dataflow), "the end of its nodes")


def test_a_variable_that_no_node_could_use_is_refused_before_the_build(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    (system.folder / "a.yml").write_text("nodes: [{id: n, path: n.py, build: touch built}]\n")
    (system.folder / "n.py").touch()
    monkeypatch.setenv("DORA_SPIN_US", "x")
    system.dora("up")
    told = system.dora("start", "a.yml", "--detach", status=1)
    assert "DORA_SPIN_US is `x`; it has to be a number of microseconds" in told
    assert not (system.folder / "built").exists()


@pytest.mark.slow
def test_nodes_log_to_their_files_only(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    (system.folder / "n.py").write_text("import dora\nprint('said', flush=True)\ndora.Node()\n")
    (system.folder / "a.yml").write_text(
        "nodes:\n  - id: n\n    path: n.py\n    build: python -c \"print('built')\"\n"
    )
    assert "said" in system.dora("run", "a.yml")
    monkeypatch.setenv("DORA_QUIET", "1")
    told = system.dora("run", "a.yml")
    assert "built" in told and "said" not in told
    assert "said" in system.dora("logs", "--local")


@pytest.mark.parametrize("quiet", ["", "1"])
def test_nodes_of_another_machine_log_to_the_coordinator_unless_they_are_quiet(
    tmp_path: Path, quiet: str
) -> None:
    (tmp_path / "n.py").write_text("import dora\nprint('said', flush=True)\ndora.Node()\n")
    (tmp_path / "a.yml").write_text("nodes:\n  - id: n\n    path: n.py\n")
    spec = RunSpec(name="a", dataflow=load(tmp_path / "a.yml"), machines={"n": "far"})
    start = StartRun(uuid7(), spec, Partition(machine="far", secret="", collect_logs=True))
    with subprocess.Popen(
        [sys.executable, "-m", "dora.cluster.agent.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "DORA_QUIET": quiet},
    ) as worker:
        assert worker.stdin is not None and worker.stdout is not None
        worker.stdin.write(encode(start) + b"\n")
        worker.stdin.flush()
        messages = [decode_to_coordinator(line) for line in worker.stdout]
    entries = [entry for message in messages if isinstance(message, LogBatch) for entry in message.entries]
    assert [entry.message for entry in entries if entry.node_id == "n"] == ([] if quiet else ["said"])
    assert "said" in (tmp_path / "out" / start.dataflow_id / "log_n.jsonl").read_text()


def _without_privileges() -> None:
    libc = ctypes.CDLL(None)
    for capability in (14, 23):  # CAP_IPC_LOCK, CAP_SYS_NICE
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; without effect for a user who is not root
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
    resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))


@pytest.mark.skipif(not hasattr(os, "sched_setscheduler"), reason="Linux only")
def test_a_daemon_without_real_time_permission_warns_and_runs(system: System) -> None:
    command = [sys.executable, "-m", "dora", "daemon", "--rt", "--quiet"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=_without_privileges
    ) as daemon:
        wait_until(lambda: running_daemon("127.0.0.1", system.port), "the daemon")
        daemon.send_signal(signal.SIGTERM)
        told = daemon.communicate(timeout=TIMEOUT)[1]
    assert daemon.returncode == 0
    assert told == (
        "warning: --rt: memory is not locked: it takes the capability CAP_IPC_LOCK, or "
        "LimitMEMLOCK=infinity (`ulimit -l unlimited`)\n"
        "warning: --rt: the scheduling policy is not SCHED_FIFO (Operation not permitted): it takes the "
        f"capability CAP_SYS_NICE, or LimitRTPRIO={PRIORITY} (`ulimit -r {PRIORITY}`)\n"
    )


ENDED_AT_ONCE = """
import os, signal
from contextlib import contextmanager
from dora.cluster.agent import agent
from dora.transport.tokens import make_token
from dora.cluster.agent.identity import Identity

@contextmanager
def locked(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    yield

agent.daemon_lock = locked
agent.Agent(["127.0.0.1"], int(os.environ["DORA_COORDINATOR_PORT"]), make_token(), Identity()).run()
"""


@pytest.mark.usefixtures("system")
def test_a_daemon_that_can_be_seen_ends_in_good_order() -> None:
    subprocess.run([sys.executable, "-c", ENDED_AT_ONCE], check=True, timeout=TIMEOUT)


@pytest.mark.usefixtures("system")
def test_a_lookup_of_the_daemon_does_not_block_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = os.open(lock.lock_path("127.0.0.1", 6013), os.O_RDWR | os.O_CREAT, 0o600)
    with open(descriptor, "w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)  # as `running_daemon` does for a moment
        monkeypatch.setattr(lock, "time", SimpleNamespace(sleep=lambda _: looking.close()))
        with lock.daemon_lock("127.0.0.1", 6013):
            assert running_daemon("127.0.0.1", 6013) == os.getpid()
            refused = pytest.raises(DoraError, match=f"running already, with process id {os.getpid()}")
            with refused, lock.daemon_lock("127.0.0.1", 6013):
                pass
    assert running_daemon("127.0.0.1", 6013) is None


def _is_permitted() -> bool:
    if not hasattr(os, "sched_setscheduler"):
        return False
    child = os.fork()
    if not child:
        os._exit(len(become_realtime()))
    return os.waitpid(child, 0)[1] == 0


def _locked(pid: int) -> int:
    """Return how many kB of a process are locked."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmLck"))


@pytest.mark.slow
@pytest.mark.skipif(not _is_permitted(), reason="locked memory and SCHED_FIFO are not permitted here")
def test_supervisors_run_in_real_time_and_nodes_do_not(system: System) -> None:
    system.dora("up")
    os.kill(system.daemon(), signal.SIGTERM)
    wait_until(lambda: not system.client.status().daemons, "the end of the daemon")
    with subprocess.Popen(
        [sys.executable, "-m", "dora", "daemon", "--rt"], stderr=subprocess.PIPE, text=True
    ) as daemon:
        wait_until(lambda: system.client.status().daemons, "the daemon")
        dataflow = system.start(system.dataflow("arm", waiter=FOREVER))
        (node,) = system.node_pids(dataflow)
        worker = psutil.Process(node).ppid()
        for pid in (daemon.pid, worker):
            assert os.sched_getscheduler(pid) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO
            assert os.sched_getparam(pid).sched_priority == PRIORITY
            assert _locked(pid) > 0
        assert os.sched_getscheduler(node) == os.SCHED_OTHER
        assert _locked(node) == 0
        system.dora("down", "--force")
        assert "warning" not in daemon.communicate(timeout=TIMEOUT)[1]
