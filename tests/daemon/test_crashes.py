"""The daemon is killed, or its guardian, or both: nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from running import Bench
from waiting import TIMEOUT, alive, guardian_of, wait_until

from dora.daemon.event_loop import Loop
from dora.daemon.guardian import (
    FORGET,
    describe_group,
    groups_of,
    kill_run,
    leader_of,
    marked_processes,
)
from dora.daemon.run_directory import remove_stale
from dora.daemon.watchdog import _WAIT, Watchdog

pytestmark = pytest.mark.processes

LOST = """
    import os, signal, subprocess
    from control_peer import Peer
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    node = Peer()
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    print("up", flush=True)
    signal.pause()
"""


def start(bench: Bench, nodes: int = 2) -> tuple[subprocess.Popen[str], str, list[int]]:
    """Run until all nodes are up; returns the daemon, the dataflow's id, and its processes."""
    driver, dataflow_id = bench.drive(*[bench.node(f"n{index}", LOST) for index in range(nodes)])
    assert driver.stdout is not None
    up = 0
    while up < nodes:
        line = driver.stdout.readline()
        assert line, "the run ended too early"
        up += line.rstrip().endswith(": up")
    wait_until(lambda: len(marked_processes(dataflow_id)) == 2 * nodes, "all processes")
    return driver, dataflow_id, marked_processes(dataflow_id)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def state_of(pid: int) -> bytes:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[0]


def nothing_left(bench: Bench, dataflow_id: str, processes: list[int]) -> bool:
    return (
        not any(alive(pid) for pid in processes)
        and os.listdir(bench.root) == ["lock"]
        and not [name for name in os.listdir("/dev/shm") if dataflow_id.replace("-", "")[-12:] in name]
    )


def test_a_killed_daemon_leaves_neither_processes_nor_files(bench: Bench) -> None:
    driver, dataflow_id, processes = start(bench)
    kill(driver.pid)
    wait_until(lambda: nothing_left(bench, dataflow_id, processes), "the guardian's work")


def run_script(bench: Bench, text: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text)],
        cwd=bench.directory,
        stdout=subprocess.PIPE,
        text=True,
    )


def is_empty(bench: Bench, run_ids: list[str]) -> bool:
    return os.listdir(bench.root) == ["lock"] and not [
        name for name in os.listdir("/dev/shm") if any(run_id in name for run_id in run_ids)
    ]


def test_a_forked_child_does_not_keep_a_killed_daemon_s_files(bench: Bench) -> None:
    """It has a copy of all that its parent had open."""
    (bench.directory / "node.py").write_text(
        "from dora import Node\nprint('up')\nfor event in Node(): pass"
    )
    (bench.directory / "dataflow.yml").write_text(
        "nodes: [{id: node, path: node.py, inputs: {tick: dora/timer/millis/10}}]"
    )
    daemon = run_script(
        bench,
        """
        import os, signal, dora

        def fork(entry):
            if entry.message == "up":
                if not (child := os.fork()):
                    signal.pause()
                print(child, flush=True)

        dora.run("dataflow.yml", on_log=fork, log_level="error")
        """,
    )
    assert daemon.stdout is not None
    child = int(daemon.stdout.readline())
    run_ids = [name for name in os.listdir(bench.root) if name != "lock"]
    try:
        kill(daemon.pid)
        daemon.wait()
        wait_until(lambda: is_empty(bench, run_ids), "the guardian's work")
        assert alive(child)
    finally:
        kill(child)
        daemon.stdout.close()


def test_the_run_of_a_node_is_cleaned_up_after_a_kill_of_the_run_around_it(bench: Bench) -> None:
    (bench.directory / "leaf.py").write_text(
        "from dora import Node\nprint('up')\nfor event in Node(): pass"
    )
    (bench.directory / "outer.py").write_text("import dora\ndora.run('inner.yml')")
    tick = "inputs: {tick: dora/timer/millis/10}"
    for name, program in (("inner", "leaf"), ("outer", "outer")):
        (bench.directory / f"{name}.yml").write_text(
            f"nodes: [{{id: {name}, path: {program}.py, {tick if name == 'inner' else ''}}}]"
        )
    daemon = run_script(bench, "import dora\ndora.run('outer.yml')")
    assert daemon.stdout is not None
    while "up" not in (line := daemon.stdout.readline()):
        assert line, "the run ended too early"
    run_ids = [name for name in os.listdir(bench.root) if name != "lock"]
    assert len(run_ids) == 2
    kill(daemon.pid)
    daemon.wait()
    daemon.stdout.close()
    wait_until(lambda: is_empty(bench, run_ids), "the work of both guardians")


def test_a_killed_guardian_is_replaced(bench: Bench) -> None:
    driver, dataflow_id, processes = start(bench)
    first = guardian_of(driver.pid)
    assert first is not None
    kill(first)
    wait_until(lambda: guardian_of(driver.pid) not in (None, first), "a new guardian")
    kill(driver.pid)
    wait_until(lambda: nothing_left(bench, dataflow_id, processes), "the new guardian's work")


def test_the_next_start_cleans_up_after_a_killed_daemon_and_guardian(bench: Bench) -> None:
    driver, dataflow_id, processes = start(bench)
    guardian = guardian_of(driver.pid)
    assert guardian is not None
    os.kill(driver.pid, signal.SIGSTOP)  # else it would start another
    wait_until(lambda: state_of(driver.pid) == b"T", "the daemon to stop")
    kill(guardian)
    kill(driver.pid)
    driver.wait()
    assert not nothing_left(bench, dataflow_id, processes)
    remove_stale(bench.root)
    wait_until(lambda: not any(alive(pid) for pid in processes), "the kernel's part")  # they run no more
    wait_until(lambda: nothing_left(bench, dataflow_id, processes), "the black box to be saved")


def test_a_run_that_lives_is_not_cleaned_up(bench: Bench) -> None:
    driver, _, processes = start(bench, nodes=1)
    remove_stale(bench.root)
    assert all(alive(pid) for pid in processes)
    driver.send_signal(signal.SIGINT)
    driver.send_signal(signal.SIGTERM)  # any second signal kills
    wait_until(lambda: driver.poll() is not None, "the end")
    assert driver.stdout is not None
    assert driver.stdout.read().rstrip().endswith("failed")


def test_a_third_signal_ends_the_daemon_itself(bench: Bench) -> None:
    driver, dataflow_id, processes = start(bench)
    os.kill(driver.pid, signal.SIGSTOP)
    wait_until(lambda: state_of(driver.pid) == b"T", "the daemon to stop")  # else it takes them one by one
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # pending together
        os.kill(driver.pid, number)
    os.kill(driver.pid, signal.SIGCONT)
    wait_until(lambda: driver.poll() is not None, "the end")
    assert driver.returncode == 130
    wait_until(lambda: nothing_left(bench, dataflow_id, processes), "the guardian's work")


# Programs that name their process, as `setproctitle` does, write the name there.
WITHOUT_MARK = """
    import ctypes, os, signal
    from control_peer import Peer
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    node = Peer()
    with open("/proc/self/stat", "rb") as file:
        begin, end = map(int, file.read().rpartition(b")")[2].split()[47:49])
    ctypes.memset(begin, 0, end - begin)
    print("up", os.getpid(), flush=True)
    signal.pause()
"""


def test_a_node_that_has_overwritten_its_environment_does_not_survive_a_killed_daemon(bench: Bench) -> None:
    driver, dataflow_id = bench.drive(bench.node("named", WITHOUT_MARK))
    assert driver.stdout is not None
    pid = int(next(line for line in driver.stdout if line.startswith("named: up")).split()[2])
    try:
        assert pid not in marked_processes(dataflow_id)
        kill(driver.pid)
        wait_until(lambda: nothing_left(bench, dataflow_id, [pid]), "the guardian's work")
    finally:
        if alive(pid):
            kill(pid)


def test_a_process_group_is_known_by_the_start_of_its_leader_too() -> None:
    with subprocess.Popen(["sleep", "1000"], process_group=0) as process:
        try:
            group = describe_group(process.pid)
            assert leader_of(group) == process.pid
            assert leader_of(f"{group}0") is None  # its id belongs to a process that has started since
            kill_run("no such run", [f"{group}0"])
            assert alive(process.pid)
            kill_run("no such run", [group])
            assert process.wait() == -signal.SIGKILL
            assert leader_of(group) is None
        finally:
            process.kill()


def test_the_guardian_forgets_process_groups_that_have_ended() -> None:
    sent: list[str] = []

    class Sent(Watchdog):
        def _send(self, *lines: str) -> None:
            sent.extend(lines)
            super()._send(*lines)

    watchdog = Sent("no such run")
    try:
        watchdog.register(os.getpid())
        for _ in range(500):
            with subprocess.Popen(["true"]) as process:
                watchdog.register(process.pid)
                process.wait()
    finally:
        watchdog.dismiss()
    known = groups_of(sent)
    assert known[0] == describe_group(os.getpid())
    assert len(known) <= 100


@pytest.mark.parametrize("lines", [[], ["5:1", "6:1"], ["5:1", FORGET, "6:1", "7:1"], ["5:1", FORGET]])
def test_the_waiting_shell_hands_on_the_process_groups_that_are_not_forgotten(lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    command = ["/bin/sh", "-c", _WAIT, "/bin/sh", "echo", "a b"]
    shell = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    assert shell.stdout.split() == ["a", "b", *groups_of(lines)]


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
def test_a_guardian_that_replaces_a_killed_one_knows_the_process_groups() -> None:
    watchdog, loop = Watchdog("no such run"), Loop()
    with subprocess.Popen(["sleep", "1000"], process_group=0) as process:
        try:
            watchdog.watch(loop, print)
            watchdog.register(process.pid)
            descriptors = len(os.listdir("/proc/self/fd"))
            for _ in range(2):
                guardian = watchdog._process
                assert guardian is not None
                guardian.kill()
                while watchdog._process is guardian:
                    loop.run_once(time.monotonic() + TIMEOUT)
            assert len(os.listdir("/proc/self/fd")) == descriptors
            watchdog.unwatch()
            watchdog._close_pipe()  # as the end of this process does
            assert process.wait(TIMEOUT) == -signal.SIGKILL
        finally:
            process.kill()
            watchdog.dismiss()
            loop.close()
