"""The daemon's event loop: file descriptors, timers, and calls from other threads.

Not asyncio, because importing that takes 45 ms, a tenth of what a whole small dataflow may take, and
the daemon needs nothing of it: everything it does is a short callback, and what happens when is
decided by the `Supervisor`.
"""

from __future__ import annotations

import heapq
import itertools
import os
import selectors
import time
from collections import deque
from collections.abc import Callable
from typing import Final

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_LONGEST_WAIT: Final = 86_400.0  # seconds; `epoll_wait` takes milliseconds as an int, so 24.8 days at most


class Timer:
    """A call that is due at a time; `cancel` forgets it."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None  # it stays in the heap, where finding it would take a search


class Loop:
    """Runs callbacks in the thread that calls `run_once`. Times are as of ``time.monotonic``."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._calls: deque[Callable[[], None]] = deque()
        # A pipe: an eventfd refuses the single byte that `signal.set_wakeup_fd` writes. It does not block:
        # a signal handler that waits for room would wait for the thread that it has interrupted.
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._selector.register(self._wake_read, READ, lambda _: self._clear_wake())

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call ``callback(ready events)`` whenever the descriptor is ready; replaces an earlier watch."""
        try:
            self._selector.modify(fd, events, callback)
        except KeyError:
            self._selector.register(fd, events, callback)

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor; one that is not watched is fine."""
        try:
            self._selector.unregister(fd)
        except KeyError:
            pass

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(when, callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` after so many seconds."""
        return self.call_at(time.monotonic() + seconds, callback)

    def call_threadsafe(self, callback: Callable[[], None]) -> None:
        """Have the loop's thread make a call; may be called from other threads and signal handlers."""
        # Without a lock: a signal handler that interrupts this call would wait for it for ever. `append`
        # and `popleft` are atomic. The call comes before the byte, so the loop that wakes up finds it.
        self._calls.append(callback)
        try:
            os.write(self._wake_write, b"\0")
        except (BlockingIOError, OSError):
            pass  # it is awake, or closed

    @property
    def wake_fd(self) -> int:
        """Return where a byte wakes the loop: for ``signal.set_wakeup_fd``."""
        return self._wake_write

    def run_once(self, deadline: float | None) -> None:
        """Wait until something is ready, a timer or ``deadline`` is due, and run what is.

        It may return earlier, after a day.
        """
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if self._timers and (deadline is None or self._timers[0][0] < deadline):
            deadline = self._timers[0][0]
        timeout = None if deadline is None else min(max(0.0, deadline - time.monotonic()), _LONGEST_WAIT)
        for key, events in self._selector.select(timeout):
            # An earlier callback of this round may have closed the descriptor.
            if self._selector.get_map().get(key.fd) is key:
                key.data(events)
        now = time.monotonic()  # once: a timer that sets itself anew must not keep everything else waiting
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                timer.callback()
        while self._calls:
            self._calls.popleft()()

    def close(self) -> None:
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
        self._wake_write = -1

    def _clear_wake(self) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass
