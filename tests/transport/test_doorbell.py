"""Doorbells: a ring always wakes the sleeper."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import hammer
import pytest
from linking import LIMIT, until

from dora._ownership import open_own
from dora.transport.board import Board
from dora.transport.doorbell import Bell, Doorbell
from dora.transport.fence import begin_fence, fence


@pytest.fixture
def directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="dora-test-", dir="/tmp") as path:
        yield path


@pytest.fixture
def doorbell(directory: str) -> Iterator[Doorbell]:
    Doorbell.make(f"{directory}/bell")
    doorbell = Doorbell(f"{directory}/bell")
    yield doorbell
    doorbell.close()


@pytest.fixture
def bell(doorbell: Doorbell) -> Bell:
    return Bell(doorbell.path)


def _rung(doorbell: Doorbell) -> bool:
    """Return whether the pipe has a ring in it, and take it out."""
    try:
        return bool(os.read(doorbell.fd, 1 << 20))
    except BlockingIOError:
        return False


def _openings(path: str) -> int:
    """Return how many file descriptors of this process are open on a pipe."""
    pipe, found = os.stat(path), 0
    for fd in range(4096):
        try:
            found += os.path.samestat(os.fstat(fd), pipe)
        except OSError:  # it is not open
            pass
    return found


def _is_in(thread: int | None, function: FunctionType) -> bool:
    """Return whether a thread is running this function, and nothing in Python below it."""
    frame = sys._current_frames().get(thread or 0)
    return frame is not None and frame.f_code is function.__code__


@pytest.mark.parametrize("selectable", [True, False])
def test_a_wait_may_be_longer_than_the_system_counts(
    doorbell: Doorbell, bell: Bell, monkeypatch: pytest.MonkeyPatch, selectable: bool
) -> None:
    monkeypatch.setattr(doorbell, "_selectable", selectable)
    bell.ring()
    doorbell.wait(1e10)
    assert doorbell.rung


def _sleep(doorbell: Doorbell, timeout: float | None) -> float:
    start = time.monotonic()
    doorbell.wait(timeout)
    return time.monotonic() - start


@pytest.mark.parametrize("timeout", [None, LIMIT])
def test_a_ring_before_the_wait_ends_it_at_once(
    doorbell: Doorbell, bell: Bell, timeout: float | None
) -> None:
    bell.ring()
    assert _sleep(doorbell, timeout) < LIMIT / 2
    doorbell.rearm()
    assert not _rung(doorbell)


def test_rearming_consumes_only_the_ring_that_ended_a_wait(doorbell: Doorbell, bell: Bell) -> None:
    doorbell.wait(0)
    bell.ring()  # the owner has said that it sleeps, and is about to wait
    doorbell.rearm()
    assert _sleep(doorbell, LIMIT) < LIMIT / 2
    doorbell.rearm()
    bell.ring()  # a message was found without a wait, and the owner looks for the next one
    doorbell.rearm()
    assert _rung(doorbell)


def test_a_ring_during_the_wait_ends_it(doorbell: Doorbell, bell: Bell) -> None:
    for timeout in (None, LIMIT):
        thread = threading.Timer(0.01, bell.ring)
        thread.start()
        assert _sleep(doorbell, timeout) < LIMIT / 2
        thread.join()


@pytest.mark.parametrize("selectable", [True, False])
def test_a_wait_without_a_ring_ends_by_itself_and_not_too_early(
    doorbell: Doorbell, monkeypatch: pytest.MonkeyPatch, selectable: bool
) -> None:
    monkeypatch.setattr(doorbell, "_selectable", selectable)
    for timeout in (0.0, 0.0005, 0.02):
        assert timeout <= _sleep(doorbell, timeout) < LIMIT


def test_several_rings_count_as_one(doorbell: Doorbell, bell: Bell) -> None:
    for _ in range(1000):
        bell.ring()
    doorbell.wait(LIMIT)
    doorbell.rearm()
    assert not _rung(doorbell)


def test_ringing_into_a_full_pipe_does_not_block(doorbell: Doorbell, bell: Bell) -> None:
    for _ in range(70_000):  # a pipe holds 65,536 bytes
        bell.ring()
    doorbell.ring()
    assert _rung(doorbell)


def test_a_doorbell_that_was_closed_may_be_rung(doorbell: Doorbell) -> None:
    """Another thread closes the node before this one wakes it."""
    doorbell.close()
    doorbell.ring()


def test_bells_and_doorbells_that_nobody_has_any_more_are_closed(directory: str) -> None:
    path = f"{directory}/bell"
    Doorbell.make(path)
    doorbell, bell = Doorbell(path), Bell(path)
    bell.ring()
    assert _openings(path) == 2
    del bell
    assert _openings(path) == 1
    del doorbell
    assert _openings(path) == 0


def test_a_bell_that_two_threads_open_at_once_is_opened_once(
    doorbell: Doorbell, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_second(*arguments: Any, **options: Any) -> int:
        monkeypatch.setattr("dora.transport.doorbell.open_own", open_own)
        assert bell.open(), "the other thread is faster"
        return open_own(*arguments, **options)

    monkeypatch.setattr("dora.transport.doorbell.open_own", open_second)
    bell.ring()
    assert _openings(doorbell.path) == 2, "of the bell and of the doorbell"
    assert _rung(doorbell)


def test_a_missing_doorbell_is_an_error_and_no_second_one_follows(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignored: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: ignored.append(repr(error.exc_value)))
    with pytest.raises(FileNotFoundError):
        Doorbell(f"{directory}/bell")
    gc.collect()
    assert ignored == []


def test_ringing_without_a_listener_is_not_an_error(directory: str) -> None:
    Bell(f"{directory}/does-not-exist").ring()
    Doorbell.make(f"{directory}/bell")
    bell = Bell(f"{directory}/bell")
    bell.ring()  # no reader yet
    doorbell = Doorbell(f"{directory}/bell")
    bell.ring()
    assert _rung(doorbell)
    doorbell.close()
    bell.ring()  # the reader is gone
    doorbell = Doorbell(f"{directory}/bell")
    bell.ring()  # and back, after a restart
    assert _rung(doorbell)
    doorbell.close()


def test_threads_share_a_bell_whose_reader_comes_and_goes(directory: str) -> None:
    Doorbell.make(f"{directory}/bell")
    bell = Bell(f"{directory}/bell")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    failed: list[OSError] = []

    def ring() -> None:
        try:
            for _ in range(300):
                bell.ring()
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=ring) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        Doorbell(f"{directory}/bell").close()
    for thread in threads:
        thread.join()
    assert failed == []
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) <= before + 1, "one descriptor is enough for all threads"


def test_making_a_doorbell_twice_keeps_it(directory: str) -> None:
    Doorbell.make(f"{directory}/bell")
    Doorbell.make(f"{directory}/bell")
    assert os.stat(f"{directory}/bell").st_mode & 0o777 == 0o600


def test_a_second_descriptor_ends_the_wait_and_is_reported(directory: str) -> None:
    Doorbell.make(f"{directory}/bell")
    read_end, write_end = os.pipe()
    doorbell, bell = Doorbell(f"{directory}/bell", also=read_end), Bell(f"{directory}/bell")
    bell.ring()
    assert doorbell.wait(LIMIT) is False
    os.write(write_end, b"x")
    assert doorbell.wait(LIMIT) is True
    assert doorbell.wait(None) is True  # until it is read
    bell.ring()
    assert doorbell.wait(0) is True
    doorbell.rearm()
    assert not _rung(doorbell), "both were reported"
    os.read(read_end, 1)
    assert doorbell.wait(0) is False
    doorbell.close()
    os.close(read_end)
    os.close(write_end)


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_a_second_descriptor_that_was_closed_ends_the_wait(directory: str, timeout: float | None) -> None:
    """Another thread closes the node before this one sleeps."""
    Doorbell.make(f"{directory}/bell")
    readable, writable = os.pipe()
    doorbell = Doorbell(f"{directory}/bell", readable)
    os.close(readable)
    os.close(writable)
    assert doorbell.wait(timeout)
    doorbell.close()


def test_descriptors_beyond_the_limit_of_select_work(directory: str) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1200
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip("not enough file descriptors allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    Doorbell.make(f"{directory}/bell")
    fillers = [os.open("/dev/null", os.O_RDONLY) for _ in range(1030)]
    try:
        doorbell, bell = Doorbell(f"{directory}/bell"), Bell(f"{directory}/bell")
        assert doorbell.fd >= 1024
        assert _sleep(doorbell, 0.01) < LIMIT
        bell.ring()
        assert _sleep(doorbell, LIMIT) < LIMIT / 2
        bell.ring()
        assert _sleep(doorbell, None) < LIMIT / 2
        doorbell.close()
        os.close(fillers.pop())
        readable, writable = os.pipe()
        os.close(fillers.pop(0))
        doorbell = Doorbell(bell.path, readable)
        assert doorbell.fd < 1024 <= readable
        os.write(writable, b"x")
        assert doorbell.wait(LIMIT)
        doorbell.close()
        os.close(readable)
        os.close(writable)
    finally:
        for fd in fillers:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_signal_during_the_wait_is_handled_and_the_wait_goes_on(doorbell: Doorbell, bell: Bell) -> None:
    handled = threading.Event()

    def ring_after_the_signal() -> None:
        main = threading.main_thread().ident
        until(lambda: _is_in(main, Doorbell.wait), "the wait")
        os.kill(os.getpid(), signal.SIGUSR1)
        if handled.wait(LIMIT):
            bell.ring()

    before = signal.signal(signal.SIGUSR1, lambda *_: handled.set())
    try:
        thread = threading.Thread(target=ring_after_the_signal)
        thread.start()
        assert _sleep(doorbell, None) < LIMIT / 2
        assert handled.is_set()
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_an_exception_of_a_signal_handler_ends_the_wait(doorbell: Doorbell) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    def interrupt_the_wait() -> None:
        main = threading.main_thread().ident
        until(lambda: _is_in(main, Doorbell.wait), "the wait")
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        thread = threading.Thread(target=interrupt_the_wait)
        with pytest.raises(Interrupted):
            thread.start()
            doorbell.wait(LIMIT)
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


PINGS = 20_000


@pytest.mark.processes
def test_no_ring_is_lost_between_two_processes_that_hammer_each_other(directory: str) -> None:
    board = Board.create(f"{directory}/board", 2)
    board.set(0, hammer.LAST, PINGS)
    for player in (0, 1):
        Doorbell.make(f"{directory}/bell-{player}")
    process = subprocess.Popen([sys.executable, hammer.__file__, directory])
    try:
        slept = hammer.play(directory, 0)
        assert process.wait(LIMIT) == 0
    finally:
        process.kill()
        process.wait()
    last = board.get(0, hammer.LAST)
    assert board.get(0, hammer.NUMBER) == board.get(1, hammer.NUMBER) == last
    assert slept > 100, "the players never slept: nothing was tested"
    board.close()


def test_an_exception_within_a_fence_blocks_no_later_one() -> None:
    begin_fence()  # a signal handler raises here
    done = threading.Thread(target=fence, daemon=True)
    done.start()
    done.join(LIMIT)
    assert not done.is_alive()
    fence()
