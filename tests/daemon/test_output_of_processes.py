"""What processes print is read in short turns, and to the end, however much it is."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable

import pytest
from waiting import TIMEOUT, alive, wait_until

from dora.daemon.event_loop import Loop
from dora.daemon.logs.entry import Stream
from dora.daemon.processes import child
from dora.daemon.processes.child import Child
from dora.daemon.processes.process import PlainProcess

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(shutil.which("yes") is None, reason="needs the program `yes`"),
]

LEAVES_A_FAST_WRITER = """
import subprocess, sys
print(*range(9000), sep="\\n", flush=True)
subprocess.Popen(["yes"], start_new_session=True, stderr=subprocess.DEVNULL)
sys.exit(3)
"""

LEAVES_SILENT_PROCESSES = """
import subprocess, sys
outside = subprocess.Popen(["sleep", "1000"], start_new_session=True)
inside = subprocess.Popen(["sleep", "1000"])
print(outside.pid, inside.pid, "no end", sep="\\n", end="", flush=True)
sys.exit(3)
"""


class Reading:
    """A process whose output is read by a loop."""

    def __init__(self, command: list[str], on_line: Callable[[str], None]) -> None:
        self.ends: list[tuple[int | None, int | None]] = []
        self.loop = Loop()
        self.deadline = time.monotonic() + TIMEOUT
        self._on_line = on_line
        process = PlainProcess(command, env=dict(os.environ), cwd="/")
        on_end = lambda *end: self.ends.append(end)  # noqa: E731
        self.child = Child(self.loop, process, on_line=self._line, on_end=on_end)

    def _line(self, _: Stream, text: str) -> None:
        assert time.monotonic() < self.deadline, "the loop never got control back"
        self._on_line(text)

    def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            assert time.monotonic() < self.deadline
            self.loop.run_once(self.deadline)

    def close(self) -> None:
        if not self.ends:
            self.child.kill_now()
        self.loop.close()


def test_a_last_line_without_an_end_is_read() -> None:
    lines: list[str] = []
    reading = Reading(["printf", "one\\ntwo"], lines.append)
    reading.until(lambda: reading.ends)
    assert lines == ["one", "two"]
    reading.close()


def test_a_process_that_prints_on_after_the_end_of_its_node_does_not_hold_up_the_daemon() -> None:
    lines: list[str] = []
    reading = Reading([sys.executable, "-c", LEAVES_A_FAST_WRITER], lines.append)
    try:
        reading.until(lambda: reading.ends)
    finally:
        reading.close()
    assert reading.ends == [(3, None)]
    assert lines[:9000] == [str(number) for number in range(9000)]
    assert set(lines[9000:]) <= {"y", ""}  # the last one may be incomplete


def test_all_that_a_node_has_printed_is_read_even_if_that_takes_longer_than_the_wait_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(child, "LINGER", 0.0)
    monkeypatch.setattr(child, "_TURN", 0.0)
    lines: list[str] = []
    reading = Reading([sys.executable, "-c", LEAVES_A_FAST_WRITER], lines.append)
    try:
        os.waitid(os.P_PID, reading.child.pid, os.WEXITED | os.WNOWAIT)  # with all of it in the pipe
        reading.until(lambda: reading.ends)
    finally:
        reading.close()
    assert lines[:9000] == [str(number) for number in range(9000)]


@pytest.mark.slow
def test_a_node_that_prints_without_a_pause_leaves_the_daemon_time_for_everything_else() -> None:
    total = 0

    def handle(_: str) -> None:
        nonlocal total
        total += 1
        handled = time.perf_counter() + 20e-6
        while time.perf_counter() < handled:
            pass

    reading = Reading(["yes"], handle)
    try:
        longest = 0
        while total < 100_000:
            before = total
            reading.until(lambda: total > before)  # noqa: B023
            longest = max(longest, total - before)
    finally:
        reading.close()
    assert longest <= 5000  # lines at once


def test_processes_that_a_node_leaves_do_not_hold_up_its_end_and_those_of_its_group_end_with_it() -> None:
    lines: list[str] = []
    reading = Reading([sys.executable, "-c", LEAVES_SILENT_PROCESSES], lines.append)
    try:
        reading.until(lambda: reading.ends)
        assert reading.ends == [(3, None)] and lines[2:] == ["no end"]
        wait_until(lambda: not alive(int(lines[1])), "the end of the process in the group")
        assert alive(int(lines[0]))
    finally:
        reading.close()
        os.kill(int(lines[0]), signal.SIGKILL)


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_process_that_has_ended_leaves_no_descriptor_and_no_zombie(is_killed: bool) -> None:
    open_before = os.listdir("/dev/fd")
    reading = Reading(["yes"] if is_killed else ["true"], lambda _: None)
    if is_killed:
        reading.child.kill_now()
    else:
        reading.until(lambda: reading.ends)
    with pytest.raises(ChildProcessError):
        os.waitpid(reading.child.pid, os.WNOHANG)
    reading.loop.close()
    assert os.listdir("/dev/fd") == open_before


def test_a_process_that_is_forgotten_before_it_is_reaped_reports_no_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading = Reading(["true"], lambda _: None)
    reap: list[Callable[[int | None], None]] = []
    monkeypatch.setattr(reading.child._process, "reap", lambda _, done: reap.append(done))
    reading.until(lambda: reap)
    reading.child.close()
    reap[0](0)
    assert reading.ends == []
    reading.loop.close()
    os.waitpid(reading.child.pid, 0)


def test_while_a_process_that_has_ended_is_not_reaped_the_loop_has_nothing_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading = Reading(["true"], lambda _: None)
    reap: list[Callable[[int | None], None]] = []
    monkeypatch.setattr(reading.child._process, "reap", lambda _, done: reap.append(done))
    reading.until(lambda: reap and not reading.child._outputs)
    woken: list[float] = []
    reading.loop.call_later(0.05, lambda: woken.append(time.monotonic()))
    rounds = 0
    while not woken:
        reading.loop.run_once(None)
        rounds += 1
    assert rounds <= 2
    reap[0](os.waitpid(reading.child.pid, 0)[1])
    assert reading.ends == [(0, None)]
    reading.loop.close()


def test_a_node_ends_as_soon_as_nobody_holds_its_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "LINGER", 10 * TIMEOUT)
    lines: list[str] = []
    reading = Reading([sys.executable, "-c", LEAVES_SILENT_PROCESSES], lines.append)
    reading.until(lambda: reading.child._reaped and len(lines) == 2)
    assert reading.ends == []
    os.kill(int(lines[0]), signal.SIGKILL)
    reading.until(lambda: reading.ends)
    assert reading.ends == [(3, None)] and lines[2:] == ["no end"]
    reading.close()


def test_a_process_that_has_ended_gets_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = Reading(["true"], lambda _: None)
    reading.until(lambda: reading.ends)
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "killpg", lambda *signal: sent.append(signal))
    reading.child.signal(signal.SIGTERM)
    reading.child.kill_now()
    assert sent == []  # its number may be that of another group by now
    reading.close()


def test_a_process_is_waited_for_a_limited_time_and_closed_once() -> None:
    process = PlainProcess(["sleep", "1000"], env=dict(os.environ), cwd="/")
    process.reap_now(0.0)
    os.kill(process.pid, signal.SIGKILL)
    process.reap_now(TIMEOUT)
    for _ in range(2):
        process.close()
