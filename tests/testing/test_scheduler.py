"""Threads that take turns in virtual time, without any dataflow."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from dora.testing.scheduler import SPIN_NS, START_NS, Flag, Killed, Scheduler, VirtualTimeError, current

SECOND = 1_000_000_000


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    scheduler = Scheduler(limit=100, patience=10)
    yield scheduler
    for task in scheduler.others():
        scheduler.kill(task, Killed(signal.SIGKILL))
    scheduler.sleep(0)
    assert scheduler.others() == []
    scheduler.close()
    assert current() is None


def test_tasks_run_first_come_first_served(scheduler: Scheduler) -> None:
    told: list[tuple[str, int]] = []

    def sleeper(name: str, *seconds: int) -> None:
        def body() -> None:
            for each in seconds:
                scheduler.sleep(each * SECOND)
                told.append((name, (scheduler.now - START_NS) // SECOND))

        scheduler.start(name, name, None, body)

    sleeper("a", 2, 2)
    sleeper("b", 1, 2, 1)
    assert told == []
    scheduler.sleep(4 * SECOND)
    assert told == [("b", 1), ("a", 2), ("b", 3), ("a", 4), ("b", 4)]


def test_a_flag_wakes_a_waiting_task_or_stays_raised_for_the_next(scheduler: Scheduler) -> None:
    flag, told = Flag(), []

    def body() -> None:
        for number in (1, 2, 3):
            scheduler.wait(flag, None, "the flag")
            told.append(number)

    scheduler.raise_flag(flag)
    scheduler.start("a", "a", None, body)
    scheduler.sleep(0)
    assert told == [1]
    scheduler.raise_flag(flag)
    assert told == [1]  # nobody runs while the driver does
    scheduler.sleep(0)
    assert told == [1, 2]


def test_a_wait_ends_at_its_deadline(scheduler: Scheduler) -> None:
    scheduler.wait(Flag(), scheduler.now + 5 * SECOND, "nothing")
    assert scheduler.now == START_NS + 5 * SECOND


def test_a_task_that_polls_in_a_loop_advances_time(scheduler: Scheduler) -> None:
    def body() -> None:
        while scheduler.now < START_NS + SECOND:
            scheduler.idle_poll()

    scheduler.start("a", "a", None, body)
    scheduler.sleep(2 * SECOND)
    assert scheduler.others() == []


def test_each_poll_after_the_first_takes_time(scheduler: Scheduler) -> None:
    passed: list[int] = []

    def body() -> None:
        for _ in range(4):
            scheduler.idle_poll()
            passed.append((scheduler.now - START_NS) // SPIN_NS)

    scheduler.start("a", "a", None, body)
    scheduler.sleep(SECOND)
    assert passed == [0, 1, 2, 3]


def test_a_killed_task_ends_where_it_waits(scheduler: Scheduler) -> None:
    told = []

    def body() -> None:
        try:
            scheduler.sleep(50 * SECOND)
        except Killed as killed:
            told.append(killed.signal_number)
            with pytest.raises(Killed):  # and wherever it waits again
                scheduler.sleep(SECOND)

    task = scheduler.start("a", "a", None, body)
    scheduler.sleep(SECOND)
    scheduler.kill(task, Killed(15))
    scheduler.sleep(0)
    assert told == [15]


def test_a_task_that_is_killed_before_it_waits_for_a_raised_flag_ends_there(scheduler: Scheduler) -> None:
    flag, told = Flag(), []

    def body() -> None:
        scheduler.wait(flag, None, "a friend")
        told.append("went on")

    scheduler.raise_flag(flag)
    scheduler.kill(scheduler.start("a", "a", None, body), Killed(15))
    scheduler.sleep(0)
    assert told == []
    assert scheduler.others() == []


def test_a_timer_is_called_between_tasks(scheduler: Scheduler) -> None:
    due: list[int] = [START_NS + SECOND, START_NS + 3 * SECOND]
    called = []

    def on_time() -> None:
        called.append((scheduler.now - START_NS) // SECOND)
        due.pop(0)

    scheduler.timer = lambda: due[0] if due else None
    scheduler.on_time = on_time
    scheduler.sleep(2 * SECOND)
    assert called == [1]
    scheduler.sleep(2 * SECOND)
    assert called == [1, 3]


def test_waiting_for_nothing_is_an_error(scheduler: Scheduler) -> None:
    with pytest.raises(VirtualTimeError, match="nothing can happen any more: no node is left"):
        scheduler.wait(Flag(), None, "for ever")
    flag = Flag()
    scheduler.start("a", "a", None, lambda: scheduler.wait(flag, None, "a friend"))
    with pytest.raises(VirtualTimeError, match="a waits for a friend"):
        scheduler.wait(Flag(), None, "for ever")


def test_a_thread_that_is_no_task_can_raise_a_flag(scheduler: Scheduler) -> None:
    flag, go = Flag(), threading.Event()

    def outside() -> None:
        go.wait()
        assert current() is None
        scheduler.raise_flag(flag)

    thread = threading.Thread(target=outside)
    thread.start()
    go.set()
    scheduler.wait(flag, None, "the thread")
    thread.join()


def test_a_flag_that_another_thread_raises_ends_the_wait_at_once(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora.testing.scheduler._POLL_INTERVAL", 30)
    flag = Flag()

    def outside() -> None:
        while not scheduler.driver.waits:
            pass
        scheduler.raise_flag(flag)

    thread = threading.Thread(target=outside)
    thread.start()
    begun = time.monotonic()
    scheduler.wait(flag, None, "the thread")
    assert time.monotonic() - begun < 20
    thread.join()


class ShortPatience:
    """A turn of the driver that twice is not there in time, while the scheduler waits for a thread."""

    def __init__(self, scheduler: Scheduler, after: threading.Event) -> None:
        self._scheduler = scheduler
        self._turn = scheduler.driver.turn
        self._after = after
        self._left = 2

    def acquire(self, timeout: float = -1) -> bool:
        if self._left:
            self._left -= 1
            for _ in range(2):  # the clock goes on after each round of waiting, and two hold a whole one
                now = self._scheduler.now
                while self._scheduler.now == now:
                    pass
            return False
        self._after.set()
        return self._turn.acquire(timeout=timeout)

    def release(self) -> None:
        self._turn.release()


def test_a_task_that_waits_for_another_thread_does_not_keep_its_turn(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag, done, patience_is_over = Flag(), Flag(), threading.Event()
    monkeypatch.setattr(scheduler.driver, "turn", ShortPatience(scheduler, patience_is_over))

    def outside() -> None:
        patience_is_over.wait()
        scheduler.raise_flag(flag)

    def body() -> None:
        scheduler.wait(flag, None, "the thread")
        scheduler.raise_flag(done)

    thread = threading.Thread(target=outside)
    thread.start()
    scheduler.start("a", "a", None, body)
    try:
        scheduler.wait(done, None, "the task")
    finally:
        patience_is_over.set()
        thread.join()


def test_a_thread_that_does_nothing_does_not_keep_a_dataflow_from_its_limit() -> None:
    scheduler, over = Scheduler(limit=0.1, patience=10), threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        with pytest.raises(VirtualTimeError, match=r"did not end within 0\.1 s"):
            scheduler.wait(Flag(), None, "for ever")
    finally:
        over.set()
        thread.join()
        scheduler.close()
