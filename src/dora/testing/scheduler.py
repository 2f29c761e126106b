"""Threads that take turns in virtual time: one runs, the others wait, and the clock stands still.

The nodes of a dataflow under test are threads of one process. Left alone they would run whenever the
operating system likes, and a test of them would be a matter of luck. Here each has a *baton*, a lock
that it waits on; whoever runs keeps on until it waits for something, and then hands the baton to the
next that can run, in the order in which they became able to. Only when nobody can run does time pass:
the clock jumps to the earliest moment that somebody waits for. So an hour of waiting takes no time,
and the same test gives the same order every time.

The test is a task too, the *driver*. It runs only when nobody else can, so that whatever it looks at
has come to rest.

Threads that a node starts by itself are no tasks (nobody can tell what they wait for). While there are
such *guests*, the clock goes no faster than the real one, so that they and the nodes still agree.
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
SPIN_NS: Final = 1_000_000  # what looking in vain again and again costs
_LOOK_EVERY: Final = 0.05  # seconds, while only guests can do something


class VirtualTimeError(DoraError):
    """A dataflow in virtual time cannot go on; says what each node waits for."""


class Killed(BaseException):
    """Raised in a node that is killed, wherever it waits; nothing catches it by accident."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


class Flag:
    """Something to wait for. It stays raised until somebody has waited for it."""

    __slots__ = ("raised", "waiting")

    def __init__(self) -> None:
        self.raised = False
        self.waiting: list[Task] = []


class ProcessContext(Protocol):
    """What of the process belongs to one task, and is put in place while it runs."""

    def enter(self) -> None: ...
    def leave(self) -> None: ...


class Task:
    """A thread that takes turns with the others. ``owner``: the node that it belongs to."""

    def __init__(self, name: str, owner: str | None, image: ProcessContext | None) -> None:
        self.name = name
        self.owner = owner
        self.image = image
        self.baton = threading.Lock()
        self.baton.acquire()
        self.flag: Flag | None = None
        self.deadline: int | None = None
        self.waits = False
        self.why = ""  # what it waits for, in words
        self.fruitless_at = -1  # when it last looked in vain
        self.doom: BaseException | None = None
        self.thread: threading.Thread | None = None
        self.ended = False


_tasks: dict[int, tuple[Scheduler, Task]] = {}  # thread → its task


def current() -> tuple[Scheduler, Task] | None:
    """Return the scheduler and the task of the calling thread, None for a thread outside."""
    return _tasks.get(threading.get_ident())


class Scheduler:
    """Made by the thread that drives; it is the first task."""

    def __init__(self, *, limit: float, patience: float) -> None:
        """``limit``: seconds of virtual time after which waiting on is an error. ``patience``: real
        seconds that a task may keep the baton without ever waiting."""
        self.now = START_NS
        self.limit_ns = START_NS + int(limit * 1e9)
        self.timer: Callable[[], int | None] = lambda: None  # when `on_time` wants to be called
        self.on_time: Callable[[], None] = lambda: None
        self.driver = Task("the test", None, None)
        self.running = self.driver
        self.switches = 0
        self._limit = limit
        self._patience = patience
        self._tasks: list[Task] = [self.driver]
        self._ready: deque[Task] = deque()
        self._mutex = threading.Lock()  # flags may be raised by guests
        self._residents = set(threading.enumerate())  # no guests: those before us, and our tasks
        self._poke_in, self._poke_out = os.pipe()
        os.set_blocking(self._poke_in, False)
        os.set_blocking(self._poke_out, False)
        self._files: dict[int, Flag] = {}  # descriptors that may become readable → what to raise then
        self._outside: set[int] = set()  # those of them that the world outside writes to
        self.closed = False
        self._thread = threading.get_ident()
        _tasks[self._thread] = (self, self.driver)

    # ------------------------------------------------------------------ tasks

    def start(
        self, name: str, owner: str | None, image: ProcessContext | None, body: Callable[[], None]
    ) -> Task:
        """Make a task; it begins when its turn comes. Exceptions but `Killed` are the body's business."""
        task = Task(name, owner, image)

        def run() -> None:
            task.baton.acquire()
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
                    self._pass_on()

        task.thread = threading.Thread(target=run, name=f"dora-{name}", daemon=True)
        self._residents.add(task.thread)
        self._tasks.append(task)
        with self._mutex:
            self._ready.append(task)
        return task

    def kill(self, task: Task, error: BaseException) -> None:
        """Raise ``error`` in a task, where it waits."""
        if task.ended or task.doom is not None:
            return
        task.doom = error
        if task.waits:
            with self._mutex:
                self._make_ready(task)

    def others(self) -> list[Task]:
        """Return the tasks that have not ended, without the driver."""
        return [task for task in self._tasks if task is not self.driver]

    # ------------------------------------------------------------------ waiting

    def wait(self, flag: Flag | None, deadline: int | None, why: str) -> None:
        """Let the others run until ``flag`` is raised, which lowers it, or the deadline has come.

        From a thread that is no task it waits in real time.
        """
        task = self._task()
        if task is None:
            self._wait_outside(flag, deadline)
            return
        if self.closed:  # it was left behind
            raise Killed(signal.SIGKILL)
        if flag is not None and flag.raised and task.doom is None:
            flag.raised = False
            return
        with self._mutex:
            task.flag, task.deadline, task.why, task.waits = flag, deadline, why, True
            if flag is not None:
                flag.waiting.append(task)
            if task.doom is not None:
                self._make_ready(task)
        if task.image is not None:
            task.image.leave()
        self._switch(task)
        if task.image is not None:
            task.image.enter()
        if flag is not None:
            flag.raised = False
        if (doom := task.doom) is not None:
            if task is self.driver:
                task.doom = None
            raise doom

    def sleep(self, nanoseconds: int, why: str = "time to pass") -> None:
        """Wait until so much virtual time has passed; 0 lets everybody else run first."""
        self.wait(None, self.now + nanoseconds, why)

    def looked_in_vain(self) -> None:
        """Let the others run for a task that polls; one that does so on and on takes time."""
        task = self._task()
        if task is None:
            return
        again = task.fruitless_at == self.now
        task.fruitless_at = self.now
        self.sleep(SPIN_NS if again else 0, "nothing: it looks again and again")
        if again:
            task.fruitless_at = self.now

    def raise_flag(self, flag: Flag) -> None:
        """Raise a flag, from any thread."""
        with self._mutex:
            flag.raised = True
            for task in tuple(flag.waiting):
                self._make_ready(task)
        if current() is None and not self.closed:
            self._poke()

    def watch(self, fd: int, flag: Flag, *, outside: bool) -> None:
        """Raise ``flag`` when a file descriptor is readable and nobody can run.

        ``outside``: somebody may write to it who is neither a task nor a guest.
        """
        self._files[fd] = flag
        if outside:
            self._outside.add(fd)

    def unwatch(self, fd: int) -> None:
        self._files.pop(fd, None)
        self._outside.discard(fd)

    def _task(self) -> Task | None:
        found = _tasks.get(threading.get_ident())
        return found[1] if found is not None and found[0] is self else None

    def _wait_outside(self, flag: Flag | None, deadline: int | None) -> None:
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
        """Hand over to whoever is next, and come back when it is this task's turn."""
        after = self._next()
        if after is not task:
            self._hand_over(after)
            if task is self.driver:
                self._take_baton_of_driver()
            else:
                task.baton.acquire()
        self.running = task

    def _pass_on(self) -> None:
        """Hand over for good: this task has ended."""
        self._hand_over(self._next())

    def _hand_over(self, task: Task) -> None:
        self.switches += 1
        self.running = task
        if task.thread is not None and task.thread.ident is None:
            task.thread.start()
        task.baton.release()

    def _take_baton_of_driver(self) -> None:
        seen = self.switches
        while not self.driver.baton.acquire(timeout=self._patience):
            if self.switches == seen:
                raise VirtualTimeError(self._does_not_give_way())
            seen = self.switches

    def _next(self) -> Task:
        """Return who runs next, letting time pass as needed."""
        driver = self.driver
        while True:
            with self._mutex:
                if self._ready:
                    return self._ready.popleft()
                if not driver.waits:
                    return driver
            self._let_time_pass()

    def _let_time_pass(self) -> None:
        moments = [task.deadline for task in self._tasks if task.waits and task.deadline is not None]
        timer = self.timer()
        if timer is not None:
            moments.append(timer)
        moment = max(min(moments), self.now) if moments else None
        if moment != self.now:
            company = self._has_company()  # first: a guest may write its last, and end
            if self._files and self._look_at_files(0):
                return
            if company and self._rest(moment):
                return
        if moment is None:
            self._give_up(f"nothing can happen any more: {self._what_all_wait_for()}")
            return
        if moment > self.limit_ns and self.driver.deadline is None:
            self._give_up(
                f"the dataflow did not end within {self._limit:g} s of virtual time: "
                f"{self._what_all_wait_for()}; pass `stop_after` to stop it, or a higher `limit`"
            )
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

    def _give_up(self, message: str) -> None:
        self.driver.doom = VirtualTimeError(message)
        with self._mutex:
            self._make_ready(self.driver)

    def _what_all_wait_for(self) -> str:
        others = [f"{task.name} waits for {task.why}" for task in self._tasks if task is not self.driver]
        return "; ".join(others) if others else "no node is left"

    def _does_not_give_way(self) -> str:
        task = self.running
        ident = task.thread.ident if task.thread is not None else None
        frame = sys._current_frames().get(ident or 0)
        where = "".join(traceback.format_stack(frame)[-3:]) if frame is not None else ""
        return (
            f"{task.name} has kept running for {self._patience:g} s without waiting for anything that "
            f"dora or `time.sleep` knows of; virtual time stands still meanwhile. It is here:\n{where}"
        )

    # ------------------------------------------------------------------ the real world

    def _has_company(self) -> bool:
        """Tell whether somebody who does not live in virtual time may do something."""
        if self._outside:
            return True
        return any(thread not in self._residents for thread in threading.enumerate())

    def _rest(self, until: int | None) -> bool:
        """Wait in real time; True if something happened before ``until``."""
        begun = _real_monotonic_ns()
        seconds = _LOOK_EVERY if until is None else min((until - self.now) * 1e-9, _LOOK_EVERY)
        happened = self._look_at_files(seconds)
        passed = _real_monotonic_ns() - begun
        self.now = self.now + passed if until is None else min(self.now + passed, until)
        return happened or until is None or self.now < until

    def _look_at_files(self, seconds: float) -> bool:
        """Raise the flags of file descriptors that are readable; tell whether something happened."""
        poll = select.poll()  # `select` knows the first 1024 descriptors only
        for fd in (self._poke_in, *self._files):
            poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(math.ceil(seconds * 1000))]
        for fd in ready:
            if fd == self._poke_in:
                os.read(fd, 4096)
            else:
                self.raise_flag(self._files[fd])
        return bool(ready)

    def _poke(self) -> None:
        try:
            os.write(self._poke_out, b"\0")
        except OSError:  # full: it is awake; or closed
            pass

    # ------------------------------------------------------------------ end

    def close(self) -> None:
        """End it. Tasks that are left stay where they are, as threads that nobody waits for."""
        self.closed = True
        _tasks.pop(self._thread, None)
        os.close(self._poke_in)
        os.close(self._poke_out)
