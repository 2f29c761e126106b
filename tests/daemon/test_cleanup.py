"""When what dead processes left in shared memory is removed, in virtual time."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from dora.daemon import cleanup
from dora.daemon.cleanup import (
    CLEAN_UP_AFTER,
    MAX_DEAD_PROCESSES,
    RECORDERS_TIMEOUT,
    RETRY_EVERY,
    ROOM_TIMEOUT,
)
from dora.errors import TransportError
from dora.transport.shm import channel

SOON = CLEAN_UP_AFTER + RETRY_EVERY


class Timer:
    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call

    def cancel(self) -> None:
        self.call = lambda: None


class Run:
    """The clean-up of a run, and everything that it looks at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.due: list[tuple[float, int, Timer]] = []
        self.order = itertools.count()
        self.is_read = self.is_recorded = self.is_removed = True
        self.done = False
        self.removals = self.forgotten = 0
        self.fault = ""
        self.warnings: list[str] = []
        self.prefix = "p_"
        monkeypatch.setattr(cleanup, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(channel, "remove_dead_processes", self.remove)
        parts: Any = self
        self.cleanup = cleanup.Cleanup(parts, parts, "shm", parts, parts, parts, parts)

    def remove(self, prefix: str) -> bool:
        assert prefix == self.prefix
        self.removals += 1
        if self.fault:
            raise TransportError(self.fault)
        return self.is_removed

    def after(self, seconds: float) -> int:
        """Let time pass; return how often something was removed so far."""
        end = self.now + seconds
        while self.due and self.due[0][0] <= end:
            self.now, _, timer = heapq.heappop(self.due)
            timer.call()
        self.now = end
        return self.removals

    # What the clean-up calls.

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        timer = Timer(call)
        heapq.heappush(self.due, (when, next(self.order), timer))
        return timer

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        return self.call_at(self.now + seconds, call)

    def drained(self, node_id: str) -> bool:
        assert node_id == "a"
        return self.is_read

    def recorded(self, node_id: str, slots: set[int]) -> bool:
        assert (node_id, slots) == ("a", {7})
        return self.is_recorded

    def recorded_slots(self) -> set[int]:
        return {7}

    def forget_lost(self) -> None:
        self.forgotten += 1

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(monkeypatch)


def test_what_a_process_left_is_removed_once_after_all_that_it_sent_was_read(run: Run) -> None:
    run.is_read = False
    run.cleanup.add("a")
    assert run.after(100) == 0
    run.is_read = True
    assert run.after(RETRY_EVERY) == 1
    assert run.after(100) == 1
    run.cleanup.add("a")
    assert run.after(SOON) == 2


def test_a_clean_up_waits_for_recorders_for_a_limited_time(run: Run) -> None:
    run.is_recorded = False
    run.cleanup.add("a")
    assert run.after(RECORDERS_TIMEOUT) == 0
    assert run.after(SOON) == 1
    run.cleanup.add("a")
    run.after(1)
    run.is_recorded = True
    assert run.after(RETRY_EVERY) == 2


def test_taps_of_a_client_that_died_are_removed_and_make_room(run: Run) -> None:
    run.cleanup.add_tap()
    assert run.after(SOON) == run.forgotten == 1


def test_what_cannot_be_removed_yet_is_removed_later(run: Run) -> None:
    run.is_removed = False
    run.cleanup.add("a")
    assert run.after(SOON) == 1
    assert run.after(SOON) > 1
    run.is_removed = True
    removals = run.after(SOON)
    assert run.after(100) == removals


def test_a_clean_up_that_fails_is_reported_and_ends_nothing(run: Run) -> None:
    run.fault = "the disk is broken"
    run.cleanup.add("a")
    assert run.after(SOON) == 1
    assert run.warnings == ["the disk is broken"]
    run.fault = ""
    run.cleanup.add("a")
    assert run.after(SOON) == 2


def test_at_the_end_of_a_run_nothing_is_removed_apart(run: Run) -> None:
    run.cleanup.add("a")
    run.done = True
    assert run.after(100) == 0


def filled(run: Run) -> list[float]:
    """Have more processes die than there is room for; return when a restart that waits begins."""
    run.is_read = False
    begun: list[float] = []
    for _ in range(MAX_DEAD_PROCESSES):
        run.cleanup.add("a")
        assert run.cleanup.wait_for_room("a", lambda: None) is None
    run.cleanup.add("a")
    wait = run.cleanup.wait_for_room("a", lambda: begun.append(run.now))
    assert wait is not None
    return begun


def test_a_restart_waits_for_room_until_all_is_read(run: Run) -> None:
    begun = filled(run)
    run.after(ROOM_TIMEOUT / 2)
    assert not begun
    run.is_read = True
    assert run.after(ROOM_TIMEOUT / 4) == 1
    assert len(begun) == 1
    assert run.cleanup.wait_for_room("a", lambda: None) is None


def test_a_restart_waits_for_room_for_a_limited_time(run: Run) -> None:
    begun = filled(run)
    assert run.after(2 * ROOM_TIMEOUT) == 1
    assert len(begun) == 1


def test_a_restart_that_is_given_up_does_not_begin(run: Run) -> None:
    begun: list[float] = []
    filled(run)
    wait = run.cleanup.wait_for_room("a", lambda: begun.append(run.now))
    assert wait is not None
    wait.cancel()
    run.after(2 * ROOM_TIMEOUT)
    assert not begun


def test_a_restart_removes_at_once_what_has_been_read(run: Run) -> None:
    run.cleanup.add("a")
    assert run.cleanup.wait_for_room("a", lambda: None) is None
    assert run.removals == 1
