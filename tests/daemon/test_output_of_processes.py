"""What processes print is read in short turns, and to the end, however much it is."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable

import pytest
from waiting import TIMEOUT

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
