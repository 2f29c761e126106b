"""Waiting inside an inbox: for the next event, or for a condition such as the answer to a call.

A node waits on its doorbell, see `dora.transport.doorbell`. To wake a sleeping process costs 20 to 70 µs,
more than a whole message. So a node polls for up to the *spin budget* before it sleeps, as long as messages
have lately come within it. When messages come at a steady rate, the node is awake shortly before the next
one is due (`dora.node.receive.staying_awake`). An idle node never spins: each poll without an event
makes the next less likely.

A thread that waits for a condition takes no events: they stay in their queues, or in the layers that hold
events, for `Inbox.next`. A thread or task that wants events has precedence, because it polls all inputs,
the condition's among them.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, cast

from dora.node.events import Error, Event, Input
from dora.node.receive.input_port import InputPort
from dora.node.receive.path_meter import PathMeter
from dora.node.receive.staying_awake import ArrivalPredictor, Prewake
from dora.transport.board import ASLEEP, PREWAKE, WORDS, Board
from dora.transport.doorbell import Doorbell, yield_cpu
from dora.transport.fence import FENCED, fence
from dora.transport.forking import RefusingLock
from dora.wire.decode import prepare

_monotonic = time.monotonic_ns
_pause = time.sleep

DEFAULT_SPIN_US: Final = 150  # docs/design/waiting-and-waking.md: round trips of 14 µs instead of 64
_WAKE_COST_NS: Final = 80_000  # a message that came this much later would have come within the spin budget
_POLLS_A_YIELD: Final = 4  # a poll takes as long as letting others run: half a microsecond
_MAX_EMPTY_SPINS: Final = 3  # until the node stops spinning
_END_PAUSE: Final = 0.02  # seconds; for programs that ask on and on after the end
_BUSY_PAUSE: Final = 0.002  # seconds between polls while another thread receives
_YIELD_CHECK: Final = 0.05  # seconds between checks whether a thread still waits for a condition


class Waiter(ABC):
    """The part of an `Inbox` that waits."""

    _ending: bool
    _served_data: bool
    paths: PathMeter

    def __init__(
        self, board: Board, node_slot: int, doorbell: Doorbell, control_fd: int, spin_us: float
    ) -> None:
        # One thread receives at a time: a doorbell and the ports are for one. A thread that waits for a
        # condition yields it to one that wants events.
        self._lock = threading.Lock()
        self._condition_thread = 0  # the thread that holds the lock, if it waits for a condition
        self._contenders: set[int] = set()  # threads that want the lock for events
        self._words = board.words
        self._asleep = node_slot * WORDS + ASLEEP
        self._prewake_word = node_slot * WORDS + PREWAKE
        self._doorbell = doorbell
        self._fds = (doorbell.fd, control_fd)
        self._tasks: dict[Any, set[Any]] = {}  # asyncio loop → events of the tasks that wait
        self._spin_ns = int(spin_us * 1000)
        self._spins_left = 0
        self._predictor = ArrivalPredictor()
        self._prewake = Prewake()
        self._arrival: tuple[int, int] | None = None  # of the last message: awaited since, arrived at
        self._ended_calls = 0
        self._latest: Event | None = None  # given out after a wait
        self._former: Event | None = None  # the one before

    def disown(self) -> None:
        """Refuse to receive, in a forked child process: everything that receives locks first."""
        self._condition_thread = 0
        self._lock = cast("threading.Lock", RefusingLock())

    def wake(self) -> None:
        """Have the thread or task that waits poll again; any thread may call this."""
        fence()  # the caller has put something into a queue: see `dora.transport.doorbell`
        if not FENCED or self._words[self._asleep]:
            self._doorbell.ring()

    @abstractmethod
    def _poll(self) -> Event | None:
        """Return the next event, or None; never blocks."""

    @abstractmethod
    def _read_control(self) -> None:
        """Act on the daemon's frames."""

    @abstractmethod
    def _control_changed(self) -> bool:
        """Return whether the daemon, or a sender that flushes, asks for `_read_control`."""

    @abstractmethod
    def _wake_at(self, deadline: int | None) -> int | None:
        """Return when to poll again even if nothing arrives: at the deadline, or earlier for a port."""

    @abstractmethod
    def _holding_ports(self) -> list[InputPort]:
        """Return the ports that hold events: on them comes what a condition depends on."""

    @abstractmethod
    def _timed_out(self, timeout: float | None) -> Error:
        """Return the event for a wait that took too long."""

    # ------------------------------------------------------------------ for an event, in a thread

    def _wait(self, timeout: float | None) -> Event | None:
        if self._ending:
            self._pause_after_end()
            return None
        prepare()
        if self.paths.samples:
            self.paths.count()
        self._former = None  # destroyed now, when no message waits for it
        start = _monotonic()
        deadline = None if timeout is None else start + round(timeout * 1e9)
        if self._spin_ns and timeout != 0:
            event = self._wait_awake(start, deadline)
        else:
            event = self._wait_asleep(deadline)
        if event is None:
            return None if self._ending else self._timed_out(timeout)
        # The program drops the event before this one when it takes this one. To destroy it takes time, so
        # that waits for the next idle moment; except for large messages, which occupy shared memory.
        self._former = self._latest
        small = event.__class__ is Input and getattr(event._content, "owner", event) is None
        self._latest = event if small else None
        return event

    def _wait_asleep(self, deadline: int | None) -> Event | None:
        """Sleep until there is an event, the stream has ended, or the deadline has passed."""
        while True:
            event = self._sleep(deadline)
            if event is not None or self._ending:
                return event
            if deadline is not None and _monotonic() >= deadline:
                return None

    def _wait_awake(self, start: int, deadline: int | None) -> Event | None:
        """Wait like `_wait_asleep`, but spin for a short while around when a message is likely."""
        predictor = self._predictor
        if self._arrival is not None:
            self._learn_arrival(*self._arrival)
        event: Event | None = None
        if self._spins_left:
            until = start + self._spin_ns
            event = self._spin(_sooner(until, deadline))
            self._spins_left = self._spins_left - 1 if event is None else _MAX_EMPTY_SPINS
        while event is None and not self._ending:
            self._words[self._prewake_word] = self._prewake.wanted
            window = None if self._prewake.useful else predictor.window(_monotonic())
            event = self._sleep(deadline if window is None else _sooner(window[0], deadline))
            if event is not None or self._ending:
                break
            if window is not None and _monotonic() >= window[0]:
                event = self._spin(_sooner(window[1], deadline))
                if event is None:
                    predictor.missed()
            elif self._doorbell.rung:
                event = self._spin_after_prewake(deadline)
            if event is None and deadline is not None and _monotonic() >= deadline:
                return None
        if event is not None and self._served_data:
            self._arrival = (start, _monotonic())
        return event

    def _spin_after_prewake(self, deadline: int | None) -> Event | None:
        """Spin after a ring without a message: the message may be on its way."""
        if not self._prewake.wanted:
            return None
        until = _monotonic() + self._spin_ns
        event = self._spin(_sooner(until, deadline))
        self._prewake.observe(event is not None)
        return event

    def _learn_arrival(self, awaited: int, arrived: int) -> None:
        """Learn from an arrival; not at once, because the program works on the message first."""
        self._arrival = None
        self._predictor.observe(arrived)
        self._prewake.message_arrived()
        if not self._spins_left and arrived - awaited < self._spin_ns + _WAKE_COST_NS:
            self._spins_left = 1

    def _sleep(self, wake_at: int | None) -> Event | None:
        """Sleep once: until rung, until ``wake_at``, or until a port has something to do."""
        words = self._words
        self._doorbell.rearm()
        # First the flag, then the poll, a fence between them: a sender that is too late for the poll sees
        # the flag and rings. In the other order, the node could sleep while a message waits.
        words[self._asleep] = 1
        fence()
        try:
            event = self._poll()
            if event is not None or self._ending:
                return event
            wake_at = self._wake_at(wake_at)
            if wake_at is None:
                readable = self._doorbell.wait(None)
            else:
                readable = self._doorbell.wait(max(wake_at - _monotonic(), 0) * 1e-9)
        finally:
            words[self._asleep] = 0
            if self._tasks:
                self._wake_tasks()
        if readable:
            self._read_control()
        return self._poll()

    def _spin(self, until: int) -> Event | None:
        """Poll for an event until then; other processes get the processor in between."""
        while True:
            for _ in range(_POLLS_A_YIELD):
                event = self._poll()
                if event is not None or self._ending:
                    return event
            if _monotonic() >= until:
                return None
            yield_cpu()

    def _pause_after_end(self) -> None:
        """Slow down a program that ignores the end and would otherwise occupy a processor."""
        self._ended_calls += 1
        if self._ended_calls > 1:
            _pause(_END_PAUSE)

    # ------------------------------------------------------------------ for an event, in an asyncio loop

    async def _wait_async(self, timeout: float | None) -> Event | None:
        """Wait like `_wait`, while other tasks run."""
        import asyncio  # 40 ms, for programs that use it

        if self._ending:
            if self._ended_calls:
                await asyncio.sleep(_END_PAUSE)
            self._ended_calls += 1
            return None
        if self.paths.samples:
            self.paths.count()
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else _monotonic() + round(timeout * 1e9)
        rung = asyncio.Event()
        self._add_task(loop, rung)
        try:
            while True:
                rung.clear()
                polled, event = self._poll_before_sleep()
                if event is not None or (polled and self._ending):
                    return event
                now = _monotonic()
                if deadline is not None and now >= deadline:
                    return self._timed_out(timeout)
                if not polled:
                    await asyncio.sleep(_BUSY_PAUSE)
                    continue
                wake_at = self._wake_at(deadline)
                try:
                    await asyncio.wait_for(
                        rung.wait(), None if wake_at is None else max(wake_at - now, 0) * 1e-9
                    )
                except TimeoutError:
                    pass  # the deadline, or the time of a port: the next round finds out which
        finally:
            self._remove_task(loop, rung)

    def _poll_before_sleep(self) -> tuple[bool, Event | None]:
        """Mark this node as asleep, then poll; (False, None) if a thread is waiting for events too."""
        if not self._lock.acquire(blocking=False) and not self._contend():
            return False, None
        try:
            self._doorbell.clear()  # not `rearm`, which knows only of rings that ended its own wait
            self._words[self._prewake_word] = 0  # a task cannot stay awake
            self._words[self._asleep] = 1
            fence()
            self._read_control()
            return True, self._poll()
        finally:
            self._lock.release()

    def _add_task(self, loop: Any, rung: Any) -> None:
        """Wake a task when the doorbell rings; all tasks of a loop share one pair of readers."""
        waiting = self._tasks.setdefault(loop, set())
        waiting.add(rung)
        if len(waiting) > 1:
            return

        def ring() -> None:
            for each in waiting:
                each.set()

        for fd in self._fds:
            loop.add_reader(fd, ring)

    def _remove_task(self, loop: Any, rung: Any) -> None:
        waiting = self._tasks[loop]
        waiting.discard(rung)
        if waiting:
            return
        del self._tasks[loop]
        for fd in self._fds:
            loop.remove_reader(fd)
        if not self._tasks and not self._lock.locked():  # a thread with the lock clears the flag itself
            self._words[self._asleep] = 0

    def _wake_tasks(self) -> None:
        """Pass a ring on to the tasks: the thread that took it may not have taken all events."""
        self._words[self._asleep] = 1
        self._doorbell.ring()

    # ------------------------------------------------------------------ for a condition

    def wait_until(
        self,
        ready: Callable[[], bool],
        woken: threading.Event,
        deadline: int | None,
        dispatched: Callable[[], None] = lambda: None,
    ) -> bool:
        """Wait until ``ready()``; return False if that is not so at the deadline.

        The program gets no event meanwhile: all ports that hold events dispatch them, because this thread
        keeps others from polling. ``dispatched`` is called each time they have. While another thread
        receives events, that thread sets ``woken``.
        """
        until = _monotonic() + self._spin_ns
        while True:
            if self._lock.acquire(blocking=False):
                self._condition_thread = threading.get_ident()
                try:
                    while not self._contenders:
                        self._poll_condition(dispatched)
                        if ready():
                            return True
                        now = _monotonic()
                        if deadline is not None and now >= deadline:
                            return False
                        if now < until:
                            yield_cpu()
                        else:
                            self._sleep_for_condition(ready, dispatched, deadline)
                finally:
                    self._condition_thread = 0
                    self._lock.release()
            # With a limit: if the other thread receives no more, nobody sets `woken`.
            woken.wait(_BUSY_PAUSE)
            woken.clear()
            if ready():
                return True
            if deadline is not None and _monotonic() >= deadline:
                return False

    def _acquire(self, timeout: float) -> bool:
        """Acquire the lock, for events; a thread that waits for a condition yields it."""
        me = threading.get_ident()
        self._contenders.add(me)  # before the ring: the thread that wakes looks for contenders
        if self._condition_thread:
            self._doorbell.ring()
        try:
            return self._lock.acquire(timeout=timeout)
        finally:
            self._contenders.discard(me)

    def _contend(self) -> bool:
        """Acquire the lock from another thread, if that one waits for a condition.

        It yields the lock as soon as it runs, which may take its time on a busy machine.
        """
        me = threading.get_ident()  # it waits for a condition itself, if this is a signal handler
        while self._condition_thread not in (0, me):
            if self._acquire(_YIELD_CHECK):
                return True
        return self._lock.acquire(blocking=False)  # it may have yielded right after that

    def _poll_condition(self, dispatched: Callable[[], None]) -> None:
        if self._control_changed():
            self._read_control()
        for port in self._holding_ports():
            port.dispatch()
        dispatched()

    def _sleep_for_condition(
        self, ready: Callable[[], bool], dispatched: Callable[[], None], deadline: int | None
    ) -> None:
        """Sleep once: until rung, or until a port that holds events has something to do."""
        self._doorbell.rearm()
        self._words[self._prewake_word] = 0  # it is no event that is awaited
        self._words[self._asleep] = 1
        fence()
        try:
            self._poll_condition(dispatched)
            if ready() or self._contenders:  # `rearm` may have taken the ring of a contender
                return
            wake_at = self._wake_for_condition_at(deadline)
            seconds = None if wake_at is None else max(wake_at - _monotonic(), 0) * 1e-9
            readable = self._doorbell.wait(seconds)
        finally:
            self._words[self._asleep] = 0
            if self._tasks:
                self._wake_tasks()
        if readable:
            self._read_control()

    async def wait_until_async(
        self,
        ready: Callable[[], bool],
        wakers: list[Callable[[], None]],
        deadline: int | None,
        dispatched: Callable[[], None] = lambda: None,
    ) -> bool:
        """Wait like `wait_until`, in an asyncio loop; a thread that polls calls the ``wakers``."""
        import asyncio

        loop = asyncio.get_running_loop()
        rung = asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(rung.set)

        wakers.append(wake)
        self._add_task(loop, rung)
        try:
            while True:
                rung.clear()
                polled = self._lock.acquire(blocking=False)
                if polled:
                    try:
                        self._doorbell.clear()
                        self._words[self._prewake_word] = 0
                        self._words[self._asleep] = 1
                        fence()
                        self._read_control()
                        self._poll_condition(dispatched)
                    finally:
                        self._lock.release()
                if ready():
                    return True
                now = _monotonic()
                if deadline is not None and now >= deadline:
                    return False
                wake_at = self._wake_for_condition_at(deadline)
                seconds = None if wake_at is None else max(wake_at - now, 0) * 1e-9
                if not polled:  # a thread is waiting for events too
                    seconds = _BUSY_PAUSE if seconds is None else min(seconds, _BUSY_PAUSE)
                try:
                    await asyncio.wait_for(rung.wait(), seconds)
                except TimeoutError:
                    pass
        finally:
            self._remove_task(loop, rung)
            wakers.remove(wake)

    def _wake_for_condition_at(self, deadline: int | None) -> int | None:
        times = [at for port in self._holding_ports() if port.open and (at := port.wake_at()) is not None]
        if deadline is not None:
            times.append(deadline)
        return min(times, default=None)


def _sooner(at: int, deadline: int | None) -> int:
    return at if deadline is None else min(at, deadline)
