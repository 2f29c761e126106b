"""Waiting inside an inbox for something other than the next event: an answer, say.

Events are not taken meanwhile: they stay in their queues, under their contracts, for whoever calls
`Inbox.next`. Another thread or task may do so at the same time. It has precedence, because it polls
all inputs and thereby sees to those that are waited for here.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from dora.node.receive.input_port import InputPort
from dora.transport.doorbell import Doorbell, memory_fence, yield_cpu
from dora.transport.forking import RefusingLock

if TYPE_CHECKING:
    pass

_monotonic = time.monotonic_ns

BUSY_PAUSE: Final = 0.002  # seconds between looks while another thread receives
_GIVE_WAY: Final = 0.05  # seconds between looks whether a thread still has to give way


class ConditionWaiter(ABC):
    """The part of an `Inbox` that waits for something else than events."""

    _words: memoryview
    _asleep: int
    _heads_up: int
    _control: int
    _control_seen: int
    _doorbell: Doorbell
    _spin_ns: int
    _tasks: dict[Any, set[Any]]

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._attending = 0  # the thread that holds the lock, if it takes no events
        self._knocking: set[int] = set()  # threads that want it nevertheless

    def disown(self) -> None:
        """Refuse to receive, in a forked child process: everything that receives locks first."""
        self._attending = 0
        self._lock = cast("threading.Lock", RefusingLock())

    @abstractmethod
    def _read_control(self) -> None:
        """Act on what the daemon says."""

    @abstractmethod
    def _enter(self, loop: Any, rung: Any) -> None:
        """Let the doorbell set ``rung`` in an asyncio loop."""

    @abstractmethod
    def _leave(self, loop: Any, rung: Any) -> None:
        """Undo `_enter`."""

    @abstractmethod
    def _wake_tasks(self) -> None:
        """Let the tasks that wait look again: a thread took the ring."""

    def attend(
        self,
        ready: Callable[[], bool],
        look: Callable[[], None],
        ports: Sequence[InputPort],
        woken: threading.Event,
        deadline: int | None,
    ) -> bool:
        """Wait until ``ready()``; tells whether it came true before the deadline.

        No event is taken: ``look`` polls what may make it true, which is to be among ``ports``. While
        another thread receives events, that thread polls; it sets ``woken`` so that this one need not
        wait for its next look.
        """
        until = _monotonic() + self._spin_ns
        while True:
            if self._lock.acquire(blocking=False):
                self._attending = threading.get_ident()
                try:
                    while not self._knocking:
                        self._glance(look)
                        if ready():
                            return True
                        now = _monotonic()
                        if deadline is not None and now >= deadline:
                            return False
                        if now < until:
                            yield_cpu()
                        else:
                            self._doze(ready, look, ports, deadline)
                finally:
                    self._attending = 0
                    self._lock.release()
            woken.wait(BUSY_PAUSE)
            woken.clear()
            if ready():
                return True
            if deadline is not None and _monotonic() >= deadline:
                return False

    def _take_turn(self, timeout: float) -> bool:
        """Get the lock, for events; a thread that attends to something else gives way."""
        me = threading.get_ident()
        self._knocking.add(me)
        if self._attending:
            self._doorbell.ring()
        try:
            return self._lock.acquire(timeout=timeout)
        finally:
            self._knocking.discard(me)

    def _gets_way(self) -> bool:
        """Get the lock if it is only held by another thread, which attends to something else.

        That gives way as soon as it runs, which may take its time on a busy machine.
        """
        me = threading.get_ident()  # which attends itself, if this is a signal handler
        while self._attending not in (0, me):
            if self._take_turn(_GIVE_WAY):
                return True
        return self._lock.acquire(blocking=False)  # it may have given way right after that

    def _glance(self, look: Callable[[], None]) -> None:
        if self._words[self._control] != self._control_seen:
            self._read_control()
        look()

    def _doze(
        self,
        ready: Callable[[], bool],
        look: Callable[[], None],
        ports: Sequence[InputPort],
        deadline: int | None,
    ) -> None:
        """Sleep until rung, or until one of the ports has something to do; once."""
        self._doorbell.rearm()
        self._words[self._heads_up] = 0  # it is no event that is awaited
        self._words[self._asleep] = 1
        memory_fence()
        try:
            self._glance(look)
            if ready() or self._knocking:  # `rearm` may have taken the ring of who knocks
                return
            wake_at = _earliest(ports, deadline)
            seconds = None if wake_at is None else max(wake_at - _monotonic(), 0) * 1e-9
            readable = self._doorbell.wait(seconds)
        finally:
            self._words[self._asleep] = 0
            if self._tasks:
                self._wake_tasks()
        if readable:
            self._read_control()

    async def attend_async(
        self,
        ready: Callable[[], bool],
        look: Callable[[], None],
        ports: Sequence[InputPort],
        wakers: list[Callable[[], None]],
        deadline: int | None,
    ) -> bool:
        """As `attend`, in an asyncio loop; meanwhile ``wakers`` has what is to be called there."""
        import asyncio

        loop = asyncio.get_running_loop()
        rung = asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(rung.set)

        wakers.append(wake)
        self._enter(loop, rung)
        try:
            while True:
                rung.clear()
                looked = self._lock.acquire(blocking=False)
                if looked:
                    try:
                        self._doorbell.clear()
                        self._words[self._heads_up] = 0
                        self._words[self._asleep] = 1
                        memory_fence()
                        self._read_control()
                        look()
                    finally:
                        self._lock.release()
                if ready():
                    return True
                now = _monotonic()
                if deadline is not None and now >= deadline:
                    return False
                wake_at = _earliest(ports, deadline)
                seconds = None if wake_at is None else max(wake_at - now, 0) * 1e-9
                if not looked:  # a thread is waiting for events too
                    seconds = BUSY_PAUSE if seconds is None else min(seconds, BUSY_PAUSE)
                try:
                    await asyncio.wait_for(rung.wait(), seconds)
                except TimeoutError:
                    pass
        finally:
            self._leave(loop, rung)
            wakers.remove(wake)


def _earliest(ports: Sequence[InputPort], deadline: int | None) -> int | None:
    times = [at for port in ports if port.open and (at := port.wake_at()) is not None]
    if deadline is not None:
        times.append(deadline)
    return min(times, default=None)


DEFAULT_SPIN_US: Final = 150
REMOTE_SPIN_US: Final = 600  # where messages of other machines come: see `dora.transport.network.poller`
_WAKE_COST_NS: Final = 80_000
_TRUST: Final = 3  # fruitless looks until the node stops spinning
_END_PAUSE: Final = 0.02  # seconds; for programs that ask on and on after the end


def _sooner(at: int, deadline: int | None) -> int:
    return at if deadline is None else min(at, deadline)
