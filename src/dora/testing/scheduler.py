"""Threads that take turns in virtual time: one runs, the others wait, and the clock stands still.

The nodes of a dataflow under test are threads of one process, called *tasks*. If the operating system
chose their order, each run of a test would differ. Here each task waits for its *turn*, a lock. The running
task keeps its turn until it waits for something, and then hands over to the next task that can run, first
come, first served. Time passes only when no task can run: the clock jumps to the earliest deadline of a
task. So an hour of waiting takes no time, and a test gives the same order every time.

The test is a task too, the *driver*. It runs only when no other task can, so that nothing changes while it
checks the results.

A thread that a node starts by itself is a *foreign thread*, because the scheduler cannot know what it waits
for. While there are any, the clock goes no faster than the real one, so that they and the nodes agree.
"""

from __future__ import annotations

import math
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from dora.errors import DoraError

_real_monotonic_ns = time.monotonic_ns

START_NS: Final = 1_000_000_000_000  # of the virtual monotonic clock; any number that is not 0
# Virtual time that each further idle poll takes. Otherwise time would stand still for a program that polls
# in a loop.
SPIN_NS: Final = 1_000_000
# Seconds, while only foreign threads can do something. A thread that ends wakes nobody.
_POLL_INTERVAL: Final = 0.05


class VirtualTimeError(DoraError):
    """A dataflow in virtual time cannot continue; the message has what each node waits for."""


class Killed(BaseException):
    """Raised in a node that is killed, where it waits; no ``except Exception`` catches it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


class Flag:
    """An event that one task waits for. It stays raised until a task has waited for it."""

    __slots__ = ("raised", "waiting")

    def __init__(self) -> None:
        self.raised = False
        self.waiting: list[Task] = []


class ProcessContext(Protocol):
    """State of the process that belongs to one task, and is active while it runs."""

    def enter(self) -> None: ...
    def leave(self) -> None: ...


class Task:
    """A thread that takes turns with the others. ``owner``: the node that it belongs to."""

    def __init__(self, name: str, owner: str | None, image: ProcessContext | None) -> None:
        self.name = name
        self.owner = owner
        self.image = image
        # It guards nothing: a task sleeps in `acquire` until another thread gives it the turn by `release`.
        self.turn = threading.Lock()
        self.turn.acquire()
        self.flag: Flag | None = None
        self.deadline: int | None = None
        self.waits = False
        self.why = ""  # what it waits for, for messages
        self.idle_poll_at = -1  # when it last polled and found nothing
        self.pending_error: BaseException | None = None
        self.thread: threading.Thread | None = None
        self.ended = False


_tasks: dict[int, tuple[Scheduler, Task]] = {}  # thread → its task


def current() -> tuple[Scheduler, Task] | None:
    """Return the scheduler and the task of the calling thread; None for a thread that is no task."""
    return _tasks.get(threading.get_ident())


class Scheduler:
    """Gives turns to tasks. The thread that creates it is its first task, the driver."""

    def __init__(self, *, limit: float, patience: float) -> None:
        """``limit``: seconds of virtual time after which waiting is an error. ``patience``: real seconds
        that a task may keep its turn without waiting."""
        self.now = START_NS
        self.limit_ns = START_NS + int(limit * 1e9)
        self.timer: Callable[[], int | None] = lambda: None  # the time of the next call of `on_time`
        self.on_time: Callable[[], None] = lambda: None
        self.driver = Task("the test", None, None)
        self.running = self.driver
        self.switches = 0
        self._limit = limit
        self._patience = patience
        self._tasks: list[Task] = [self.driver]
        self._ready: deque[Task] = deque()
        self._mutex = threading.Lock()  # foreign threads may raise flags
        self._own_threads = set(threading.enumerate())  # not foreign: those before the scheduler, and tasks
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_in, False)
        os.set_blocking(self._wake_out, False)
        self._files: dict[int, Flag] = {}  # descriptor → the flag to raise when it is readable
        self._external: set[int] = set()  # those written by other processes
        self.closed = False
        self._thread = threading.get_ident()
        _tasks[self._thread] = (self, self.driver)

    # ------------------------------------------------------------------ tasks

    def start(
        self, name: str, owner: str | None, image: ProcessContext | None, body: Callable[[], None]
    ) -> Task:
        """Create a task; it begins when its turn comes. The body handles all exceptions but `Killed`."""
        task = Task(name, owner, image)

        def run() -> None:
            task.turn.acquire()
            _tasks[threading.get_ident()] = (self, task)
            if image is not None:
                image.enter()
            try:
                body()
            except Killed:
                pass
            finally:
                if image is not None:
                    image.leave()
                _tasks.pop(threading.get_ident(), None)
                task.ended = True
                self._tasks.remove(task)
                if not self.closed:
                    self._hand_over(self._next())

        # A daemon thread: a node that never waits cannot be killed, and may not block the end.
        task.thread = threading.Thread(target=run, name=f"dora-{name}", daemon=True)
        self._own_threads.add(task.thread)
        self._tasks.append(task)
        with self._mutex:
            self._ready.append(task)
        return task

    def kill(self, task: Task, error: BaseException) -> None:
        """Raise ``error`` in a task, at the point where it waits."""
        if task.ended or task.pending_error is not None:
            return
        task.pending_error = error
        if task.waits:
            with self._mutex:
                self._make_ready(task)

    def others(self) -> list[Task]:
        """Return the tasks that have not ended, without the driver."""
        return [task for task in self._tasks if task is not self.driver]

    # ------------------------------------------------------------------ waiting

    def wait(self, flag: Flag | None, deadline: int | None, why: str) -> None:
        """Wait until ``flag`` is raised, and lower it, or until the deadline; other tasks run meanwhile.

        A thread that is no task waits in real time.
        """
        task = self._task()
        if task is None:
            self._wait_in_real_time(flag, deadline)
            return
        if self.closed:  # the test has ended without it
            raise Killed(signal.SIGKILL)
        if flag is not None and flag.raised and task.pending_error is None:
            flag.raised = False
            return
        with self._mutex:
            task.flag, task.deadline, task.why, task.waits = flag, deadline, why, True
            if flag is not None:
                flag.waiting.append(task)
            if task.pending_error is not None:
                self._make_ready(task)
        if task.image is not None:
            task.image.leave()
        self._switch(task)
        if task.image is not None:
            task.image.enter()
        if flag is not None:
            flag.raised = False
        if (pending_error := task.pending_error) is not None:
            if task is self.driver:
                task.pending_error = None
            raise pending_error

    def sleep(self, nanoseconds: int, why: str = "time to pass") -> None:
        """Wait for some virtual time; with 0, all tasks that can run do so first."""
        self.wait(None, self.now + nanoseconds, why)

    def idle_poll(self) -> None:
        """Run the other tasks after a poll that found nothing; the next ones also take virtual time."""
        task = self._task()
        if task is None:
            return
        again = task.idle_poll_at == self.now
        task.idle_poll_at = self.now
        self.sleep(SPIN_NS if again else 0, "nothing: it polls in a loop")
        if again:
            task.idle_poll_at = self.now

    def raise_flag(self, flag: Flag) -> None:
        """Raise a flag, from any thread."""
        with self._mutex:
            flag.raised = True
            for task in tuple(flag.waiting):
                self._make_ready(task)
        if current() is None and not self.closed:
            self._wake()

    def watch(self, fd: int, flag: Flag, *, external: bool) -> None:
        """Raise ``flag`` when a file descriptor is readable and no task can run.

        ``external``: another process may write to it.
        """
        self._files[fd] = flag
        if external:
            self._external.add(fd)

    def unwatch(self, fd: int) -> None:
        self._files.pop(fd, None)
        self._external.discard(fd)

    def _task(self) -> Task | None:
        found = current()
        return found[1] if found is not None and found[0] is self else None

    def _wait_in_real_time(self, flag: Flag | None, deadline: int | None) -> None:
        until = None if deadline is None else _real_monotonic_ns() + deadline - self.now
        while not (flag is not None and flag.raised) and not self.closed:
            if until is not None and _real_monotonic_ns() >= until:
                return
            select.select((), (), (), 0.002)
        if flag is not None:
            flag.raised = False

    def _make_ready(self, task: Task) -> None:
        if not task.waits:
            return
        task.waits = False
        if task.flag is not None:
            task.flag.waiting.remove(task)
        if task is not self.driver:
            self._ready.append(task)

    # ------------------------------------------------------------------ turns

    def _switch(self, task: Task) -> None:
        """Hand over to the next task, and return when it is this task's turn again."""
        after = self._next()
        if after is not task:
            self._hand_over(after)
            if task is self.driver:
                self._wait_for_turn_of_driver()
            else:
                task.turn.acquire()
        self.running = task

    def _hand_over(self, task: Task) -> None:
        self.switches += 1
        self.running = task
        if task.thread is not None and task.thread.ident is None:
            task.thread.start()
        task.turn.release()

    def _wait_for_turn_of_driver(self) -> None:
        seen = self.switches
        while not self.driver.turn.acquire(timeout=self._patience):
            if self.switches == seen:
                raise VirtualTimeError(self._stuck_message())
            seen = self.switches

    def _next(self) -> Task:
        """Return the task that runs next; advance the clock as needed."""
        driver = self.driver
        while True:
            with self._mutex:
                if self._ready:
                    return self._ready.popleft()
                if not driver.waits:
                    return driver
            self._advance_time()

    def _advance_time(self) -> None:
        moments = [task.deadline for task in self._tasks if task.waits and task.deadline is not None]
        timer = self.timer()
        if timer is not None:
            moments.append(timer)
        moment = max(min(moments), self.now) if moments else None
        if moment != self.now:
            has_foreign_threads = self._has_foreign_threads()  # before polling: one may write, and end
            if self._files and self._poll_files(0):
                return
            if has_foreign_threads and self._wait_for_foreign_threads(moment):
                if moment is None:  # such a thread may wait for ever
                    self._check_limit(self.now)
                return
        if moment is None:
            self._fail_test(f"nothing can happen any more: {self._waits_of_all()}")
            return
        if not self._check_limit(moment):
            return
        self.now = moment
        with self._mutex:
            due = [
                task
                for task in self._tasks
                if task.waits and task.deadline is not None and task.deadline <= moment
            ]
            for task in due:
                self._make_ready(task)
        if timer is not None and timer <= moment:
            self.on_time()

    def _check_limit(self, moment: int) -> bool:
        """Return whether the dataflow may run until this moment; else the test fails."""
        if moment <= self.limit_ns or self.driver.deadline is not None:
            return True
        self._fail_test(
            f"the dataflow did not end within {self._limit:g} s of virtual time: "
            f"{self._waits_of_all()}; pass `stop_after` to stop it, or a higher `limit`"
        )
        return False

    def _fail_test(self, message: str) -> None:
        self.driver.pending_error = VirtualTimeError(message)
        with self._mutex:
            self._make_ready(self.driver)

    def _waits_of_all(self) -> str:
        others = [f"{task.name} waits for {task.why}" for task in self.others()]
        return "; ".join(others) if others else "no node is left"

    def _stuck_message(self) -> str:
        task = self.running
        ident = task.thread.ident if task.thread is not None else None
        frame = sys._current_frames().get(ident or 0)
        where = "".join(traceback.format_stack(frame)[-3:]) if frame is not None else ""
        return (
            f"{task.name} has kept running for {self._patience:g} s without waiting for anything that "
            f"dora or `time.sleep` knows of; virtual time stands still meanwhile. It is here:\n{where}"
        )

    # ------------------------------------------------------------------ the real world

    def _has_foreign_threads(self) -> bool:
        """Return whether a foreign thread or another process may do something."""
        if self._external:
            return True
        return any(thread not in self._own_threads for thread in threading.enumerate())

    def _wait_for_foreign_threads(self, until: int | None) -> bool:
        """Wait in real time; True if something happened before ``until``."""
        begun = _real_monotonic_ns()
        seconds = _POLL_INTERVAL if until is None else min((until - self.now) * 1e-9, _POLL_INTERVAL)
        happened = self._poll_files(seconds)
        self.switches += 1  # the driver may wait for its turn: no task has kept running meanwhile
        passed = _real_monotonic_ns() - begun
        self.now = self.now + passed if until is None else min(self.now + passed, until)
        return happened or until is None or self.now < until

    def _poll_files(self, seconds: float) -> bool:
        """Raise the flags of file descriptors that are readable; return whether something happened."""
        poll = select.poll()  # `select` knows the first 1024 descriptors only
        for fd in (self._wake_in, *self._files):
            poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(math.ceil(seconds * 1000))]
        for fd in ready:
            if fd == self._wake_in:
                os.read(fd, 4096)
            else:
                self.raise_flag(self._files[fd])
        return bool(ready)

    def _wake(self) -> None:
        try:
            os.write(self._wake_out, b"\0")
        except OSError:  # full, so it is awake already; or closed
            pass

    # ------------------------------------------------------------------ end

    def close(self) -> None:
        """End the scheduler. Tasks that are left stay where they are, as threads without turns."""
        self.closed = True
        _tasks.pop(self._thread, None)
        os.close(self._wake_in)
        os.close(self._wake_out)
